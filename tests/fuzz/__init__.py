"""Mutated frames and captures through the compiled data path; `python -m tests.fuzz.run --help`."""

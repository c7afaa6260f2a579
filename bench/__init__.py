"""Benchmarks (pytest-benchmark): `make bench` runs them, nothing else does."""

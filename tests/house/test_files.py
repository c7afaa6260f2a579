"""The tree stays readable and light."""

import re

from tests.house.tree import ROOT, files, run, sources

LINES = 450
BYTES = 1_000_000


def test_no_source_file_is_longer_than_a_reader_can_hold():
    lengths = {str(path): len((ROOT / path).read_text().splitlines()) for path in sources()}
    assert {path: length for path, length in lengths.items() if length > LINES} == {}


def test_no_file_weighs_more_than_a_megabyte():
    sizes = {str(path): (ROOT / path).stat().st_size for path in files()}
    assert {path: size for path, size in sizes.items() if size > BYTES} == {}


def test_the_licence_is_there_in_full():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def targets() -> set[str]:
    """What `make` knows; a hyphen is in what is only a part of another target."""
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", "")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    return set(phony.split())


def test_make_help_tells_of_every_target():
    told = run("make", "--no-print-directory", "help", cwd=ROOT)
    assert {line.split()[1] for line in told.splitlines()} == {name for name in targets() if "-" not in name}


def test_what_ci_runs_is_a_target():
    ran = re.findall(r"\bmake ([a-z -]+)", (ROOT / ".ci" / "run").read_text())
    steps = {step for words in ran for step in words.split()}
    halves = {name for name in targets() if name.endswith(("-units", "-live"))}
    assert {name.split("-")[0] for name in halves} == {"slow", "debug", "sanitize"}
    assert {"test", "lint", "fuzz", *halves} <= steps
    made = re.findall(r"^([a-z][a-z -]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert steps <= {target for words in made for target in words.split()}

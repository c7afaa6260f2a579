"""The table of tests/README.md: it holds every line of CONFORMANCE.md, and its tests say their numbers."""

import ast
import re

import pytest

from tests.cases import CASES
from tests.house.tree import ROOT

LAW = ROOT.parent / "shared" / "CONFORMANCE.md"
TABLE = (ROOT / "tests" / "README.md").read_text()
ROWS = dict(re.findall(r"^\| ([NDMRW]\d+) \|[^|]*\| (.*) \|$", TABLE, re.MULTILINE))
SHOWN = {
    line: re.findall(r"`([\w:]+)`", text) for line, text in ROWS.items() if not text.startswith("needs ")
}
NOTES = {case.name: case.note for case in CASES}
STATIC = {
    *(f"D{i}" for i in (9, 10, 11, 12, 13, 14, 15, 17, 20)),
    *(f"R{i}" for i in (2, 3, 4, 5, 6, 7, 8, 9, 10)),
    *("W1", "W2", "W4", "W6", "W7"),
    *("N1", "N8", "N9", "N10"),
}
"""What a static configuration, or lists built through the Python API, can show."""


def docstrings() -> dict[str, str]:
    """What each test says: `module::name` -> its docstring and its name."""
    found = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found[f"{path.stem}::{node.name}"] = (
                    f"{ast.get_docstring(node) or ''} {node.name.replace('_', ' ')}"
                )
    return found


SAID = docstrings() | NOTES


def says(text: str, line: str) -> bool:
    """Whether a text names a line of CONFORMANCE.md, and not one that begins like it."""
    return re.search(rf"\b{line}\b", text, re.IGNORECASE) is not None


@pytest.mark.parametrize("line", SHOWN)
def test_every_test_that_the_table_names_exists_and_says_the_number(line: str):
    assert SHOWN[line]
    assert [name for name in SHOWN[line] if name not in SAID] == []
    assert [name for name in SHOWN[line] if not says(SAID[name], line)] == []


def test_every_line_that_needs_no_more_than_a_config_is_shown():
    assert set(SHOWN) >= STATIC


def test_every_other_line_says_what_it_waits_for():
    others = {line: text for line, text in ROWS.items() if line not in SHOWN}
    assert others
    assert [
        line for line, text in others.items() if not re.fullmatch(r"needs .+ \(a later issue\)", text)
    ] == []


def test_no_line_of_the_conformance_list_is_missing_from_the_table():
    if not LAW.exists():
        pytest.skip(f"{LAW} is not here")
    assert list(ROWS) == re.findall(r"^- ([NDMRW]\d+) ", LAW.read_text(), re.MULTILINE)


def test_each_place_that_the_readme_of_the_tests_names_exists():
    places = TABLE.split("## Where things are")[1].split("\n## ")[0]
    named = [
        name
        for row in re.findall(r"^\| (`.*?) \|", places, re.MULTILINE)
        for name in re.findall(r"`([^`]+)`", row)
    ]
    assert len(named) > 10
    assert [name for name in named if not (ROOT / "tests" / name).exists()] == []

"""The scanner against tomllib: the same paths on every document, and the right lines."""

import json
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctrl.config.positions import line_of, scan

DOCUMENT = '''\
# a comment with [brackets] and "quotes"
a = 1
b.c.d = [1, 2,   # two on a line

    { e = "}", "f g".h = 5 }, ] # the end
"q\\u0041" = \'\'\'
[not.a.header]
\'\'\'
s = """
x = 1 \\""" "" still
""""" # five quotes: two belong to the string
t = "# no comment" # but this
date = 1979-05-27 07:32:00

[x.y] # header
k = true
[[x.z]]
k = 1
[[x.z]]
k = 2
[x.z.w]
k = 3
[[x.z.v]]
[ "x" . 'u' ]
'''


def paths_of(value: object, path: tuple[object, ...] = ()) -> set[tuple[object, ...]]:
    found = {path}
    if isinstance(value, dict):
        for key, item in value.items():
            found |= paths_of(item, (*path, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            found |= paths_of(item, (*path, i))
    return found


def test_every_kind_of_key_and_value_has_its_line():
    lines = scan(DOCUMENT)
    assert set(lines) == paths_of(tomllib.loads(DOCUMENT))
    assert lines == {
        (): 1,
        ("a",): 2,
        ("b",): 3,
        ("b", "c"): 3,
        ("b", "c", "d"): 3,
        ("b", "c", "d", 0): 3,
        ("b", "c", "d", 1): 3,
        ("b", "c", "d", 2): 5,
        ("b", "c", "d", 2, "e"): 5,
        ("b", "c", "d", 2, "f g"): 5,
        ("b", "c", "d", 2, "f g", "h"): 5,
        ("qA",): 6,
        ("s",): 9,
        ("t",): 12,
        ("date",): 13,
        ("x",): 15,
        ("x", "y"): 15,
        ("x", "y", "k"): 16,
        ("x", "z"): 17,
        ("x", "z", 0): 17,
        ("x", "z", 0, "k"): 18,
        ("x", "z", 1): 19,
        ("x", "z", 1, "k"): 20,
        ("x", "z", 1, "w"): 21,
        ("x", "z", 1, "w", "k"): 22,
        ("x", "z", 1, "v"): 23,
        ("x", "z", 1, "v", 0): 23,
        ("x", "u"): 24,
    }


def test_a_table_stands_where_its_own_header_does():
    assert scan("[a.b]\n[a]\nc = 1\n")["a",] == 2


def test_lines_end_as_on_any_system():
    assert scan("a = 1\r\n\r\n[b]\r\nc = [\r\n1]\r\n") == {
        (): 1, ("a",): 1, ("b",): 3, ("b", "c"): 4, ("b", "c", 0): 5,
    }  # fmt: skip


def test_a_missing_key_has_the_line_of_what_is_around_it():
    lines = scan("a = 1\n[[b]]\nc = 1\n")
    assert line_of(lines, ("b", 0, "d", 5)) == 2
    assert line_of(lines, ("z",)) == 1


@pytest.mark.parametrize(
    "text", ["[", "[[a", "a = [", "a = {b", 'a = """', "= =", "]]]", "a", "a.", '"\\x" = 1', "{}"]
)
def test_what_is_no_toml_ends_all_the_same(text):
    assert scan(text)[()] == 1


def test_very_deep_nesting_ends_all_the_same():
    assert scan("a = " + "[" * 100_000)["a",] == 1


_NAMES = st.one_of(st.sampled_from(["a", "b", "c-d", "e_1", "7"]), st.text(max_size=4).map(json.dumps))
_STRINGS = st.one_of(
    st.text(max_size=6).map(json.dumps),
    st.sampled_from(["'#'", "'''\n'\n''x'''''", '"""\n"" \\" [x]\n"""""', '""', "''", '"\\\\"', "'\\'"]),
)
_SCALARS = st.one_of(
    _STRINGS, st.sampled_from(["1", "-0x1F", "true", "nan", "1_0.5e3", "1979-05-27 07:32:00Z"])
)
_GAPS = st.sampled_from(["", " ", "\n", " # x ]\n", "\r\n\t"])
_DOTTED = st.lists(_NAMES, min_size=1, max_size=3).map(" . ".join)


def _arrays(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    items = st.lists(st.tuples(_GAPS, values, _GAPS).map("".join), max_size=3).map(",".join)
    tables = st.lists(st.builds("{} = {}".format, _DOTTED, values), max_size=3).map(
        lambda i: "{ " + ", ".join(i) + " }"
    )
    return st.one_of(items.map(lambda i: f"[{i}]"), tables)


_VALUES = st.recursive(_SCALARS, _arrays, max_leaves=6)
_LINES = st.one_of(
    st.builds("{} = {}".format, _DOTTED, _VALUES),
    _DOTTED.map(lambda d: f"[{d}]"),
    _DOTTED.map(lambda d: f"  [[ {d} ]] # x"),
    st.sampled_from(["", "# [a]", "\t"]),
)


@given(st.lists(_LINES, max_size=6))
@settings(max_examples=1500, deadline=None)
def test_the_paths_are_those_of_the_data_on_every_document(lines):
    taken: list[str] = []
    for line in lines:  # leave out what contradicts what stands before, or most documents were no TOML
        try:
            tomllib.loads("\n".join([*taken, line]))
        except ValueError:
            continue
        taken.append(line)
    text = "\n".join(taken)
    found = scan(text)
    assert set(found) == paths_of(tomllib.loads(text))
    assert all(1 <= line <= text.count("\n") + 1 for line in found.values())


@given(st.text(alphabet="a.=[]{}\"'\\#,\n 1", max_size=40))
@settings(max_examples=500, deadline=None)
def test_any_text_ends(text):
    assert scan(text)[()] == 1

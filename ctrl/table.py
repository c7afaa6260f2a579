"""Rows laid out for eyes and grep. Imports nothing, as `fastpath show` has to be quick."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Row = dict[str, Any]
"""A flat object with snake_case keys; lists are lists of strings."""


def table(rows: Sequence[Row], headings: Mapping[str, str], *, grouped: bool = True) -> Iterator[str]:
    """Lay rows out in columns, numbers to the right: a line of headings, and one line a row.

    `grouped`: numbers as 1,234,567, for eyes; without it, as programs and filters take them.
    """
    cells = [[_cell(row[key], grouped=grouped) for key in headings] for row in rows]
    right = [all(_is_number(row[key]) for row in rows) for key in headings]
    lines = [list(headings.values()), *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headings))]
    for line in lines:
        padded = (
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(line, widths, right, strict=True)
        )
        yield "  ".join(padded).rstrip()


def _cell(value: object, *, grouped: bool) -> str:
    if value is None or value in ("", [], ()):
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"{value:,}" if grouped else str(value)
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))

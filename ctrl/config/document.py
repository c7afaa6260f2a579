"""The table of all config keys for the README, made from the schema: `python -m ctrl.config.document`."""

from __future__ import annotations

from ctrl.config.finding import given
from ctrl.config.schema import TABLES, Key, keys_of
from ctrl.config.shape import table_name


def keys_table() -> str:
    """Write every key as a row of a Markdown table, in the order of the schema."""
    rows = ["| table | key | takes | default | meaning |", "|---|---|---|---|---|"]
    for table in TABLES:
        name = "" if not table else table_name(table)
        for key in keys_of(table):
            if (*table, key.name) not in TABLES or key.name == "addresses":
                cells = (name and f"`{name}`", f"`{key.name}`", key.legal, _default(key), key.meaning)
                rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def _default(key: Key) -> str:
    if key.required:
        return "required"
    if key.shown is not None:
        return key.shown
    if key.default is None:
        return "none"
    return f"`{given(key.default)}`"


if __name__ == "__main__":
    print(keys_table(), end="")

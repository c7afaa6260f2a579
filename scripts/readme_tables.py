"""Write the parts of README.md that the tree knows better: drop reasons, config keys, examples. `--check` only compares.

Each stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from ctrl.config.document import keys_table
from fastpath.reasons import REASONS

README = Path(__file__).parent.parent / "README.md"


def drops_table() -> str:
    """Every drop reason in its own words."""
    rows = [f"| `{r.name}` | {r.unit.value} | {r.stage} | {r.sentence} |" for r in REASONS]
    return "\n".join(("| reason | counts | stage | what happened |", "|---|---|---|---|", *rows))


def example(name: str) -> str:
    """A config of examples/, as a block."""
    return f"```toml\n{(README.parent / 'examples' / name).read_text().strip()}\n```"


def with_tables(text: str) -> str:
    """`text` with each part between its marks."""
    parts = {
        "drops": drops_table(),
        "keys": keys_table().strip(),
        "device": example("device.toml"),
        "point": example("point.toml"),
    }
    for name, table in parts.items():
        marks = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
        text, n = marks.subn(lambda found, table=table: f"{found[1]}{table}\n{found[2]}", text)  # type: ignore[misc]
        if n != 1:
            raise SystemExit(f"{README}: expected one pair of marks for {name!r}, found {n}")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the tables are not those of the code")
    check = parser.parse_args().check
    text = README.read_text()
    wanted = with_tables(text)
    if check and text != wanted:
        sys.exit(f"{README}: its tables are not those of the code; run scripts/readme_tables.py")
    if not check:
        README.write_text(wanted)


if __name__ == "__main__":
    main()

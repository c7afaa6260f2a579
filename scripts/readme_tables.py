"""Write the parts of README.md that the tree knows better: drop reasons, config keys, examples, the demo.

Each stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`. `--check` only compares; the times and
rates of the demo may differ, as no two runs have the same.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ctrl.config.document import keys_table
from ctrl.refusals import REFUSALS
from fastpath.reasons import REASONS

README = Path(__file__).parent.parent / "README.md"
DEMO = "replay tests/captures/mixed_demo.pcapng -c examples/demo.toml -o build/demo/copies.pcapng"
"""What `make demo` shows first (scripts/demo.sh)."""
FIGURES = re.compile(r" in [\d,.]+ ms: [\d.]+ million |(receive|classify|replicate) [\d,]+")


def drops_table() -> str:
    """Every drop reason, and every refusal of control, in its own words."""
    rows = [f"| `{r.name}` | {r.unit.value} | {r.stage} | {r.sentence} |" for r in REASONS]
    rows += [f"| `{r.name}` | {r.unit} | {r.stage} | {r.sentence} |" for r in REFUSALS.values()]
    return "\n".join(("| reason | counts | stage | what happened |", "|---|---|---|---|", *rows))


def example(name: str) -> str:
    """A config of examples/, as a block."""
    return f"```toml\n{(README.parent / 'examples' / name).read_text().strip()}\n```"


def demo(before: str) -> str:
    """What the demo prints; `before` is what README has, kept where only times and rates are others."""
    (README.parent / "build" / "demo").mkdir(parents=True, exist_ok=True)
    main = (sys.executable, "-c", "from ctrl.cli import main; main()")
    done = subprocess.run(
        [*main, *DEMO.split()], cwd=README.parent, capture_output=True, text=True, check=True
    )
    after = f"```\n$ fastpath {DEMO}\n{done.stdout.strip()}\n```"
    is_same = FIGURES.sub("", before.strip()) == FIGURES.sub("", after)
    return before.strip() if is_same else after


def with_tables(text: str) -> str:
    """`text` with each part between its marks."""
    parts: dict[str, Callable[[str], str]] = {
        "demo": demo,
        "drops": lambda _: drops_table(),
        "keys": lambda _: keys_table().strip(),
        "nve": lambda _: example("nve/nve.toml"),
        "onebox": lambda _: example("nve/onebox.toml"),
        "device": lambda _: example("device.toml"),
        "point": lambda _: example("point.toml"),
        "fabric-device": lambda _: example("fabric/device.toml"),
        "fabric-nve": lambda _: example("fabric/nve.toml"),
        "fabric-point": lambda _: example("fabric/point.toml"),
        "manager": lambda _: example("fabric/manager.toml"),
    }
    for name, part in parts.items():
        marks = re.compile(rf"(<!-- {name}:begin -->\n)(.*?)(<!-- {name}:end -->)", re.DOTALL)
        found = marks.findall(text)
        if len(found) != 1:
            raise SystemExit(f"{README}: expected one pair of marks for {name!r}, found {len(found)}")
        ((begin, before, end),) = found
        text = text.replace(begin + before + end, f"{begin}{part(before)}\n{end}")
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

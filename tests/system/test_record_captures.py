"""The committed captures are what their index says, and recording one again gives the same structure.

Only the last test records; all others read what is committed. Counts that the kernel's random delays decide
(reports, which it merges, and duplicate address detection inside the overlay) are compared by presence alone.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "record_captures.py"
CAPTURES = ROOT / "tests" / "captures"
PORTS = {
    "vxlan_igmp.pcapng": ["p1", "p2", "p3"],
    "vxlan_v6_mld.pcapng": ["p1", "p2"],
    "joins.pcapng": ["p1", "p2", "p3", "p4"],
    "nvgre_ovs.pcapng": ["core"],
    "noise.pcap": [],
    "mixed_demo.pcapng": ["p1", "p2", "core"],
}
MISSING = 4
LEFT_TO_LUCK = re.compile(r"report|: nd ")


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)


def describe(path: Path) -> dict[str, Any]:
    done = command("--count", path)
    assert done.returncode == 0, done.stderr
    described: dict[str, Any] = json.loads(done.stdout)[str(path)]
    return described


def settled(kinds: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Replace the counts that the kernel's random delays decide by 1."""
    return {
        port: {kind: 1 if LEFT_TO_LUCK.search(kind) else count for kind, count in counts.items()}
        for port, counts in kinds.items()
    }


@pytest.mark.parametrize("file", PORTS)
def test_a_capture_names_its_ports(file: str) -> None:
    assert describe(CAPTURES / file)["interfaces"] == PORTS[file]


def test_the_index_counts_what_the_captures_hold(tmp_path: Path) -> None:
    for file in PORTS:
        (tmp_path / file).write_bytes((CAPTURES / file).read_bytes())
    done = command("--index", "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "INDEX.md").read_text() == (CAPTURES / "INDEX.md").read_text()


def test_only_the_noise_and_the_demo_hold_wrong_sums() -> None:
    for file in PORTS:
        kinds = describe(CAPTURES / file)["kinds"]
        wrong = [kind for counts in kinds.values() for kind in counts if "wrong" in kind]
        assert bool(wrong) == (file in {"noise.pcap", "mixed_demo.pcapng"}), f"{file}: {wrong}"


def test_recording_again_gives_the_same_structure(tmp_path: Path) -> None:
    done = command("vxlan_igmp", "-o", tmp_path)
    if done.returncode == MISSING:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    recorded, committed = (describe(place / "vxlan_igmp.pcapng") for place in (tmp_path, CAPTURES))
    assert recorded["interfaces"] == committed["interfaces"]
    assert recorded["records"] == committed["records"]
    assert settled(recorded["kinds"]) == settled(committed["kinds"])

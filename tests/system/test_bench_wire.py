"""`fastpath bench wire` for real, and short: every path runs, and nothing is left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ctrl.lab.namespaces import missing
from ctrl.race.wire import PATHS
from fastpath import bpf

WHY_NOT = missing()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

COMMAND = [sys.executable, "-c", "from ctrl.cli import main; main()", "bench", "wire"]
CLONES = ("clones", "forward_clones", "limit_clones")
SHORT = ["--egresses", "4", "--size", "64", "--seconds", "0.1", "-j"]


def start(*argv: str) -> subprocess.Popen[str]:
    """Start in a session of its own, by which all that it starts is found again."""
    return subprocess.Popen(
        argv, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def alive(session: int) -> list[str]:
    """Name the processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().rpartition(")")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(rest.split()[3]) == session:
            found.append(name)
    return found


def named_namespaces() -> set[Path]:
    return set(Path("/run/netns").glob("fp-*"))


def check_rows(text: str, without: tuple[str, ...] = ()) -> None:
    """Check all rows but those that cannot run here, and say so."""
    rows = {row["path"]: row for row in json.loads(text)}
    assert list(rows) == list(PATHS)
    for path in without:
        assert "bpf(2) is not permitted" in rows.pop(path)["why"]
    for path, row in rows.items():
        assert row["why"] is None, f"{path}: {row['why']}"
        assert row["copies_per_s"] > 0, path
        assert (row["egresses"], row["size"], row["train"]) == (4, 64, 44)
        assert row["ns_per_copy"] == pytest.approx(1e9 / row["copies_per_s"], rel=0.01)
        assert row["ratio_to_kernel"] > 0
        assert row["ratio_to_limit"] > 0
    for path in ("forward", "kernel"):
        assert 0 < rows[path]["latency_p50_us"] <= rows[path]["latency_p99_us"]


def test_every_path_makes_copies_and_nothing_is_left_behind():
    """A namespace has no name here: it lives as long as a process holds it, and there is none."""
    before = named_namespaces()
    bench = start(*COMMAND, *SHORT)
    printed, told = bench.communicate(timeout=60)
    assert bench.returncode == 0, told
    check_rows(printed, () if bpf.available() is None else CLONES)
    assert "datagrams counted by a program" in told or "counted by the sink's interface" in told
    assert alive(bench.pid) == []
    assert named_namespaces() == before


@pytest.mark.skipif(
    os.geteuid() != 0, reason="starts a user namespace as another user would; needs root here"
)
def test_it_runs_in_an_unprivileged_user_namespace_and_says_how_it_counts():
    bench = start("unshare", "-Urnm", *COMMAND, *SHORT)
    printed, told = bench.communicate(timeout=60)
    if "unshare failed" in told:
        pytest.skip(f"user namespaces are not allowed here: {told.strip()}")
    assert bench.returncode == 0, told
    check_rows(printed, CLONES)
    assert "counted by the sink's interface" in told


def test_ctrl_c_ends_it_soon_with_nothing_left_behind():
    bench = start(*COMMAND, "--seconds", "60", "-j")
    assert bench.stderr is not None
    assert "Linux" in bench.stderr.readline()
    bench.send_signal(signal.SIGINT)
    start_s = time.monotonic()
    _, told = bench.communicate(timeout=30)
    assert bench.returncode == 130, told
    assert told.endswith("fastpath bench wire: interrupted; nothing is left behind\n")
    assert time.monotonic() - start_s < 10
    assert alive(bench.pid) == []

"""The process that clones: what is left of it when it is killed, and what it does where it cannot clone."""

import ctypes
import os
import re
import shutil
import signal
import struct
from contextlib import suppress
from pathlib import Path

import pytest

from ctrl.lab.namespaces import missing
from fastpath import bpf
from tests.system.lab import Lab, wait_for
from tests.system.load import Track, start

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
NEEDS_BPF = pytest.mark.skipif(bpf.available() is not None, reason=f"BPF: {bpf.available()}")
SETPRIV = pytest.mark.skipif(shutil.which("setpriv") is None, reason="missing: setpriv (util-linux)")
WORKERS = 2
WITHOUT_BPF = ("setpriv", "--bounding-set=-bpf,-sys_admin", "--inh-caps=-bpf,-sys_admin")


@pytest.fixture
def lab():
    with Lab("clones") as made:
        yield made


@pytest.fixture
def track(lab):
    return Track(lab, fan_out=4)


def devices(track):
    return re.findall(r"\bfpclones\d+", track.box.command("ip", "-o", "link"))


def held(pid, kind):
    """The ids of the programs or maps that a process has descriptors of."""
    found: set[int] = set()
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):
            found.update(map(int, re.findall(rf"{kind}_id:\t(\d+)", path.read_text())))
    return found


def exists(kind, number):
    """Whether a program or map of that id is loaded: BPF_PROG_GET_FD_BY_ID, BPF_MAP_GET_FD_BY_ID."""
    attributes = ctypes.create_string_buffer(struct.pack("=III", number, 0, 0), 12)
    libc = ctypes.CDLL(None, use_errno=True)
    call = 321 if os.uname().machine == "x86_64" else 280
    fd = libc.syscall(call, {"prog": 13, "map": 14}[kind], attributes, 12)
    if fd >= 0:
        os.close(fd)
    return fd >= 0


@NEEDS_BPF
def test_kill_9_leaves_neither_device_nor_program_nor_table(track, lab):
    """Of two workers, while they clone."""
    fastpath = start(lab, track, dataplane=f"workers = {WORKERS}")
    track.sender(4_000, 1_000_000)
    wait_for(lambda: any(row["clone_sends"] for row in fastpath.show("runtime")), "clones")
    there = {(kind, one) for kind in ("prog", "map") for one in held(fastpath.process.pid, kind)}
    assert sorted(kind for kind, _ in there) == ["map"] * WORKERS + ["prog"] * WORKERS
    assert all(exists(*one) for one in there)
    assert devices(track) == ["fpclones0", "fpclones1"]
    assert fastpath.end(signal.SIGKILL) == -signal.SIGKILL
    assert devices(track) == []
    # the kernel frees them a grace period later
    wait_for(lambda: not any(exists(*one) for one in there), lambda: f"{there} to go")


def without_bpf(lab, track):
    fastpath = start(lab, track, under=WITHOUT_BPF)
    assert "no XDP filter and no in-kernel clones: bpf(2) is not permitted" in fastpath.log
    return fastpath


def turned_off(lab, track):
    return start(lab, track, dataplane="clones = false")


def device_deleted(lab, track):
    fastpath = start(lab, track)
    assert fastpath.port("out")["transmit"] == "clones+trains"
    track.box.delete_link("fpclones0")
    return fastpath


@pytest.mark.parametrize(
    ("how", "why"),
    [
        pytest.param(without_bpf, "no clones: bpf(2) is not permitted", id="no CAP_BPF", marks=SETPRIV),
        pytest.param(turned_off, "clones are turned off", id="turned off"),
        pytest.param(device_deleted, "no clones any more: their device refused", id="lost", marks=NEEDS_BPF),
    ],
)
def test_where_nothing_can_be_cloned_the_port_says_why_and_all_is_delivered(lab, track, how, why):
    fastpath = how(lab, track)
    track.pass_through(lab)
    now, port = fastpath.settled(), fastpath.port("out")
    assert (port["transmit"], why in port["why"]) == ("trains", True), port
    assert (now["received"], now["copies_out"], fastpath.drops()) == (50, 200, {})
    assert {row["clones_per_send"] or 0 for row in fastpath.show("runtime")} == {0}
    assert fastpath.process.poll() is None

"""`fastpath replay`: what it prints, its exit codes, its progress bar."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests import captures_io as c
from tests import frames as f
from tests.captures_io import read_frames
from tests.command import (
    CAPTURE,
    COMMAND,
    DEMO,
    ENVIRONMENT,
    SMALL,
    TO_GROUP,
    Box,
    Done,
    cut,
    pcap_of,
    pcapng_of,
)
from tests.replaying import copies_in, is_query
from tests.unit.test_config import LIVE


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    """Make a folder to replay in, and go there."""
    monkeypatch.chdir(tmp_path)
    return Box(tmp_path)


# --- what it prints -----------------------------------------------------------------------------------------

REPORT = """\
in.pcap: 1 frames, 0.000 s of traffic
received 1 = replicated 1 + punted 0 (IGMP, MLD) + dropped 0
joined 0, left 0; 0 members in 0 groups at the end; 4 queries sent

ROLE    GROUP        FRAMES
device  239.1.1.100       1

PORT  RECEIVER  FORM    ENCAP  COPIES  BYTES  DROPPED
p2    group     group   vxlan       1    129        0
up    10.0.0.2  nested  -           1    161        0

"""


def test_it_prints_frames_groups_receivers_and_how_fast(box: Box):
    done = box.replay()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(REPORT)
    *_, copies, stages = done.stdout.splitlines()
    assert copies.startswith("2 copies to out.pcapng in ")
    assert copies.endswith(" million copies/s, writing included")
    assert stages.startswith("ns a frame: receive ")


def test_drops_are_printed_with_their_reasons_in_words_and_what_copies_were_lost(box: Box):
    (box.folder / "box.toml").write_text(SMALL.replace('faces = "core"', 'faces = "core"\nmtu = 576'))
    big = c.pcap([(0, TO_GROUP), (1, b"\x00" * 30), (2, TO_GROUP[:40])])
    (box.folder / "in.pcap").write_bytes(big)
    done = box.replay()
    assert (
        "not_ours   frame      1  Not a tunnel packet to a group or to one of our addresses;" in done.stdout
    )
    assert "truncated  frame      1  The frame ends before its own headers say it should." in done.stdout
    pcap_of(
        box.folder / "in.pcap", f.wire(f.vxlan_packet(f.tenant(size=500), "10.1.1.2", "239.1.1.100", 100))
    )
    done = box.replay()
    assert "over_mtu  copy      1  The copy is larger than the out port's MTU" in done.stdout
    assert "\n1 copies to out.pcapng (1 dropped) in " in done.stdout


OBJECT = [
    "received",
    "replicated",
    "punted",
    "dropped",
    "copies_out",
    "drops",
    "members",
    "macs",
    "seconds",
    "copies_per_s",
]
DROP = ["reason", "unit", "stage", "frames", "rate_pps", "last"]
MEMBER = [
    *("node", "port", "nve", "mac", "network", "vni", "group", "mode", "sources", "blocked", "origin"),
    "expires_s",
]


def test_json_is_one_object_with_the_keys_of_the_design(box: Box):
    done = box.replay(CAPTURE, "-c", DEMO, "-o", "out.pcapng", "-j")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert list(told) == OBJECT
    assert [list(row) for row in told["drops"]] == [DROP] * 5
    assert [list(row) for row in told["members"]] == [MEMBER] * (8 + 7)
    counts = {name: told[name] for name in OBJECT[:5]}
    assert counts == {"received": 280, "replicated": 256, "punted": 13, "dropped": 11, "copies_out": 760}
    assert sum(row["frames"] for row in told["drops"] if row["unit"] == "frame") == told["dropped"]
    assert told["drops"][0] | {"rate_pps": 2.3} == {
        "reason": "not_ours",
        "unit": "frame",
        "stage": "parse",
        "frames": 7,
        "rate_pps": 2.3,
        "last": None,
    }
    served = next(row for row in told["members"] if row["nve"] and row["origin"] == "static")
    assert served == {
        "node": "tor1",
        "port": "p2",
        "nve": "10.1.2.2",
        "mac": None,
        "network": None,
        "vni": ["300"],
        "group": "239.1.1.7",
        "mode": "exclude",
        "sources": [],
        "blocked": [],
        "origin": "static",
        "expires_s": None,
    }
    assert told["seconds"] > 0
    assert told["copies_per_s"] > 0


def test_the_config_of_a_live_box_is_taken_with_all_its_tables(box: Box):
    (box.folder / "box.toml").write_text(LIVE)
    done = box.replay("in.pcap", "-c", "box.toml", "-o", "out.pcap", "--in-port", "p1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "received 1 = replicated 1 + punted 0" in done.stdout


def test_copies_go_to_a_pcap_or_a_pcapng_by_the_name(box: Box):
    for name, magic in (
        ("out.pcap", "d4c3b2a1" if sys.byteorder == "little" else "a1b2c3d4"),
        ("o.pcapng", "0a0d0d0a"),
    ):
        assert box.replay("in.pcap", "-c", "box.toml", "-o", name).returncode == 0
        assert (box.folder / name).read_bytes()[:4].hex() == magic
        assert len(copies_in(box.folder / name)) == 2


def test_a_file_s_name_may_be_no_text(box: Box):
    name = os.fsdecode(b"\xff.pcap")
    (box.folder / "in.pcap").rename(box.folder / name)
    done = box.process(name, "-c", "box.toml", "-o", os.fsdecode(b"\xfe.pcap"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("\\xff.pcap: 1 frames")
    done = box.process(os.fsdecode(b"gone\xff.pcap"), "-c", "box.toml", "-o", "o.pcap")
    assert done.returncode == 2
    assert "gone\\xff.pcap: cannot be read: No such file or directory" in done.stderr


# --- --expect -----------------------------------------------------------------------------------------------


def expecting(box: Box, *frames: tuple[str, bytes]) -> Done:
    """Replay with an expectation of (port, bytes), behind the two queries that p1 and p2 get."""
    asked = [(str(name), data) for name, _, data in read_frames(box.folder / "out.pcapng") if is_query(data)]
    assert [name for name, _ in asked] == ["p1", "p1", "p2", "p2"]
    pcapng_of(box.folder / "expect.pcapng", *asked, *frames)
    return box.replay("in.pcap", "-c", "box.toml", "-o", "out.pcapng", "--expect", "expect.pcapng")


@pytest.fixture
def made(box: Box) -> tuple[bytes, bytes]:
    """Give the copies that the box makes: to the member, to the peer."""
    box.replay()
    (_, _, member), (_, _, peer) = copies_in(box.folder / "out.pcapng")
    return member, peer


def test_the_copies_that_were_expected_are_exit_code_0(box: Box, made):
    done = expecting(box, ("up", made[1]), ("p2", made[0]))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("expected", "sentence"),
    [
        (
            lambda p2, up: [("p2", p2), ("up", up[:20] + b"\x99" + up[21:])],
            "port up, copy 1: differs from byte 20 on:",
        ),
        (lambda p2, up: [("p2", p2), ("up", up), ("up", up)], "port up, copy 2: missing: 02fa"),
        (lambda p2, up: [("up", up)], "port p2, copy 3: not expected: 0100"),
        (lambda p2, up: [("p2", up), ("up", p2)], "port p2, copy 3: differs from byte 0 on:"),
    ],
    ids=["changed", "missing", "extra", "swapped"],
)
def test_other_copies_are_exit_code_1_and_a_sentence_with_port_copy_and_byte(
    box: Box, made, expected, sentence
):
    done = expecting(box, *expected(*made))
    assert done.returncode == 1
    assert done.stderr.startswith(f"fastpath replay: expect.pcapng: {sentence}")
    assert done.stdout.startswith(REPORT)


def test_an_expectation_that_cannot_be_read_is_told_before_anything_is_forwarded(box: Box):
    sentence = box.refuses("in.pcap", "-c", "box.toml", "-o", "out.pcap", "--expect", "nowhere.pcap")
    assert sentence == "nowhere.pcap: cannot be read: No such file or directory"
    assert not (box.folder / "out.pcap").exists()


# --- damage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_json", [False, True])
def test_a_capture_damaged_in_mid_file_is_exit_code_1_with_the_copies_of_the_frames_before(
    box: Box, as_json: bool
):
    whole = pcap_of(box.folder / "whole.pcap", *[TO_GROUP] * 5)
    cut(box.folder / "in.pcap", whole, whole.stat().st_size - len(TO_GROUP) - 16 - 7)
    done = box.replay("in.pcap", "-c", "box.toml", "-o", "out.pcapng", *(["-j"] if as_json else []))
    assert done.returncode == 1
    assert done.stderr.startswith("fastpath replay: in.pcap: byte ")
    assert done.stderr.count("\n") == 1
    assert len(copies_in(box.folder / "out.pcapng")) == 6
    received = (
        json.loads(done.stdout)["received"] if as_json else int(done.stdout.split("received ")[1].split()[0])
    )
    assert received == 3


# --- the progress bar ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a capture of four chunks, too short to bore anyone."""
    return pcap_of(tmp_path_factory.mktemp("long") / "long.pcap", *[TO_GROUP] * (4 << 16))


def seen(box: Box, capture: Path, *words: str) -> bytes:
    """Replay with a terminal for standard error; returns what it shows."""
    master, terminal = pty.openpty()
    command = [*COMMAND, str(capture), "-c", "box.toml", "-o", "out.pcap", *words]
    with subprocess.Popen(
        command, cwd=box.folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=terminal
    ) as process:
        os.close(terminal)
        shown = b""
        try:
            while part := os.read(master, 1 << 16):
                shown += part
        except OSError:  # EIO: nobody has the terminal open any more
            pass
        finally:
            os.close(master)
    assert process.returncode == 0
    return shown


def test_a_long_capture_shows_a_progress_bar_on_a_terminal(box: Box, long_capture: Path):
    shown = seen(box, long_capture)
    assert b"replaying" in shown
    assert b"100%" in shown
    assert shown.count(b"\x1b[?25h") == 1  # the cursor is back


def test_a_short_capture_leaves_the_terminal_alone(box: Box):
    assert seen(box, box.folder / "in.pcap") == b""


def test_json_comes_without_a_progress_bar(box: Box, long_capture: Path):
    assert seen(box, long_capture, "-j") == b""


def test_without_a_terminal_there_is_no_progress_bar(box: Box, long_capture: Path):
    done = box.replay(long_capture, "-c", "box.toml", "-o", "out.pcap")
    assert (done.returncode, done.stderr) == (0, "")

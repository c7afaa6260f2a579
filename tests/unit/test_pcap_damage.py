"""What is damaged or no capture at all is told by file, byte, found and expected, and never hurts."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastpath.errors import CaptureError
from fastpath.ports import PcapSource
from tests import captures_io as io
from tests.native._receive import received

PORTS = {"p1": 3, "p2": 0}
T = 1_700_000_000_123_456_789
INTERFACES_MAX, FRAME_SIZE_MAX = 65535, 262144


@pytest.fixture
def made(tmp_path):
    """Write bytes to a file, open it as a source with the ports above."""

    def make(data: bytes, in_port: int | None = None) -> PcapSource:
        path = tmp_path / "in.capture"
        path.write_bytes(data)
        return PcapSource(path, PORTS, in_port)

    return make


# What is wrong with the whole file: (bytes, byte named, what is said).
ALIEN = {
    "empty": (b"", 0, "is empty"),
    "one byte": (b"\xd4", 0, "has 1 bytes; a capture has 24 at least"),
    "short": (io.pcap_head()[:20], 0, "ends within the pcap header: 20 bytes, expected 24"),
    "text": (b"hello, world, this is no capture", 0, "starts with 68656c6c; expected a pcap"),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(40), 0, "this is gzip: gunzip it first"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(40), 0, "this is zstd"),
    "old pcap": (io.pcap_head(version=(2, 2)), 4, "is pcap version 0x20002"),
    "radio": (io.pcap_head(link=127), 20, "has link type 127; expected Ethernet (1)"),
    "order mark": (io.section(mark=0x1A2B3C4E), 8, "byte order mark is 4e3c2b1a; expected 1a2b3c4d"),
    "pcapng 2": (io.section(version=(2, 0)), 12, "pcapng version 0x20000"),
    "pcapng 1.1": (io.section(">", version=(1, 1)), 12, "pcapng version 0x10001"),
    "section cut": (io.section()[:12], 0, "ends within a section header: 12 bytes, expected 28"),
    "section of 24": (
        io.block(io.SECTION, io.section()[8:20]), 4, "a section header of 24 bytes; expected 28 at least",
    ),
    "section end": (io.section(end=29), 24, "a block ends with the size 29; it began with 28"),
    "radio interface": (
        io.section() + io.interface("p1", link=127) + io.packet(b"x"),
        56, "a packet of an interface of link type 127; expected Ethernet (1)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ALIEN)
def test_what_is_no_capture_is_told_by_byte_found_and_expected(made, case):
    data, offset, words = ALIEN[case]
    with pytest.raises(CaptureError) as caught:
        made(data)
    assert str(caught.value).startswith(f"{caught.value.path}: byte {offset}: ")
    assert words in str(caught.value)
    assert caught.value.offset == offset


def test_what_is_no_file_is_told_and_waits_for_nobody(tmp_path):
    os.mkfifo(tmp_path / "pipe.pcap")
    for path, words in [
        (tmp_path, "is a directory; expected a regular file"),
        (tmp_path / "pipe.pcap", "is a pipe; expected a regular file"),
        (Path("/dev/null"), "is a device; expected a regular file"),
        (tmp_path / "missing.pcap", "cannot be read: No such file or directory"),
    ]:
        with pytest.raises(CaptureError) as caught:
            PcapSource(path, PORTS)
        assert str(caught.value) == f"{path}: {words}"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_we_may_not_read_is_told(tmp_path):
    path = tmp_path / "in.pcap"
    path.touch(mode=0)
    with pytest.raises(CaptureError, match="cannot be read: Permission denied"):
        PcapSource(path, PORTS)


P1 = io.section() + io.interface("p1", snap_size=100)
LAST = io.pcap_head() + io.pcap_packet(b"whole")
NEXT = P1 + io.packet(b"whole")
# What is wrong behind a first packet: (file before it, what stands there, byte from there, what is said).
DAMAGE = {
    "head cut": (LAST, io.pcap_packet(b"")[:15], 0, "ends within a packet's header: 15 bytes, expected 16"),
    "packet cut": (LAST, io.pcap_packet(b"12345", size=6), 0, "ends within a packet: 5 bytes, expected 6"),
    "too large": (
        LAST, io.pcap_packet(bytes(262145)), 0, "a packet of 262145 bytes; expected 262144 at most",
    ),
    "block cut": (NEXT, io.packet(b"1234")[:-1], 0, "ends within a block: 35 bytes, expected 36"),
    "block start": (NEXT, io.packet(b"1234")[:11], 0, "ends within a block: 11 bytes, expected 12 at least"),
    "block of 8": (NEXT, io.block(7, b"1234", size=8), 4, "a block of 8 bytes; expected a multiple of 4"),
    "block of 18": (NEXT, io.block(7, b"123456", size=18), 4, "a block of 18 bytes; expected"),
    "trailer": (NEXT, io.block(7, b"1234", end=20), 12, "a block ends with the size 20; it began with 16"),
    "undeclared": (NEXT, io.packet(b"x", 1), 8, "a packet of interface 1; its section declares 1 before it"),
    "old undeclared": (NEXT, io.old_packet(b"x", 1), 8, "a packet of interface 1; its section declares 1"),
    "new section": (NEXT + io.section(), io.packet(b"x"), 8, "a packet of interface 0; its section declares"),
    "simple": (NEXT + io.section(), io.simple_packet(b"x"), 0, "interface 0; its section declares none"),
    "simple short": (NEXT, io.simple_packet(b"x", wire_size=90), 0, "a packet of 90 bytes; its block"),
    "simple block": (NEXT, io.block(3, b""), 4, "a packet block of 12 bytes; expected 16 at least"),
    "packet block": (NEXT, io.block(6, bytes(16)), 4, "a packet block of 28 bytes; expected 32 at least"),
    "overfull": (NEXT, io.packet(b"12345", size=9), 0, "a packet of 9 bytes; its block has 8 left"),
    "large": (NEXT, io.packet(bytes(262145)), 0, "a packet of 262145 bytes; expected 262144 at most"),
    "interface": (NEXT, io.block(1, bytes(4)), 4, "an interface block of 16 bytes; expected 20 at least"),
    "option": (NEXT, io.interface(options=io.option(5, b"1234", length=5)), 16, "an option of 5 bytes; its"),
    "resolution": (NEXT, io.interface(options=io.option(9, b"12")), 16, "a time resolution of 2 bytes"),
    "offset": (NEXT, io.interface(options=io.option(14, b"1234")), 16, "a time offset of 4 bytes"),
    "time": (P1 + io.interface("p2", resolution=0) + io.packet(b"whole"), io.packet(b"x", 1, 1 << 40), 12,
             f"a timestamp of {1 << 40} units"),
    "1969": (P1 + io.interface("p2", offset_s=-1) + io.packet(b"whole"), io.packet(b"x", 1), 12, "1970"),
    "section version": (NEXT, io.section(version=(3, 0)), 12, "pcapng version 0x30000"),
    "section mark": (NEXT, io.section(mark=1), 8, "byte order mark is 01000000"),
    "section start": (NEXT, io.section()[:15], 0, "ends within a section header: 15 bytes, expected 28"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_keeps_what_came_before_it_and_is_told_by_byte_found_and_expected(made, case):
    before, damaged, offset, words = DAMAGE[case]
    at_the_end = "cut" in case or "start" in case
    for behind in (b"",) if at_the_end else (b"", before):
        with made(before + damaged + behind) as source:
            assert [row[2] for row in received(source)] == [b"whole"]
            assert source.damage.startswith(f"{source.path}: byte {len(before) + offset}: ")
            assert words in source.damage


def test_too_many_interfaces_are_damage(made):
    with made(io.section() + io.interface() * (INTERFACES_MAX + 1)) as source:
        assert "more than 65535 interfaces" in source.damage
        assert len(source.interfaces) == INTERFACES_MAX


def test_the_largest_frame_comes_in(made):
    for data in (io.pcap([(0, bytes(FRAME_SIZE_MAX))]), P1 + io.packet(bytes(FRAME_SIZE_MAX))):
        with made(data) as source:
            assert received(source)[0][2] == bytes(FRAME_SIZE_MAX)


@pytest.mark.parametrize("kind", io.SMALL)
def test_cut_at_every_byte_a_capture_gives_a_beginning_of_its_frames_and_says_so(made, kind):
    data = io.SMALL[kind]
    with made(data) as source:
        whole = received(source)
    assert len(whole) == 4
    seen = set()
    for size in range(len(data)):
        try:
            source = made(data[:size])
        except CaptureError as error:
            assert size < 28
            assert error.offset == 0  # noqa: PT017  longer ones are read
            continue
        with source:
            frames = received(source)
            assert frames == whole[: len(frames)]
            assert source.n_frames == len(frames) < 4
            # a cut between two blocks leaves a good, shorter capture
            assert source.damage is None or "the file ends within" in source.damage
            seen.add((len(frames), source.damage is None))
    assert {n for n, _ in seen} == {0, 1, 2, 3}
    assert sum(whole for _, whole in seen) == 4


@pytest.mark.parametrize("kind", io.SMALL)
@settings(
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    deadline=None,
)
@given(data=st.data())
def test_changed_anywhere_a_capture_never_hurts(made, kind, data):
    changed = bytearray(io.SMALL[kind])
    for place in data.draw(st.lists(st.integers(0, len(changed) - 1), min_size=1, max_size=8)):
        changed[place] = data.draw(st.integers(0, 255) | st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
    try:
        source = made(bytes(changed), in_port=1)
    except CaptureError as error:
        assert error.message  # noqa: PT017  either is right
        return
    with source:
        frames = received(source)
        assert len(frames) == source.n_frames
        assert all(frame in changed for *_, frame in frames)
        assert all(time <= source.last_ns for _, time, _ in frames)


def test_rubbish_behind_a_good_head_never_hurts(made):
    rubbish = random.Random(7)
    for _ in range(300):
        for head in (io.pcap_head(), io.section() + io.interface("p1")):
            with made(head + rubbish.randbytes(rubbish.randrange(200)), in_port=0) as source:
                assert len(received(source)) == source.n_frames

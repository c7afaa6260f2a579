"""The fuzzer finds what is planted, tells how to see it again, and reaches what lies deep."""

from __future__ import annotations

import random

import pytest

from fastpath.reference.lookup import Lookup
from tests import frames as f
from tests.cases import box as b
from tests.cases import made as m
from tests.fuzz import run as fuzz
from tests.fuzz.boxes import all_boxes, captured
from tests.fuzz.mutate import mend, ones_sum


def test_a_short_run_finds_nothing_and_says_what_it_reached(tmp_path, capsys):
    assert fuzz.main(["--frames", "20000", "--seed", "5", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("20000 frames in ")
    assert "frames compared with the reference" in said
    assert " 0 trains" not in said


def test_it_stops_when_its_time_is_up(tmp_path, capsys):
    assert fuzz.main(["--frames", "1000000000", "--seconds", "0.2", "--out", str(tmp_path)]) == 0


def test_a_planted_difference_is_found_and_found_again_from_its_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Lookup, "refuse_own", lambda *_: None)
    monkeypatch.setattr(fuzz, "SAMPLE", 1)
    assert fuzz.main(["--frames", "100000", "--seed", "2", "--out", str(tmp_path)]) == 1
    (path,) = tmp_path.glob("finding-*.txt")
    assert str(path) in capsys.readouterr().err
    assert len(path.read_text().splitlines()) == 2
    assert fuzz.main(["--replay", str(path)]) == 1
    monkeypatch.undo()
    assert fuzz.main(["--replay", str(path)]) == 0


def test_the_same_seed_makes_the_same_frames(tmp_path):
    box = all_boxes(3)[1]
    one, other = (fuzz.draw(random.Random(9), box, captured(), 500) for _ in range(2))
    assert one == other
    assert len({frame.data for _, frame in one}) > 400


def test_frames_written_down_read_back_as_they_were(tmp_path):
    box = all_boxes(3)[0]
    arrivals = fuzz.draw(random.Random(4), box, captured(), 2000)
    fuzz.write_down(tmp_path / "some.txt", 3, box, arrivals)
    again, back = fuzz.read_back(tmp_path / "some.txt")
    assert (again.name, back) == (box.name, arrivals)
    assert any(frame.mark for _, frame in arrivals)
    assert any(frame.vlan for _, frame in arrivals)


RIGHT = {"checksum": f.RIGHT}
WHOLE = [
    f.wire(f.vxlan_packet(m.TENANT, b.VTEP, b.GROUP, b.VNI, datagram=RIGHT, packet={"options": bytes(4)})),
    f.wire(f.vxlan_packet(m.TENANT6, b.VTEP6, b.GROUP6, b.VNI, datagram=RIGHT), [(f.TAG, 5)]),
    f.wire(
        f.nested_packet(
            f.vxlan_packet(m.TENANT, b.VTEP, b.GROUP, b.VNI, datagram=RIGHT), b.PEER, b.OWN, datagram=RIGHT
        )
    ),
]


@pytest.mark.parametrize("whole", WHOLE)
def test_mending_makes_a_spoiled_frame_right_again(whole):
    """All outer and nested lengths and checksums; what is right stays as it is."""
    data = bytearray(whole)
    mend(data, 14, len(data), lengths=True)
    assert data == whole
    ip = whole.index(b"\x08\x00\x46") + 2 if b"\x08\x00\x46" in whole else None
    data[-1] ^= 0x55
    spoiled = bytes(data)
    if ip is not None:
        data[ip + 2 : ip + 4] = b"\x11\x11"
    mend(data, 14, len(data), lengths=True)
    assert data != spoiled
    assert len([1 for a, c in zip(data, spoiled, strict=True) if a != c]) <= 6


def test_a_sum_by_one_large_number_is_the_sum_of_the_words():
    for size in range(1, 60):
        data = random.Random(size).randbytes(size)
        assert (0xFFFF - ones_sum(data)) % 0xFFFF == f.internet_checksum(data) % 0xFFFF

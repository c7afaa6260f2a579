"""Replay: a capture of a million frames through the data path into a fresh file, everything on tmpfs.

The rival maps a fresh file of the size that replay wrote and fills it with one memcpy. Both sides open, write
and close; the files of the turn before are deleted outside the time of either.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bench.conftest import Race, timed
from bench.figures import Target
from bench.memcpy import SHM, MemcpyToFile
from bench.traffic import BATCH, Bench, Bytes, copy_size, layout, receivers, vxlan_frames
from fastpath.captures import PcapSink, PcapSource
from fastpath.forwarder import Forwarder
from fastpath.model import Form

N_FRAMES = 1_000_000
FAN_OUT = 8
SIZE = 64
HEAD_SIZE, PACKET_SIZE = 24, 16
NAMES = ("nve", "core1")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory on tmpfs that leaves nothing behind."""
    path = Path(tempfile.mkdtemp(prefix="fastpath-bench-", dir=SHM))
    yield path
    shutil.rmtree(path)


def write_capture(path: Path, frames: Bytes, n_frames: int) -> None:
    """A classic pcap of the frames, over and over, one microsecond apart."""
    size = frames.shape[1]
    records = np.zeros(
        n_frames, np.dtype([("seconds", "u4"), ("us", "u4"), ("sizes", "u4", 2), ("data", "u1", size)])
    )
    times = np.arange(n_frames)
    records["seconds"] = 1_700_000_000 + times // 1_000_000
    records["us"] = times % 1_000_000
    records["sizes"] = size
    records["data"] = np.resize(frames, (n_frames, size))
    head = np.array([0xA1B2C3D4, 2 | 4 << 16, 0, 0, 1 << 18, 1], "u4")
    path.write_bytes(head.tobytes() + records.tobytes())


def records_of(path: Path, n_records: int) -> list[bytes]:
    """The first frames of a classic pcap in our own byte order."""
    out = []
    with path.open("rb") as file:
        file.seek(HEAD_SIZE)
        for _ in range(n_records):
            sizes = np.frombuffer(file.read(PACKET_SIZE), "u4")
            out.append(file.read(int(sizes[2])))
    return out


@pytest.mark.parametrize("suffix", ["pcap", "pcapng"])
def test_replay_a_million_frames_into_a_fresh_file(race: Race, folder: Path, suffix: str) -> None:
    frames = vxlan_frames(SIZE, 0, range(BATCH))
    lists = [receivers(Form.NESTED, FAN_OUT)]
    captured, out, copied = folder / "in.pcap", folder / f"out.{suffix}", folder / "memcpy"
    write_capture(captured, frames, N_FRAMES)

    def replay() -> None:
        with PcapSource(captured, {"nve": 0}) as source, PcapSink(out, NAMES) as sink:
            forwarder = Forwarder(layout(), [sink, sink], lists, sources=[source])
            assert forwarder.run() == N_FRAMES
        assert forwarder.statistics().copies_out == N_FRAMES * FAN_OUT

    replay()
    size = out.stat().st_size
    bench = Bench(frames, 1 << 12, lists=lists)
    if suffix == "pcap":
        assert size == HEAD_SIZE + N_FRAMES * FAN_OUT * (PACKET_SIZE + copy_size(Form.NESTED, SIZE))
        assert records_of(out, 100 * FAN_OUT) == [data for _, data in bench.reference(100)]
    memcpy = MemcpyToFile(size, copied)

    def clear_up() -> None:
        out.unlink(missing_ok=True)
        copied.unlink(missing_ok=True)

    rounds = race(replay, memcpy, per=N_FRAMES * FAN_OUT, between=clear_up, least=3)
    race.book(
        f"replay into a {suffix}",
        {"frames": N_FRAMES, "fan_out": FAN_OUT, "size": SIZE},
        rounds.ours,
        target=Target(2, of_ratio=True),
        memcpy=rounds.rival,
        reference=timed(lambda: bench.reference(100), 100 * FAN_OUT, 1),
    )

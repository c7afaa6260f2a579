"""Replay: captures stand in for every port of a config, live or not; no root, no network.

The frames of the input come in on the ports that its interfaces are named for, or on one port; all copies go to one file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from ctrl.config import Config
from ctrl.rows import Row, drop_rows, member_rows
from ctrl.static import plan
from fastpath import Forwarder, Statistics
from fastpath.model import Layout
from fastpath.ports import PcapSink, PcapSource

CHUNK_FRAMES = 1 << 16
"""Frames between two calls of `progress`."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay came to. `seconds` is how long forwarding took, `traffic_s` the time that the capture spans."""

    statistics: Statistics
    layout: Layout
    members: list[Row]
    seconds: float
    traffic_s: float
    last_s: float
    damage: str | None

    def as_object(self) -> Row:
        """The object that `fastpath replay -j` prints."""
        counted = self.statistics
        last = f"{self.last_s:.9f}" if counted.received else None
        return {
            "received": counted.received,
            "replicated": counted.replicated,
            "punted": counted.punted,
            "dropped": counted.dropped,
            "copies_out": counted.copies_out,
            "drops": drop_rows(counted, self.traffic_s, last),
            "members": self.members,
            "seconds": round(self.seconds, 6),
            "copies_per_s": round(counted.copies_out / self.seconds) if self.seconds else 0,
        }


def replay(
    config: Config,
    source_path: Path,
    out_path: Path,
    in_port: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Replayed:
    """Forward the frames of `source_path` as `config` says, copies to `out_path`.

    `progress` is told (frames done, frames in all) now and then. CaptureError where the input cannot be used,
    OSError where the output cannot be written; damage in mid-file is told in the result, after all before it was forwarded.
    """
    planned = plan(config)
    names = [port.name for port in planned.layout.ports]
    places = {name: place for place, name in enumerate(names)}
    with (
        PcapSource(source_path, places, None if in_port is None else places[in_port]) as source,
        PcapSink(out_path, names, nanoseconds=source.nanoseconds) as sink,
    ):
        forwarder = Forwarder(
            planned.layout,
            [sink] * len(names),
            planned.lists,
            sources=[source],
            batch=config.dataplane.batch,
            trains=config.dataplane.trains,
        )
        begin = time.perf_counter()
        while forwarder.run(CHUNK_FRAMES):
            progress(source.frames_read, source.n_frames)
        sink.close()
        seconds = time.perf_counter() - begin
        return Replayed(
            forwarder.statistics(),
            planned.layout,
            member_rows(config),
            seconds,
            (source.last_ns - source.first_ns) / 1e9,
            source.last_ns / 1e9,
            source.damage,
        )


def differences(out_path: Path, expect_path: Path, ports: list[str]) -> Iterator[str]:
    """Compare two captures byte for byte, in order per port (a pcap has one order for all); times do not count.

    Yields one sentence a port that differs, about its first difference.
    """
    out, expect = (_frames_by_port(path, ports) for path in (out_path, expect_path))
    if None in out or None in expect:
        out, expect = ({None: _in_file_order(path, ports)} for path in (out_path, expect_path))
    for port in sorted({*out, *expect}, key=str):
        where = "" if port is None else f"port {port}, "
        for number, (got, wanted) in enumerate(zip_longest(out.get(port, []), expect.get(port, [])), 1):
            if got != wanted:
                yield f"{where}copy {number}: {_difference(got, wanted)}"
                break


def _difference(got: bytes | None, wanted: bytes | None) -> str:
    if wanted is None:
        return f"{len(got or b'')} bytes that were not expected: {(got or b'').hex()}"
    if got is None:
        return f"missing; expected {len(wanted)} bytes: {wanted.hex()}"
    at = next((i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b), min(len(got), len(wanted)))
    return f"differs from byte {at} on: {got.hex()}; expected {wanted.hex()}"


def _frames_by_port(path: Path, ports: list[str]) -> dict[str | None, list[bytes]]:
    found: dict[str | None, list[bytes]] = {}
    with _open(path, ports) as capture:
        for interface, data in capture.frames():
            found.setdefault(capture.interfaces[interface], []).append(data)
    return found


def _in_file_order(path: Path, ports: list[str]) -> list[bytes]:
    with _open(path, ports) as capture:
        return [data for _, data in capture.frames()]


def _open(path: Path, ports: list[str]) -> PcapSource:
    return PcapSource(path, {name: place for place, name in enumerate(ports)})

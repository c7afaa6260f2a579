"""Replays that are checked: what the compiled path made of a capture is what the reference makes of it.

The capture and its copies are read by dpkt and scapy, not by our own reader.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctrl.config import Config, parse
from ctrl.replay import Replayed, replay
from ctrl.static import plan
from fastpath.model import Frame, Verdict
from fastpath.reasons import Unit
from fastpath.reference import Outcome, Reference
from tests.captures_io import read_frames

ROOT = Path(__file__).resolve().parent.parent
CAPTURES = ROOT / "tests" / "captures"
EXAMPLES = ROOT / "examples"

Arrival = tuple[int, Frame]


@dataclass(frozen=True)
class Checked:
    """A replay that agrees with the reference: its result, and for each frame what became of it."""

    done: Replayed
    arrivals: list[Arrival]
    outcomes: list[Outcome]
    copies: list[tuple[str, bytes]]
    """(out port, bytes) of all copies as the file holds them."""

    def by(self, port: str) -> list[bytes]:
        """The copies that left by a port."""
        return [data for name, data in self.copies if name == port]

    def reasons(self) -> dict[str, int]:
        """How often each drop reason struck, of frames and of copies."""
        return {row.reason.name: row.count for row in self.done.statistics.drops}


def config_of(text: str) -> Config:
    """The config that a text says; an assertion with all its errors if it is none."""
    reading = parse(text)
    assert reading.config is not None, "\n".join(map(str, reading.findings))
    return reading.config


def arrivals_of(
    frames: Iterable[tuple[str | None, int, bytes]], ports: Sequence[str], in_port: str
) -> list[Arrival]:
    """The frames as they come in: on the port that their interface is named for, or on `in_port`."""
    return [
        (ports.index(name if name in ports else in_port), Frame(data, time_ns=time))
        for name, time, data in frames
    ]


def checked(config: Config, capture: Path, out: Path, in_port: str | None = None) -> Checked:
    """Replay a capture into the pcapng `out`; assert that its books are balanced, and each frame's fate the
    reference's."""
    ports = [port.name for port in config.ports]
    arrivals = arrivals_of(read_frames(capture), ports, in_port or ports[0])
    done = replay(config, capture, out, in_port)
    left = read_frames(out)
    planned = plan(config)
    outcomes = check_copies(Reference(planned.layout, planned.lists), arrivals, left, ports)
    check_books(done, arrivals, outcomes)
    return Checked(done, arrivals, outcomes, [(name or "", data) for name, _, data in left])


def check_copies(
    reference: Reference,
    arrivals: list[Arrival],
    left: list[tuple[str | None, int, bytes]],
    ports: Sequence[str],
) -> list[Outcome]:
    """Assert that the copies are the reference's, frame by frame: ports, order, bytes, the frame's time."""
    outcomes, at = [], 0
    for number, (in_port, frame) in enumerate(arrivals, 1):
        outcome = reference.forward(in_port, frame)
        wanted = [(ports[copy.out_port], frame.time_ns, copy.data.hex()) for copy in outcome.copies]
        got = [(name, time, data.hex()) for name, time, data in left[at : at + len(wanted)]]
        assert got == wanted, f"frame {number}: {frame.data.hex()}"
        at += len(wanted)
        outcomes.append(outcome)
    assert at == len(left), "copies that the reference does not make"
    return outcomes


def check_books(done: Replayed, arrivals: list[Arrival], outcomes: list[Outcome]) -> None:
    """Assert that nothing is lost or counted twice, and that the reasons are those of the reference."""
    counted = done.statistics
    verdicts = Counter(outcome.verdict for outcome in outcomes)
    reasons = Counter(outcome.reason for outcome in outcomes if outcome.reason)
    copy_drops: Counter[str] = Counter()
    for outcome in outcomes:
        copy_drops.update(outcome.copy_drops)
    rows = {unit: {r.reason.name: r.count for r in counted.drops if r.reason.unit is unit} for unit in Unit}
    assert rows == {Unit.FRAME: dict(reasons), Unit.COPY: dict(copy_drops), Unit.RING: {}}
    assert counted.received == counted.replicated + counted.punted + counted.dropped == len(arrivals)
    assert (counted.replicated, counted.punted) == (verdicts[Verdict.REPLICATE], verdicts[Verdict.PUNT])
    assert counted.dropped == sum(rows[Unit.FRAME].values())
    assert counted.copies_out == sum(len(outcome.copies) for outcome in outcomes)
    assert counted.copies_dropped == sum(copy_drops.values()) == sum(row.dropped for row in counted.egresses)
    assert counted.copies_out == sum(row.copies for row in counted.egresses)
    assert [row.received for row in counted.ports] == [
        sum(place == i for place, _ in arrivals) for i in range(len(counted.ports))
    ]
    assert sum(row.copies_out for row in counted.ports) == counted.copies_out
    assert sum(row.frames for row in counted.lists) == counted.replicated
    wanted = Counter((copy.egress, len(copy.data)) for outcome in outcomes for copy in outcome.copies)
    for row in counted.egresses:
        sizes = {size: n for (egress, size), n in wanted.items() if egress == row.egress}
        assert (row.copies, row.bytes) == (sum(sizes.values()), sum(size * n for size, n in sizes.items()))

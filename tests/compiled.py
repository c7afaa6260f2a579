"""The compiled forwarder behind the face of the reference, so that cases and scenes run through both.

After every call the books are balanced: received = replicated + punted + dropped, copies wanted = copies
out + copies dropped, and each is the sum of what the ports, the egresses and the reasons say for themselves.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fastpath.compiler import egress_order, key_words
from fastpath.forwarder import Forwarder
from fastpath.model import Frame, Layout, ReplicationList, Verdict
from fastpath.ports import MemoryPort
from fastpath.reasons import REASONS, Unit
from fastpath.reference import Copy, Outcome, Reference
from tests.native._arrivals import Arrivals
from tests.native._outcome import classified

Arrival = tuple[int, Frame]
REMOTE = 1


@dataclass(frozen=True)
class Sent:
    """What became of a batch: `copies` by out port in order; `reasons` of frames, `copy_drops` of copies."""

    verdicts: Mapping[Verdict, int]
    reasons: Mapping[str, int]
    copy_drops: Mapping[str, int]
    copies: tuple[tuple[bytes, ...], ...]


@dataclass(frozen=True)
class Count:
    """The counters of a forwarder at one time, or between two."""

    verdicts: Sequence[int]
    reasons: Sequence[int]
    received: Sequence[int]
    sent: Sequence[int]
    copies_out: int
    egresses: Sequence[tuple[int, int, int]] = field(repr=False)

    def since(self, before: Count) -> Count:
        """What was counted after `before`."""
        known = [*before.egresses, *[(0, 0, 0)] * (len(self.egresses) - len(before.egresses))]
        return Count(
            [a - b for a, b in zip(self.verdicts, before.verdicts, strict=True)],
            [a - b for a, b in zip(self.reasons, before.reasons, strict=True)],
            [a - b for a, b in zip(self.received, before.received, strict=True)],
            [a - b for a, b in zip(self.sent, before.sent, strict=True)],
            self.copies_out - before.copies_out,
            [(a[0] - b[0], a[1] - b[1], a[2] - b[2]) for a, b in zip(self.egresses, known, strict=True)],
        )

    def of_unit(self, unit: Unit) -> dict[str, int]:
        """The reasons that struck, of one unit."""
        return {r.name: n for r, n in zip(REASONS, self.reasons, strict=True) if n and r.unit is unit}


class Compiled:
    """The compiled forwarder for one layout and its lists: frames in, mixed; copies out by memory ports.

    `trains` are the ports that take super-frames; `room` is that of each port, in bytes.
    """

    def __init__(
        self,
        layout: Layout,
        lists: Iterable[ReplicationList],
        *,
        batch: int = 256,
        trains: Container[int] = (),
        room: int = 1 << 22,
    ) -> None:
        self.lists = {key_words(one.key): one for one in lists}
        self.arrivals = Arrivals()
        self.ports = [MemoryPort(room, i in trains) for i in range(len(layout.ports))]
        self.forwarder = Forwarder(
            layout, self.ports, self.lists.values(), sources=[self.arrivals], batch=batch
        )
        self._count = self._counted()

    def forward(self, in_port: int, frame: Frame) -> Outcome:
        """Take one frame in and say what becomes of it."""
        mark = None if frame.mark is None else (frame.mark.start, frame.mark.offset)
        fib = self.forwarder._compiler.fib
        _, _, words, flow, source_class = classified(fib, in_port, frame.data, mark, frame.vlan)
        sent, count = self._run([(in_port, frame)])
        (verdict,) = sent.verdicts
        (reason,) = sent.reasons or (None,)
        if words is None:
            return Outcome(verdict, reason)
        one = self.lists[words]
        copies = self._by_egress(one, source_class == REMOTE, sent, count)
        return Outcome(verdict, reason, copies, dict(sent.copy_drops), one.key, flow)

    def forward_batch(self, arrivals: Sequence[Arrival]) -> Sent:
        """Take frames in, as many at once as the forwarder's batch holds."""
        return self._run(arrivals)[0]

    def _by_egress(self, one: ReplicationList, remote: bool, sent: Sent, count: Count) -> tuple[Copy, ...]:
        """The copies of one frame in list order, each with the egress that counted it."""
        egresses = sorted(one.local, key=egress_order)
        if not remote:
            egresses += sorted(one.remote, key=egress_order)
        ids = self.forwarder._compiler._egress_ids
        left = [deque(copies) for copies in sent.copies]
        counted = [egress for egress in egresses if count.egresses[ids[egress]][0]]
        copies = tuple(Copy(egress.out_port, left[egress.out_port].popleft(), egress) for egress in counted)
        assert not any(left), "copies that no egress of the list has counted"
        return copies

    def _run(self, arrivals: Sequence[Arrival]) -> tuple[Sent, Count]:
        for in_port, frame in arrivals:
            mark = None if frame.mark is None else (frame.mark.start, frame.mark.offset)
            self.arrivals.push(in_port, frame.data, mark, frame.vlan, frame.time_ns)
        assert self.forwarder.run() == len(arrivals)
        before, self._count = self._count, self._counted()
        count = self._count.since(before)
        copies = tuple(tuple(port.take()) for port in self.ports)
        self._balance(arrivals, count, copies)
        verdicts = {
            verdict: count.verdicts[verdict.value] for verdict in Verdict if count.verdicts[verdict.value]
        }
        return Sent(verdicts, count.of_unit(Unit.FRAME), count.of_unit(Unit.COPY), copies), count

    def _counted(self) -> Count:
        now = self.forwarder._workers[0].engine.counters(len(self.forwarder._compiler.egresses))
        return Count(
            now["verdicts"],
            now["drops"],
            now["port_received"],
            now["port_copies"],
            now["copies_out"],
            now["egresses"],
        )

    def _balance(self, arrivals: Sequence[Arrival], count: Count, copies: Sequence[Sequence[bytes]]) -> None:
        """Assert that nothing is lost and nothing counted twice."""
        in_ports = Counter(in_port for in_port, _ in arrivals)
        assert list(count.received) == [in_ports[i] for i in range(len(self.ports))]
        assert sum(count.verdicts) == len(arrivals)
        assert sum(count.of_unit(Unit.FRAME).values()) == count.verdicts[Verdict.DROP.value]
        assert list(count.sent) == [len(one) for one in copies]
        assert sum(count.sent) == count.copies_out == sum(row[0] for row in count.egresses)
        assert sum(row[1] for row in count.egresses) == sum(len(data) for one in copies for data in one)
        assert sum(row[2] for row in count.egresses) == sum(count.of_unit(Unit.COPY).values())
        by_port = [0] * len(self.ports)
        for egress, row in zip(self.forwarder._compiler.egresses, count.egresses, strict=True):
            by_port[egress.out_port] += row[0]
        assert list(count.sent) == by_port
        assert self.forwarder.fibs_alive == 1


def referred(box: Reference, arrivals: Iterable[Arrival], n_ports: int) -> Sent:
    """What becomes of a batch by the reference."""
    verdicts: Counter[Verdict] = Counter()
    reasons: Counter[str] = Counter()
    copy_drops: Counter[str] = Counter()
    copies: list[list[bytes]] = [[] for _ in range(n_ports)]
    for in_port, frame in arrivals:
        outcome = box.forward(in_port, frame)
        verdicts[outcome.verdict] += 1
        if outcome.reason is not None:
            reasons[outcome.reason] += 1
        copy_drops.update(outcome.copy_drops)
        for copy in outcome.copies:
            copies[copy.out_port].append(copy.data)
    return Sent(dict(verdicts), dict(reasons), dict(copy_drops), tuple(map(tuple, copies)))


def assert_same(
    layout: Layout, lists: Sequence[ReplicationList], arrivals: Sequence[Arrival], batch: int = 256
) -> Sent:
    """Assert that both engines do the same to a whole batch, and if not, tell with which frame it begins."""
    room = max(1 << 22, len(arrivals) << 11)
    sent = Compiled(layout, lists, batch=batch, room=room).forward_batch(arrivals)
    if sent != referred(Reference(layout, lists), arrivals, len(layout.ports)):
        compiled, reference = Compiled(layout, lists), Reference(layout, lists)
        for in_port, frame in arrivals:
            got, want = compiled.forward(in_port, frame), reference.forward(in_port, frame)
            assert got == want, f"port {in_port}, {frame.data.hex()}, {frame.mark}, {frame.vlan}"
        raise AssertionError(f"one by one the frames agree, {batch} at a time they do not")
    return sent

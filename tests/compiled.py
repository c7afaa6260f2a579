"""The compiled forwarder behind the face of the reference, so that cases and scenes run through both.

After every call the books are balanced: received = replicated + punted + dropped, copies wanted = copies
out + copies dropped, and each is the sum of what the ports, the egresses and the reasons say for themselves.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fastpath.compiler import egress_order, key_words
from fastpath.forwarder import Forwarder
from fastpath.model import Form, Frame, Layout, ReplicationList, Verdict
from fastpath.ports import MemoryPort
from fastpath.punts import Punts
from fastpath.reasons import REASONS, Unit
from fastpath.reference import Copy, Lesson, MacTable, Outcome, Reference
from tests.native._arrivals import Arrivals
from tests.native._outcome import classified

Arrival = tuple[int, Frame]
REMOTE = 1
MANY = 1_000_000_000


@dataclass(frozen=True)
class Sent:
    """What became of a batch: `copies` by out port in order; `reasons` of frames, `copy_drops` of copies.

    `lessons` are the different ones, in the order in which each was first told.
    """

    verdicts: Mapping[Verdict, int]
    reasons: Mapping[str, int]
    copy_drops: Mapping[str, int]
    copies: tuple[tuple[bytes, ...], ...]
    lessons: tuple[Lesson, ...] = ()
    unknown_unicast: int = 0


@dataclass(frozen=True)
class Count:
    """The counters of a forwarder at one time, or between two."""

    verdicts: Sequence[int]
    reasons: Sequence[int]
    received: Sequence[int]
    sent: Sequence[int]
    copies_out: int
    unknown_unicast: int
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
            self.unknown_unicast - before.unknown_unicast,
            [(a[0] - b[0], a[1] - b[1], a[2] - b[2]) for a, b in zip(self.egresses, known, strict=True)],
        )

    def of_unit(self, unit: Unit) -> dict[str, int]:
        """The reasons that struck, of one unit."""
        return {r.name: n for r, n in zip(REASONS, self.reasons, strict=True) if n and r.unit is unit}


class Compiled:
    """The compiled forwarder for one layout and its lists: frames in, mixed; copies out by memory ports.

    `trains` are the ports that take super-frames; `room` is that of each port, in bytes. Stepwise, the time
    is that of the frames, which is the only one that VM ports with a rate can be held against.
    """

    def __init__(
        self,
        layout: Layout,
        lists: Iterable[ReplicationList],
        *,
        batch: int = 256,
        trains: Container[int] = (),
        room: int = 1 << 22,
        macs: MacTable | None = None,
        stepwise: bool = False,
    ) -> None:
        self.lists = {key_words(one.key): one for one in lists}
        self.arrivals = Arrivals()
        self.ports = [MemoryPort(room, i in trains) for i in range(len(layout.ports))]
        self.macs = macs
        self.stepwise = stepwise or any(port.storm for port in layout.ports)
        self.forwarder = Forwarder(
            layout,
            self.ports,
            self.lists.values(),
            sources=[self.arrivals],
            batch=batch,
            punts=Punts(MANY, MANY, stepwise=True) if self.stepwise else None,
            max_macs=0 if macs is None else 2 * len(macs) + 64,
            max_vteps=0 if macs is None else len(macs) + 1,
        )
        for (vni, mac), egress in (macs or {}).items():
            is_local = egress.form is Form.DECAPSULATED
            station = egress.out_port if is_local else self.forwarder.vtep(egress)
            assert self.forwarder.macs.put(vni, mac, station)
        self._count = self._counted()

    def forward(self, in_port: int, frame: Frame) -> Outcome:
        """Take one frame in and say what becomes of it."""
        mark = None if frame.mark is None else (frame.mark.start, frame.mark.offset)
        fib = self.forwarder._compiler.fib
        learner = self.forwarder._workers[0].engine.learner
        _, _, words, flow, source_class = classified(fib, in_port, frame.data, mark, frame.vlan, learner)
        sent, count = self._run([(in_port, frame)])
        (verdict,) = sent.verdicts
        (reason,) = sent.reasons or (None,)
        (lesson,) = sent.lessons or (None,)
        unknown = bool(sent.unknown_unicast)
        if verdict is not Verdict.REPLICATE:
            return Outcome(verdict, reason, lesson=lesson, unknown_unicast=unknown)
        one = self.lists.get(words)
        key = None if one is None else one.key
        copies = self._by_egress(one, source_class == REMOTE, sent, count)
        return Outcome(verdict, reason, copies, dict(sent.copy_drops), key, flow, lesson, unknown)

    def seen(self) -> Mapping[tuple[int, bytes], int]:
        """What the entries say that were seen since they were put, at time 0."""
        if self.macs is None:
            return {}
        return {(vni, mac): seen for vni, mac, _, seen, _ in self.forwarder.macs.rows() if seen}

    def forward_batch(self, arrivals: Sequence[Arrival]) -> Sent:
        """Take frames in, as many at once as the forwarder's batch holds."""
        return self._run(arrivals)[0]

    def _by_egress(
        self, one: ReplicationList | None, remote: bool, sent: Sent, count: Count
    ) -> tuple[Copy, ...]:
        """The copies of one frame in list order, each with the egress that counted it; None is a station."""
        known = self.forwarder._compiler.egresses
        egresses = sorted(known if one is None else one.local, key=egress_order)
        if one is not None and not remote:
            egresses += sorted(one.remote, key=egress_order)
        counts = {egress: row[0] for egress, row in zip(known, count.egresses, strict=True)}
        left = [deque(copies) for copies in sent.copies]
        counted = [egress for egress in egresses if counts[egress]]
        copies = tuple(Copy(egress.out_port, left[egress.out_port].popleft(), egress) for egress in counted)
        assert not any(left), "copies that no egress of the list has counted"
        return copies

    def _run(self, arrivals: Sequence[Arrival]) -> tuple[Sent, Count]:
        for in_port, frame in arrivals:
            mark = None if frame.mark is None else (frame.mark.start, frame.mark.offset)
            self.arrivals.push(in_port, frame.data, mark, frame.vlan, frame.time_ns)
        came, told = 0, list[Lesson]()
        while came < len(arrivals) and (self.stepwise or came == 0):
            came += self.forwarder.run()
            self.forwarder.read_punted(1 << 20)
            told += self._learned()
        assert came == len(arrivals)
        before, self._count = self._count, self._counted()
        count = self._count.since(before)
        copies = tuple(tuple(port.take()) for port in self.ports)
        self._balance(arrivals, count, copies)
        verdicts = {
            verdict: count.verdicts[verdict.value] for verdict in Verdict if count.verdicts[verdict.value]
        }
        frames, copy_drops = count.of_unit(Unit.FRAME), count.of_unit(Unit.COPY)
        return Sent(verdicts, frames, copy_drops, copies, different(told), count.unknown_unicast), count

    def _learned(self) -> Iterable[Lesson]:
        """What waits for control, as the reference says it."""
        told = [] if self.macs is None else self.forwarder.read_learned(1 << 20)
        return (Lesson(one.vni, one.mac, one.in_port, one.sender, one.encap) for one in told)

    def _counted(self) -> Count:
        now = self.forwarder._workers[0].engine.counters(len(self.forwarder._compiler.egresses))
        return Count(
            now["verdicts"],
            now["drops"],
            now["port_received"],
            now["port_copies"],
            now["copies_out"],
            now["unknown_unicast"],
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
        assert not count.of_unit(Unit.RECORD)
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
    told: list[Lesson] = []
    unknown_unicast = 0
    for in_port, frame in arrivals:
        outcome = box.forward(in_port, frame)
        verdicts[outcome.verdict] += 1
        unknown_unicast += outcome.unknown_unicast
        if outcome.lesson is not None:
            told.append(outcome.lesson)
        if outcome.reason is not None:
            reasons[outcome.reason] += 1
        copy_drops.update(outcome.copy_drops)
        for copy in outcome.copies:
            copies[copy.out_port].append(copy.data)
    out = tuple(map(tuple, copies))
    return Sent(dict(verdicts), dict(reasons), dict(copy_drops), out, different(told), unknown_unicast)


def taught(lesson: Lesson) -> tuple[object, ...]:
    """What control is not told twice at once: where a VTEP's frame came in is no part of it (rule 6.4)."""
    place = lesson.in_port if lesson.sender is None else None
    return lesson.vni, lesson.mac, place, lesson.sender, lesson.encap


def different(lessons: Iterable[Lesson]) -> tuple[Lesson, ...]:
    """The first of each lesson."""
    firsts: dict[tuple[object, ...], Lesson] = {}
    for lesson in lessons:
        firsts.setdefault(taught(lesson), lesson)
    return tuple(firsts.values())


def one_by_one(
    layout: Layout, lists: Sequence[ReplicationList], arrivals: Sequence[Arrival], macs: MacTable | None
) -> Iterator[tuple[Arrival, Outcome, Outcome]]:
    """What both engines do to each frame; that a lesson is not told twice at once is no difference."""
    compiled, reference = (
        Compiled(layout, lists, macs=macs, stepwise=True),
        Reference(layout, lists, macs=macs),
    )
    told: set[object] = set()
    for arrival in arrivals:
        got, want = compiled.forward(*arrival), reference.forward(*arrival)
        if want.lesson is not None:
            if got.lesson is None and taught(want.lesson) in told:
                got = replace(got, lesson=want.lesson)
            told.add(taught(want.lesson))
        yield arrival, got, want


def assert_same(
    layout: Layout,
    lists: Sequence[ReplicationList],
    arrivals: Sequence[Arrival],
    batch: int = 256,
    *,
    macs: MacTable | None = None,
    stepwise: bool = False,
) -> Sent:
    """Assert that both engines do the same to a whole batch, and if not, tell with which frame it begins."""
    room = max(1 << 22, len(arrivals) << 11)
    compiled = Compiled(layout, lists, batch=batch, room=room, macs=macs, stepwise=stepwise)
    reference = Reference(layout, lists, macs=macs)
    sent = compiled.forward_batch(arrivals)
    wanted = referred(reference, arrivals, len(layout.ports))
    if compiled.stepwise:
        assert compiled.seen() == reference.seen
    if sent != wanted:
        for (in_port, frame), got, want in one_by_one(layout, lists, arrivals, macs):
            assert got == want, f"port {in_port}, {frame.data.hex()}, {frame.mark}, {frame.vlan}"
        raise AssertionError(f"one by one the frames agree, {batch} at a time they do not")
    return sent

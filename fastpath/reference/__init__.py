"""The slow, obvious replicator in plain Python: oracle of the tests, first competitor of the benchmarks.

It follows `src_cython/fastpath/README.md` rule by rule and shares no code with the compiled path: it
forwards by `fastpath.model` values directly and takes them for valid. The law of this package: one
function per rule, whose docstring names it. Where the two paths disagree, read the rule, then its function.

- `wire`: reading and summing bytes
- `inner`, `parse`: section 1, what a frame is
- `lookup`: section 2, which list it takes and who gets no copy
- `stations`: section 6, the MAC table of our own NVE
- `guards`: section 7, what a VM may send
- `snooping`: section 8, tenants' groups
- `copies`: sections 3 and 4, the bytes that leave
- `trail`: what each rule found, for whoever explains a frame's fate

One frame goes at a time, so there are no trains here: a train is right if its segments are the copies made
here, each with a full UDP checksum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fastpath.model import Egress, Encap, Frame, GroupKey, Layout, ReplicationList, Verdict
from fastpath.reference.copies import Copier, NextHops, settle
from fastpath.reference.guards import StormControl, guard
from fastpath.reference.lookup import Found, Lookup, egress_order
from fastpath.reference.parse import parse
from fastpath.reference.stations import MacTable
from fastpath.reference.trail import Lesson, Parsed, Trail
from fastpath.reference.wire import CopyDrop, Drop

__all__ = ["Copy", "Lesson", "MacTable", "Outcome", "Reference", "Trail", "egress_order"]


@dataclass(frozen=True, slots=True)
class Copy:
    """One frame that leaves."""

    out_port: int
    data: bytes
    egress: Egress


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one frame. `reason` is set for DROP, `flow` for REPLICATE, and `key` if it took a list.

    `lesson` is what it would teach, also of a frame that is dropped; `unknown_unicast` counts it as that.
    """

    verdict: Verdict
    reason: str | None = None
    copies: tuple[Copy, ...] = ()
    copy_drops: Mapping[str, int] = field(default_factory=dict)
    key: GroupKey | None = None
    flow: int = 0
    lesson: Lesson | None = None
    unknown_unicast: bool = False


class Reference:
    """A replicator for one layout and its lists. Its state: IPv4 identifications, counted per egress; what
    the ports of VMs have left of their rates, by the time of the frames; and `seen` (rule 6.3).

    Lists that are given by their keys are not copied, however many they are, nor is the MAC table: it may
    change between two frames. `next_hops` are those that somebody told (`Forwarder.resolve`).
    """

    def __init__(
        self,
        layout: Layout,
        lists: Iterable[ReplicationList] | Mapping[GroupKey, ReplicationList],
        next_hops: NextHops | None = None,
        macs: MacTable | None = None,
    ) -> None:
        self._layout = layout
        by_key = lists if isinstance(lists, Mapping) else {one.key: one for one in lists}
        self.lookup = Lookup(layout, by_key, macs)
        self._copier = Copier(layout, next_hops or {})
        self._storms = StormControl(layout)

    @property
    def seen(self) -> Mapping[tuple[int, bytes], int]:
        """(domain, MAC) -> when a frame came from where the table has it, in 1/16 s of the frames' time."""
        return self.lookup.stations.seen

    def forward(self, in_port: int, frame: Frame, trail: Trail | None = None) -> Outcome:
        """Take one frame in and say what becomes of it; a new `trail` is left with how."""
        trail = Trail() if trail is None else trail
        try:
            parsed = parse(frame, self._layout.ports[in_port], self._layout, trail)
            if parsed is None:
                return Outcome(Verdict.PUNT)
            if parsed.encap is Encap.RAW:
                guard(parsed.data, self._layout.ports[in_port])
            found = self.lookup.find(in_port, parsed, trail, frame.time_ns)
            if found is None:
                return Outcome(Verdict.PUNT, lesson=trail.lesson)
            if parsed.encap is Encap.RAW:
                self._storms.check(in_port, parsed.data, trail.unknown_unicast, frame.time_ns)
        except Drop as drop:
            unknown = trail.unknown_unicast
            return Outcome(Verdict.DROP, str(drop), lesson=trail.lesson, unknown_unicast=unknown)
        return self._replicated(parsed, found, trail)

    def _replicated(self, parsed: Parsed, found: Found, trail: Trail) -> Outcome:
        settled = trail.settled = settle(parsed, found, self._layout)
        copies: list[Copy] = []
        copy_drops: Counter[str] = Counter()
        for egress in found.egresses:
            try:
                data = self._copier.copy(settled, egress)
            except CopyDrop as drop:
                copy_drops[str(drop)] += 1
                trail.fates.append((egress, str(drop)))
            else:
                copies.append(Copy(egress.out_port, data, egress))
                trail.fates.append((egress, data))
        return Outcome(
            Verdict.REPLICATE,
            None,
            tuple(copies),
            dict(copy_drops),
            found.key,
            settled.flow,
            trail.lesson,
            trail.unknown_unicast,
        )

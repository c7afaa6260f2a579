"""The slow, obvious replicator in plain Python: oracle of the tests, first competitor of the benchmarks.

It follows `src_cython/fastpath/README.md` rule by rule and shares no code with the compiled path: it
forwards by `fastpath.model` values directly and takes them for valid. The law of this package: one
function per rule, whose docstring names it. Where the two paths disagree, read the rule, then its function.

- `wire`: reading and summing bytes
- `inner`, `parse`: section 1, what a frame is
- `lookup`: section 2, which list it takes and who gets no copy
- `copies`: sections 3 and 4, the bytes that leave

One frame goes at a time, so there are no trains here: a train is right if its segments are the copies made
here, each with a full UDP checksum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fastpath.model import Egress, Frame, GroupKey, Layout, ReplicationList, Verdict
from fastpath.reference.copies import Copier, settle
from fastpath.reference.lookup import Lookup, egress_order
from fastpath.reference.parse import parse
from fastpath.reference.wire import CopyDrop, Drop

__all__ = ["Copy", "Outcome", "Reference", "egress_order"]


@dataclass(frozen=True, slots=True)
class Copy:
    """One frame that leaves."""

    out_port: int
    data: bytes
    egress: Egress


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one frame. `reason` is set for DROP, `key` and `flow` for REPLICATE."""

    verdict: Verdict
    reason: str | None = None
    copies: tuple[Copy, ...] = ()
    copy_drops: Mapping[str, int] = field(default_factory=dict)
    key: GroupKey | None = None
    flow: int = 0


class Reference:
    """A replicator for one layout and its lists. Its only state: IPv4 identifications, counted per egress."""

    def __init__(self, layout: Layout, lists: Iterable[ReplicationList]) -> None:
        self._layout = layout
        self._lookup = Lookup(layout, lists)
        self._copier = Copier(layout)

    def forward(self, in_port: int, frame: Frame) -> Outcome:
        """Take one frame in and say what becomes of it."""
        try:
            parsed = parse(frame, self._layout.ports[in_port], self._layout)
            if parsed is None:
                return Outcome(Verdict.PUNT)
            found = self._lookup.find(in_port, parsed)
        except Drop as drop:
            return Outcome(Verdict.DROP, str(drop))
        settled = settle(parsed, found, self._layout)
        copies: list[Copy] = []
        copy_drops: Counter[str] = Counter()
        for egress in found.egresses:
            try:
                copies.append(Copy(egress.out_port, self._copier.copy(settled, egress), egress))
            except CopyDrop as drop:
                copy_drops[str(drop)] += 1
        return Outcome(Verdict.REPLICATE, None, tuple(copies), dict(copy_drops), found.key, settled.flow)

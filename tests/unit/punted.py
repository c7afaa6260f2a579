"""Boxes whose frames to punt are read, for the tests of punts and of steps."""

from __future__ import annotations

from fastpath import Forwarder, Punts, Statistics
from fastpath.reasons import Unit
from tests import frames as f
from tests.cases import box as b
from tests.compiled import Arrival
from tests.native._arrivals import Arrivals
from tests.unit.test_forwarder import memory_ports

REPORT = f.wire(f.igmp(b.VTEP, "224.0.0.22"))
REPORT6 = f.wire(f.mld("fe80::2", "ff02::16"))
SECOND = 1_000_000_000


def source(*arrivals: Arrival) -> Arrivals:
    out = Arrivals()
    for in_port, frame in arrivals:
        mark = None if frame.mark is None else (frame.mark.start, frame.mark.offset)
        out.push(in_port, frame.data, mark, frame.vlan, frame.time_ns)
    return out


PUNTS, STEPWISE = Punts(), Punts(stepwise=True)


def forwarder_of(*arrivals: Arrival, punts: Punts | None = PUNTS, batch: int = 256) -> Forwarder:
    return Forwarder(b.BOX, memory_ports(), b.LISTS, sources=[source(*arrivals)], batch=batch, punts=punts)


def balanced(forwarder: Forwarder, received: int) -> Statistics:
    counted = forwarder.statistics()
    assert counted.received == received == counted.replicated + counted.punted + counted.dropped
    assert counted.dropped == sum(row.count for row in counted.drops if row.reason.unit is Unit.FRAME)
    return counted

"""Storm control in a box that lives: its clock, its workers, its layouts.

What it drops, `test_nve_frames` says for both engines.
"""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from fastpath.forwarder import Forwarder
from fastpath.model import Frame, Layout, Rate, Storm
from fastpath.ports import MemoryPort
from fastpath.punts import Punts
from tests import frames as f
from tests.cases import box as b

ALL = f.tenant(dst_mac=b"\xff" * 6)
LISTS = (b.of_number(b.NVE, b.VNI, b.at_vm(b.VM_GREEN)),)
MILLION = 1_000_000


def stormy(broadcast: Rate | None, multicast: Rate | None = None) -> Layout:
    """EDGE, its VM_BLUE with rates."""
    port = replace(b.PORTS[b.VM_BLUE], storm=Storm(broadcast, multicast))
    return replace(b.EDGE, ports=(*b.PORTS[: b.VM_BLUE], port, *b.PORTS[b.VM_BLUE + 1 :]))


class Box:
    """A forwarder on memory ports, with a clock of its own where it goes by frames' time."""

    def __init__(self, layout: Layout, n_workers: int = 1, stepwise: bool = False) -> None:
        self.ports = [[MemoryPort(1 << 20) for _ in b.PORTS] for _ in range(n_workers)]
        punts = Punts(stepwise=True) if stepwise else None
        self.forwarder = Forwarder(layout, self.ports[0], LISTS, more_workers=self.ports[1:], punts=punts)

    def passed(self, n_frames: int, data: bytes = ALL, at_ns: int = 0) -> int:
        """How many of so many frames of VM_BLUE are not dropped."""
        before = self.forwarder.statistics().replicated
        self.ports[0][b.VM_BLUE].receive(*[Frame(data, time_ns=at_ns)] * n_frames)
        self.forwarder.run()
        return self.forwarder.statistics().replicated - before


def test_a_burst_passes_and_no_more_however_frames_are_batched() -> None:
    box = Box(stormy(Rate(1, 700)))
    assert [box.passed(300) for _ in range(4)] == [300, 300, 100, 0]
    counted = box.forwarder.statistics()
    assert {row.reason.name: row.count for row in counted.drops} == {"storm_broadcast": 500}
    assert counted.received == counted.replicated + counted.dropped
    assert len(box.ports[0][b.VM_GREEN].take()) == 700


def test_the_clock_of_a_box_that_lives_is_its_own() -> None:
    """Frames' times are what their senders' kernel, or a capture, says."""
    box = Box(stormy(Rate(1, 1)))
    assert [box.passed(1, at_ns=at * 10**9) for at in (1, 1000, 2000)] == [1, 0, 0]
    box = Box(stormy(Rate(100_000, 1)))
    end = time.monotonic() + 60
    assert box.passed(1) == 1
    while not box.passed(1):
        assert time.monotonic() < end


def test_workers_divide_a_rate() -> None:
    box = Box(stormy(Rate(3, 7)), n_workers=3)
    assert box.passed(10) == 2
    box = Box(stormy(Rate(1, 1)), n_workers=3)
    assert [box.passed(10), box.passed(10)] == [1, 0]


def test_a_new_layout_leaves_the_credit_as_it_is_but_for_what_exceeds_the_new_burst() -> None:
    box = Box(stormy(Rate(1, 100)), stepwise=True)
    assert box.passed(40) == 40
    box.forwarder.relayout(stormy(Rate(1, 200)), ())
    assert box.passed(100) == 60
    box.forwarder.relayout(stormy(Rate(10, 50)), ())
    assert box.passed(100, at_ns=2 * 10**9) == 20
    box.forwarder.relayout(stormy(Rate(10, 500)), ())
    assert box.passed(600, at_ns=10 * 10**9) == 80
    box.forwarder.relayout(stormy(Rate(10, 5)), ())
    assert box.passed(100, at_ns=20 * 10**9) == 5


def test_a_rate_that_comes_begins_with_its_burst_and_one_that_goes_lets_all_pass() -> None:
    box = Box(stormy(Rate(1, 5)), stepwise=True)
    group = f.tenant()
    assert [box.passed(10), box.passed(10, group)] == [5, 10]
    box.forwarder.relayout(stormy(None, Rate(1, 7)), ())
    assert [box.passed(10), box.passed(10, group)] == [10, 7]
    box.forwarder.relayout(stormy(Rate(1, 5)), ())
    assert [box.passed(10), box.passed(10, group)] == [5, 10]
    box.forwarder.relayout(b.EDGE, ())
    assert [box.passed(10), box.passed(10, group)] == [10, 10]


@pytest.mark.parametrize("rate", [Rate(0, 1), Rate(1, 0), Rate(MILLION * 1001, 1), Rate(1, MILLION * 1001)])
def test_a_rate_beyond_what_is_counted_is_refused(rate: Rate) -> None:
    with pytest.raises(ValueError, match=f"port p5: {rate.pps} frames a second, {rate.burst} at once"):
        Box(stormy(rate))
    Box(stormy(Rate(MILLION * 1000, MILLION * 1000))).passed(10)

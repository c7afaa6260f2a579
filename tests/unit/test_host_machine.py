"""Hosts and a router on one wire that loses and delays: in the end it knows what they want.

The router side is the oracle: it was held against the kernel's vectors, and shares nothing with the host side
but the codecs, which all frames go through here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush
from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ctrl import punt
from ctrl.protocols import igmp, mld
from ctrl.protocols.host import HostSide
from ctrl.protocols.messages import Query, Report
from ctrl.protocols.router import Router
from ctrl.protocols.state import ALL, Bounds, Filter, Host, Room, Timers

GROUPS = {32: 0xEF000000, 128: 0xFF05 << 112}
SOURCES = {32: 0x0A000000, 128: 0xFE80 << 112}
GONE_S = 2 * 125.0 + 10.0
ROUTER, OTHER = bytes((2, 0, 0, 0, 0, 1)), bytes((2, 0, 0, 0, 0, 9))
MTU = 576
"""So that reports of many groups are several."""


class Wire:
    """`hosts` and `router` with frames on their way between them."""

    def __init__(self, bits: int, n_hosts: int, delay_s: float = 0.05, seed: int = 1) -> None:
        self.at_s = 0.0
        self.bits, self.delay_s, self.loss = bits, delay_s, 0.0
        self.codec: Any = igmp if bits == 32 else mld
        self.random = Random(seed)
        self.router = Router(bits, SOURCES[bits] + 1, Timers(), Bounds(), Room(), self._refuse, 0.0)
        self.whose: list[Host] = [
            (bytes((2, 0, 0, 0, 0, 10 + n)), SOURCES[bits] + 10 + n) for n in range(n_hosts)
        ]
        self.hosts = [HostSide(Timers(), self.random.random) for _ in self.whose]
        self._sides: list[Router | HostSide] = [self.router, *self.hosts]
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._n_events = 0
        self.n_reports = 0

    @staticmethod
    def _refuse(name: str, host: Host, group: int) -> None:
        raise AssertionError(f"{name}: {host} {group}")

    def want(self, n: int, group: int, wants: Filter | None) -> None:
        self.hosts[n].want(GROUPS[self.bits] + group, wants, self.at_s)
        self.run()

    def older(self, version: int) -> None:
        """Have another querier ask, from an address that wins no election."""
        query = Query(version, response_s=10.0)
        frame = self.codec.query_frame(query, OTHER, SOURCES[self.bits] + 200)
        self._to_hosts(frame)
        self.run()

    def run(self, for_s: float = 0.0) -> None:
        """Let the time go on, each deadline and each frame on time."""
        until_s = self.at_s + for_s
        while True:
            self._settle()
            due = [one for side in self._sides if (one := side.deadline_s) is not None]
            due += [self._events[0][0]] if self._events else []
            if min(due, default=until_s + 1.0) > until_s:
                break
            self.at_s = max(self.at_s, min(due))
            while self._events and self._events[0][0] <= self.at_s:
                heappop(self._events)[2]()
            for side in self._sides:
                side.poll(self.at_s)
        self.at_s = until_s

    def _settle(self) -> None:
        for query in self.router.take_queries():
            for part in self.codec.split(query, MTU):
                self._to_hosts(self.codec.query_frame(part, ROUTER, SOURCES[self.bits] + 1))
        for host, whose in zip(self.hosts, self.whose, strict=True):
            for report in host.take_reports():
                for said in self.codec.split_report(report, MTU):
                    frame = self.codec.report_frame(said, *whose)
                    assert len(frame) <= 14 + MTU
                    self.n_reports += 1
                    self._send(partial(self._arrives_at_the_router, frame))

    def _to_hosts(self, frame: bytes) -> None:
        for host in self.hosts:
            self._send(partial(self._arrives_at, host, frame))

    def _send(self, arrives: Callable[[], None]) -> None:
        if self.random.random() >= self.loss:
            self._n_events += 1
            delay_s = self.delay_s * self.random.random()
            heappush(self._events, (self.at_s + delay_s, self._n_events, arrives))

    def _arrives_at_the_router(self, frame: bytes) -> None:
        heard = punt.read(frame, strict_headers=True)
        assert isinstance(heard, punt.Heard)
        assert isinstance(heard.message, Report)
        self.router.hear(heard.message, (heard.mac, heard.source), self.at_s)

    def _arrives_at(self, host: HostSide, frame: bytes) -> None:
        heard = punt.read(frame, strict_headers=True)
        assert isinstance(heard, punt.Heard)
        assert isinstance(heard.message, Query)
        host.hear(heard.message, self.at_s)

    @property
    def wanted(self) -> dict[tuple[Host, int], Filter]:
        return {
            (whose, group): wants
            for host, whose in zip(self.hosts, self.whose, strict=True)
            for group, wants in host._groups.items()
        }

    @property
    def known(self) -> dict[tuple[Host, int], Filter]:
        return {(one.host, one.group): one.wants for one in self.router.members(self.at_s)}


filters = st.one_of(
    st.none(),
    st.just(ALL),
    st.builds(Filter, st.booleans(), st.frozensets(st.integers(1, 5), max_size=3)),
)


class Machine(RuleBasedStateMachine):
    @initialize(bits=st.sampled_from([32, 128]), seed=st.integers(0, 2**32))
    def begin(self, bits: int, seed: int) -> None:
        self.wire = Wire(bits, 3, seed=seed)
        self.closed: set[int] = set()

    @rule(n=st.integers(0, 2), group=st.integers(1, 4), wants=filters)
    def want(self, n: int, group: int, wants: Filter | None) -> None:
        self.wire.want(n, group, wants)

    @rule(for_s=st.sampled_from([0.0, 0.03, 0.3, 1.0, 3.0, 40.0, 300.0]))
    def wait(self, for_s: float) -> None:
        self.wire.run(for_s)

    @rule(loss=st.sampled_from([0.0, 0.3, 1.0]), delay_s=st.sampled_from([0.0, 0.05, 0.4]))
    def be_worse(self, loss: float, delay_s: float) -> None:
        self.wire.loss, self.wire.delay_s = loss, delay_s

    @rule(version=st.sampled_from([1, 2]))
    def hear_an_older_querier(self, version: int) -> None:
        self.wire.older(2 if self.wire.bits == 128 else version)

    @rule(n=st.integers(0, 2))
    def lose_the_link_or_find_it(self, n: int) -> None:
        host = self.wire.hosts[n]
        if n in self.closed:
            self.closed.discard(n)
            host.restart(self.wire.at_s)
        else:
            self.closed.add(n)
            host.close()
        self.wire.run()

    @invariant()
    def what_is_kept_is_no_more_than_what_is_wanted(self) -> None:
        for host in self.wire.hosts if hasattr(self, "wire") else ():
            assert host._asked.keys() <= host._groups.keys()
            assert all(host._sayings.values())
            assert len(host._heap) <= 2 * len(host._groups) + 64 + 1
            assert host._n_owed <= 4

    def teardown(self) -> None:
        """With the loss, all doubt goes, once older queriers are forgotten and timers have run out."""
        if not hasattr(self, "wire"):
            return
        wire = self.wire
        wire.loss, wire.delay_s = 0.0, 0.05
        for n in self.closed:
            wire.hosts[n].restart(wire.at_s)
        wire.run(5 * GONE_S)  # the host's older mode, then the router's, then timers of sources
        assert wire.known == wire.wanted


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("bits", [32, 128])
@pytest.mark.parametrize("version", [2, 3])
def test_a_router_knows_of_joins_at_once_and_of_leaves_within_the_last_member_time(bits, version):
    """N3-N6."""
    wire = Wire(bits, 2)
    if version == 2:
        wire.older(2)
        wire.run(1.0)
    wire.want(0, 1, ALL)
    wire.want(1, 1, ALL)
    wire.run(0.05)
    assert wire.known == wire.wanted != {}
    wire.run(20.0)
    wire.want(0, 1, None)
    wire.run(2.0 + 0.05)
    assert wire.known == wire.wanted  # the other one answered for itself
    assert len(wire.known) == 1


@pytest.mark.parametrize(("bits", "n_reports"), [(32, 5), (128, 20)])
def test_a_round_of_queries_is_answered_with_few_reports_and_changes_nothing(bits, n_reports):
    """N7."""
    wire = Wire(bits, 1)
    wire.run(30.0)
    for group in range(300):
        wire.hosts[0].want(GROUPS[bits] + group, ALL, wire.at_s)
    wire.run(20.0)
    assert len(wire.known) == 300
    wire.router.take_changes()
    wire.n_reports = 0
    wire.run(125.0)
    assert 0 < wire.n_reports <= n_reports
    assert wire.router.take_changes() == []


@pytest.mark.parametrize("bits", [32, 128])
def test_a_join_outlives_the_loss_of_its_first_report(bits):
    wire = Wire(bits, 1)
    wire.run(30.0)
    wire.loss = 1.0
    wire.want(0, 1, ALL)
    wire.loss = 0.0
    wire.run(1.1)
    assert wire.known == wire.wanted != {}

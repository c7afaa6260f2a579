"""The router-side table (RFC 9776 section 6.4, RFC 9777 section 7.4), each cell, against set algebra."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain, combinations
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctrl.protocols.messages import Kind, Query
from ctrl.protocols.state import ALL, Bounds, Timers
from tests.unit.routed import (
    ALLOW,
    BLOCK,
    IS_EX,
    IS_IN,
    LOW,
    TO_EX,
    TO_IN,
    A,
    B,
    G,
    Port,
)

GMI_S = 260.0
LMQT_S = 2.0
Asked = set[int | None]


@dataclass
class Oracle:
    """One host's state by the words of the table: timers are absolute, `group_s` None is INCLUDE."""

    running: dict[int, float] = field(default_factory=dict)
    blocked: set[int] = field(default_factory=set)
    group_s: float | None = None
    asked: Asked = field(default_factory=set)

    def hear(self, kind: Kind, named: set[int], now_s: float) -> None:
        x, y, b = set(self.running), self.blocked, named
        full_s = now_s + GMI_S
        self.asked = set()
        if self.group_s is None:
            match kind:
                case Kind.IS_IN | Kind.ALLOW:
                    self._run(b, full_s)
                case Kind.IS_EX | Kind.TO_EX:
                    self._become(x & b, b - x, full_s)
                    self.asked = set(x & b) if kind is TO_EX else set()
                case Kind.BLOCK:
                    self.asked = set(x & b)
                case Kind.TO_IN:
                    self._run(b, full_s)
                    self.asked = set(x - b)
        else:
            match kind:
                case Kind.IS_IN | Kind.ALLOW:
                    self._run(b, full_s)
                case Kind.IS_EX:
                    self._run(b - x - y, full_s)
                    self._become(b - y, y & b, full_s)
                case Kind.BLOCK:
                    self._run(b - x - y, self.group_s)
                    self.asked = set(b - y)
                case Kind.TO_EX:
                    self._run(b - x - y, self.group_s)
                    self._become(b - y, y & b, full_s)
                    self.asked = set(b - y)
                case Kind.TO_IN:
                    self._run(b, full_s)
                    self.asked = {None, *(x - b)}
        for key in self.asked:  # section 6.6.3: a query that is sent lowers what it asks for
            if key is None:
                assert self.group_s is not None
                self.group_s = min(self.group_s, now_s + LMQT_S)
            else:
                self.running[key] = min(self.running[key], now_s + LMQT_S)

    def _run(self, sources: set[int], until_s: float) -> None:
        self.running |= dict.fromkeys(sources, until_s)
        self.blocked = self.blocked - sources

    def _become(self, running: set[int], blocked: set[int], group_s: float) -> None:
        self.running = {source: self.running[source] for source in running}
        self.blocked, self.group_s = blocked, group_s

    def wait(self, now_s: float) -> None:
        """Sections 6.3 and 6.5. The group timer goes first where both run out at once."""
        moments = sorted({t for t in (*self.running.values(), self.group_s or inf) if t <= now_s})
        for moment_s in moments:
            if self.group_s is not None and self.group_s <= moment_s:
                self.group_s, self.blocked = None, set()
            gone = {source for source, timer_s in self.running.items() if timer_s <= moment_s}
            self.running = {s: timer_s for s, timer_s in self.running.items() if s not in gone}
            if self.group_s is not None:
                self.blocked = self.blocked | gone

    def state(self) -> tuple[str, set[int], set[int]] | None:
        if self.group_s is not None:
            return "EXCLUDE", set(self.running), set(self.blocked)
        return ("INCLUDE", set(self.running), set()) if self.running else None


def subsets(of: Iterable[int]) -> list[tuple[int, ...]]:
    items = list(of)
    return list(chain.from_iterable(combinations(items, n) for n in range(len(items) + 1)))


INCLUDE_SETS = ((1,), (1, 2, 3))
EXCLUDE_STEPS = (
    ((IS_EX, ()),),
    ((IS_EX, (1, 2)),),
    ((IS_EX, ()), (ALLOW, (1, 2))),
    ((IS_EX, (3, 4)), (ALLOW, (1, 3))),
)
"""EXCLUDE (X, Y): both empty, Y alone, X alone, and ({1, 3}, {4})."""


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize(
    "before",
    [*(((IS_IN, named),) for named in INCLUDE_SETS), *EXCLUDE_STEPS],
    ids=lambda steps: " ".join(f"{kind.name}{named}" for kind, named in steps),
)
def test_each_cell_of_the_table_with_each_set_that_a_record_may_name(
    before: tuple[tuple[Kind, tuple[int, ...]], ...], kind: Kind
) -> None:
    """Set by set, what is asked for, and what each timer is set to: seen from how all of it runs out."""
    for named in subsets((1, 2, 3, 4, 5)):
        port, oracle = Port(timers=Timers(query_interval_s=125.0)), Oracle()
        for step, sources in (*before, (kind, named)):
            port.at_s += 10.0
            port.say(step, *sources)
            oracle.hear(step, set(sources), port.at_s)
            assert port.state() == oracle.state()
        asked = {s for _, sources, _ in port.asked(port.at_s) for s in (sources or (None,))}
        assert asked == oracle.asked
        listener = port.router._groups[G].listeners[A] if port.wants else None
        if listener is not None:
            timers = {s: timer_s for s, timer_s in listener.sources.items() if timer_s}
            assert timers == oracle.running
            assert (listener.timer_s if listener.is_exclude else None) == oracle.group_s


steps = st.lists(
    st.tuples(
        st.sampled_from(list(Kind)),
        st.sets(st.integers(1, 5), max_size=4),
        st.sampled_from([0.0, 0.5, 1.0, 2.5, 60.0, 125.0, 200.0, 259.0]),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=500, deadline=None)
@given(steps)
def test_any_sequence_of_reports_and_waits_is_as_the_oracle_says(
    sequence: list[tuple[Kind, set[int], float]],
) -> None:
    """With nobody asking of itself: a router that asks for the silent would not wait for timers (D6)."""
    port, oracle = Port(timers=Timers(query_interval_s=125.0)), Oracle()
    port.router._ask_the_silent = lambda now_s: setattr(port.router, "_silence_s", inf)  # type: ignore[method-assign]
    for kind, named, wait_s in sequence:
        port.say(kind, *named)
        oracle.hear(kind, named, port.at_s)
        assert port.state() == oracle.state()
        port.run(wait_s)
        oracle.wait(port.at_s)
        assert port.state() == oracle.state()


@pytest.mark.parametrize("kind", [BLOCK, TO_EX])
def test_a_blocked_source_that_we_are_not_to_ask_for_runs_as_long_as_the_group(kind: Kind) -> None:
    """The table's (A-X-Y) = Group Timer."""
    port = Port()
    port.hear(Query(3, interval_s=200.0, robustness=2), LOW)
    port.say(IS_EX)
    port.run(100.0)
    port.say(kind, 5)
    if kind is BLOCK:
        port.say(IS_EX, 5)
    port.run(309.9)
    assert port.state() == ("EXCLUDE", {5}, set())
    port.run(0.1)
    assert port.state() == ("EXCLUDE", set(), {5})


def test_nothing_is_told_of_a_mere_refresh() -> None:
    """D1: a repeated join changes nothing. D6: an answer that says the same: nothing is sent."""
    port = Port()
    for _ in range(3):
        port.say(TO_EX)
        port.say(IS_EX)
        port.say(IS_IN, 1, 2, whose=B)
        port.at_s += 5.0
    assert [(host, group, wants) for _, host, group, wants in port.changes if host == A] == [(A, G, ALL)]
    assert len(port.changes) == 2


def test_every_host_has_a_state_of_its_own() -> None:
    """D2: first information is of all NVEs; what one host blocks, another still gets."""
    port = Port()
    port.say(IS_IN, 1, 2, whose=A)
    port.say(TO_EX, 2, whose=B)
    port.say(BLOCK, 1, whose=A)
    port.run(3.0)
    assert port.state(A) == ("INCLUDE", {2}, set())
    assert port.state(B) == ("EXCLUDE", set(), {2})


@pytest.mark.parametrize("kind", [IS_IN, ALLOW, TO_IN, BLOCK])
def test_a_record_that_joins_nothing_stores_nothing(kind: Kind) -> None:
    port = Port()
    port.say(kind)
    port.say(BLOCK, 1, 2)
    assert not port.changes
    assert port.router.n_groups == port.room.n_groups == 0


def test_a_source_beyond_the_bound_is_refused_and_the_rest_of_the_record_taken() -> None:
    port = Port(bounds=Bounds(max_sources_per_group=3))
    port.say(IS_IN, 1, 2)
    port.say(ALLOW, 2, 3, 4, 5)
    assert port.state() == ("INCLUDE", {1, 2, 3}, set())
    assert port.refused == [("sources_full", A, G)] * 2
    port.say(IS_EX, 6, 7, 8, 9, whose=B)
    port.say(BLOCK, 9, whose=B)
    assert port.state(B) == ("EXCLUDE", set(), {6, 7, 8})
    assert port.refused[2:] == [("sources_full", B, G)] * 2

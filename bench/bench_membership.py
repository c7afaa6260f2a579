"""The router side of IGMP: two hours of a thousand NVEs on a fake clock, and what a member costs.

Each NVE answers every general query, somewhere in the response time, with one report of a hundred records, as
Linux does. Nothing is raced: the target is the clock's own.
"""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections.abc import Callable
from heapq import heappop, heappush

import pytest

from bench.conftest import Race, now_ns
from bench.figures import Sample, Target
from ctrl.protocols import igmp
from ctrl.protocols.messages import Kind, Query, Record, Report
from ctrl.protocols.router import Router
from ctrl.protocols.state import ALL, Bounds, Host, Refuse, Room, Timers

N_PORTS = 64
N_NVES = 1000
N_GROUPS = 100
FIRST_GROUP = 0xEF010100
HOURS_S = 2 * 3600.0
OURS = 0x0A000001
Read = Callable[[], Query | Report]


def nve(n: int) -> Host:
    return (b"\x02\x00" + n.to_bytes(4, "big"), 0x0A010000 + n)


def never(name: str, host: Host, group: int) -> None:
    raise AssertionError(name)


def router(room: Room, refuse: Refuse = never, bounds: Bounds | None = None) -> Router:
    return Router(32, OURS, Timers(), bounds or Bounds(), room, refuse, 0.0)


def two_hours(join: Read, answer: Read) -> tuple[int, int, int]:
    """Run them: (members at the end, changes, records heard)."""
    chance = random.Random(4)
    room = Room()
    routers = [router(room) for _ in range(N_PORTS)]
    events: list[tuple[float, int, int]] = [
        (chance.uniform(0.0, 60.0), n % N_PORTS, n) for n in range(N_NVES)
    ]
    """(time, port, NVE that reports, or -1 for a poll)."""
    events += [(0.0, port, -1) for port in range(N_PORTS)]
    events.sort()
    nves = [nve(n) for n in range(N_NVES)]
    has_joined = [False] * N_NVES
    n_changes = n_records = 0
    while events and events[0][0] <= HOURS_S:
        now_s, port, n = heappop(events)
        one = routers[port]
        if n < 0:
            one.poll(now_s)
            deadline_s = one.deadline_s
            assert deadline_s is not None
            heappush(events, (deadline_s, port, -1))
            for query in one.take_queries():
                assert query.group == 0
                for at in range(port, N_NVES, N_PORTS):
                    if has_joined[at]:
                        heappush(events, (now_s + chance.uniform(0.0, query.response_s), port, at))
        else:
            one.hear(answer() if has_joined[n] else join(), nves[n], now_s)
            has_joined[n] = True
            n_records += N_GROUPS
        n_changes += len(one.take_changes())
    assert room.n_groups == N_GROUPS
    return sum(one.n_members for one in routers), n_changes, n_records


def report(kind: Kind, groups: range) -> Report:
    return Report(3, tuple(Record(kind, group) for group in groups))


@pytest.mark.parametrize("given", ["values", "bytes"])
def test_two_hours_of_a_thousand_nves(race: Race, given: str) -> None:
    groups = range(FIRST_GROUP, FIRST_GROUP + N_GROUPS)
    messages = report(Kind.TO_EX, groups), report(Kind.IS_EX, groups)
    wires = [igmp.report(message) for message in messages]
    readers: dict[str, list[Read]] = {
        "values": [lambda: messages[0], lambda: messages[1]],
        "bytes": [lambda: igmp.read(wires[0]), lambda: igmp.read(wires[1])],
    }
    begin = now_ns()
    n_members, n_changes, n_records = two_hours(*readers[given])
    seconds = (now_ns() - begin) / 1e9
    assert n_members == n_changes == N_NVES * N_GROUPS
    assert n_records > 55 * N_NVES * N_GROUPS
    race.benchmark.pedantic(lambda: None)
    parameters = {"nves": N_NVES, "groups": N_GROUPS, "ports": N_PORTS, "given": given}
    race.book("router, 2 h", parameters, Sample.of([seconds]), unit="s", target=Target(60))


def filled(n_nves: int, n_groups: int) -> Router:
    """A port with all of them in all groups, after some answers."""
    one = router(Room(), bounds=Bounds(max_groups_per_port=n_groups, max_members_per_port=n_nves * n_groups))
    one.poll(0.0)
    for at, kind in enumerate((Kind.TO_EX, Kind.IS_EX, Kind.IS_EX)):
        for n in range(n_nves):
            for first in range(0, n_groups, N_GROUPS):
                groups = range(FIRST_GROUP + first, FIRST_GROUP + first + N_GROUPS)
                one.hear(report(kind, groups), nve(n), at + n * 1e-3 + first * 1e-8)
    changes = one.take_changes()
    assert len(changes) == n_nves * n_groups
    assert {change.wants for change in changes} == {ALL}
    one.take_queries()
    return one


@pytest.mark.parametrize(("n_nves", "n_groups"), [(16, 6400), (1, 100_000)])
def test_memory_a_member(race: Race, n_nves: int, n_groups: int) -> None:
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    one = filled(n_nves, n_groups)
    gc.collect()
    n_bytes = (tracemalloc.get_traced_memory()[0] - before) / one.n_members
    tracemalloc.stop()
    race.benchmark.pedantic(lambda: None)
    parameters = {"nves": n_nves, "groups": n_groups}
    race.book("router, memory", parameters, Sample.of([n_bytes]), unit="B/member", target=Target(700))


@pytest.mark.parametrize("what", ["join", "refresh"])
def test_a_record(race: Race, what: str) -> None:
    """Of a hundred groups that 16 NVEs at a port are in or come into."""
    groups = range(FIRST_GROUP, FIRST_GROUP + N_GROUPS)
    nves = [nve(n) for n in range(16)]
    join, answer = report(Kind.TO_EX, groups), report(Kind.IS_EX, groups)
    state = {"router": filled(16, N_GROUPS)}

    def start() -> None:
        state["router"] = router(Room())
        state["router"].poll(0.0)

    def hear(message: Report) -> None:
        one = state["router"]
        for host in nves:
            one.hear(message, host, 3.0)
        one.take_changes()

    if what == "join":
        rounds = race(lambda: hear(join), per=16 * N_GROUPS, between=start, least=50)
    else:
        rounds = race(lambda: hear(answer), per=16 * N_GROUPS)
    limit = {"join": 6000.0, "refresh": 2000.0}[what]
    race.book(f"router, {what}", {"nves": 16}, rounds.ours, unit="ns/record", target=Target(limit))

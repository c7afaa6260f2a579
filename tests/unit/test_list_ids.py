"""Where the frames of each list are counted: places are given back, and counted from 0 when used again."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath import Forwarder, MemoryPort
from fastpath.compiler import Compiler
from fastpath.model import Egress, Form, GroupKey, Owner, ReplicationList, Scope, group_key
from tests import frames as f
from tests.cases import box as b
from tests.cases import made as m
from tests.unit.test_forwarder import memory_ports


def group(number: int) -> IPv4Address:
    return IPv4Address(0xEF010000 + number)


def key(number: int) -> GroupKey:
    return group_key(Scope.DEVICE, group(number))


def lists(numbers: Iterable[int], port: int = b.P0) -> list[ReplicationList]:
    return [ReplicationList(key(n), (b.at_port(port),)) for n in numbers]


def frame(number: int) -> bytes:
    return f.wire(f.vxlan_packet(m.TENANT, b.VTEP, str(group(number)), b.VNI))


class Box:
    def __init__(self, n_workers: int = 1) -> None:
        self.workers = [memory_ports() for _ in range(n_workers)]
        self.forwarder = Forwarder(b.BARE, self.workers[0], more_workers=self.workers[1:])

    def forward(self, *numbers: int) -> None:
        """Each worker gets them all."""
        for ports in self.workers:
            ports[b.P1].receive(*map(frame, numbers))
        self.forwarder.run()

    def counts(self) -> dict[GroupKey, int]:
        return {row.key: row.frames for row in self.forwarder.statistics().lists}

    def places(self) -> dict[GroupKey, int]:
        return dict(self.forwarder._compiler.list_places)


def test_a_place_is_used_again_by_a_later_change_and_counts_from_0():
    box = Box(n_workers=2)
    box.forwarder.publish(lists([1, 2]))
    box.forward(1, 1, 1, 2)
    box.forwarder.publish(lists([3]), [key(1)])
    assert box.counts() == {key(2): 2, key(3): 0}
    assert box.places() == {key(2): 2, key(3): 3}, "the FIB before still counts for 1 at its place"
    box.forward(1, 3)
    box.forwarder.publish(lists([4]))
    assert box.places() == {key(2): 2, key(3): 3, key(4): 1}
    assert box.counts() == {key(2): 2, key(3): 2, key(4): 0}
    box.forward(4, 4, 2)
    assert box.counts() == {key(2): 4, key(3): 2, key(4): 4}


def test_a_list_that_is_set_anew_counts_on_and_one_that_comes_back_does_not():
    box = Box()
    box.forwarder.publish(lists([1, 2]))
    box.forward(1, 2)
    box.forwarder.publish(lists([1], b.CORE), [key(1)])
    box.forwarder.publish((), [key(2)])
    box.forward(1, 2)
    box.forwarder.publish(lists([2]))
    assert box.counts() == {key(1): 2, key(2): 0}


def test_a_change_that_is_refused_changes_nothing():
    box = Box()
    box.forwarder.publish(lists([1]))
    box.forwarder.publish((), [key(1)])
    twice = ReplicationList(key(9), (b.at_port(b.P0), b.at_port(b.P0)))
    for _ in range(3):
        with pytest.raises(ValueError, match="stands in the list twice"):
            box.forwarder.publish([*lists([2, 3]), twice])
    assert box.counts() == {}
    box.forwarder.publish(lists([4, 5]))
    assert box.places() == {key(4): 1, key(5): 2}


def test_removing_what_is_not_there_gives_nothing_back():
    box = Box()
    box.forwarder.publish(lists([1]), [key(7), key(7)])
    box.forwarder.publish((), [key(1), key(1)])
    box.forwarder.publish((), [key(1)])
    box.forwarder.publish(lists([2, 3]))
    assert box.places() == {key(2): 1, key(3): 2}


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sets(st.integers(0, 6)), st.sets(st.integers(0, 6)), st.sets(st.integers(0, 6))))
)
def test_every_list_counts_its_own_frames_and_no_others(steps):
    box, want = Box(), dict[int, int]()
    most = 0
    for wanted, unwanted, frames in steps:
        box.forwarder.publish(lists(sorted(wanted)), map(key, sorted(unwanted)))
        want = {n: want.get(n, 0) for n in {*want, *wanted} if n in wanted or n not in unwanted}
        most = max(most, len(want))
        box.forward(*sorted(frames))
        for n in frames & want.keys():
            want[n] += 1
        assert box.counts() == {key(n): count for n, count in want.items()}
        places = box.places().values()
        assert len(set(places)) == len(places)
    # twice: what a change gives back waits for the next one
    assert box.forwarder._compiler.n_places <= 2 * most


def churn(n_groups: int, at_once: int) -> Compiler:
    """Let very many groups come and go, never more than `at_once` of them there."""
    compiler = Compiler(b.BARE)
    before: list[GroupKey] = []
    for start in range(0, n_groups, at_once):
        fresh = lists(range(start, start + at_once))
        compiler.change(fresh, before)
        before = [one.key for one in fresh]
    return compiler


def sizes(compiler: Compiler) -> list[int]:
    """How much each of its containers holds."""
    return [len(value) for value in vars(compiler).values() if isinstance(value, dict | list)]


def test_groups_may_come_and_go_for_ever():
    few, many = churn(3_000, 1_000), churn(20_000, 1_000)
    assert sizes(many) == sizes(few)
    assert many.n_places == few.n_places == 2_000
    assert many.fib.n_groups == 1_000


def test_equal_egresses_are_one_whatever_objects_they_are():
    compiler = Compiler(b.BARE)
    for n in range(100):
        egress = Egress(b.P0, Form.GROUP, Owner(b.P0))
        compiler.change([ReplicationList(key(n), (egress,))])
        compiler.change([ReplicationList(key(n), (egress, b.at_port(b.P1)))])
    assert len(compiler.egresses) == 2
    assert len(compiler._known) == 2


def test_lists_that_are_made_while_they_are_read_are_each_their_own():
    """An object that is gone may leave its id() to the next."""

    def made() -> Iterable[ReplicationList]:
        for n in range(2000):
            yield ReplicationList(key(n), (Egress(n % 8, Form.GROUP, Owner(n % 8)),))

    compiler = Compiler(b.BARE)
    compiler.change(made())
    for n in range(2000):
        found = compiler.fib.find(_words(n))
        assert found is not None
        assert [compiler.egresses[i].out_port for i in found[0]] == [n % 8]


def _words(number: int) -> tuple[int, int, int, int, int]:
    return (0, 0xFFFF << 32 | int(group(number)), 0, 0, 4 << 48 | int(Scope.DEVICE) << 40)


def test_counters_may_be_asked_for_while_lists_come_and_go():
    port = MemoryPort()
    forwarder = Forwarder(b.BARE, [port] * len(b.PORTS))

    def ask() -> set[int]:
        return {row.frames for _ in range(100) for row in forwarder.statistics().lists}

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(1) as others:
            asking, n = others.submit(ask), 0
            while not asking.done():
                forwarder.publish(lists(range(n, n + 50)), map(key, range(n - 50, n)))
                n += 50
    finally:
        sys.setswitchinterval(interval)
    assert asking.result() <= {0}

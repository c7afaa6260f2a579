"""The MAC table by itself: (domain, MAC) -> station, held against a dict; and readers beside its writer."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fastpath import Forwarder
from fastpath._mac import MacTable
from tests.cases import box as b
from tests.unit import edges as e

N_STATIONS = 300
UNITS = 16
"""In a second."""
STEP_NS = 1_000_000_000 // UNITS


def mac(number: int) -> bytes:
    return (0x020000000000 | number).to_bytes(6, "big")


def test_one_mac_is_another_in_each_network():
    """The whole number of a network tells, not its low or high half alone."""
    table = MacTable(100, N_STATIONS)
    domains = (0, 1, 0x10000, 0x10001, 0xFF0000, 0xFFFFFF)
    for station, domain in enumerate(domains):
        assert table.put(domain, e.MAC_A, station)
    assert [table.find(domain, e.MAC_A)[0] for domain in domains] == list(range(len(domains)))  # type: ignore[index]
    assert table.find(2, e.MAC_A) is None
    assert {row[0] for row in table.rows()} == set(domains)


def test_there_is_room_for_as_many_as_was_said_and_no_more():
    table = MacTable(1000, N_STATIONS)
    assert all(table.put(7, mac(i), i % N_STATIONS) for i in range(1000))
    assert (len(table), table.put(7, mac(1000), 1)) == (1000, False)
    assert table.put(7, mac(0), 299)
    assert table.find(7, mac(0)) is not None
    assert table.remove(7, mac(1))
    assert not table.remove(7, mac(1))
    assert table.put(7, mac(1000), 1)
    assert table.find(7, mac(1)) is None


def test_a_table_that_is_filled_again_and_again_finds_room_each_time():
    table = MacTable(512, N_STATIONS)
    for lap in range(20):
        assert all(table.put(lap, mac(lap << 20 | i), 1) for i in range(512))
        assert len(table.clear_station(1)) == 512
        assert len(table) == 0


def of_eight_buckets(*macs: bytes) -> MacTable:
    table = MacTable(16, N_STATIONS)
    assert all(table.put(1, one, 1) for one in macs)
    return table


def bucket_of(table: MacTable, address: bytes) -> int:
    return next(i for i in range(table.n_buckets) if address in {row[1] for row in table.rows(i, 1)})


def crowded() -> list[list[bytes]]:
    """MACs whose first bucket is the first of eight, by their second ones; the most first."""
    macs = [one for one in map(mac, range(800)) if bucket_of(of_eight_buckets(one), one) == 0]
    by_second: dict[int, list[bytes]] = {}
    for one in macs[4:]:
        by_second.setdefault(bucket_of(of_eight_buckets(*macs[:4], one), one), []).append(one)
    return sorted(by_second.values(), key=len, reverse=True)


def test_who_has_no_room_in_both_places_is_told_so():
    """However much there is elsewhere: nobody there has another place to go to."""
    macs = crowded()[0]
    table = of_eight_buckets(*macs[:8])
    assert (table.put(1, macs[8], 1), table.find(1, macs[8]), len(table)) == (False, None, 8)


def test_where_both_places_are_full_another_entry_makes_room():
    """One that has somewhere else to go to, and is found there."""
    macs, others = crowded()[:2]
    table = of_eight_buckets(*others[:4], *macs[:4])
    assert table.put(1, macs[4], 2)
    want = [(1, one, 1, False) for one in (*others[:4], *macs[:4])] + [(1, macs[4], 2, False)]
    assert sorted((*row[:3], row[4]) for row in table.rows()) == sorted(want)
    assert [table.find(*row[:2])[0] for row in want] == [row[2] for row in want]  # type: ignore[index]


def test_what_nobody_can_have_for_an_address_is_refused():
    table = MacTable(10, N_STATIONS)
    for wrong, what in ((e.BROADCAST, "no address"), (bytes(6), "no address"), (b"\x02\x01", "six bytes")):
        with pytest.raises(ValueError, match=what):
            table.put(1, wrong, 1)
        with pytest.raises(ValueError, match=what):
            table.find(1, wrong)
    with pytest.raises(ValueError, match="expected a VNI"):
        table.put(1 << 24, e.MAC_A, 1)
    with pytest.raises(ValueError, match=r"station 300: there are 300"):
        table.put(1, e.MAC_A, N_STATIONS)
    with pytest.raises(ValueError, match="0 MACs"):
        MacTable(0, N_STATIONS)
    with pytest.raises(ValueError, match="255 stations"):
        MacTable(10, 255)


class Tables(RuleBasedStateMachine):
    """A table of few places beside a dict; its clock is that of frames, which stands still here."""

    def __init__(self) -> None:
        super().__init__()
        self.table = MacTable(12, N_STATIONS, 3, True)
        self.model: dict[tuple[int, bytes], tuple[int, bool]] = {}

    keys = st.tuples(st.sampled_from([0, 5, 0x10005]), st.integers(1, 9).map(mac))
    stations = st.sampled_from([0, 4, 255, 256, 299])

    @rule(key=keys, station=stations, static=st.booleans())
    def put(self, key: tuple[int, bytes], station: int, static: bool) -> None:
        there = self.table.put(*key, station, static)
        assert there == (key in self.model or len(self.model) < 12)
        if there:
            self.model[key] = station, static

    @rule(key=keys)
    def remove(self, key: tuple[int, bytes]) -> None:
        assert self.table.remove(*key) == (self.model.pop(key, None) is not None)

    @rule(key=keys)
    def find(self, key: tuple[int, bytes]) -> None:
        want = self.model.get(key)
        assert self.table.find(*key) == (want and (want[0], 0, want[1]))

    @rule(before=st.sampled_from([0, 1]))
    def expire(self, before: int) -> None:
        gone = self.table.expire(before)
        want = {key for key, (_, static) in self.model.items() if before and not static}
        assert {(vni, address) for vni, address, _ in gone} == want
        assert all(self.model.pop((vni, address))[0] == station for vni, address, station in gone)

    @rule(station=stations)
    def clear_station(self, station: int) -> None:
        want = {key for key, (at, static) in self.model.items() if at == station and not static}
        assert set(self.table.clear_station(station)) == want
        for key in want:
            del self.model[key]

    @invariant()
    def all_is_there(self) -> None:
        want = [(*key, station, 0, static) for key, (station, static) in self.model.items()]
        assert sorted(self.table.rows()) == sorted(want)
        whole = self.table.n_buckets
        parts = [row for first in range(0, whole, 3) for row in self.table.rows(first, 3)]
        assert parts == self.table.rows()
        assert self.table.rows(whole) == self.table.rows(whole + 7, 3) == self.table.rows(0, 0) == []
        assert len(self.table) == len(self.model)


Tables.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestTables = Tables.TestCase


def test_what_was_not_seen_for_long_is_forgotten_what_is_static_never():
    """The clock is that of the frames here, in sixteenths of a second, rounded down."""
    edge = e.Edge(stepwise=True)
    edge.forwarder.macs.put(b.VNI, e.MAC_A, e.VM1)
    edge.forwarder.macs.put(b.VNI, e.MAC_B, e.VM2)
    edge.forwarder.macs.put(b.VNI, e.MAC_C, e.VM2, static=True)
    edge.send(e.VM1, e.to(e.BROADCAST, e.MAC_A), time_ns=100 * STEP_NS - 1)
    assert edge.forwarder.mac_now() == 99
    assert edge.forwarder.macs.find(b.VNI, e.MAC_A) == (e.VM1, 99, False)
    assert edge.forwarder.macs.expire(0) == []
    assert edge.forwarder.macs.expire(99) == [(b.VNI, e.MAC_B, e.VM2)]
    assert edge.forwarder.macs.expire(100) == [(b.VNI, e.MAC_A, e.VM1)]
    assert [row[1:] for row in edge.forwarder.macs.rows()] == [(e.MAC_C, e.VM2, 0, True)]


def test_the_clock_may_go_round():
    """32 bits of sixteenths: a capture's own time is beyond them."""
    edge = e.Edge(stepwise=True)
    edge.forwarder.macs.put(b.VNI, e.MAC_A, e.VM1)
    edge.send(e.VM1, e.to(e.BROADCAST, e.MAC_A), time_ns=((1 << 32) - 1) * STEP_NS)
    edge.forwarder.macs.put(b.VNI, e.MAC_B, e.VM1)
    edge.send(e.VM1, e.to(e.BROADCAST, e.MAC_A), time_ns=((1 << 32) + 1) * STEP_NS)
    assert edge.forwarder.mac_now() == 1
    assert edge.forwarder.macs.expire(0) == [(b.VNI, e.MAC_B, e.VM1)]
    assert edge.forwarder.macs.find(b.VNI, e.MAC_A) == (e.VM1, 1, False)


def test_a_reader_beside_the_writer_never_takes_one_entry_for_another():
    """Some MACs take turns in a table of eight places, while a worker looks one of them up all the time.

    Frames to that one may go to its VM port, or to the whole list while it is not known; to nobody else ever.
    """
    edge = e.Edge(max_macs=4, overwrite=True)
    macs, far = edge.forwarder.macs, edge.forwarder.vtep(e.far(e.FAR))
    done = threading.Event()

    def write() -> None:
        lap = 0
        while not done.is_set():
            lap += 1
            macs.put(b.VNI, mac(lap % 6), far)
            macs.put(b.VNI, e.MAC_A, e.VM1)
            macs.remove(b.VNI, mac(lap % 6))
            macs.put(b.VNI, mac(lap % 7), far)
            macs.remove(b.VNI, e.MAC_A)
            macs.remove(b.VNI, mac(lap % 7))

    frame, n, deadline = e.to(e.MAC_A, e.MAC_B), 0, time.monotonic() + 60
    with ThreadPoolExecutor() as pool:
        writer = pool.submit(write)
        try:
            unknown = 0
            while not 100 < unknown < n - 100 or n < 100_000:
                assert time.monotonic() < deadline
                for _ in range(20_000):
                    edge.push(e.VM2, frame)
                n += edge.forwarder.run()
                unknown = edge.forwarder.statistics().unknown_unicast
        finally:
            done.set()
        writer.result()
    counted = edge.forwarder.statistics()
    copies = {row.egress: row.copies for row in counted.egresses}
    assert counted.replicated == n
    assert copies == {b.at_vm(e.VM1): n, e.to_group(): counted.unknown_unicast}


def test_without_a_table_there_is_nothing_to_ask():
    forwarder = Forwarder(e.LAYOUT, e.memory_ports(), e.LISTS)
    with pytest.raises(ValueError, match="max_macs is 0"):
        _ = forwarder.macs
    with pytest.raises(ValueError, match="max_macs is 0"):
        forwarder.vtep(e.far(e.FAR))
    assert (forwarder.learn_fds, forwarder.read_learned()) == ((), [])

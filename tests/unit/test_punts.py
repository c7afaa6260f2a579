"""Frames for control cross from the workers: whole, in order, bounded for each port; books that balance."""

from __future__ import annotations

import os
import select
import struct
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastpath import Forwarder, MemoryPort, Punts
from fastpath._punt import PuntRing
from fastpath.model import Faces, Frame, Mark
from tests import frames as f
from tests.cases import box as b
from tests.native._arrivals import Arrivals
from tests.unit.punted import REPORT, REPORT6, SECOND, balanced, forwarder_of, source
from tests.unit.test_forwarder import GROUP_FRAME, drops, memory_ports
from tests.unit.test_workers import working

IN_BAND = (f.TAG, 0x6123)
PADDED = REPORT + bytes(14)
RING = 4096


def report(size: int = 8, source: str = b.VTEP) -> bytes:
    """A frame of 14 + 24 + size bytes."""
    return f.wire(f.igmp(source, "224.0.0.22", body=bytes(i & 0xFF for i in range(size - 1))))


def tagged(frame: bytes, *tags: tuple[int, int]) -> bytes:
    return frame[:12] + b"".join(struct.pack(">HH", *tag) for tag in tags) + frame[12:]


def record(frame: bytes) -> int:
    """What it takes of a ring."""
    return (24 + len(frame) + 7) // 8 * 8


def is_readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


# --- what crosses -------------------------------------------------------------------------------------------

CROSSING = {
    "igmp": (Frame(REPORT), REPORT),
    "mld": (Frame(REPORT6), REPORT6),
    "padded": (Frame(PADDED), PADDED),
    "tagged in band": (Frame(tagged(REPORT, IN_BAND)), tagged(REPORT, IN_BAND)),
    "tagged out of band": (Frame(REPORT, vlan=(0x88A8, 0x6123)), tagged(REPORT, (0x88A8, 0x6123))),
    "mld tagged out of band": (Frame(REPORT6, vlan=IN_BAND), tagged(REPORT6, IN_BAND)),
    "tagged both ways": (
        Frame(tagged(REPORT, IN_BAND), vlan=(0x88A8, 7)),
        tagged(REPORT, (0x88A8, 7), IN_BAND),
    ),
}


@pytest.mark.parametrize("kind", CROSSING)
def test_a_frame_crosses_as_one_plain_ethernet_frame_with_its_port_and_time(kind):
    """W5 as control sees it: what a host sent, a tag that the kernel took out put back."""
    frame, whole = CROSSING[kind]
    timed = Frame(frame.data, frame.mark, frame.vlan, 1_700_000_000_123_456_789)
    forwarder = forwarder_of((b.P1, timed), (b.P0, Frame(GROUP_FRAME)), (b.MIX, timed))
    forwarder.run()
    assert forwarder.read_punted() == [
        (b.P1, timed.time_ns, whole, None),
        (b.MIX, timed.time_ns, whole, None),
    ]
    assert forwarder.read_punted() == []
    counted = balanced(forwarder, 3)
    assert (counted.replicated, counted.punted, counted.dropped) == (1, 2, 0)


def test_a_checksum_that_its_sender_left_open_is_finished_before_control_sees_it():
    """Linux leaves the sum of an MLD report on a veth to the other end (LIMITS trap 12)."""
    packet = f.mld("fe80::2", "ff02::16", body=bytes(23))
    at = 14 + len(packet) - 24
    frame = Frame(f.wire(packet), Mark(at, 2))
    forwarder = forwarder_of((b.P1, frame))
    forwarder.run()
    ((_, _, got, _),) = forwarder.read_punted()
    assert f.internet_checksum(got[at:]) == 0
    assert got[: at + 2] + got[at + 4 :] == frame.data[: at + 2] + frame.data[at + 4 :]


def test_without_a_reader_a_frame_to_punt_is_counted_and_no_more():
    forwarder = forwarder_of((b.P1, Frame(REPORT)), punts=None)
    forwarder.run()
    assert balanced(forwarder, 1).punted == 1
    assert (forwarder.read_punted(), forwarder.punt_fds) == ([], ())
    with pytest.raises(ValueError, match="nobody reads"):
        forwarder.set_punt_limits(1, 1)


def test_what_is_no_sound_report_on_a_tunnel_port_does_not_cross():
    frames = [(b.VM_BLUE, Frame(REPORT)), (b.P1, Frame(REPORT[:30])), (b.P1, Frame(b""))]
    forwarder = forwarder_of(*frames)
    forwarder.run()
    assert forwarder.read_punted() == []
    assert balanced(forwarder, 3).punted == 0


def test_the_descriptor_is_readable_while_frames_wait():
    forwarder = forwarder_of(*[(b.P1, Frame(REPORT))] * 5, (b.P1, Frame(GROUP_FRAME)))
    (fd,) = forwarder.punt_fds
    assert not is_readable(fd)
    forwarder.run()
    for left in (3, 1, 0):
        assert is_readable(fd)
        forwarder.read_punted(2)
        assert is_readable(fd) == (left > 0)
    forwarder.run()
    assert not is_readable(fd)


def test_a_burst_rings_once_and_only_for_frames_that_crossed():
    forwarder = forwarder_of(*[(b.P1, Frame(REPORT))] * 5, punts=Punts(1, 3), batch=4)
    forwarder.run()  # of two bursts, the second one has only what is refused
    assert os.eventfd_read(forwarder.punt_fds[0]) == 1
    assert len(forwarder.read_punted()) == 3


# --- how many -----------------------------------------------------------------------------------------------


def test_each_port_has_its_burst_and_what_is_over_it_is_dropped():
    flood = [(b.P1, Frame(REPORT))] * 20
    forwarder = forwarder_of(*flood, *[(b.P0, Frame(REPORT6))] * 7, punts=Punts(1, 7))
    forwarder.run()
    assert [port for port, _, _, _ in forwarder.read_punted()] == [b.P1] * 7 + [b.P0] * 7
    counted = balanced(forwarder, 27)
    assert (counted.punted, drops(counted)) == (14, {"punt_limit": 13})


def test_the_rate_is_exact_to_the_nanosecond_of_the_frames_clock():
    """3 a second, 2 at once: the third token is there a third of a second after the first was taken."""
    third = SECOND // 3 + 1
    times = [
        0,
        0,
        0,
        third - 1,
        third,
        third,
        2 * third - 1,
        3 * third,
        100 * SECOND,
        100 * SECOND,
        100 * SECOND,
    ]
    forwarder = forwarder_of(
        *[(b.P1, Frame(REPORT, time_ns=SECOND + at)) for at in times],
        punts=Punts(3, 2, stepwise=True),
    )
    while forwarder.run():
        pass
    got = [at - SECOND for _, at, _, _ in forwarder.read_punted()]
    assert got == [0, 0, third, 2 * third - 1, 3 * third, 100 * SECOND, 100 * SECOND]
    assert drops(balanced(forwarder, len(times))) == {"punt_limit": 4}


@example(1, 2, [(b.P0, 0), (b.P0, 1_900_000_000), (b.P0, 0), (b.P0, 200_000_000)])
@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 4),
    st.lists(
        st.tuples(st.sampled_from([b.P0, b.P1]), st.just(0) | st.integers(-SECOND, 2 * SECOND)), max_size=60
    ),
)
def test_the_rate_is_that_of_a_token_bucket_in_whole_numbers(rate, burst, steps):
    """Times may go back: the clock of a bucket then stands still."""
    now, arrivals, want = 10 * SECOND, [], []
    buckets = {port: [burst * SECOND, 0] for port in (b.P0, b.P1)}
    for port, step in steps:
        now = max(0, now + step)
        bucket = buckets[port]
        if now > bucket[1]:
            bucket[:] = [min(burst * SECOND, bucket[0] + rate * (now - bucket[1])), now]
        arrivals.append((port, Frame(REPORT, time_ns=now)))
        if bucket[0] >= SECOND:
            bucket[0] -= SECOND
            want.append((port, now))
    forwarder = forwarder_of(*arrivals, punts=Punts(rate, burst, stepwise=True))
    while forwarder.run():
        pass
    assert [(port, at) for port, at, _, _ in forwarder.read_punted()] == want
    balanced(forwarder, len(steps))


def test_a_live_port_is_counted_by_our_own_clock_not_by_the_frames():
    frames = [(b.P1, Frame(REPORT, time_ns=i * 1000 * SECOND)) for i in range(50)]
    forwarder = forwarder_of(*frames, punts=Punts(1, 10))
    forwarder.run()
    assert len(forwarder.read_punted()) == 10


def test_a_live_port_may_punt_again_as_time_goes_by():
    port = MemoryPort()
    forwarder = Forwarder(b.BOX, [port] * len(b.PORTS), sources=[port], punts=Punts(1000, 1))
    deadline = time.monotonic() + 60
    while forwarder.statistics().punted < 3:
        assert time.monotonic() < deadline
        port.receive(REPORT)
        forwarder.run()
    assert len(forwarder.read_punted()) == 3


def test_new_limits_hold_from_the_next_burst_on():
    port = MemoryPort()
    forwarder = Forwarder(b.BOX, [port] * len(b.PORTS), sources=[port], punts=Punts(1, 100))
    forwarder.set_punt_limits(1, 2)
    port.receive(*[REPORT] * 5)
    forwarder.run()
    assert forwarder.statistics().punted == 2
    forwarder.set_punt_limits(1_000_000_000, 3)
    deadline = time.monotonic() + 60
    while forwarder.statistics().punted < 2 + 3:
        assert time.monotonic() < deadline
        port.receive(REPORT)
        forwarder.run()
    with pytest.raises(ValueError, match="at least 1"):
        forwarder.set_punt_limits(0, 1)


# --- how much -----------------------------------------------------------------------------------------------


OWN = RING // 2 // len(b.PORTS)


def test_a_port_that_floods_ends_at_its_own_part_and_half_of_the_ring():
    frame = report(24)
    fits = (OWN + RING // 2) // record(frame)
    forwarder = forwarder_of(*[(b.P1, Frame(frame))] * 80, punts=Punts(ring_size=RING))
    forwarder.run()
    counted = balanced(forwarder, 80)
    assert (counted.punted, drops(counted)) == (fits, {"punt_full": 80 - fits})
    assert len(forwarder.read_punted()) == fits


def test_every_port_finds_its_own_part_free_whatever_the_others_send():
    """Seven of eight flood first; the last one still gets all that its part has room for, and no more."""
    frame = report(2)
    assert OWN % record(frame) == 0
    quiet = b.P7
    flood = [(port, Frame(frame)) for port in range(len(b.PORTS)) if port != quiet for _ in range(80)]
    layout = replace(b.BOX, ports=tuple(replace(port, faces=Faces.NVE) for port in b.PORTS))
    arrivals = source(*flood, *[(quiet, Frame(frame))] * 10)
    forwarder = Forwarder(layout, memory_ports(), sources=[arrivals], punts=Punts(ring_size=RING))
    forwarder.run()
    got = Counter(port for port, _, _, _ in forwarder.read_punted())
    own = OWN // record(frame)
    assert got == {**dict.fromkeys(range(1, 8), own), 0: (OWN + RING // 2) // record(frame)}


def test_the_default_ring_holds_the_default_burst_of_one_port():
    """10,000 joins at once, each in a report of its own, come through though control reads none meanwhile."""
    port = MemoryPort()
    forwarder = Forwarder(b.BOX, [port] * len(b.PORTS), sources=[port], punts=Punts(rate_pps=1))
    port.receive(*[PADDED] * Punts().burst)
    forwarder.run()
    assert balanced(forwarder, Punts().burst).punted == Punts().burst
    assert len(forwarder.read_punted(10**6)) == Punts().burst


def test_what_was_read_makes_room_again():
    port, *others = memory_ports()
    forwarder = Forwarder(b.BOX, [port, *others], sources=[port], punts=Punts(ring_size=RING, burst=10**6))
    frames = [report(8 + 37 * i % 900) for i in range(1000)]
    for frame in frames:
        port.receive(frame)
        forwarder.run()
        assert forwarder.read_punted() == [(0, 0, frame, None)]
    assert balanced(forwarder, 1000).punted == 1000


def test_a_frame_larger_than_the_ring_is_refused():
    forwarder = forwarder_of(
        (b.P1, Frame(report(5000))), (b.P1, Frame(report())), punts=Punts(ring_size=RING)
    )
    forwarder.run()
    assert [frame for _, _, frame, _ in forwarder.read_punted()] == [report()]
    assert drops(balanced(forwarder, 2)) == {"punt_full": 1}


@dataclass
class Model:
    """What a ring holds, slowly."""

    size: int
    held: list[tuple[int, bytes]] = field(default_factory=list)

    def offer(self, port: int, frame: bytes) -> bool:
        held = Counter({port: record(frame)})
        for place, one in self.held:
            held[place] += record(one)
        beyond = sum(max(0, size - OWN) for size in held.values())
        fits = held[port] <= OWN or beyond <= self.size // 2
        if fits:
            self.held.append((port, frame))
        return fits


Step = list[tuple[int, int]] | int
STEPS = st.lists(
    st.one_of(
        st.lists(st.tuples(st.sampled_from([b.P0, b.P1, b.MIX]), st.integers(1, 700)), max_size=12),
        st.integers(0, 8),
    ),
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_the_ring_holds_what_a_slow_model_says_and_the_books_balance(steps: Sequence[Step]):
    """Bursts and reads in any order: each frame once, whole, in order; what found no room is counted."""
    arrivals = Arrivals()
    forwarder = Forwarder(
        b.BOX, memory_ports(), b.LISTS, sources=[arrivals], punts=Punts(burst=10**6, ring_size=RING)
    )
    model, n_received, n_refused = Model(RING), 0, 0
    for step in steps:
        if isinstance(step, int):
            want, model.held = model.held[:step], model.held[step:]
            assert [(port, frame) for port, _, frame, _ in forwarder.read_punted(step)] == want
            continue
        for port, size in step:
            arrivals.push(port, report(size))
            arrivals.push(port, GROUP_FRAME)
            n_received += 2
            n_refused += not model.offer(port, report(size))
        forwarder.run()
        counted = balanced(forwarder, n_received)
        assert drops(counted).get("punt_full", 0) == n_refused
        assert counted.punted == n_received // 2 - n_refused
        assert is_readable(forwarder.punt_fds[0]) or not model.held
    assert [(port, frame) for port, _, frame, _ in forwarder.read_punted(10**6)] == model.held


@pytest.mark.parametrize("size", [0, 1 << 11, 5000, 1 << 31])
def test_a_ring_of_an_odd_size_is_refused(size):
    with pytest.raises(ValueError, match="a power of two"):
        PuntRing(size, 1, 1)


@pytest.mark.parametrize("limits", [(0, 1), (1, 0), (10**9 + 1, 1), (1, 10**9 + 1)])
def test_limits_that_cannot_be_are_refused(limits):
    with pytest.raises(ValueError, match="expected"):
        Forwarder(b.BOX, memory_ports(), punts=Punts(*limits))


# --- workers ------------------------------------------------------------------------------------------------


def test_each_worker_has_its_share_and_all_are_read():
    own = [[MemoryPort() for _ in b.PORTS] for _ in range(3)]
    forwarder = Forwarder(b.BOX, own[0], more_workers=own[1:], punts=Punts(3, 8))
    for place, ports in enumerate(own):
        ports[place].receive(*[report(8 + place)] * 9)
    forwarder.run()
    assert len(set(forwarder.punt_fds)) == 3
    first = forwarder.read_punted(1)
    got = first + forwarder.read_punted()
    assert sorted(got) == [(place, 0, report(8 + place), None) for place in range(3) for _ in range(8 // 3)]
    assert drops(balanced(forwarder, 27)) == {"punt_limit": 27 - 6}


def test_no_worker_keeps_the_frames_of_another_waiting():
    own = [[MemoryPort() for _ in b.PORTS] for _ in range(2)]
    forwarder = Forwarder(b.BOX, own[0], more_workers=own[1:], punts=Punts())
    for place, ports in enumerate(own):
        ports[place].receive(*[report()] * 9)
    forwarder.run()
    assert {port for _ in range(2) for port, _, _, _ in forwarder.read_punted(2)} == {0, 1}


def test_a_reader_beside_a_running_worker_gets_every_frame_once_and_whole():
    """The ring is small, so that it goes round, fills and empties all the time."""
    port = MemoryPort()
    frames = [report(8 + 13 * i % 700, f"10.1.{i >> 8}.{i & 255}") for i in range(300)]
    port.receive(*frames)
    forwarder = Forwarder(
        b.BOX, [port] * len(b.PORTS), sources=[port], batch=7, punts=Punts(10**9, 10**9, ring_size=1 << 14)
    )
    got: list[bytes] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set() or is_readable(forwarder.punt_fds[0]):
            got.extend(frame for _, _, frame, _ in forwarder.read_punted(16))

    reader = threading.Thread(target=read)
    reader.start()
    rounds, deadline = 0, time.monotonic() + 60
    while forwarder.statistics().punted < 5000 and time.monotonic() < deadline:
        forwarder.run()
        port.rewind()
        rounds += 1
    done.set()
    reader.join()
    counted = balanced(forwarder, len(frames) * rounds)
    assert len(got) == counted.punted >= 5000
    left = iter(frames * rounds)
    assert all(frame in left for frame in got), "a subsequence, in order"


def test_a_worker_thread_wakes_control():
    source = Arrivals()
    for _ in range(10):
        source.push(b.P1, REPORT)
    forwarder = Forwarder(b.BOX, memory_ports(), sources=[source], punts=Punts())
    with working(forwarder):
        assert select.select(forwarder.punt_fds, [], [], 10)[0]
    assert len(forwarder.read_punted()) == 10

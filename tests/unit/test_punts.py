"""Frames for control cross from the workers: whole, in order, bounded for each port; replays go in steps."""

from __future__ import annotations

import os
import select
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath import Forwarder, MemoryPort, PcapSink, PcapSource, Punts, Statistics
from fastpath._punt import PuntRing
from fastpath.model import Faces, Frame, Mark
from fastpath.ports import AbsentPort
from tests import captures_io as io
from tests import frames as f
from tests.cases import box as b
from tests.compiled import Arrival
from tests.native._arrivals import Arrivals
from tests.strategies import Scene, scenes, seeded_scenes
from tests.unit.test_forwarder import GROUP_FRAME, drops, memory_ports
from tests.unit.test_workers import working

REPORT = f.igmp(b.VTEP, "224.0.0.22")
REPORT6 = f.mld("fe80::2", "ff02::16")
IN_BAND = (f.TAG, 0x6123)
RING = 4096
SECOND = 1_000_000_000


def report(size: int = 8, source: str = b.VTEP) -> bytes:
    """A frame of 14 + 24 + size bytes."""
    return f.wire(f.igmp(source, "224.0.0.22", body=bytes(i & 0xFF for i in range(size - 1))))


def record(frame: bytes) -> int:
    """What it takes of a ring."""
    return (16 + len(frame) + 7) // 8 * 8


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
    assert counted.dropped == sum(row.count for row in counted.drops if row.reason.unit.value == "frame")
    return counted


def is_readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


# --- what crosses -------------------------------------------------------------------------------------------

UNFINISHED = f.wire(f.mld("fe80::2", "ff02::16", body=bytes(23)))
CROSSING = {
    "igmp": (Frame(f.wire(REPORT)), f.wire(REPORT)),
    "mld": (Frame(f.wire(REPORT6)), f.wire(REPORT6)),
    "padded": (Frame(f.wire(REPORT, padding=bytes(14))), f.wire(REPORT, padding=bytes(14))),
    "tagged in band": (Frame(f.wire(REPORT, [IN_BAND])), f.wire(REPORT, [IN_BAND])),
    "tagged out of band": (Frame(f.wire(REPORT), vlan=(0x88A8, 0x6123)), f.wire(REPORT, [(0x88A8, 0x6123)])),
    "mld tagged out of band": (Frame(f.wire(REPORT6), vlan=IN_BAND), f.wire(REPORT6, [IN_BAND])),
    "tagged both ways": (
        Frame(f.wire(REPORT, [IN_BAND]), vlan=(0x88A8, 7)),
        f.wire(REPORT, [(0x88A8, 7), IN_BAND]),
    ),
}


@pytest.mark.parametrize("kind", CROSSING)
def test_a_frame_crosses_as_one_plain_ethernet_frame_with_its_port_and_time(kind):
    """W5 as control sees it: what a host sent, a tag that the kernel took out put back."""
    frame, whole = CROSSING[kind]
    timed = Frame(frame.data, frame.mark, frame.vlan, 1_700_000_000_123_456_789)
    forwarder = forwarder_of((b.P1, timed), (b.P0, Frame(GROUP_FRAME)), (b.MIX, timed))
    forwarder.run()
    assert forwarder.read_punted() == [(b.P1, timed.time_ns, whole), (b.MIX, timed.time_ns, whole)]
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
    ((_, _, got),) = forwarder.read_punted()
    assert f.internet_checksum(got[at:]) == 0
    assert got[: at + 2] + got[at + 4 :] == frame.data[: at + 2] + frame.data[at + 4 :]


def test_without_a_reader_a_frame_to_punt_is_counted_and_no_more():
    forwarder = forwarder_of((b.P1, Frame(f.wire(REPORT))), punts=None)
    forwarder.run()
    assert balanced(forwarder, 1).punted == 1
    assert (forwarder.read_punted(), forwarder.punt_fds) == ([], ())
    with pytest.raises(ValueError, match="nobody reads"):
        forwarder.set_punt_limits(1, 1)


def test_what_comes_by_raw_and_other_ways_does_not_cross():
    frames = [(b.VM_BLUE, Frame(f.wire(REPORT))), (b.P1, Frame(f.wire(REPORT)[:30])), (b.P1, Frame(b""))]
    forwarder = forwarder_of(*frames)
    forwarder.run()
    assert forwarder.read_punted() == []
    assert balanced(forwarder, 3).punted == 0


def test_the_descriptor_is_readable_while_frames_wait():
    forwarder = forwarder_of(*[(b.P1, Frame(f.wire(REPORT)))] * 5, (b.P1, Frame(GROUP_FRAME)))
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
    forwarder = forwarder_of(*[(b.P1, Frame(f.wire(REPORT)))] * 5, punts=Punts(1, 3), batch=4)
    forwarder.run()  # of two bursts, the second one has only what is refused
    assert os.eventfd_read(forwarder.punt_fds[0]) == 1
    assert len(forwarder.read_punted()) == 3


# --- how many -----------------------------------------------------------------------------------------------


def test_each_port_has_its_burst_and_what_is_over_it_is_dropped():
    flood = [(b.P1, Frame(f.wire(REPORT)))] * 20
    forwarder = forwarder_of(*flood, *[(b.P0, Frame(f.wire(REPORT6)))] * 7, punts=Punts(1, 7))
    forwarder.run()
    assert [port for port, _, _ in forwarder.read_punted()] == [b.P1] * 7 + [b.P0] * 7
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
        *[(b.P1, Frame(f.wire(REPORT), time_ns=SECOND + at)) for at in times],
        punts=Punts(3, 2, stepwise=True),
    )
    while forwarder.run():
        pass
    got = [at - SECOND for _, at, _ in forwarder.read_punted()]
    assert got == [0, 0, third, 2 * third - 1, 3 * third, 100 * SECOND, 100 * SECOND]
    assert drops(balanced(forwarder, len(times))) == {"punt_limit": 4}


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from([b.P0, b.P1]), st.integers(-SECOND, 2 * SECOND)), max_size=60),
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
        arrivals.append((port, Frame(f.wire(REPORT), time_ns=now)))
        if bucket[0] >= SECOND:
            bucket[0] -= SECOND
            want.append((port, now))
    forwarder = forwarder_of(*arrivals, punts=Punts(rate, burst, stepwise=True))
    while forwarder.run():
        pass
    assert [(port, at) for port, at, _ in forwarder.read_punted()] == want
    balanced(forwarder, len(steps))


def test_a_live_port_is_counted_by_our_own_clock_not_by_the_frames():
    frames = [(b.P1, Frame(f.wire(REPORT), time_ns=i * 1000 * SECOND)) for i in range(50)]
    forwarder = forwarder_of(*frames, punts=Punts(1, 10))
    forwarder.run()
    assert len(forwarder.read_punted()) == 10


def test_a_live_port_may_punt_again_as_time_goes_by():
    port = MemoryPort()
    forwarder = Forwarder(b.BOX, [port] * len(b.PORTS), sources=[port], punts=Punts(1000, 1))
    deadline = time.monotonic() + 10
    while forwarder.statistics().punted < 3:
        assert time.monotonic() < deadline
        port.receive(f.wire(REPORT))
        forwarder.run()
    assert len(forwarder.read_punted()) == 3


def test_new_limits_hold_from_the_next_burst_on():
    port = MemoryPort()
    forwarder = Forwarder(b.BOX, [port] * len(b.PORTS), sources=[port], punts=Punts(1, 100))
    forwarder.set_punt_limits(1, 2)
    port.receive(*[f.wire(REPORT)] * 5)
    forwarder.run()
    forwarder.set_punt_limits(1_000_000_000, 3)
    deadline = time.monotonic() + 10
    while forwarder.statistics().punted < 2 + 3:
        assert time.monotonic() < deadline
        port.receive(f.wire(REPORT))
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
    frame = report(10)
    assert OWN % record(frame) == 0
    quiet = b.P7
    flood = [(port, Frame(frame)) for port in range(len(b.PORTS)) if port != quiet for _ in range(80)]
    layout = replace(b.BOX, ports=tuple(replace(port, faces=Faces.NVE) for port in b.PORTS))
    arrivals = source(*flood, *[(quiet, Frame(frame))] * 10)
    forwarder = Forwarder(layout, memory_ports(), sources=[arrivals], punts=Punts(ring_size=RING))
    forwarder.run()
    got = Counter(port for port, _, _ in forwarder.read_punted())
    own = OWN // record(frame)
    assert got == {**dict.fromkeys(range(1, 8), own), 0: (OWN + RING // 2) // record(frame)}


def test_the_default_ring_holds_the_default_burst_of_one_port():
    """10,000 joins at once, each in a report of its own, come through though control reads none meanwhile."""
    port = MemoryPort()
    forwarder = Forwarder(b.BOX, [port] * len(b.PORTS), sources=[port], punts=Punts(rate_pps=1))
    port.receive(*[f.wire(REPORT, padding=bytes(14))] * Punts().burst)
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
        assert forwarder.read_punted() == [(0, 0, frame)]
    assert balanced(forwarder, 1000).punted == 1000


def test_a_frame_larger_than_the_ring_is_refused():
    forwarder = forwarder_of(
        (b.P1, Frame(report(5000))), (b.P1, Frame(report())), punts=Punts(ring_size=RING)
    )
    forwarder.run()
    assert [frame for _, _, frame in forwarder.read_punted()] == [report()]
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


STEPS = st.lists(
    st.one_of(
        st.lists(st.tuples(st.sampled_from([b.P0, b.P1, b.MIX]), st.integers(1, 700)), max_size=12),
        st.integers(0, 8),
    ),
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_the_ring_holds_what_a_slow_model_says_and_the_books_balance(steps: Sequence[list[tuple[int, int]] | int]):
    """Bursts and reads in any order: each frame once, whole, in order; what found no room is counted."""
    arrivals = Arrivals()
    forwarder = Forwarder(
        b.BOX, memory_ports(), b.LISTS, sources=[arrivals], punts=Punts(burst=10**6, ring_size=RING)
    )
    model, n_received, n_refused = Model(RING), 0, 0
    for step in steps:
        if isinstance(step, int):
            want, model.held = model.held[:step], model.held[step:]
            assert [(port, frame) for port, _, frame in forwarder.read_punted(step)] == want
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
    assert [(port, frame) for port, _, frame in forwarder.read_punted(10**6)] == model.held


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
    assert sorted(got) == [(place, 0, report(8 + place)) for place in range(3) for _ in range(8 // 3)]
    assert drops(balanced(forwarder, 27)) == {"punt_limit": 27 - 6}


def test_no_worker_keeps_the_frames_of_another_waiting():
    own = [[MemoryPort() for _ in b.PORTS] for _ in range(2)]
    forwarder = Forwarder(b.BOX, own[0], more_workers=own[1:], punts=Punts())
    for place, ports in enumerate(own):
        ports[place].receive(*[report()] * 9)
    forwarder.run()
    assert {port for _ in range(2) for port, _, _ in forwarder.read_punted(2)} == {0, 1}


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
            got.extend(frame for _, _, frame in forwarder.read_punted(16))

    reader = threading.Thread(target=read)
    reader.start()
    rounds, deadline = 0, time.monotonic() + 10
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
        source.push(b.P1, f.wire(REPORT))
    forwarder = Forwarder(b.BOX, memory_ports(), sources=[source], punts=Punts())
    with working(forwarder):
        assert select.select(forwarder.punt_fds, [], [], 10)[0]
    assert len(forwarder.read_punted()) == 10


# --- step by step -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 5, 256])
def test_control_acts_between_a_report_and_the_frame_behind_it(batch):
    """A frame in front of the report finds no list, the one behind it does, whatever the batch."""
    arrivals = [(b.P0, Frame(GROUP_FRAME)), (b.P1, Frame(f.wire(REPORT))), (b.P0, Frame(GROUP_FRAME))] * 3
    ports = memory_ports()
    forwarder = Forwarder(b.BOX, ports, sources=[source(*arrivals)], batch=batch, punts=STEPWISE)
    seen = []
    while forwarder.run():
        for _ in forwarder.read_punted():
            counted = forwarder.statistics()
            seen.append((counted.received, counted.replicated))
            if forwarder.n_groups:
                forwarder.publish((), [b.of_group().key])
            else:
                forwarder.publish(b.of_only(b.at_port(b.P1)))
    assert seen == [(2, 0), (5, 2), (8, 2)]
    assert (balanced(forwarder, 9).replicated, len(ports[b.P1].take())) == (3, 3)


def test_a_step_ends_only_with_a_frame_that_control_gets():
    arrivals = [(b.P1, Frame(f.wire(REPORT)))] * 5
    forwarder = forwarder_of(*arrivals, punts=Punts(1, 2, stepwise=True))
    assert [forwarder.run() for _ in range(4)] == [1, 1, 3, 0]


def test_a_step_ends_with_about_as_many_frames_as_asked_for():
    forwarder = forwarder_of(*[(b.P1, Frame(GROUP_FRAME))] * 10, punts=STEPWISE, batch=4)
    assert [forwarder.run(3), forwarder.run(5), forwarder.run()] == [4, 6, 0]


def everything(scene: Scene, punts: Punts | None, batch: int) -> tuple[object, ...]:
    """What a scene comes to with or without steps: verdicts, drops and copies."""
    arrivals = source(*scene.batch)
    ports = [MemoryPort(1 << 22) for _ in scene.layout.ports]
    forwarder = Forwarder(scene.layout, ports, scene.lists, sources=[arrivals], batch=batch, punts=punts)
    while forwarder.run():
        pass
    counted = balanced(forwarder, len(scene.batch))
    assert len(forwarder.read_punted()) == (counted.punted if punts else 0)
    verdicts = (counted.replicated, counted.punted, drops(counted))
    return (*verdicts, *[port.take() for port in ports])


@settings(max_examples=100, deadline=None)
@given(scenes(), st.sampled_from([1, 3, 256]))
def test_steps_change_nothing_but_when_control_may_act(scene, batch):
    """What a step left comes in again as it came: marks unfinished, tags out of band, bytes untouched."""
    assert everything(scene, STEPWISE, batch) == everything(scene, None, 256)


def test_the_scenes_have_frames_to_punt_in_their_midst():
    punted = [everything(scene, None, 256)[1] for scene in seeded_scenes(3, 50, 40)]
    assert sum(1 for n in punted if n) > 10


def test_a_source_that_gives_nothing_back_cannot_go_in_steps():
    ports = memory_ports()
    with pytest.raises(ValueError, match=r"AbsentIo.*cannot go in steps"):
        Forwarder(b.BOX, ports, sources=[AbsentPort()], punts=STEPWISE)
    with pytest.raises(ValueError, match="one worker"):
        Forwarder(b.BOX, ports, more_workers=[memory_ports()], punts=STEPWISE)


def capture(tmp_path, *timed: tuple[int, bytes]) -> PcapSource:
    path = tmp_path / "source.pcap"
    path.write_bytes(io.pcap(timed, "<", io.NS))
    return PcapSource(path, {}, b.P1)


def test_the_clock_of_a_capture_never_goes_back_and_tells_what_comes_next(tmp_path):
    times = [50, 20, 70, 60]
    with capture(tmp_path, *[(at, GROUP_FRAME) for at in times]) as source:
        forwarder = Forwarder(b.BOX, memory_ports(), b.LISTS, sources=[source], batch=1)
        seen = [(source.clock_ns, source.next_ns)]
        while forwarder.run(1):
            seen.append((source.clock_ns, source.next_ns))
        assert seen == [(0, 50), (50, 50), (50, 70), (70, 70), (70, None)]
    assert source.next_ns is None


def test_no_frame_comes_in_that_would_bring_the_clock_to_its_limit(tmp_path):
    """The timer due then goes first, also where a frame of an earlier time stands behind one that is held."""
    times = [10, 30, 20, 40, 40, 35, 50]
    with capture(tmp_path, *[(at, GROUP_FRAME) for at in times]) as source:
        forwarder = Forwarder(b.BOX, memory_ports(), b.LISTS, sources=[source])
        came = []
        for until in (10, 11, 30, 31, 40, 41, None):
            source.until_ns = until
            assert source.until_ns == until
            came.append((forwarder.run(), source.clock_ns))
        assert came == [(0, 0), (1, 10), (0, 10), (2, 30), (0, 30), (3, 40), (1, 50)]
        source.until_ns = 1
        assert forwarder.run() == 0


def test_a_replay_steps_through_a_capture_and_writes_what_control_sends_in_order(tmp_path):
    """D5 as replay needs it: report, answer, copy, each where its time is."""
    frames = [(1000 + i, f.wire(REPORT) if i % 5 == 2 else GROUP_FRAME) for i in range(20)]
    out = tmp_path / "out.pcapng"
    with capture(tmp_path, *frames) as source, PcapSink(out, [port.name for port in b.PORTS]) as sink:
        forwarder = Forwarder(
            b.BOX, [sink] * len(b.PORTS), b.of_only(b.at_port(b.P0)), sources=[source], punts=STEPWISE
        )
        while forwarder.run():
            assert source.frames_read == forwarder.statistics().received
            for in_port, _, frame in forwarder.read_punted():
                sink.send(in_port, frame[::-1], source.clock_ns)
        assert (sink.copies, sink.sent, sink.lost) == (16, 4, 0)
        assert forwarder.statistics().copies_out == 16
    with PcapSource(out, {port.name: i for i, port in enumerate(b.PORTS)}) as written:
        got = [(interface, data == f.wire(REPORT)[::-1]) for interface, data in written.frames()]
        assert (written.damage, written.last_ns) == (None, 1019)
    assert got == [(b.P1, True) if i % 5 == 2 else (b.P0, False) for i in range(20)]

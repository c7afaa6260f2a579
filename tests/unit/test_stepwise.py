"""Replay step by step: control acts before the next frame is looked at, by the clock of the capture."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath import Forwarder, MemoryPort, PcapSink, PcapSource, Punts
from fastpath.model import Frame
from fastpath.ports import AbsentPort
from tests import captures_io as io
from tests.cases import box as b
from tests.strategies import Scene, scenes, seeded_scenes
from tests.unit.punted import REPORT, STEPWISE, balanced, forwarder_of, source
from tests.unit.test_forwarder import GROUP_FRAME, drops, memory_ports


@pytest.mark.parametrize("batch", [1, 2, 5, 256])
def test_control_acts_between_a_report_and_the_frame_behind_it(batch):
    """A frame in front of the report finds no list, the one behind it does, whatever the batch."""
    arrivals = [(b.P0, Frame(GROUP_FRAME)), (b.P1, Frame(REPORT)), (b.P0, Frame(GROUP_FRAME))] * 3
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
    arrivals = [(b.P1, Frame(REPORT))] * 5
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


def test_a_limit_behind_the_clock_holds_every_frame(tmp_path):
    with capture(tmp_path, (30, GROUP_FRAME), (20, GROUP_FRAME)) as source:
        forwarder = Forwarder(b.BOX, memory_ports(), b.LISTS, sources=[source], batch=1)
        forwarder.run(1)
        source.until_ns = 25
        assert forwarder.run() == 0
        source.until_ns = 31
        assert forwarder.run() == 1


def test_a_replay_steps_through_a_capture_and_writes_what_control_sends_in_order(tmp_path):
    """D5 as replay needs it: report, answer, copy, each where its time is."""
    frames = [(1000 + i, REPORT if i % 5 == 2 else GROUP_FRAME) for i in range(20)]
    out = tmp_path / "out.pcapng"
    with capture(tmp_path, *frames) as source, PcapSink(out, [port.name for port in b.PORTS]) as sink:
        forwarder = Forwarder(
            b.BOX, [sink] * len(b.PORTS), b.of_only(b.at_port(b.P0)), sources=[source], punts=STEPWISE
        )
        while forwarder.run():
            assert source.frames_read == forwarder.statistics().received
            for in_port, _, frame, _ in forwarder.read_punted():
                sink.send(in_port, frame[::-1], source.clock_ns)
        assert (sink.copies, sink.sent, sink.lost) == (16, 4, 0)
        assert forwarder.statistics().copies_out == 16
    with PcapSource(out, {port.name: i for i, port in enumerate(b.PORTS)}) as written:
        got = [(interface, data == REPORT[::-1]) for interface, data in written.frames()]
        assert (written.damage, written.last_ns) == (None, 1019)
    assert got == [(b.P1, True) if i % 5 == 2 else (b.P0, False) for i in range(20)]

"""From a report to a FIB: ten thousand joins at once, a thousand NVEs for two hours, what a member costs in
all that control keeps; and from a report to the first copy, live.

In one process frames come in by a memory port and go the whole way: worker, punt ring, role, membership,
lists, FIB. Figures of `live` have a daemon, veth pairs and other programs; they and `joins all at once` are
the wall's time. The rest is the time that control's thread had its core.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
import tracemalloc
from heapq import heappop, heappush
from ipaddress import IPv4Address
from multiprocessing import get_context
from typing import Any

import pytest

from bench.conftest import Race, now_ns
from bench.figures import Sample, Target
from bench.test_fib import resident_bytes
from ctrl import punt
from ctrl.config.schema import MembershipTable
from ctrl.daemon.snooping import Snooping
from ctrl.lab.namespaces import missing
from ctrl.membership import Event, Membership
from ctrl.planner import Tunnel
from ctrl.protocols import igmp
from ctrl.protocols.messages import Kind, Query, Record, Report
from ctrl.publisher import Basis, Publisher
from ctrl.refusals import Refused
from ctrl.roles.attachment import Attachment
from ctrl.roles.device import Device
from fastpath import Forwarder, Punts
from fastpath.model import Encap, Endpoint, Faces, Form, Layout, Port, Scope
from fastpath.ports import MemoryPort
from tests.system.crowd import FIRST_OTHER, Crowd, data, first_copies, joins, quantile
from tests.system.lab import Lab

N_NVES, N_GROUPS, N_PORTS = 1000, 100, 64
N_JOINS = 10_000
FIRST_GROUP = 0xEF010100
HOURS_S = 2 * 3600.0
OURS = IPv4Address("10.0.0.1")


class Box:
    """A device without a daemon: what `ctrl.daemon` puts together, on memory ports."""

    def __init__(self, n_ports: int = N_PORTS, **settings: Any) -> None:
        macs = [bytes((2, 0xFA, 0x57, 0, 0, n)) for n in range(n_ports)]
        self.refused, self.membership = Refused(), Membership()
        self.device = Device(self.membership, self.refused, MembershipTable(**settings))
        self.device.attach({n: Attachment(mac, int(OURS)) for n, mac in enumerate(macs)}, 0.0)
        self.publisher = Publisher(
            self.membership, Basis((Encap.VXLAN,) * n_ports, Tunnel(Form.NESTED, OURS))
        )
        self.ports = [MemoryPort(1 << 20) for _ in range(n_ports)]
        ports = tuple(Port(f"p{n}", Faces.NVE, mac, None) for n, mac in enumerate(macs))
        self.forwarder = Forwarder(Layout(ports, (Endpoint(OURS, Scope.DEVICE),)), self.ports, punts=Punts())

    def hear(self, port: int, frame: bytes, now_s: float) -> int:
        """Take a frame from the wire, and publish what comes of it; the number of events."""
        self.ports[port].push(frame)
        self.forwarder.run()
        for punted in self.forwarder.read_punted():
            self.device.hear(punted.in_port, punted.frame, now_s)
        return self.publish()

    def publish(self) -> int:
        step = self.publisher.update()
        if step.lists or step.removed:
            self.forwarder.publish(step.lists, step.removed)
        return len(self.device.take_events())

    @property
    def n_members(self) -> int:
        return sum(side.router.n_members for side in self.device.sides())


def report(n: int, kind: Kind, groups: range) -> bytes:
    """What NVE `n` says of some groups, as a frame."""
    records = tuple(Record(kind, group) for group in groups)
    return igmp.report_frame(Report(3, records), b"\x02\x00" + n.to_bytes(4, "big"), 0x0A010000 + n)


async def joined(box: Box, frames: list[bytes]) -> tuple[float, float]:
    """Have the frames come in at once; ms until the last group is in a FIB, and ms of the loop's thread."""
    for frame in frames:
        box.ports[0].push(frame)
    loop, n_events = asyncio.get_running_loop(), 0
    last = loop.create_future()

    def tell(event: Event) -> None:
        nonlocal n_events
        n_events += 1
        if n_events == N_JOINS:
            last.set_result(time.perf_counter())

    snooping = Snooping(box.forwarder, box.device, box.publisher, box.refused, lambda port, frame: None, tell)
    snooping.start()
    await asyncio.sleep(0)
    spent, begin = now_ns(), time.perf_counter()
    box.forwarder.start()
    end = await asyncio.wait_for(last, 30)
    spent = now_ns() - spent
    snooping.stop()
    box.forwarder.stop()
    return 1e3 * (end - begin), spent / 1e6


@pytest.mark.usefixtures("all_cpus")
@pytest.mark.parametrize("per", [100, 1])
def test_ten_thousand_joins_at_once(race: Race, per: int) -> None:
    firsts = range(FIRST_GROUP, FIRST_GROUP + N_JOINS, per)
    frames = [report(1, Kind.TO_EX, range(first, first + per)) for first in firsts]
    walls, spents, fibs = [], [], []
    for _ in range(9):
        box = Box(2, max_groups_per_port=N_JOINS)
        gc.collect()
        before = box.forwarder.revision
        wall, spent = asyncio.run(joined(box, frames))
        assert box.forwarder.n_groups == N_JOINS
        assert not box.refused
        walls.append(wall)
        spents.append(spent)
        fibs.append(float(box.forwarder.revision - before))
    race.benchmark.pedantic(lambda: None)
    parameters = {"joins": N_JOINS, "records": per}
    limit = {100: 250.0, 1: 1000.0}[per]
    race.book("joins all at once", parameters, Sample.of(walls), unit="ms", target=Target(limit))
    race.book("joins, control's time", parameters, Sample.of(spents), unit="ms")
    race.book("joins, FIBs", parameters, Sample.of(fibs), unit="FIBs", target=Target({100: 8, 1: 20}[per]))


def test_two_hours_of_a_thousand_nves(race: Race) -> None:
    chance, box = random.Random(4), Box()
    groups = range(FIRST_GROUP, FIRST_GROUP + N_GROUPS)
    joins = [report(n, Kind.TO_EX, groups) for n in range(N_NVES)]
    answers = [report(n, Kind.IS_EX, groups) for n in range(N_NVES)]
    events = [(chance.uniform(0.0, 60.0), n) for n in range(N_NVES)]
    events += [(0.0, -1)]
    events.sort()
    has_joined = [False] * N_NVES
    n_events = n_frames = 0
    begin = now_ns()
    while events[0][0] <= HOURS_S:
        now_s, n = heappop(events)
        if n >= 0:
            frame = answers[n] if has_joined[n] else joins[n]
            n_events += box.hear(n % N_PORTS, frame, now_s)
            has_joined[n] = True
            n_frames += 1
            continue
        box.device.poll(now_s)
        n_events += box.publish()
        for port, frame in box.device.take_frames():
            heard = punt.read(frame, strict_headers=True)
            assert not isinstance(heard, str)
            assert isinstance(heard.message, Query)
            assert heard.message.group == 0
            for at in range(port, N_NVES, N_PORTS):
                if has_joined[at] and heard.bits == 32:
                    heappush(events, (now_s + chance.uniform(0.0, heard.message.response_s), at))
        deadline_s = box.device.deadline_s
        assert deadline_s is not None
        heappush(events, (max(deadline_s, now_s), -1))
    seconds = (now_ns() - begin) / 1e9
    assert box.n_members == n_events == N_NVES * N_GROUPS
    assert n_frames > 55 * N_NVES
    assert not box.refused
    race.benchmark.pedantic(lambda: None)
    parameters = {"nves": N_NVES, "groups": N_GROUPS, "ports": N_PORTS}
    race.book("device, 2 h", parameters, Sample.of([seconds]), unit="s", target=Target(60))


def grown(n_nves: int, n_groups: int, by: str) -> float:
    """Bytes a member, of RSS with all that the FIB has besides Python; in a process that is fresh."""
    groups = range(FIRST_GROUP, FIRST_GROUP + n_groups)
    most = n_nves * n_groups + 1
    box = Box(max_groups_per_port=most, max_members_per_port=most, max_groups=most)
    box.hear(0, report(0, Kind.TO_EX, range(FIRST_GROUP - 1, FIRST_GROUP)), 0.0)
    if by == "tracemalloc":
        tracemalloc.start()
    gc.collect()
    before = tracemalloc.get_traced_memory()[0] if by == "tracemalloc" else resident_bytes()
    for n in range(n_nves):
        for at in range(0, n_groups, N_GROUPS):
            box.hear(n % N_PORTS, report(n, Kind.TO_EX, groups[at : at + N_GROUPS]), 1.0)
    gc.collect()
    after = tracemalloc.get_traced_memory()[0] if by == "tracemalloc" else resident_bytes()
    assert box.n_members == n_nves * n_groups + 1
    return (after - before) / box.n_members


@pytest.mark.parametrize("by", ["tracemalloc", "RSS"])
@pytest.mark.parametrize(("n_nves", "n_groups"), [(N_NVES, N_GROUPS), (1, N_NVES * N_GROUPS)])
def test_memory_a_member(race: Race, n_nves: int, n_groups: int, by: str) -> None:
    with get_context("spawn").Pool(1) as fresh:
        n_bytes = fresh.apply(grown, (n_nves, n_groups, by))
    race.benchmark.pedantic(lambda: None)
    parameters = {"nves": n_nves, "groups": n_groups, "by": by}
    target = Target(1024) if n_nves > 1 else None  # else it is groups that cost, and their lists
    race.book("device, memory", parameters, Sample.of([n_bytes]), unit="B/member", target=target)


needs_namespaces = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@needs_namespaces
@pytest.mark.usefixtures("all_cpus")
@pytest.mark.parametrize("flood", ["", "joins"])
def test_a_join_to_its_first_copy_live(race: Race, flood: str) -> None:
    with Lab("join") as lab:
        crowd = Crowd(lab, N_PORTS)
        others = range(3, N_PORTS + 1)
        first_copies(crowd, 2, others, 0, 100)
        if flood:
            crowd.flood(1, joins(1, 1_000_000, 100), 2000)
        took = first_copies(crowd, 2, others, 100, 300)
    race.benchmark.pedantic(lambda: None)
    limit = 50.0 if flood else 20.0
    for name, q, target in (("p50", 0.5, None), ("p99", 0.99, Target(limit))):
        parameters = {"joins": len(took), "ports": N_PORTS, "flood": flood or "none"}
        value = Sample.of([quantile(took, q)])
        race.book(f"live, join to first copy, {name}", parameters, value, unit="ms", target=target)


@needs_namespaces
@pytest.mark.usefixtures("all_cpus")
@pytest.mark.parametrize("per", [100, 1])
def test_ten_thousand_joins_at_once_live(race: Race, per: int) -> None:
    walls, fibs = [], []
    for _ in range(5):
        with Lab("joins") as lab:
            crowd = Crowd(lab, 2, ring_frames=16_384, max_groups_per_port=N_JOINS)
            ear, frames = crowd.ear(1, FIRST_OTHER, 9), joins(1, N_JOINS, per)
            probe = data(2, FIRST_OTHER + N_JOINS - 1)
            before = crowd.fastpath.status()["fib"]
            begin = time.perf_counter()
            for frame in frames:
                crowd.wires[1].send(frame)
            while not ear.wait(0.001):
                crowd.wires[2].send(probe)
                assert time.perf_counter() < begin + 20
            walls.append(1e3 * (time.perf_counter() - begin))
            assert crowd.settled()["punted"] == len(frames)
            assert crowd.members(1) == N_JOINS
            fibs.append(float(crowd.fastpath.status()["fib"] - before))
    race.benchmark.pedantic(lambda: None)
    parameters = {"joins": N_JOINS, "records": per}
    target = Target({100: 250.0, 1: 1000.0}[per])
    race.book("live, joins all at once", parameters, Sample.of(walls), unit="ms", target=target)
    race.book("live, FIBs", parameters, Sample.of(fibs), unit="FIBs", target=Target({100: 8, 1: 20}[per]))

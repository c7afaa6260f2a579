"""A box as `ctrl.view` pictures it, with no number twice: a device and a point for plain VTEPs in one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import ip_address

from ctrl.config import Config, parse
from ctrl.events import Bus
from ctrl.static import plan
from ctrl.view import (
    DeviceView,
    GroupView,
    MacView,
    MemberView,
    PortView,
    Recent,
    SessionView,
    SnoopingView,
    View,
)
from fastpath.model import IPAddress, Scope, group_key
from fastpath.reasons import REASONS, Unit
from fastpath.reference import MacTable
from fastpath.statistics import (
    DropCount,
    EgressCount,
    ListCount,
    PortCount,
    StageTime,
    Statistics,
    WorkerCount,
)

TEXT = """
node = "tor1"
[dataplane]
workers = 2
cpus = [3, 1]
[[network]]
name = "blue"
vni = 100
vsid = 5000
group = "239.1.1.100"
[[network.map]]
inner = "239.0.0.0/8"
group = "239.1.1.7"
[[network]]
name = "red"
vni = 7
[[port]]
name = "p1"
device = "eth3"
faces = "nve"
[[port]]
name = "core"
kind = "xdp"
faces = ["nve", "core"]
mac = "02:00:00:00:00:0a"
address = "10.0.0.1/24"
[[port]]
name = "vm0"
kind = "memory"
faces = "nve"
[device]
address = "10.0.0.1"
[[device.peer]]
group = "239.1.1.100"
addresses = ["10.0.0.2", "10.0.0.3"]
[[device.peer]]
group = "239.1.1.9"
addresses = ["10.0.0.3"]
[[device.member]]
group = "239.1.1.100"
port = "p1"
[[device.member]]
group = "239.1.1.100"
port = "core"
nve = "10.0.0.77"
[replicator]
address = "10.0.0.110"
vnis = ["100-199", 300]
[[replicator.list]]
vni = 100
addresses = ["10.0.0.3", { address = "10.0.0.4", encap = "nvgre" }]
"""
PEERS = [ip_address(f"10.0.0.{n}") for n in (2, 3, 4)]
LIST = group_key(Scope.DEVICE, ip_address("239.1.1.100"))


GROUP, GROUP_6 = ip_address("239.1.1.100"), ip_address("ff05::64")
MEMBERS = (
    MemberView(
        port="p1",
        group=GROUP_6,
        nve=ip_address("fe80::5"),
        mac=bytes.fromhex("020000000105"),
        is_exclude=False,
        sources=(ip_address("2001:db8::9"), ip_address("2001:db8::1")),
        blocked=(),
        origin="mld",
        expires_s=17.0004,
    ),
    MemberView("core", GROUP, ip_address("10.0.0.77"), None, True, (), (), "static", None),
    MemberView(
        port="p1",
        group=GROUP,
        nve=ip_address("10.1.1.5"),
        mac=bytes.fromhex("020000000105"),
        is_exclude=True,
        sources=(ip_address("10.9.0.3"),),
        blocked=(ip_address("10.9.0.10"), ip_address("10.9.0.2")),
        origin="igmp",
        expires_s=259.25,
    ),
    MemberView("p1", GROUP, None, None, True, (), (), "static", None),
)
"""In no order."""
MACS = (
    MacView(200, "red", bytes.fromhex("020000000901"), None, ip_address("10.0.0.9"), True, 7.5),
    MacView(100, "blue", bytes.fromhex("020000000702"), "vm1", None, False, 12.0004),
    MacView(100, "blue", bytes.fromhex("020000000701"), None, ip_address("2001:db8::7"), False, 0.5),
)
"""In no order."""
SERVED = (
    SessionView("tor3", "device", "m1", True, 600.5, 1.25, 72, 71, 5, 6),
    SessionView("point1", "replicator", "m1", True, 601.5, 0.25, 73, 73, 0, 0),
)
DEVICES = (
    DeviceView("tor3", "device", ip_address("10.0.0.3"), "live", "m1", 72, 71, 7, 1.25),
    DeviceView("point1", "replicator", ip_address("10.0.0.110"), "live", "m1", 73, 73, 0, 0.25),
    DeviceView("tor9", "device", ip_address("2001:db8::9"), "held", n_groups=8),
)
GROUPS = (
    GroupView(
        ip_address("239.1.1.200"), (ip_address("10.0.0.3"), ip_address("10.0.0.4")), ("point1",), (200,), 73
    ),
    GroupView(ip_address("239.1.1.7"), (ip_address("10.0.0.3"),), (), (), 71),
)
"""At a manager, in no order."""
WALL_S = 1766379482.9


class Box:
    """What is served, and what it was told."""

    def __init__(self, make: Callable[[], View] | None = None) -> None:
        self._make = make or (lambda: view(members=()))
        self.events = Bus(lambda: WALL_S)
        self.told: list[IPAddress] = []
        self.n_told: int | None = None
        self.known: MacTable | None = None

    def view(self) -> View:
        return self._make()

    def members(self) -> Sequence[MemberView]:
        return MEMBERS

    def macs(self) -> Sequence[MacView]:
        return MACS

    def stations(self) -> MacTable | None:
        """It is an NVE where it is told to be."""
        return self.known

    def devices(self) -> Sequence[DeviceView]:
        return DEVICES

    def groups(self) -> Sequence[GroupView]:
        return ()

    def sessions(self) -> Sequence[SessionView]:
        return SERVED

    def tell_moved(self, nves: Sequence[IPAddress]) -> int | None:
        """It is a manager where it is told to be."""
        return self.n_told

    def moved(self, nves: Sequence[IPAddress]) -> int:
        """It knows 10.1.1.0/24."""
        self.told += nves
        return sum(str(nve).startswith("10.1.1.") for nve in nves)


def config(text: str = TEXT) -> Config:
    reading = parse(text, "viewed.toml")
    assert reading.config, reading.findings
    return reading.config


def view(**changes) -> View:
    """The box after 90.5 s, or what differs from that."""
    planned = plan(config())
    lists = {wanted.key: wanted for wanted in planned.lists}
    device, point = lists[LIST], list(lists.values())[-1]
    statistics = Statistics(
        received=1011,
        replicated=900,
        punted=11,
        dropped=100,
        copies_out=12345,
        trains=51,
        train_copies=10002,
        bursts=203,
        drops=(
            *(DropCount(one, 7 + i) for i, one in enumerate(REASONS) if i % 3 == 1 and one.unit != Unit.RING),
            DropCount(next(one for one in REASONS if one.unit == Unit.RING), 99),
        ),
        ports=(PortCount("p1", 1000, 345), PortCount("core", 11, 12000), PortCount("vm0", 0, 0)),
        egresses=(
            EgressCount(device.local[0], 345, 34500, 1),
            EgressCount(device.local[1], 17, 1700, 2),
            EgressCount(device.remote[0], 4001, 400111, 3),
            EgressCount(device.remote[1], 5002, 500222, 4),
            EgressCount(point.remote[0], 603, 60333, 5),
        ),
        lists=(ListCount(LIST, 888),),
        stages=(_ns(9000),),
        workers=(
            WorkerCount(
                0, 3, 1001, 12000, 50, 10000, 200, (StageTime("receive", 9009), StageTime("x", 1001))
            ),
            WorkerCount(1, None, 0, 0, 0, 0, 0, (_ns(0),)),
        ),
        unknown_unicast=613,
    )
    whole = View(
        pid=4321,
        config=config(),
        started_s=1000.25,
        now_s=1090.75,
        revision=42,
        layout=planned.layout,
        lists=lists,
        statistics=statistics,
        clones={0: (40, 1990)},
        ports=(
            PortView("p1", "eth3", "packet", ("nve",), "up", 1550, "trains", "it can", 1000, 345, 99),
            PortView(
                "core", "core", "xdp", ("nve", "core"), "down", 1600, "xdp", "native, copied", 11, 12000, 0
            ),
            PortView("vm0", None, "memory", ("vm",), "up", 0, "memory", "no interface", 0, 0, 0),
        ),
        hops={PEERS[0]: "up", PEERS[1]: "no_neighbour"},
        recent=Recent(
            {REASONS[1].name: 12.3456, "groups_full": 7.5},
            {REASONS[1].name: WALL_S, "groups_full": WALL_S},
            {PEERS[0]: 1088.5},
        ),
        refused={"groups_full": 1234, "sources_full": 56, "zero_mac": 3, "not_a_group": 0},
        snooping=(
            SnoopingView("p1", "igmp", True, 31, 32, 33),
            SnoopingView("p1", "mld", False, 41, 42, 43),
            SnoopingView("core", "igmp", False, 0, 0, 0),
        ),
        n_groups=61,
        second_revision=62,
        members=MEMBERS,
        sessions=SERVED,
    )
    return replace(whole, **changes)


def _ns(ns: int) -> StageTime:
    return StageTime("receive", ns)

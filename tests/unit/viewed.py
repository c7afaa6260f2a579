"""A box as `ctrl.view` pictures it, with no number twice: a device and a point for plain VTEPs in one."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from ctrl.config import Config, parse
from ctrl.static import plan
from ctrl.view import PortView, Recent, View
from fastpath.model import Scope, group_key
from fastpath.reasons import REASONS
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
faces = "vm"
network = "blue"
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
            *(DropCount(reason, 7 + i) for i, reason in enumerate(REASONS[:-1]) if i % 3 == 1),
            DropCount(REASONS[-1], 99),
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
    )
    whole = View(
        config=config(),
        started_s=1000.25,
        now_s=1090.75,
        revision=42,
        layout=planned.layout,
        lists=lists,
        statistics=statistics,
        ports=(
            PortView("p1", "eth3", "packet", ("nve",), "up", 1550, "trains", "it can", 1000, 345, 99),
            PortView(
                "core", "core", "xdp", ("nve", "core"), "down", 1600, "xdp", "native, copied", 11, 12000, 0
            ),
            PortView("vm0", None, "memory", ("vm",), "up", 0, "memory", "no interface", 0, 0, 0),
        ),
        hops={PEERS[0]: "up", PEERS[1]: "no_neighbour"},
        recent=Recent({REASONS[1].name: 12.3456}, {REASONS[1].name: 1766379482.9}, {PEERS[0]: 1088.5}),
    )
    return replace(whole, **changes)


def _ns(ns: int) -> StageTime:
    return StageTime("receive", ns)

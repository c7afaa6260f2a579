"""From a VM's report for a group of tenants to its first copy: through a fabric of ToRs and a manager, and in
turn with it the kernel's own way, one Linux bridge that snoops.

A stream to the group is on the way all the time, to a VM that joined before. Who joins next is behind a host
of ours or of Linux's, at a ToR that has the group already, or at one of which the manager has to tell first.
The reports are our own: those of a kernel would wait for its timer first, for two of its ticks.
"""

from __future__ import annotations

import socket
import tempfile
import time
from functools import partial
from ipaddress import IPv4Address

import pytest

from bench.conftest import FULL, Race
from bench.figures import Sample, Target
from ctrl.lab.namespaces import Namespace, connect, missing
from ctrl.lab.numbered import DISCARD, sending
from ctrl.protocols import igmp
from ctrl.protocols.messages import Kind, Record, Report
from tests.system.crowd import Ear, quantile
from tests.system.lab import Lab, has_carrier, wait_for
from tests.system.tenant_fabric import BITS, FIRST, TenantFabric

N_JOINS = 2000 if FULL else 200
PER_REPORT = 50
LIMIT_S = 10.0
APART_S = 0.06
"""Between joins: what a manager gathers is not that of two of them."""
TIMERS = {"query_interval_s": 3600, "startup_response_interval_s": 0.4}
"""Of the ToRs: nobody would answer a query."""
SENDER, FIRST_RECEIVER = "vm1", "vm6"
LATER = {
    "a host of ours, at a ToR that has it": "vm5",
    "a Linux host, at a ToR that has it": "vm7",
    "a host of ours, by the manager": "vm9",
    "a Linux host, by the manager": "vm11",
}
RIVAL = "one Linux bridge"

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


class Vm:
    """A VM that joins by frames of our own."""

    def __init__(self, lab: Lab, box: Namespace, address: str) -> None:
        self.box, self._address = box, int(IPv4Address(address))
        self._mac = bytes.fromhex(box.mac("eth0").replace(":", ""))
        self._wire = lab.packet_socket(box, "eth0")
        self.ear = Ear(lab.packet_socket(box, "eth0"), FIRST, BITS)

    def join(self, groups: range) -> None:
        for at in range(0, len(groups), PER_REPORT):
            records = tuple(Record(Kind.TO_EX, group) for group in groups[at : at + PER_REPORT])
            self._wire.send(igmp.report_frame(Report(3, records), self._mac, self._address))


def first_copy_ms(sender: socket.socket, vm: Vm, group: int) -> float:
    """Have a VM join a group that is sent to without a pause."""
    to = (str(IPv4Address(group)), DISCARD)
    begin = time.perf_counter()
    vm.join(range(group, group + 1))
    while True:
        sender.sendto(bytes(12), to)
        if vm.ear.wait(0.0005):
            return 1e3 * (time.perf_counter() - begin)
        assert time.perf_counter() < begin + LIMIT_S, f"no copy of {to[0]}"


def bridge(lab: Lab, names: list[str]) -> dict[str, Vm]:
    """VMs at a Linux bridge that asks and snoops."""
    host, vms = lab.box("bridge"), {}
    host.command("ip", "link", "add", "br0", "type", "bridge", "mcast_hash_max", "65536")
    for word, value in (("mcast_query_response_interval", 10), ("mcast_querier", 1)):
        host.command("ip", "link", "set", "br0", "type", "bridge", word, str(value))  # floods for the first
    host.set_link("br0", state="up")
    for n, name in enumerate(names, 1):
        box = lab.box(f"{name}-br")
        connect(host, name, box, "eth0")
        host.set_link(name, master=host.index("br0"))
        box.address("eth0", f"192.168.101.{n}/24")
        wait_for(partial(has_carrier, box, "eth0"), "the carrier of a VM")
        vms[name] = Vm(lab, box, f"192.168.101.{n}")
    return vms


def is_flooded(rivals: dict[str, Vm], group: int, sender: socket.socket) -> bool:
    """Whether who did not join gets a copy of a group that another one joined."""
    sender.sendto(bytes(12), (str(IPv4Address(group)), DISCARD))
    assert rivals[FIRST_RECEIVER].ear.wait(1.0)
    return rivals["vm5"].ear.wait(0.1)


@pytest.mark.usefixtures("all_cpus")
@pytest.mark.parametrize("store", ["disk", "memory"])
def test_a_tenants_join_to_its_first_copy(race: Race, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`store`: where the manager keeps what it knows; on a disk each change waits for an fsync."""
    if store == "memory":
        monkeypatch.setattr(tempfile, "tempdir", "/dev/shm")
    groups = {
        way: range(FIRST + n * N_JOINS, FIRST + (n + 1) * N_JOINS) for n, way in enumerate((*LATER, RIVAL))
    }
    took_ms: dict[str, list[float]] = {way: [] for way in groups}
    with Lab("tj") as lab:
        fabric = TenantFabric(lab, TIMERS)
        rivals = bridge(lab, [SENDER, FIRST_RECEIVER, "vm5"])
        first = Vm(lab, fabric.boxes[FIRST_RECEIVER], fabric.vms[FIRST_RECEIVER].address)
        later = {way: Vm(lab, fabric.boxes[vm], fabric.vms[vm].address) for way, vm in LATER.items()}
        later[RIVAL] = rivals["vm5"]
        senders = dict.fromkeys(LATER, fabric.boxes[SENDER].run(sending, "eth0"))
        senders[RIVAL] = rivals[SENDER].box.run(sending, "eth0")
        for way, some in groups.items():
            (rivals[FIRST_RECEIVER] if way == RIVAL else first).join(some)
        for way in LATER:
            for group in (groups[way][0], groups[way][-1]):
                fabric.narrows(SENDER, str(IPv4Address(group)), [FIRST_RECEIVER], within_s=30.0)
        wait_for(
            lambda: not is_flooded(rivals, groups[RIVAL][-1], senders[RIVAL]), "the bridge floods no more"
        )
        for at in range(N_JOINS):
            for way, some in groups.items():
                time.sleep(0 if way == RIVAL else APART_S)
                took_ms[way].append(first_copy_ms(senders[way], later[way], some[at]))
        for one in {*senders.values()}:
            one.close()
    race.benchmark.pedantic(lambda: None)
    for way, found in took_ms.items():
        parameters = {"joins": N_JOINS, "behind": way, "store": store}
        for name, q in (("p50", 0.5), ("p99", 0.99)):
            target = Target(50.0) if q > 0.5 and way != RIVAL else None
            value = Sample.of([quantile(found, q)])
            race.book(f"tenants, join to first copy, {name}", parameters, value, unit="ms", target=target)

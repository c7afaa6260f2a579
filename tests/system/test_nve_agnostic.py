"""An NVE that hands its tenants' IGMP on without reading it (N12), with a service node.

vm1, vm2 -- v1, v2 [n1] core ---+
     vm3 -- v3     [n2] core ---+
                  [service] ---+
"""

from __future__ import annotations

import time
from ipaddress import ip_address

import pytest

from ctrl.lab.namespaces import missing
from ctrl.protocols import igmp
from ctrl.protocols.messages import Kind, Record, Report
from tests.system.fabric import attach
from tests.system.joins import Ear
from tests.system.lab import ETH_P_ALL, QUIET_S, Fastpath, Lab, wait_for
from tests.system.nves import core_port, floods_to, veth_box, vm_port

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
MAC = bytes.fromhex("02d000000001")
NETWORK = '[[network]]\nname = "blue"\nvni = 100\nigmp_to = ["10.0.0.9"]\n'


def report(group: str) -> bytes:
    record = Record(Kind.TO_EX, int(ip_address(group)))
    return igmp.report_frame(Report(3, (record,)), MAC, int(ip_address("192.168.7.1")))


def test_what_a_vm_joins_is_heard_by_all_of_its_network_and_by_the_service_node_besides() -> None:
    """N12: once each, as it was; and what comes from elsewhere the NVE sends to no service node."""
    with Lab("agnostic") as lab:
        core = lab.box("core")
        core.add_link("core", "bridge")
        boxes = {name: lab.box(name) for name in ("n1", "n2", "service")}
        for name, last in (("n1", 1), ("n2", 2), ("service", 9)):
            attach(core, boxes[name], name, f"10.0.0.{last}")
        vms = {
            f"vm{n}": veth_box(lab, boxes[host], f"v{n}", f"vm{n}")
            for n, host in ((1, "n1"), (2, "n1"), (3, "n2"))
        }
        ports = {"n1": ("v1", "v2"), "n2": ("v3",)}
        nves = []
        for (name, own), address, other in zip(
            ports.items(), ("10.0.0.1", "10.0.0.2"), ("10.0.0.2", "10.0.0.1"), strict=True
        ):
            role = f'[nve]\naddress = "{address}"\nsend_to = ["{other}"]\n'
            text = core_port("core") + "".join(map(vm_port, own)) + NETWORK + role
            nves.append(Fastpath(lab, boxes[name], text, name=name, waits=False))
        for nve, own in zip(nves, ports.values(), strict=True):
            nve.answers()
            floods_to(nve, *own)
        ears = {name: Ear(lab, box, "eth0") for name, box in vms.items()}
        ears["service"] = Ear(lab, boxes["service"], "core")
        said = [report(f"239.77.0.{n}") for n in range(1, 4)]
        mouth = lab.packet_socket(vms["vm1"], "eth0", ETH_P_ALL)

        def heard(name: str) -> list[bytes]:
            """What came of it, to a VM as it is, to the service node tunnelled."""
            frames = (frame[50 * (name == "service") :] for frame in ears[name].frames(outgoing=False))
            return [frame for frame in frames if frame[6:12] == MAC]

        others = ("vm2", "vm3", "service")

        def is_reached() -> bool:
            """Say whether next hops are known to all: a report of another group arrives everywhere."""
            mouth.send(report("239.77.0.9"))
            time.sleep(QUIET_S)
            return all(map(heard, others))

        wait_for(is_reached, "next hops")
        for ear in ears.values():
            ear.forget()
        for frame in said:
            mouth.send(frame)
        wait_for(lambda: all(len(heard(name)) >= 3 for name in others), lambda: f"{[*map(heard, others)]}")
        assert {name: heard(name) for name in ears} == {"vm1": [], "vm2": said, "vm3": said, "service": said}
        senders = {frame[26:30] for frame in ears["service"].frames(outgoing=False) if frame[56:62] == MAC}
        assert senders == {ip_address("10.0.0.1").packed}

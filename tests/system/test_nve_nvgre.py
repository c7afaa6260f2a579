"""NVGRE from end to end: the lab `nvgre` as it stands in its file, and Open vSwitch as an NVGRE host behind a
replication point that our NVE sends to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import pytest

from ctrl.lab import labfile
from ctrl.lab.build import build
from ctrl.lab.echo import Echo
from ctrl.lab.namespaces import missing
from tests.system import switch
from tests.system.lab import Fastpath, Lab, Vm, expect_once, wait_for
from tests.system.nves import Talker, colons, core_port, joined, knows, lost_by, veth_vm, vm_port
from tests.system.switch import OVS, POINT

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
needs_ovs = pytest.mark.skipif(switch.missing() is not None, reason=str(switch.missing()))
MANY = list(range(1, 101))
GROUP = "239.1.1.100"


@dataclass
class Nvgre:
    """The lab: its daemons and VMs by the names of their boxes."""

    daemons: dict[str, Fastpath]
    vms: dict[str, Talker]

    def copies(self, box: str, port: str) -> int:
        return int(self.daemons[box].port(port)["copies_out"])


@pytest.fixture(scope="module")
def lab() -> Iterator[Nvgre]:
    file = labfile.read(labfile.known()["nvgre"])
    with Lab("nvgre") as made:
        boxes = build(made, file)
        daemons = {
            name: Fastpath(made, boxes[name], text, name=name, waits=False)
            for name, text in file.fastpaths.items()
        }
        for one in daemons.values():
            one.answers()
        vms = {f"vm{n}": Talker(made, boxes[f"vm{n}"], "eth0", n) for n in (1, 2, 3, 4)}
        joined(daemons["tor1"], GROUP, "p1", "p2")
        joined(daemons["tor2"], GROUP, "p1")
        yield Nvgre(daemons, vms)


@pytest.mark.parametrize("sender", ["vm1", "vm2", "vm3"])
def test_what_one_host_floods_all_vms_get_once_whatever_their_hosts_speak(lab: Nvgre, sender: str) -> None:
    """N2, N10: two copies go to two VMs of one host, but one goes up and one to its ToR."""
    host, uplink = {"vm1": "host1", "vm3": "host3"}.get(sender), lab.copies("tor1", "core")
    before = lab.copies(host, "up") if host else 0
    lab.vms[sender].send(*MANY)
    expect_once(lab.vms, MANY, but=(sender,))
    if host:
        assert lab.copies(host, "up") - before == len(MANY)
    assert lab.copies("tor1", "core") - uplink == (0 if sender == "vm3" else len(MANY))


def test_frames_of_full_size_cross_two_devices_and_a_point(lab: Nvgre) -> None:
    lab.vms["vm3"].send(*MANY, size=1514)
    expect_once(lab.vms, MANY, but=("vm3",))


def test_vms_speak_ip_with_one_another_and_no_answer_is_flooded(lab: Nvgre) -> None:
    """N8: what is known goes straight to its host, in the encapsulation that this one understands."""
    for asker, asked in (("vm1", "vm3"), ("vm1", "vm2"), ("vm3", "vm2"), ("vm4", "vm1")):
        lab.vms["vm2"].send(1)  # a translated broadcast must not turn what is known of Linux's host
        with closing(lab.vms[asker].box.run(Echo)) as echo:
            address = f"192.168.100.{asked[2:]}"
            wait_for(partial(lab.vms[asker].box.run, echo.ask, address, 0.5), f"{asked} answers {asker}")
    before = lab.daemons["point1"].settled()["replicated"]
    for vm in lab.vms.values():
        vm.heard(0)
    lab.vms["vm1"].say(bytes.fromhex(lab.vms["vm3"].box.mac("eth0").replace(":", "")), *MANY)
    assert lab.vms["vm3"].heard(len(MANY)) == MANY
    assert lab.daemons["point1"].settled()["replicated"] == before


def test_a_translated_broadcast_does_not_make_us_speak_to_a_host_what_it_does_not(lab: Nvgre) -> None:
    """Linux's host has said by unicast that it speaks VXLAN; the device makes its broadcasts NVGRE."""
    vm1, vm2 = lab.vms["vm1"], lab.vms["vm2"]
    vm1.send(1)
    vm2.heard(1)
    vm2.say(vm1.mac, 2)
    vm1.heard(1)
    vm2.send(3)
    vm1.heard(1)
    host1 = lab.daemons["host1"]
    host1.box.set_link("to-vm1", mtu=1499)  # what is new of the kernel lets waiting VTEPs in
    wait_for(lambda: host1.port("to-vm1")["mtu"] == 1499, "the news")
    host1.box.set_link("to-vm1", mtu=1500)
    vm1.say(vm2.mac, *MANY)
    assert vm2.heard(len(MANY)) == MANY
    for vm in lab.vms.values():
        vm.heard(0)


def test_nothing_was_lost_on_the_way(lab: Nvgre) -> None:
    assert {name: lost for name, one in lab.daemons.items() if (lost := lost_by(one))} == {}


LINUX, OURS = "10.1.1.2", "10.1.2.2"
VNI, VSID, FLOW = 100, 5000, 42


@needs_ovs
def test_open_vswitch_and_our_nve_speak_nvgre_through_a_point() -> None:
    """One copy goes to the service node (N1); frames to OVS's VM go straight there, as learned (N8)."""
    with Lab("ovsnve") as lab:
        box, far, ovs = switch.behind_a_point(lab)
        ovs.tunnel("gre", "gre", OVS)
        vms: dict[str, Vm] = {"ovs": ovs.vm("vm", 5, "gre", VSID << 8 | FLOW, 0xFFFFFF00, POINT)}
        far[1].vxlan("vx", VNI, local=LINUX, group=POINT, vxlan_learning=1)
        vms["linux"] = Vm(lab, far[1], "vx", 3)
        ours = veth_vm(lab, far[2], "v1", 4)
        ports = "".join(f'[[port]]\nname = "p{n}"\nfaces = "core"\n' for n in (1, 2, 3))
        nvgre = [f'{{ address = "{address}", encap = "nvgre", vni = {VSID} }}' for address in (OVS, OURS)]
        lists = f'[[replicator.list]]\nvni = {VNI}\naddresses = ["{LINUX}", {", ".join(nvgre)}]\n'
        point = Fastpath(lab, box, ports + f'[replicator]\naddress = "{POINT}"\n' + lists, waits=False)
        nve = Fastpath(
            lab,
            far[2],
            core_port()
            + vm_port("v1")
            + f'[[network]]\nname = "blue"\nvni = {VNI}\nvsid = {VSID}\nencap = "nvgre"\ngroup = "{GROUP}"\n'
            + f'[nve]\naddress = "{OURS}"\nsend_to = "{POINT}"\n',
            waits=False,
        )
        vms["ours"] = ours
        point.answers()
        nve.answers()
        for sender, vm in vms.items():
            vm.send(*MANY)
            expect_once(vms, MANY, but=(sender,))
        assert int(nve.port("up")["copies_out"]) == len(MANY)
        assert knows(nve, vms["ovs"])[colons(vms["ovs"].mac)] == OVS
        before = point.settled()["replicated"]
        ours.say(vms["ovs"].mac, *MANY)
        expect_once(vms, MANY, but=("linux", "ours"))
        assert point.settled()["replicated"] == before
        assert {**lost_by(nve), **point.lost()} == {}

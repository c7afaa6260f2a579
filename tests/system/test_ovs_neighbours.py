"""Open vSwitch, as NVGRE and as VXLAN peer, and Linux VXLAN devices behind one replication point."""

import pytest

from ctrl.lab import namespaces
from tests.system import switch
from tests.system.lab import Fastpath, Lab, Vm, expect_once
from tests.system.switch import OVS, POINT

WHY = namespaces.missing() or switch.missing()
pytestmark = pytest.mark.skipif(WHY is not None, reason=str(WHY))
LINUX, OTHER_LINUX = "10.1.1.2", "10.1.2.2"
MANY = list(range(1, 101))
VNI, VSID, FLOW = 100, 5000, 42
FOREIGN = 7000
PORTS = "".join(f'[[port]]\nname = "p{n}"\nfaces = "core"\n' for n in (1, 2, 3))


@pytest.fixture
def lab():
    with Lab("ovs") as made:
        yield made


def build(lab):
    """The point's box; two Linux VTEPs that flood to the point; an Open vSwitch."""
    box, far, ovs = switch.behind_a_point(lab)
    vms = {}
    for name, n, address in (("linux", 1, LINUX), ("other linux", 2, OTHER_LINUX)):
        far[n].vxlan("vx", VNI, local=address, group=POINT)
        vms[name] = Vm(lab, far[n], "vx", n)
        far[n].vxlan("vx7000", FOREIGN, local=address, group=POINT)
        vms[f"{name}, another vni"] = Vm(lab, far[n], "vx7000", n)
    return box, ovs, vms


def all_but_foreign(vms, sender):
    return tuple(name for name in vms if name == sender or "another" in name)


def test_open_vswitch_by_nvgre_and_linux_by_vxlan_share_one_network(lab):
    box, ovs, vms = build(lab)
    ovs.tunnel("gre", "gre", OVS)
    vms["ovs"] = ovs.vm("vm", 5, "gre", VSID << 8 | FLOW, 0xFFFFFF00, POINT)
    vms["ovs, another vsid"] = ovs.vm("other", 6, "gre", FOREIGN << 8, 0xFFFFFF00, POINT)
    config = PORTS + f'[replicator]\naddress = "{POINT}"\n[[replicator.list]]\nvni = {VNI}\n'
    nvgre = f'{{ address = "{OVS}", encap = "nvgre", vni = {VSID} }}'
    fastpath = Fastpath(lab, box, config + f'addresses = ["{LINUX}", "{OTHER_LINUX}", {nvgre}]\n')
    for sender in ("linux", "other linux", "ovs"):
        vms[sender].send(*MANY)
        expect_once(vms, MANY, but=all_but_foreign(vms, sender))
    assert fastpath.drops() == {}
    vms["ovs, another vsid"].send(*MANY)
    expect_once(vms, [])
    assert fastpath.drops() == {"unknown_vni": len(MANY)}
    assert fastpath.settled()["copies_out"] == 3 * 2 * len(MANY)


def test_open_vswitch_by_vxlan_gets_and_sends_what_linux_does(lab):
    box, ovs, vms = build(lab)
    ovs.tunnel("vxlan", "vxlan", OVS)
    vms["ovs"] = ovs.vm("vm", 5, "vxlan", VNI, 0xFFFFFF, POINT)
    vms["ovs, another vni"] = ovs.vm("other", 6, "vxlan", FOREIGN, 0xFFFFFF, POINT)
    config = PORTS + f'[replicator]\naddress = "{POINT}"\n[[replicator.list]]\nvni = {VNI}\n'
    fastpath = Fastpath(lab, box, config + f'addresses = ["{LINUX}", "{OTHER_LINUX}", "{OVS}"]\n')
    for sender in ("linux", "other linux", "ovs"):
        vms[sender].send(*MANY)
        expect_once(vms, MANY, but=all_but_foreign(vms, sender))
    assert fastpath.drops() == {}


def test_several_open_vswitch_vms_of_one_vsid_send_flow_ids_of_their_own(lab):
    box, ovs, vms = build(lab)
    ovs.tunnel("gre", "gre", OVS)
    for flow in (0, 1, 255):
        vms[f"ovs flow {flow}"] = ovs.vm(
            f"vm{flow}", 5 + flow % 7, "gre", VSID << 8 | flow, 0xFFFFFFFF, POINT
        )
    addresses = f'[{{ address = "{LINUX}", encap = "vxlan", vni = {VNI}, source = "own" }}, "{OVS}"]'
    config = PORTS + f'[replicator]\naddress = "{POINT}"\n[[replicator.list]]\nvsid = {VSID}\n'
    Fastpath(lab, box, config + f"addresses = {addresses}\n")
    for flow in (0, 1, 255):
        vms[f"ovs flow {flow}"].send(*MANY)
        expect_once(vms, MANY, but=tuple(name for name in vms if name != "linux"))

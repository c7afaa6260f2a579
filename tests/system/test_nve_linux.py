"""An NVE of ours and Linux's own in one network, behind one device: what floods reaches everybody once, known
unicast goes straight.

    vm1 -- v1 [nve] up ---- p1 [tor] p2 ---- up [n2] vx   (Linux: the VM is on the VXLAN device itself)
    vm2 -- t2 [nve]            [tor] p3 ---- up [n3] vx
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from ctrl.lab.namespaces import Namespace
from tests import taps
from tests.system.lab import Fastpath, Lab, expect_once, plug, wait_for
from tests.system.nves import (
    QUICK,
    Talker,
    core_port,
    expect_straight,
    floods_to,
    introduce,
    joined,
    lost_by,
    tap_vm,
    veth_vm,
    vm_port,
)
from tests.system.test_vxlan_neighbours import speak_tcp

WHY = taps.why_not()
pytestmark = pytest.mark.skipif(WHY is not None, reason=str(WHY))
MANY = list(range(1, 101))
NOBODY = b"\2\xd0\0\0\0\x63"


@dataclass
class Fabric:
    tor: Fastpath
    nve: Fastpath
    tor_box: Namespace
    nve_box: Namespace
    group: str
    vms: dict[str, Talker]
    """vm1 and vm2 behind our NVE, n2 and n3 behind Linux's."""

    def copies_up(self) -> int:
        """Frames that the NVE sent by its uplink as copies."""
        return int(self.nve.port("up")["copies_out"])


FAMILIES = [pytest.param(False, id="ipv4"), pytest.param(True, id="ipv6", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=FAMILIES)
def fabric(request: pytest.FixtureRequest) -> Iterator[Fabric]:
    six = request.param
    group, tor_address = ("ff05::100", "fd00:9::1") if six else ("239.1.1.100", "10.9.0.1")

    def link(n: int) -> tuple[str, str]:
        return (f"fd00:1:{n}::1/64", f"fd00:1:{n}::2/64") if six else (f"10.1.{n}.1/24", f"10.1.{n}.2/24")

    def address(n: int) -> str:
        return link(n)[1].split("/")[0]

    with Lab("nve") as lab:
        tor_box = lab.box("tor", six=six, forwards=True)
        tor_box.address("lo", tor_address + ("/128" if six else "/32"))
        hosts = {n: lab.box(f"n{n}", six=six) for n in (1, 2, 3)}
        for n, host in hosts.items():
            plug(tor_box, f"p{n}", host, link(n))
        network = f'[[network]]\nname = "blue"\nvni = 100\ngroup = "{group}"\n'
        ports = "".join(f'[[port]]\nname = "p{n}"\nfaces = "nve"\n' for n in hosts)
        tor = Fastpath(
            lab, tor_box, ports + network + QUICK + f'[device]\naddress = "{tor_address}"\n', waits=False
        )
        vm1 = veth_vm(lab, hosts[1], "v1", 1)
        nve = Fastpath(
            lab,
            hosts[1],
            core_port()
            + vm_port("v1")
            + vm_port("t2", kind="tap")
            + network
            + f'[nve]\naddress = "{address(1)}"\n',
            waits=False,
        )
        vms = {"vm1": vm1}
        for n in (2, 3):
            hosts[n].vxlan(
                "vx", 100, local=address(n), under="up", group=group, vxlan_learning=1, vxlan_ttl=4
            )
            vms[f"n{n}"] = Talker(lab, hosts[n], "vx", n + 1)
        tor.answers()
        nve.answers()
        vms["vm2"] = tap_vm(lab, hosts[1], "t2", 2)
        joined(tor, group, "p1", "p2", "p3")
        floods_to(nve, "v1", "t2")
        yield Fabric(tor, nve, tor_box, hosts[1], group, vms)


@pytest.mark.parametrize("sender", ["vm1", "vm2", "n2"])
def test_a_broadcast_reaches_every_other_vm_once(fabric: Fabric, sender: str) -> None:
    """N1, N2, N10; from our own VMs one copy goes up, however many receive it."""
    before = fabric.copies_up()
    fabric.vms[sender].send(*MANY)
    expect_once(fabric.vms, MANY, but=(sender,))
    assert fabric.copies_up() - before == (len(MANY) if sender.startswith("vm") else 0)


@pytest.mark.parametrize("to", [b"\1\0\x5e\1\2\3", NOBODY], ids=["multicast", "unknown"])
@pytest.mark.parametrize("sender", ["vm1", "n2"])
def test_multicast_and_unknown_unicast_are_flooded_alike(fabric: Fabric, sender: str, to: bytes) -> None:
    """N1, N8."""
    before = fabric.copies_up()
    fabric.vms[sender].say(to, *MANY)
    expect_once(fabric.vms, MANY, but=(sender,))
    assert fabric.copies_up() - before == (len(MANY) if sender == "vm1" else 0)


def test_known_unicast_goes_straight_to_its_vm_and_to_nobody_else(fabric: Fabric) -> None:
    """N8: not even by the device's process."""
    vms = fabric.vms
    introduce(vms, fabric.nve)
    before = fabric.tor.settled()["replicated"]
    pairs = ("vm1", "n2"), ("n2", "vm1"), ("vm2", "n3"), ("n3", "vm2"), ("vm1", "vm2")
    expect_straight(vms, MANY, *pairs)
    assert fabric.tor.settled()["replicated"] == before


def test_frames_of_full_size_cross(fabric: Fabric) -> None:
    fabric.vms["vm1"].send(*MANY, size=1514)
    expect_once(fabric.vms, MANY, but=("vm1",))


def test_vms_speak_tcp_whose_sums_and_segments_they_leave_to_others(fabric: Fabric) -> None:
    """LIMITS trap 12: neither a veth nor a TAP finishes what its VM sends."""
    addresses = {"vm1": "192.168.7.1", "vm2": "192.168.7.2", "n2": "192.168.7.3"}
    for name, address in addresses.items():
        fabric.vms[name].box.address(fabric.vms[name].device, f"{address}/24")
    for client, server in (("vm1", "n2"), ("vm2", "n2"), ("n2", "vm2"), ("vm1", "vm2")):
        ends = (fabric.vms[client].box, fabric.vms[server].box)
        assert speak_tcp(*ends, addresses[server], 200_000) == 200_000


def test_nothing_was_lost_and_all_books_balance(fabric: Fabric) -> None:
    for one in (fabric.nve, fabric.tor):
        now = one.settled()
        assert now["received"] == now["replicated"] + now["punted"] + now["dropped"]
        assert lost_by(one) == {}, one.log


def test_kill_9_leaves_nothing_behind(fabric: Fabric) -> None:
    """The TAP goes, from where the VM had it; who comes after finds no filter in the way."""
    box = fabric.vms["vm2"].box
    assert "t2" in box.command("ip", "link")
    fabric.nve.end(signal.SIGKILL)
    wait_for(lambda: "t2" not in box.command("ip", "link"), "the TAP is gone")
    fabric.nve.start()
    floods_to(fabric.nve, "v1", "t2")
    joined(fabric.tor, fabric.group, "p1", "p2", "p3")
    fabric.vms["n2"].send(*MANY)
    expect_once({name: fabric.vms[name] for name in ("vm1", "n2", "n3")}, MANY, but=("n2",))

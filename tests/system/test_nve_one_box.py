"""One box: NVE and device in one process over an internal port (N11), VMs that move between NVEs, and what a
killed NVE leaves behind.

    vm1 -- v1 [one: nve, up == down: device] p2 ---- up [n2] vx     Linux
                                             p3 ---- up [n3]        fastpath's NVE, vm3 at v3
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial

import pytest

from ctrl.lab.echo import Echo
from ctrl.lab.namespaces import Namespace, missing
from tests.system.lab import Fastpath, Lab, expect_once, in_proportion, plug, wait_for
from tests.system.nves import (
    QUICK,
    Talker,
    colons,
    core_port,
    expect_straight,
    floods_to,
    introduce,
    joined,
    macs,
    veth_vm,
    vm_port,
)

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
MANY = list(range(1, 101))
GROUP, DEVICE, ONE, FAR = "239.1.1.100", "10.9.0.1", "10.9.1.1", "10.1.3.2"
NETWORK = f'[[network]]\nname = "blue"\nvni = 100\ngroup = "{GROUP}"\n'
INSIDE = """
[[port]]
name = "up"
kind = "internal"
peer = "down"
faces = "core"
address = "10.9.1.1/32"
[[port]]
name = "down"
kind = "internal"
peer = "up"
faces = "nve"
"""
OUTSIDE = "".join(f'[[port]]\nname = "p{n}"\nfaces = "nve"\n' for n in (2, 3))
ROLES = f'[nve]\naddress = "{ONE}"\n[device]\naddress = "{DEVICE}"\n'


def one_config(*vm_ports: str) -> str:
    return INSIDE + OUTSIDE + "".join(map(vm_port, vm_ports)) + NETWORK + QUICK + ROLES


def far_config(*vm_ports: str) -> str:
    return core_port() + "".join(map(vm_port, vm_ports)) + NETWORK + f'[nve]\naddress = "{FAR}"\n'


@dataclass
class Boxes:
    lab: Lab
    one_box: Namespace
    far_box: Namespace
    one: Fastpath
    far: Fastpath
    vms: dict[str, Talker]


@pytest.fixture(scope="module")
def boxes() -> Iterator[Boxes]:
    with Lab("onebox") as lab:
        one_box = lab.box("one", forwards=True)
        for address in (DEVICE, ONE):
            one_box.address("lo", f"{address}/32")
        hosts = {n: lab.box(f"n{n}") for n in (2, 3)}
        for n, host in hosts.items():
            plug(one_box, f"p{n}", host, (f"10.1.{n}.1/24", f"10.1.{n}.2/24"))
        vms = {"vm1": veth_vm(lab, one_box, "v1", 1), "vm3": veth_vm(lab, hosts[3], "v3", 3)}
        one = Fastpath(lab, one_box, one_config("v1"), waits=False)
        far = Fastpath(lab, hosts[3], far_config("v3"), waits=False)
        hosts[2].vxlan("vx", 100, local="10.1.2.2", under="up", group=GROUP, vxlan_learning=1, vxlan_ttl=4)
        vms["n2"] = Talker(lab, hosts[2], "vx", 2)
        one.answers()
        far.answers()
        joined(one, GROUP, "down", "p2", "p3")
        yield Boxes(lab, one_box, hosts[3], one, far, vms)


@pytest.mark.parametrize("sender", ["vm1", "vm3", "n2"])
def test_a_broadcast_crosses_the_box_and_reaches_every_other_vm_once(boxes: Boxes, sender: str) -> None:
    """N11: the box's own NVE is one more behind the device; its one copy goes through no kernel."""
    before = int(boxes.one.port("up")["copies_out"])
    boxes.vms[sender].send(*MANY)
    expect_once(boxes.vms, MANY, but=(sender,))
    assert int(boxes.one.port("up")["copies_out"]) - before == (len(MANY) if sender == "vm1" else 0)


def test_known_unicast_leaves_the_box_by_the_way_to_its_host(boxes: Boxes) -> None:
    """N8, N11: the device inside has nothing to do with it."""
    vms = boxes.vms
    introduce(vms, boxes.one, boxes.far)
    known = macs(boxes.one)
    assert {name: known[colons(vm.mac)] for name, vm in vms.items()} == {
        "vm1": "v1", "n2": "10.1.2.2", "vm3": FAR,
    }  # fmt: skip
    before = int(boxes.one.port("up")["copies_out"])
    expect_straight(vms, MANY, ("vm1", "n2"), ("n2", "vm1"), ("vm3", "vm1"), ("vm1", "vm3"))
    assert int(boxes.one.port("up")["copies_out"]) == before


def test_a_vm_that_moves_is_served_again_within_a_second(boxes: Boxes) -> None:
    """Its port is deleted here and added there; it says so by a broadcast, as by gratuitous ARP.

    In proportion on a machine that is busy.
    """
    vms = boxes.vms
    here, there = (
        veth_vm(boxes.lab, boxes.one_box, "m1", 7),
        veth_vm(boxes.lab, boxes.far_box, "m3", 7, "vm7b"),
    )
    boxes.one.reload(one_config("v1", "m1"))
    floods_to(boxes.one, "v1", "m1")
    here.send(0)
    vms["n2"].heard(1)
    bound_s = in_proportion(1.0)
    with speaking(vms["n2"], here.mac) as sent_s:
        got_here = here.heard(50, quiet_s=0)
        boxes.one.configure(one_config("v1"))
        boxes.far.configure(far_config("v3", "m3"))
        for one in (boxes.one, boxes.far):
            one.process.send_signal(signal.SIGHUP)
        floods_to(boxes.far, "v3", "m3")
        there.send(0)
        got_there = there.heard(50, quiet_s=0)
        got_here += here.heard(0, quiet_s=0)
    outage_s = sent_s[got_there[0]] - sent_s[got_here[-1]]
    assert 0 < outage_s < bound_s
    wait_for(lambda: macs(boxes.one).get(colons(here.mac)) == FAR, "the station has moved")
    boxes.far.reload(far_config("v3"))
    for vm in vms.values():
        vm.heard(0)


@contextmanager
def speaking(vm: Talker, to: bytes) -> Iterator[list[float]]:
    """Have a VM speak to another one, all the time; yields when each number was sent."""
    stop, sent_s = threading.Event(), list[float]()

    def speak() -> None:
        while not stop.wait(0.005):
            sent_s.append(time.monotonic())
            vm.say(to, len(sent_s) - 1)

    thread = threading.Thread(target=speak)
    thread.start()
    try:
        yield sent_s
    finally:
        stop.set()
        thread.join()


def test_an_nve_leaves_its_group_with_its_last_vm_port(boxes: Boxes) -> None:
    """N4, N5."""
    joined(boxes.one, GROUP, "down", "p2", "p3")
    boxes.far_box.set_link("v3", state="down")
    joined(boxes.one, GROUP, "down", "p2")
    boxes.far_box.set_link("v3", state="up")
    joined(boxes.one, GROUP, "down", "p2", "p3")


def test_kill_9_leaves_nothing_behind_and_the_next_one_goes_on(boxes: Boxes) -> None:
    boxes.one.end(signal.SIGKILL)
    boxes.vms["vm1"].box.address("eth0", "10.77.0.2/24")
    boxes.one_box.address("v1", "10.77.0.1/24")
    with closing(boxes.vms["vm1"].box.run(Echo)) as echo:
        ask = partial(boxes.vms["vm1"].box.run, echo.ask, "10.77.0.1", 0.3)
        wait_for(ask, "the kernel gets what the VM sends again")
        boxes.one.start()
        assert ask() is None
    joined(boxes.one, GROUP, "down", "p2", "p3")
    boxes.vms["n2"].send(*MANY)
    expect_once(boxes.vms, MANY, but=("n2",))

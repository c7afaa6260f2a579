"""Lists whose copies leave by eight ports, by clones: who gets what, and what it costs if one port refuses.

    n0 [up] ---- [p0] box [p1] ---- [up] n1, ... n8

An NVE sends behind p0. Ports 1 to 6 face NVEs, 7 and 8 the core.
"""

from collections import Counter

import pytest

from ctrl.lab.namespaces import missing
from fastpath import bpf
from tests import frames as f
from tests.system.fan import CORE, GROUP, PORTS, VNI, Fan, address, copies
from tests.system.lab import Lab, Vm, finished, wait_for

WHY_NOT = missing() or bpf.available()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
WAVE = 100
TRAINS = pytest.mark.parametrize("trains", ["true", "false"], ids=["trains", "single"])


@pytest.fixture
def fan():
    with Lab("clones") as lab:
        yield Fan(lab)


def cloning(fastpath):
    """What was cloned; all ports that are there would clone."""
    assert {row["transmit"].partition("+")[0] for row in fastpath.show("ports")} <= {"clones", "none"}
    row = fastpath.show("runtime")[0]
    assert row["clone_sends"] > 0
    return row


def small_mtu(fan, send):
    fan.box.set_link("p7", mtu=900)
    wait_for(lambda: fan.fastpath.port("p7")["mtu"] == 900, "the port is shown with it")
    send(size=1000)


def full_queue(fan, send):
    """In three waves, as in test_faults, of which the last one finds no room."""
    queue = ("tbf", "rate", "100bit", "burst", "2000", "limit", "3000")
    fan.box.command("tc", "qdisc", "replace", "dev", "p5", "root", *queue)
    for _ in range(3):
        send()


def down(fan, send):
    """Before anybody can tell us."""
    with fan.fastpath.standing_still():
        fan.box.set_link("p6", state="down")
        send(waits=False)


def gone(fan, send):
    with fan.fastpath.standing_still():
        fan.box.delete_link("p8")
        send(waits=False)


ROUNDS = [
    (small_mtu, 7, "over_mtu", (2 * WAVE, 2 * WAVE)),
    (full_queue, 5, "port_refused", (2 * WAVE, 6 * WAVE)),
    (down, 6, "link_down", (2 * WAVE, 2 * WAVE)),
    (gone, 8, "link_down", (2 * WAVE, 2 * WAVE)),
]
"""What happens, to which port, how the loss is called, and how many copies it costs: from, and to."""


@TRAINS
def test_what_one_port_of_a_list_refuses_is_named_and_costs_the_other_ports_nothing(fan, trains):
    """Each copy is sent or has a name: of the box, of the list, of each port and tunnel. One port after the
    other refuses, all but the first for good."""
    receivers = {n: [address(n), address(n, 1)] for n in PORTS}
    fastpath = fan.start(receivers, f"trains = {trains}")
    fan.listen()
    n_sent, out = 0, dict.fromkeys(PORTS, 0)
    drops: Counter[str] = Counter()
    ended: dict[int, str] = {}

    def send(size=64, *, waits=True):
        nonlocal n_sent
        fan.send(*range(n_sent, n_sent + WAVE), size=size)
        n_sent += WAVE
        if waits:
            wait_for(lambda: fastpath.status()["received"] >= n_sent, "all are received")

    for fault, port, reason, (least, most) in ROUNDS:
        first, before = n_sent, out
        fault(fan, send)
        n, whole = n_sent - first, PORTS - ended.keys() - {port}
        for place, frames in fan.taken(2 * n * len(whole), but=PORTS - whole).items():
            once = {(one, number): 1 for one in receivers[place] for number in range(first, n_sent)}
            assert Counter(copy for frame in frames for copy in copies(frame)) == once
        now, out = fastpath.settled(), {n: fastpath.port(f"p{n}")["copies_out"] for n in PORTS}
        grown = {n: out[n] - before[n] for n in PORTS}
        cost = 2 * n - grown.pop(port)
        assert least <= cost <= most
        assert grown == dict.fromkeys(whole, 2 * n) | dict.fromkeys(ended, 0)
        drops[reason] += cost
        for why in ended.values():
            drops[why] += 2 * n
        assert fastpath.drops() == drops
        assert now["copies_out"] == sum(out.values()) == 16 * n_sent - drops.total()
        assert (now["received"], now["replicated"] + now["punted"] + now["dropped"]) == (n_sent, n_sent)
        assert [row["frames"] for row in fastpath.show("groups")] == [now["replicated"]] == [n_sent]
        tunnels = {row["peer"]: row for row in fastpath.show("tunnels")}
        assert {row["copies"] + row["dropped"] for row in tunnels.values()} == {n_sent}
        for core in CORE:
            assert out[core] == sum(tunnels[address(core, receiver)]["copies"] for receiver in range(2))
        if fault is not small_mtu:
            ended[port] = reason
    row = cloning(fastpath)
    if trains == "false":
        assert row["clones_per_send"] == round(sum(out.values()) / row["clone_sends"], 3), "all were cloned"


@TRAINS
def test_receivers_behind_eight_ports_get_each_byte_that_they_get_without_clones(fan, trains):
    """Linux VXLAN devices behind five of them: in the group, by unicast, and behind the core."""
    for n in (1, 2):
        fan.far[n].vxlan("vx", VNI, local=address(n), under="up", group=GROUP, vxlan_ttl=4)
    for n in (4, 5, 7):
        fan.far[n].vxlan("vx", VNI, local=address(n))
    vms = {n: Vm(fan.lab, fan.far[n], "vx", n) for n in (1, 2, 4, 5, 7)}
    for n in (2, 4, 6, 8):
        finished(fan.box, f"p{n}")
    fan.listen()
    receivers = {n: [address(n)] for n in PORTS} | {1: [], 2: [], 3: [], 8: [address(8), address(8, 1)]}
    came = []
    for clones in ("true", "false"):
        fastpath = fan.start(receivers, f"trains = {trains}\nclones = {clones}")
        with fastpath.standing_still():
            for flow, checksum in enumerate((f.ZERO, f.RIGHT)):
                fan.send(*range(50 * flow, 50 * flow + 50), size=300, sport=0xC000 + flow, checksum=checksum)
                fan.send(1000 + flow, size=99, sport=0xC000 + flow, checksum=checksum)
        # hdr_len tells but how the kernel holds it in memory
        came.append({n: [x[:2] + x[4:] for x in frames] for n, frames in fan.taken(9 * 102).items()})
        numbers = sorted([*range(100), 1000, 1001])
        assert {n: sorted(vm.heard(102, quiet_s=0)) for n, vm in vms.items()} == dict.fromkeys(vms, numbers)
        assert (fastpath.settled()["copies_out"], fastpath.lost()) == (9 * 102, {})
        if clones == "true":
            # single copies to the group keep the IP header, of which the others have one of their own
            assert cloning(fastpath)["clones_per_send"] == (9 if trains == "true" else 4.5)
        fastpath.end()
    assert came[0] == came[1]

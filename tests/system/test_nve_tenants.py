"""Tenant groups (N13): what is sent to one goes to the VMs that joined it, whoever sends it from wherever.

vm1, vm2 -- v1, v2 [n1] up ---- p1 [tor] p3 ---- up [n3] vx   (Linux: the VM is on the VXLAN device)
     vm3 -- v3     [n2] up ---- p2
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import pytest

from ctrl.lab.namespaces import missing
from tests.system.joins import BUSY_S, QUICK, Watch
from tests.system.lab import Fastpath, Lab, plug, wait_for
from tests.system.nves import core_port, floods_to, joined, vm_port
from tests.system.tenants import Tenant, expect_tenants, goes_to, stream, veth_tenant

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
OUTER, TOR = "239.1.1.100", "10.9.0.1"
G, H, NOBODYS, G6 = "239.77.0.1", "239.77.0.2", "239.77.0.3", "ff15::77:1"
LAST_MEMBER_S = 2 * float(QUICK["last_member_query_interval_s"])
ANSWERED_S = 2 * float(QUICK["startup_response_interval_s"]) + 1.2
"""By then a VM port that is new is no longer taken for one that wants all groups."""
TIMERS = "[membership]\n" + "".join(f"{key} = {value}\n" for key, value in QUICK.items())


def network(snooping: str = "") -> str:
    return f'[[network]]\nname = "blue"\nvni = 100\ngroup = "{OUTER}"\n{snooping}'


@dataclass
class Fabric:
    lab: Lab
    tor: Fastpath
    flooding: Fastpath
    """The NVE of vm1 and vm2."""
    dropping: Fastpath
    """That of vm3, which has frames of groups that it does not know dropped."""
    vms: dict[str, Tenant]
    numbers: Iterator[int]

    def many(self) -> range:
        """A hundred numbers that nobody had before."""
        first = next(self.numbers) * 1000
        return range(first, first + 100)

    def nve_config(self, n: int, *ports: str, snooping: str) -> str:
        """The config of the NVE at host n."""
        vms = "".join(map(vm_port, ports))
        return core_port() + vms + network(snooping) + TIMERS + f'[nve]\naddress = "10.1.{n}.2"\n'


@pytest.fixture(scope="module")
def fabric() -> Iterator[Fabric]:
    with Lab("tenants") as lab:
        tor_box = lab.box("tor", forwards=True)
        tor_box.address("lo", f"{TOR}/32")
        hosts = {n: lab.box(f"n{n}") for n in (1, 2, 3)}
        for n, host in hosts.items():
            plug(tor_box, f"p{n}", host, (f"10.1.{n}.1/24", f"10.1.{n}.2/24"))
        ports = "".join(f'[[port]]\nname = "p{n}"\nfaces = "nve"\n' for n in hosts)
        tor = Fastpath(
            lab, tor_box, ports + network() + TIMERS + f'[device]\naddress = "{TOR}"\n', waits=False
        )
        vms = {
            "vm1": veth_tenant(lab, hosts[1], "v1", 1),
            "vm2": veth_tenant(lab, hosts[1], "v2", 2),
            "vm3": veth_tenant(lab, hosts[2], "v3", 3),
        }
        made = Fabric(lab, tor, tor, tor, vms, count(1))
        text = made.nve_config(1, "v1", "v2", snooping="snoop = true\n")
        flooding = made.flooding = Fastpath(lab, hosts[1], text, waits=False)
        text = made.nve_config(2, "v3", snooping='snoop = true\nunregistered = "drop"\n')
        dropping = made.dropping = Fastpath(lab, hosts[2], text, waits=False)
        hosts[3].vxlan("vx", 100, local="10.1.3.2", under="up", group=OUTER, vxlan_learning=1, vxlan_ttl=4)
        vms["n3"] = Tenant(lab, hosts[3], "vx", 9)
        for one in (tor, made.flooding, made.dropping):
            one.answers()
        joined(tor, OUTER, "p1", "p2", "p3")
        floods_to(made.flooding, "v1", "v2")
        floods_to(made.dropping, "v3")
        time.sleep(ANSWERED_S)
        for name, nve, port in (("vm1", flooding, "v1"), ("vm2", flooding, "v2"), ("vm3", dropping, "v3")):
            with vms[name].join(H):
                goes_to(nve, H, port)
        yield made


def test_a_stream_reaches_whoever_joined_once_and_no_other_vm_of_the_nve(fabric: Fabric) -> None:
    """N13: from another NVE of any make, from a VM beside; who joins later is served as well, who leaves is
    not any longer, at the latest when nobody has objected in the last member's time."""
    vms = fabric.vms
    first = vms["vm1"].join(G)
    expect_tenants(fabric.flooding, G, ("v1", vms["vm1"].address))
    for sender in ("n3", "vm2", "vm3"):
        stream(vms, sender, G, fabric.many(), *({"vm1", "n3"} - {sender}))
    second = vms["vm2"].join(G)
    expect_tenants(fabric.flooding, G, ("v1", vms["vm1"].address), ("v2", vms["vm2"].address))
    stream(vms, "n3", G, fabric.many(), "vm1", "vm2")
    second.close()
    expect_tenants(fabric.flooding, G, ("v1", vms["vm1"].address), within_s=LAST_MEMBER_S + BUSY_S)
    stream(vms, "n3", G, fabric.many(), "vm1")
    first.close()
    expect_tenants(fabric.flooding, G, within_s=LAST_MEMBER_S + BUSY_S)


def test_a_vm_that_named_a_source_gets_that_one_alone(fabric: Fabric) -> None:
    vms = fabric.vms
    with vms["vm3"].join(H, source=vms["vm1"].address):
        expect_tenants(fabric.dropping, H, ("v3", vms["vm3"].address))
        stream(vms, "vm1", H, fabric.many(), "vm2", "vm3", "n3")
        stream(vms, "vm2", H, fabric.many(), "vm1", "n3")


def test_mld_counts_as_igmp_does(fabric: Fabric) -> None:
    """N13, W5."""
    vms = fabric.vms
    with vms["vm2"].join(G6), vms["vm3"].join(G6):
        for nve, port in ((fabric.flooding, "v2"), (fabric.dropping, "v3")):
            wait_for(lambda: nve.show("members", group=G6, port=port), f"{G6} at {port}")  # noqa: B023
        stream(vms, "n3", G6, fabric.many(), "vm2", "vm3")
        stream(vms, "vm2", G6, fabric.many(), "vm3", "n3")


def test_groups_that_nobody_joined_are_flooded_or_dropped_as_the_config_says(fabric: Fabric) -> None:
    """RFC 4541 section 2.1.2. What a VM here sends to one goes to others anyway, for they may have joined."""
    vms = fabric.vms
    before = fabric.dropping.drops().get("unregistered_group", 0)
    stream(vms, "n3", NOBODYS, fabric.many(), "vm1", "vm2")
    wait_for(lambda: fabric.dropping.drops().get("unregistered_group", 0) >= before + 100, "all are dropped")
    stream(vms, "vm3", NOBODYS, fabric.many(), "vm1", "vm2", "n3")


@pytest.mark.parametrize("group", ["224.0.0.251", "ff02::fb"])
def test_link_local_groups_are_for_everybody(fabric: Fabric, group: str) -> None:
    stream(fabric.vms, "n3", group, fabric.many(), "vm1", "vm2", "vm3")


def test_the_nve_asks_its_vms_and_nobody_sees_what_others_join(fabric: Fabric) -> None:
    """D18: of IGMP a VM sees the queries alone, from nobody, in order that any real querier wins."""
    vm2 = fabric.vms["vm2"]

    def n_asked() -> list[int]:
        return [len(vm2.ear.queries(six=six)) for six in (False, True)]

    began = n_asked()
    with fabric.vms["vm1"].join(G), fabric.vms["vm3"].join(G):
        expect_tenants(fabric.dropping, G, ("v3", fabric.vms["vm3"].address))
        wait_for(lambda: all(n > then for n, then in zip(n_asked(), began, strict=True)), "both ask again")
    assert {frame[14 + 12 : 14 + 16] for frame in vm2.control() if frame[12:14] == b"\x08\x00"} == {bytes(4)}


def test_what_vms_join_and_leave_is_told_to_who_watches(fabric: Fabric) -> None:
    """As what NVEs join is, with the network; the box itself is in no group for it."""
    watch = Watch(fabric.lab, fabric.flooding, "members", "groups")
    with fabric.vms["vm2"].join(H):
        wait_for(lambda: ("joined", H) in watch.told(), "the join is told")
    wait_for(lambda: ("left", H) in watch.told(), "the leave is told")
    told = [(row["topic"], row["port"], row["network"]) for row in watch.rows() if row["group"] == H]
    assert set(told) == {("members", "v2", "blue")}


def test_a_reload_that_snoops_no_more_floods_again_and_back_and_nobody_who_joined_loses(
    fabric: Fabric,
) -> None:
    """Who is in the group already has the time to say so again: until then all get it."""
    vms = fabric.vms
    vm1, vm2 = (("v1", vms["vm1"].address), ("v2", vms["vm2"].address))
    expect_tenants(fabric.dropping, G)
    with vms["vm1"].join(G):
        with vms["vm2"].join(G):
            expect_tenants(fabric.flooding, G, vm1, vm2)
            fabric.flooding.reload(fabric.nve_config(1, "v1", "v2", snooping=""))
            assert fabric.flooding.show("members") == []
            stream(vms, "n3", G, fabric.many(), "vm1", "vm2")
            fabric.flooding.reload(fabric.nve_config(1, "v1", "v2", snooping="snoop = true\n"))
            stream(vms, "n3", G, fabric.many(), "vm1", "vm2")
            expect_tenants(fabric.flooding, G, vm1, vm2)
        expect_tenants(fabric.flooding, G, vm1, within_s=LAST_MEMBER_S + BUSY_S)
        time.sleep(ANSWERED_S)
        goes_to(fabric.flooding, G, "v1")
        stream(vms, "n3", G, fabric.many(), "vm1")


def test_nothing_was_lost_and_all_books_balance(fabric: Fabric) -> None:
    for one in (fabric.tor, fabric.flooding, fabric.dropping):
        now = one.settled()
        assert now["received"] == now["replicated"] + now["punted"] + now["dropped"]
        known = {"unregistered_group", "no_receiver"}
        if one is fabric.tor:
            known |= {"unknown_group"}  # what a stack said before the first NVE had joined
        assert not one.lost().keys() - known, one.log

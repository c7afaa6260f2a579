"""Tenants' groups at a device (framework 3.2): NVEs that know nothing of them get what their VMs joined.

n1 up ---- p1 [tor] p3 ---- up n3     (Linux: each VM is on the VXLAN device)
n2 up ---- p2
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from ctrl.lab.namespaces import missing
from tests.system.joins import BUSY_S, QUICK
from tests.system.lab import Fastpath, Lab, plug, wait_for
from tests.system.nves import joined
from tests.system.tenants import Tenant, expect_tenants, goes_to, stream

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
OUTER, TOR = "239.1.1.100", "10.9.0.1"
G, H, G6 = "239.77.0.1", "239.77.0.2", "ff15::77:1"
LAST_MEMBER_S = 2 * float(QUICK["last_member_query_interval_s"])
TIMERS = "[membership]\n" + "".join(f"{key} = {value}\n" for key, value in QUICK.items())
CONFIG = (
    "".join(f'[[port]]\nname = "p{n}"\nfaces = "nve"\n' for n in (1, 2, 3))
    + f'[[network]]\nname = "blue"\nvni = 100\ngroup = "{OUTER}"\nsnoop = true\n'
    + TIMERS
    + f'[device]\naddress = "{TOR}"\n'
)
NUMBERS = count(1)


def many() -> range:
    """A hundred numbers that nobody had before."""
    first = next(NUMBERS) * 1000
    return range(first, first + 100)


class Fabric:
    """The device and the VMs, each in the namespace of its NVE; `sent`: copies that left by a port of it."""

    def __init__(self, lab: Lab) -> None:
        tor_box = lab.box("tor", forwards=True)
        tor_box.address("lo", f"{TOR}/32")
        self.vms: dict[str, Tenant] = {}
        hosts = {n: lab.box(f"n{n}") for n in (1, 2, 3)}
        for n, host in hosts.items():
            plug(tor_box, f"p{n}", host, (f"10.1.{n}.1/24", f"10.1.{n}.2/24"))
        self.tor = Fastpath(lab, tor_box, CONFIG, waits=False)
        for n, host in hosts.items():
            local = f"10.1.{n}.2"
            host.vxlan("vx", 100, local=local, under="up", group=OUTER, vxlan_learning=1, vxlan_ttl=4)
            self.vms[f"n{n}"] = Tenant(lab, host, "vx", n)
        self.tor.answers()
        joined(self.tor, OUTER, "p1", "p2", "p3")

    def sent(self, port: str) -> int:
        self.tor.settled()
        return int(self.tor.port(port)["copies_out"])


@pytest.fixture(scope="module")
def fabric() -> Iterator[Fabric]:
    with Lab("agnostic") as lab:
        yield Fabric(lab)


def test_n13_what_vms_join_goes_to_their_nves_and_to_no_other(fabric: Fabric) -> None:
    """Once, from whoever sends it; to who leaves no more; and no copy at all to the NVE without any."""
    vms = fabric.vms
    with vms["n1"].join(G), vms["n2"].join(G):
        expect_tenants(fabric.tor, G, ("p1", vms["n1"].address), ("p2", vms["n2"].address))
        goes_to(fabric.tor, G, "p1", "p2")
        before = fabric.sent("p3")
        stream(vms, "n3", G, many(), "n1", "n2")
        stream(vms, "n1", G, many(), "n2")
        assert fabric.sent("p3") == before
    expect_tenants(fabric.tor, G, within_s=LAST_MEMBER_S + BUSY_S)
    with vms["n1"].join(G), vms["n2"].join(H):
        goes_to(fabric.tor, G, "p1")
        stream(vms, "n3", G, many(), "n1")
        stream(vms, "n3", H, many(), "n2")


def test_mld_counts_as_igmp_does_and_nobody_sees_what_others_join(fabric: Fabric) -> None:
    """D18, W5: of IGMP and MLD a VM sees queries of nobody alone."""
    vms = fabric.vms
    with vms["n2"].join(G6), vms["n1"].join(G):
        wait_for(lambda: fabric.tor.show("members", group=G6, port="p2"), f"{G6} at p2")
        goes_to(fabric.tor, G6, "p2")
        stream(vms, "n3", G6, many(), "n2")
    heard = [frame for frame in vms["n3"].control() if frame[6:8] != b"\x02\xfb"]
    assert heard == []


def test_what_nobody_joined_goes_everywhere(fabric: Fabric) -> None:
    """RFC 4541 section 2.1.2."""
    stream(fabric.vms, "n1", "239.77.0.3", many(), "n2", "n3")


def test_nothing_was_lost_and_all_books_balance(fabric: Fabric) -> None:
    now = fabric.tor.settled()
    assert now["received"] == now["replicated"] + now["punted"] + now["dropped"]
    assert not fabric.tor.lost().keys() - {"unknown_group", "no_receiver"}, fabric.tor.log

"""The same over IPv6: Linux VXLAN devices with groups of ff05::/16 join by MLD."""

import pytest

from ctrl.lab.namespaces import missing
from tests.system.joins import GROUP6, QUICK, Ear, Tor, Watch, expect_members, members
from tests.system.lab import Lab, expect_once, wait_for

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
FIFTY = list(range(1, 51))


@pytest.fixture
def lab():
    with Lab("mld") as made:
        yield made


@pytest.fixture
def tor(lab):
    made = Tor(lab, six=True)
    for number in (1, 2, 3):
        made.host(number)
    return made


def ports(fastpath):
    return {port for port, _, _ in members(fastpath)}


@pytest.mark.parametrize("version", [2, 1])
def test_nves_join_by_mld_are_served_and_leave(lab, tor, version):
    """D1, D4, D9; W5: MLDv2, and hosts of MLDv1. W8: reports come from link-local addresses."""
    for host in tor.hosts.values():
        if version == 1:
            host.sysctl("net/ipv6/conf/all/force_mld_version", 1)
    fastpath, ears = tor.run(**QUICK), {n: Ear(lab, host) for n, host in tor.hosts.items()}
    vms = {n: tor.nve(n, group=GROUP6) for n in (1, 2, 3)}
    wait_for(lambda: ports(fastpath) == {"p1", "p2", "p3"}, "three members")
    rows = fastpath.show("members")
    assert {(row["group"], row["origin"]) for row in rows} == {(GROUP6, "mld")}
    assert all(str(row["nve"]).startswith("fe80::") for row in rows)
    for sender, vm in vms.items():
        vm.send(*FIFTY)
        expect_once(vms, FIFTY, but=(sender,))
    tor.hosts[3].set_link("vx100", state="down")
    wait_for(lambda: ports(fastpath) == {"p1", "p2"}, "one left")
    vms[1].send(*FIFTY)
    expect_once({n: vms[n] for n in (1, 2)}, FIFTY, but=(1,))
    assert ears[3].numbers().count(50) == 2
    assert {report.version for report in ears[3].reports()} == {version + 1}
    watch = Watch(lab, fastpath, "members")
    n_asked = len(ears[1].queries(six=True))
    wait_for(lambda: len(ears[1].queries(six=True)) > n_asked + 1, "a general query, and the next")
    assert watch.rows() == []


def test_d17_groups_of_the_link_alone_make_no_member(lab, tor):
    """D17: Linux joins ff02::1:ff00:2 and others by itself, and says so."""
    fastpath = tor.run(**QUICK)
    tor.nve(1, group=GROUP6)
    wait_for(lambda: ports(fastpath) == {"p1"}, "a member")
    wait_for(lambda: fastpath.drops().get("link_local_group", 0) >= 3, "the reports of what every host joins")
    assert {group for _, _, group in members(fastpath)} == {GROUP6}
    assert {row["group"] for row in fastpath.show("groups")} == {GROUP6}


def test_a_restarted_device_asks_hosts_of_both_families(lab, tor):
    """D6: members by IGMP and by MLD behind the same ports."""
    tor.box.address("p1", "10.1.1.1/24")
    tor.hosts[1].address("up", "10.1.1.2/24")
    fastpath = tor.run(query_interval_s=125)
    tor.nve(1, group=GROUP6)
    tor.hosts[1].vxlan("vx4", 200, local="10.1.1.2", under="up", group="239.1.1.100", port=8472)
    wait_for(lambda: len(members(fastpath)) == 2, "both")
    before = members(fastpath)
    fastpath.end()
    fastpath.start()
    expect_members(fastpath, *before)

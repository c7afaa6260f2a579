"""Several NVEs behind one port, and those of older versions: Linux VXLAN devices behind a Linux bridge."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from ctrl.lab.namespaces import missing
from ctrl.protocols import igmp
from ctrl.protocols.messages import Kind, Query, Record, Report
from tests.system.joins import GROUP, QUICK, Ear, Tor, Watch, address_of, expect_members, members
from tests.system.lab import Lab, expect_once, wait_for

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
TEN = list(range(1, 11))
X, Y, Z = ("p1", "10.1.1.11", GROUP), ("p1", "10.1.1.12", GROUP), ("p2", "10.1.2.2", GROUP)
ALL_ROUTERS = bytes((224, 0, 0, 2))


@pytest.fixture
def lab():
    with Lab("sharing") as made:
        yield made


def shared(lab, *, snoops=False, version=0):
    """Hosts 11 and 12 behind p1 and a bridge, host 2 alone behind p2; forced to a version."""
    tor = Tor(lab)
    tor.switch(1, 11, 12, snoops=snoops)
    tor.host(2)
    for host in tor.hosts.values():
        host.sysctl("net/ipv4/conf/all/force_igmp_version", version)
    return tor


def leave(lab, tor, number):
    """End a host's NVE, and say so in version 2: by itself it does only if it was the last to report."""
    host = tor.hosts[number]
    host.set_link("vx100", state="down")
    mac, source = bytes.fromhex(host.mac("up").replace(":", "")), int(address_of(host))
    report = Report(2, (Record(Kind.TO_IN, int(ip_address(GROUP))),))
    lab.packet_socket(host, "up").send(igmp.report_frame(report, mac, source))


def destinations(ear):
    """Where the host's IGMP went to."""
    return {
        frame[30:34] for frame in ear.frames(outgoing=True) if frame[12:14] == b"\x08\x00" and frame[23] == 2
    }


@pytest.mark.parametrize("snoops", [False, True], ids=["repeater", "snooping"])
def test_w8_two_nves_behind_one_port_are_two_members_and_one_outlives_the_other(lab, snoops):
    """W8; N6: the one that is no member of a group is silent when it is asked for."""
    tor = shared(lab, snoops=snoops)
    fastpath = tor.run(**QUICK)
    vms = {n: tor.nve(n) for n in (11, 12, 2)}
    expect_members(fastpath, X, Y, Z)
    assert len({row["mac"] for row in fastpath.show("members")}) == 3
    for sender, vm in vms.items():  # what comes from behind the bridge has been there, and is not sent back
        vm.send(*TEN)
        expect_once(vms, TEN, but=(sender,))
    ear = Ear(lab, tor.hosts[11])
    tor.hosts[11].set_link("vx100", state="down")
    expect_members(fastpath, Y, Z)
    wait_for(lambda: len(ear.queries()) >= 4, "the specific queries, and a general one after them")
    vms[2].send(*TEN)
    expect_once({n: vms[n] for n in (12, 2)}, TEN, but=(2,))
    said = [kind for kind, _ in ear.said(GROUP)]  # before it left, it may have answered
    assert said[said.index("TO_IN") :] in (["TO_IN"], ["TO_IN"] * 2)


def test_w8_a_member_is_known_by_its_interface_and_not_by_the_address_of_its_tunnel(lab):
    """W8: VXLAN's source is a loopback address, IGMP's is that of the interface. W6: it sends with TTL 1."""
    tor = Tor(lab)
    for number in (1, 2):
        tor.host(number).address("lo", f"10.77.0.{number}/32")
    fastpath = tor.run()
    vms = {number: tor.nve(number, local=f"10.77.0.{number}") for number in (1, 2)}
    expect_members(fastpath, *((f"p{n}", tor.of(n), GROUP) for n in vms))
    ears = {n: Ear(lab, tor.hosts[n]) for n in vms}
    vms[1].send(*TEN)
    expect_once(vms, TEN, but=(1,))
    assert outer(ears[1].frames(outgoing=True)) == {(1, "10.77.0.1")}
    assert outer(ears[2].frames(outgoing=False)) == {(1, "10.77.0.1")}


def outer(frames):
    """TTL and source of the UDP packets."""
    return {
        (frame[22], str(ip_address(frame[26:30])))
        for frame in frames
        if frame[12:14] == b"\x08\x00" and frame[23] == 17
    }


def test_a_host_of_version_2_joins_answers_and_leaves(lab):
    """W5, and D5: its leave goes to all routers, and is asked about."""
    tor = shared(lab, version=2)
    fastpath = tor.run(**QUICK)
    vms = {2: tor.nve(2), 11: tor.nve(11)}
    expect_members(fastpath, X, Z)
    vms[11].send(*TEN)
    expect_once(vms, TEN, but=(11,))
    ear = Ear(lab, tor.hosts[2])
    wait_for(lambda: ear.queries() and ear.said(GROUP), "a general query, and an answer to one")
    tor.hosts[2].set_link("vx100", state="down")
    expect_members(fastpath, X)
    assert {report.version for report in ear.reports()} == {2}
    assert ALL_ROUTERS in destinations(ear)
    assert {str(query.group) for query in ear.queries()} == {
        "0",
        str(int.from_bytes(bytes((239, 1, 1, 100)), "big")),
    }


def test_a_host_of_version_1_joins_and_is_served(lab):
    """W5. It says no leave: only time removes it (unit/test_router_versions)."""
    tor = shared(lab, version=1)
    fastpath = tor.run(last_member_query_interval_s=0.2)
    vms = {n: tor.nve(n) for n in (2, 11)}
    expect_members(fastpath, X, Z)
    vms[11].send(*TEN)
    expect_once(vms, TEN, but=(11,))


def test_a_host_that_heard_a_querier_of_version_2_stays_with_it_and_is_served(lab):
    """W5: our own queries are of version 3 all the time."""
    tor = shared(lab)
    fastpath = tor.run(last_member_query_interval_s=0.2)
    host, ear = tor.hosts[11], Ear(lab, tor.hosts[11])
    query = igmp.query_frame(Query(2, response_s=0.1), bytes.fromhex("02d0000000fe"), 0x0A0101FE)
    lab.packet_socket(tor.switches, "d11").send(query)
    wait_for(lambda: querier_of(host) == "V2", "the query has come to its kernel, not only to its wire")
    tor.nve(11)
    expect_members(fastpath, X)
    assert {report.version for report in ear.reports()} == {2}
    host.set_link("vx100", state="down")
    expect_members(fastpath)


def querier_of(host):
    """The version of the querier on its link, as the kernel of a host has it."""
    rows = map(str.split, host.run(Path("/proc/thread-self/net/igmp").read_text).splitlines())
    return next(row[4] for row in rows if row[1] == "up")


@pytest.mark.parametrize("fast_leave", [False, True], ids=["asked", "fast"])
def test_d18_of_two_who_hear_each_other_the_one_who_never_spoke_is_served_when_the_other_leaves(
    lab, fast_leave
):
    """D18: they joined before the device came, and the other one keeps silent when it asks."""
    tor = shared(lab, version=2)
    vms = {n: tor.nve(n) for n in (11, 12, 2)}
    fastpath = tor.run(fast_leave=fast_leave, query_interval_s=125, last_member_query_interval_s=0.4)
    wait_for(lambda: {X, Y} & members(fastpath) and Z in members(fastpath), "one of them is heard")
    goes, stays, left = (11, 12, Y) if X in members(fastpath) else (12, 11, X)
    leave(lab, tor, goes)
    expect_members(fastpath, left, Z)
    vms[2].send(*TEN)
    expect_once({n: vms[n] for n in (stays, 2)}, TEN, but=(2,))


@pytest.mark.parametrize("fast_leave", [False, True], ids=["asked", "fast"])
def test_d18_who_keeps_silent_for_another_one_s_report_is_not_lost(lab, fast_leave):
    """D18: two hosts of version 2 hear each other behind a bridge that is not ours; of both, one answers."""
    tor = shared(lab, version=2)
    fastpath = tor.run(fast_leave=fast_leave, **QUICK)
    vms = {}
    for number, members_then in ((11, [X]), (12, [X, Y]), (2, [X, Y, Z])):  # at once, one might never speak
        vms[number] = tor.nve(number)
        expect_members(fastpath, *members_then)
    ears, watch = {n: Ear(lab, tor.hosts[n]) for n in (11, 12)}, Watch(lab, fastpath, "members")
    wait_for(lambda: min(len(ear.queries()) for ear in ears.values()) >= 3, "three rounds")
    assert watch.rows() == []
    assert min(len(ear.said(GROUP)) for ear in ears.values()) < 3  # else nobody kept silent
    leave(lab, tor, 11)
    for _ in range(3):
        vms[2].send(*TEN)
        expect_once({n: vms[n] for n in (12, 2)}, TEN, but=(2,))
    leave(lab, tor, 12)
    expect_members(fastpath, Z)


def test_with_fast_leave_a_host_of_version_3_is_gone_at_once_and_unasked(lab):
    """D4: and only the host that left is, since each is tracked by itself (W8)."""
    tor = shared(lab)
    fastpath = tor.run(fast_leave=True, last_member_query_interval_s=5)
    vms = {n: tor.nve(n) for n in (11, 12, 2)}
    expect_members(fastpath, X, Y, Z)
    ear = Ear(lab, tor.hosts[12])
    tor.hosts[11].set_link("vx100", state="down")
    expect_members(fastpath, Y, Z, within_s=4)
    vms[2].send(*TEN)
    expect_once({n: vms[n] for n in (12, 2)}, TEN, but=(2,))
    assert ear.queries() == []

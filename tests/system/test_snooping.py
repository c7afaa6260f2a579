"""Unmodified Linux VXLAN devices join by themselves, and are served: nobody is a member by config."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from ctrl.lab.namespaces import connect, missing
from ctrl.protocols.messages import Query
from tests.system.joins import (
    GROUP,
    OTHER_GROUP,
    QUICK,
    THIRD_GROUP,
    Ear,
    Tor,
    Watch,
    expect_members,
    many_vnis,
    member_socket,
    members,
    send_vxlan,
)
from tests.system.lab import COMMAND, Lab, expect_once, numbered, wait_for

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
FIFTY = list(range(1, 51))
MAC = bytes.fromhex("02d000000001")


@pytest.fixture
def lab():
    with Lab("joins") as made:
        yield made


@pytest.fixture
def tor(lab):
    """A device with three hosts; it does not run yet."""
    made = Tor(lab)
    for number in (1, 2, 3):
        made.host(number)
    return made


def test_an_nve_joins_with_its_first_vni_of_a_group_and_leaves_with_the_last(lab, tor):
    """N3, N4, N5 on the wire; D1, D4 in the device."""
    fastpath = tor.run(last_member_query_interval_s=0.2)
    ear, watch = Ear(lab, tor.hosts[1]), Watch(lab, fastpath, "members")
    tor.nve(1, 100)
    tor.nve(1, 101)
    expect_members(fastpath, ("p1", "10.1.1.2", GROUP))
    tor.nve(1, 200, OTHER_GROUP)
    both = [("p1", "10.1.1.2", group) for group in (GROUP, OTHER_GROUP)]
    expect_members(fastpath, *both)
    tor.hosts[1].delete_link("vx100")
    tor.hosts[1].delete_link("vx200")
    expect_members(fastpath, both[0])
    tor.hosts[1].delete_link("vx101")
    expect_members(fastpath)
    assert watch.told() == [
        ("joined", GROUP),
        ("joined", OTHER_GROUP),
        ("left", OTHER_GROUP),
        ("left", GROUP),
    ]
    # unasked, each is said twice at most: robustness
    said = [one for one in ear.said(GROUP, OTHER_GROUP) if one[0] in ("TO_EX", "TO_IN")]
    assert list(dict.fromkeys(said)) == [
        ("TO_EX", GROUP), ("TO_EX", OTHER_GROUP), ("TO_IN", OTHER_GROUP), ("TO_IN", GROUP),
    ]  # fmt: skip
    assert all(said.count(one) <= 2 for one in said)
    assert {report.version for report in ear.reports()} == {3}


def test_every_host_that_joined_hears_each_frame_once_and_who_left_none(lab, tor):
    """D9, D10: a leave stops the copies of its host, and touches none of the others, in mid-flow too."""
    fastpath = tor.run(last_member_query_interval_s=0.2)
    vms = {n: tor.nve(n) for n in (1, 2, 3)}
    everyone = [(f"p{n}", tor.of(n), GROUP) for n in (1, 2, 3)]
    expect_members(fastpath, *everyone)
    for sender, vm in vms.items():
        vm.send(*FIFTY)
        expect_once(vms, FIFTY, but=(sender,))
    tor.hosts[3].set_link("vx100", state="down")
    sent: list[int] = []

    def flows_until_two_are_left() -> bool:
        sent.append(len(sent) + 1000)
        vms[1].send(sent[-1])
        return len(members(fastpath)) == 2

    wait_for(flows_until_two_are_left, "the leave")
    expect_once({2: vms[2]}, sent)
    ear = Ear(lab, tor.hosts[3])
    vms[1].send(*FIFTY)
    expect_once({n: vms[n] for n in (1, 2)}, FIFTY, but=(1,))
    assert ear.numbers() == []
    tor.hosts[2].set_link("vx100", state="down")
    expect_members(fastpath, everyone[0])
    before = fastpath.settled()["copies_out"]
    vms[1].send(*FIFTY)
    wait_for(
        lambda: fastpath.drops().get("no_receiver") == 50,
        lambda: f"no one left to copy to: {fastpath.drops()}",
    )
    assert fastpath.settled()["copies_out"] == before


def test_one_device_with_many_vnis_joins_the_group_of_each_and_more_than_twenty_are_served(lab, tor):
    """D2: first information is all that all NVEs want. W5: one report answers for all groups of a host."""
    here, away = tor.hosts[1], tor.hosts[2]
    here.sysctl("net/ipv4/igmp_max_memberships", 100)
    groups = {1000 + n: f"239.7.0.{n}" for n in range(1, 61)}
    fastpath = tor.run(query_interval_s=3, query_response_interval_s=0.5, last_member_query_interval_s=0.2)
    ear = Ear(lab, here)
    many_vnis(lab, here, tor.of(1), groups.items())
    expect_members(fastpath, *(("p1", "10.1.1.2", group) for group in groups.values()))
    for number, (vni, group) in enumerate(groups.items()):
        send_vxlan(lab, away, group, vni, numbered(number, MAC))
    wait_for(lambda: len(ear.numbers()) >= len(groups), "a frame of each group")
    assert sorted(ear.numbers()) == list(range(len(groups)))
    wait_for(
        lambda: any(len(one.records) >= len(groups) for one in ear.reports()), "one report with all groups"
    )
    here.command("bridge", "vni", "delete", "dev", "vxm", "vni", "1002")
    expect_members(fastpath, *(("p1", "10.1.1.2", group) for vni, group in groups.items() if vni != 1002))
    assert fastpath.drops() == {}


def test_the_second_information_moves_with_first_joins_and_last_leaves_alone(lab, tor):
    """D3, and D16: no event and no revision comes of a packet. Watched by `fastpath monitor`."""
    fastpath = tor.run(last_member_query_interval_s=0.2)
    printed = lab.directory / "monitor.out"
    with printed.open("w") as out:
        monitor = subprocess.Popen(
            [*COMMAND, "monitor", "groups", "-j", "-s", str(fastpath.socket)], stdout=out
        )
    try:
        watch = Watch(lab, fastpath, "groups")
        wait_for(lambda: n_watching(fastpath) == 2, "both watch")
        vms = {n: tor.nve(n) for n in (1, 2)}
        wait_for(lambda: len(members(fastpath)) == 2, "two members")
        for vm in vms.values():
            vm.send(*FIFTY)
        assert vms[1].heard(50) == vms[2].heard(50) == FIFTY
        tor.hosts[1].delete_link("vx100")
        expect_members(fastpath, ("p2", "10.1.2.2", GROUP))
        tor.nve(3, 300, THIRD_GROUP)
        wait_for(lambda: len(members(fastpath)) == 2, "another group")
        tor.hosts[2].delete_link("vx100")
        expect_members(fastpath, ("p3", "10.1.3.2", THIRD_GROUP))
        told = [(row["event"], row["group"], row["revision"]) for row in wait_for(watch.rows, "events")]
        assert told == [("joined", GROUP, 1), ("joined", THIRD_GROUP, 2), ("left", GROUP, 3)]
        wait_for(lambda: printed.read_text().count("\n") >= len(told), "all of it is printed")
        monitor.send_signal(signal.SIGINT)
        monitor.wait(10)
        rows = [json.loads(line) for line in printed.read_text().splitlines()]
        assert [(row["event"], row["group"], row["revision"]) for row in rows] == told
    finally:
        monitor.kill()
        monitor.wait()


def n_watching(fastpath):
    """How many are connected to the control socket, whose path was a longer one when it was bound."""
    lines = Path("/proc/thread-self/net/unix").read_text().splitlines()
    return sum(line.split()[5] == "03" and f" {fastpath.socket}" in line for line in lines)


@pytest.mark.parametrize("tunnel", ["nested", "rewrite"])
def test_between_two_devices_joins_alone_serve_all_hosts_of_both(lab, tunnel):
    """D1, D9, D12 all the way: VM, NVE, device, tunnel, device, NVE, VM; without one static member."""
    tors = {1: Tor(lab, 1), 2: Tor(lab, 2)}
    for number, tor in tors.items():
        for host in (2 * number - 1, 2 * number):
            tor.host(host)
    connect(tors[1].box, "core", tors[2].box, "core", mtu=1800)
    for number, tor in tors.items():
        tor.box.address("core", f"10.5.0.{number}/24")
        other = tors[3 - number]
        for target in (f"{other.address}/32", *(f"10.1.{host}.0/24" for host in other.ports)):
            tor.box.route(target, "core", f"10.5.0.{other.number}")
    keeps = '\nsource = "keep"\nallow_from = ["10.1.0.0/16"]\n' if tunnel == "rewrite" else "\n"
    running = [
        tor.run(
            f'[[device.peer]]\ngroup = "{GROUP}"\naddresses = ["{tors[3 - number].address}"]\n'
            f'[[network]]\nname = "n"\nvni = 100\ngroup = "{GROUP}"\n'
            '[[port]]\nname = "core"\nfaces = "core"\n',
            device=f'tunnel = "{tunnel}"{keeps}',
            last_member_query_interval_s=0.2,
        )
        for number, tor in tors.items()
    ]
    vms = {host: tor.nve(host) for tor in tors.values() for host in tor.ports}
    for fastpath in running:
        wait_for(lambda: len(members(fastpath)) == 2, "both hosts")  # noqa: B023
    for sender, vm in vms.items():
        vm.send(*FIFTY)
        expect_once(vms, FIFTY, but=(sender,))
    tors[2].hosts[4].set_link("vx100", state="down")
    expect_members(running[1], ("p3", "10.1.3.2", GROUP))
    vms[1].send(*FIFTY)
    expect_once({n: vms[n] for n in (1, 2, 3)}, FIFTY, but=(1,))
    assert [fastpath.drops() for fastpath in running] == [{}, {}]


def test_d17_what_is_joined_of_the_link_alone_makes_no_member_and_its_data_is_not_copied(lab, tor):
    """D17, of programs that join 224.0.0.251 as mDNS does; ff02::fb is in test_snooping_mld."""
    fastpath, ears = tor.run(), {n: Ear(lab, host) for n, host in tor.hosts.items()}
    for host in tor.hosts.values():
        member_socket(lab, host, "224.0.0.251")
    tor.nve(3)
    expect_members(fastpath, ("p3", "10.1.3.2", GROUP))
    wait_for(lambda: fastpath.drops().get("link_local_group", 0) >= 3, "the reports")
    send_vxlan(lab, tor.hosts[1], "224.0.0.251", 100, numbered(7, MAC))
    send_vxlan(lab, tor.hosts[1], GROUP, 100, numbered(8, MAC))
    wait_for(lambda: ears[3].numbers() == [8], "the frame behind it")
    assert ears[2].numbers() == []
    assert members(fastpath) == {("p3", "10.1.3.2", GROUP)}
    assert {row["group"] for row in fastpath.show("groups")} == {GROUP}


def test_d18_no_host_sees_the_report_of_another_nor_a_query_meant_for_another(lab, tor):
    """D18, W5: what comes to a host is general queries, as RFC 9776 wants them, and nothing else of IGMP."""
    ears = {n: Ear(lab, host) for n, host in tor.hosts.items()}
    fastpath = tor.run(**QUICK)
    for n in (2, 3):
        tor.nve(n)
    wait_for(lambda: len(members(fastpath)) == 2, "two members")
    tor.hosts[3].delete_link("vx100")
    expect_members(fastpath, ("p2", "10.1.2.2", GROUP))
    wait_for(lambda: len(ears[1].queries()) >= 3, "three queries")
    came = ears[1].messages(outgoing=False)
    asked = [one for one in came if isinstance(one, Query)]
    assert came == asked
    assert {(one.version, one.group, one.robustness, one.interval_s) for one in asked} == {(3, 0, 2, 2.0)}
    assert {query.group for query in ears[3].queries()} > {0}

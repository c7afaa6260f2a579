"""Who is still there? Queries, what comes of silence, and what a restarted device finds out."""

import signal
import subprocess
from typing import Any

import pytest

from ctrl.lab.namespaces import missing
from tests.system.joins import GROUP, OTHER_GROUP, QUICK, Ear, Tor, Watch, expect_members, lose_igmp
from tests.system.lab import COMMAND, Lab, expect_once, wait_for

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
TEN = list(range(1, 11))
X, Y = ("p1", "10.1.1.2", GROUP), ("p2", "10.1.2.2", GROUP)
SLOW: dict[str, Any] = {"query_interval_s": 125, "last_member_query_interval_s": 0.4}
"""No general query comes to help within the test but those of the start."""


@pytest.fixture
def lab():
    with Lab("silence") as made:
        yield made


@pytest.fixture
def tor(lab):
    made = Tor(lab)
    for number in (1, 2):
        made.host(number)
    return made


def notify_moved(fastpath, *nves):
    done = subprocess.run(
        [*COMMAND, "notify", "moved", *nves, "-s", str(fastpath.socket)],
        capture_output=True,
        check=False,
        text=True,
    )
    return done.returncode, done.stdout.strip()


def test_an_answer_to_a_specific_query_changes_nothing_and_silence_is_a_leave(lab, tor):
    """D5 and N6, by `fastpath notify moved` (D19), which asks the host named, and nobody else."""
    fastpath = tor.run(**SLOW)
    ears = {n: Ear(lab, host) for n, host in tor.hosts.items()}
    vms = {n: tor.nve(n) for n in (1, 2)}
    tor.nve(2, 200, OTHER_GROUP)
    expect_members(fastpath, X, Y, ("p2", "10.1.2.2", OTHER_GROUP))
    watch = Watch(lab, fastpath, "members", "groups")
    before = ears[1].said(GROUP).count(("IS_EX", GROUP))
    assert notify_moved(fastpath, "10.1.1.2", "10.9.9.9") == (0, "1 of 2 NVEs known, and queried now")
    wait_for(lambda: ears[1].said(GROUP).count(("IS_EX", GROUP)) > before, "an answer")
    wait_for(lambda: fastpath.show("members", nve="10.1.1.2")[0]["expires_s"] > 100, "it counts")
    with_answers = fastpath.show("members", nve="10.1.1.2")[0]["expires_s"]
    wait_for(
        lambda: fastpath.show("members", nve="10.1.1.2")[0]["expires_s"] < with_answers - 1, "the time is up"
    )
    assert watch.rows() == []
    lose_igmp(tor.hosts[1])
    assert notify_moved(fastpath, "10.1.1.2")[0] == 0
    expect_members(fastpath, Y, ("p2", "10.1.2.2", OTHER_GROUP))
    assert watch.told() == [("left", GROUP)]
    assert {query.group for query in ears[2].queries()} <= {0}
    vms[2].send(*TEN)
    expect_once(vms, [])


def test_general_queries_are_answered_and_an_equal_answer_is_no_news(lab, tor):
    """D6, N7: as long as nothing changes, nothing is said."""
    fastpath = tor.run(**QUICK)
    for n in (1, 2):
        tor.nve(n)
    expect_members(fastpath, X, Y)
    watch, ear = Watch(lab, fastpath), Ear(lab, tor.hosts[1])
    wait_for(lambda: len(ear.queries()) >= 2 and ear.said(GROUP).count(("IS_EX", GROUP)) >= 2, "two rounds")
    assert watch.rows() == []


def test_a_general_query_finds_who_joined_and_who_left_unheard(lab, tor):
    """D6: the answer is compared with what is known, and additions and removals are applied.

    Timers alone would take fifteen seconds."""
    fastpath = tor.run(robustness=7, **QUICK)
    tor.nve(1)
    tor.nve(2)
    expect_members(fastpath, X, Y)
    watch = Watch(lab, fastpath, "members")
    lose_igmp(tor.hosts[1], but_answers=True)
    tor.nve(1, 200, OTHER_GROUP)
    tor.hosts[1].delete_link("vx100")
    expect_members(fastpath, Y, ("p1", "10.1.1.2", OTHER_GROUP), within_s=8)
    assert sorted(watch.told()) == [("joined", OTHER_GROUP), ("left", GROUP)]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
def test_a_restarted_device_knows_its_members_again_by_its_first_query(lab, tor, end):
    """D6: whoever comes, goes or stays meanwhile. The next general query would be half a minute away."""
    fastpath = tor.run(**SLOW)
    vms = {n: tor.nve(n) for n in (1, 2)}
    tor.nve(2, 200, OTHER_GROUP)
    expect_members(fastpath, X, Y, ("p2", "10.1.2.2", OTHER_GROUP))
    fastpath.end(end)
    tor.nve(1, 300, "239.3.3.3")
    tor.hosts[2].delete_link("vx200")
    fastpath.start()
    expect_members(fastpath, X, Y, ("p1", "10.1.1.2", "239.3.3.3"))
    vms[1].send(*TEN)
    expect_once(vms, TEN, but=(1,))


def test_what_was_said_while_the_device_stood_still_is_heard_afterwards(lab, tor):
    """D1: joins wait in the ring."""
    fastpath = tor.run(**SLOW)
    with fastpath.standing_still():
        vms = {n: tor.nve(n) for n in (1, 2)}
    expect_members(fastpath, X, Y)
    vms[1].send(*TEN)
    expect_once(vms, TEN, but=(1,))


def test_d7_an_nve_that_dies_silently_is_gone_within_the_bound_and_no_other_is(lab):
    """D7: its namespace is no more; a bridge keeps the port's link up. At p3 it is the interface."""
    tor = Tor(lab)
    tor.switch(1, 11, 12, snoops=False)
    tor.host(3)
    fastpath = tor.run(**QUICK)
    vms = {n: tor.nve(n) for n in (11, 12)}
    tor.nve(3)
    x, y, z = ("p1", "10.1.1.11", GROUP), ("p1", "10.1.1.12", GROUP), ("p3", "10.1.3.2", GROUP)
    expect_members(fastpath, x, y, z)
    watch = Watch(lab, fastpath, "members")
    tor.box.delete_link("p3")
    expect_members(fastpath, x, y)
    tor.switches.delete_link("d11")
    bound_s = 2 * QUICK["query_interval_s"] + QUICK["query_response_interval_s"]
    expect_members(fastpath, y, within_s=bound_s + 2)
    assert [(row["event"], row["nve"]) for row in watch.rows()] == [
        ("left", "10.1.3.2"),
        ("left", "10.1.1.11"),
    ]
    assert fastpath.port("p1")["state"] == "up"
    assert vms[12].heard(0) == []


def test_d19_a_host_that_moved_is_served_where_it_is_and_gone_where_it_was(lab):
    """D19: only the host named is asked, and the general query would come after two minutes."""
    tor = Tor(lab)
    for port, host in ((1, 11), (2, 21)):
        tor.switch(port, host, snoops=False)
    fastpath = tor.run(**SLOW)
    vms = {n: tor.nve(n) for n in (11, 21)}
    stays, was, now = ("p2", "10.1.2.21", GROUP), ("p1", "10.1.1.11", GROUP), ("p2", "10.1.1.11", GROUP)
    expect_members(fastpath, was, stays)
    tor.enslave("d11", 2)
    for state in ("down", "up"):  # it sees that it was replugged, as hosts do
        tor.hosts[11].set_link("up", state=state)
    expect_members(fastpath, was, now, stays)
    ear = Ear(lab, tor.hosts[21])
    assert notify_moved(fastpath, "10.1.1.11") == (0, "1 of 1 NVEs known, and queried now")
    expect_members(fastpath, now, stays)
    tor.nve(21, 300, "239.3.3.3")
    expect_members(fastpath, now, stays, ("p2", "10.1.2.21", "239.3.3.3"))
    vms[21].send(*TEN)
    expect_once(vms, TEN, but=(21,))
    assert {query.group for query in ear.queries()} <= {int.from_bytes(bytes((239, 1, 1, 100)), "big")}

"""Two managers on three etcd nodes: whoever is killed, whatever is compacted, costs no copy and no tunnel."""

import signal
import time
from collections.abc import Iterator

import pytest

from ctrl.protocols.messages import Kind
from tests.system.crowd import FIRST_OTHER, sent
from tests.system.fabric import Fabric, Node, expect_whole, lacking
from tests.system.fabric_etcd import Etcds
from tests.system.fabric_truth import settles
from tests.system.lab import Lab, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(lacking("etcd", "etcdctl")), reason=lacking("etcd", "etcdctl")),
]
VNI, STEP, N_STEPS = 100, 300, 4
"""Groups joined in each step."""


def served(manager: Node) -> int:
    """How many nodes have a session with a manager."""
    return sum(row["state"] == "up" for row in manager.fastpath.show("sessions"))


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab("etcd") as made:
        yield made


def groups(step: int) -> range:
    return range(FIRST_OTHER + step * STEP, FIRST_OTHER + (step + 1) * STEP)


def test_a_killed_leader_a_killed_manager_and_a_compaction_cost_no_copy_and_no_tunnel(lab: Lab):
    """In each step all ToRs join groups while something breaks, and the truth is there within 5 s."""
    fabric = Fabric(lab, 3, n_managers=2)
    etcds = Etcds(fabric)
    tors, managers = [*fabric.tors.values()], [*fabric.managers.values()]
    for tor in tors:
        tor.host()
    nves = [tor.nve(VNI) for tor in tors]
    fabric.start('mode = "mesh"', store=etcds.url)
    wait_for(lambda: fabric.have_joined(nves), "the NVEs have joined")
    settles(fabric, 15.0)
    time.sleep(2.0)  # nobody waits for an answer to the queries of the start: a crowd gives none

    def join(step: int) -> None:
        for flood in [tor.say(Kind.TO_EX, groups(step), reports_per_s=10) for tor in tors]:
            sent(flood)

    took = {}
    with fabric.traffic(*nves) as data, fabric.traffic(*nves[::-1]) as back:
        leader = etcds.leader()
        etcds.kill(leader)
        join(0)
        took["leader"] = settles(fabric, 5.0)
        etcds.start(leader)

        managers[0].kill()
        join(1)
        took["manager"] = settles(fabric, 5.0)
        managers[0].start()

        managers[1].fastpath.process.send_signal(signal.SIGSTOP)
        wait_for(lambda: served(managers[0]) == len(tors), "all have gone to the one that answers", 30.0)
        join(2)
        settles(fabric, 5.0)
        for n in range(3):  # whichever node it watched by, it has to ask anew for what it missed
            etcds.restart(n)
        etcds.compact()
        managers[1].fastpath.process.send_signal(signal.SIGCONT)
        join(3)
        took["compaction"] = settles(fabric, 5.0)
        time.sleep(0.5)
    print(f"seconds from the last join to the truth: {took}")
    assert {len(tor.groups()) for tor in tors} == {N_STEPS * STEP + 1}
    expect_whole(data)
    expect_whole(back)
    # the second one has it all, too: everyone goes there now
    managers[0].kill()
    for tor in tors:
        sent(tor.say(Kind.TO_IN, groups(0), reports_per_s=100))
    assert settles(fabric, 15.0)

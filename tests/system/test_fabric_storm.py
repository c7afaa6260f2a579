"""Thousands of joins while the manager is killed, or a ToR is cut off from it: nothing is lost, and the truth
is there at once afterwards."""

import time
from collections.abc import Iterator

import pytest

from ctrl.protocols.messages import Kind
from tests.system.crowd import FIRST_OTHER, sent
from tests.system.fabric import Fabric, expect_whole, lacking
from tests.system.fabric_truth import joined, settles
from tests.system.lab import Lab, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(lacking("nft")), reason=lacking("nft")),
]
VNI, OTHER_VNI = 100, 200
MESH, POINT = 'mode = "mesh"', 'mode = "point"'
PARTITION_S = 30.0
ANSWERED_S = 2.0
"""After which nobody waits for an answer to the queries of the start: a crowd gives none."""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab("storm") as made:
        yield made


class Scene:
    """Two NVEs of Linux on each ToR but the last, which has one."""

    def __init__(self, lab: Lab, n_points: int, manager: str) -> None:
        self.fabric = Fabric(lab, 3, n_points)
        self.tors = [*self.fabric.tors.values()]
        for tor in self.tors:
            tor.host()
        self.nves = [tor.nve(VNI) for tor in self.tors]
        self.others = [tor.nve(OTHER_VNI) for tor in self.tors[:2]]
        self.threshold = 1 if manager == POINT else 0
        self.fabric.start(f"{manager}\nhold_s = 60")
        wait_for(lambda: self.fabric.have_joined([*self.nves, *self.others]), "the NVEs have joined")
        self.settles(10.0)
        time.sleep(ANSWERED_S)

    def settles(self, within_s: float) -> float:
        return settles(self.fabric, within_s, self.threshold)

    def n_joined(self) -> int:
        return sum(len(tors) for tors in joined(self.fabric).values()) - len(self.nves) - len(self.others)


@pytest.mark.parametrize(
    ("mode", "n_points", "n_groups"), [(MESH, 0, 5000), (POINT, 2, 1000)], ids=["mesh", "point"]
)
def test_a_manager_killed_during_10000_joins_costs_no_copy_and_has_the_truth_within_5_s(
    lab: Lab, mode: str, n_points: int, n_groups: int
):
    """M10, M11. By points it is 2,000: each group begins in mesh, and is switched."""
    scene = Scene(lab, n_points, mode)
    manager = scene.fabric.managers["manager1"]
    groups = range(FIRST_OTHER, FIRST_OTHER + n_groups)
    with scene.fabric.traffic(*scene.nves) as one, scene.fabric.traffic(*scene.others) as other:
        floods = [tor.say(Kind.TO_EX, groups, reports_per_s=n_groups / 250) for tor in scene.tors[:2]]
        wait_for(lambda: scene.n_joined() > n_groups // 2, "they are joining")
        manager.kill()
        assert any(flood.poll() is None for flood in floods), (
            "the joins were over before the manager was away"
        )
        time.sleep(1.0)
        begin = time.monotonic()
        manager.start(waits=False)
        for flood in floods:
            sent(flood)
        joined_s = time.monotonic() - begin
        wait_for(lambda: scene.n_joined() == 2 * n_groups, "all have joined")
        took_s = scene.settles(5.0)
        time.sleep(0.5)
    print(f"the last join {joined_s:.1f} s after the manager's start, the truth {took_s:.1f} s after that")
    expect_whole(one)
    expect_whole(other)


def test_a_tor_cut_off_for_30_s_with_1000_joins_and_leaves_has_the_truth_within_5_s(lab: Lab):
    """M9: it goes on by what it has, and is not forgotten within the hold time.

    Most groups stay: that more than half of its tunnels are to go, a ToR does not believe at once (D8).
    """
    scene = Scene(lab, 0, MESH)
    tor, other = scene.tors[:2]
    places = ((0, 1000), (1000, 2000), (2000, 3500))
    old, new, staying = (range(FIRST_OTHER + begin, FIRST_OTHER + end) for begin, end in places)
    for one in (tor, other):
        sent(one.say(Kind.TO_EX, [*old, *staying]))
    wait_for(lambda: scene.n_joined() == 5000, "all have joined")
    scene.settles(10.0)
    with scene.fabric.traffic(*scene.nves) as data, scene.fabric.traffic(*scene.others[::-1]) as back:
        with scene.fabric.cut_off(tor.name):
            begin = time.monotonic()
            floods = [tor.say(Kind.TO_IN, old), other.say(Kind.TO_EX, new)]
            # of groups that it is in and stays in it is to hear, too
            floods += [scene.tors[2].say(Kind.TO_EX, staying[:500])]
            for flood in floods:
                sent(flood)
            for flood in [tor.say(Kind.TO_EX, new), other.say(Kind.TO_IN, staying[500:700])]:
                sent(flood)
            time.sleep(max(0.0, begin + PARTITION_S - time.monotonic()))
        took_s = scene.settles(5.0)
        time.sleep(0.5)
    print(f"the truth {took_s:.1f} s after healing")
    assert scene.n_joined() == 6000 + 500 - 200
    expect_whole(data)
    expect_whole(back)

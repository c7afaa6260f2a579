"""Who serves a group: CONFORMANCE M7 and M13."""

import pytest

from ctrl.topology.entry import Node
from ctrl.topology.points import Allocation, Candidates, Settings, ranking

G, H = bytes([239, 1, 1, 1]), bytes([239, 1, 1, 2])
P, Q, R = (bytes([10, 0, 9, n]) for n in (1, 2, 3))


def point(name: str, address: bytes, **more) -> Node:
    return Node(name, "replicator", address, 1, **more)


def candidates(
    *allocations: Allocation, dead: tuple[str, ...] = (), nodes: tuple[Node, ...] = ()
) -> Candidates:
    found = Candidates(Settings("point", points=allocations))
    found.update(nodes or (point("p", P), point("q", Q), point("r", R)), dead)
    return found


def test_a_point_that_goes_leaves_all_other_groups_where_they_are():
    """M7: rendezvous hashing"""
    for n in range(200):
        key = bytes([239, 0, 0, n])
        all_three = ranking(("p", "q", "r"), key)
        assert ranking(("p", "r"), key) == tuple(name for name in all_three if name != "q")


def test_groups_are_dealt_about_evenly():
    winners = [ranking(("p", "q", "r"), bytes([239, 0, n >> 8, n & 255]))[0] for n in range(3000)]
    assert all(900 < winners.count(name) < 1100 for name in "pqr")


def test_the_operators_word_counts_first():
    """M7"""
    found = candidates(Allocation(P, ((100, 199),)), Allocation(Q, groups=(H,)))
    assert found.choose(G, frozenset({150})) == ("p",)
    assert found.choose(H, frozenset({7})) == ("q",)
    assert found.choose(G, frozenset({7})) == ("r",)
    assert found.free == ("r",)


def test_networks_of_one_group_may_be_at_several_points():
    """M13"""
    found = candidates(Allocation(P, ((100, 199),)), Allocation(Q, ((200, 299),)))
    assert found.choose(G, frozenset({150, 250})) == ("p", "q")
    assert found.choose(G, frozenset({150, 250, 7})) == ("p", "q", "r")
    assert found.vnis_of(point("r", R)) == ((0, 99), (300, (1 << 24) - 1))


def test_a_group_of_unknown_networks_is_at_all_points_that_serve_any():
    """M13: each serves its own, so together they serve each packet once."""
    found = candidates(Allocation(P, ((100, 199),)), Allocation(Q, ((200, 299),)))
    assert found.choose(G, None) == ("p", "q", "r")
    assert candidates().choose(G, None) == ranking(("p", "q", "r"), G)[:1]


@pytest.mark.parametrize("dead", ["p", "r"])
def test_a_group_that_lost_one_of_its_points_is_meshed(dead):
    """M13: nobody else serves those VNIs."""
    found = candidates(Allocation(P, ((100, 199),)), Allocation(Q, ((200, 299),)), dead=(dead,))
    assert found.choose(G, frozenset({150, 250, 7})) == ()
    assert found.choose(G, None) == ()


def test_a_point_may_say_itself_which_vnis_it_serves():
    found = candidates(nodes=(point("p", P, vnis=((1, 9),)), point("q", Q)))
    assert found.choose(G, frozenset({5})) == ("p",)
    assert found.choose(G, frozenset({50})) == ("q",)
    assert found.vnis_of(point("p", P, vnis=((1, 9),))) == ((1, 9),)


def test_vnis_that_two_points_would_serve_are_meshed():
    """M13: nobody gets two copies; q serves all VNIs, those of p too."""
    found = candidates(nodes=(point("p", P, vnis=((1, 9),)), point("q", Q)))
    assert found.choose(G, frozenset({5, 50})) == ()


def test_of_points_with_the_same_vnis_one_serves_a_group():
    nodes = (point("p", P, vnis=((1, 9),)), point("q", Q, vnis=((1, 9),)))
    assert {candidates(nodes=nodes).choose(bytes([239, 0, 0, n]), frozenset({5})) for n in range(20)} == {
        ("p",),
        ("q",),
    }


def test_a_group_given_to_a_point_that_does_not_serve_its_vnis_is_meshed():
    found = candidates(Allocation(P, ((100, 199),), groups=(G,)))
    assert found.choose(G, frozenset({150})) == ("p",)
    assert found.choose(G, frozenset({150, 7})) == ()
    assert found.choose(G, None) == ()


def test_where_every_vni_is_given_away_nobody_is_free():
    found = candidates(Allocation(P, ((0, (1 << 24) - 1),)))
    assert found.free == ()
    assert found.choose(G, frozenset({7})) == ("p",)


def test_an_address_that_is_copied_on_names_the_point_too():
    found = candidates(Allocation(Q, ((1, 9),)), nodes=(point("p", P, replicate=Q), point("r", R)))
    assert found.choose(G, frozenset({5})) == ("p",)


def test_without_points_all_is_meshed():
    found = Candidates(Settings("point"))
    assert found.choose(G, frozenset({5})) == ()
    assert found.choose(G, None) == ()


@pytest.mark.parametrize("wrong", [{"mode": "tree"}, {"threshold": 1}, {"threshold": 4, "hysteresis": 4}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        Settings(**wrong)

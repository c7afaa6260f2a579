"""What the tests of the fabric call the truth: what is missing of it, and what is stale, is found."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests.system.fabric_truth import Tunnel, difference

A, B, C = "10.0.0.1", "10.0.0.2", "10.0.0.3"
P, Q = "10.0.0.110", "10.0.0.111"
G = "239.1.1.1"


def node(name: str, address: str, tunnels: dict[str, list[str]], is_up: bool = True, **more: Any) -> Any:
    rows: dict[str, list[dict[str, Any]]] = {
        "groups": [{"group": group, "remote": remote} for group, remote in tunnels.items()],
        "tunnels": [],
    }
    shown = SimpleNamespace(show=lambda what, **_: rows[what], rows=rows)
    return SimpleNamespace(name=name, address=address, fastpath=shown, is_up=lambda: is_up, **more)


def fabric(tors: list[tuple[set[str], dict[str, list[str]]]], *points: dict[str, list[str]]) -> Any:
    """ToRs with what is joined there and their tunnels, and points with theirs."""
    made = [
        node(f"tor{n}", address, tunnels, groups=lambda joined=joined: joined)
        for n, (address, (joined, tunnels)) in enumerate(zip((A, B, C), tors, strict=False), 1)
    ]
    copying = [
        node(f"point{n}", address, tunnels, bool(tunnels))
        for n, (address, tunnels) in enumerate(zip((P, Q), points, strict=False), 1)
    ]
    return SimpleNamespace(tors={one.name: one for one in made}, points={one.name: one for one in copying})


MESH = [({G}, {G: [B]}), ({G}, {G: [A]}), (set[str](), dict[str, list[str]]())]
POINT = [({G}, {G: [P]}), ({G}, {G: [P]}), ({G}, {G: [P]})]
WHOLE = {G: [A, B, C]}


def test_a_fabric_as_it_should_be_has_no_difference():
    assert not difference(fabric(MESH))
    assert not difference(fabric(MESH, {"vxlan 100": [A]}), threshold=3)
    assert not difference(fabric(POINT, WHOLE, {"239.9.9.9": []}), threshold=3)
    assert not difference(fabric(POINT, WHOLE, WHOLE), threshold=3)


def test_a_peer_that_no_copy_can_reach_yet_is_a_difference():
    made = fabric(MESH)
    made.tors["tor1"].fastpath.rows["tunnels"].append({"peer": B})
    assert difference(made).unresolved == {("tor1", B)}


@pytest.mark.parametrize(
    ("tors", "missing", "stale"),
    [
        ([MESH[0], ({G}, {}), MESH[2]], {Tunnel("tor2", G, A)}, set()),
        ([*MESH[:2], (set(), {G: [A]})], set(), {Tunnel("tor3", G, A)}),
        ([*MESH[:2], (set(), {"239.9.9.9": [A]})], set(), {Tunnel("tor3", "239.9.9.9", A)}),
        ([({G}, {G: [B, C]}), *MESH[1:]], set(), {Tunnel("tor1", G, C)}),
        ([MESH[0], (set(), {}), MESH[2]], set(), {Tunnel("tor1", G, B)}),
    ],
    ids=["not told", "not in it", "nobody in it", "one too many", "alone in it"],
)
def test_in_mesh_each_tunnel_too_many_or_too_few_is_named(tors, missing, stale):
    found = difference(fabric(tors))
    assert (found.missing, found.stale) == (missing, stale)


@pytest.mark.parametrize(
    ("tors", "points"),
    [
        (POINT, [{G: [A, B]}]),
        (POINT, [{G: [A, B, C, "10.0.0.4"]}]),
        (POINT, [WHOLE, {G: [A, B]}]),
        (POINT, [{"239.9.9.9": [A]}, WHOLE]),
        ([*POINT[:2], ({G}, {G: [Q]})], [WHOLE, WHOLE]),
        ([*POINT[:2], ({G}, {G: [A, B]})], [WHOLE]),
        ([*POINT[:2], (set(), {G: [P]})], [{G: [A, B]}]),
    ],
    ids=["one short", "one too many", "the other one short", "another than is sent to", "two points", "mesh",
         "too few for a point"],
)  # fmt: skip
def test_by_a_point_each_list_that_is_not_whole_and_each_other_way_is_a_difference(tors, points):
    assert difference(fabric(tors, *points), threshold=3)


def test_without_any_point_that_runs_it_is_mesh():
    mesh = [({G}, {G: [B, C]}), ({G}, {G: [A, C]}), ({G}, {G: [A, B]})]
    assert not difference(fabric(mesh, {}, {}), threshold=3)
    assert difference(fabric(POINT, {}, {}), threshold=3)

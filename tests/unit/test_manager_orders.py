"""What comes late, twice, or of somebody who is no more (CONFORMANCE M9 to M12).

The rarest orders by hand; test_fabric_machine finds others."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ctrl.roles.tunnels import Bounds
from ctrl.rpc.messages import Ack, Hello, Instructions
from ctrl.store.model import Write
from tests.unit.fabric import SETTLE_S, World
from tests.unit.fabric_parts import StoreModel, device, group, point
from tests.unit.worlds import deliver, gone_for, running_of, world_of

G, H = group(1), group(2)


def test_a_write_of_an_older_session_never_counts() -> None:
    """M9: m1 heard of G, and comes to write it only after the node went to m2 and left G."""
    world = world_of(2)
    world.join("d1", G)
    deliver(world, "d1")
    m1 = running_of(world)
    late = list(m1.writes)
    assert late
    m1.writes.clear()
    world.leave("d1", G)
    world.connect("d1", "m2")
    world.run()
    assert [world.store.commit(write) for write in late] == [False]


def test_a_manager_that_lags_says_nothing_before_it_knows_what_the_node_knows() -> None:
    """M9: an older revision never wins, and never keeps a newer one out."""
    world = world_of(2)
    m2 = running_of(world, "m2")
    world.join("d1", G)
    world.join("d2", G)
    for _ in range(30):
        for name in world.boxes:
            deliver(world, name)
            number = world.boxes[name].session or 0
            world.to_node(number)
        world.commit("m1")
        world.report("m1")
        world.follow("m1")
        world.advance(SETTLE_S)
    assert world.peers("d1", G) == ["d2"]
    assert m2.followed < world.boxes["d1"].instructed.revision
    number = world.connect("d1", "m2") or 0
    deliver(world, "d1")
    world.commit("m2", 9)
    world.report("m2")
    for _ in range(4):
        world.advance(SETTLE_S)
    assert not any(isinstance(message, Instructions) for message in world.links[number].to_node)
    world.run()
    assert world.boxes["d1"].instructed.refusals.total() == 0
    assert world.peers("d1", G) == ["d2"]


def removal_of(world: World, name: str) -> Write:
    """The write by which m1 ends the hold of a node; m1 does not follow the store meanwhile."""
    m1 = running_of(world)
    world.poll(m1)
    (write,) = [write for write in m1.writes if f"node/{name}" in write.puts]
    m1.writes.remove(write)
    return write


def test_a_node_that_came_back_is_not_removed_by_a_manager_that_has_not_seen_it() -> None:
    """M9: m1's hold runs out before it follows."""
    world = world_of(1)
    gone_for(world, "d1", 31)
    world.connect("d1", "m2")
    deliver(world, "d1")
    world.commit("m2", 9)
    world.follow("m2")
    assert not world.store.commit(removal_of(world, "d1"))


def test_a_node_that_came_and_went_again_is_held_anew() -> None:
    """M9: m1 saw neither."""
    world = world_of(1)
    gone_for(world, "d1", 31)
    world.restart("d1")
    number = world.connect("d1", "m2") or 0
    deliver(world, "d1")
    for _ in range(3):
        world.commit("m2", 9)
        world.report("m2")
        world.follow("m2")
    world.close_at_node(number)
    world.close_at_manager(number)
    world.commit("m2", 9)
    assert "live/d1" not in world.store.items
    assert not world.store.commit(removal_of(world, "d1"))


@pytest.mark.parametrize("follow", [World.follow, World.relist])
def test_a_node_that_came_and_went_between_two_looks_is_held_anew(follow: Callable[..., None]) -> None:
    """M9: m1 sees nothing of it, and does not remove the node by the hold that began before."""
    world = world_of(1)
    gone_for(world, "d1", 20)
    number = world.connect("d1", "m2") or 0
    deliver(world, "d1")
    world.commit("m2", 9)
    world.follow("m2")
    world.close_at_node(number)
    world.close_at_manager(number)
    world.commit("m2", 9)
    assert "live/d1" not in world.store.items
    follow(world, "m1")
    world.run(28, step_s=1)
    assert "node/d1" in world.store.items
    world.run(3, step_s=1)
    assert "node/d1" not in world.store.items


def test_who_is_held_and_who_is_back_is_told() -> None:
    """M9."""
    world = world_of(1, n_managers=1)
    m1 = running_of(world)
    m1.manager.take_news()
    gone_for(world, "d1", 1)
    world.connect("d1", "m1")
    world.run()
    events = [event for event, _ in m1.manager.take_news()]
    assert [event for event in events if event.startswith("node_")] == ["node_held", "node_back"]


def test_what_a_node_left_while_it_had_no_session_is_taken_back() -> None:
    """M10, M11: its full state counts, by what it holds and by what it does not."""
    world = world_of(2)
    for key in (G, H):
        world.join("d1", key)
        world.join("d2", key)
    world.run()
    gone_for(world, "d1", 1)
    world.leave("d1", G)
    world.connect("d1", "m2")
    world.run()
    assert world.peers("d2", G) == []
    assert world.peers("d2", H) == ["d1"]
    assert world.boxes["d1"].instructed.entries.keys() == {H}


def test_a_node_is_told_nothing_before_its_own_groups_are_in_the_store() -> None:
    """M10: else the first that it hears would end what it forwards by."""
    world = world_of(1, n_managers=1)
    world.join("d1", G)
    world.run()
    world.kill_manager("m1")
    world.store = StoreModel("s2")
    world.start_manager("m1")
    world.close_at_node(world.boxes["d1"].session or 0)
    number = world.connect("d1", "m1") or 0
    deliver(world, "d1")
    for _ in range(20):
        world.commit("m1")
        world.report("m1")
        world.follow("m1", 1)
        world.advance(SETTLE_S)
        world.to_node(number)
        assert world.entry("d1", G) is not None
        deliver(world, "d1")
    assert world.boxes["d1"].instructed.store == "s2"


def test_a_switch_waits_for_a_device_that_has_not_acknowledged() -> None:
    """M12: what was in force before counts for nothing, nor does an acknowledgement of something older."""
    world = world_of(3, n_managers=1, mode="point")
    for n in (1, 2, 3):
        world.join(f"d{n}", G)
    world.run()
    world.add(point(1))
    world.connect("p1", "m1")
    slow = world.boxes["d1"].session or 0
    m1 = running_of(world)
    for _ in range(20):  # d1 hears nothing
        for name in ("d2", "d3", "p1"):
            deliver(world, name)
            while world.links[world.boxes[name].session or 0].to_node:
                world.to_node(world.boxes[name].session or 0)
            deliver(world, name)
        m1.manager.hear(slow, Ack(0), world.now_s)
        world.commit("m1", 9)
        world.report("m1")
        world.follow("m1")
        world.advance(SETTLE_S)
    assert world.peers("p1", G) == ["d1", "d2", "d3"]  # it is prepared
    assert world.peers("d2", G) == ["d1", "d3"]  # but d1 would take no copy from the point yet
    world.run(1)
    assert world.peers("d2", G) == ["p1"]


def test_a_switch_waits_for_a_point_that_refuses_its_list() -> None:
    """M12: acknowledged is not in force; the mesh stays."""
    world = world_of(3, n_managers=1, mode="point")
    for n in (1, 2, 3):
        world.join(f"d{n}", G)
    world.run()
    world.bounds = Bounds(max_peers_per_group=2, shrink_hold_s=0)
    world.add(point(1))
    world.connect("p1", "m1")
    world.run(2)
    m1 = running_of(world)
    assert m1.manager.refused == {"refused_by_node": 1}
    assert all(sum(world.copies(f"d{n}", G).values()) == 2 for n in (1, 2, 3))
    world.leave("d3", G)
    world.run(2)
    assert world.peers("d1", G) == ["p1"]


def test_a_full_state_that_differs_in_nothing_is_told_of_at_once() -> None:
    """M10: heard after the live key came back, it changes nothing in the store, by which all else is told."""
    world = world_of(2)
    for name in ("d1", "d2"):
        world.join(name, G)
    world.run()
    m1 = running_of(world)
    number = world.connect("d1", "m1") or 0
    link = world.links[number]
    link.to_manager[0] = Hello(device(1))  # it holds nothing
    world.to_manager(number)
    world.serve("m1")
    m1.manager.take_ready()
    revision = world.store.revision
    deliver(world, "d1")
    assert m1.manager.take_ready() == [number]
    world.advance(SETTLE_S)
    assert world.store.revision == revision
    told = [message for message in link.to_node if isinstance(message, Instructions)]
    assert [(one.is_full, [entry.key for entry in one.entries]) for one in told] == [(True, [G])]


def test_what_comes_twice_changes_nothing() -> None:
    """M11."""
    world = world_of(2, n_managers=1)
    world.join("d1", G)
    link = world.links[world.boxes["d1"].session or 0]
    link.to_manager.extend(list(link.to_manager))
    world.run()
    revision = world.store.revision
    world.run()
    assert world.store.revision == revision
    assert set(world.boxes["d1"].instructed.entries) == {G}

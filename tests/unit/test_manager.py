"""What a manager tells whom, with real nodes and a model of the store."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ctrl.roles.manager import ManagerSettings
from ctrl.rpc.messages import Instructions, Keepalive
from ctrl.topology.points import Settings
from tests.unit.fabric import SETTLE_S, World
from tests.unit.fabric_parts import Link, device, group, point
from tests.unit.worlds import peopled, running_of

G, H = group(1), group(2)
ADDRESSES = {n: device(n).address for n in range(1, 30)}


def world_of(
    n_devices: int, *, n_points: int = 0, settings: Settings | None = None, settling_s: float = 0
) -> World:
    """Make a world with one manager, where all are connected and in no group."""
    world = peopled(World(topology=settings, settling_s=settling_s), n_devices, n_points)
    world.told.clear()
    return world


def link_of(world: World, name: str) -> Link:
    """The session that a node has."""
    session = world.boxes[name].session
    assert session is not None
    return world.links[session]


def test_each_device_is_told_all_others_and_nobody_else_is_told_anything() -> None:
    """M1, M2, M3, M8: second information alone is enough."""
    world = world_of(4)
    for n in (1, 2, 3):
        world.join(f"d{n}", G)
    world.run()
    for n in (1, 2, 3):
        entry = world.entry(f"d{n}", G)
        assert entry is not None
        assert entry.peers == tuple(ADDRESSES[m] for m in (1, 2, 3) if m != n)
    assert world.entry("d4", G) is None
    assert world.told["d4"] == 0


@pytest.mark.parametrize("k", [1, 2, 7])
def test_one_device_more_is_k_plus_one_instructions(k: int) -> None:
    """M4."""
    world = world_of(k + 2)
    for n in range(1, k + 1):
        world.join(f"d{n}", G)
    world.run()
    world.told.clear()
    world.join(f"d{k + 1}", G)
    world.run()
    assert world.told == {f"d{n}": 1 for n in range(1, k + 2)}


def test_the_last_but_one_that_leaves_empties_the_list_of_the_last() -> None:
    """M4, M5."""
    world = world_of(2)
    world.join("d1", G)
    world.run()
    assert world.peers("d1", G) == []
    world.join("d2", G)
    world.run()
    assert world.peers("d1", G) == ["d2"]
    world.leave("d2", G)
    world.run()
    assert world.peers("d1", G) == []
    assert world.entry("d1", G) is not None
    assert world.entry("d2", G) is None


def test_a_point_gets_all_devices_and_they_get_the_point() -> None:
    """M6."""
    world = world_of(3, n_points=1, settings=Settings(mode="point"))
    for n in (1, 2, 3):
        world.join(f"d{n}", G)
    world.run(1)
    assert world.peers("p1", G) == ["d1", "d2", "d3"]
    assert all(world.peers(f"d{n}", G) == ["p1"] for n in (1, 2, 3))


def test_what_comes_at_once_is_told_at_once_and_one_batch_is_on_its_way() -> None:
    world = world_of(2)
    for n in range(1, 21):
        world.join("d1", group(n))
        world.join("d2", group(n))
        world.flow()
    link = link_of(world, "d1")
    world.advance(SETTLE_S)
    batches = [message for message in link.to_node if isinstance(message, Instructions)]
    assert len(batches) == 1
    assert len(batches[0].entries) == 20
    world.join("d2", group(30))
    world.join("d1", group(30))
    while link.to_manager:  # it says more, and hears nothing
        world.to_manager(world.boxes["d1"].session or 0)
    for _ in range(5):
        world.commit("m1", 10)
        world.report("m1")
        world.follow("m1")
        world.advance(SETTLE_S)
    assert [message for message in link.to_node if isinstance(message, Instructions)] == batches
    world.run()
    assert world.peers("d1", group(30)) == ["d2"]


def test_a_node_that_comes_back_is_told_what_changed_and_no_more() -> None:
    """M9, M10: its tunnels stay, and of a hundred groups one is said."""
    world = world_of(3)
    for n in range(1, 101):
        world.join("d1", group(n))
        world.join("d2", group(n))
    world.run()
    world.close_at_node(world.boxes["d1"].session or 0)
    world.join("d3", group(7))
    world.run()
    assert world.peers("d1", group(7)) == ["d2"]
    world.told.clear()
    world.connect("d1", "m1")
    world.run()
    assert world.told["d1"] == 1
    assert world.peers("d1", group(7)) == ["d2", "d3"]


def test_a_silent_device_keeps_its_tunnels_for_the_hold_time_and_then_loses_them() -> None:
    """M9."""
    world = world_of(3)
    for n in (1, 2, 3):
        world.join(f"d{n}", G)
    world.run()
    world.kill("d3")
    number = next(number for number, link in world.links.items() if link.node == "d3")
    world.close_at_manager(number)
    world.run()
    running = running_of(world)
    assert {row.node: row.state for row in running.manager.devices(world.now_s)}["d3"] == "held"
    world.run(28, step_s=4)
    assert world.peers("d1", G) == ["d2", "d3"]
    world.run(4, step_s=1)
    assert world.peers("d1", G) == ["d2"]
    assert not any("d3" in key for key in world.store.items)


def test_a_session_without_a_word_ends_after_the_hold_time() -> None:
    """M9."""
    world = world_of(2)
    world.cut(world.boxes["d1"].session or 0)
    world.run(45, step_s=1)
    assert world.endings[0] == ("d1", "silent for 30 s")
    assert world.boxes["d2"].session is not None
    assert link_of(world, "d2").is_open_at_manager


def test_a_manager_that_stood_still_itself_ends_nobody_for_it() -> None:
    """M9: what nodes said meanwhile waits to be heard."""
    world = world_of(1)
    world.now_s += 100
    running = running_of(world)
    world.poll(running)
    assert link_of(world, "d1").is_open_at_manager


def test_a_manager_that_was_killed_knows_all_when_it_is_back_and_removes_nothing() -> None:
    """M10."""
    world = world_of(3)
    for n in (1, 2, 3):
        world.join(f"d{n}", G)
    world.run()
    world.kill_manager("m1")
    world.expire()
    world.start_manager("m1")
    for name in ("d1", "d2", "d3"):
        world.close_at_node(world.boxes[name].session or 0)
        world.connect(name, "m1")
        world.run()
        assert all(sum(world.copies(who, G).values()) == 2 for who in world.boxes)


def test_a_manager_with_a_new_store_removes_nothing_before_it_knows_who_is_there() -> None:
    """M10: the store was lost; the nodes come one by one."""
    world = world_of(3)
    for n in (1, 2, 3):
        world.join(f"d{n}", G)
    world.run()
    world.kill_manager("m1")
    world.store = type(world.store)("s2")
    world.start_manager("m1", settling_s=10)
    for name in ("d1", "d2"):
        world.close_at_node(world.boxes[name].session or 0)
        world.connect(name, "m1")
        world.run(1)
        assert world.peers("d1", G) == ["d2", "d3"]
        assert world.peers("d2", G) == ["d1", "d3"]
    world.kill("d3")
    world.run(10)
    assert world.peers("d1", G) == ["d2"]
    assert world.peers("d2", G) == ["d1"]


def test_no_group_is_switched_while_it_is_not_known_who_is_there_and_all_are_then() -> None:
    """M10, M12: what a node holds of another store is merged, so no switch would be in force."""
    world = world_of(3, n_points=1, settings=Settings(mode="point"), settling_s=10)
    for n in (1, 2, 3):
        world.join(f"d{n}", G)
        world.join(f"d{n}", H)
    world.run(8, step_s=1)
    assert world.peers("d1", G) == ["d2", "d3"]
    assert not any(key.startswith("mode/") for key in world.store.items)
    world.run(3, step_s=0.5)
    assert all(world.peers(f"d{n}", key) == ["p1"] for n in (1, 2, 3) for key in (G, H))


def test_word_of_moved_vms_reaches_all_devices_of_all_managers_and_no_point() -> None:
    """D19."""
    world = World(("m1", "m2"))
    for node in (device(1), device(2), point(1)):
        world.add(node)
    for name, manager in (("d1", "m1"), ("d2", "m2"), ("p1", "m1")):
        world.connect(name, manager)
    world.run()
    running = running_of(world)
    nve = b"\x0a\x01\x01\x02"
    assert running.manager.moved([nve], world.now_s) == 2
    world.advance(0)
    world.flow()
    assert world.boxes["d1"].instructed.take_moved() == [nve]
    assert world.boxes["d2"].instructed.take_moved() == [nve]
    assert world.boxes["p1"].instructed.take_moved() == []
    world.run(6, step_s=1)
    assert not any(key.startswith("moved/") for key in world.store.items)


def test_a_lost_batch_is_told_again_once_the_node_was_heard() -> None:
    world = world_of(2)
    world.join("d1", G)
    world.join("d2", G)
    world.flow()
    world.advance(SETTLE_S)
    link = link_of(world, "d1")
    link.to_node = type(link.to_node)(m for m in link.to_node if not isinstance(m, Instructions))
    world.flow()
    assert world.entry("d1", G) is None
    world.run(25, step_s=1)
    assert world.peers("d1", G) == ["d2"]


def test_a_gap_in_what_a_node_says_is_asked_for_once() -> None:
    """M11."""
    world = world_of(1)
    link = link_of(world, "d1")
    world.join("d1", G)
    link.to_manager.clear()
    world.join("d1", H)
    world.join("d1", group(3))
    world.run()
    assert set(world.boxes["d1"].instructed.entries) == {G, H, group(3)}
    link.to_manager.append(Keepalive(999))
    world.to_manager(world.boxes["d1"].session or 0)
    assert len(link.to_node) == 1


def test_a_dead_point_is_left_when_nobody_serves_it_and_a_device_does_not_reach_it() -> None:
    """M7: the other one takes its groups."""
    world = world_of(3, n_points=2, settings=Settings(mode="point"))
    for n in (1, 2, 3):
        world.join(f"d{n}", G)
    world.run(1)
    first = world.peers("d1", G)[0]
    other = "p2" if first == "p1" else "p1"
    address = world.boxes[first].instructed.node.replicate
    world.probe("d1", address, is_up=False)
    world.run(1)
    assert world.peers("d2", G) == [first]  # it is served: that is the path of d1 alone
    world.kill(first)
    world.close_at_manager(next(number for number, link in world.links.items() if link.node == first))
    world.run(1)
    assert world.peers("d2", G) == [other]
    assert {first: "dead"}.items() <= _states(world).items()
    world.restart(first)
    world.connect(first, "m1")
    world.run(1)
    assert _states(world)[first] == "live"
    assert not any(key.startswith("dead/") for key in world.store.items)


def _states(world: World) -> dict[str, str]:
    running = running_of(world)
    return {row.node: row.state for row in running.manager.devices(world.now_s)}


def test_convergence_is_measured_and_rows_show_who_was_told_what() -> None:
    world = world_of(2)
    world.join("d1", G)
    world.join("d2", G)
    world.run()
    running = running_of(world)
    manager = running.manager
    assert manager.convergence.count == 2
    assert manager.convergence.sum_s == pytest.approx(2 * SETTLE_S)
    row = {row.node: row for row in manager.devices(world.now_s)}["d1"]
    assert (row.role, row.state, row.groups) == ("device", "live", 1)
    assert row.revision_acked == world.store.revision
    shown = next(iter(manager.sessions(world.now_s)))
    assert (shown.node, shown.pending, shown.in_flight, shown.unwritten) == ("d1", 0, 0, 0)


def test_an_nve_is_shown_as_one_and_served_as_a_device() -> None:
    world = World()
    world.add(device(1))
    world.add(replace(device(2), is_nve=True))
    for name in ("d1", "d2"):
        world.connect(name, "m1")
        world.join(name, G)
    world.run()
    assert world.peers("d1", G) == ["d2"]
    manager = running_of(world).manager
    roles = {"d1": "device", "d2": "nve"}
    assert {row.node: row.role for row in manager.devices(world.now_s)} == roles
    assert {row.node: row.role for row in manager.sessions(world.now_s)} == roles


def test_the_settings_of_a_manager_are_those_of_the_contract() -> None:
    assert ManagerSettings() == ManagerSettings(30, 10_000, 200_000, 100_000, 1024)

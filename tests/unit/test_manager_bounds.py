"""What a manager refuses, each by its name, before anything of it is kept or written."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ctrl.roles.manager import Manager, ManagerSettings
from ctrl.rpc.messages import Group, Groups, Hello, Refused
from ctrl.store.model import MAX_WRITE_BYTES
from ctrl.topology.entry import Node
from tests.unit.fabric import World
from tests.unit.fabric_parts import device, group, point
from tests.unit.worlds import peopled, running_of


def world_of(n_devices: int, settings: ManagerSettings | None = None) -> World:
    """Make a world where all are connected."""
    return peopled(World(settings=settings), n_devices)


def manager_of(world: World) -> Manager:
    running = running_of(world)
    return running.manager


def refusal(world: World, node: Node, identity: str | None = None) -> str | None:
    """What a manager says to a node's hello."""
    return manager_of(world).open(1000, Hello(node), identity, world.now_s)


@pytest.mark.parametrize(
    ("node", "identity", "name", "says"),
    [
        (device(9), "d8", "wrong_identity", "the certificate is that of 'd8'"),
        (replace(device(9), role="router"), None, "unknown_role", "unknown role 'router'"),
        (replace(device(9), name="a/b"), None, "bad_node", "no name of a node"),
        (replace(device(9), name=""), None, "bad_node", "no name of a node"),
        (replace(device(9), address=b"\xef\1\1\1"), None, "bad_node", "239.1.1.1 is no address"),
        (replace(device(9), address=b""), None, "bad_node", "none is no address"),
        (replace(device(9), replicate=b"\x0a\1\1\1"), None, "bad_node", "a device replicates for nobody"),
        (replace(point(9), replicate=b"\xfd" + bytes(15)), None, "bad_node", "two IP versions"),
        (replace(point(9), vnis=((5, 4),)), None, "bad_node", "ranges of VNIs"),
        (replace(device(9), tunnel="pigeon"), None, "bad_node", "unknown tunnel 'pigeon'"),
        (replace(device(9), address=device(1).address), None, "address_claimed", "10.0.0.1 is that of"),
        (replace(point(9), replicate=device(1).address), None, "address_claimed", "that of node d1"),
        (device(1, generation=0), None, "old_generation", "generation 0 < 1"),
        (device(9), None, "nodes_full", "max_nodes"),
    ],
)  # fmt: skip
def test_who_cannot_be_a_node_is_refused_by_name(
    node: Node, identity: str | None, name: str, says: str
) -> None:
    world = world_of(2, ManagerSettings(max_nodes=2 if name == "nodes_full" else 10))
    revision = world.store.revision
    why = refusal(world, node, identity)
    assert why is not None
    assert says in why
    assert manager_of(world).refused == {name: 1}
    world.run()
    assert world.store.revision == revision


def test_nodes_on_their_way_into_the_store_count_as_nodes() -> None:
    world = world_of(1, ManagerSettings(max_nodes=2))
    manager = manager_of(world)
    assert manager.open(1000, Hello(device(8)), None, world.now_s) is None
    assert manager.open(1001, Hello(device(9)), None, world.now_s) is not None
    manager.closed(1000, world.now_s)
    assert manager.open(1002, Hello(device(9)), None, world.now_s) is None


def test_its_own_certificate_lets_a_node_in() -> None:
    assert refusal(world_of(1), device(9), "d9") is None


def test_two_nodes_that_claim_one_address_at_two_managers_get_it_once() -> None:
    """Whoever is written first has it; the other one is told whose it is."""
    world = World(("m1", "m2"))
    world.add(device(1))
    world.add(replace(device(2), address=device(1).address))
    for name, manager in (("d1", "m1"), ("d2", "m2")):
        number = world.connect(name, manager)
        assert number is not None
        for _ in range(2):
            world.to_manager(number)
    world.quiesce()
    assert [key for key in world.store.items if key.startswith("node/")] == ["node/d1"]
    assert world.endings[-1] == ("d2", "d2: the address 10.0.0.1 is that of node d1")


@pytest.mark.parametrize(
    ("bounds", "name"),
    [
        (ManagerSettings(max_groups=2), "groups_full"),
        (ManagerSettings(max_groups_per_node=2), "node_groups_full"),
    ],
)
def test_groups_beyond_a_bound_are_refused_the_last_first(bounds: ManagerSettings, name: str) -> None:
    world = world_of(1, bounds)
    for n in (1, 2, 3):
        world.join("d1", group(n))
    world.run()
    assert set(world.boxes["d1"].instructed.entries) == {group(1), group(2)}
    assert world.boxes["d1"].instructed.groups_refused == {group(3): name}
    assert manager_of(world).refused == {name: 1}


def test_a_full_state_beyond_a_bound_is_cut_and_asks_again_the_next_time() -> None:
    world = World(settings=ManagerSettings(max_groups_per_node=2))
    world.add(device(1))
    for n in (1, 2, 3):
        world.join("d1", group(n))
    world.connect("d1", "m1")
    world.run()
    assert set(world.boxes["d1"].instructed.entries) == {group(1), group(2)}
    world.leave("d1", group(1))
    world.run()
    world.connect("d1", "m1")
    world.run()
    assert set(world.boxes["d1"].instructed.entries) == {group(2), group(3)}


def test_of_many_devices_at_once_the_last_ones_are_refused_a_full_group() -> None:
    """All say so before the first of them is in the store."""
    world = world_of(5, ManagerSettings(max_devices_per_group=3))
    for n in range(1, 6):
        world.join(f"d{n}", group(1))
        world.to_manager(world.boxes[f"d{n}"].session or 0)
    world.run()
    told = [n for n in range(1, 6) if world.entry(f"d{n}", group(1))]
    assert told == [1, 2, 3]
    assert manager_of(world).refused == {"group_devices_full": 2}
    world.leave("d1", group(1))
    world.run()
    world.connect("d5", "m1")
    world.run()
    assert world.peers("d5", group(1)) == ["d2", "d3"]


@pytest.mark.parametrize(
    ("said", "name"),
    [
        (Group(b"\x0a\0\0\1"), "not_a_group"),
        (Group(b"\xef\1\1\1\1"), "not_a_group"),
        (Group(group(1), (1 << 24,)), "bad_networks"),
        (Group(group(1), tuple(range(2000))), "bad_networks"),
    ],
)
def test_what_is_no_group_is_refused(said: Group, name: str) -> None:
    world = world_of(1)
    manager, number = manager_of(world), world.boxes["d1"].session or 0
    manager.hear(number, Groups(2, (said, Group(group(2))), base=1), world.now_s)
    assert manager.take_messages() == [(number, Refused(((said.key, name),)))]
    (write,) = manager.take_writes()
    assert len(write.puts) == 1


def test_a_point_is_in_no_group() -> None:
    world = World()
    world.add(point(1))
    number = world.connect("p1", "m1") or 0
    world.run()
    manager_of(world).hear(number, Groups(2, (Group(group(1)),), base=1), world.now_s)
    assert manager_of(world).refused == {"not_a_device": 1}
    assert manager_of(world).take_writes() == []


def test_second_information_larger_than_a_write_goes_into_several() -> None:
    world = world_of(1, ManagerSettings(max_groups_per_node=40_000))
    manager, number = manager_of(world), world.boxes["d1"].session or 0
    keys = [b"\xff\x0e" + bytes(11) + n.to_bytes(3, "big") for n in range(1, 40_001)]
    groups = tuple([Group(key) for key in keys])
    manager.hear(number, Groups(2, groups, base=1), world.now_s)
    n_writes = 0
    while writes := manager.take_writes():
        (write,) = writes
        assert sum(len(value or b"") for value in write.puts.values()) <= MAX_WRITE_BYTES
        n_writes += 1
        manager.written(write, world.store.commit(write), world.now_s)
        running = running_of(world)
        manager.follow(world.store.since(running.followed, world.store.revision), world.now_s)
        running.followed = world.store.revision
    assert n_writes == 2
    assert next(iter(manager.devices(world.now_s))).groups == 40_000

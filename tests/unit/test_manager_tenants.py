"""What tenants want, from node to manager to all who send to their group: told, refused, told again."""

from __future__ import annotations

import pytest

from ctrl.roles.manager import ManagerSettings
from ctrl.roles.manager.bounds import is_group
from ctrl.rpc.messages import Group, Groups, Instructions, Keepalive, Refused
from ctrl.topology.entry import ANY, AWARE, Entry, Key, tenant_key
from ctrl.topology.records import N_SHARDS, shard_of
from tests.unit.fabric import World
from tests.unit.fabric_parts import device, group
from tests.unit.worlds import deliver, peopled, running_of

G = group(1)
ADDRESSES = {n: device(n).address for n in range(1, 10)}


def key(inner: bytes, outer: Key = G) -> Key:
    return tenant_key(outer, 5001, inner)


K, L = key(bytes([239, 5, 5, 5])), key(bytes([239, 5, 5, 6]))
AWARES, ALL = key(AWARE), key(ANY)


def world_of(n_devices: int, settings: ManagerSettings | None = None) -> World:
    """Make a world where all are connected and in the group."""
    world = peopled(World(settings=settings), n_devices)
    for name in world.boxes:
        world.join(name, G)
    world.run()
    return world


def told_last(world: World, name: str) -> list[Instructions]:
    """Have a node connect anew; what it is told then."""
    told: list[Instructions] = []
    number = world.connect(name, "m1") or 0
    link = world.links[number]
    for _ in range(20):
        while link.to_manager:
            world.to_manager(number)
        world.serve("m1")
        while link.to_node:
            if isinstance(link.to_node[0], Instructions):
                told.append(link.to_node[0])
            world.to_node(number)
        world.advance(0.06)
    return told


@pytest.mark.parametrize(
    ("wanted", "is_one"),
    [
        (key(bytes([239, 5, 5, 5])), True),
        (key(bytes([224, 0, 1, 1])), True),
        (key(bytes([224, 0, 0, 251])), False),
        (key(bytes([10, 5, 5, 5])), False),
        (key(bytes([0xFF, 0x35, *bytes(14)])), True),
        (key(bytes([0xFF, 0x03, *bytes(14)])), True),
        (key(bytes([0xFF, 0x12, *bytes(14)])), False),
        (key(bytes(16)), False),
        (key(ANY), True),
        (key(AWARE), True),
        (key(AWARE, bytes([10, 0, 0, 1])), False),
        (key(ANY, bytes([0xFF, 0x0E, *bytes(14)])), True),
        (K + b"x", False),
        (b"", False),
        (b"\4", False),
    ],
)
def test_what_tenants_can_want_is_a_group_that_reports_are_sent_for_any_or_aware(
    wanted: Key, is_one: bool
) -> None:
    """RFC 4541 section 2.1.2, RFC 4291 section 2.7."""
    assert is_group(wanted) is is_one
    world = world_of(1)
    manager, number = running_of(world).manager, world.boxes["d1"].session or 0
    manager.hear(number, Groups(9, (Group(wanted),), base=2), world.now_s)
    said = [one for _, one in manager.take_messages() if isinstance(one, Refused)]
    assert said == ([] if is_one else [Refused(((wanted, "not_a_group"),))])


def test_everybody_in_the_group_is_told_who_else_wants_what_its_tenants_want() -> None:
    world = world_of(4)
    world.add(device(5))
    world.connect("d5", "m1")
    world.run()
    world.told.clear()
    world.join("d1", K, (5001,))
    world.join("d2", K, (5001,))
    world.run()
    assert world.entry("d1", K) == Entry(K, "mesh", (ADDRESSES[2],), vnis=(5001,))
    assert world.entry("d3", K) == Entry(K, "mesh", (ADDRESSES[1], ADDRESSES[2]), vnis=(5001,))
    assert world.told == {f"d{n}": 1 for n in (1, 2, 3, 4)}
    world.leave("d2", K)
    world.leave("d1", K)
    world.run()
    assert [world.entry(f"d{n}", K) for n in (1, 2, 3)] == [None] * 3


def test_who_leaves_the_group_holds_nothing_of_its_tenants_any_more() -> None:
    world = world_of(3)
    world.join("d1", K)
    world.run()
    world.leave("d2", G)
    world.run()
    assert set(world.boxes["d2"].instructed.entries) == set()
    world.join("d2", G)
    world.run()
    assert set(world.boxes["d2"].instructed.entries) == {G, K}


# --- who comes back -----------------------------------------------------------------------------------------


def test_a_device_that_comes_back_is_told_what_changed_and_what_nobody_wants_any_more() -> None:
    """M10: and not what is as it was."""
    world = world_of(3)
    for inner in (K, L):
        world.join("d1", inner)
    world.join("d1", group(2))
    world.join("d2", group(2))
    world.run()
    world.close_at_node(world.boxes["d2"].session or 0)
    world.leave("d1", K)
    world.join("d3", L)
    world.run()
    (told,) = told_last(world, "d2")
    assert not told.is_full
    assert ([entry.key for entry in told.entries], told.removed) == ([L], (K,))
    assert set(world.boxes["d2"].instructed.entries) == {G, group(2), L}


def test_a_device_that_was_taken_out_of_the_group_meanwhile_holds_the_truth_when_it_is_back() -> None:
    """M9: the hold removed it, and what its tenants wanted ended with nobody to hear of it."""
    world = world_of(2, ManagerSettings(hold_s=30))
    world.join("d1", K)
    world.run()
    world.close_at_manager(world.boxes["d2"].session or 0)
    world.close_at_node(world.boxes["d2"].session or 0)
    for _ in range(8):
        world.run(5, 1)
    assert not running_of(world).topology.groups_of("d2")
    world.leave("d1", K)
    world.leave("d1", G)
    world.run()
    world.join("d1", G)
    world.join("d1", L)
    world.run()
    world.connect("d2", "m1")
    world.run()
    assert set(world.boxes["d2"].instructed.entries) == {G, L}


def test_where_a_manager_does_not_know_what_ended_all_is_told() -> None:
    """M10: it read the store as it was after that."""
    world = world_of(2)
    world.join("d1", K)
    world.run()
    world.close_at_node(world.boxes["d2"].session or 0)
    world.leave("d1", K)
    world.run()
    world.kill_manager("m1")
    world.start_manager("m1")
    (told,) = told_last(world, "d2")
    assert told.is_full
    assert set(world.boxes["d2"].instructed.entries) == {G}


def test_a_new_store_adds_to_who_wants_it_and_takes_nobody_out_until_the_hold_is_over() -> None:
    """M10: of those who were known before, only one is back."""
    world = world_of(3, ManagerSettings(hold_s=30))
    for name in ("d2", "d3"):
        world.join(name, K)
    world.run()
    world.kill_manager("m1")
    world.store.items.clear()
    world.store.log.clear()
    world.store.leases.clear()
    world.store.name = "s2"
    for name in ("d1", "d2", "d3"):
        world.close_at_node(world.boxes[name].session or 0)
    world.start_manager("m1", settling_s=30)
    world.leave("d3", K)
    for name in ("d1", "d2"):
        world.connect(name, "m1")
    world.run()
    entry = world.entry("d1", K)
    assert entry is not None
    assert entry.peers == (ADDRESSES[2], ADDRESSES[3])
    for _ in range(8):
        world.run(5, 1)
    entry = world.entry("d1", K)
    assert entry is not None
    assert entry.peers == (ADDRESSES[2],)


# --- bounds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (ManagerSettings(max_groups=2), "groups_full"),
        (ManagerSettings(max_groups_per_node=2), "node_groups_full"),
    ],
)
@pytest.mark.parametrize("is_in_session", [True, False])
@pytest.mark.parametrize("is_aware_first", [True, False])
def test_who_cannot_say_all_that_it_wants_is_not_aware(
    settings: ManagerSettings, name: str, is_aware_first: bool, is_in_session: bool
) -> None:
    """Else others would spare it what it wants; at once, and whatever it says later."""
    world = world_of(2, settings)
    for one in (AWARES, K) if is_aware_first else (K, AWARES):
        world.join("d1", one)
    world.run()
    assert world.entry("d2", AWARES) is not None
    world.join("d1", L)
    world.run()
    assert world.boxes["d1"].instructed.groups_refused == {L: name, AWARES: name}
    assert running_of(world).manager.refused == {name: 2}
    assert (world.entry("d2", AWARES), world.entry("d2", L)) == (None, None)
    assert world.entry("d2", K) is not None
    world.leave("d1", AWARES)
    world.join("d1", AWARES)
    world.run()
    assert world.entry("d2", AWARES) is None
    world.leave("d1", L)
    if is_in_session:
        running_of(world).manager.hear(world.boxes["d1"].session or 0, Keepalive(999), world.now_s)
    else:
        world.connect("d1", "m1")
    world.run()
    assert world.entry("d2", AWARES) is not None, "its full state says all again"
    assert is_in_session or world.boxes["d1"].instructed.groups_refused == {}


def test_a_full_state_of_which_something_is_cut_makes_nobody_aware() -> None:
    """Also where a session before has put it into the store."""
    world = world_of(2, ManagerSettings(max_groups_per_node=2))
    world.join("d1", AWARES)
    world.join("d1", K)
    world.run()
    world.close_at_node(world.boxes["d1"].session or 0)
    for one in (AWARES, L):  # which is last of the full state then
        world.leave("d1", one)
        world.join("d1", one)
    world.connect("d1", "m1")
    world.run()
    assert set(world.boxes["d1"].instructed.groups_refused) == {AWARES, L}
    assert world.entry("d2", AWARES) is None
    assert set(running_of(world).topology.groups_of("d1")) == {G, K}
    world.join("d1", group(7))
    world.run()
    assert world.entry("d1", group(7)) is not None, "what is refused does not count"


def test_too_many_that_are_aware_are_refused_that_and_nothing_else() -> None:
    world = world_of(3, ManagerSettings(max_devices_per_group=3))
    for name in ("d1", "d2", "d3"):
        world.join(name, AWARES)
        world.join(name, K)
    world.add(device(4))
    world.join("d4", AWARES)
    world.join("d4", L)
    world.connect("d4", "m1")
    world.run()
    assert world.boxes["d4"].instructed.groups_refused == {AWARES: "group_devices_full"}
    entry = world.entry("d1", L)
    assert entry is not None
    assert entry.peers == (ADDRESSES[4],)


def test_what_does_not_fit_into_a_write_leaves_nobody_aware() -> None:
    """A shard of the node's would be larger than a write may be."""
    world = world_of(1)
    world.join("d1", AWARES)
    world.run()
    running, number = running_of(world), world.boxes["d1"].session or 0
    many = too_much()
    assert shard_of(many[0].key) != shard_of(AWARES)
    running.manager.hear(number, Groups(9, many, base=3), world.now_s)
    world.run()
    assert running.manager.refused["node_groups_full"] == len(many) + 1
    assert set(running.topology.groups_of("d1")) == {G}


def too_much(but: Key = AWARES) -> tuple[Group, ...]:
    """What makes a shard larger than a write may be, and is not in that of another key."""
    keys = [key(bytes([239, 6, n >> 8, n & 255])) for n in range(8000)]
    shard = next(shard_of(one) for one in keys if shard_of(one) != shard_of(but))
    return tuple(Group(one, tuple(range(1024))) for one in keys if shard_of(one) == shard)[:300]


def test_tenants_that_fill_a_write_leave_room_for_the_groups_that_are_said_with_it() -> None:
    """And what is left with it is left, and counts no more."""
    world = world_of(2, ManagerSettings(max_groups_per_node=400))
    (there, *many), others = too_much(K), [group(n) for n in range(2, 34)]
    for one in (K, L, there.key):
        world.join("d1", one)
    world.run()
    running, number = running_of(world), world.boxes["d1"].session or 0
    said = (*many, *map(Group, others))
    running.manager.hear(number, Groups(9, said, (K, there.key), base=5), world.now_s)
    world.run()
    assert running.manager.refused == {"node_groups_full": len(many)}
    assert set(running.topology.groups_of("d1")) == {G, L, *others}
    fitting = tuple(Group(key(bytes([239, 7, n >> 8, n & 255]))) for n in range(400))
    running.manager.hear(number, Groups(10, fitting, base=9), world.now_s)
    world.run()
    assert running.topology.n_tenants == 400, "L, and all of these but one"
    assert running.manager.refused == {"node_groups_full": len(many) + 1}


def test_no_group_stands_in_a_shard_with_what_tenants_want() -> None:
    """Of all keys there can be, as many as it takes: one of tenants may fill a shard."""
    groups = {shard_of(group(n)) for n in range(1000)}
    of_tenants = {shard_of(key(group(n))) for n in range(1000)}
    assert groups.isdisjoint(of_tenants)
    assert groups | of_tenants == set(range(N_SHARDS))


BOUNDS = [ManagerSettings(max_groups=3), ManagerSettings(max_groups_per_node=3)]
ELSEWHERE = [key(bytes([239, 5, 6, n]), group(50 + n)) for n in range(10)]
"""Behind groups that nobody is in."""


@pytest.mark.parametrize("settings", BOUNDS)
@pytest.mark.parametrize("wanted", [[key(bytes([239, 5, 6, n])) for n in range(10)], ELSEWHERE])
def test_tenants_that_want_as_much_as_they_may_have_no_group_refused(
    settings: ManagerSettings, wanted: list[Key]
) -> None:
    world = world_of(2, settings)
    for one in wanted:
        world.join("d1", one)
    world.run()
    assert set(world.boxes["d1"].instructed.groups_refused) == set(wanted[3:])
    for n in (2, 3):
        for name in ("d1", "d2"):
            world.join(name, group(n))
    world.run()
    assert world.peers("d2", group(3)) == ["d1"]
    assert set(world.boxes["d1"].instructed.groups_refused) == set(wanted[3:])
    world.join("d1", group(4))
    world.run()
    assert group(4) in world.boxes["d1"].instructed.groups_refused
    assert (running_of(world).topology.n_groups, running_of(world).topology.n_tenants) == (3, 3)


@pytest.mark.parametrize("settings", BOUNDS)
@pytest.mark.parametrize("is_stored", [True, False])
def test_a_full_state_that_begins_with_too_much_of_tenants_has_all_its_groups_counted(
    settings: ManagerSettings, is_stored: bool
) -> None:
    """`is_stored`: it is known from a session before, and one group came while there was none."""
    world = World(settings=settings)
    world.add(device(1))
    for one in [key(bytes([239, 5, 6, n])) for n in range(10)]:
        world.join("d1", one)
    if is_stored:
        world.connect("d1", "m1")
        world.run()
        world.close_at_node(world.boxes["d1"].session or 0)
    groups = [group(n) for n in (1, 2, 3)]
    for one in groups:
        world.join("d1", one)
    world.connect("d1", "m1")
    world.run()
    instructed = world.boxes["d1"].instructed
    assert instructed.groups_refused.keys().isdisjoint(groups)
    assert all(instructed.entry(one) for one in groups)
    assert len(instructed.groups_refused) == 7


def test_groups_as_many_as_there_may_be_leave_room_for_what_tenants_want() -> None:
    world = world_of(1, ManagerSettings(max_groups=2, max_groups_per_node=2))
    for one in (group(2), AWARES, K):
        world.join("d1", one)
    world.run()
    assert set(running_of(world).topology.groups_of("d1")) == {G, group(2), AWARES, K}
    assert world.boxes["d1"].instructed.groups_refused == {}


def test_who_was_aware_by_a_session_that_is_heard_of_late_is_not_if_something_is_cut_by_now() -> None:
    """Another manager wrote that before, and its write comes after what the node says here."""
    world = World(("m1", "m2"), settings=ManagerSettings(max_groups_per_node=2))
    peopled(world, 2)
    for name in ("d1", "d2"):
        world.join(name, G)
    world.run()
    for one in (AWARES, K):
        world.join("d1", one)
    deliver(world, "d1")
    world.serve("m1")
    world.close_at_node(world.boxes["d1"].session or 0)
    world.join("d1", L)
    world.connect("d1", "m2")
    deliver(world, "d1")
    world.run()
    assert set(running_of(world, "m2").topology.groups_of("d1")) == {G, K}
    assert world.entry("d2", AWARES) is None
    assert set(world.boxes["d1"].instructed.groups_refused) == {AWARES, L}

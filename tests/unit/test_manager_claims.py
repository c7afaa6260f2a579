"""Whose word counts for a node: live keys that come late, twice, or never (CONFORMANCE M9)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ctrl.roles.manager import Manager, ManagerSettings
from ctrl.rpc.messages import Groups, Hello
from ctrl.store.model import Write
from ctrl.topology import records
from ctrl.topology.points import Settings
from ctrl.topology.records import Live
from ctrl.topology.topology import Topology
from tests.unit.fabric import World
from tests.unit.fabric_parts import StoreModel, device, group
from tests.unit.worlds import deliver, gone_for, running_of, world_of

G, H = group(1), group(2)


def test_a_claim_that_comes_late_takes_no_node_from_a_newer_session() -> None:
    """M9."""
    world = world_of(1)
    world.connect("d1", "m1")
    deliver(world, "d1")
    m1 = running_of(world)
    late = list(m1.writes)
    m1.writes.clear()
    number = world.connect("d1", "m2")
    world.run()
    assert not any(world.store.commit(write) for write in late)
    assert world.boxes["d1"].session == number
    assert world.links[number or 0].is_open_at_manager


def test_a_session_that_another_manager_took_over_ends_at_the_first() -> None:
    """M9: m1 did not notice that the node went away."""
    world = world_of(1)
    old = world.boxes["d1"].session or 0
    world.connect("d1", "m2")
    world.run()
    assert not world.links[old].is_open_at_manager
    assert ("d1", "the node is served by a newer session") in world.endings


def test_a_live_key_of_a_process_before_this_one_goes_with_its_lease() -> None:
    """M9: it is nobody's to remove, as it may be that of another manager; then the hold time begins."""
    world = world_of(1, n_managers=1)
    world.kill_manager("m1")
    world.start_manager("m1")
    world.kill("d1")
    world.run()
    assert "live/d1" in world.store.items
    world.expire()
    world.run(29, step_s=1)
    assert "node/d1" in world.store.items
    world.run(2, step_s=1)
    assert "node/d1" not in world.store.items


def test_a_node_that_comes_back_to_a_manager_that_was_killed_need_not_wait_for_the_lease() -> None:
    """M10: the live key of the process before is there still."""
    world = world_of(1, n_managers=1)
    world.join("d1", G)
    world.run()
    world.kill_manager("m1")
    world.start_manager("m1")
    number = world.connect("d1", "m1") or 0
    world.run()
    world.expire()
    world.run()
    assert world.links[number].is_open_at_manager
    assert world.endings == []
    assert "live/d1" in world.store.items


def test_two_managers_of_one_name_leave_each_other_their_sessions() -> None:
    """M9: a config that was copied with its name; they are two managers as any."""
    world = world_of(2, n_managers=1)
    world.start_manager("other", called="m1")
    numbers = [world.boxes["d1"].session, world.connect("d2", "other")]
    world.run()
    old = world.endings
    assert old == [("d2", "the node is served by a newer session")]
    for n in (1, 2):
        world.join(f"d{n}", G)
    world.run(40, step_s=1)
    assert world.endings == old
    assert all(world.links[number or 0].is_open_at_manager for number in numbers)
    assert world.peers("d1", G) == ["d2"]
    assert world.peers("d2", G) == ["d1"]


def alone(store: StoreModel, name: str = "m1") -> Manager:
    """Make a manager that has not read the store yet; transports number its sessions from 1."""
    return Manager(name, store.name, ManagerSettings(), Topology(Settings(mode="mesh")), 0)


def test_the_session_of_a_process_with_the_same_name_and_number_is_not_taken_for_an_own_one() -> None:
    """M9."""
    store = StoreModel()
    first, second = alone(store), alone(store)
    for manager in (first, second):
        manager.follow(store.all(), 0)
        assert manager.open(1, Hello(device(1)), None, 0) is None
    (claim,), (late,) = first.take_writes(), second.take_writes()
    assert (store.commit(claim), store.commit(late)) == (True, False)
    second.follow(store.all(), 0)
    second.written(late, False, 0)
    assert second.take_endings() == [(1, "the node is served by a newer session")]
    assert second.take_writes() == []
    first.follow(store.all(), 0)
    first.written(claim, True, 0)
    assert first.take_endings() == []


@pytest.mark.parametrize("was", ["m1", "m2"])
def test_a_node_that_comes_before_the_store_was_read_is_claimed_when_it_was(was: str) -> None:
    """M10: a manager starts anew, and the lease of who served the node before lives still."""
    store = StoreModel()
    before = alone(store, was)
    before.follow(store.all(), 0)
    before.open(1, Hello(device(1)), None, 0)
    assert store.commit(before.take_writes()[0])
    manager = alone(store)
    assert manager.open(1, Hello(device(1)), None, 0) is None
    assert manager.take_writes() == []
    manager.follow(store.all(), 0)
    (claim,) = manager.take_writes()
    assert store.commit(claim)
    manager.written(claim, True, 0)
    manager.follow(store.since(1, 2), 0)
    assert manager.take_endings() == []
    manager.hear(1, Groups(1, is_full=True), 0)
    assert "node/d1" in manager.take_writes()[0].puts


def test_who_may_not_come_is_refused_when_the_store_was_read_if_not_before() -> None:
    """M9: an address that another node has; it was not known yet."""
    world = world_of(1)
    manager = alone(world.store)
    thief = replace(device(2), address=device(1).address)
    assert manager.open(1, Hello(thief), None, 0) is None
    manager.follow(world.store.all(), 0)
    assert manager.take_endings() == [(1, "d2: the address 10.0.0.1 is that of node d1")]
    assert manager.take_writes() == []
    assert manager.refused == {"address_claimed": 1}


def test_two_sessions_of_a_node_at_one_manager_leave_the_newer() -> None:
    """M11: the older one's claim is on its way to the store still."""
    world = World(("m1",))
    world.add(device(1))
    world.join("d1", H)
    first = world.connect("d1", "m1") or 0
    deliver(world, "d1")
    second = world.connect("d1", "m1") or 0
    deliver(world, "d1")
    world.run()
    assert not world.links[first].is_open_at_manager
    assert world.links[second].is_open_at_manager
    assert world.entry("d1", H) is not None


def test_a_node_that_opens_another_session_is_never_held() -> None:
    """M9: nor a point dead for it."""
    world = world_of(1, n_managers=1)
    before = world.store.revision
    world.connect("d1", "m1")
    world.run()
    assert world.endings == [("d1", "the node opened another session")]
    changed = [(item.key, item.value is None) for items in world.store.log[before:] for item in items]
    assert changed == [("live/d1", False)]


def claimed_and_expired(world: World) -> int:
    """Have m1 claim d1, and its lease run out before it looks; the session."""
    number = world.connect("d1", "m1") or 0
    deliver(world, "d1")
    m1 = running_of(world)
    world.commit("m1", 9)
    world.report("m1")
    world.store.expire(m1.process)
    assert "live/d1" not in world.store.items
    return number


def test_a_session_whose_key_came_and_went_before_it_was_seen_ends() -> None:
    """M9: or it would be nobody's for ever, and the node removed after the hold time."""
    world = world_of(1, n_managers=1)
    gone_for(world, "d1", 1)
    claimed_and_expired(world)
    world.follow("m1")
    assert world.endings == [("d1", "the node is served by a newer session")]


def test_a_session_whose_key_is_in_no_full_list_claims_its_node_again() -> None:
    """M9: there it is not seen that it was written."""
    world = world_of(1, n_managers=1)
    gone_for(world, "d1", 1)
    number = claimed_and_expired(world)
    world.relist("m1")
    world.run()
    assert world.endings == []
    assert world.links[number].is_open_at_manager
    assert "live/d1" in world.store.items


@pytest.mark.parametrize("is_read_before", [True, False])
def test_a_full_list_that_is_older_than_a_claim_ends_no_session(is_read_before: bool) -> None:
    """M9: it was on its way already, or the claim was."""
    world = world_of(1, n_managers=1)
    gone_for(world, "d1", 1)
    number = world.connect("d1", "m1") or 0
    deliver(world, "d1")
    m1 = running_of(world)
    listed, revision = world.store.all(), world.store.revision
    if is_read_before:
        world.commit("m1", 9)
        world.report("m1")
    m1.manager.follow(listed, world.now_s)
    m1.followed = revision
    world.run()
    assert world.endings == []
    assert world.links[number].is_open_at_manager
    assert "live/d1" in world.store.items


def test_a_session_that_ended_as_its_groups_came_back_is_not_ready() -> None:
    """M9: another manager took the node over in the same step."""
    world = world_of(1)
    number = world.connect("d1", "m1") or 0
    world.boxes["d1"].instructed.joined(G)
    deliver(world, "d1")
    for _ in range(2):
        world.serve("m1")
    world.join("d1", G)
    deliver(world, "d1")
    world.commit("m1", 9)
    m1 = running_of(world)
    m1.manager.take_ready()
    world.follow("m2")
    world.connect("d1", "m2")
    deliver(world, "d1")
    world.commit("m2", 9)
    world.follow("m1")
    assert not world.links[number].is_open_at_manager
    assert m1.manager.take_ready() == []
    world.run()
    assert not m1.writes


def test_a_session_whose_lease_ran_out_ends() -> None:
    """M9: the store was away for longer than a lease lives."""
    world = world_of(1, n_managers=1)
    m1 = running_of(world)
    world.store.expire(m1.process)
    world.flow()
    assert world.endings == [("d1", "the node is served by a newer session")]
    world.quiesce()
    assert "live/d1" in world.store.items


@pytest.mark.parametrize("is_seen_before", [True, False])
def test_a_claim_that_failed_by_what_came_and_went_unseen_is_made_again(is_seen_before: bool) -> None:
    """M9: another manager had the node for a moment."""
    world = world_of(1, n_managers=1)
    gone_for(world, "d1", 1)
    number = world.connect("d1", "m1") or 0
    deliver(world, "d1")
    claim = {records.live_key("d1"): records.encode_live(Live("m3", "x", 1))}
    assert world.store.commit(Write(claim, is_leased=True), "m3")
    world.commit("m1")
    world.store.expire("m3")
    for step in (world.follow, world.report) if is_seen_before else (world.report, world.follow):
        step("m1")
    world.advance(1)
    world.run()
    assert world.endings == []
    assert world.links[number].is_open_at_manager
    assert "live/d1" in world.store.items


def test_a_session_that_ends_leaves_no_live_key_of_its_process() -> None:
    """M9: its claim was made twice, and the first one's lease ran out; or the node would never be held."""
    world = world_of(1, n_managers=1)
    m1 = running_of(world)
    claim = world.store.items["live/d1"].value
    world.store.expire(m1.process)
    assert world.store.commit(Write({"live/d1": claim}, when={"live/d1": 0}, is_leased=True), m1.process)
    world.follow("m1")
    assert world.endings == [("d1", "the node is served by a newer session")]
    world.commit("m1", 9)
    assert "live/d1" not in world.store.items

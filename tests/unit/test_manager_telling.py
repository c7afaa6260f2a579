"""When a node is told: at once what comes alone, together what comes in a crowd."""

from __future__ import annotations

from collections import Counter

from ctrl.roles.manager.telling import GATHER_S
from ctrl.rpc.messages import Group, Groups, Instructions
from ctrl.topology.records import shard_of
from tests.unit.fabric import World
from tests.unit.fabric_parts import device, group
from tests.unit.worlds import peopled, running_of


class Told(World):
    """Counts the batches that nodes were told."""

    def __init__(self) -> None:
        super().__init__()
        self.n_batches: Counter[str] = Counter()

    def to_node(self, number: int) -> None:
        link = self.links[number]
        if link.to_node and isinstance(link.to_node[0], Instructions):
            self.n_batches[link.node] += not link.to_node[0].more
        super().to_node(number)

    def go_on(self) -> None:
        """Have all be done that takes no time."""
        self.flow()
        for running in self.managers.values():
            if running:
                self.poll(running)
        self.flow()


def told_world() -> Told:
    """Two devices in a group, told of it a while ago."""
    world = Told()
    peopled(world, 2)
    for name in world.boxes:
        world.join(name, group(1))
    world.run(1)
    world.n_batches = Counter()
    return world


def test_a_lone_change_is_told_in_the_same_poll() -> None:
    """M3: nobody waits for what does not come."""
    world = told_world()
    for n in (2, 3):
        world.join("d1", group(n))
        world.join("d2", group(n))
        world.flow()
        running = running_of(world)
        assert (running.manager.deadline_s or 0) <= world.now_s, "whoever drives it is to poll it now"
        world.go_on()
        assert world.peers("d1", group(n)) == ["d2"]
        assert world.peers("d2", group(n)) == ["d1"]
        world.now_s += GATHER_S


def test_a_storm_of_changes_is_told_in_two_batches() -> None:
    """The first at once, all others together."""
    world = told_world()
    for name in ("d1", "d2"):
        world.join(name, group(2))
    for n in range(3, 23):
        world.go_on()
        world.now_s += 0.002
        for name in ("d1", "d2"):
            world.join(name, group(n))
    world.go_on()
    assert world.n_batches == {"d1": 1, "d2": 1}
    assert world.entry("d1", group(2)) is not None
    assert world.entry("d1", group(3)) is None
    world.now_s += GATHER_S
    world.go_on()
    assert world.n_batches == {"d1": 2, "d2": 2}
    assert [world.peers("d1", group(n)) for n in range(2, 23)] == [["d2"]] * 21


def test_a_node_that_has_not_acknowledged_gets_what_came_meanwhile_together_and_then_at_once() -> None:
    """One batch on its way at a time."""
    world = told_world()
    number = world.boxes["d2"].session or 0
    world.join("d1", group(2))
    world.join("d2", group(2))
    world.flow()
    world.poll(running_of(world))
    assert len(world.links[number].to_node) == 1
    for n in (3, 4):
        world.now_s += GATHER_S
        for name in ("d1", "d2"):
            world.join(name, group(n))
        for name in ("d1", "d2"):
            session = world.boxes[name].session or 0
            while world.links[session].to_manager:
                world.to_manager(session)
        world.serve("m1")
        world.poll(running_of(world))
    assert len(world.links[number].to_node) == 1
    world.go_on()
    assert world.n_batches["d2"] == 2
    assert world.peers("d2", group(4)) == ["d1"]


def test_a_node_whose_first_state_shrinks_while_it_is_written_is_told_all_the_same() -> None:
    """It goes in two writes, and of the second nothing is left."""
    world = World()
    world.add(device(1))
    number = world.connect("d1", "m1") or 0
    world.to_manager(number)
    world.links[number].to_manager.clear()
    world.serve("m1")
    keys = [group(n) for n in range(2, 4000)]
    one, other = (shard_of(key) for key in keys[:2])
    assert one != other
    first, second = ([key for key in keys if shard_of(key) == shard][:90] for shard in (one, other))
    vnis = tuple(range(16_000_000, 16_001_024))
    running = running_of(world)
    said = tuple(Group(key, vnis) for key in (*first, *second))
    running.manager.hear(number, Groups(1, said, is_full=True), world.now_s)
    running.manager.hear(number, Groups(2, (), tuple(second), base=1), world.now_s)
    assert not running.manager.take_ready()
    writes = running.manager.take_writes()
    assert [sum(key.startswith("groups/") for key in write.puts) for write in writes] == [1]
    running.writes.extend(writes)
    world.serve("m1")
    assert running.manager.take_ready() == [number]
    assert set(running.topology.groups_of("d1")) == set(first)

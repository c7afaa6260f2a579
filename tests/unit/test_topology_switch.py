"""CONFORMANCE M12: whatever order nodes and managers act in, each receiver gets each packet exactly once."""

from collections.abc import Iterable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ctrl.topology.entry import ANY, AWARE
from ctrl.topology.points import Settings
from ctrl.topology.switching import MESHED
from ctrl.topology.topology import Topology
from tests.unit.stored import AUTO
from tests.unit.switched import DEVICES, KEY, NODES, Box, Fabric, address_of, replicate_of

device = st.sampled_from(DEVICES)
node = st.integers(0, len(NODES) - 1)
manager = st.integers(0, 1)
inner = st.sampled_from([ANY, AWARE, bytes([239, 5, 5, 5])])


class Switching(RuleBasedStateMachine):
    """Joins, leaves, points that die and come back, managers that lag, restart and race."""

    settings = AUTO
    n_points = 3

    def __init__(self) -> None:
        super().__init__()
        self.fabric = Fabric(type(self).settings, self.n_points)

    def _node(self, number: int) -> str:
        names = list(self.fabric.boxes)
        return names[number % len(names)]

    @initialize(n=st.integers(0, len(DEVICES)))
    def begin(self, n: int) -> None:
        for name in DEVICES[:n]:
            self.fabric.join(name)
        self.fabric.settle()

    @rule(name=device)
    def join(self, name: str) -> None:
        self.fabric.join(name)

    @rule(name=device)
    def leave(self, name: str) -> None:
        self.fabric.leave(name)

    @rule(name=device, inner=inner)
    def want(self, name: str, inner: bytes) -> None:
        """Its tenants want something: it is told along with the rest, and nothing waits for it."""
        self.fabric.want(name, inner)

    @rule(number=manager, n=st.integers(1, 6))
    def follow(self, number: int, n: int) -> None:
        self.fabric.follow(number, n)

    @rule(number=manager)
    def propose(self, number: int) -> None:
        self.fabric.propose(number)

    @rule(number=manager)
    def commit(self, number: int) -> None:
        self.fabric.commit(number)

    @rule(number=manager)
    def restart(self, number: int) -> None:
        self.fabric.restart(number)

    @rule(n=node)
    def tell(self, n: int) -> None:
        self.fabric.tell(self._node(n))

    @rule(n=node)
    def obey(self, n: int) -> None:
        self.fabric.obey(self._node(n))

    @rule(n=node)
    def ack(self, n: int) -> None:
        self.fabric.ack(self._node(n))

    @rule(n=node)
    def serve(self, n: int) -> None:
        name = self._node(n)
        for act in (self.fabric.tell, self.fabric.obey, self.fabric.ack):
            act(name)
            self.fabric.check()

    @rule(n=node)
    def change_manager(self, n: int) -> None:
        self.fabric.change_manager(self._node(n))

    @rule(number=manager, skipped=st.sets(node, max_size=2))
    def go_on(self, number: int, skipped: set[int]) -> None:
        """A round in which all but these nodes do what they should: else no switch would ever end."""
        fabric = self.fabric
        fabric.follow(number, 1 << 30)
        fabric.propose(number)
        fabric.commit(number)
        for place, name in enumerate(fabric.boxes):
            if place not in skipped:
                fabric.obey(name)
                fabric.check()
                fabric.tell(name)
                fabric.obey(name)
                fabric.check()
                fabric.ack(name)

    @precondition(lambda self: not self.fabric.killed)
    @rule(point=node, is_dead=st.booleans())
    def take_for_dead(self, point: int, is_dead: bool) -> None:
        """Rightly or not."""
        self.fabric.set_dead(self.fabric.points[point % self.n_points], is_dead)

    @invariant()
    def each_gets_one(self) -> None:
        self.fabric.check()

    def teardown(self) -> None:
        fabric = self.fabric
        fabric.settle()
        fresh = Topology(fabric.settings)
        fresh.apply(fabric.store.everything())
        for name, box in fabric.boxes.items():
            assert box.entry == fresh.entry(name, KEY)
            assert {m.entry(name, KEY) for m in fabric.managers} == {box.entry}
            for key, names in fabric.wanted.items():
                told = fresh.entry(name, key)
                assert {m.entry(name, key) for m in fabric.managers} == {told}
                others = tuple(address_of(other) for other in sorted(names - {name}))
                assert (told and told.peers) == (others if box.entry and names else None)
        for sender in fabric.joined:
            if not fabric.killed:
                copies = fabric.copies(sender)
                assert copies == {name: int(name in fabric.joined and name != sender) for name in DEVICES}


class Tree(Switching):
    """The same with a tree of points."""

    settings = Settings("auto", threshold=3, hysteresis=1, tree=True)


class Always(Switching):
    """The same where all groups are served by points, of which there are two."""

    settings = Settings("point")
    n_points = 2


class Killing(Switching):
    """The same, with a point that dies: who noticed sends by the backup."""

    @precondition(lambda self: not self.fabric.killed)
    @rule(point=node)
    def kill(self, point: int) -> None:
        fabric = self.fabric
        fabric.settle()
        for name in fabric.points:
            fabric.set_dead(name, is_dead=False)
        fabric.settle()
        fabric.killed.add(fabric.points[point % self.n_points])

    @precondition(lambda self: self.fabric.killed)
    @rule(name=device)
    def notice(self, name: str) -> None:
        self.fabric.boxes[name].down |= self.fabric.killed

    @precondition(lambda self: self.fabric.killed)
    @rule()
    def write_off(self) -> None:
        for point in self.fabric.killed:
            self.fabric.set_dead(point, is_dead=True)

    def teardown(self) -> None:
        for point in self.fabric.killed:
            self.fabric.set_dead(point, is_dead=True)
        super().teardown()


def test_a_device_that_joined_unseen_is_not_switched_before_the_point_knows_it():
    """M12: manager 0 decides on the switch before it sees d3's join, which manager 1 already told to all."""
    fabric = Fabric(AUTO, 1)
    for name in ("d0", "d1"):
        fabric.join(name)
    fabric.settle()
    fabric.join("d2")
    for _ in range(2):
        for number in (0, 1):
            fabric.follow(number, 1 << 30)
        fabric.propose(0)
        fabric.commit(0)
    everyone_in_force(fabric, fabric.joined.keys() | {"p0"})
    fabric.follow(0, 1 << 30)
    fabric.propose(0)
    assert fabric.writes[0]
    fabric.join("d3")
    fabric.follow(1, 1 << 30)
    for name in DEVICES:
        fabric.boxes[name].manager = 1
    fabric.boxes["p0"].manager = 0
    for name in DEVICES[:4]:
        fabric.tell(name)
        fabric.obey(name)
    fabric.check()
    assert ("d3", "d0") in fabric.flows
    fabric.commit(0)
    fabric.follow(1, 1 << 30)
    for name in DEVICES[:4]:
        fabric.tell(name)
        fabric.obey(name)
        fabric.check()
    fabric.settle()


def test_a_switch_that_began_is_ended_before_another_one_begins():
    """M12: the group shrinks while one device sends to the point already and the others do not."""
    fabric = Fabric(AUTO, 1)
    for name in DEVICES[:3]:
        fabric.join(name)
    while fabric.managers[0].state_of(KEY).stage != "switch":
        everyone_in_force(fabric, fabric.boxes)
        fabric.follow(0, 1 << 30)
        fabric.propose(0)
        fabric.commit(0)
        fabric.follow(0, 1 << 30)
        fabric.follow(1, 1 << 30)
    fabric.tell("d0")
    fabric.obey("d0")
    fabric.leave("d2")
    for _ in range(3):
        fabric.follow(0, 1 << 30)
        fabric.propose(0)
        fabric.commit(0)
        fabric.check()
    assert fabric.managers[0].state_of(KEY).stage == "switch"
    for name in ("d1", "p0"):
        for number in (0, 1):
            fabric.follow(number, 1 << 30)
        fabric.tell(name)
        fabric.obey(name)
        fabric.check()
    fabric.settle()
    assert fabric.managers[0].state_of(KEY) == MESHED


def everyone_in_force(fabric: Fabric, names: Iterable[str]) -> None:
    """All of these hear what there is, do it, and that is written down."""
    for number in (0, 1):
        fabric.follow(number, 1 << 30)
    for name in names:
        for act in (fabric.obey, fabric.tell, fabric.obey, fabric.ack):
            act(name)
            fabric.check()


def test_a_group_goes_to_a_tree_by_way_of_a_mesh():
    """M12: a point has one list of a group, and that of a tree is not that of one point for all."""
    fabric = Fabric(Tree.settings, 1)
    for name in DEVICES:
        fabric.join(name)
    fabric.settle()
    topology = fabric.managers[0]
    assert topology.state_of(KEY).now == ("p0",)
    fabric.store.point("p1", address_of("p1"), replicate_of("p1"))
    fabric.points, fabric.boxes["p1"] = ("p0", "p1"), Box("p1")
    seen = []
    while fabric.managers[0].state_of(KEY).now != ("p0", "p1"):
        everyone_in_force(fabric, fabric.boxes)
        fabric.propose(0)
        fabric.commit(0)
        seen.append(topology.state_of(KEY))
    assert ("prepare", ("p0",), ()) in seen
    assert ("prepare", (), ("p0", "p1")) in seen
    fabric.settle()


FEW = settings(max_examples=15, stateful_step_count=30, deadline=None)
for machine in (Switching, Tree, Always, Killing):
    machine.TestCase.settings = FEW
TestM12 = Switching.TestCase
TestM12Tree = Tree.TestCase
TestM12Always = Always.TestCase
TestM12Killing = Killing.TestCase

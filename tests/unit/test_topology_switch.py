"""CONFORMANCE M12: whatever order nodes and managers act in, each receiver gets each packet exactly once."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ctrl.store.model import Write
from ctrl.topology import Settings, Topology, records
from ctrl.topology.entry import Address, Entry
from ctrl.topology.switching import MESHED
from tests.unit.stored import Log

KEY = bytes([239, 1, 1, 1])
DEVICES = ("d0", "d1", "d2", "d3", "d4")
POINTS = ("p0", "p1", "p2")
NODES = DEVICES + POINTS


def address_of(name: str) -> Address:
    return bytes([10, 0, 1 if name[0] == "p" else 0, int(name[1:])])


def replicate_of(point: str) -> Address:
    return bytes([10, 0, 2, int(point[1:])])


@dataclass
class Box:
    """A node as far as it forwards: what it was told, and what is on its way to it."""

    name: str
    manager: int = 0
    revision: int = 0
    entry: Entry | None = None
    coming: tuple[int, Entry | None] | None = None
    down: set[str] = field(default_factory=set)
    """Points that its probes do not reach."""

    @property
    def accepts(self) -> set[Address]:
        e = self.entry
        return {*e.peers, *e.backup, *e.accept, *e.onward} if e else set()

    @property
    def sends_to(self) -> tuple[Address, ...]:
        if self.entry is None:
            return ()
        down = {replicate_of(point) for point in self.down}
        return self.entry.backup if down & {*self.entry.peers} else self.entry.peers


class Fabric:
    """Two managers, each as far behind the store as it may be, and what their nodes do with packets."""

    def __init__(self, topology: Settings, n_points: int) -> None:
        self.settings = topology
        self.points = POINTS[:n_points]
        self.store = Log()
        self.boxes = {name: Box(name, place % 2) for place, name in enumerate(DEVICES + self.points)}
        self.killed: set[str] = set()
        self.joined: dict[str, int] = {}
        self.flows: set[tuple[str, str]] = set()
        for name in self.boxes:
            if name in DEVICES:
                self.store.device(name, address_of(name))
            else:
                self.store.point(name, address_of(name), replicate_of(name))
                self.store.put(**{records.live_key(name): records.encode_live(records.Live("m", 1))})
        self.managers = [Topology(topology), Topology(topology)]
        self.writes: list[list[Write]] = [[], []]
        for manager in self.managers:
            manager.apply(self.store.everything())

    # --- what managers and nodes do -------------------------------------------------------------------------

    def follow(self, number: int, n_revisions: int) -> None:
        manager = self.managers[number]
        manager.apply(self.store.since(manager.revision, manager.revision + n_revisions))

    def restart(self, number: int) -> None:
        self.managers[number] = Topology(self.settings)
        self.managers[number].apply(self.store.everything())
        self.writes[number] = []

    def propose(self, number: int) -> None:
        self.writes[number] += self.managers[number].steps()

    def commit(self, number: int) -> None:
        for write in self.writes[number]:
            self.store.commit(write)
        self.writes[number] = []

    def tell(self, name: str) -> None:
        box = self.boxes[name]
        manager = self.managers[box.manager]
        if manager.revision >= box.revision and box.coming is None:
            box.coming = (manager.revision, manager.entry(name, KEY))

    def obey(self, name: str) -> None:
        box = self.boxes[name]
        if box.coming is not None:
            box.revision, box.entry = box.coming
            box.coming = None

    def ack(self, name: str) -> None:
        box = self.boxes[name]
        manager = self.managers[box.manager]
        if (
            manager.awaited().get(name, box.revision + 1) <= box.revision
            and manager.acked_of(name) < box.revision
        ):
            self.store.ack(name, box.revision)

    def change_manager(self, name: str) -> None:
        box = self.boxes[name]
        box.manager, box.coming = 1 - box.manager, None

    def join(self, name: str) -> None:
        if name not in self.joined:
            self.joined[name] = self.store.join(name, KEY)

    def leave(self, name: str) -> None:
        if self.joined.pop(name, None):
            self.store.leave(name, KEY)
            self.flows = {flow for flow in self.flows if name not in flow}

    def set_dead(self, point: str, is_dead: bool) -> None:
        self.store.put(**{records.dead_key(point): b"1" if is_dead else None})

    # --- what packets do ------------------------------------------------------------------------------------

    def arrivals(self, sender: str) -> list[tuple[Address, Address]]:
        """Source and destination of each copy of a packet of `sender` that reaches a device."""
        found = []
        devices = {address_of(name) for name in DEVICES}
        own = address_of(sender)
        by_replicate = {replicate_of(name): self.boxes[name] for name in self.points}
        by_address = {address_of(name): self.boxes[name] for name in self.points}
        for to in self.boxes[sender].sends_to:
            if to in devices:
                found.append((own, to))
                continue
            point = by_replicate[to]
            if point.name in self.killed or point.entry is None or own not in point.entry.peers:
                continue
            found += [(address_of(point.name), peer) for peer in point.entry.peers if peer != own]
            for other in (by_address[onward] for onward in point.entry.onward):
                known = other.entry.onward if other.entry is not None else ()
                if other.name not in self.killed and other.entry and address_of(point.name) in known:
                    found += [(address_of(other.name), peer) for peer in other.entry.peers]
        return found

    def copies(self, sender: str) -> dict[str, int]:
        """How many copies of a packet each device takes."""
        arrivals = self.arrivals(sender)
        return {
            name: sum(
                1 for source, to in arrivals if to == address_of(name) and source in self.boxes[name].accepts
            )
            for name in DEVICES
        }

    def points_used(self, sender: str) -> set[str]:
        used = {name for name in self.points if replicate_of(name) in self.boxes[sender].sends_to}
        onward = {a for name in used if (e := self.boxes[name].entry) for a in e.onward}
        return used | {name for name in self.points if address_of(name) in onward}

    def check(self) -> None:
        """At most one copy ever; exactly one wherever one arrived before, since both are in the group and all
        on the way knew it."""
        for sender in DEVICES:
            used = self.points_used(sender)
            for receiver, n in self.copies(sender).items():
                assert n <= 1, f"{sender} -> {receiver}: {n} copies"
                flow = (sender, receiver)
                if sender == receiver or sender not in self.joined or receiver not in self.joined:
                    continue
                since = max(self.joined[sender], self.joined[receiver])
                knew = all(self.boxes[name].revision >= since for name in {sender, receiver, *used})
                if n == 1 and knew:
                    self.flows.add(flow)
                elif n == 0 and flow in self.flows:
                    is_excused = bool(used & self.killed) or (
                        bool(self.boxes[sender].down)
                        and any(self.boxes[p].revision < self.boxes[sender].revision for p in used)
                    )
                    assert is_excused, f"{sender} -> {receiver}: no copy"

    def settle(self) -> None:
        """Let all go on until there is nothing left to do."""
        for _ in range(50):
            before = self.store.revision
            for number in (0, 1):
                self.follow(number, 1 << 30)
                self.propose(number)
                self.commit(number)
                self.check()
            for name in self.boxes:
                for act in (self.obey, self.tell, self.obey, self.ack):
                    if name not in self.killed or act is not self.ack:
                        act(name)
                    self.check()
            if self.store.revision == before:
                return
        raise AssertionError(f"no end: {self.managers[0].state_of(KEY)}, {self.managers[0].awaited()}")


AUTO = Settings("auto", threshold=3, hysteresis=1)


device = st.sampled_from(DEVICES)
node = st.integers(0, len(NODES) - 1)
manager = st.integers(0, 1)


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

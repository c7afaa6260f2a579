"""Two managers and the nodes of one group as far as they forward: what becomes of each packet."""

from dataclasses import dataclass, field

from ctrl.store.model import Write
from ctrl.topology import records
from ctrl.topology.entry import Address, Entry, Key, tenant_key
from ctrl.topology.points import Settings
from ctrl.topology.topology import Topology
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
        self.wanted: dict[Key, set[str]] = {}
        """What tenants want, and behind which devices."""
        self.flows: set[tuple[str, str]] = set()
        for name in self.boxes:
            if name in DEVICES:
                self.store.device(name, address_of(name))
            else:
                self.store.point(name, address_of(name), replicate_of(name))
                self.store.put(**{records.live_key(name): records.encode_live(records.Live("m", "x", 1))})
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

    def want(self, name: str, inner: Address) -> None:
        """Its tenants want it, or do not any more."""
        key = tenant_key(KEY, 5001, inner)
        names = self.wanted.setdefault(key, set())
        (self.store.leave if name in names else self.store.join)(name, key)
        names ^= {name}

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

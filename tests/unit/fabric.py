"""A simulated world of managers, nodes and a store, of which every step is taken by itself.

What is on its way may be late, be lost with its session, or come long after it.

1. The managers, topologies and nodes are the real ones; store, network, disks and clock are models of them.
2. A session's two ends end apart: each says goodbye when it notices, and what still comes from the other end
   before that is heard.
3. `copies` is the data path: a device's peers, then the point's list, then whether the receiver takes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from ctrl.roles.instructed import Instructed
from ctrl.roles.manager import Manager, ManagerSettings
from ctrl.roles.tunnels import Bounds
from ctrl.rpc.messages import Group, Hello, Instructions
from ctrl.store.held import Held
from ctrl.topology.entry import Address, Entry, Key, Node
from ctrl.topology.points import Settings
from ctrl.topology.topology import Topology
from tests.unit.fabric_parts import Box, Link, Running, StoreModel

V = TypeVar("V")
SETTLE_S = 0.06
"""Longer than instructions are gathered."""


class World:
    """Everything. A method is a step; `told` counts the entries that nodes were told."""

    def __init__(
        self,
        managers: Iterable[str] = ("m1",),
        settings: ManagerSettings | None = None,
        topology: Settings | None = None,
        bounds: Bounds | None = None,
        settling_s: float = 0,
    ) -> None:
        self.now_s = 1000.0
        self.store = StoreModel()
        self.settings = settings or ManagerSettings()
        self.topology = topology or Settings()
        self.bounds = bounds or Bounds(shrink_hold_s=0)
        self.managers: dict[str, Running | None] = {}
        self.boxes: dict[str, Box] = {}
        self.links: dict[int, Link] = {}
        self.told: Counter[str] = Counter()
        self.endings: list[tuple[str, str]] = []
        self.identities: dict[str, str] = {}
        self._n_links = 0
        self._n_processes = 0
        for name in managers:
            self.start_manager(name, settling_s)

    # --- managers -------------------------------------------------------------------------------------------

    def start_manager(self, name: str, settling_s: float = 0, called: str = "") -> Running:
        """Start it; it has read the store. `called`: the name that it has itself, if that is another one."""
        self._n_processes += 1
        topology = Topology(self.topology)
        manager = Manager(called or name, self.store.name, self.settings, topology, self.now_s, settling_s)
        running = Running(name, f"{name}.{self._n_processes}", manager, topology)
        self.managers[name] = running
        self.relist(name)
        return running

    def kill_manager(self, name: str) -> None:
        """Kill it: what it had not written is lost, and its sessions; what it leased is there until
        `expire`."""
        running = self.managers[name]
        assert running is not None
        self.managers[name] = None
        for link in self.links.values():
            if link.process == running.process:
                self._cut(link)
                link.is_open_at_manager = False

    def expire(self) -> None:
        """Leases of dead processes run out."""
        alive = {running.process for running in self.managers.values() if running}
        for owner in set(self.store.leases.values()) - alive:
            self.store.expire(owner)

    def follow(self, name: str, at_most: int = 1 << 30) -> None:
        """Have a manager see the next revisions, together."""
        running = self.managers[name]
        if running and running.followed < self.store.revision:
            until = min(self.store.revision, running.followed + at_most)
            changes = self.store.since(running.followed, until)
            running.followed = until
            running.manager.follow(changes, self.now_s)
            self._collect(running)

    def relist(self, name: str) -> None:
        """Have a manager see all there is, as after a compaction."""
        running = self.managers[name]
        if running:
            running.followed = self.store.revision
            running.manager.follow(self.store.all(), self.now_s)
            self._collect(running)

    def commit(self, name: str, at_most: int = 1) -> None:
        """Write what a manager wants written; it does not know yet."""
        running = self.managers[name]
        while running and running.writes and at_most:
            write = running.writes.popleft()
            running.results.append((write, self.store.commit(write, running.process)))
            at_most -= 1

    def report(self, name: str) -> None:
        """Tell a manager what became of what it wrote."""
        running = self.managers[name]
        while running and running.results:
            write, done = running.results.popleft()
            running.manager.written(write, done, self.now_s)
            self._collect(running)

    def serve(self, name: str, step: int = 1 << 30) -> None:
        """Have a manager write, hear what became of it, and follow."""
        self.commit(name, step)
        self.report(name)
        self.follow(name, step)

    def _collect(self, running: Running) -> None:
        manager = running.manager
        running.writes.extend(manager.take_writes())
        for number, message in manager.take_messages():
            link = self.links[number]
            if not link.is_cut:
                link.to_node.append(message)
        for number, why in manager.take_endings():
            link = self.links[number]
            self.endings.append((link.node, why))
            link.is_open_at_manager = False

    # --- nodes ----------------------------------------------------------------------------------------------

    def add(self, node: Node, held: Held | None = None) -> Box:
        """Start a node."""
        held = held or Held()
        box = Box(Instructed(node, self.bounds, held), held, dict(held.groups))
        self.boxes[node.name] = box
        return box

    def restart(self, name: str) -> None:
        """Kill a node and start it again with what is on its disk; its NVEs join again at once."""
        box = self.boxes[name]
        self.kill(name)
        node = replace(box.instructed.node, generation=box.instructed.node.generation + 1)
        box.instructed = Instructed(node, self.bounds, box.held)
        box.is_up = True
        for known in box.groups.values():
            box.instructed.joined(*known)
        box.instructed.confirm()
        self._store(box)

    def kill(self, name: str) -> None:
        """Kill a node; nobody notices yet."""
        box = self.boxes[name]
        box.is_up = False
        if box.session is not None:
            link = self.links[box.session]
            self._cut(link)
            link.is_open_at_node = False
            box.session = None

    def join(self, name: str, key: Key, vnis: tuple[int, ...] = ()) -> None:
        """Have a node be in a group."""
        box = self.boxes[name]
        box.groups[key] = Group(key, vnis)
        if box.is_up:
            box.instructed.joined(key, vnis)
            self._say(name)

    def leave(self, name: str, key: Key) -> None:
        """Have it be in the group no more."""
        box = self.boxes[name]
        if box.groups.pop(key, None) and box.is_up:
            box.instructed.left(key)
            self._say(name)

    def probe(self, name: str, address: Address, is_up: bool) -> None:
        """Have a node's probes say something of a point."""
        box = self.boxes[name]
        if box.is_up:
            box.instructed.set_point_state(address, is_up, self.now_s)
            self._say(name)

    def _say(self, name: str) -> None:
        box = self.boxes[name]
        messages = box.instructed.take_messages()
        if box.session is not None and not self.links[box.session].is_cut:
            self.links[box.session].to_manager.extend(messages)
        if box.instructed.take_ending() and box.session is not None:
            self.close_at_node(box.session)
        self._store(box)

    def _store(self, box: Box) -> None:
        update = box.instructed.take_stored()
        if update is None:
            return
        entries = {} if update.is_all else dict(box.held.entries)
        groups = {} if update.is_all else dict(box.held.groups)
        _merge(entries, update.entries)
        _merge(groups, update.groups)
        box.held = Held(update.store, update.revision, entries, groups, update.vnis)

    # --- sessions -------------------------------------------------------------------------------------------

    def connect(self, name: str, manager: str) -> int | None:
        """Have a node open a session; what it had ends at its end."""
        box, running = self.boxes[name], self.managers[manager]
        if box.session is not None:
            self.close_at_node(box.session)
        if not box.is_up or not running:
            return None
        self._n_links += 1
        self.links[self._n_links] = Link(name, running.process)
        box.session = self._n_links
        box.instructed.connected(self.now_s)
        self._say(name)
        return self._n_links

    def cut(self, number: int) -> None:
        """Lose what is on its way; neither end knows."""
        self._cut(self.links[number])

    @staticmethod
    def _cut(link: Link) -> None:
        link.is_cut = True
        link.to_manager.clear()
        link.to_node.clear()

    def close_at_node(self, number: int) -> None:
        """The node's end ends; what it sent is still on its way."""
        link = self.links[number]
        link.is_open_at_node = False
        box = self.boxes[link.node]
        if box.session == number:
            box.session = None
            box.instructed.disconnected(self.now_s)

    def close_at_manager(self, number: int) -> None:
        """The manager's end notices that the session is over."""
        link = self.links[number]
        running = self._of(link)
        if link.is_open_at_manager and running:
            link.is_open_at_manager = False
            running.manager.closed(number, self.now_s)
            self._collect(running)

    def to_manager(self, number: int) -> None:
        """Deliver one message to the manager."""
        link = self.links[number]
        running = self._of(link)
        if not link.to_manager:
            return
        message = link.to_manager.popleft()
        if not running:
            return
        if isinstance(message, Hello):
            identity = self.identities.get(link.node)
            why = running.manager.open(number, message, identity, self.now_s)
            if why is None:
                link.is_open_at_manager = True
            else:
                self.endings.append((link.node, why))
        elif link.is_open_at_manager:
            running.manager.hear(number, message, self.now_s)
        self._collect(running)

    def to_node(self, number: int) -> None:
        """Deliver one message to the node, unless it is that of a session which it has no more."""
        link = self.links[number]
        if not link.to_node:
            return
        message = link.to_node.popleft()
        box = self.boxes[link.node]
        if box.session != number:
            return
        if isinstance(message, Instructions):
            self.told[link.node] += len(message.entries) + len(message.removed)
        box.instructed.hear(message, self.now_s)
        self._check_order(box)
        self._say(link.node)

    @staticmethod
    def _check_order(box: Box) -> None:
        now = (box.instructed.store, box.instructed.revision)
        assert box.reached[0] != now[0] or now[1] >= box.reached[1], "an older revision won"
        box.reached = now

    def _of(self, link: Link) -> Running | None:
        for running in self.managers.values():
            if running and running.process == link.process:
                return running
        return None

    # --- time -----------------------------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Let time pass; who has something due does it once."""
        self.now_s += seconds
        for running in self.managers.values():
            if running:
                self.poll(running)
        for name, box in self.boxes.items():
            if box.is_up:
                box.instructed.poll(self.now_s)
                self._say(name)

    def poll(self, running: Running) -> None:
        """Have a manager do all that is due."""
        while (running.manager.deadline_s or self.now_s + 1) <= self.now_s:
            running.manager.poll(self.now_s)
        self._collect(running)

    def flow(self, *, until: Callable[[], bool] = lambda: False) -> None:
        """Deliver, write and follow until nothing is on its way; no time passes."""
        is_moving = True
        while is_moving and not until():
            is_moving = False
            for name, running in self.managers.items():
                if running and (running.writes or running.results or running.followed < self.store.revision):
                    is_moving = True
                    self.commit(name, 1 << 30)
                    self.report(name)
                    self.follow(name)
            for number, link in list(self.links.items()):
                while link.to_manager or link.to_node:
                    is_moving = True
                    self.to_manager(number)
                    self.to_node(number)

    def run(self, seconds: float = 3 * SETTLE_S, step_s: float = SETTLE_S) -> None:
        """Let time pass with all that happens in it."""
        self.flow()
        for _ in range(round(seconds / step_s)):
            self.advance(step_s)
            self.flow()

    def heal(self) -> None:
        """Everything works again: the dead managers run, both ends of a broken session know, and whoever is
        up has one."""
        for name, running in self.managers.items():
            if running is None:
                self.start_manager(name)
        self.expire()
        for number, link in list(self.links.items()):
            if link.is_cut or not link.is_open_at_node:
                self.close_at_manager(number)
                if link.is_open_at_node:
                    self.close_at_node(number)
        self.reconnect()

    def reconnect(self) -> None:
        """Connect all that are up and have no session, or one that its manager ended."""
        self.flow()
        for i, (name, box) in enumerate(sorted(self.boxes.items())):
            link = self.links[box.session] if box.session is not None else None
            if box.is_up and (link is None or not link.is_open_at_manager):
                alive = sorted(m for m, running in self.managers.items() if running)
                self.connect(name, alive[i % len(alive)])
        self.flow()

    def quiesce(self) -> None:
        """Heal, and wait until nothing happens any more, past all holds."""
        self.heal()
        for _ in range(3):
            for _ in range(8):
                self.run(2 * SETTLE_S)
                self.reconnect()
            self.advance(self.settings.hold_s / 3)
            self.flow()
        for _ in range(8):
            self.advance(self.settings.hold_s / 6)
            self.flow()
            self.run(2 * SETTLE_S)
            self.reconnect()

    # --- the data path --------------------------------------------------------------------------------------

    def entry(self, name: str, key: Key) -> Entry | None:
        """Say what is in force at a node."""
        return self.boxes[name].instructed.entry(key)

    def peers(self, name: str, key: Key) -> list[str]:
        """Name the nodes to which copies go from there."""
        owners = self._owners()
        return sorted(owners[address] for address in self.boxes[name].instructed.peers(key))

    def members(self, key: Key) -> list[str]:
        """Name the devices that are in a group."""
        return sorted(name for name, box in self.boxes.items() if box.is_up and key in box.groups)

    def copies(self, sender: str, key: Key) -> Counter[str]:
        """Count the copies that each node gets of a packet from a device."""
        owners, got = self._owners(), Counter[str]()

        def arrive(address: Address, source: Address) -> None:
            name = owners.get(address)
            box = self.boxes.get(name) if name is not None else None
            if name is None or box is None or not box.is_up or source not in box.instructed.senders():
                return
            node = box.instructed.node
            if node.role == "device":
                got[name] += key in box.groups
            elif address == node.replicate:
                entry = box.instructed.entry(key)
                for peer in box.instructed.peers(key) if entry else ():
                    if peer != source:
                        arrive(peer, node.address)
                for onward in entry.onward if entry else ():
                    onward_arrive(onward, node.address)

        def onward_arrive(address: Address, source: Address) -> None:
            name = owners.get(address)
            box = self.boxes.get(name) if name is not None else None
            if name is None or box is None or not box.is_up or source not in box.instructed.senders():
                return
            for peer in box.instructed.peers(key):
                arrive(peer, box.instructed.node.address)

        box = self.boxes[sender]
        for address in box.instructed.peers(key):
            arrive(address, box.instructed.node.address)
        return got

    def _owners(self) -> Mapping[Address, str]:
        owners = {}
        for name, box in self.boxes.items():
            node = box.instructed.node
            owners[node.address] = name
            if node.replicate:
                owners[node.replicate] = name
        return owners


def _merge(into: dict[Key, V], changes: Mapping[Key, V | None]) -> None:
    for key, value in changes.items():
        if value is None:
            into.pop(key, None)
        else:
            into[key] = value

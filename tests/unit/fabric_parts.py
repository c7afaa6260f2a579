"""The parts of the simulated fabric: names, the store, and what a process, a node and a session are."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from ctrl.roles.instructed import Instructed
from ctrl.roles.manager import Manager
from ctrl.rpc.messages import FromManager, FromNode, Group
from ctrl.store.held import Held
from ctrl.store.model import Changes, Item, Write, check_write
from ctrl.topology.entry import Key, Node
from ctrl.topology.topology import Topology


def group(number: int) -> Key:
    """Name a group by a number."""
    return bytes((239, 1, number >> 8, number & 255))


def device(number: int, generation: int = 1) -> Node:
    """Make a device d1, d2, ..."""
    return Node(f"d{number}", "device", bytes((10, 0, number >> 8, number & 255)), generation)


def point(number: int, generation: int = 1) -> Node:
    """Make a point p1, p2, ... with two addresses."""
    address, replicate = bytes((10, 9, 0, number)), bytes((10, 9, 1, number))
    return Node(f"p{number}", "replicator", address, generation, replicate=replicate)


class StoreModel:
    """A store with every revision that it had."""

    def __init__(self, name: str = "s1") -> None:
        self.name = name
        self.items: dict[str, Item] = {}
        self.log: list[list[Item]] = []
        """Of each revision, from 1."""
        self.leases: dict[str, str] = {}

    @property
    def revision(self) -> int:
        return len(self.log)

    def commit(self, write: Write, owner: str = "") -> bool:
        """Write it, or not."""
        check_write(write)
        for key, revision in write.when.items():
            if (self.items[key].revision if key in self.items else 0) != revision:
                return False
        changed = [
            Item(key, value, self.revision + 1)
            for key, value in write.puts.items()
            if value is not None or key in self.items
        ]
        if changed:
            self.log.append(changed)
        for item in changed:
            self.leases.pop(item.key, None)
            if item.value is None:
                del self.items[item.key]
            else:
                self.items[item.key] = item
                if write.is_leased:
                    self.leases[item.key] = owner
        return True

    def expire(self, owner: str) -> None:
        """A process is gone, and what it leased."""
        gone = [key for key, who in self.leases.items() if who == owner]
        self.commit(Write(dict.fromkeys(gone)))

    def all(self) -> Changes:
        """List what there is."""
        return Changes(self.revision, list(self.items.values()), is_all=True)

    def since(self, revision: int, until: int) -> Changes:
        """List what changed."""
        return Changes(until, [item for items in self.log[revision:until] for item in items])


@dataclass(slots=True)
class Running:
    """A manager's process."""

    name: str
    process: str
    manager: Manager
    topology: Topology
    followed: int = 0
    writes: deque[Write] = field(default_factory=deque)
    results: deque[tuple[Write, bool]] = field(default_factory=deque)


@dataclass(slots=True)
class Box:
    """A node's process and its disk."""

    instructed: Instructed
    held: Held
    groups: dict[Key, Group] = field(default_factory=dict)
    """What it should be in."""
    session: int | None = None
    is_up: bool = True
    reached: tuple[str, int] = ("", 0)
    """Store and revision of the newest instructions in force."""


@dataclass(slots=True)
class Link:
    """A session: what is on its way, and which ends still think that it is."""

    node: str
    process: str
    to_manager: deque[FromNode] = field(default_factory=deque)
    to_node: deque[FromManager] = field(default_factory=deque)
    is_open_at_node: bool = True
    is_open_at_manager: bool = False
    is_cut: bool = False

"""A node with a manager at its side, for the tests of `Instructed`."""

from __future__ import annotations

from ipaddress import ip_address

from ctrl.roles.instructed import Instructed
from ctrl.roles.tunnels import Bounds
from ctrl.rpc.messages import Ack, FromManager, FromNode, Instructions, Welcome
from ctrl.store.held import Held, Update
from ctrl.topology.entry import MESH, POINT, Address, Entry, Key, Node


def address(text: str) -> Address:
    return ip_address(text).packed


def key(n: int) -> Key:
    return bytes((239, 1, n >> 8, n & 255))


def device(n: int) -> Address:
    return bytes((10, 1, n >> 8, n & 255))


OURS = device(1)
P1, P2 = address("10.9.0.1"), address("10.9.0.2")
TOR = Node("tor1", "device", OURS, generation=7)
ROUTER = Node("p1", "replicator", P1, generation=3, replicate=address("10.9.1.1"))


def mesh(n: int, *others: int) -> Entry:
    """The tunnels of group n to these devices."""
    return Entry(key(n), MESH, tuple(map(device, others)))


def by_point(n: int, point: Address = P1, *, backup: tuple[Address, ...] = ()) -> Entry:
    return Entry(key(n), POINT, (point,), backup=backup, accept=(point,))


class Side:
    """A node, the clock, and what its manager says and hears."""

    def __init__(
        self, node: Node = TOR, bounds: Bounds | None = None, held: Held | None = None, at_s: float = 100.0
    ) -> None:
        self.node = Instructed(node, bounds or Bounds(), held or Held())
        self.at_s = at_s
        self.number = 0

    def connect(self, store: str = "s", keepalive_s: float = 10.0) -> list[FromNode]:
        """Begin a session; what the node says first."""
        self.node.connected(self.at_s)
        said = self.node.take_messages()
        self.number = 0
        self.hear(Welcome("m1", store, keepalive_s))
        return said

    def disconnect(self) -> None:
        self.node.disconnected(self.at_s)

    def hear(self, message: FromManager) -> None:
        self.node.hear(message, self.at_s)

    def tell(
        self,
        *entries: Entry,
        revision: int = 1,
        removed: tuple[Key, ...] = (),
        is_full: bool = False,
        merge: bool = False,
        vnis: tuple[tuple[int, int], ...] | None = None,
    ) -> Ack | None:
        """Instruct it by the next number; its answer, if there was one."""
        self.number += 1
        self.hear(
            Instructions(self.number, revision, entries, removed, is_full=is_full, merge=merge, vnis=vnis)
        )
        return next((one for one in self.said() if isinstance(one, Ack)), None)

    def said(self) -> list[FromNode]:
        return self.node.take_messages()

    def run(self, for_s: float) -> list[FromNode]:
        """Let time go by, by the node's own deadlines; what it says meanwhile."""
        said: list[FromNode] = []
        end_s = self.at_s + for_s
        while (due_s := self.node.deadline_s) is not None and due_s <= end_s:
            self.at_s = max(self.at_s, due_s)
            self.node.poll(self.at_s)
            said += self.said()
        self.at_s = end_s
        return said


def connected(*entries: Entry, node: Node = TOR, bounds: Bounds | None = None, revision: int = 1) -> Side:
    """A node in session that is in the groups of these entries and was told them; all is taken."""
    side = Side(node, bounds)
    for entry in entries:
        if node.role == "device":
            side.node.joined(entry.key)
    side.connect()
    side.tell(*entries, revision=revision, is_full=True)
    side.node.take_changes()
    side.node.take_stored()
    side.node.take_notes()
    side.node.take_senders_changed()
    return side


def put(held: Held, update: Update | None) -> Held:
    """What is on disk after an update."""
    if update is None:
        return held
    entries = {} if update.is_all else dict(held.entries)
    groups = {} if update.is_all else dict(held.groups)
    for kept, changes in ((entries, update.entries), (groups, update.groups)):
        for one, value in changes.items():
            if value is None:
                kept.pop(one, None)
            else:
                kept[one] = value  # type: ignore[assignment]
    return Held(update.store, update.revision, entries, groups, update.vnis)

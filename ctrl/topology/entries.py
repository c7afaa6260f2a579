"""What is known of each group and node, compactly, and the entries made of it when somebody asks.

1. 100,000 groups of ten devices are a million memberships: each is one slot of one dict;
   the rest is shared.
2. An entry is a function of the group alone, made anew each time: nothing made can be stale.
3. What tenants want is a group with an outer one. Its members are those who want it; told of it is everybody
   who sends to the outer one.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

from ctrl.topology.entry import MESH, POINT, Address, Entry, Key, Node
from ctrl.topology.points import Point, ranking
from ctrl.topology.records import SWITCH, Live, Mode, Networks, shard_of
from ctrl.topology.switching import MESHED, State


class Shard(NamedTuple):
    """One shard of what a node is in."""

    revision: int
    groups: tuple[Group, ...]


class Known:
    """All that is known of a node; `node` None: it said that it is in groups, or was acked, and no more."""

    __slots__ = (
        "acked",
        "acked_revision",
        "awaiting",
        "dead_revision",
        "is_device",
        "is_point",
        "lists",
        "live",
        "live_revision",
        "name",
        "node",
        "node_revision",
        "shards",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.node: Node | None = None
        self.node_revision = 0
        self.is_device = False
        """It counts as a member of its groups."""
        self.is_point = False
        self.live: Live | None = None
        self.live_revision = 0
        self.acked = 0
        self.acked_revision = 0
        self.dead_revision = 0
        self.shards: dict[int, Shard] = {}
        self.lists: set[Group] = set()
        """Of a point: groups whose list it has."""
        self.awaiting: dict[Group, int] = {}
        """Groups that wait until this revision is in force here."""

    def set_node(self, node: Node | None, revision: int) -> None:
        """Take who it is."""
        self.node, self.node_revision = node, revision if node else 0
        self.is_device = node is not None and node.role == "device"
        self.is_point = node is not None and node.role == "replicator"

    @property
    def is_nobody(self) -> bool:
        """True when nothing is known of it any more."""
        return not (
            self.node_revision
            or self.live_revision
            or self.acked_revision
            or self.dead_revision
            or self.shards
            or self.lists
        )


class Way(NamedTuple):
    """How a group is served: by these points, each alone for its VNIs, or each for its devices in a tree.

    `backup`: who stands in for them; None: a mesh does. No points: a mesh.
    """

    points: tuple[Point, ...] = ()
    backup: Point | None = None
    is_tree: bool = False

    @property
    def has_mesh(self) -> bool:
        """True where devices send to each other, be it for want of a point."""
        return self.backup is None

    def listed(self) -> list[str]:
        """Name the points that have the list."""
        return [point.name for point in self.points] + ([self.backup.name] if self.backup else [])

    def point_of(self, device: str) -> Point:
        """Say which point of a tree serves a device."""
        first = ranking(tuple(point.name for point in self.points), device.encode())[0]
        return next(point for point in self.points if point.name == first)


MESH_WAY = Way()


class Group:
    """A group: who is in it and how it is served."""

    __slots__ = (
        "_addresses",
        "changed",
        "key",
        "listed",
        "members",
        "mode",
        "mode_revision",
        "n_devices",
        "shard",
        "staged",
        "state",
        "tenants",
        "touched",
        "waits",
        "was_alone",
        "ways",
    )

    def __init__(self, key: Key) -> None:
        self.key = key
        self.shard = shard_of(key)
        self.members: dict[Known, Networks] = {}
        self.n_devices = 0
        """Members that count: of others it is not known what they are."""
        self.mode: Mode | None = None
        self.mode_revision = 0
        self.state: State = MESHED
        self.ways: tuple[Way, ...] = (MESH_WAY,)
        """Now, and next while it changes."""
        self.listed: tuple[str, ...] = ()
        """Points that have the list."""
        self.changed = 0
        """Store revision since which the entries are what they are."""
        self.staged = 0
        """Store revision since which `state` is what it is."""
        self.touched = 0
        self.was_alone = True
        self.waits: dict[Known, int] = {}
        self.tenants: Tenants | None = None
        self._addresses: tuple[Address, ...] | None = None

    def forget_addresses(self) -> None:
        """Say that members or their addresses changed."""
        self._addresses = None

    @property
    def addresses(self) -> tuple[Address, ...]:
        """All devices' addresses, in order."""
        if self._addresses is None:
            nodes = [known.node for known in self.members if known.is_device]
            self._addresses = tuple(sorted({node.address for node in nodes if node is not None}))
        return self._addresses

    @property
    def carries(self) -> set[Networks]:
        """What each of the devices knows the group to carry."""
        return {networks for known, networks in self.members.items() if known.is_device}

    @property
    def is_nested(self) -> bool:
        """True if no device rewrites the packets that it sends."""
        nodes = [known.node for known in self.members if known.is_device]
        return all(node.tunnel == "nested" for node in nodes if node is not None)

    @property
    def is_raced(self) -> bool:
        """True if a device came that who wrote the mode had not seen, as far as the records say."""
        if self.mode is None or self.mode.seen < 0:
            return False
        seen, until = self.mode.seen, self.mode_revision
        return any(
            seen < known.node_revision <= until or seen < known.shards[self.shard].revision <= until
            for known in self.members
            if known.is_device
        )


class Tenants:
    """What the tenants of a group want, by anybody's word."""

    __slots__ = ("groups", "is_nested")

    def __init__(self) -> None:
        self.groups: dict[TenantsGroup, None] = {}
        self.is_nested = False
        """No device of the outer group rewrites packets: what a point gets says of which group it is."""

    @property
    def keys(self) -> list[Key]:
        """Name all of them."""
        return [group.key for group in self.groups]


class TenantsGroup(Group):
    """Those who want what a tenants' key says. It is told, and served by the ways of its outer group."""

    __slots__ = ("_networks", "outer")

    def __init__(self, key: Key, outer: Group) -> None:
        super().__init__(key)
        self.outer = outer
        self._networks: Networks | None = None

    def forget_networks(self) -> None:
        """Say that members or their networks changed."""
        self._networks = None

    @property
    def networks(self) -> Networks:
        """All numbers of the network, by any of those who want it."""
        if self._networks is None:
            carries = self.carries
            vnis = {number for networks in carries for number in networks.vnis}
            vsids = {number for networks in carries for number in networks.vsids}
            self._networks = Networks(tuple(sorted(vnis)), tuple(sorted(vsids)))
        return self._networks


def tenants_entry(group: TenantsGroup, known: Known) -> Entry | None:
    """Say who else wants a tenants' key; None: nobody does, or this node does not send to them."""
    node, outer = known.node, group.outer
    if node is None or not group.addresses:
        return None
    if known.is_point:
        if known.name not in outer.listed or outer.tenants is None or not outer.tenants.is_nested:
            return None
    elif not known.is_device or known not in outer.members:
        return None
    others = _without(_without(group.addresses, node.address), node.replicate)
    return Entry(group.key, MESH, others, vnis=group.networks.vnis, vsids=group.networks.vsids)


def device_entry(group: Group, known: Known, n_mesh: int) -> Entry | None:
    """Say what a device is told of a group. `n_mesh`: up to how many devices a mesh stands in for points."""
    node = known.node
    if node is None or not known.is_device or known not in group.members:
        return None
    sending = group.ways[-1] if group.state.stage == SWITCH else group.ways[0]
    via = POINT if sending.points else MESH
    if group.n_devices < 2:
        return Entry(group.key, via)
    others = _without(group.addresses, node.address)
    if len(group.ways) == 1 and not sending.points:
        return Entry(group.key, via, others)  # nearly all groups
    stand_in = others if group.n_devices <= n_mesh else ()
    accept: set[Address] = set()
    for way in group.ways:
        if not way.points:
            accept.update(others)
            continue
        points = (way.point_of(known.name),) if way.is_tree else way.points
        accept.update(point.address for point in points)
        accept.update(stand_in if way.backup is None else (way.backup.address,))
    peers, backup = others, tuple[Address, ...]()
    if sending.points:
        points = (sending.point_of(known.name),) if sending.is_tree else sending.points
        peers = tuple(point.replicate for point in points)
        backup = stand_in if sending.backup is None else (sending.backup.replicate,)
    accept.difference_update(peers, backup)
    return Entry(group.key, via, peers, backup, tuple(sorted(accept)))


def point_entry(group: Group, point: str) -> Entry | None:
    """Say what a point is told of a group."""
    if point not in group.listed:
        return None
    way = next(way for way in group.ways if point in way.listed())
    own = next(p for p in (*way.points, way.backup) if p is not None and p.name == point)
    if way.is_tree:
        members = [known for known in group.members if known.is_device and way.point_of(known.name) == own]
        addresses = sorted({known.node.address for known in members if known.node is not None})
        onward = tuple(sorted(other.address for other in way.points if other != own))
    else:
        addresses, onward = list(group.addresses), ()
    peers = _without(_without(tuple(addresses), own.address), own.replicate)
    vnis = {number for networks in group.carries for number in networks.vnis}
    vsids = {number for networks in group.carries for number in networks.vsids}
    return Entry(group.key, POINT, peers, onward=onward, vnis=tuple(sorted(vnis)), vsids=tuple(sorted(vsids)))


def _without(addresses: tuple[Address, ...], this: Address) -> tuple[Address, ...]:
    """Leave one out of what is in order."""
    place = bisect_left(addresses, this)
    is_there = place < len(addresses) and addresses[place] == this
    return addresses[:place] + addresses[place + 1 :] if is_there else addresses

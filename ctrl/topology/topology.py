"""Who must tunnel what to whom: the store's items in, the entries of each node out (US 9,838,462 steps S402,
S703 to S708).

1. What a topology knows is a function of the store's items, so that all managers know the same, each at its
   own pace, and one that starts anew knows what the others do.
2. `apply` says which entries may differ; `entry` makes one when it is asked for.
3. A group that changes the way it is served does so step by step, each a record in the store that any manager
   may write (`steps`); it is written only if the one before it is still there, so two do no harm.
4. What tenants want is told to all who send to their outer group: its devices, and points that have its list.
   No step waits for it, as what is not known yet costs copies and no receiver.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from types import MappingProxyType
from typing import NamedTuple

from ctrl.store.model import Changes, Write
from ctrl.topology import telling
from ctrl.topology.ended import Ended
from ctrl.topology.entries import (
    MESH_WAY,
    Group,
    Known,
    TenantsGroup,
    Way,
    device_entry,
    point_entry,
    tenants_entry,
)
from ctrl.topology.entry import Address, Entry, Key, Node
from ctrl.topology.picture import LOOK, MEMBERS, Picture
from ctrl.topology.points import Allocation, Candidates, Ranges, Settings, ranking
from ctrl.topology.records import PREPARE, STABLE, Live, Networks, Points, encode_mode, mode_key
from ctrl.topology.switching import MESHED, State, next_mode, state_of

__all__ = ["Allocation", "Dirty", "Settings", "Topology"]


class LiveAt(NamedTuple):
    """Who serves a node, and the revision of the record that says so."""

    live: Live
    revision: int


class Served(NamedTuple):
    """A group as a whole: the addresses of its devices, and the points that serve it, none in a mesh. What
    tenants want: the addresses of those who want it."""

    key: Key
    devices: tuple[Address, ...]
    points: tuple[str, ...]
    vnis: tuple[int, ...]
    revision: int
    """Of the store, when it changed last."""


@dataclass(slots=True)
class Dirty:
    """What may differ from before."""

    keys: dict[str, set[Key]] = field(default_factory=dict)
    """Entries, by the node's name; also of nodes that nobody serves."""
    points: set[str] = field(default_factory=set)
    """Points whose `vnis_of` differs."""
    nodes: set[str] = field(default_factory=set)
    """Nodes that came, went, or are known, served, acked or dead otherwise than before."""
    moved: list[bytes] = field(default_factory=list)
    """Values of `moved/` that were written (`records.decode_moved`); none of a full list."""


class Topology:
    """All that is in the store, and what follows from it for each node."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.revision = 0
        """Of the store, up to which all is known."""
        self._picture = Picture()
        self.nodes: Mapping[str, Node] = MappingProxyType(self._picture.nodes)
        """Who is known, live or not, by name."""
        self._candidates = Candidates(settings)
        self._vnis: dict[str, Ranges] = {}
        self._pending: set[Group] = set()
        """Groups whose next step may be due."""
        self._served: set[Group] = set()
        """Groups that are not simply meshed."""
        self._awaited: dict[str, int] = {}
        self._ended = Ended()

    @property
    def faults(self) -> Counter[str]:
        """Count the items that could not be read, by the first word of their key ("foreign": not ours)."""
        return self._picture.faults

    # --- what the store says --------------------------------------------------------------------------------

    def apply(self, changes: Changes) -> Dirty:
        """Take what changed; of a full list only what differs from before is dirty, and what is not in it is
        gone."""
        picture = self._picture
        picture.take(changes)
        if changes.is_all:
            self._ended.forget(changes.revision)
            if changes.revision < self.revision:
                picture.turn_back(changes.revision)
        self.revision = changes.revision if changes.is_all else max(self.revision, changes.revision)
        dirty = Dirty(picture.told, set(), picture.changed, picture.moved)
        picture.told, picture.changed, picture.moved = {}, set(), []
        if picture.are_points_changed:
            picture.are_points_changed = False
            self._update_points(dirty)
        touched, picture.touched = picture.touched, {}
        for group, what in touched.items():
            if type(group) is TenantsGroup:
                telling.settle(picture, group, what, self._ended, self.revision, dirty.keys)
                self._drop_if_empty(group.outer)
            else:
                self._settle(group, what, dirty.keys)
        for known in picture.acked:
            self._hear_acked(known)
        picture.acked.clear()
        for name in dirty.nodes:
            picture.drop_if_empty(name)
        return dirty

    def _update_points(self, dirty: Dirty) -> None:
        """Take who the points are; all groups that may be served otherwise now are looked at."""
        known = self._picture.known
        points = [node for node in self.nodes.values() if node.role == "replicator"]
        self._candidates.update(points, {node.name for node in points if known[node.name].dead_revision})
        vnis = {node.name: self._candidates.vnis_of(node) for node in points}
        dirty.points.update(
            name for name in vnis.keys() | self._vnis if vnis.get(name) != self._vnis.get(name)
        )
        self._vnis = vnis
        for group in self._picture.groups.values():
            if group in self._served:
                self._picture.touched.setdefault(group, LOOK)
                group.touched = max(group.touched, self.revision)
            elif self._may_want(group):
                self._pending.add(group)

    def _settle(self, group: Group, what: int, dirty: dict[str, set[Key]]) -> None:
        """Work out how a group that was touched is served, and whose entries that changes."""
        if what & MEMBERS:
            group.forget_addresses()
        was_alone, group.was_alone = group.was_alone, group.n_devices < 2
        is_other, was_listed = was_alone != group.was_alone, group.listed
        if group.mode is not None or group in self._served:
            is_other |= self._serve(group)
        for name in {*was_listed, *group.listed} if what or is_other else ():
            dirty.setdefault(name, set()).add(group.key)
        if is_other or (what & MEMBERS and any(way.has_mesh for way in group.ways)):
            for known in group.members:
                dirty.setdefault(known.name, set()).add(group.key)
        if group.tenants is not None:
            telling.tell_points(group, group.tenants, was_listed, dirty)
        if what or is_other:
            group.changed = max(group.changed, group.touched)
        if group.state.stage != STABLE or group.waits:
            self._await_all(group)
        if not self._drop_if_empty(group) and self._may_want(group):
            self._pending.add(group)

    def _drop_if_empty(self, group: Group) -> bool:
        """Forget a group that nobody is in, nor wants anything of; True if it is gone."""
        if group.members or group.mode is not None or group.tenants is not None:
            return False
        self._pending.discard(group)
        self._picture.groups.pop(group.key, None)
        return True

    def _serve(self, group: Group) -> bool:
        """Follow the group's mode; True if devices are told otherwise."""
        state = state_of(group.mode, group.is_raced)
        ways = [self._way(group.key, state.now)]
        if state.stage != STABLE:
            ways.append(self._way(group.key, state.next))
        listed = sorted({name for way in ways for name in way.listed()}) if group.n_devices else []
        is_other = state != group.state or tuple(ways) != group.ways
        if state != group.state:
            group.staged = group.touched
        for name in {*group.listed, *listed}:
            known = self._picture.known[name]
            (known.lists.add if name in listed else known.lists.discard)(group)
        group.state, group.ways, group.listed = state, tuple(ways), tuple(listed)
        (self._served.discard if state == MESHED else self._served.add)(group)
        return is_other

    def _way(self, key: Key, names: Points) -> Way:
        """Work out how these points serve a group; if one of them is not known any more, nobody can send to
        it, and it is meshed."""
        candidates = self._candidates
        if not names or any(name not in candidates.points for name in names):
            return MESH_WAY
        points = tuple(candidates.points[name] for name in names)
        are_free = all(map(candidates.is_free, names))
        if len(names) > 1 or not are_free:
            return Way(points, None, are_free)
        others = (name for name in ranking(candidates.free, key) if name not in names)
        backup = next(others, None)
        return Way(points, candidates.points[backup] if backup else None)

    def _await_all(self, group: Group) -> None:
        """Work out for whom the group's stage waits."""
        for known in group.waits:
            known.awaiting.pop(group, None)
            if not known.awaiting:
                self._awaited.pop(known.name, None)
        waits: dict[Known, int] = {}
        if group.state.stage != STABLE:
            waits = {known: group.staged for known in group.members if known.is_device}
        if group.state.stage == PREPARE:
            way = group.ways[-1]
            waits |= {self._picture.known[point.name]: group.changed for point in way.points}
            if way.backup and self.is_live(way.backup.name):
                waits[self._picture.known[way.backup.name]] = group.changed
        group.waits = {known: revision for known, revision in waits.items() if known.acked < revision}
        for known, revision in group.waits.items():
            known.awaiting[group] = revision
            self._awaited[known.name] = min(revision, self._awaited.get(known.name, revision))

    def _hear_acked(self, known: Known) -> None:
        """Let those go on that waited for this."""
        for group in [group for group, revision in known.awaiting.items() if revision <= known.acked]:
            del known.awaiting[group]
            del group.waits[known]
            if not group.waits:
                self._pending.add(group)
        if known.awaiting:
            self._awaited[known.name] = min(known.awaiting.values())
        else:
            self._awaited.pop(known.name, None)

    # --- what follows for a node ----------------------------------------------------------------------------

    def entry(self, node: str, key: Key) -> Entry | None:
        """Make what a node is to be told of a group as of now; None: nothing."""
        known, group = self._picture.known.get(node), self._picture.groups.get(key)
        if known is None or group is None:
            return None
        if isinstance(group, TenantsGroup):
            return tenants_entry(group, known)
        if known.is_point:
            return point_entry(group, node)
        return device_entry(group, known, self.settings.max_devices_per_group)

    def keys_of(self, node: str) -> Iterator[Key]:
        """List all groups of which the node is told something."""
        known = self._picture.known.get(node)
        if known is None or known.node is None:
            return iter(())
        if known.is_point:
            keys = [group.key for group in known.lists]
            tenants = [group.tenants for group in known.lists if group.tenants is not None]
            return chain(keys, *[each.keys for each in tenants if each.is_nested])
        groups = [group for shard in known.shards.values() for group in shard.groups]
        carried = [group.tenants.keys for group in groups if group.tenants is not None]
        return chain([group.key for group in groups if not isinstance(group, TenantsGroup)], *carried)

    def n_told(self, node: str) -> int:
        """Count the groups of which the node is told something, without what their tenants want."""
        known = self._picture.known.get(node)
        if known is None or known.node is None:
            return 0
        if known.is_point:
            return len(known.lists)
        groups = (group for shard in known.shards.values() for group in shard.groups)
        return sum(type(group) is Group for group in groups)

    def changed_at(self, node: str, key: Key) -> int:
        """Say since which store revision the node's entry is what it is, or a later one; 0: there is no such
        group."""
        group = self._picture.groups.get(key)
        if isinstance(group, TenantsGroup):  # or since the node is in the outer one
            return max(group.changed, group.outer.changed)
        return group.changed if group is not None else 0

    def ended(self, revision: int) -> Iterator[Key] | None:
        """List what tenants wanted at a revision and nobody wants now; None: that is not known any more."""
        return self._ended.since(revision)

    def groups_of(self, node: str) -> dict[Key, Networks]:
        """Gather a node's second information as it is stored."""
        known = self._picture.known.get(node)
        if known is None:
            return {}
        return {group.key: group.members[known] for s in known.shards.values() for group in s.groups}

    def vnis_of(self, point: str) -> Ranges:
        """List the VNIs that a point serves alone (CONFORMANCE R7), () for all."""
        return self._vnis.get(point, ())

    def served(self) -> Iterator[Served]:
        """List all groups, with who is in them and who serves them, and what tenants want."""
        for group in list(self._picture.groups.values()):
            if not group.members and group.mode is None:
                continue  # it is there for what its tenants want
            vnis = {vni for networks in group.carries for vni in networks.vnis}
            points = tuple(sorted(group.state.now))
            yield Served(group.key, tuple(group.addresses), points, tuple(sorted(vnis)), group.changed)

    # --- what is known --------------------------------------------------------------------------------------

    @property
    def n_groups(self) -> int:
        """Count the groups that somebody is in."""
        return self._picture.n_joined[False]

    @property
    def n_tenants(self) -> int:
        """Count what tenants want: each of their groups in a network, ANY and AWARE by itself."""
        return self._picture.n_joined[True]

    def n_devices(self, key: Key) -> int:
        """Count the devices of a group, those of which no more than that is known too."""
        group = self._picture.groups.get(key)
        return len(group.members) if group is not None else 0

    def state_of(self, key: Key) -> State:
        """Say how a group is served (CONFORMANCE M12)."""
        group = self._picture.groups.get(key)
        return group.state if group is not None else MESHED

    def is_live(self, node: str) -> bool:
        """Say whether a manager serves the node."""
        known = self._picture.known.get(node)
        return known is not None and known.live is not None

    def live_of(self, node: str) -> LiveAt | None:
        """Say who serves the node, and by which revision of its record."""
        known = self._picture.known.get(node)
        if known is None or known.live is None:
            return None
        return LiveAt(known.live, known.live_revision)

    def acked_of(self, node: str) -> int:
        """Say up to which store revision all is in force at the node, as far as it was written down."""
        known = self._picture.known.get(node)
        return known.acked if known is not None else 0

    def is_dead(self, point: str) -> bool:
        """Say whether a point is no candidate."""
        known = self._picture.known.get(point)
        return known is not None and known.dead_revision > 0

    def claimant(self, address: Address) -> str | None:
        """Say which node claims an address."""
        return self._picture.claims.get(address, (None, 0))[0]

    def shards_of(self, node: str) -> dict[int, int]:
        """List the shards of second information that a node has in the store, with their revisions."""
        known = self._picture.known.get(node)
        return {number: s.revision for number, s in known.shards.items()} if known is not None else {}

    def revision_of(self, store_key: str) -> int:
        """Say the revision of an item (for a `Write.when`), 0 where it is not there or could not be read."""
        return self._picture.revision_of(store_key)

    def warnings(self) -> list[str]:
        """Say what is odd about the fabric: expected is that there are fewer points than devices (M7)."""
        n_points = sum(1 for node in self.nodes.values() if node.role == "replicator")
        n_devices = len(self.nodes) - n_points
        if self.settings.mode != "mesh" and n_devices and n_points >= n_devices:
            return [f"fewer points than devices are expected: points={n_points} devices={n_devices}"]
        return []

    # --- changes of mode ------------------------------------------------------------------------------------

    def steps(self, at_most: int = 4096) -> list[Write]:
        """Take the modes that are due to be written now, not more than so many at once: what is written comes
        back by `apply`, and then there are more. Each is given once: it fails only if another manager was
        first, whose record then follows."""
        writes: list[Write] = []
        while self._pending and len(writes) < at_most:
            write = self._step(self._pending.pop())
            if write is not None:
                writes.append(write)
        return writes

    def awaited(self) -> Mapping[str, int]:
        """Say for whom a change of mode waits: until `acked/` of these nodes says at least this revision."""
        return self._awaited

    def _step(self, group: Group) -> Write | None:
        wanted = self._wanted(group)
        is_tree = any(len(p) > 1 and all(map(self._candidates.is_free, p)) for p in (wanted, group.state.now))
        due = next_mode(
            group.mode, group.state, wanted, group.n_devices, not group.waits, self.revision, is_tree
        )
        if due == group.mode:
            return None
        key = mode_key(group.key)
        return Write({key: due and encode_mode(due)}, {key: group.mode_revision})

    def _wanted(self, group: Group) -> Points:
        """Say by whom a group should be served."""
        settings = self.settings
        if settings.mode == "mesh":
            return ()
        if settings.mode == "auto":
            floor = settings.threshold - settings.hysteresis
            if group.n_devices < settings.threshold and (group.n_devices <= floor or not group.state.next):
                return ()
        carries = group.carries
        is_known = all(networks.vnis or networks.vsids for networks in carries)
        found = frozenset(n for networks in carries for numbers in networks for n in numbers)
        return self._candidates.choose(group.key, found if is_known else None)

    def _may_want(self, group: Group) -> bool:
        """Say, at once, whether a step of this group may be due."""
        if group.mode is not None:
            return True
        if isinstance(group, TenantsGroup):
            return False
        mode, settings = self.settings.mode, self.settings
        return mode == "point" or (mode == "auto" and group.n_devices >= settings.threshold)

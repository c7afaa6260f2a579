"""The store's items as one picture of nodes and groups, and what of it changed since somebody looked.

1. What is in the picture is a function of the items there are, in whatever order they came.
2. What cannot be read is not there, and is counted in `faults`. Nothing from the store raises.
3. Of what is found in a full list instead of followed, nobody knows since when it is so: since that list's
   revision, to be safe, as what was removed before is in no list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from ctrl.store.model import Changes, Item
from ctrl.topology import records
from ctrl.topology.entries import Group, Known, Shard, Tenants, TenantsGroup
from ctrl.topology.entry import Address, Key, Node, is_tenant, outer_of
from ctrl.topology.records import Damaged

LOOK, NETWORKS, MEMBERS = 0, 1, 2
"""What happened to a group: something that it hangs on, so somebody has to look; what its devices say that it
carries; who is in it, or their addresses."""


class Picture:
    """What is known. The second half of its attributes is for who looks, and emptied by them."""

    def __init__(self) -> None:
        self.known: dict[str, Known] = {}
        self.nodes: dict[str, Node] = {}
        self.groups: dict[Key, Group] = {}
        self.n_joined: Counter[bool] = Counter()
        """How many of them somebody is in; apart (True), how many somebody of the tenants wants."""
        self.claims: dict[Address, tuple[str, int]] = {}
        """Who claims an address, by a record of which revision."""
        self.faults: Counter[str] = Counter()

        self.touched: dict[Group, int] = {}
        self.told: dict[str, set[Key]] = {}
        """By node: groups that it joined or left."""
        self.changed: set[str] = set()
        """Nodes of whom something is known that was not."""
        self.acked: set[Known] = set()
        self.moved: list[bytes] = []
        self.are_points_changed = False
        self._listed_at: int | None = None
        self._takers: dict[str, Callable[[str, bytes | None, int], None]] = {
            records.NODE: self._take_node,
            records.ADDRESS: self._take_address,
            records.GROUPS: self._take_groups,
            records.LIVE: self._take_live,
            records.ACKED: self._take_acked,
            records.MODE: self._take_mode,
            records.DEAD: self._take_dead,
            records.MOVED: self._take_moved,
        }

    def take(self, changes: Changes) -> None:
        """Take what changed; what is not in a full list is gone."""
        self._listed_at = changes.revision if changes.is_all else None
        for item in changes.items:
            self._take(item)
        if changes.is_all:
            there = {item.key for item in changes.items}
            for key in [key for key in self._store_keys() if key not in there]:
                self._take(Item(key, None, changes.revision))
        self._listed_at = None

    def turn_back(self, revision: int) -> None:
        """Let nothing be newer than this: the store was put back to what it once was."""
        for group in self.groups.values():
            group.touched = min(group.touched, revision)
            group.changed = min(group.changed, revision)
            group.staged = min(group.staged, revision)

    def revision_of(self, store_key: str) -> int:
        """Say the revision of an item, 0 where it is not there or cannot be read."""
        try:
            kind, rest = records.split_key(store_key)
            if kind == records.GROUPS:
                name, number = records.split_shard(rest)
                shard = self.known[name].shards.get(number) if name in self.known else None
                return shard.revision if shard is not None else 0
            if kind == records.MODE:
                group = self.groups.get(records.decode_group(rest))
                return group.mode_revision if group is not None else 0
            if kind == records.ADDRESS:
                return self.claims.get(records.decode_address(rest), ("", 0))[1]
        except Damaged:
            return 0
        known = self.known.get(rest)
        if known is None:
            return 0
        return {
            records.NODE: known.node_revision,
            records.LIVE: known.live_revision,
            records.ACKED: known.acked_revision,
            records.DEAD: known.dead_revision,
        }.get(kind, 0)

    def drop_tenants(self, group: TenantsGroup) -> None:
        """Forget what nobody of the tenants wants any more."""
        del self.groups[group.key]
        tenants = group.outer.tenants
        if tenants is not None:
            del tenants.groups[group]
            if not tenants.groups:
                group.outer.tenants = None

    def drop_if_empty(self, name: str) -> None:
        """Forget a node of whom nothing is known."""
        known = self.known.get(name)
        if known is not None and known.is_nobody:
            del self.known[name]

    # --- one item -------------------------------------------------------------------------------------------

    def _take(self, item: Item) -> None:
        try:
            kind, rest = records.split_key(item.key)
            taker = self._takers[kind]
        except (Damaged, KeyError):
            self.faults["foreign"] += 1
            return
        try:
            taker(rest, item.value, item.revision)
        except Damaged:
            if item.value is not None:
                self.faults[kind] += 1
                self._take(Item(item.key, None, item.revision))

    def _is_old(self, held: int, revision: int) -> bool:
        """Say whether what is held is as new; a full list is the truth, whatever was held."""
        return self._listed_at is None and revision <= held

    def _at(self, name: str) -> Known:
        known = self.known.get(name)
        if known is None:
            known = self.known[name] = Known(name)
        return known

    def _in(self, key: Key, revision: int) -> Group:
        group = self.groups.get(key)
        if group is None:
            group = self.groups[key] = self._tenants_group(key, revision) if is_tenant(key) else Group(key)
        return group

    def _tenants_group(self, key: Key, revision: int) -> TenantsGroup:
        outer = self._in(outer_of(key), revision)
        group = TenantsGroup(key, outer)
        if outer.tenants is None:
            outer.tenants = Tenants()
            self._touch(outer, LOOK, revision)
        outer.tenants.groups[group] = None
        return group

    def _touch(self, group: Group, what: int, revision: int) -> None:
        self.touched[group] = self.touched.get(group, LOOK) | what
        group.touched = max(group.touched, self._listed_at or revision)

    def _take_node(self, name: str, value: bytes | None, revision: int) -> None:
        held = self.known.get(name)
        if held is not None and self._is_old(held.node_revision, revision):
            return
        node = records.decode_node(name, value) if value is not None else None
        if held is None and node is None:
            return
        known = self._at(name)
        was, was_device = known.node, known.is_device
        known.set_node(node, revision)
        if node is None:
            self.nodes.pop(name, None)
        else:
            self.nodes[name] = node
        if was != node:
            self.changed.add(name)
            self.are_points_changed |= _as_point(was) != _as_point(node)
        is_elsewhere = (was.address if was else b"") != (node.address if node else b"")
        for shard in known.shards.values():
            for group in shard.groups:
                group.n_devices += known.is_device - was_device
                if was_device != known.is_device:
                    told = self.told.setdefault(name, set())
                    told.add(group.key)
                    told.update(group.tenants.keys if group.tenants is not None else ())
                if was_device != known.is_device or is_elsewhere:
                    self._touch(group, MEMBERS, revision)
                elif group.mode is not None:
                    self._touch(group, LOOK, revision)

    def _take_groups(self, rest: str, value: bytes | None, revision: int) -> None:
        name, number = records.split_shard(rest)
        known = self.known.get(name)
        held = known.shards.get(number) if known is not None else None
        if held is not None and self._is_old(held.revision, revision):
            return
        found = records.decode_groups(value) if value is not None else {}
        if any(records.shard_of(key) != number for key in found):
            raise Damaged(f"store key groups/{rest}: holds groups of another shard")
        if held is None and not found:
            return
        known = self._at(name)
        before = held.groups if held is not None else ()
        groups = tuple([self._in(key, revision) for key in found])
        if found:
            known.shards[number] = Shard(revision, groups)
        else:
            known.shards.pop(number, None)
        told: list[Key] = []
        for group, networks in zip(groups, found.values(), strict=True):
            was = group.members.get(known)
            if was == networks:
                if group.mode is not None:
                    self._touch(group, LOOK, revision)
                continue
            group.members[known] = networks
            if was is None:
                self.n_joined[is_tenant(group.key)] += len(group.members) == 1
                group.n_devices += known.is_device
                told.append(group.key)
                if group.tenants is not None:
                    told += group.tenants.keys
            self._touch(group, MEMBERS if was is None else NETWORKS, revision)
        for group in set(before).difference(groups) if before else ():
            del group.members[known]
            self.n_joined[is_tenant(group.key)] -= not group.members
            group.n_devices -= known.is_device
            told.append(group.key)
            if group.tenants is not None:
                told += group.tenants.keys
            self._touch(group, MEMBERS, revision)
        if told:
            self.told.setdefault(name, set()).update(told)

    def _take_mode(self, rest: str, value: bytes | None, revision: int) -> None:
        key = records.decode_group(rest)
        held = self.groups.get(key)
        if held is not None and self._is_old(held.mode_revision, revision):
            return
        mode = records.decode_mode(value) if value is not None else None
        if held is None and mode is None:
            return
        group = self._in(key, revision)
        group.mode, group.mode_revision = mode, revision if mode else 0
        self._touch(group, LOOK, revision)

    def _take_live(self, name: str, value: bytes | None, revision: int) -> None:
        held = self.known.get(name)
        if held is not None and self._is_old(held.live_revision, revision):
            return
        live = records.decode_live(value) if value is not None else None
        if held is None and live is None:
            return
        known = self._at(name)
        is_other = (known.live is None) != (live is None)
        known.live, known.live_revision = live, revision if live else 0
        self.changed.add(name)
        for group in known.lists if is_other else ():
            if group.waits:
                self._touch(group, LOOK, revision)

    def _take_acked(self, name: str, value: bytes | None, revision: int) -> None:
        held = self.known.get(name)
        if held is not None and self._is_old(held.acked_revision, revision):
            return
        acked = records.decode_number(value) if value is not None else 0
        if held is None and value is None:
            return
        known = self._at(name)
        known.acked, known.acked_revision = acked, revision if value is not None else 0
        self.acked.add(known)
        self.changed.add(name)

    def _take_dead(self, name: str, value: bytes | None, revision: int) -> None:
        held = self.known.get(name)
        if held is not None and self._is_old(held.dead_revision, revision):
            return
        if held is None and value is None:
            return
        known = self._at(name)
        self.are_points_changed |= (known.dead_revision > 0) != (value is not None)
        known.dead_revision = revision if value is not None else 0
        self.changed.add(name)

    def _take_address(self, rest: str, value: bytes | None, revision: int) -> None:
        address = records.decode_address(rest)
        if self._is_old(self.claims.get(address, ("", 0))[1], revision):
            return
        if value is None:
            self.claims.pop(address, None)
        else:
            self.claims[address] = (records.decode_name(value), revision)

    def _take_moved(self, rest: str, value: bytes | None, revision: int) -> None:
        """Hand it on: nothing is remembered of it, so of those in a full list none is new."""
        if value is not None and self._listed_at is None:
            records.decode_moved(value)
            self.moved.append(value)

    def _store_keys(self) -> list[str]:
        """List the store's keys of all that is known."""
        keys = [records.address_key(address) for address in self.claims]
        keys += [records.mode_key(group.key) for group in self.groups.values() if group.mode is not None]
        for name, known in self.known.items():
            keys += [records.groups_key(name, number) for number in known.shards]
            if known.node_revision:
                keys.append(records.node_key(name))
            if known.live_revision:
                keys.append(records.live_key(name))
            if known.acked_revision:
                keys.append(records.acked_key(name))
            if known.dead_revision:
                keys.append(records.dead_key(name))
        return keys


def _as_point(node: Node | None) -> tuple[object, ...]:
    """Say what of a node matters to those whom it serves, nothing of a device."""
    return (node.address, node.replicate, node.vnis) if node and node.role == "replicator" else ()

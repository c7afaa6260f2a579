"""From layout and replication lists to the FIB of the data path.

1. A `Compiler` numbers owners, egresses and lists, and keeps the numbers from one FIB to the next: an egress
   that many lists share stands in memory once, and its counters go on across changes.
2. The number of a list is the place where its frames are counted. There are as many places as lists stood at
   once: NVEs may join and leave groups for ever. A list that is removed gives its place back, the next change
   may use it, and whoever publishes that empties it first (`reused`): the FIB before no longer names it.
3. Egresses and owners are not given back. They are of ports, peers and NVEs, not of groups: there are as many
   as the config and the kernel have ever named. An egress that no list has, but a station, is `exchange`d.
4. Ten thousand joins may be one change, so a list costs microseconds, and an egress is best known by what it
   is in Python: the same object is the same egress, without a look at its fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, NamedTuple

from fastpath._fib import Fib
from fastpath._layout import LayoutTable
from fastpath.encap import needs_next_hop, pack_egress
from fastpath.model import (
    Egress,
    Encap,
    GroupKey,
    IPAddress,
    KeyKind,
    Layout,
    Owner,
    Port,
    ReplicationList,
)

if TYPE_CHECKING:
    from fastpath.columns import Columns

Words = tuple[int, int, int, int, int]
NextHops = Mapping[tuple[int, IPAddress], bytes | None]
"""(out port, address) -> MAC of the next hop by which it is reached from there; None: not known."""
PORTS_MAX = 256
OUTER_GROUP_KINDS = (KeyKind.GROUP, KeyKind.SOURCE_GROUP)


def address_words(address: IPAddress | None) -> tuple[int, int]:
    """An address as two 64-bit words, IPv4 mapped into ::ffff:0:0/96; None is zero.

    ValueError for an IPv6 address that lies there itself.
    """
    if address is None:
        return 0, 0
    if type(address) is IPv4Address:
        return 0, 0xFFFF00000000 | int(address)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        raise ValueError(f"{address}: an IPv4 address in IPv6 clothes; say {address.ipv4_mapped}")
    value = int(address) | (0xFFFF << 32 if address.version == 4 else 0)
    return value >> 64, value & 0xFFFFFFFFFFFFFFFF


def key_words(key: GroupKey) -> Words:
    """A group key as the five words the data path looks up."""
    group, source = address_words(key.group), address_words(key.source)
    return (*group, *source, int(key.kind) << 48 | int(key.scope) << 40 | int(key.encap) << 32 | key.vni)


def egress_order(egress: Egress) -> tuple[int, int, int, int, int, int]:
    """The order of a list's segment: neighbours on one port and of one form leave in one request."""
    owner = egress.owner
    address = (0, 0, 0) if owner.address is None else (owner.address.version, *address_words(owner.address))
    return (egress.out_port, egress.form, -1 if owner.port is None else owner.port, *address)


class _Known(NamedTuple):
    """An egress with its number; sorts as the egresses of a segment do."""

    order: tuple[int, int, int, int, int, int]
    egress_id: int
    owner: int


class Compiler:
    """Makes the FIBs of one layout, each from the one before. `fib` is the newest."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        # the data path takes a port's place for the number of its owner
        self._owners: dict[Owner, int] = {Owner(port=i): i for i in range(PORTS_MAX)}
        self._egress_ids: dict[Egress, int] = {}
        # by id() of the object, which `_egresses` keeps alive
        self._known: dict[int, _Known] = {}
        self._egresses: list[Egress] = []
        self._fresh: dict[int, bytes] = {}
        self._next_hops: NextHops = {}
        self._egresses_to: dict[tuple[int, IPAddress], list[int]] = {}
        self._exchangeable: set[int] = set()
        self._lists: dict[Words, tuple[GroupKey, int]] = {}
        self._spare_places: list[int] = []
        self.n_places = 0
        """Places where lists are counted: 1 to this; 0 is for those that are not counted singly."""
        self.reused: Sequence[int] = ()
        """The places that the newest FIB gives to other lists than those before counted there."""
        self._classes: dict[object, int] = {}
        self._table = LayoutTable(layout, self._sender_id)
        self._numbers = _numbers_by_group(layout)
        self.fib = Fib.empty(self._table)

    @property
    def list_places(self) -> Iterable[tuple[GroupKey, int]]:
        """Each list, those from columns aside, and the place where its frames are counted."""
        return self._lists.values()

    @property
    def egresses(self) -> Sequence[Egress]:
        """All egresses by their id."""
        return self._egresses

    def _sender_id(self, port: int | None, address: IPAddress) -> int:
        return self._owner_id(Owner(port, address))

    def _owner_id(self, owner: Owner) -> int:
        return self._owners.setdefault(owner, len(self._owners))

    def egress_id(self, egress: Egress) -> int:
        """The number of an egress, given on first sight; its header is built then (ValueError where it
        cannot be)."""
        known = self._egress_ids.get(egress)
        if known is not None:
            self._exchangeable.discard(known)
            return known
        new = len(self._egresses)
        self._pack(new, egress)
        self._egresses.append(egress)
        self._enter(new, egress)
        return new

    def _enter(self, egress_id: int, egress: Egress) -> None:
        self._egress_ids[egress] = egress_id
        if egress.address is not None and needs_next_hop(egress):
            self._egresses_to.setdefault((egress.out_port, egress.address), []).append(egress_id)

    def exchange(self, old: Egress | None, egress: Egress) -> tuple[int, bool]:
        """The number of an egress, which takes the place of an `old` one that was given here, too.

        True: it has the number of the old one, and is to count from 0 (`Engine.set_stations`). That is so
        unless a list has, or had, one of the two.
        """
        if egress in self._egress_ids:
            return self._egress_ids[egress], False
        if old is None or self._egress_ids[old] not in self._exchangeable:
            new = self.egress_id(egress)
            self._exchangeable.add(new)
            return new, False
        own = self._egress_ids[old]
        self._pack(own, egress)
        del self._egress_ids[old]
        if old.address is not None and needs_next_hop(old):
            place = old.out_port, old.address
            self._egresses_to[place].remove(own)
            if not self._egresses_to[place]:
                del self._egresses_to[place]
        self._egresses[own] = egress
        self._enter(own, egress)
        return own, True

    def _pack(self, egress_id: int, egress: Egress) -> None:
        """Build the header of an egress, for the next FIB."""
        port = self.layout.ports[egress.out_port]
        if egress.address is not None and (egress.out_port, egress.address) in self._next_hops:
            port = replace(port, next_hop_mac=self._next_hops[egress.out_port, egress.address])
        self._fresh[egress_id] = pack_egress(
            egress, self._owner_id(egress.owner), self._classes, port, self.layout
        )

    def resolve(self, next_hops: NextHops) -> Fib:
        """The next FIB: unicast copies by a port to an address go to this MAC; None: it is not known.

        To all that are not among them, copies go to the port's own `next_hop_mac` again.
        """
        self._set_next_hops(next_hops)
        return self.change(())

    def _set_next_hops(self, next_hops: NextHops) -> None:
        old, self._next_hops = self._next_hops, dict(next_hops)
        for place in {*old, *next_hops}:
            if place not in old or place not in next_hops or old[place] != next_hops[place]:
                for egress_id in self._egresses_to.get(place, ()):
                    self._pack(egress_id, self._egresses[egress_id])

    def relayout(
        self,
        layout: Layout,
        lists: Iterable[ReplicationList],
        removed: Iterable[GroupKey] = (),
        next_hops: NextHops | None = None,
    ) -> Fib:
        """The next FIB, for another layout of as many ports or more; `next_hops` as in `resolve`, None leaves
        them.

        Headers are built anew where their port changed. `lists` are those to set; where a group's networks
        changed, its list must be among them.
        """
        old, self.layout = self.layout, layout
        if len(layout.ports) < len(old.ports):
            self.layout = old
            raise ValueError(
                f"{len(layout.ports)} ports: there were {len(old.ports)}, and places do not go away"
            )
        self._table = LayoutTable(layout, self._sender_id)
        self._numbers = _numbers_by_group(layout)
        changed = {i for i, port in enumerate(old.ports) if _in_heads(layout.ports[i]) != _in_heads(port)}
        if layout.vxlan_ports[0] != old.vxlan_ports[0]:
            changed = set(range(len(old.ports)))
        for egress_id, egress in enumerate(self._egresses):
            if egress.out_port in changed:
                self._pack(egress_id, egress)
        if next_hops is not None:
            self._set_next_hops(next_hops)
        return self.change(lists, removed)

    def _of(self, egress: Egress) -> _Known:
        known = self._known.get(id(egress))
        if known is None:
            new = self.egress_id(egress)
            # whoever plans lists keeps the objects of the last time, if any
            known = self._known.pop(id(self._egresses[new]), None)
            if known is None:
                known = _Known(egress_order(egress), new, self._owner_id(egress.owner))
            self._egresses[new] = egress
            self._known[id(egress)] = known
        return known

    def _segments(self, one: ReplicationList) -> tuple[list[int], list[int]]:
        """The egress ids of a list, segments in `egress_order`; ValueError where an owner stands twice."""
        local, remote = sorted(map(self._of, one.local)), sorted(map(self._of, one.remote))
        if len({egress.owner for egress in (*local, *remote)}) != len(local) + len(remote):
            owners = [egress.owner for egress in (*one.local, *one.remote)]
            twice = next(owner for owner in owners if owners.count(owner) > 1)
            raise ValueError(f"{one.key}: {twice} stands in the list twice, and would get each frame twice")
        return [egress.egress_id for egress in local], [egress.egress_id for egress in remote]

    def change(self, lists: Iterable[ReplicationList], removed: Iterable[GroupKey] = ()) -> Fib:
        """The next FIB: `removed` keys gone, `lists` set, all others shared with the FIB before.

        Costs microseconds a list, whatever the size of the FIB.
        """
        lists = tuple(lists)  # so that an id() is of one object as long as this takes
        gone = [key_words(key) for key in removed]
        changes: list[tuple[Words, None] | tuple[Words, list[int], list[int], list[int], int]]
        changes = [(words, None) for words in gone]
        segments: dict[tuple[int, ...], tuple[list[int], list[int]]] = {}
        places: dict[Words, tuple[GroupKey, int]] = {}
        n_spare, n_places = len(self._spare_places), self.n_places
        for one in lists:
            objects = (len(one.local), *map(id, one.local), *map(id, one.remote))
            ids = segments.get(objects)
            if ids is None:
                ids = segments[objects] = self._segments(one)
            key = one.key
            words = key_words(key)
            place = places.get(words) or self._lists.get(words)
            if place is None and n_spare:
                n_spare -= 1
                place = key, self._spare_places[n_spare]
            elif place is None:
                n_places += 1
                place = key, n_places
            places[words] = place
            is_outer = self._numbers and key.kind in OUTER_GROUP_KINDS
            numbers = self._numbers.get(key.group, []) if is_outer else []
            changes.append((words, *ids, numbers, place[1]))
        self.fib = self.fib.with_changes(self._table, self._fresh, changes)
        self._fresh = {}
        self.n_places, self.reused = n_places, self._spare_places[n_spare:]
        del self._spare_places[n_spare:]
        self._lists |= places
        for words in gone:
            if words not in places and words in self._lists:
                self._spare_places.append(self._lists.pop(words)[1])
        return self.fib

    def fill(self, columns: Columns) -> Fib:
        """The first FIB from columns, a million lists a second; ValueError where the FIB is not empty, a
        key stands twice, or the columns contradict each other."""
        from fastpath.columns import arranged  # noqa: PLC0415  takes numpy, which nobody else here does

        ids = [self.egress_id(egress) for egress in columns.egresses]
        arrays = arranged(columns, ids, self._numbers)
        self.fib = self.fib.with_columns(self._table, self._fresh, *arrays)
        self._fresh = {}
        return self.fib


def _in_heads(port: Port) -> Port:
    """What of a port stands in the headers of its copies."""
    return replace(port, mtu=0, is_up=True)


def _numbers_by_group(layout: Layout) -> dict[IPAddress | None, list[int]]:
    """Outer group -> the networks that may use it, as encap << 24 | number, ascending."""
    out: dict[IPAddress | None, set[int]] = {}
    for network in layout.networks:
        for group in network.groups():
            for encap in (Encap.VXLAN, Encap.NVGRE):
                number = network.number(encap)
                if number is not None:
                    out.setdefault(group, set()).add(encap << 24 | number)
    return {group: sorted(numbers) for group, numbers in out.items()}

"""Tenants' IGMP and MLD on their way through a device or a point: in the bytes that the data path would have
copied, by its own rules (`fastpath.reference`).

Takes long to import: comes when the first tenant speaks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address

from ctrl import planner
from fastpath.compiler import NextHops
from fastpath.model import (
    Egress,
    Faces,
    Form,
    Frame,
    GroupKey,
    IPAddress,
    Layout,
    Network,
    Owner,
    Port,
    ReplicationList,
    Scope,
    group_key,
)
from fastpath.reference.copies import Copier, settle
from fastpath.reference.lookup import Found, Lookup, check_ecn
from fastpath.reference.parse import parse, raw_frame
from fastpath.reference.trail import Parsed, SourceClass, Trail
from fastpath.reference.wire import CopyDrop, Drop

__all__ = ["Came", "CopyDrop", "Drop", "TenantCopies"]

_NOBODYS = {4: ip_address("224.0.0.1"), 6: ip_address("ff02::1")}
"""What a packet of ours is to that no group carries: each copy of it has an address of its own."""


@dataclass(frozen=True, slots=True)
class Came:
    """A tenant's frame that came, and who would have got copies of it, had the data path made them."""

    frame: Parsed
    """Set right, as what is copied is."""
    local: Mapping[Owner, Egress]
    """Of a point: all of them."""
    remote: tuple[Egress, ...]
    owners: frozenset[Owner]
    """Whose it is."""
    is_remote: bool
    """It came by a tunnel, and goes into none."""

    @property
    def inner(self) -> bytes:
        """The tenant's own Ethernet frame."""
        return self.frame.inner_frame()

    @property
    def outer(self) -> IPAddress | None:
        """The group that carries it; None where it came to our own address by number."""
        tunnel = self.frame.tunnel
        return tunnel.destination if tunnel is not None and tunnel.destination.is_multicast else None


class TenantCopies:
    """Makes copies in one scope, by these lists and this layout; `address` is ours. `counted`: how many IPv4
    headers each egress has got."""

    def __init__(
        self,
        scope: Scope,
        address: IPAddress | None,
        lists: Mapping[GroupKey, ReplicationList],
        layout: Layout,
        hops: NextHops,
        counted: Counter[Egress],
    ) -> None:
        self._scope = scope
        self._address = address
        # the data path has verified what it punted
        self._layout = replace(layout, verify_checksums=False)
        self._lookup = Lookup(self._layout, lists)
        self._copier = Copier(layout, hops)
        self._copier.identifications = counted
        self._nowhere = Port("", Faces.CORE, bytes(6), None)
        self._maker = Copier(replace(layout, ports=(self._nowhere,)), {})
        self._made: tuple[tuple[str, bytes, IPAddress], Parsed] | None = None
        """What was made last: of one query there are many copies."""

    def came(self, in_port: int, data: bytes) -> Came:
        """Look up a punted frame; Drop where it would have been dropped, were it data."""
        lookup, trail = self._lookup, Trail()
        frame = parse(Frame(data), self._layout.ports[in_port], self._layout)
        if frame is None or lookup.scope_of(in_port, frame) is not self._scope:
            raise Drop("not_ours")
        source_class = lookup.source_class(in_port, frame, self._scope)
        found = lookup.list_of(in_port, frame, self._scope, trail)
        lookup.check_member(in_port, frame, self._scope, source_class, found)
        check_ecn(frame, self._scope)
        owners = lookup.owners(in_port, frame, self._scope, source_class)
        is_remote = source_class is SourceClass.REMOTE
        remote = () if is_remote else tuple(one for one in found.remote if one.owner not in owners)
        local = [one for one in found.local if one.owner not in owners]
        if self._scope is Scope.REPLICATOR:
            local, remote = [*local, *remote], ()
        return Came(
            settle(frame, Found(self._scope, found.key, (), trail.recovered), self._layout),
            {one.owner: one for one in local},
            remote,
            owners,
            is_remote,
        )

    def own(self, network: Network, data: bytes, ways: Mapping[GroupKey, Egress]) -> tuple[Parsed, Egress]:
        """Make a frame of ours a packet to a group of the network, and say by which of the lists (`ways`) it
        leaves; CopyDrop where no packet can be made of it."""
        inner = raw_frame(data, replace(self._nowhere, network=network.name), self._layout)
        packet = inner.inner_packet
        outer = network.group if packet is None else planner.outer_group(network, packet.destination)
        key, egress = next(iter(ways.items()))
        if outer is not None:
            preferred = group_key(self._scope, outer)
            key, egress = (preferred, ways[preferred]) if preferred in ways else (key, egress)
        if self._address is None:
            raise CopyDrop("no_header")
        to = key.group or _NOBODYS[self._address.version]
        name = network.name, data, to
        if self._made is None or self._made[0] != name:
            form = Egress(0, Form.REWRITE, Owner(), to, self._address, network.encap)
            self._maker.identifications.clear()  # in order that equal frames are equal packets
            made = parse(Frame(self._maker.copy(inner, form)), self._nowhere, self._layout)
            if made is None:
                raise CopyDrop("no_header")
            self._made = name, made
        return self._made[1], egress

    def copy(self, frame: Parsed, egress: Egress) -> bytes:
        """Make one copy, or CopyDrop."""
        return self._copier.copy(frame, egress)

"""Section 2 of `src_cython/fastpath/README.md`: whose frame it is, which list it takes, who gets no copy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from fastpath.model import (
    Egress,
    Encap,
    Endpoint,
    Faces,
    Form,
    GroupKey,
    IPAddress,
    KeyKind,
    Layout,
    LocalNve,
    Network,
    Owner,
    Peer,
    ReplicationList,
    Scope,
    group_key,
    vni_key,
)
from fastpath.reference.parse import network_behind
from fastpath.reference.snooping import Snooping, any_group_key, inner_keys
from fastpath.reference.stations import MacTable, Stations
from fastpath.reference.trail import Packet, Parsed, SourceClass, Trail
from fastpath.reference.wire import CE, Drop


@dataclass(frozen=True, slots=True)
class Found:
    """What rule 2 decided about a frame."""

    scope: Scope
    key: GroupKey | None
    """None: a station took its place (rule 6.1)."""
    egresses: tuple[Egress, ...]
    recovered: IPAddress | None
    """The group that becomes the packet's destination (rule 2.5)."""


def egress_order(egress: Egress) -> tuple[int, int, int, int, int]:
    """Sort key of the egresses of one segment (section 4): out port, form, owner's port, owner's address."""
    owner = egress.owner
    port = -1 if owner.port is None else owner.port
    version, address = (0, 0) if owner.address is None else (owner.address.version, int(owner.address))
    return (egress.out_port, egress.form, port, version, address)


def networks_with(layout: Layout, encap: Encap, number: int) -> list[Network]:
    """The networks that have this number in this encapsulation, in the layout's order."""
    return [n for n in layout.networks if n.number(encap) == number]


def traffic_class(data: bytes, start: int) -> int:
    """TOS of an IPv4 header, traffic class of an IPv6 header."""
    if data[start] >> 4 == 4:
        return data[start + 1]
    return (data[start] & 0x0F) << 4 | data[start + 1] >> 4


def ecn_of(data: bytes, start: int) -> int:
    """The ECN field of an IP header (RFC 3168 section 5)."""
    return traffic_class(data, start) & 3


def decapsulated_ecn(outside: int, inside: int) -> int | None:
    """RFC 6040 section 4.2: the ECN field that goes on; None where the packet must be dropped."""
    not_ect, ect1, ect0, ce = 0, 1, 2, CE
    if inside == not_ect:
        return None if outside == ce else not_ect
    if outside == ce:
        return ce
    if inside == ect0 and outside == ect1:
        return ect1
    return inside


class Lookup:
    """The lists, and what rule 2 asks of the layout."""

    def __init__(
        self, layout: Layout, lists: Mapping[GroupKey, ReplicationList], macs: MacTable | None = None
    ) -> None:
        self.layout = layout
        self.lists = lists
        self.stations = Stations(layout, macs)
        self.snooping = Snooping(layout)
        self.endpoints = {e.address: e for e in layout.endpoints}
        self.peers = frozenset(layout.peers)
        self.nves = frozenset(layout.nves)

    def find(self, in_port: int, frame: Parsed, trail: Trail, now_ns: int = 0) -> Found | None:
        """Apply rule 2 to a sound frame, rule 6 where there is a MAC table, and rule 8; None is PUNT."""
        scope = trail.scope = self.scope_of(in_port, frame)
        self.refuse_own(frame, scope)
        source_class = trail.source_class = self.source_class(in_port, frame, scope)
        self.refuse_strangers(in_port, frame, scope)
        self.refuse_other_points(frame, scope)
        domain = self.stations.domain(in_port, frame) if scope is Scope.NVE else None
        if self.snooping.is_for_control(in_port, frame):
            self.check_networks(frame, scope)
            trail.snooped = True
            self.learn(in_port, frame, domain, trail, now_ns)
            return None
        by_mac = domain is not None and not frame.data[frame.inner] & 1
        if domain is not None and by_mac:
            found = trail.found = self.list_of_station(frame, domain, trail)
        else:
            found = trail.found = self.list_of(in_port, frame, scope, trail)
        self.check_networks(frame, scope)
        self.check_member(in_port, frame, scope, source_class, found)
        check_ecn(frame, scope)
        owners = trail.owners = self.owners(in_port, frame, scope, source_class)
        self.learn(in_port, frame, domain, trail, now_ns)
        self.narrow(in_port, frame, scope, by_mac, found, trail)
        egresses = tuple(e for e in receivers(found, trail) if e.owner not in owners)
        if not egresses:
            by_any_group = trail.unregistered and trail.refined is not None
            raise Drop("unregistered_group" if by_any_group else "no_receiver")
        trail.unknown_unicast = by_mac and trail.station is None
        key = (trail.refined or found).key if trail.station is None else None
        return Found(scope, key, egresses, trail.recovered)

    def narrow(
        self, in_port: int, frame: Parsed, scope: Scope, by_mac: bool, found: ReplicationList, trail: Trail
    ) -> None:
        """Rules 8.2 and 8.3: the trail gets what takes the place of the list that was found."""
        if scope is not Scope.NVE:
            trail.refined = self.first(inner_keys(frame, scope), trail.refining)
        if trail.refined is not None or by_mac or not self.snooping.is_unregistered(in_port, frame, found):
            return
        trail.unregistered = True
        trail.refined = self.first((any_group_key(frame, scope),), trail.refining)
        if trail.refined is None and trail.source_class is not SourceClass.LOCAL:
            raise Drop("unregistered_group")

    def learn(self, in_port: int, frame: Parsed, domain: int | None, trail: Trail, now_ns: int) -> None:
        """Rules 6.2 to 6.4, for a frame that teaches."""
        if domain is not None:
            trail.lesson = self.stations.hear(in_port, frame, domain, now_ns)

    def endpoint_of(self, frame: Parsed) -> Endpoint | None:
        """The endpoint that the outermost packet is addressed to; None for groups and RAW frames."""
        return None if frame.outer is None else self.endpoints.get(frame.outer.destination)

    def refuse_own(self, frame: Parsed, scope: Scope) -> None:
        """Rule 2.1."""
        own = None if frame.outer is None else self.endpoints.get(frame.outer.source)
        if own is not None and (own.scope is not Scope.NVE or scope is Scope.NVE):
            raise Drop("own_source")

    def scope_of(self, in_port: int, frame: Parsed) -> Scope:
        """Section 2, *Scope*."""
        endpoint = self.endpoint_of(frame)
        if endpoint is not None:
            return endpoint.scope
        if frame.encap is Encap.RAW:
            return Scope.NVE
        port = self.layout.ports[in_port]
        if port.group_scope is not None:
            return port.group_scope
        we_are_nve = any(e.scope is Scope.NVE for e in self.layout.endpoints)
        return Scope.NVE if we_are_nve and port.faces == Faces.CORE else Scope.DEVICE

    def is_peer(self, frame: Parsed, scope: Scope) -> bool:
        """Whether the sender is a peer of this scope."""
        return frame.outer is not None and Peer(scope, frame.outer.source) in self.peers

    def is_local_nve(self, in_port: int, frame: Parsed) -> bool:
        """Whether the sender is an NVE that this port serves by unicast."""
        return frame.outer is not None and LocalNve(in_port, frame.outer.source) in self.nves

    def is_allowed_from(self, frame: Parsed, scope: Scope) -> bool:
        """Whether an `allow_from` row of this scope covers the sender."""
        if frame.outer is None:
            return False
        source = frame.outer.source
        return any(row.scope is scope and source in row.prefix for row in self.layout.allow_from)

    def source_class(self, in_port: int, frame: Parsed, scope: Scope) -> SourceClass:
        """Rule 2.2: the class comes from the port, whatever the header claims (CONFORMANCE D12, W7)."""
        if scope is Scope.NVE:
            return SourceClass.LOCAL if frame.encap is Encap.RAW else SourceClass.REMOTE
        endpoint = self.endpoint_of(frame)
        if endpoint is not None and endpoint.replicate:
            return SourceClass.ALL
        faces = self.layout.ports[in_port].faces
        if faces == Faces.NVE:
            return SourceClass.LOCAL
        if faces == Faces.CORE or self.is_peer(frame, scope):
            return SourceClass.REMOTE
        return SourceClass.LOCAL

    def refuse_strangers(self, in_port: int, frame: Parsed, scope: Scope) -> None:
        """Rule 2.3: who may send to our addresses."""
        if self.endpoint_of(frame) is None:
            return
        if scope is Scope.NVE and not any(row.scope is Scope.NVE for row in self.layout.allow_from):
            return
        if self.is_peer(frame, scope) or self.is_allowed_from(frame, scope):
            return
        if scope is Scope.DEVICE and self.is_local_nve(in_port, frame):
            return
        raise Drop("unknown_peer")

    def refuse_other_points(self, frame: Parsed, scope: Scope) -> None:
        """Rule 2.4 (CONFORMANCE R7)."""
        ranges = self.layout.point_vnis
        if scope is not Scope.REPLICATOR or not ranges:
            return
        if not any(low <= frame.number <= high for low, high in ranges):
            raise Drop("wrong_point")

    def list_of(self, in_port: int, frame: Parsed, scope: Scope, trail: Trail) -> ReplicationList:
        """Rule 2.5: the most specific list; the trail has the group where it had to be recovered."""
        tunnel = frame.tunnel
        number = self.number_key(frame, scope)
        if scope is Scope.NVE or tunnel is None:
            keys = (*inner_keys(frame, scope), *self.map_key(in_port, frame), number)
            found, reason = self.first(keys, trail.tried), "unknown_vni"
        elif tunnel.destination.is_multicast:
            keys = outer_keys(scope, tunnel, tunnel.destination)
            found, reason = self.first(keys, trail.tried), "unknown_group"
        else:
            found, reason = self.first((number,), trail.tried), "unknown_group"
            if found is None:
                group = trail.recovered = self.recover_group(frame, tunnel)
                found = self.first(outer_keys(scope, tunnel, group), trail.tried)
        if found is None:
            raise Drop(reason)
        return found

    def list_of_station(self, frame: Parsed, domain: int, trail: Trail) -> ReplicationList:
        """Rule 6.1: that of the station that has the inner destination; of unknown unicast that by number."""
        key = self.number_key(frame, Scope.NVE)
        station = trail.station = self.stations.find(domain, frame.inner_frame()[:6])
        if station is not None:
            is_local = station.form is Form.DECAPSULATED
            return ReplicationList(key, (station,), ()) if is_local else ReplicationList(key, (), (station,))
        found = self.first((key,), trail.tried)
        if found is None:
            raise Drop("unknown_vni")
        return found

    def first(self, keys: Iterable[GroupKey], tried: list[GroupKey]) -> ReplicationList | None:
        """The list of the first key that has one."""
        for key in keys:
            tried.append(key)
            if key in self.lists:
                return self.lists[key]
        return None

    def map_key(self, in_port: int, frame: Parsed) -> Iterator[GroupKey]:
        """Rule 2.5, of RAW frames: (group of the longest map, encap, number) (CONFORMANCE N9)."""
        packet = frame.inner_packet
        if frame.encap is not Encap.RAW or packet is None or not packet.destination.is_multicast:
            return
        network = network_behind(self.layout.ports[in_port], self.layout)
        group = mapped_group(network, packet.destination)
        if group is not None:
            yield GroupKey(Scope.NVE, KeyKind.GROUP, group, None, frame.number_encap, frame.number)

    def number_key(self, frame: Parsed, scope: Scope) -> GroupKey:
        """Rule 2.5: (encap, number)."""
        return vni_key(scope, frame.number_encap, frame.number)

    def recover_group(self, frame: Parsed, tunnel: Packet) -> IPAddress:
        """Rule 2.5, last part (CONFORMANCE D14): the one group that this frame can belong to."""
        networks = networks_with(self.layout, frame.encap, frame.number)
        if not networks:
            raise Drop("unknown_vni")
        groups = {group_in(network, frame) for network in networks} - {None}
        if len(groups) != 1:
            raise Drop("ambiguous_group")
        group = groups.pop()
        if group is None or group.version != tunnel.version:
            raise Drop("ambiguous_group")
        return group

    def check_networks(self, frame: Parsed, scope: Scope) -> None:
        """Rule 2.6: the number belongs to a network of the group, where networks know either."""
        tunnel = frame.tunnel
        if tunnel is None or not tunnel.destination.is_multicast:
            return
        group = tunnel.destination
        with_number = networks_with(self.layout, frame.encap, frame.number)
        with_group = [n for n in self.layout.networks if group in n.groups()]
        if scope is not Scope.NVE and not with_number and not with_group:
            return
        if not any(n in with_group for n in with_number):
            raise Drop("wrong_group")

    def check_member(
        self, in_port: int, frame: Parsed, scope: Scope, source_class: SourceClass, found: ReplicationList
    ) -> None:
        """Rule 2.7 (CONFORMANCE R6, D15)."""
        if frame.outer is None:
            return
        sender = frame.outer.source
        if scope is Scope.REPLICATOR:
            members = {e.owner for e in (*found.remote, *found.local)}
            if Owner(address=sender) not in members and not self.is_allowed_from(frame, scope):
                raise Drop("unknown_peer")
        if self.layout.strict_members and scope is Scope.DEVICE and source_class is SourceClass.LOCAL:
            members = {e.owner for e in found.local}
            of_nve = self.is_local_nve(in_port, frame) and Owner(in_port, sender) in members
            if Owner(in_port) not in members and not of_nve:
                raise Drop("not_a_member")

    def owners(
        self, in_port: int, frame: Parsed, scope: Scope, source_class: SourceClass
    ) -> frozenset[Owner]:
        """Rule 2.9: the owners of a frame, who get no copy of it."""
        owners = {Owner(in_port)}
        if frame.outer is not None:
            if source_class is not SourceClass.REMOTE and self.is_local_nve(in_port, frame):
                owners.add(Owner(in_port, frame.outer.source))
            elif self.is_peer(frame, scope):
                owners.add(Owner(address=frame.outer.source))
        return frozenset(owners)


def receivers(found: ReplicationList, trail: Trail) -> list[Egress]:
    """Rule 2.2: what the class has of a list, or of that in its place, in order; 8.3 may spare the local."""
    one = trail.refined or found
    up_alone = trail.unregistered and trail.refined is None
    egresses = [] if up_alone else sorted(one.local, key=egress_order)
    if trail.source_class is not SourceClass.REMOTE:
        egresses += sorted(one.remote, key=egress_order)
    return egresses


def outer_keys(scope: Scope, tunnel: Packet, group: IPAddress) -> tuple[GroupKey, GroupKey]:
    """Rule 2.5: outer (S,G), then outer G."""
    return group_key(scope, group, tunnel.source), group_key(scope, group)


def group_in(network: Network, frame: Parsed) -> IPAddress | None:
    """Rule 2.5: the group of this network's frame: the longest prefix of its maps, else its own."""
    packet = frame.inner_packet
    group = None if packet is None else mapped_group(network, packet.destination)
    return network.group if group is None else group


def mapped_group(network: Network, destination: IPAddress) -> IPAddress | None:
    """The group of the longest prefix of a network's maps that holds an inner destination."""
    maps = [m for m in network.maps if destination in m.inner]
    return max(maps, key=lambda m: m.inner.prefixlen).group if maps else None


def tunnel_ecn(frame: Parsed, tunnel: Packet) -> int | None:
    """The ECN field of the tunnel packet once the nested tunnel around it, if any, is gone."""
    own = ecn_of(frame.data, tunnel.start)
    if not frame.nested or frame.outer is None:
        return own
    return decapsulated_ecn(ecn_of(frame.data, frame.outer.start), own)


def inner_ecn(frame: Parsed, outside: int) -> int | None:
    """The ECN field of the tenant's packet once its tunnel is gone; of a frame without one, Not-ECT."""
    if frame.inner_packet is None:
        return 0
    return decapsulated_ecn(outside, ecn_of(frame.data, frame.inner_packet.start))


def check_ecn(frame: Parsed, scope: Scope) -> None:
    """Rule 2.8 (RFC 6040 section 4.2): congestion that the packet inside cannot carry on."""
    if frame.tunnel is None:
        return
    outside = tunnel_ecn(frame, frame.tunnel)
    if outside is None:
        raise Drop("ecn_not_capable")
    if scope is Scope.NVE and inner_ecn(frame, outside) is None:
        raise Drop("ecn_not_capable")

"""Section 8 of `src_cython/fastpath/README.md`: tenants' groups."""

from __future__ import annotations

from collections.abc import Iterator

from fastpath.model import ANY_GROUP, GroupKey, IPAddress, KeyKind, Layout, ReplicationList, Scope, vni_key
from fastpath.reference.parse import ip_header, is_membership, network_of, sound_ip
from fastpath.reference.trail import Parsed
from fastpath.reference.wire import ETHERTYPE_IPV4, ETHERTYPE_IPV6, Drop

LINK_SCOPE = 2
"""Of IPv6 groups (RFC 4291 section 2.7): what is not above it ends at the link."""


class Snooping:
    """The networks that snoop."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def is_for_control(self, in_port: int, frame: Parsed) -> bool:
        """Rule 8.1, but for its group."""
        if not is_tenants_membership(frame, self.layout):
            return False
        network = network_of(in_port, frame, self.layout)
        return network is not None and network.snoop

    def is_unregistered(self, in_port: int, frame: Parsed, found: ReplicationList) -> bool:
        """Rule 8.3, for a frame that no station was asked for; `found` is its list behind rule 8.2."""
        if found.key.kind < KeyKind.VNI:
            return False
        if frame.inner_packet is None or not is_beyond_link(frame.inner_packet.destination):
            return False
        network = network_of(in_port, frame, self.layout)
        return network is not None and network.snoop and network.drop_unregistered


def inner_keys(frame: Parsed, scope: Scope) -> Iterator[GroupKey]:
    """Rules 2.5, 8.2: (encap, number, inner S, inner G), (encap, number, inner G); none if G is no group."""
    packet = frame.inner_packet
    if packet is not None and packet.destination.is_multicast:
        yield vni_key(scope, frame.number_encap, frame.number, packet.destination, packet.source)
        yield vni_key(scope, frame.number_encap, frame.number, packet.destination)


def any_group_key(frame: Parsed, scope: Scope) -> GroupKey:
    """Rule 8.3: the key of what goes to whoever wants any group."""
    return vni_key(scope, frame.number_encap, frame.number, ANY_GROUP)


def is_tenants_membership(frame: Parsed, layout: Layout) -> bool:
    """Rule 8.1: whether the tenant's packet is whole and sound, and IGMP or MLD."""
    if frame.inner_packet is None:
        return False
    ethertype = ETHERTYPE_IPV4 if frame.inner_packet.source.version == 4 else ETHERTYPE_IPV6
    try:
        packet = ip_header(frame.data, frame.inner_packet.start, frame.inner_end, ethertype)
        if not is_membership(frame.data, packet, frame.inner_end):
            return False
        sound_ip(frame.data, packet, frame.inner_end, layout)
    except Drop:
        return False
    return True


def is_beyond_link(group: IPAddress) -> bool:
    """Rule 8.3: whether an address is a group's that reports are sent for."""
    if not group.is_multicast:
        return False
    if group.version == 4:
        return group.packed[:3] != bytes((224, 0, 0))
    return group.packed[1] & 0x0F > LINK_SCOPE

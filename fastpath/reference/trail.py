"""The values that the rules hand on: a packet, a sound frame, and the trail that a frame leaves.

The rules put down values on the trail, never sentences, each where it finds it: where a frame is dropped,
what stands there is how far it came. Nothing is worked out for the trail that a rule does not need itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from fastpath.model import Egress, Encap, GroupKey, IPAddress, Owner, ReplicationList, Scope
from fastpath.reference.inner import InnerPacket
from fastpath.reference.wire import ETHERTYPE_TAGS, u16


@dataclass(frozen=True, slots=True)
class Packet:
    """An IP packet inside the frame: rule 1.3 fills all but `end`, which rule 1.5 finds."""

    start: int
    payload: int
    """Where what follows the IP header, its options and its extension headers begins."""
    protocol: int
    source: IPAddress
    destination: IPAddress
    fragment: bool
    later_fragment: bool
    end: int = 0

    @property
    def version(self) -> int:
        """IP version: 4 or 6."""
        return self.source.version


@dataclass(frozen=True, slots=True)
class Parsed:
    """A sound frame: what rule 1 knows about it."""

    data: bytes
    encap: Encap
    """What the tenant's frame came in; RAW frames have neither `outer` nor `tunnel`."""
    number_encap: Encap
    """The encapsulation that `number` is of: `encap`, or that of a RAW frame's network."""
    outer: Packet | None
    """The outermost IP packet: UT of the rules."""
    tunnel: Packet | None
    """The packet that carries the overlay header: MT of the rules. The outermost one unless `nested`."""
    nested: bool
    number: int
    overlay: int
    """Where the VXLAN or GRE header begins."""
    inner: int
    inner_end: int
    inner_packet: InnerPacket | None
    flow: int

    def inner_frame(self) -> bytes:
        """The tenant's Ethernet frame."""
        return self.data[self.inner : self.inner_end]

    def inner_tagged(self) -> bool:
        """Whether the tenant's frame begins with a VLAN tag."""
        return u16(self.data, self.inner + 12) in ETHERTYPE_TAGS


class SourceClass(Enum):
    """Where a frame came from; it decides which segments of a list it takes (rule 2.2)."""

    LOCAL = auto()
    REMOTE = auto()
    ALL = auto()


@dataclass(frozen=True, slots=True)
class Lesson:
    """Rule 6.4: a source that the table does not have, or has elsewhere."""

    vni: int
    mac: bytes
    in_port: int
    sender: IPAddress | None
    encap: Encap


@dataclass(slots=True)
class Trail:
    """The values of the rules in their order; what no rule has come to is None or empty."""

    data: bytes = b""
    """Rule 1.1: the frame, its checksum finished."""
    snooped: bool = False
    """Rule 8.1: a tenant's IGMP or MLD, for control alone."""
    ethertype: tuple[int, int] | None = None
    """Rule 1.2: the EtherType behind the tags, and where what it announces begins."""
    outer: Packet | None = None
    """Rule 1.3; `end` is there once rule 1.5 was passed."""
    inside: Packet | None = None
    """Rule 1.6: the packet inside a nested tunnel; `end` as above."""
    overlay: tuple[Encap, int] | None = None
    """Rule 1.7: what carries the tenant's frame, and where its header begins."""
    number: int | None = None
    parsed: Parsed | None = None
    scope: Scope | None = None
    source_class: SourceClass | None = None
    tried: list[GroupKey] = field(default_factory=list)
    """Rule 2.5: every key that was looked up, in order."""
    recovered: IPAddress | None = None
    station: Egress | None = None
    """Rule 6.1: where the MAC table has the inner destination."""
    unknown_unicast: bool = False
    """Rule 6.1: nowhere; nothing of section 2 drops it."""
    unregistered: bool = False
    """Rule 8.3: for a tenants' group that nobody said he wants."""
    found: ReplicationList | None = None
    """Rules 2.5, 6.1."""
    refining: list[GroupKey] = field(default_factory=list)
    """Rules 8.2, 8.3: every key that was looked up to take its place, in order."""
    refined: ReplicationList | None = None
    """What took its place."""
    owners: frozenset[Owner] = frozenset()
    """Rule 2.9: whose copies are left out."""
    lesson: Lesson | None = None
    """Rule 6.4."""
    settled: Parsed | None = None
    """Section 3."""
    fates: list[tuple[Egress, bytes | str]] = field(default_factory=list)
    """Section 4: each copy, or the reason why it is not made, in list order."""

"""What a box knows: its layout (ports, endpoints, networks, senders) and its replication lists.

Plain immutable values, shared by the planner that makes them, the compiler that turns them into the
FIB of the data path, and `fastpath.reference`, which forwards by them directly. Addresses are
`ipaddress` objects, MACs six bytes, ports are named by their place in `Layout.ports`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, Flag, IntEnum, auto
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

ANY_GROUP = IPv4Address(0)
"""In the place of an inner group, of either IP version: those that have no list of their own (rule 8.3)."""


class Encap(IntEnum):
    """An overlay encapsulation; RAW is a VM's own frame, which carries none."""

    VXLAN = 0
    NVGRE = 1
    RAW = 2


class Scope(IntEnum):
    """The role whose lists a key belongs to; roles that share a box keep their lists apart."""

    DEVICE = 0
    REPLICATOR = 1
    NVE = 2


class Faces(Flag):
    """What is behind a port; it decides the source class of a frame, whatever its header claims."""

    NVE = auto()
    CORE = auto()
    VM = auto()


class Form(IntEnum):
    """What a copy looks like when it leaves."""

    GROUP = 0
    """To the frame's own group: the IP packet as it came, bit for bit; translated where `encap` differs."""
    REWRITE = 1
    """To `address`: the overlay packet under a new outer IP header, or encapsulated anew where needed."""
    NESTED = 2
    """The whole group packet inside GRE-in-UDP (RFC 8086) to `address`."""
    DECAPSULATED = 3
    """The inner Ethernet frame alone, to a VM port."""


@dataclass(frozen=True, slots=True)
class Rate:
    """So many frames a second, and so many at once."""

    pps: int
    burst: int


@dataclass(frozen=True, slots=True)
class Storm:
    """What a VM port may send of each kind of BUM frame; None: as much as it likes."""

    broadcast: Rate | None = None
    multicast: Rate | None = None
    unknown_unicast: Rate | None = None


@dataclass(frozen=True, slots=True)
class Port:
    """A place where frames come in and go out. `mtu` is the largest IP packet in bytes, 0 for no limit.

    `next_hop_mac` is where unicast copies go whose own next hop nobody told (`Forwarder.resolve`); None: they
    are dropped as `no_neighbour` until somebody does.
    """

    name: str
    faces: Faces
    mac: bytes
    next_hop_mac: bytes | None
    encap: Encap = Encap.VXLAN
    mtu: int = 0
    network: str = ""
    """The network of a VM port, by name."""
    is_up: bool = True
    """Without carrier a kernel takes copies and loses them: they are dropped as `link_down` instead."""
    macs: tuple[bytes, ...] = ()
    """The source MACs that VMs at the port may use; none means any."""
    drop_tagged: bool = False
    """Refuse frames of VMs that carry a VLAN tag."""
    storm: Storm | None = None
    group_scope: Scope | None = None
    """Whose the packets to a group are that come in here: DEVICE or NVE. None: our NVE's, if there is one and
    the port faces the core alone, else the device's."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One of our own tunnel addresses. `replicate`: what is sent here is copied on to all of the list
    (AR-IP, RFC 9574); else, from a remote sender, to the local segment only (IR-IP)."""

    address: IPAddress
    scope: Scope
    replicate: bool = False


@dataclass(frozen=True, slots=True)
class GroupMap:
    """Frames of a network whose inner destination lies in `inner` belong to `group` (longest prefix wins)."""

    inner: IPNetwork
    group: IPAddress


@dataclass(frozen=True, slots=True)
class Network:
    """A virtual network: its number on VXLAN (`vni`), on NVGRE (`vsid`, None where it has none), its
    groups."""

    name: str
    vni: int
    vsid: int | None
    encap: Encap = Encap.VXLAN
    group: IPAddress | None = None
    maps: tuple[GroupMap, ...] = ()
    clear_reserved: bool = False
    snoop: bool = False
    """Tenants' IGMP and MLD, in every scope, is for control, which hands it on; nothing else does."""
    drop_unregistered: bool = False
    """With `snoop`: what is for an inner group without a list goes by that of `ANY_GROUP`; without one, what
    came from a VM or an NVE goes into the tunnels alone, and all else nowhere."""

    def number(self, encap: Encap) -> int | None:
        """The 24-bit number that this network's frames carry in `encap`."""
        return self.vsid if encap is Encap.NVGRE else self.vni

    def groups(self) -> frozenset[IPAddress]:
        """Every outer group that may carry this network (CONFORMANCE N9)."""
        own = () if self.group is None else (self.group,)
        return frozenset((*own, *(m.group for m in self.maps)))


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose copy it is, and who sent a frame: the two are compared to exclude the source.

    A port alone owns the copy sent to the group there; a port and an address are a local NVE served by
    unicast; an address alone is a peer.
    """

    port: int | None = None
    address: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class Egress:
    """One copy to make. Fields that a form does not use keep their defaults.

    `source` None keeps the frame's own outer source. `encap` None leaves the encapsulation as it came
    (GROUP and REWRITE); `vni` None keeps the frame's number, or takes its network's in a translation.
    `version` is the IP version of the group of a GROUP copy: what a translated header is built for.
    """

    out_port: int
    form: Form
    owner: Owner
    address: IPAddress | None = None
    source: IPAddress | None = None
    encap: Encap | None = None
    vni: int | None = None
    version: int = 4


class KeyKind(IntEnum):
    """What a group key is made of, most specific first: lookups try them in this order."""

    INNER_SOURCE_GROUP = 0
    INNER_GROUP = 1
    VNI = 2
    SOURCE_GROUP = 3
    GROUP = 4


@dataclass(frozen=True, slots=True)
class GroupKey:
    """The name of a replication list. Make it with the functions below, which fill what a kind needs."""

    scope: Scope
    kind: KeyKind
    group: IPAddress | None = None
    source: IPAddress | None = None
    encap: Encap = Encap.VXLAN
    vni: int = 0


def group_key(scope: Scope, group: IPAddress, source: IPAddress | None = None) -> GroupKey:
    """Key of an outer group, or of an outer (S,G)."""
    kind = KeyKind.GROUP if source is None else KeyKind.SOURCE_GROUP
    return GroupKey(scope, kind, group, source)


def vni_key(
    scope: Scope,
    encap: Encap,
    vni: int,
    group: IPAddress | None = None,
    source: IPAddress | None = None,
) -> GroupKey:
    """Key of a whole virtual network, or of one tenant group (and source) inside it."""
    if group is None:
        return GroupKey(scope, KeyKind.VNI, None, None, encap, vni)
    kind = KeyKind.INNER_GROUP if source is None else KeyKind.INNER_SOURCE_GROUP
    return GroupKey(scope, kind, group, source, encap, vni)


@dataclass(frozen=True, slots=True)
class ReplicationList:
    """The egresses of one group key. Remote frames go to `local` only, local ones to both segments.

    An owner stands in a list at most once.
    """

    key: GroupKey
    local: tuple[Egress, ...] = ()
    remote: tuple[Egress, ...] = ()


@dataclass(frozen=True, slots=True)
class Peer:
    """A remote tunnel end that may send to our addresses of `scope`."""

    scope: Scope
    address: IPAddress


@dataclass(frozen=True, slots=True)
class LocalNve:
    """An NVE behind `port` that is served by unicast, and may send to our [device] address."""

    port: int
    address: IPAddress


@dataclass(frozen=True, slots=True)
class AllowFrom:
    """Senders in `prefix` may send to our addresses of `scope` without being a peer or a list member."""

    scope: Scope
    prefix: IPNetwork


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything about the box but its lists. `point_vnis`: the inclusive VNI ranges of the replication
    point; none means all."""

    ports: tuple[Port, ...]
    endpoints: tuple[Endpoint, ...] = ()
    networks: tuple[Network, ...] = ()
    peers: tuple[Peer, ...] = ()
    nves: tuple[LocalNve, ...] = ()
    allow_from: tuple[AllowFrom, ...] = ()
    point_vnis: tuple[tuple[int, int], ...] = ()
    vxlan_ports: tuple[int, ...] = (4789,)
    verify_checksums: bool = True
    strict_reserved: bool = False
    strict_members: bool = False


class Verdict(Enum):
    """What became of a frame; each received frame gets exactly one."""

    REPLICATE = 0
    PUNT = 1
    DROP = 2


@dataclass(frozen=True, slots=True)
class Mark:
    """The sender's kernel left a checksum to finish: the sum from `start` to the frame's end belongs at
    `start + offset` (virtio_net_hdr NEEDS_CSUM)."""

    start: int
    offset: int


@dataclass(frozen=True, slots=True)
class Frame:
    """One Ethernet frame as a port hands it over, for the places where Python holds single frames: tests,
    `MemoryPort.push` and the reference. The data path never makes one."""

    data: bytes
    mark: Mark | None = None
    vlan: tuple[int, int] | None = field(default=None)
    """(TPID, TCI) of a tag that the kernel took out of the frame (LIMITS trap 13)."""
    time_ns: int = 0

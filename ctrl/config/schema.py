"""The tables and keys of the config file, their defaults and what they take: the one place that names them,
with `schema_roles`.

Only what concerns a single value is checked there; whatever takes two keys to judge is in `rules_layout`,
`rules_roles`, `rules_nve` and `rules_manager`.
"""

from __future__ import annotations

import socket
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ctrl.config import values
from ctrl.config.finding import Path
from ctrl.config.schema_roles import (
    DeviceTable,
    ListTable,
    ManagerTable,
    MemberTable,
    NodeTable,
    NveTable,
    PeerTable,
    PointTable,
    ReceiverTable,
    ReplicatorTable,
    StationTable,
    TlsTable,
)
from ctrl.config.table import (
    ENCAPS,
    GROUP,
    VNI,
    VSID,
    Address,
    EncapName,
    Group,
    InnerPrefix,
    Interface,
    Items,
    Mac,
    Name,
    Number,
    Read,
    Table,
    Tables,
    Vsid,
    bound,
    key,
    seconds,
    switch,
    word,
)
from ctrl.config.values import HostPort

__all__ = [
    "TABLES",
    "Address",
    "Config",
    "ControlTable",
    "Dataplane",
    "DeviceTable",
    "Group",
    "Interface",
    "Items",
    "Key",
    "ListTable",
    "ManagerTable",
    "MemberTable",
    "MembershipTable",
    "NetworkTable",
    "NodeTable",
    "Number",
    "NveTable",
    "PeerTable",
    "PointTable",
    "PortTable",
    "ReceiverTable",
    "ReplicatorTable",
    "StationTable",
    "StormTable",
    "Table",
    "Tables",
    "TlsTable",
    "find_key",
    "key",
    "keys_of",
]

_PPS_MAX = 100_000_000


class ControlTable(Table):
    socket: Annotated[str | None, Read(values.socket_path)] = key(
        "Where `fastpath show` asks; it appears once it answers.",
        f'the path of a socket from /, up to {values.SOCKET_PATH_MAX} bytes, or "" for none',
        None, shown="/run/fastpath/NODE.sock",
    )  # fmt: skip
    http: Annotated[HostPort | None, Read(values.listen_on_or_not)] = key(
        "Where /metrics and /healthz are served, to whoever asks.",
        'an address and a port like "127.0.0.1:9473" or "[::1]:9473", or "" for none',
        "127.0.0.1:9473", validate_default=True,
    )  # fmt: skip


class Dataplane(Table):
    workers: int = key("Worker threads.", "a number from 1 to 256", 1, ge=1, le=256)
    cpus: Annotated[tuple[Annotated[int, Field(ge=0, le=8191)], ...], Items] = key(
        "Which CPU each worker is pinned to; none leaves that to the kernel.",
        "a list of CPU numbers, one a worker",
        (),
    )
    batch: int = key("The most frames that travel together.", "a number from 1 to 256", 256, ge=1, le=256)
    trains: bool = switch("Send equal-size copies of a flow as one super-frame where the port can.", True)
    clones: bool = switch(
        "Have the kernel clone what goes to several receivers, where BPF may be used.", True
    )
    verify_checksums: bool = switch("Drop packets whose outer IPv4 or UDP checksum is wrong.", True)
    vxlan_ports: Annotated[tuple[Annotated[int, Field(ge=1, le=65535)], ...], Items] = key(
        "UDP ports of VXLAN; headers that we make carry the first.",
        "a list of UDP ports, one at least", (4789,), min_length=1,
    )  # fmt: skip
    strict_reserved: bool = switch("Drop frames with reserved bits set instead of ignoring the bits.", False)
    ring_frames: int = key(
        "Frames that the receive ring of a live port holds; what comes beyond is counted as ring_full.",
        "a number from 256 to 262144", 8192, ge=256, le=262144,
    )  # fmt: skip


def _pps(meaning: str) -> Any:
    return key(
        f"{meaning} a second; so many may come at once, or 64 if that is more. 0 is no limit.",
        f"a number from 0 to {_PPS_MAX}", 0, ge=0, le=_PPS_MAX,
    )  # fmt: skip


class StormTable(Table):
    """Limits of what the VMs at a port may send to several or unknown stations."""

    broadcast_pps: int = _pps("Broadcast frames")
    multicast_pps: int = _pps("Multicast frames")
    unknown_pps: int = _pps("Frames to stations that are not known")


class PortTable(Table):
    name: Name = key("How this config and all output call the port.", "a name without spaces and slashes")
    device: str | None = key(
        "The Linux interface; internal, pcap and memory ports have none.", "a name", None, shown="the name"
    )
    kind: Literal["packet", "xdp", "tap", "internal", "pcap", "memory"] = word(
        "What carries the frames; replay puts captures in the place of any kind.",
        ("packet", "xdp", "tap", "internal", "pcap", "memory"), "packet",
    )  # fmt: skip
    peer: str | None = key(
        "Of an internal port: the other end, within this process.", "the name of a [[port]]", None
    )
    faces: Annotated[tuple[str, ...], Read(values.faces)] = key(
        "What is behind the port; decides whether a frame counts as local or remote.",
        '"nve", "core", "vm" or ["nve", "core"]', words=("nve", "core", "vm"),
    )  # fmt: skip
    encap: EncapName = word("What the NVEs there speak; copies are translated to it.", ENCAPS, "vxlan")
    network: str | None = key("The [[network]] of the VMs there.", "the name of a [[network]]", None)
    macs: Annotated[tuple[Mac, ...], Items] = key(
        "The source MACs that the VMs there may use; none means any.", "a list of MAC addresses", ()
    )
    tagged: Literal["keep", "drop"] = word(
        "What becomes of frames of the VMs there that carry a VLAN tag.", ("keep", "drop"), "keep"
    )
    storm: StormTable | None = key("Limits of the VMs there.", "a [port.storm] table", None)
    mac: Mac | None = key(
        "Source MAC of copies. Live ports ask netlink.", "a MAC address like 02:00:00:00:00:01", None,
        shown="02:fa:57:00:00:NN, NN the port's place, from 01",
    )  # fmt: skip
    addresses: Annotated[tuple[Interface, ...], BeforeValidator(values.as_items_or_one)] = key(
        "Our addresses there; a peer within a prefix is reached by this port. Live ports ask netlink.",
        'an address with its prefix length like "10.0.0.1/24", or a list of such', (), alias="address",
    )  # fmt: skip
    next_hop_mac: Mac | None = key(
        "Destination MAC of unicast copies. Live ports ask netlink.",
        "a MAC address like 02:00:00:00:00:01", None,
        shown="02:fa:57:ff:00:NN, NN the port's place, from 01",
    )  # fmt: skip
    mtu: Annotated[int, Read(values.mtu)] = key(
        "The largest IP packet that may leave there; 0 is no limit. The interface's is one, too.",
        "0 or a number from 576 to 65535", 0,
    )  # fmt: skip


class MapTable(Table):
    inner: InnerPrefix = key("Inner destinations of these frames.", "a multicast prefix like 239.0.0.0/8")
    group: Group = key("The outer group that carries them.", GROUP)


class NetworkTable(Table):
    name: Name = key("How ports call the network.", "a name without spaces and slashes")
    vni: Number = key("Its number on VXLAN.", VNI)
    vsid: Vsid | None = key("Its number on NVGRE.", VSID, None, shown="the vni, where NVGRE allows it")
    encap: EncapName = word("The encapsulation of its own frames.", ENCAPS, "vxlan")
    group: Group | None = key("The outer group of its frames.", GROUP, None)
    clear_reserved: bool = switch("Zero the reserved VXLAN bits of forwarded frames.", False)
    snoop: bool = switch(
        "Send what is for a tenant group only to who joined it: of the VMs of our NVE, of the NVEs of our "
        "device and of the receivers of our point's lists; the bounds of [membership] hold for them, too.",
        False,
    )
    unregistered: Literal["flood", "drop"] = word(
        "With snoop: what becomes here of frames of others to a group that nobody has joined; multicast "
        "routers get them anyway.",
        ("flood", "drop"), "flood",
    )  # fmt: skip
    igmp_to: Annotated[tuple[Address, ...], Items] = key(
        "Service nodes that get a copy of the IGMP and MLD of our NVE's VMs, which goes to all of the "
        "network as well: for an NVE that does not snoop.",
        "a list of unicast addresses", (),
    )  # fmt: skip
    maps: Annotated[tuple[MapTable, ...], Tables] = key(
        "Other groups for some inner destinations.", "[[network.map]] tables", (), alias="map"
    )


class MembershipTable(Table):
    """Names and defaults of the timers are those of RFC 9776 section 8 and RFC 9777 section 9."""

    query_interval_s: float = seconds("Between two general queries.", 125.0, 1, 31744)
    query_response_interval_s: float = seconds(
        "Within which NVEs answer a general query; less than the query interval.", 10.0, 0.1, 3174.4
    )
    startup_response_interval_s: float = seconds(
        "The same for the first queries after a start: so long does a restarted device take to relearn.",
        1.0, 0.1, 3174.4,
    )  # fmt: skip
    robustness: int = key("How often what may be lost is sent.", "a number from 1 to 7", 2, ge=1, le=7)
    last_member_query_interval_s: float = seconds(
        "Between two queries after a leave; robustness times this long, a member can object.", 1.0, 0.1, 25.5
    )
    fast_leave: bool = switch(
        "Believe the leave of an IGMPv3 or MLDv2 host at once, without asking who objects.",
        False,
    )
    strict_headers: bool = switch(
        "Refuse IGMP without TTL 1 and Router Alert, and MLD reports from ::.", False
    )
    max_groups: int = bound("Groups that NVEs may join on all ports together.", 100_000, 1_000_000)
    max_groups_per_port: int = bound("Groups that they may join on one port.", 4096, 1_000_000)
    max_members_per_group: int = bound("NVEs that may join one group on one port.", 4096, 1_000_000)
    max_members_per_port: int = bound(
        "Memberships on one port: an NVE counts once for each of its groups.", 65_536, 10_000_000
    )
    max_sources_per_group: int = bound("Sources that one NVE may name of one group.", 64, 65_536)
    punt_rate_pps: int = bound(
        "IGMP and MLD messages a second that a port may send to control.", 10_000, 1_000_000
    )
    punt_burst: int = bound("How many of them may come at once.", 20_000, 1_000_000)


class Config(Table):
    """A whole config file that was found good."""

    node: Name = key("How this box is called.", "a name without spaces and slashes", make=socket.gethostname,
                     shown="the host's name")  # fmt: skip
    control: ControlTable = key("How this box is looked into.", "a [control] table", make=ControlTable)
    dataplane: Dataplane = key("How frames are handled.", "a [dataplane] table", make=Dataplane)
    ports: Annotated[tuple[PortTable, ...], Tables] = key(
        "Where frames come in and go out.", "[[port]] tables", (), alias="port"
    )
    networks: Annotated[tuple[NetworkTable, ...], Tables] = key(
        "Virtual networks.", "[[network]] tables", (), alias="network"
    )
    membership: MembershipTable = key(
        "How NVEs join and leave.", "a [membership] table", make=MembershipTable
    )
    nve: NveTable | None = key("The NVE role: the host of VMs.", "an [nve] table", None)
    device: DeviceTable | None = key("The device role.", "a [device] table", None)
    replicator: ReplicatorTable | None = key("The role of a replication point.", "a [replicator] table", None)

    manager: ManagerTable | None = key("The manager role.", "a [manager] table", None)
    tls: TlsTable | None = key("Who we are to managers, and they to us.", "a [tls] table", None)

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of this box, by the names of their tables."""
        return tuple(
            name for name in ("nve", "device", "replicator", "manager") if getattr(self, name) is not None
        )

    def tls_of(self, role: NodeTable | ManagerTable) -> TlsTable | None:
        """What the sessions of a role are secured with; None: they are plain text."""
        return None if role.plaintext else self.tls

    @property
    def control_socket(self) -> str:
        """Where `fastpath show` asks this box; empty for nowhere."""
        return f"/run/fastpath/{self.node}.sock" if self.control.socket is None else self.control.socket


TABLES: dict[tuple[str, ...], type[Table]] = {
    (): Config,
    ("control",): ControlTable,
    ("dataplane",): Dataplane,
    ("port",): PortTable,
    ("port", "storm"): StormTable,
    ("network",): NetworkTable,
    ("network", "map"): MapTable,
    ("nve",): NveTable,
    ("nve", "mac"): StationTable,
    ("device",): DeviceTable,
    ("device", "peer"): PeerTable,
    ("device", "member"): MemberTable,
    ("membership",): MembershipTable,
    ("replicator",): ReplicatorTable,
    ("replicator", "list"): ListTable,
    ("replicator", "list", "addresses"): ReceiverTable,
    ("manager",): ManagerTable,
    ("manager", "point"): PointTable,
    ("tls",): TlsTable,
}
"""Every table by its path in the file."""


class Key:
    """What the schema knows of one key."""

    def __init__(self, table: tuple[str, ...], model: type[Table], attribute: str) -> None:
        field = model.model_fields[attribute]
        extra: Any = field.json_schema_extra
        self.name: str = field.alias or attribute
        self.table = table
        self.meaning: str = field.description or ""
        self.legal: str = extra["legal"]
        self.words: list[str] = extra["words"]
        self.required: bool = field.is_required()
        self.shown: str | None = extra["shown"]
        is_made = field.default_factory is not None
        self.default: Any = None if self.required or is_made else field.get_default()


@cache
def keys_of(table: tuple[str, ...]) -> tuple[Key, ...]:
    """The keys of a table, in the order of the schema."""
    model = TABLES[table]
    return tuple(Key(table, model, attribute) for attribute in model.model_fields)


def find_key(path: Path) -> Key | None:
    """The key that holds the value at `path`: places in lists do not count."""
    names = tuple(part for part in path if isinstance(part, str))
    for n_names in range(len(names) - 1, -1, -1):
        if names[:n_names] in TABLES:
            return next((k for k in keys_of(names[:n_names]) if k.name == names[n_names]), None)
    return None

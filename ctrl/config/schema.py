"""The tables and keys of the config file, their defaults and what they take: the one place that names them.

Only what concerns a single value is checked here; whatever takes two keys to judge is in `rules_layout` and
`rules_roles`. `key` keeps, beside pydantic's constraints, the words that errors and the README's table show.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator

from ctrl.config import values
from ctrl.config.finding import Path, any_of
from ctrl.config.values import HostPort, IPInterface
from fastpath.model import IPAddress, IPNetwork

EncapName = Literal["vxlan", "nvgre"]
SourceName = Literal["own", "keep"]

Address = Annotated[IPAddress, PlainValidator(values.unicast)]
Group = Annotated[IPAddress, PlainValidator(values.group)]
Prefix = Annotated[IPNetwork, PlainValidator(values.sender_prefix)]
InnerPrefix = Annotated[IPNetwork, PlainValidator(values.inner_prefix)]
Interface = Annotated[IPInterface, PlainValidator(values.interface)]
Mac = Annotated[bytes, PlainValidator(values.mac)]
Name = Annotated[str, PlainValidator(values.name)]
VniRange = Annotated[tuple[int, int], PlainValidator(values.vni_range)]
Number = Annotated[int, Field(ge=1, le=values.MAX_NUMBER)]
Vsid = Annotated[int, Field(ge=values.MIN_VSID, le=values.MAX_VSID)]
Items = BeforeValidator(values.as_items)
Tables = BeforeValidator(values.as_tables)

LATER = ("manager", "nve", "tls")
"""Tables of the schema that belong to later versions: accepted unread, so that replay can take a live
config."""

_VNI = f"a number from 1 to {values.MAX_NUMBER}"
_VSID = f"a number from {values.MIN_VSID} to {values.MAX_VSID} (RFC 7637 reserves the others)"
_ADDRESS = "the unicast address of a host"
_GROUP = "a multicast group above the link-local range"
_PREFIXES = "a list of prefixes or addresses"
_ENCAPS = ("vxlan", "nvgre")
_SOURCES = ("own", "keep")


class Table(BaseModel):
    """A TOML table: unknown keys are errors, types are not converted, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


def key(
    meaning: str,
    legal: str,
    default: Any = ...,
    *,
    alias: str | None = None,
    words: tuple[str, ...] = (),
    shown: str | None = None,
    make: Callable[[], Any] | None = None,
    **limits: Any,
) -> Any:
    """Declare a key: what it means and what it takes, in words; `words` are the literals for suggestions,
    `shown` is the default as the README shows it where the plain value would mislead."""
    extra: dict[str, Any] = {"legal": legal, "words": list(words), "shown": shown}
    if make is not None:
        return Field(
            default_factory=make, alias=alias, description=meaning, json_schema_extra=extra, **limits
        )
    return Field(default, alias=alias, description=meaning, json_schema_extra=extra, **limits)


def word(meaning: str, words: tuple[str, ...], default: Any, shown: str | None = None) -> Any:
    """Declare a key that takes one of a few words."""
    return key(meaning, any_of([f'"{w}"' for w in words]), default, words=words, shown=shown)


def switch(meaning: str, default: bool) -> Any:
    """Declare a key that is true or false."""
    return key(meaning, "true or false", default)


class ControlTable(Table):
    socket: Annotated[str | None, PlainValidator(values.socket_path)] = key(
        "Where `fastpath show` asks; it appears once it answers.",
        f'the path of a socket from /, up to {values.SOCKET_PATH_MAX} bytes, or "" for none',
        None, shown="/run/fastpath/NODE.sock",
    )  # fmt: skip
    http: Annotated[HostPort | None, PlainValidator(values.listen_on)] = key(
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


class PortTable(Table):
    name: Name = key("How this config and all output call the port.", "a name without spaces and slashes")
    device: str | None = key(
        "The Linux interface; pcap and memory ports have none.", "a name", None, shown="the name"
    )
    kind: Literal["packet", "xdp", "tap", "pcap", "memory"] = word(
        "What carries the frames; replay puts captures in the place of any kind.",
        ("packet", "xdp", "tap", "pcap", "memory"), "packet",
    )  # fmt: skip
    faces: Annotated[tuple[str, ...], PlainValidator(values.faces)] = key(
        "What is behind the port; decides whether a frame counts as local or remote.",
        '"nve", "core", "vm" or ["nve", "core"]', words=("nve", "core", "vm"),
    )  # fmt: skip
    encap: EncapName = word("What the NVEs there speak; copies are translated to it.", _ENCAPS, "vxlan")
    network: str | None = key("The [[network]] of the VMs there.", "the name of a [[network]]", None)
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
    mtu: Annotated[int, PlainValidator(values.mtu)] = key(
        "The largest IP packet that may leave there; 0 is no limit. The interface's is one, too.",
        "0 or a number from 576 to 65535", 0,
    )  # fmt: skip


class MapTable(Table):
    inner: InnerPrefix = key("Inner destinations of these frames.", "a multicast prefix like 239.0.0.0/8")
    group: Group = key("The outer group that carries them.", _GROUP)


class NetworkTable(Table):
    name: Name = key("How ports call the network.", "a name without spaces and slashes")
    vni: Number = key("Its number on VXLAN.", _VNI)
    vsid: Vsid | None = key("Its number on NVGRE.", _VSID, None, shown="the vni, where NVGRE allows it")
    encap: EncapName = word("The encapsulation of its own frames.", _ENCAPS, "vxlan")
    group: Group | None = key("The outer group of its frames.", _GROUP, None)
    clear_reserved: bool = switch("Zero the reserved VXLAN bits of forwarded frames.", False)
    maps: Annotated[tuple[MapTable, ...], Tables] = key(
        "Other groups for some inner destinations.", "[[network.map]] tables", (), alias="map"
    )


class PeerTable(Table):
    group: Group = key("The group that is tunnelled.", _GROUP)
    addresses: Annotated[tuple[Address, ...], Items] = key(
        "The devices, points or VTEPs that get a copy.",
        "a list of unicast addresses, one at least",
        min_length=1,
    )


class MemberTable(Table):
    group: Group = key("The group that is wanted.", _GROUP)
    port: str = key("The port where it is wanted.", "the name of a [[port]]")
    nve: Address | None = key("Deliver to this NVE by unicast: for those that never join.", _ADDRESS, None)


class DeviceTable(Table):
    address: Address = key("Our tunnel address.", _ADDRESS)
    manager: Annotated[tuple[str, ...], Items] = key("Managers, tried in order.", 'a list of "host:port"', ())
    tunnel: Literal["nested", "rewrite"] = word(
        "How copies travel to peers: the whole packet in GRE-in-UDP, or with a new destination.",
        ("nested", "rewrite"), "nested",
    )  # fmt: skip
    source: SourceName = word("Whose outer source rewritten copies carry.", _SOURCES, "own")
    allow_from: Annotated[tuple[Prefix, ...], Items] = key(
        "Senders accepted beside the peers.", _PREFIXES, ()
    )
    strict_members: bool = switch("Drop frames from NVEs that are no member of their group.", False)
    plaintext: bool = switch("Speak to the manager without TLS.", False)
    peers: Annotated[tuple[PeerTable, ...], Tables] = key(
        "Static tunnels.", "[[device.peer]] tables", (), alias="peer"
    )
    members: Annotated[tuple[MemberTable, ...], Tables] = key(
        "Static members.", "[[device.member]] tables", (), alias="member"
    )


def _seconds(meaning: str, default: float, least: float, most: float) -> Any:
    return key(meaning, f"seconds, from {least:g} to {most:g}", default, ge=least, le=most)


def _bound(meaning: str, default: int, most: int) -> Any:
    return key(meaning, f"a number from 1 to {most}", default, ge=1, le=most)


class MembershipTable(Table):
    """Names and defaults of the timers are those of RFC 9776 section 8 and RFC 9777 section 9."""

    query_interval_s: float = _seconds("Between two general queries.", 125.0, 1, 31744)
    query_response_interval_s: float = _seconds(
        "Within which NVEs answer a general query; less than the query interval.", 10.0, 0.1, 3174.4
    )
    startup_response_interval_s: float = _seconds(
        "The same for the first queries after a start: so long does a restarted device take to relearn.",
        1.0, 0.1, 3174.4,
    )  # fmt: skip
    robustness: int = key("How often what may be lost is sent.", "a number from 1 to 7", 2, ge=1, le=7)
    last_member_query_interval_s: float = _seconds(
        "Between two queries after a leave; robustness times this long, a member can object.", 1.0, 0.1, 25.5
    )
    fast_leave: bool = switch(
        "Believe the leave of an IGMPv3 or MLDv2 host at once, without asking who objects.",
        False,
    )
    strict_headers: bool = switch(
        "Refuse IGMP without TTL 1 and Router Alert, and MLD reports from ::.", False
    )
    max_groups: int = _bound("Groups that NVEs may join on all ports together.", 100_000, 1_000_000)
    max_groups_per_port: int = _bound("Groups that they may join on one port.", 4096, 1_000_000)
    max_members_per_group: int = _bound("NVEs that may join one group on one port.", 4096, 1_000_000)
    max_members_per_port: int = _bound(
        "Memberships on one port: an NVE counts once for each of its groups.", 65_536, 10_000_000
    )
    max_sources_per_group: int = _bound("Sources that one NVE may name of one group.", 64, 65_536)
    punt_rate_pps: int = _bound(
        "IGMP and MLD messages a second that a port may send to control.", 10_000, 1_000_000
    )
    punt_burst: int = _bound("How many of them may come at once.", 20_000, 1_000_000)


class ReceiverTable(Table):
    """An item of `addresses` in a replicator's list: a plain address, or one with what differs from the
    list."""

    address: Address = key("The VTEP or device.", _ADDRESS)
    encap: EncapName | None = word("What it speaks.", _ENCAPS, None, shown="the list's")
    vni: Number | None = key("Its VNI or VSID for this network.", _VNI, None, shown="the network's")
    source: SourceName | None = word(
        "Whose outer source its copies carry.", _SOURCES, None, shown="the list's"
    )


class ListTable(Table):
    group: Group | None = key("The group of nested packets; or give vni or vsid.", _GROUP, None)
    vni: Number | None = key("The number of packets from plain VTEPs, in encap.", _VNI, None)
    vsid: Vsid | None = key("The same for NVGRE.", _VSID, None)
    encap: EncapName | None = word("What the VTEPs speak.", _ENCAPS, None, shown='"vxlan", with vsid "nvgre"')
    source: SourceName | None = word("Whose outer source the copies carry.", _SOURCES, None, shown='"keep"')
    receivers: Annotated[tuple[ReceiverTable, ...], BeforeValidator(values.as_receivers)] = key(
        "Who gets a copy; the sender of a frame gets none.",
        "a list of unicast addresses or tables like { address = ..., encap = ..., vni = ..., source = ... }",
        alias="addresses", min_length=1,
    )  # fmt: skip


class ReplicatorTable(Table):
    address: Address = key("Our own tunnel address (IR-IP), and the source of nested copies.", _ADDRESS)
    replicate: Address | None = key(
        "What is sent to this address is copied on (AR-IP).", _ADDRESS, None, shown="the address"
    )
    manager: Annotated[tuple[str, ...], Items] = key("Managers, tried in order.", 'a list of "host:port"', ())
    source: SourceName = word(
        "Whose outer source rewritten copies of a manager's lists carry.", _SOURCES, "own"
    )
    vnis: Annotated[tuple[VniRange, ...], Items] = key(
        "The VNIs that this point serves; none means all.",
        'a list of VNIs and ranges like ["100-199", 300]',
        (),
    )
    allow_from: Annotated[tuple[Prefix, ...], Items] = key(
        "Senders accepted beside the lists'.", _PREFIXES, ()
    )
    plaintext: bool = switch("Speak to the manager without TLS.", False)
    lists: Annotated[tuple[ListTable, ...], Tables] = key(
        "Static replication lists.", "[[replicator.list]] tables", (), alias="list"
    )


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
    device: DeviceTable | None = key("The device role.", "a [device] table", None)
    replicator: ReplicatorTable | None = key("The role of a replication point.", "a [replicator] table", None)

    @property
    def control_socket(self) -> str:
        """Where `fastpath show` asks this box; empty for nowhere."""
        return f"/run/fastpath/{self.node}.sock" if self.control.socket is None else self.control.socket


TABLES: dict[tuple[str, ...], type[Table]] = {
    (): Config,
    ("control",): ControlTable,
    ("dataplane",): Dataplane,
    ("port",): PortTable,
    ("network",): NetworkTable,
    ("network", "map"): MapTable,
    ("device",): DeviceTable,
    ("device", "peer"): PeerTable,
    ("device", "member"): MemberTable,
    ("membership",): MembershipTable,
    ("replicator",): ReplicatorTable,
    ("replicator", "list"): ListTable,
    ("replicator", "list", "addresses"): ReceiverTable,
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
        self.default: Any = None if self.required else field.get_default(call_default_factory=False)


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

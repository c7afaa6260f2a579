"""The tables of the roles: [nve], [device], [replicator] and [manager], and [tls], which their sessions are
secured with."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from ctrl.config import values
from ctrl.config.table import (
    ADDRESS,
    ENCAPS,
    GROUP,
    PREFIXES,
    SOURCES,
    VNI,
    VSID,
    Address,
    EncapName,
    Group,
    Items,
    Mac,
    Number,
    Prefix,
    Read,
    SourceName,
    Table,
    Tables,
    VniRange,
    Vsid,
    bound,
    key,
    seconds,
    switch,
    word,
)
from ctrl.config.values import HostPort, StoreUrl
from ctrl.store.opening import state_folder
from fastpath.model import IPAddress

Manager = Annotated[HostPort, Read(values.manager_address)]
ListenOn = Annotated[HostPort, Read(values.listen_on)]
Store = Annotated[StoreUrl, Read(values.store_url)]
State = Annotated[str | None, Read(values.state_path)]
FileName = Annotated[str, Read(values.file_name)]

_VNIS = 'a list of VNIs and ranges like ["100-199", 300]'


class PeerTable(Table):
    group: Group = key("The group that is tunnelled.", GROUP)
    addresses: Annotated[tuple[Address, ...], Items] = key(
        "The devices, points or VTEPs that get a copy.",
        "a list of unicast addresses, one at least",
        min_length=1,
    )


class MemberTable(Table):
    group: Group = key("The group that is wanted.", GROUP)
    port: str = key("The port where it is wanted.", "the name of a [[port]]")
    nve: Address | None = key("Deliver to this NVE by unicast: for those that never join.", ADDRESS, None)


class NodeTable(Table):
    """What a manager tells of tunnels: [nve], [device] and [replicator] have these keys."""

    address: Address = key("Our tunnel address.", ADDRESS)
    manager: Annotated[tuple[Manager, ...], Items] = key(
        "Managers, tried in order.", 'a list of "host:port"', ()
    )
    plaintext: bool = switch("Speak to a manager that is not of this box without TLS.", False)
    state: State = key(
        "Where the last instructions are kept: on a start they are in force at once.",
        'the path of a file from /, or "" for none', None,
        shown="/var/lib/fastpath/NODE.db, of a point beside another role NODE.point.db, of an NVE beside a "
        "device NODE.nve.db",
    )  # fmt: skip
    peers_from: Annotated[tuple[Prefix, ...], Items] = key(
        "Where a manager's peers may be; instructions with others are refused. None means anywhere.",
        PREFIXES, (),
    )  # fmt: skip
    max_groups: int = bound(
        "Groups that a manager may give tunnels; and as many of tenants.", 200_000, 10_000_000
    )
    max_peers_per_group: int = bound("Peers that a manager may give a group.", 1024, 65_536)
    shrink_hold_s: float = seconds(
        "How long a sudden loss of most peers is not believed, unless it is said again in other words.",
        30.0, 0, 86400,
    )  # fmt: skip
    probe_interval_ms: Annotated[int, Read(values.probe_interval)] = key(
        "Between two probes of a replication point (BFD, RFC 5880); 0, at points and devices alike: none.",
        "0 or a number from 10 to 60000", 300,
    )  # fmt: skip
    probe_multiplier: int = key(
        "So many probes without an answer, and the point counts as down.", "a number from 1 to 255", 3,
        ge=1, le=255,
    )  # fmt: skip


class DeviceTable(NodeTable):
    tunnel: Literal["nested", "rewrite"] = word(
        "How copies travel to peers: the whole packet in GRE-in-UDP, or with a new destination.",
        ("nested", "rewrite"), "nested",
    )  # fmt: skip
    source: SourceName = word("Whose outer source rewritten copies carry.", SOURCES, "own")
    allow_from: Annotated[tuple[Prefix, ...], Items] = key("Senders accepted beside the peers.", PREFIXES, ())
    strict_members: bool = switch("Drop frames from NVEs that are no member of their group.", False)
    peers: Annotated[tuple[PeerTable, ...], Tables] = key(
        "Static tunnels.", "[[device.peer]] tables", (), alias="peer"
    )
    members: Annotated[tuple[MemberTable, ...], Tables] = key(
        "Static members.", "[[device.member]] tables", (), alias="member"
    )


class ReceiverTable(Table):
    """An item of `addresses` in a replicator's list: a plain address, or one with what differs from the
    list."""

    address: Address = key("The VTEP or device.", ADDRESS)
    encap: EncapName | None = word("What it speaks.", ENCAPS, None, shown="the list's")
    vni: Number | None = key("Its VNI or VSID for this network.", VNI, None, shown="the network's")
    source: SourceName | None = word(
        "Whose outer source its copies carry.", SOURCES, None, shown="the list's"
    )


class ListTable(Table):
    group: Group | None = key("The group of nested packets; or give vni or vsid.", GROUP, None)
    vni: Number | None = key("The number of packets from plain VTEPs, in encap.", VNI, None)
    vsid: Vsid | None = key("The same for NVGRE.", VSID, None)
    encap: EncapName | None = word("What the VTEPs speak.", ENCAPS, None, shown='"vxlan", with vsid "nvgre"')
    source: SourceName | None = word("Whose outer source the copies carry.", SOURCES, None, shown='"keep"')
    receivers: Annotated[tuple[ReceiverTable, ...], BeforeValidator(values.as_receivers)] = key(
        "Who gets a copy; the sender of a frame gets none.",
        "a list of unicast addresses or tables like { address = ..., encap = ..., vni = ..., source = ... }",
        alias="addresses", min_length=1,
    )  # fmt: skip


class ReplicatorTable(NodeTable):
    address: Address = key("Our own tunnel address (IR-IP), and the source of nested copies.", ADDRESS)
    replicate: Address | None = key(
        "What is sent to this address is copied on (AR-IP).", ADDRESS, None, shown="the address"
    )
    source: SourceName = word(
        "Whose outer source rewritten copies of a manager's lists carry.", SOURCES, "own"
    )
    vnis: Annotated[tuple[VniRange, ...], Items] = key(
        "The VNIs that this point serves; none means all.",
        _VNIS,
        (),
    )
    allow_from: Annotated[tuple[Prefix, ...], Items] = key(
        "Senders accepted beside the lists'.", PREFIXES, ()
    )
    max_probers: int = bound("Devices whose probes are answered.", 4096, 65_536)
    lists: Annotated[tuple[ListTable, ...], Tables] = key(
        "Static replication lists.", "[[replicator.list]] tables", (), alias="list"
    )


class PointTable(Table):
    address: Address = key("The point's tunnel address: its replicator.address.", ADDRESS)
    vnis: Annotated[tuple[VniRange, ...], Items] = key(
        "The VNIs that are this point's; groups that carry them are replicated there.", _VNIS, ()
    )
    groups: Annotated[tuple[Group, ...], Items] = key(
        "The groups that are this point's, whatever they carry.", "a list of multicast groups", ()
    )


def _own_store() -> str:
    return f"sqlite://{state_folder() / 'manager.db'}"


class ManagerTable(Table):
    listen: ListenOn = key(
        "Where devices and points find it.",
        'an address and a port like "10.0.0.100:9470" or "[2001:db8::1]:9470"',
        "127.0.0.1:9470", validate_default=True,
    )  # fmt: skip
    store: Store = key(
        "Where its state is: a file of its own, or an etcd that several managers share.",
        '"sqlite:///PATH", "etcd://HOST:PORT,.../PREFIX" or the same with etcds:// for TLS',
        make=_own_store, shown='`"sqlite:///var/lib/fastpath/manager.db"`', validate_default=True,
    )  # fmt: skip
    hold_s: float = seconds("After so long a silence a device leaves every group.", 30.0, 1, 86400)
    mode: Literal["mesh", "point", "auto"] = word(
        "How copies travel between devices: straight, by a replication point, or by the size of the group.",
        ("mesh", "point", "auto"), "auto",
    )  # fmt: skip
    threshold: int = key(
        "auto: from so many devices on, a group goes by a point.", "a number from 2 to 65536", 16,
        ge=2, le=65_536,
    )  # fmt: skip
    hysteresis: int = key(
        "auto: at so many devices below the threshold it goes back.", "a number from 0 to 65535", 4,
        ge=0, le=65_535,
    )  # fmt: skip
    tree: bool = switch("Share the devices of a group among all its points, which copy to each other.", False)
    plaintext: bool = switch("Listen for others than this box without TLS.", False)
    max_nodes: int = bound("Devices and points.", 10_000, 1_000_000)
    max_groups: int = bound(
        "Groups that they may be in, all together; and as many of tenants.", 200_000, 10_000_000
    )
    max_groups_per_node: int = bound(
        "Groups that one of them may be in; and as many of tenants.", 100_000, 1_000_000
    )
    max_devices_per_group: int = bound("Devices that may be in one group.", 1024, 65_536)
    points: Annotated[tuple[PointTable, ...], Tables] = key(
        "What is replicated where; else the points that are there share it evenly.",
        "[[manager.point]] tables", (), alias="point",
    )  # fmt: skip


class StationTable(Table):
    network: str = key("The network of the station.", "the name of a [[network]]")
    mac: Mac = key("Its MAC.", "a MAC address like 02:00:00:00:00:01")
    port: str | None = key(
        "The VM port where it is; or give vtep.", 'the name of a [[port]] with faces = "vm"', None
    )
    vtep: Address | None = key("The VTEP behind which it is.", ADDRESS, None)
    encap: EncapName | None = word("What that VTEP speaks.", ENCAPS, None, shown="the network's")


class NveTable(NodeTable):
    address: Address = key("Our VTEP address: the outer source of what the VMs send.", ADDRESS)
    manager: Annotated[tuple[Manager, ...], Items] = key(
        "Managers, tried in order: they tell who else is in the groups of our networks, and each of those "
        "gets a copy; no group is joined or sent to then.",
        'a list of "host:port"', (),
    )  # fmt: skip
    send_to: Annotated[tuple[IPAddress, ...], Read(values.bum_receivers)] = key(
        "Where frames for several or unknown stations go: to their group, or one copy to each of these: a "
        "service node, or all VTEPs.",
        '"group", a unicast address or a list of them', "group", words=("group",), validate_default=True,
    )  # fmt: skip
    allow_from: Annotated[tuple[Prefix, ...], Items] = key(
        "Which VTEPs may send to our address, beside those that this config names; none means any.",
        PREFIXES, (),
    )  # fmt: skip
    ageing_s: float = seconds(
        "After so long without a frame from it, a learned station is forgotten.", 300.0, 1, 86_400
    )
    max_macs: int = bound("Stations, static ones among them.", 65_536, 1_048_576)
    max_macs_per_network: int = bound(
        "Stations of one network, static ones among them, beyond which none is learned.", 16_384, 1_048_576
    )
    max_macs_per_port: int = bound(
        "Stations at one VM port, static ones among them, beyond which none is learned.", 4096, 1_048_576
    )
    max_vteps: int = bound("VTEPs that stations may be behind.", 4096, 65_536)
    stations: Annotated[tuple[StationTable, ...], Tables] = key(
        "Static stations.", "[[nve.mac]] tables", (), alias="mac"
    )


def _pem(meaning: str) -> Any:
    return key(meaning, "the path of a PEM file")


class TlsTable(Table):
    """Paths are relative to the config file's folder."""

    cert: FileName = _pem("Our certificate; its name is our node.")
    key: FileName = _pem("Its private key.")
    ca: FileName = _pem("Who signs the certificates of the others.")

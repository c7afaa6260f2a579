"""What takes two keys of [device] and [replicator] to judge, and what concerns both roles."""

from __future__ import annotations

from collections.abc import Iterator

from ctrl.config.finding import Path, given
from ctrl.config.numbers import is_vsid, list_key, receiver_key
from ctrl.config.report import Report
from ctrl.config.rules_layout import repeats, unknown
from ctrl.config.schema import Config, DeviceTable, ListTable, NodeTable, ReplicatorTable
from ctrl.planner import Ways
from ctrl.ways import ways
from fastpath.model import IPAddress, IPNetwork

NESTING_SIZE = {4: 32, 6: 52}
"""What a nested tunnel adds: outer IP, UDP and GRE (RFC 8086), by outer IP version."""
_FULL_SIZE_VXLAN = 1550
"""A VM's full-size frame in VXLAN: 1500 + 14 Ethernet + 8 VXLAN + 8 UDP + 20 IPv4."""


def check_roles(config: Config, report: Report, tables: frozenset[str]) -> None:
    """Check the roles; `tables` are the names of all tables in the file, those that could not be taken among
    them."""
    if not tables & {"nve", "device", "replicator", "manager"}:
        report.warning((), "no [nve], [device], [replicator] or [manager] is given, so all is dropped")
    forwards = config.nve or config.device or config.replicator
    if forwards and not config.ports and not report.is_damaged(("port",)):
        report.error((), "no [[port]] is given; expected one at least for an NVE, a device or a replicator")
    _check_addresses(config, report)
    _check_membership(config, report)
    found = ways(config)
    if config.device:
        _check_device(config, report, config.device, found)
    if config.replicator:
        _check_replicator(config, report, config.replicator, found)


def _check_membership(config: Config, report: Report) -> None:
    """Answers must come before the next query asks for them (RFC 9776 section 8.3)."""
    timers = config.membership
    for key in ("query_response_interval_s", "startup_response_interval_s"):
        if getattr(timers, key) >= timers.query_interval_s and not report.is_damaged(("membership", key)):
            report.error(
                ("membership", key),
                f"{getattr(timers, key):g} given, but query_interval_s is {timers.query_interval_s:g}; "
                "expected less than that",
            )


def _check_addresses(config: Config, report: Report) -> None:
    """One address is one tunnel end of one role."""
    device, point = config.device, config.replicator
    if point is None:
        return
    at: Path = ("replicator", "replicate")
    replicate = point.replicate or point.address
    if report.is_damaged(("replicator", "address")) or report.is_damaged(("device", "address")):
        return
    if replicate.version != point.address.version:
        report.error(
            at, f"{replicate} given, but address is {point.address}; expected both of one IP version"
        )
    if device and device.address == replicate:
        if point.replicate is not None:
            report.error(
                at, f"{replicate} is also device.address; expected an address of its own to replicate by"
            )
        elif not report.is_damaged(at):
            report.error(
                ("replicator", "address"),
                f"{replicate} is also device.address, one address for two roles; expected another, or "
                "give replicate "
                "an address of its own",
            )


def own_addresses(config: Config) -> dict[IPAddress, str]:
    """Every address of this box, and the key that says so."""
    own: dict[IPAddress, str] = {}
    for i, port in enumerate(config.ports):
        own |= {address.ip: f"port[{i}].address" for address in port.addresses}
    if config.replicator:
        own[config.replicator.address] = "replicator.address"
        if config.replicator.replicate:
            own[config.replicator.replicate] = "replicator.replicate"
    if config.device:
        own[config.device.address] = "device.address"
    if config.nve:
        own.setdefault(config.nve.address, "nve.address")
    return own


def check_senders(prefixes: tuple[IPNetwork, ...], report: Report, at: Path) -> None:
    """Warn of a prefix that holds everybody."""
    for i, prefix in enumerate(prefixes):
        if prefix.prefixlen == 0:
            report.warning((*at, i), f"{prefix} lets any sender whatever have its frames copied")


def _check_device(config: Config, report: Report, device: DeviceTable, found: Ways) -> None:
    check_senders(device.allow_from, report, ("device", "allow_from"))
    is_sound = not report.is_damaged(("port",))
    if device.peers and not found.core_ports and is_sound and config.ports:
        report.error(("device", "peer"), 'no port leads to peers; expected a [[port]] with faces = "core"')
    own = own_addresses(config)
    needs_ours = device.tunnel == "nested" or device.source == "own"
    needs_ours = needs_ours and not report.is_damaged(("device", "address"))
    peers = list(_peers(device))
    for place, group, address in peers:
        if address in own:
            report.error(
                place, f"{address} is our own address ({own[address]}); expected that of another device"
            )
        elif needs_ours and address.version != device.address.version:
            report.error(
                place,
                f"{address} is IPv{address.version}, but device.address is {device.address}; expected an "
                f"IPv{device.address.version} address, since our own is the source of the tunnel",
            )
        elif device.tunnel == "rewrite" and group.version != address.version:
            report.error(
                place,
                f"{address} is IPv{address.version} for an IPv{group.version} group; with tunnel = "
                '"rewrite" expected '
                "the group's IP version, else the receiver cannot recover the group; nested tunnels can "
                "cross",
            )
        out_port = found.out_port(address)
        if out_port is not None and "core" not in config.ports[out_port].faces and is_sound:
            report.error(
                place,
                f"{address} is reached by port {given(config.ports[out_port].name)}, whose prefix holds "
                "it but which "
                "does not face the core: what this peer sends there would count as local and be sent to "
                "other peers; "
                'expected faces = ["nve", "core"], or another prefix',
            )
    for place, first, (group, address) in repeats(
        (place, (group, address)) for place, group, address in peers
    ):
        report.error(place, f"{address} is given twice for {group}, first in line {report.line(first)}")
    _check_members(config, report, device, own)
    if device.tunnel == "nested":
        _check_room(config, report, device, found)
        if device.source == "keep":
            report.warning(
                ("device", "source"), 'is for tunnel = "rewrite"; nested copies always carry device.address'
            )
    else:
        _check_rewriting(config, report, device)


def _peers(device: DeviceTable) -> Iterator[tuple[Path, IPAddress, IPAddress]]:
    for i, peer in enumerate(device.peers):
        for j, address in enumerate(peer.addresses):
            yield ("device", "peer", i, "addresses", j), peer.group, address


def _check_members(config: Config, report: Report, device: DeviceTable, own: dict[IPAddress, str]) -> None:
    at: Path = ("device", "member")
    ports = {port.name: port for port in config.ports}
    peers = {address for peer in device.peers for address in peer.addresses}
    homes: dict[IPAddress, str] = {}
    for i, member in enumerate(device.members):
        port, nve = ports.get(member.port), member.nve
        if port is None:
            if not report.is_damaged(("port",)):
                report.error((*at, i, "port"), unknown(member.port, "[[port]]", list(ports)))
        elif "nve" not in port.faces:
            report.error(
                (*at, i, "port"),
                f'port {given(port.name)} does not face NVEs; expected one with "nve" in faces: members '
                "are local",
            )
        if nve is None:
            continue
        if nve in own:
            report.error((*at, i, "nve"), f"{nve} is our own address ({own[nve]}); expected that of an NVE")
        elif nve in peers:
            report.error(
                (*at, i, "nve"), f"{nve} is also a peer; an address is either a local NVE or a remote peer"
            )
        if nve.version != member.group.version:
            report.error(
                (*at, i, "nve"),
                f"{nve} is IPv{nve.version}, but the group is {member.group}; expected the group's IP "
                "version, since "
                "the copy keeps the sender's address",
            )
        if homes.setdefault(nve, member.port) != member.port:
            report.error(
                (*at, i, "nve"), f"{nve} is already behind port {given(homes[nve])}; expected one port for it"
            )
    keys = (((*at, i), (m.group, m.port, m.nve)) for i, m in enumerate(device.members))
    for place, first, (group, name, nve) in repeats(keys):
        who = f"{given(name)}/{nve}" if nve else given(name)
        report.error(place, f"{who} is already a member of {group} in line {report.line(first)}")


def _check_room(config: Config, report: Report, device: DeviceTable, found: Ways) -> None:
    """Whether nested copies of what the NVEs may send fit the ports to the peers."""
    if not (device.peers or device.manager) or report.is_damaged(("device", "address")):
        return
    # A port that faces both ways would always be too small for itself, and says nothing about its NVEs.
    inner = max((port.mtu for port in config.ports if port.faces == ("nve",)), default=0)
    adds = NESTING_SIZE[device.address.version]
    needs = (inner or _FULL_SIZE_VXLAN) + adds
    what = (
        f"packets of {inner} bytes from the NVEs"
        if inner
        else "full-size frames of VMs (1550 bytes in VXLAN)"
    )
    for i in found.core_ports:
        mtu = config.ports[i].mtu
        if 0 < mtu < needs:
            report.warning(
                ("port", i, "mtu"),
                f"{mtu} is too small for nested tunnels: they add {adds} bytes, so {what} are "
                "dropped (over_mtu); "
                f"expected {needs} or more, say {max(1600, -(-needs // 100) * 100)}",
            )


def _check_rewriting(config: Config, report: Report, device: DeviceTable) -> None:
    if device.source == "keep":
        report.warning(
            ("device", "source"),
            "copies leave with the NVE's own address as source: receivers drop them where rp_filter "
            "finds no way back "
            "to it, and a replication point cannot tell who sent them; right for plain VTEPs, which "
            "learn from it",
        )
        _check_kept(report, device, "device")
    else:
        report.warning(
            ("device", "source") if "source" in device.model_fields_set else ("device", "tunnel"),
            'rewritten copies carry device.address as source (source = "own"): receivers that learn MAC '
            "addresses "
            'from it learn this device in the place of the NVE; for plain VTEPs expected source = "keep"',
        )
    if report.is_damaged(("network",)):
        return
    if device.manager and not config.networks:
        report.warning(
            ("device", "tunnel"),
            "no [[network]] is given: what other devices send rewritten does not carry its group, and is "
            "dropped (unknown_vni)",
        )
    known = {g for n in config.networks for g in (n.group, *(m.group for m in n.maps)) if g is not None}
    groups = {peer.group: i for i, peer in reversed(list(enumerate(device.peers)))}
    for group, i in groups.items():
        if group not in known:
            report.warning(
                ("device", "peer", i, "group"),
                f"{group} is the group of no [[network]]; what the peers send back rewritten does not "
                "carry it, "
                "and is dropped",
            )


def _check_kept(report: Report, role: NodeTable, at: str) -> None:
    """Devices and points that a manager tells of each other know each other's addresses, and no NVE's."""
    if role.manager:
        report.warning(
            (at, "source"),
            "those that a manager leads to take packets from each other's addresses alone: rewritten copies "
            'with another source are dropped there (unknown_peer); expected source = "own", or allow_from '
            "with the NVEs there",
        )


def _check_replicator(config: Config, report: Report, point: ReplicatorTable, found: Ways) -> None:
    check_senders(point.allow_from, report, ("replicator", "allow_from"))
    if point.source == "keep":
        _check_kept(report, point, "replicator")
    if point.lists and not found.core_ports and config.ports and not report.is_damaged(("port",)):
        report.error(
            ("replicator", "list"), 'no port leads to receivers; expected a [[port]] with faces = "core"'
        )
    first: dict[object, Path] = {}
    own = own_addresses(config)
    for i, table in enumerate(point.lists):
        at: Path = ("replicator", "list", i)
        _check_receivers(report, point, table, at, own)
        is_by = [name for name in ("group", "vni", "vsid") if getattr(table, name) is not None]
        if len(is_by) != 1:
            if is_by or not any(report.is_damaged((*at, name)) for name in ("group", "vni", "vsid")):
                report.error(
                    at,
                    f"{' and '.join(is_by) or 'no key'} given; expected exactly one of group, vni and vsid",
                )
            continue
        keys = [table.group] if table.group else _check_numbers(config, report, point, table, at)
        if table.group:
            _check_nested(report, table, at)
        for key in dict.fromkeys(keys):
            if key in first:
                what = f"{key[0].upper()} {key[1]}" if isinstance(key, tuple) else key
                report.error((*at, is_by[0]), f"{what} already has a list, in line {report.line(first[key])}")
            first.setdefault(key, at)


def _check_receivers(
    report: Report, point: ReplicatorTable, table: ListTable, at: Path, own: dict[IPAddress, str]
) -> None:
    for j, receiver in enumerate(table.receivers):
        place: Path = (*at, "addresses", j)
        address = receiver.address
        if address in own:
            report.error(
                place,
                f"{address} is our own address ({own[address]}); expected that of another box: local "
                "members belong "
                "in [device]",
            )
        elif address.version != point.address.version and not report.is_damaged(("replicator", "address")):
            report.error(
                place,
                f"{address} is IPv{address.version}, but replicator.address is {point.address}; expected "
                "one IP version",
            )
    places = (((*at, "addresses", j), r.address) for j, r in enumerate(table.receivers))
    for place, _, address in repeats(places):
        report.error(place, f"{address} is given twice in this list")


def _check_nested(report: Report, table: ListTable, at: Path) -> None:
    """A list by group is nested: there is nothing to choose about its copies."""
    why = (
        "given in a list by group, whose copies are nested and carry replicator.address; expected only "
        "in a list by vni or vsid"
    )
    for name in ("encap", "source"):
        if getattr(table, name) is not None:
            report.error((*at, name), why)
    for j, receiver in enumerate(table.receivers):
        for name in ("encap", "vni", "source"):
            if getattr(receiver, name) is not None:
                report.error((*at, "addresses", j, name), why)


def _check_numbers(
    config: Config, report: Report, point: ReplicatorTable, table: ListTable, at: Path
) -> list[tuple[str, int]]:
    """Check a list by number, and give the keys it stands under."""
    key = list_key(table)
    if key is None:
        return []
    if table.vsid is not None and table.encap == "vxlan":
        report.error(
            (*at, "encap"), '"vxlan" given with vsid, which is a number of NVGRE; expected vni instead'
        )
    keys = [key]
    if key[0] == "nvgre" and not is_vsid(key[1]):
        report.error(
            (*at, "vni"),
            f"{key[1]} cannot be an NVGRE number; expected 4096 to 16777214 (RFC 7637 reserves the rest)",
        )
    for j, receiver in enumerate(table.receivers):
        keys.append(receiver_key(key, receiver, config.networks))
        differs = receiver.encap is not None or receiver.vni is not None
        is_nvgre = keys[-1][0] == "nvgre"
        if differs and is_nvgre and not is_vsid(keys[-1][1]) and not report.is_damaged((*at, "addresses", j)):
            report.error(
                (*at, "addresses", j, "vni" if receiver.vni else "encap"),
                f"{keys[-1][1]} cannot be an NVGRE number; expected a vni here from 4096 to 16777214",
            )
        if (receiver.source or table.source) == "own":
            said = (*at, "addresses", j, "source") if receiver.source else (*at, "source")
            if receiver.source or j == 0:
                report.warning(
                    said,
                    "copies carry replicator.address as source: a receiver that learns MAC addresses "
                    "from it learns "
                    'this point in the place of the sender; plain VTEPs expect "keep", the default here',
                )
    for encap, number in dict.fromkeys(keys):
        if point.vnis and not any(a <= number <= b for a, b in point.vnis):
            report.warning(
                (*at, "vsid" if table.vsid else "vni"),
                f"{encap.upper()} {number} is outside replicator.vnis, so its frames are dropped "
                "(wrong_point)",
            )
    return keys

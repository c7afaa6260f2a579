"""What takes two keys of [control], [dataplane], [[port]] and [[network]] to judge."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator
from itertools import combinations
from typing import TypeVar

from ctrl.config.finding import Path, given, nearest
from ctrl.config.numbers import number_in, vsid_of
from ctrl.config.report import Report
from ctrl.config.schema import Config, NetworkTable, PortTable
from fastpath.model import IPNetwork

GRE_IN_UDP_PORT = 4754
PORTS_MAX = 256
VXLAN_PORTS_MAX = 16
"""RFC 8086: where our nested tunnels arrive."""

# What Linux takes for an interface: 1 to 15 bytes without slash, colon and spaces.
_INTERFACE = re.compile(r"[!-.0-9;-~]{1,15}")
_LIVE_KINDS = ("packet", "xdp", "tap")


_K = TypeVar("_K", bound=Hashable)


def check_layout(config: Config, report: Report) -> None:
    """Check what stands before any role."""
    _check_control(config, report)
    _check_dataplane(config, report)
    if len(config.ports) > PORTS_MAX:
        at = ("port", PORTS_MAX)
        report.error(at, f"{len(config.ports)} ports given; the data path has room for {PORTS_MAX}")
    _check_port_names(config, report)
    for i, port in enumerate(config.ports):
        _check_port(config, report, ("port", i), port)
    _check_prefixes(config, report)
    _check_network_names(config, report)
    for i, network in enumerate(config.networks):
        _check_network(config, report, ("network", i), network)
    _check_numbers(config, report)


def repeats(places: Iterable[tuple[Path, _K]]) -> Iterator[tuple[Path, Path, _K]]:
    """Give each value that stood before: its place, the place of the first, the value."""
    first: dict[_K, Path] = {}
    for place, value in places:
        if value in first:
            yield place, first[value], value
        else:
            first[value] = place


def _check_control(config: Config, report: Report) -> None:
    http = config.control.http
    if http and not http.is_loopback:
        report.warning(
            ("control", "http"),
            f"{http} is not of this box alone: whoever reaches it can read the metrics, as nobody is asked "
            "who they are",
        )


def _check_dataplane(config: Config, report: Report) -> None:
    dataplane = config.dataplane
    at: Path = ("dataplane",)
    n_vxlan_ports = len(dataplane.vxlan_ports)
    if n_vxlan_ports > VXLAN_PORTS_MAX:
        report.error(
            (*at, "vxlan_ports"),
            f"{n_vxlan_ports} ports given; the data path has room for {VXLAN_PORTS_MAX}",
        )
    if dataplane.cpus and len(dataplane.cpus) != dataplane.workers and not report.is_damaged(at):
        report.error(
            (*at, "cpus"),
            f"{_count(len(dataplane.cpus), 'CPU')} given for {_count(dataplane.workers, 'worker')}; "
            "expected one for each worker, or none",
        )
    for place, _, cpu in repeats(((*at, "cpus", i), c) for i, c in enumerate(dataplane.cpus)):
        report.error(place, f"CPU {cpu} is given twice; expected a CPU of its own for each worker")
    for place, _, port in repeats(((*at, "vxlan_ports", i), p) for i, p in enumerate(dataplane.vxlan_ports)):
        report.error(place, f"port {port} is given twice")
    for i, port in enumerate(dataplane.vxlan_ports):
        if port == GRE_IN_UDP_PORT:
            report.error(
                (*at, "vxlan_ports", i),
                f"{port} given; that is the port of nested tunnels (GRE-in-UDP, RFC 8086), which are always "
                "expected there",
            )


def _check_port_names(config: Config, report: Report) -> None:
    names = ((("port", i, "name"), port.name) for i, port in enumerate(config.ports))
    for place, first, name in repeats(names):
        report.error(place, f"port {given(name)} is already defined in line {report.line(first)}")
    devices = (
        (("port", i, "device"), port.device or port.name)
        for i, port in enumerate(config.ports)
        if port.kind in _LIVE_KINDS
    )
    for place, first, device in repeats(devices):
        if config.ports[_index(place)].name != config.ports[_index(first)].name:  # else told above
            report.error(
                place, f"interface {given(device)} already belongs to the port in line {report.line(first)}"
            )


def _check_port(config: Config, report: Report, at: Path, port: PortTable) -> None:
    device = port.device or port.name
    if port.kind in _LIVE_KINDS and not _INTERFACE.fullmatch(device):
        taken = "" if port.device else ", which the name stands for here"
        report.error(
            (*at, "device"),
            f"{given(device)} is no name of a Linux interface{taken}; expected 1 to 15 characters",
        )
    if "vm" not in port.faces:
        if port.network is not None:
            report.error(
                (*at, "network"), 'given; expected only where faces = "vm": other frames carry their VNI'
            )
        return
    if port.network is None:
        if not report.is_damaged((*at, "network")):
            report.error(at, 'network is missing; expected the [[network]] of the VMs, as faces = "vm"')
        return
    names = [network.name for network in config.networks]
    if port.network not in names and not report.is_damaged(("network",)):
        report.error((*at, "network"), unknown(port.network, "[[network]]", names))


def unknown(name: str, table: str, names: list[str]) -> str:
    """Say that no `table` is called `name`."""
    message = f"no {table} is called {given(name)}"
    hint = nearest(name, names)
    if hint:
        return f'{message}; did you mean "{hint}"?'
    return f"{message}; expected one of {', '.join(names[:8])}" if names else message


def _check_prefixes(config: Config, report: Report) -> None:
    prefixes: list[tuple[Path, str, IPNetwork]] = [
        (("port", i, "address"), port.name, address.network)
        for i, port in enumerate(config.ports)
        for address in port.addresses
        if not address.is_link_local
    ]
    for one, other in combinations(prefixes, 2):
        if one[2].version == other[2].version and one[2].overlaps(other[2]):
            report.warning(
                other[0],
                f"{other[2]} overlaps {one[2]} of port {given(one[1])}; a peer within both is reached by "
                "the longer "
                "prefix, or the first port",
            )


def _check_network_names(config: Config, report: Report) -> None:
    names = ((("network", i, "name"), network.name) for i, network in enumerate(config.networks))
    for place, first, name in repeats(names):
        report.error(place, f"network {given(name)} is already defined in line {report.line(first)}")


def _check_network(config: Config, report: Report, at: Path, network: NetworkTable) -> None:
    for place, first, inner in repeats(
        ((*at, "map", i, "inner"), m.inner) for i, m in enumerate(network.maps)
    ):
        report.error(place, f"{inner} is already mapped in line {report.line(first)}")
    if vsid_of(network) is not None or report.is_damaged((*at, "vsid")):
        return
    why = f"vni {network.vni} cannot be its VSID too, as NVGRE reserves 0-4095 and 16777215 (RFC 7637)"
    speaking = [p.name for p in config.ports if p.encap == "nvgre" and "vm" not in p.faces]
    if network.encap == "nvgre":
        report.error(at, f"vsid is missing; {why}; expected a vsid from 4096 to 16777214")
    elif speaking:
        report.warning(
            at, f"{why}; give a vsid, or copies to port {given(speaking[0])}, which speaks NVGRE, are dropped"
        )


def _check_numbers(config: Config, report: Report) -> None:
    """A number that two networks share does not tell the group of a rewritten packet (CONFORMANCE D14)."""
    rewrites = config.device is not None and config.device.tunnel == "rewrite"
    first: dict[tuple[str, int], NetworkTable] = {}
    for i, other in enumerate(config.networks):
        numbers = [(encap, n) for encap in ("vxlan", "nvgre") if (n := number_in(other, encap)) is not None]
        shared = next((key for key in numbers if key in first), None)
        for key in numbers:
            first.setdefault(key, other)
        if shared is None:
            continue
        one = first[shared]
        place: Path = ("network", i, "vsid" if shared[0] == "nvgre" else "vni")
        name = f"{'VSID' if shared[0] == 'nvgre' else 'VNI'} {shared[1]}"
        if _groups(one) == _groups(other):
            report.warning(
                place, f"{name} is also that of network {given(one.name)}, which has the same groups"
            )
        elif rewrites:
            report.error(
                place,
                f"{name} is also that of network {given(one.name)}, which has another group; with tunnel = "
                '"rewrite" the group of a packet cannot be told from its number then: expected one '
                "group, or a "
                "[[network.map]], or nested tunnels",
            )
        else:
            report.warning(
                place,
                f"{name} is also that of network {given(one.name)}, which has another group; nested "
                "tunnels carry "
                "the group with them, but rewritten packets of this number are dropped (ambiguous_group)",
            )


def _groups(network: NetworkTable) -> Hashable:
    return network.group, frozenset((m.inner, m.group) for m in network.maps)


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _index(place: Path) -> int:
    return next(part for part in place if isinstance(part, int))

"""What is reported of links and next hops, and the words in which a change is logged.

1. A View is immutable and complete: whoever holds one may take as long as he likes.
2. The log is read off two views: one line per state change, whatever number of events made it. What
   happens to many addresses at once (a gateway lost, a device gone) is one line with their number.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface
from types import MappingProxyType

from fastpath.model import IPAddress

LOG = logging.getLogger("fastpath.netlink")
_ONE_BY_ONE = 8  # state changes of one kind on one device that get a line each; more are counted

IPInterface = IPv4Interface | IPv6Interface


@dataclass(frozen=True, slots=True)
class Link:
    """A Linux interface. `is_up`: administratively up and with carrier; `mac` zero where it has none."""

    name: str
    index: int
    mac: bytes
    mtu: int
    is_up: bool
    driver: str | None = None
    addresses: tuple[IPInterface, ...] = ()


@dataclass(frozen=True, slots=True)
class NextHop:
    """How an address is reached now.

    `device` None: no route. "lo": an address of this box. `mac` None: not resolved (yet); zero on devices
    without link addresses; the mapped address (RFC 1112, RFC 2464) for multicast.
    """

    device: str | None
    mac: bytes | None = None
    gateway: IPAddress | None = None


NO_ROUTE = NextHop(None)


@dataclass(frozen=True, slots=True)
class View:
    """The picture of a moment, of what was asked for. A link that is absent does not exist.

    `addresses`: those of all links, asked for or not.
    """

    links: Mapping[str, Link] = field(default_factory=lambda: MappingProxyType({}))
    hops: Mapping[IPAddress, NextHop] = field(default_factory=lambda: MappingProxyType({}))
    addresses: frozenset[IPAddress] = frozenset()


def log_changes(old: View, new: View, devices: Iterable[str], addresses: Iterable[IPAddress]) -> None:
    """Log what became of `devices` and `addresses` between two views."""
    for name in sorted(devices):
        _log_link(name, old.links.get(name), new.links.get(name))
    routes: dict[tuple[NextHop, NextHop], list[IPAddress]] = {}
    macs: dict[tuple[str, str | None], dict[IPAddress, tuple[bytes | None, bytes | None]]] = {}
    for address in addresses:
        was, now = old.hops.get(address), new.hops.get(address)
        if was is now or was is None or now is None or was == now:
            continue  # asked for since, or no longer
        if (was.device, was.gateway) != (now.device, now.gateway):
            key = (NextHop(was.device, None, was.gateway), NextHop(now.device, None, now.gateway))
            routes.setdefault(key, []).append(address)
        else:
            verb = "lost" if now.mac is None else "resolved" if was.mac is None else "moved"
            macs.setdefault((verb, now.device), {})[now.gateway or address] = (was.mac, now.mac)
    for (was, now), moved in routes.items():
        LOG.log(
            logging.WARNING if now.device is None else logging.INFO,
            "route moved addresses=%d first=%s device=%s gateway=%s was_device=%s was_gateway=%s",
            *(len(moved), moved[0], now.device, now.gateway, was.device, was.gateway),
        )
    for (verb, device), neighbours in macs.items():
        level = logging.WARNING if verb == "lost" else logging.INFO
        if len(neighbours) > _ONE_BY_ONE:
            LOG.log(
                level, "neighbours %s device=%s count=%d first=%s",
                *(verb, device, len(neighbours), next(iter(neighbours))),
            )  # fmt: skip
            continue
        for neighbour, (was_mac, mac) in neighbours.items():
            LOG.log(
                level, "neighbour %s device=%s address=%s mac=%s was=%s",
                *(verb, device, neighbour, _text(mac), _text(was_mac)),
            )  # fmt: skip


def _log_link(name: str, old: Link | None, new: Link | None) -> None:
    if new is None:
        if old is not None:
            LOG.warning("link gone device=%s index=%d", name, old.index)
        return
    state = "up" if new.is_up else "down"
    if old is None or old.index != new.index:
        LOG.info(
            "link found device=%s index=%d state=%s mtu=%d mac=%s driver=%s",
            *(name, new.index, state, new.mtu, _text(new.mac), new.driver),
        )
        return
    if old.is_up != new.is_up:
        LOG.log(logging.INFO if new.is_up else logging.WARNING, "link %s device=%s", state, name)
    if old.mtu != new.mtu:
        LOG.info("link mtu changed device=%s mtu=%d was=%d", name, new.mtu, old.mtu)
    if old.mac != new.mac:
        LOG.info("link mac changed device=%s mac=%s was=%s", name, _text(new.mac), _text(old.mac))


def _text(mac: bytes | None) -> str:
    return mac.hex(":") if mac is not None else "none"

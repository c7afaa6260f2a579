"""What the kernel says of links, addresses, routes and neighbours, as plain values."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from pyroute2.netlink.rtnl.ndmsg import (
    NUD_DELAY,
    NUD_NOARP,
    NUD_PERMANENT,
    NUD_PROBE,
    NUD_REACHABLE,
    NUD_STALE,
)

from ctrl.netlink.model import IPInterface

OUR_PROTOCOL = 250  # NDA_PROTOCOL: marks neighbours that we made, also for the instance after a kill -9
_USABLE: int = NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_NOARP | NUD_PERMANENT


class RouteKind(IntEnum):
    """Route types that have a next hop (linux/rtnetlink.h); all others have none."""

    UNICAST = 1
    LOCAL = 2
    BROADCAST = 3
    ANYCAST = 4
    MULTICAST = 5


class LinkNews(NamedTuple):
    """An interface as it is now, or that it is gone."""

    ifindex: int
    name: str
    mac: bytes
    mtu: int
    is_up: bool
    resolves: bool
    """Neighbours there have link addresses (Ethernet, and ARP not switched off)."""
    master: int = 0
    gone: bool = False


class AddressNews(NamedTuple):
    """An address of an interface."""

    ifindex: int
    address: IPInterface
    gone: bool = False


class Route(NamedTuple):
    """The kernel's answer for one address; `gateway` packed, of either family."""

    ifindex: int
    gateway: bytes | None
    kind: int


class RouteNews(NamedTuple):
    """That routes below a prefix may have changed; `prefix` packed, None: all of them."""

    prefix: bytes | None
    bits: int


class Target(NamedTuple):
    """A neighbour's name: a device and a packed address."""

    ifindex: int
    address: bytes


class Neighbour(NamedTuple):
    """What the kernel knows of a neighbour; state (NUD_*) 0: nothing."""

    target: Target
    state: int = 0
    mac: bytes = b""
    managed: bool = False
    """The kernel keeps it resolved by itself (NTF_EXT_MANAGED, Linux 5.16)."""
    learned: bool = False
    """Some control plane put it there and answers for it (NTF_EXT_LEARNED: EVPN)."""
    protocol: int = 0

    @property
    def usable(self) -> bool:
        return bool(self.state & _USABLE) and len(self.mac) == 6

    @property
    def permanent(self) -> bool:
        return bool(self.state & NUD_PERMANENT)

    @property
    def ours(self) -> bool:
        return self.managed and self.protocol == OUR_PROTOCOL and not self.permanent


News = LinkNews | AddressNews | RouteNews | Neighbour


class Answer(NamedTuple):
    """One message of the kernel; `error` is an errno, 0 for an acknowledgement."""

    sequence: int
    done: bool = False
    error: int = 0
    interrupted: bool = False
    news: News | Route | None = None

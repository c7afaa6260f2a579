"""Between pyroute2's rtnetlink messages and our values: what we ask, and what the kernel says.

pyroute2 codes and decodes; the sockets are ours (kernel.py), since those of its AsyncIPRoute cannot be asked
without waiting for the loop, and fail for ever once they overran (ENOBUFS). A question for a route takes
0.1 to 0.3 ms, a neighbour half of that to read.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from ipaddress import ip_interface
from socket import AF_INET, AF_INET6, AF_UNSPEC, inet_ntop, inet_pton
from typing import Any

from pyroute2 import netlink as nl
from pyroute2.netlink import rtnl
from pyroute2.netlink.exceptions import NetlinkDecodeError
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import IFF_LOOPBACK, IFF_LOWER_UP, IFF_NOARP, IFF_UP, ifinfmsg
from pyroute2.netlink.rtnl.marshal import MarshalRtnl
from pyroute2.netlink.rtnl.ndmsg import NTF_EXT_LEARNED, NTF_PROXY, NTF_USE, ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from ctrl.netlink.model import LOG
from ctrl.netlink.news import AddressNews, Answer, LinkNews, Neighbour, News, Route, RouteNews, Target

_HEADER = struct.Struct("=IHHII")  # size, type, flags, sequence, port
_FAMILY = {4: AF_INET, 16: AF_INET6}
_ANY = {AF_INET: "0.0.0.0", AF_INET6: "::"}
_KINDS = range(rtnl.rt_type["unicast"], rtnl.rt_type["multicast"] + 1)  # routes that lead somewhere
_ETHERNET = 1  # ARPHRD_ETHER
# What pyroute2 has no names for: RTEXT_FILTER_SKIP_STATS, NTF_EXT_MANAGED, RTM_F_CLONED, RTM_*NEXTHOP.
_SKIP_STATISTICS, _MANAGED, _CLONED, _NEXTHOPS = 8, 1, 0x200, {104, 105}
_ASK_AGAIN = {rtnl.RTM_NEWRULE, rtnl.RTM_DELRULE} | _NEXTHOPS
_GONE = {rtnl.RTM_DELLINK, rtnl.RTM_DELADDR, rtnl.RTM_DELNEIGH}
_CLASSES = {**MarshalRtnl.msg_map, nl.NLMSG_ERROR: nl.nlmsgerr}


def list_links(sequence: int) -> bytes:
    return encode(ifinfmsg(), rtnl.RTM_GETLINK, nl.NLM_F_DUMP, sequence, IFLA_EXT_MASK=_SKIP_STATISTICS)


def list_addresses(sequence: int) -> bytes:
    return encode(ifaddrmsg(), rtnl.RTM_GETADDR, nl.NLM_F_DUMP, sequence)


def list_neighbours(sequence: int, index: int) -> bytes:
    return encode(ndmsg(), rtnl.RTM_GETNEIGH, nl.NLM_F_DUMP, sequence, NDA_IFINDEX=index)


def ask_route(sequence: int, address: bytes) -> bytes:
    family, message = _FAMILY[len(address)], rtmsg()
    message.update(family=family, dst_len=8 * len(address))
    return encode(message, rtnl.RTM_GETROUTE, 0, sequence, RTA_DST=inet_ntop(family, address))


def ask_neighbour(sequence: int, target: Target) -> bytes:
    return _neighbour(target, rtnl.RTM_GETNEIGH, 0, sequence)


def resolve_neighbour(sequence: int, wish: Neighbour) -> bytes:
    """Have a neighbour resolved now; kept so if `managed` (before 5.16: ignored); protocol 0 leaves it.

    Never for a PERMANENT one: the kernel would make it an ordinary one.
    """
    more = {"NDA_FLAGS_EXT": _MANAGED} if wish.managed else {}
    if wish.protocol:
        more["NDA_PROTOCOL"] = wish.protocol
    flags = nl.NLM_F_ACK | nl.NLM_F_CREATE
    return _neighbour(wish.target, rtnl.RTM_NEWNEIGH, flags, sequence, NTF_USE, **more)


def forget_neighbour(sequence: int, target: Target) -> bytes:
    return _neighbour(target, rtnl.RTM_DELNEIGH, nl.NLM_F_ACK, sequence)


def _neighbour(target: Target, kind: int, flags: int, sequence: int, use: int = 0, **more: int) -> bytes:
    family, message = _FAMILY[len(target.address)], ndmsg()
    message.update(family=family, ifindex=target.ifindex, flags=use)
    return encode(message, kind, flags, sequence, NDA_DST=inet_ntop(family, target.address), **more)


def encode(message: Any, kind: int, flags: int, sequence: int, **attributes: Any) -> bytes:
    message["header"] = {"type": kind, "flags": nl.NLM_F_REQUEST | flags, "sequence_number": sequence}
    message["attrs"] = list(attributes.items())
    message.encode()
    return bytes(message.data)


def read(data: bytes, *, routes_asked: bool = False) -> Iterator[Answer]:
    """Read the messages of one datagram; of those that are no concern of ours, or unreadable, no news.

    `routes_asked`: routes in it answer `ask_route`, so they come as Route, or None where they lead nowhere.
    """
    at = 0
    while at + _HEADER.size <= len(data):
        size, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
        if size < _HEADER.size or at + size > len(data):
            return
        message = _CLASSES.get(kind, nl.nlmsg)(data[at : at + size])
        at += size + -size % 4
        news: News | Route | None = RouteNews(None, 0) if kind in _ASK_AGAIN else None
        error = errno.EPROTO if kind == nl.NLMSG_ERROR else 0  # until it is read
        try:
            message.decode()
            if kind == nl.NLMSG_ERROR:
                error = -message["error"]
            elif routes_asked and kind == rtnl.RTM_NEWROUTE:
                news = _read_route(message)
            elif type(message) in _READERS:
                news = _READERS[type(message)](message, kind in _GONE)
        except (NetlinkDecodeError, struct.error, OSError, TypeError, ValueError) as problem:
            LOG.warning("netlink message unreadable type=%d size=%d error=%r", kind, size, problem)
        yield Answer(sequence, kind == nl.NLMSG_DONE, error, bool(flags & nl.NLM_F_DUMP_INTR), news)


def _read_link(message: Any, gone: bool) -> LinkNews | None:
    if message["family"] != AF_UNSPEC:  # AF_BRIDGE: a bridge's ports come and go, not devices
        return None
    flags, is_ethernet = message["flags"], message["ifi_type"] == _ETHERNET
    return LinkNews(
        message["index"],
        os.fsdecode(message.get_attr("IFLA_IFNAME", "")),
        (is_ethernet and _mac(message.get_attr("IFLA_ADDRESS"))) or bytes(6),
        int(message.get_attr("IFLA_MTU", 0)),
        is_up=bool(flags & IFF_UP and flags & IFF_LOWER_UP),
        resolves=is_ethernet and not flags & (IFF_LOOPBACK | IFF_NOARP),
        master=int(message.get_attr("IFLA_MASTER", 0)),
        gone=gone,
    )


def _read_address(message: Any, gone: bool) -> AddressNews:
    own = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")  # the other end's, if both
    address = ip_interface((inet_pton(message["family"], own), message["prefixlen"]))
    return AddressNews(message["index"], address, gone)


def _read_neighbour(message: Any, gone: bool) -> Neighbour | None:
    family, flags = message["family"], message["flags"]
    if family not in _ANY or flags & NTF_PROXY:  # AF_BRIDGE: forwarding entries
        return None
    target = Target(message["ifindex"], inet_pton(family, message.get_attr("NDA_DST")))
    managed = bool(message.get_attr("NDA_FLAGS_EXT", 0) & _MANAGED)
    learned, protocol = bool(flags & NTF_EXT_LEARNED), int(message.get_attr("NDA_PROTOCOL", 0))
    mac = _mac(message.get_attr("NDA_LLADDR"))
    return Neighbour(target) if gone else Neighbour(target, message["state"], mac, managed, learned, protocol)


def _read_route_news(message: Any, _gone: bool) -> RouteNews | None:
    family = message["family"]
    if family not in _ANY or message["flags"] & _CLONED:  # a cache entry (path MTU), no route
        return None
    prefix, bits = inet_pton(family, message.get_attr("RTA_DST", _ANY[family])), message["dst_len"]
    return RouteNews(prefix, bits) if bits <= 8 * len(prefix) else None


def _read_route(message: Any) -> Route | None:
    family, kind, device = message["family"], message["type"], message.get_attr("RTA_OIF")
    if family not in _ANY or kind not in _KINDS or device is None:
        return None
    gateway, via = message.get_attr("RTA_GATEWAY"), message.get_attr("RTA_VIA")
    if gateway is None and via is not None:  # a gateway of the other family (RFC 8950)
        family, gateway = via["family"], via["addr"]
    return Route(int(device), inet_pton(family, gateway) if gateway else None, kind)


def _mac(text: str | None) -> bytes:
    """Read a MAC; nothing of the link addresses that are none."""
    return bytes.fromhex(text.replace(":", "")) if text and len(text) == 17 else b""


_READERS = {ifinfmsg: _read_link, ifaddrmsg: _read_address, ndmsg: _read_neighbour, rtmsg: _read_route_news}

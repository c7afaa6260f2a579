"""How single values of the config are read: text in, `ipaddress` objects and bytes out, or why not.

A reader raises through `wrong`, with a reason where the general `expected ...` of the key would not tell
enough.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)

from pydantic_core import PydanticCustomError

from ctrl.store.opening import parse_store
from fastpath.model import IPAddress, IPNetwork

IPInterface = IPv4Interface | IPv6Interface

MAX_NUMBER = 0xFFFFFF
"""The largest 24-bit VNI or VSID."""
MIN_VSID, MAX_VSID = 0x1000, 0xFFFFFE
"""The VSIDs that RFC 7637 section 3.2 does not reserve."""

SOCKET_PATH_MAX = 96
"""Bytes of a socket's path: the kernel's 107 (unix(7)), less what its name has while it is being made."""

_MAC = re.compile(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}")
_NAME = re.compile(r"[!-.0-~]{1,64}")
_RANGE = re.compile(r"(\d{1,8})(?:-(\d{1,8}))?", re.ASCII)
_HOST_PORT = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]]+)):(\d{1,5})", re.ASCII)
_HOST_NAME = re.compile(r"(?=.{1,253}$)(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")
_PASSWORD = re.compile(r":(?!//).*@")
_FACES = (("nve",), ("core",), ("vm",), ("nve", "core"))


@dataclass(frozen=True, slots=True)
class HostPort:
    """Where something listens, by its address or its name."""

    host: IPAddress | str
    port: int

    @property
    def is_ipv6(self) -> bool:
        return isinstance(self.host, IPv6Address)

    @property
    def is_loopback(self) -> bool:
        """Whether nobody but this box gets there; of names, localhost is the only one that says so (RFC 6761
        section 6.3)."""
        if isinstance(self.host, str):
            return self.host.lower() == "localhost" or self.host.lower().endswith(".localhost")
        return self.host.is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if self.is_ipv6 else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """Where a manager keeps its state: what `ctrl.store.opening` takes, and never shown with a password."""

    url: str = field(repr=False)

    def __str__(self) -> str:
        return without_password(self.url)


def without_password(url: str) -> str:
    """Write a URL, or what was meant to be one, so that it may be shown."""
    return _PASSWORD.sub(":***@", url)


def wrong(why: str = "", hint: str = "") -> PydanticCustomError:
    """The error of a value that cannot be taken; `why` follows what was given, `hint` is what was probably
    meant."""
    return PydanticCustomError("config", "{why}", {"why": why, "hint": hint})


def as_items(value: object) -> object:
    """Take a TOML array for a tuple, and nothing else for one."""
    if not isinstance(value, list):
        raise wrong()
    return tuple(value)


def as_items_or_one(value: object) -> object:
    """Take an array, or a single value for an array of one."""
    return tuple(value) if isinstance(value, list) else (value,)


def as_tables(value: object) -> object:
    """Take an array of tables; a lone `[x]` where `[[x]]` is meant is the usual mistake."""
    if isinstance(value, dict):
        raise wrong("where a list of tables is needed, which has double brackets")
    if not isinstance(value, list):
        raise wrong()
    return tuple(value)


def name(value: object) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise wrong()
    return value


def _host(address: IPAddress) -> IPAddress:
    if address.is_multicast:
        raise wrong("is a multicast group, not the address of one host")
    if isinstance(address, IPv4Address) and (address in _THIS_NET or address in _CLASS_E):
        raise wrong("is not the address of a host")
    if address.is_unspecified or address.is_loopback:
        raise wrong("is not an address that packets can travel to")
    return address


_THIS_NET = IPv4Network("0.0.0.0/8")
_CLASS_E = IPv4Network("240.0.0.0/4")


def _address(value: object) -> IPAddress:
    if not isinstance(value, str):
        raise wrong()
    if "%" in value:
        raise wrong("has a zone, which has no meaning outside of its own box")
    try:
        address = ip_address(value)
    except ValueError:
        hint = value.partition("/")[0] if "/" in value else ""
        raise wrong("is a prefix" if hint else "is not an IP address", hint) from None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        raise wrong("is an IPv4 address in IPv6 clothes", str(address.ipv4_mapped))
    return address


def unicast(value: object) -> IPAddress:
    return _host(_address(value))


_LINK_LOCAL: dict[IPNetwork, str] = {
    IPv4Network("224.0.0.0/24"): "link-local (224.0.0.0/24)",
    IPv6Network("ff02::/16"): "link-local (ff02::/16)",
    IPv6Network("ff01::/16"): "interface-local (ff01::/16)",
}


def group(value: object) -> IPAddress:
    address = _address(value)
    if not address.is_multicast:
        raise wrong("is not a multicast group")
    for prefix, kind in _LINK_LOCAL.items():
        if address in prefix:
            raise wrong(f"is {kind}: such groups belong to one link and are never tunnelled")
    return address


def _network(text: str) -> IPNetwork:
    if "%" in text:
        raise wrong("has a zone, which has no meaning outside of its own box")
    try:
        return ip_network(text)
    except ValueError:
        try:
            hint = str(ip_network(text, strict=False))
        except ValueError:
            raise wrong("is not a prefix") from None
        raise wrong("has bits set behind its prefix length", hint) from None


def _prefix(value: object) -> IPNetwork:
    """A prefix that is told apart from IPv4's, which the data path holds as ::ffff:0:0/96."""
    if not isinstance(value, str):
        raise wrong()
    prefix = _network(value)
    if isinstance(prefix, IPv6Network) and prefix.prefixlen >= 96 and prefix[0].ipv4_mapped is not None:
        raise wrong("is an IPv4 prefix in IPv6 clothes")
    return prefix


def sender_prefix(value: object) -> IPNetwork:
    prefix = _prefix(value)
    if prefix.is_multicast:
        raise wrong("is multicast, and no packet comes from a group")
    return prefix


def inner_prefix(value: object) -> IPNetwork:
    prefix = _prefix(value)
    if not prefix.is_multicast:
        raise wrong("is not within 224.0.0.0/4 or ff00::/8: only multicast destinations are mapped")
    return prefix


def interface(value: object) -> IPInterface:
    if not isinstance(value, str):
        raise wrong()
    if "/" not in value:
        raise wrong("has no prefix length")
    if "%" in value:
        raise wrong("has a zone, which has no meaning outside of its own box")
    try:
        found = ip_interface(value)
    except ValueError:
        raise wrong("is not an address with a prefix length") from None
    _host(found.ip)
    return found


def mac(value: object) -> bytes:
    if not isinstance(value, str) or not _MAC.fullmatch(value):
        raise wrong()
    found = bytes.fromhex(value.replace(":", "").replace("-", ""))
    if found == bytes(6):
        raise wrong("is no address of a station")
    if found[0] & 1:
        raise wrong("is a group address: the lowest bit of its first byte is set")
    return found


def faces(value: object) -> tuple[str, ...]:
    words = value if isinstance(value, list) else [value]
    if "vm" in words and len(words) > 1:
        raise wrong(
            'mixes "vm" with another: a VM\'s own frames carry no tunnel, so they need a port of their own'
        )
    found = tuple(w for w in ("nve", "core", "vm") if w in words)
    if found not in _FACES or len(words) != len(found):
        raise wrong()
    return found


def bum_receivers(value: object) -> tuple[IPAddress, ...]:
    """Who gets BUM frames of an NVE: `"group"` is nobody by name, else one address or a list of them."""
    if value == "group":
        return ()
    if not isinstance(value, list):
        return (unicast(value),)
    if not value:
        raise wrong()
    return tuple(unicast(item) for item in value)


def vni_range(value: object) -> tuple[int, int]:
    """`300`, `"300"` or `"100-199"`, both ends included."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    match = _RANGE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise wrong()
    first = int(match[1])
    last = int(match[2] or match[1])
    if first > last:
        raise wrong("runs backwards", f"{last}-{first}")
    if not 1 <= first <= last <= MAX_NUMBER:
        raise wrong()
    return first, last


def mtu(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or (value != 0 and not 576 <= value <= 65535):
        raise wrong()
    return value


def as_receivers(value: object) -> object:
    """Take plain addresses among a replicator list's `addresses` for tables that give nothing else."""
    if not isinstance(value, list):
        raise wrong()
    return tuple(item if isinstance(item, dict) else {"address": item} for item in value)


def socket_path(value: object) -> str:
    """A path for a unix socket; empty for none."""
    if not isinstance(value, str):
        raise wrong()
    if not value:
        return value
    if not value.startswith("/"):
        raise wrong("does not begin with /")
    if value.endswith("/") or not value.isprintable():
        raise wrong("is no name of a file")
    if len(value.encode("utf-8", "surrogateescape")) > SOCKET_PATH_MAX:
        raise wrong("is too long for a socket")
    return value


def listen_on(value: object) -> HostPort:
    """`127.0.0.1:9473` or `[::1]:9473`."""
    host, port = _host_port(value)
    if isinstance(host, str):
        raise wrong("has no IP address before its port")
    if host.is_multicast:
        raise wrong()
    return HostPort(host, port)


def listen_on_or_not(value: object) -> HostPort | None:
    """The same, or empty for none."""
    return None if value == "" else listen_on(value)


_MANAGER_PORT = 9470


def manager_address(value: object) -> HostPort:
    """`10.0.0.100:9470`, `[2001:db8::1]:9470` or `manager.example:9470`."""
    if isinstance(value, str) and ":" not in value and _HOST_NAME.fullmatch(value):
        raise wrong("has no port", f"{value}:{_MANAGER_PORT}")
    host, port = _host_port(value)
    if isinstance(host, str):
        if not _HOST_NAME.fullmatch(host) or host.replace(".", "").isdigit():
            raise wrong("has neither an address nor a name before its port")
    elif host.is_multicast or host.is_unspecified:
        raise wrong("is not the address of one host")
    return HostPort(host, port)


def _host_port(value: object) -> tuple[IPAddress | str, int]:
    """An address or a word, and the port behind it."""
    if not isinstance(value, str):
        raise wrong()
    match = _HOST_PORT.fullmatch(value)
    if match is None:
        hint = re.fullmatch(r"(.*:.*):(\d+)", value)
        raise wrong("", f"[{hint[1]}]:{hint[2]}" if hint else "")
    if not 1 <= int(match[3]) <= 65535:
        raise wrong()
    host: IPAddress | str
    try:
        host = ip_address(match[1] or match[2])
    except ValueError:
        host = match[2] or ""
    if match[1] is not None and not isinstance(host, IPv6Address):
        raise wrong("has brackets, which are for IPv6")
    return host, int(match[3])


def store_url(value: object) -> StoreUrl:
    if not isinstance(value, str) or not value.isprintable():
        raise wrong()
    try:
        parse_store(value)
    except ValueError as problem:
        # a password with a / or an @ of its own would stand in the words about what was taken for a host
        raise wrong("cannot be used" if "@" in value else f"cannot be used ({problem})") from None
    return StoreUrl(value)


def state_path(value: object) -> str:
    """A path for a file of ours; empty for none."""
    if not isinstance(value, str):
        raise wrong()
    if value and not value.startswith("/"):
        raise wrong("does not begin with /")
    return file_name(value) if value else value


def file_name(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise wrong()
    if value.endswith("/") or not value.isprintable():
        raise wrong("is no name of a file")
    return value


def probe_interval(value: object) -> int:
    """Milliseconds between probes; 0 for none."""
    if not isinstance(value, int) or isinstance(value, bool) or (value != 0 and not 10 <= value <= 60_000):
        raise wrong()
    return value

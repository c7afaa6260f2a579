"""Which store a URL names, and its opening.

`sqlite:///PATH`: one file, of one manager; the path is absolute.
`etcd://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT] ...][/PREFIX]`: an etcd cluster (port 2379, prefix fastpath).
`etcds://`: the same by TLS; `ca` of [tls] says whom to believe, its `cert` and `key` who we are; without
[tls] the system's authorities are believed. What is special in user, password and prefix is written as %xx.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from ctrl.store.model import Store

if TYPE_CHECKING:
    from ctrl.rpc.tls import TlsFiles

ETCD_PORT = 2379
PREFIX = "fastpath"
FORMS = "sqlite:///PATH or etcd://HOST:PORT,HOST:PORT/PREFIX (etcds:// for TLS)"


def state_folder() -> Path:
    """Where a box keeps what it knows, if its config names no place: where whoever started it says so as
    systemd does (StateDirectory= in systemd.exec), else in /var/lib/fastpath."""
    return Path(os.environ.get("STATE_DIRECTORY", "").partition(":")[0] or "/var/lib/fastpath")


@dataclass(frozen=True, slots=True)
class SqliteUrl:
    path: Path


@dataclass(frozen=True, slots=True)
class EtcdUrl:
    endpoints: Sequence[tuple[str, int]]
    prefix: str
    is_tls: bool
    user: str = ""
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        """Name it, without the password."""
        return f"etcd{'s' if self.is_tls else ''}://{','.join(self.hosts)}/{self.prefix}"

    @property
    def hosts(self) -> list[str]:
        """The endpoints, as HOST:PORT."""
        return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.endpoints]


def parse_store(url: str) -> SqliteUrl | EtcdUrl:
    """Read a store's URL; ValueError says what is wrong with it and what is expected, never a password."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "sqlite":
        if not rest.startswith("/") or rest.strip("/") == "" or rest.endswith("/"):
            raise ValueError(
                "expected sqlite:///PATH with an absolute path, as sqlite:///var/lib/fastpath/manager.db"
            )
        return SqliteUrl(Path("/" + rest.lstrip("/")))
    if separator and scheme in {"etcd", "etcds"}:
        return _parse_etcd(rest, is_tls=scheme == "etcds")
    raise ValueError(f"no store of a known kind: expected {FORMS}")


def _parse_etcd(rest: str, *, is_tls: bool) -> EtcdUrl:
    hosts, _, prefix = rest.partition("/")
    if "@" in prefix:  # most likely of a password: none of it is shown
        raise ValueError(
            "what is special in user, password and prefix is to be written as %xx (/ as %2f, @ as %40)"
        )
    login, at, hosts = hosts.rpartition("@")
    user, colon, password = login.partition(":")
    if at and not (user and colon and password):
        raise ValueError("expected USER:PASSWORD before the @")
    prefix = unquote(prefix).strip("/") or PREFIX
    if not prefix.isprintable() or "?" in prefix or "#" in prefix:
        raise ValueError("expected a prefix of plain letters after the hosts, as in etcd://h1:2379/fastpath")
    endpoints = [_parse_endpoint(host.strip()) for host in hosts.split(",")]
    if len(set(endpoints)) < len(endpoints):
        raise ValueError("the same host and port twice")
    return EtcdUrl(tuple(endpoints), prefix, is_tls, unquote(user), unquote(password))


def _parse_endpoint(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if text.endswith("]") or not colon:
        host, port = text, str(ETCD_PORT)
    is_bracketed = host.startswith("[") and host.endswith("]")
    host = host.strip("[]")
    if not host or (":" in host) != is_bracketed or any(letter in host for letter in " /?#@"):
        raise ValueError(f"expected HOST:PORT (an IPv6 address in brackets), not {text!r}")
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f"expected a port from 1 to 65535, not {port!r} in {text!r}")
    return host, int(port)


async def open_store(url: str, tls: TlsFiles | None = None) -> Store:
    """Open the store of this URL for the running loop. ValueError: no such URL; StoreError: not usable."""
    place = parse_store(url)
    # each has its own libraries, and a command that opens no store waits for none of them
    if isinstance(place, SqliteUrl):
        from ctrl.store.sqlite import SqliteStore  # noqa: PLC0415

        return await SqliteStore.open(place.path)
    from ctrl.store.etcd import EtcdStore  # noqa: PLC0415

    return await EtcdStore.open(place, tls)

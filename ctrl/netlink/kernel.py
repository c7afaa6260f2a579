"""The kernel's side: two netlink sockets, one that listens and one that asks.

1. Questions are answered within the system call that asks them, so nothing here waits: whoever has many
   of them asks in chunks (`CHUNK`) and lets others run in between.
2. Two sockets, so that a flood of events never swallows an answer. An event may then be older than an
   answer that was read before it; the newest event comes last, so the end is right all the same.
3. Both sockets belong to the network namespace of the thread that made them.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Protocol, TypeVar

from pyroute2.netlink import NETLINK_ADD_MEMBERSHIP, NETLINK_ROUTE, SOL_NETLINK, rtnl

from ctrl.netlink import messages
from ctrl.netlink.news import AddressNews, Answer, LinkNews, Neighbour, News, Route, Target

CHUNK = 64  # questions in one system call; their answers fit the smallest receive buffer
_T = TypeVar("_T")
_LISTEN_BYTES = 16 << 20  # 30,000 routes at once: they come faster than they are read (0.1 ms each)
_DATAGRAM = 1 << 16
_SO_RCVBUFFORCE = 33
# What announces whatever can change a next hop.
_GROUPS = (
    *(rtnl.RTNLGRP_LINK, rtnl.RTNLGRP_NEIGH, rtnl.RTNLGRP_IPV4_IFADDR, rtnl.RTNLGRP_IPV6_IFADDR),
    *(rtnl.RTNLGRP_IPV4_ROUTE, rtnl.RTNLGRP_IPV6_ROUTE, rtnl.RTNLGRP_IPV4_RULE, rtnl.RTNLGRP_IPV6_RULE),
)
_NEXTHOP = 32  # RTNLGRP_NEXTHOP, not among pyroute2's constants; Linux 5.3
_TRIES = 5  # at a dump that changes meanwhile
_SIOCETHTOOL, _GET_DRIVER = 0x8946, 0x3


class Overrun(Exception):
    """Events were lost: what is known has to be read again as a whole."""


class Kernel(Protocol):
    """What a Watch wants of a kernel, real or made up. None of these waits; all raise OSError."""

    def fileno(self) -> int: ...
    def events(self, at_most: int) -> Iterator[News]: ...
    def links(self) -> tuple[list[LinkNews], list[AddressNews]]: ...
    def driver(self, device: str) -> str | None: ...
    def routes(self, addresses: Sequence[bytes]) -> list[Route | None]: ...
    def neighbours(self, targets: Sequence[Target]) -> list[Neighbour]: ...
    def left_behind(self, index: int) -> list[Neighbour]: ...
    def resolve(self, wishes: Sequence[Neighbour]) -> list[int]: ...
    def forget(self, targets: Sequence[Target]) -> None: ...
    def close(self) -> None: ...


class Netlink:
    """The kernel of this network namespace. Raises OSError where it has no netlink."""

    def __init__(self, listen_bytes: int = _LISTEN_BYTES) -> None:
        self._sequence = 0
        rtnetlink = (socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE)
        self._asking, self._listening = socket.socket(*rtnetlink), socket.socket(*rtnetlink)
        try:
            self._asking.bind((0, 0))
            self._asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            self._listening.setblocking(False)
            try:
                self._listening.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, listen_bytes)
            except PermissionError:
                self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, listen_bytes)
            self._listening.bind((0, 0))
            for group in _GROUPS:
                self._join(group)
            with suppress(OSError):
                self._join(_NEXTHOP)
        except BaseException:
            self.close()
            raise

    def _join(self, group: int) -> None:
        self._listening.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)

    def close(self) -> None:
        self._asking.close()
        self._listening.close()

    def fileno(self) -> int:
        """Readable when there are events."""
        return self._listening.fileno()

    def events(self, at_most: int) -> Iterator[News]:
        """Read what has happened, up to `at_most` datagrams. Raises Overrun."""
        for _ in range(at_most):
            try:
                data, sender = self._listening.recvfrom(_DATAGRAM)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    raise Overrun from None
                raise
            if sender[0] != 0:  # not the kernel: any process may send here
                continue
            for answer in messages.read(data):
                if answer.news is not None and not isinstance(answer.news, Route):
                    yield answer.news

    def links(self) -> tuple[list[LinkNews], list[AddressNews]]:
        """List all interfaces and their addresses."""
        links = [link for link in self._list(messages.list_links) if isinstance(link, LinkNews)]
        listed = self._list(messages.list_addresses)
        return links, [address for address in listed if isinstance(address, AddressNews)]

    def driver(self, device: str) -> str | None:
        """Name the driver of a device, as `ethtool -i` does."""
        buffer = array.array("B", struct.pack("=I192x", _GET_DRIVER))
        request = struct.pack("16sP16x", os.fsencode(device)[:15], buffer.buffer_info()[0])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            try:
                fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
            except OSError:
                return None
        return buffer[4:36].tobytes().rstrip(b"\0").decode(errors="replace") or None

    def routes(self, addresses: Sequence[bytes]) -> list[Route | None]:
        """Look each packed address up in the kernel's own FIB, policy rules included; None: no way."""
        answers = self._ask(messages.ask_route, addresses, routes_asked=True)
        return [answer.news if isinstance(answer.news, Route) else None for answer in answers]

    def neighbours(self, targets: Sequence[Target]) -> list[Neighbour]:
        """Look each neighbour up in the kernel's table."""
        answers = self._ask(messages.ask_neighbour, targets)
        return [
            answer.news if isinstance(answer.news, Neighbour) else Neighbour(target)
            for answer, target in zip(answers, targets, strict=True)
        ]

    def left_behind(self, index: int) -> list[Neighbour]:
        """List the neighbours of a device that an instance of ours made, this one or one that was killed."""
        listed = self._list(lambda sequence: messages.list_neighbours(sequence, index))
        return [n for n in listed if isinstance(n, Neighbour) and n.target.ifindex == index and n.ours]

    def resolve(self, wishes: Sequence[Neighbour]) -> list[int]:
        """Have neighbours resolved, as `messages.resolve_neighbour` says; an errno for each, 0 for done."""
        return [answer.error for answer in self._ask(messages.resolve_neighbour, wishes)]

    def forget(self, targets: Sequence[Target]) -> None:
        """Remove those of these neighbours that we made and nobody else has made his own since."""
        ours = [neighbour.target for neighbour in self.neighbours(targets) if neighbour.ours]
        self._ask(messages.forget_neighbour, ours)

    def _ask(
        self, question: Callable[[int, _T], bytes], about: Sequence[_T], *, routes_asked: bool = False
    ) -> list[Answer]:
        answers = []
        for at in range(0, len(about), CHUNK):
            chunk = about[at : at + CHUNK]
            first = self._next(len(chunk))
            self._asking.send(b"".join(question(first + i, each) for i, each in enumerate(chunk)))
            found: dict[int, Answer] = {}
            while len(found) < len(chunk):
                for answer in messages.read(self._receive(), routes_asked=routes_asked):
                    if first <= answer.sequence < first + len(chunk):
                        found[answer.sequence] = answer
            answers += [found[first + i] for i in range(len(chunk))]
        return answers

    def _list(self, question: Callable[[int], bytes]) -> list[object]:
        found: list[object] = []
        for _ in range(_TRIES):
            sequence = self._next(1)
            self._asking.send(question(sequence))
            found, done, interrupted = [], False, False
            while not done:
                for answer in messages.read(self._receive()):
                    if answer.sequence != sequence:
                        continue
                    if answer.error:
                        raise OSError(answer.error, os.strerror(answer.error))
                    done |= answer.done
                    interrupted |= answer.interrupted
                    found.append(answer.news)
            if not interrupted:
                break
        return found

    def _next(self, count: int) -> int:
        if self._sequence + count >= 1 << 32:
            self._sequence = 0
        first = self._sequence + 1
        self._sequence += count
        return first

    def _receive(self) -> bytes:
        # The answers are there when send() returns, and none is lost in a buffer that holds a whole chunk: if
        # the kernel says otherwise that is an error to see, not a moment to wait for.
        return self._asking.recv(_DATAGRAM, socket.MSG_DONTWAIT)

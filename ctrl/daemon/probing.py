"""BFD on the running loop: a device probes its points, a point answers those that it takes packets from.

1. The sockets are the kernel's, on an address that it owns: multihop control packets (RFC 5883), port 4784.
   One socket sends for all sessions: RFC 5881 section 4 would like a source port each, at 3,000 sessions a
   descriptor each, and asks receivers to go by discriminators all the same.
2. Before silence is judged all that came is read; as long as there is more than a turn reads, nobody is.
   So a loop that is busy for a while, or a process that was stopped, hears late, and takes nobody for dead.
3. Turns are TURN_S apart, whatever comes: many sessions share them.
"""

from __future__ import annotations

import asyncio
import errno
import random
import socket
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from struct import unpack_from

from ctrl.protocols import bfd
from ctrl.protocols.bfd_table import Row, Settings, Table
from ctrl.topology.entry import Address

TURN_S = 0.005
READS = 512
"""Packets read in a turn."""
BUFFER_BYTES = 4 << 20
"""Of what waits to be read: a second and more of what a point lets itself be sent."""

IP_RECVTTL, SO_RCVBUFFORCE, SO_MEMINFO = 12, 33, 55  # Linux; the socket module does not name them
CLASS_SELECTOR_6 = 0xC0
SOURCE_PORTS = range(49152, 65536)
"""RFC 5881 section 4."""


class _Endpoint:
    """The sessions of an own address. OSError where the kernel cannot serve it, in a sentence."""

    def __init__(
        self,
        own: Address,
        settings: Settings,
        on_state: Callable[[Address, bool], None],
        is_allowed: Callable[[Address], bool] | None,
    ) -> None:
        self._family = socket.AF_INET if len(own) == 4 else socket.AF_INET6
        self._on_state = on_state
        self._loop = asyncio.get_running_loop()
        self._counts: Counter[str] = Counter()
        allowed = None if is_allowed is None else lambda peer: is_allowed(self._packed(peer))
        self._table = Table(settings, random.SystemRandom().random, allowed, self._loop.time())
        self._handle: asyncio.Handle | None = None
        self._in, self._out = _open(self._family, socket.inet_ntop(self._family, own))
        self._is_open = True
        self._listen()

    def _packed(self, peer: str) -> Address:
        return socket.inet_pton(self._family, peer.partition("%")[0])

    def rows(self) -> list[Row]:
        """Show the sessions."""
        return self._table.rows(self._loop.time())

    @property
    def counts(self) -> Mapping[str, int]:
        """`heard` and `sent` packets, and those that were refused, by their names in `ctrl.refusals`."""
        counts = self._counts + self._table.refused
        if self._is_open:
            with suppress(OSError):
                counts["overrun"] = unpack_from(
                    "=9I", self._in.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36)
                )[8]
        return counts

    def close(self) -> None:
        """End all sessions: the peers are told, and go down at once. Closing twice does nothing more."""
        if not self._is_open:
            return
        self._is_open = False
        self._table.close(self._loop.time())
        self._send()
        self._loop.remove_reader(self._in.fileno())
        if self._handle is not None:
            self._handle.cancel()
        self._in.close()
        self._out.close()

    def _want(self, addresses: AbstractSet[Address]) -> None:
        peers = {socket.inet_ntop(self._family, one) for one in addresses if len(one) == self._size}
        self._table.want(peers, self._loop.time())
        self._hurry()

    @property
    def _size(self) -> int:
        return 4 if self._family == socket.AF_INET else 16

    def _hurry(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop.call_soon(self._turn)

    def _listen(self) -> None:
        """Wait for a packet, or for what is due."""
        deadline_s = self._table.deadline_s
        if deadline_s <= self._loop.time():
            self._turn()
            return
        self._loop.add_reader(self._in.fileno(), self._turn)
        self._handle = self._loop.call_at(deadline_s, self._turn) if deadline_s < float("inf") else None

    def _turn(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        is_all_heard = self._read()
        self._table.poll(self._loop.time(), is_behind=not is_all_heard)
        self._send()
        self._loop.remove_reader(self._in.fileno())
        if is_all_heard:
            self._handle = self._loop.call_later(TURN_S, self._listen)
        else:
            self._handle = self._loop.call_soon(self._turn)
        for peer, is_up in self._table.take_changes():
            self._on_state(self._packed(peer), is_up)

    def _read(self) -> bool:
        """Hear what came; False if there is more."""
        now_s = self._loop.time()
        receive, hear = self._in.recvmsg, self._table.hear
        n = 0
        try:
            while n < READS:
                data, ancillary, _, source = receive(256, 32)
                n += 1
                ttl = int.from_bytes(ancillary[0][2], sys.byteorder) if ancillary else 0
                hear(data, source[0], ttl, now_s)
        except BlockingIOError:
            return True
        except OSError:  # the interface or the address went away; the timer comes back to it
            return True
        finally:
            self._counts["heard"] += n
        return False

    def _send(self) -> None:
        send = self._out.sendto
        for peer, packet in self._table.take_packets():
            try:
                send(packet, (peer, bfd.PORT))
            except OSError:
                self._counts["not_sent"] += 1
            else:
                self._counts["sent"] += 1


class Prober(_Endpoint):
    """The device's side. `on_state` is told when a wanted address goes up or down; before that it is unknown.

    One that never answers is down after `multiplier` seconds. OSError, in a sentence, if `own` is not an
    address of this kernel, or somebody else speaks BFD on it.
    """

    def __init__(
        self, own: Address, interval_s: float, multiplier: int, on_state: Callable[[Address, bool], None]
    ) -> None:
        super().__init__(own, Settings(interval_s, multiplier), on_state, None)

    def want(self, addresses: AbstractSet[Address]) -> None:
        """Probe these addresses, those of the other family excepted, and no others any more."""
        self._want(addresses)


class Responder(_Endpoint):
    """The point's side: it answers the addresses of which `is_allowed` says so, `max_sessions` at most.

    With many of them it asks for slower packets, 2,000 a second together (from about 500 on), and sends 8,000
    at most (from about 2,000 on: 3,000 find it gone within 2 s). OSError as for `Prober`.
    """

    def __init__(
        self,
        own: Address,
        is_allowed: Callable[[Address], bool],
        interval_s: float = 0.3,
        multiplier: int = 3,
        max_sessions: int = 4096,
    ) -> None:
        super().__init__(own, Settings(interval_s, multiplier, max_sessions), _nobody_asked, is_allowed)


def _nobody_asked(address: Address, is_up: bool) -> None:
    """Take the states of those that were not asked for: nobody goes by them."""


def _open(family: socket.AddressFamily, own: str) -> tuple[socket.socket, socket.socket]:
    """Open the socket that hears, and the one that sends."""
    heard = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sent = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET:
            heard.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
            sent.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, bfd.SENT_TTL)
            sent.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, CLASS_SELECTOR_6)
        else:
            heard.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
            sent.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, bfd.SENT_TTL)
            sent.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, CLASS_SELECTOR_6)
        _widen(heard)
        sent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # nobody reads it
        heard.bind((own, bfd.PORT))
        _bind_source(sent, own)
    except OSError as error:
        heard.close()
        sent.close()
        raise OSError(error.errno, f"BFD cannot run on {own}: {_why(error)}") from None
    return heard, sent


def _widen(heard: socket.socket) -> None:
    try:
        heard.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    except PermissionError:  # as much as net.core.rmem_max has it
        heard.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)


def _bind_source(sent: socket.socket, own: str) -> None:
    for port in random.sample(SOURCE_PORTS, 64):
        try:
            sent.bind((own, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return
    raise OSError(errno.EADDRINUSE, "64 source ports that were tried are in use")


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRNOTAVAIL:
        return "no interface of this kernel has the address"
    if error.errno == errno.EADDRINUSE:
        return f"another program speaks BFD there already (UDP port {bfd.PORT})"
    return error.strerror or str(error)

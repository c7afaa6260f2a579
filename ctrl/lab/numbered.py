"""Numbered frames to many, at a steady pace, while something happens; who heard which of them, and when.

A thread sends and hears, by sockets of the boxes. Times are the kernel's, and sockets hold what comes in
seconds: a thread that is late makes no gap and loses nothing.
"""

from __future__ import annotations

import secrets
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Self

DISCARD = 9  # RFC 863
NUMBER = struct.Struct(">QI")
"""What is sent: whose it is, and the number."""
_SO_TIMESTAMPNS = 35  # <asm-generic/socket.h>; socket has no name for it
_TIMESPEC = struct.Struct("@qq")
_SO_RCVBUFFORCE, _SO_MEMINFO = 33, 55
_IP_MULTICAST_ALL = 49  # <linux/in.h>
_MEMINFO = struct.Struct("@9I")
"""<linux/sock_diag.h>; the last is what the socket had no room for."""
_ROOM_BYTES = 8 << 20
"""Of a frame the kernel counts 832 bytes: 10,000, where its default holds 256."""
_WAY_S = 0.3
"""How long the last ones may take."""


@dataclass(slots=True)
class Heard:
    """What one of them heard: how often each number, and when one came last."""

    last_s: float
    """When one came last, by the wall clock; at first, when sending began."""
    silence_s: float = 0.0
    """The longest time without any."""
    numbers: Counter[int] = field(default_factory=Counter)
    overrun: int = 0
    """Frames, of any sender, that came and found the listener's socket full."""

    def take(self, number: int, at_s: float) -> None:
        self.numbers[number] += 1
        self.silence_s = max(self.silence_s, at_s - self.last_s)
        self.last_s = at_s

    @property
    def doubled(self) -> int:
        """Copies too many."""
        return self.numbers.total() - len(self.numbers)


class Numbered:
    """Sends from one to all while it is entered; afterwards `sent`, and what each of the others `heard`."""

    def __init__(
        self, sender: socket.socket, to: str, listeners: Mapping[str, socket.socket], rate: float
    ) -> None:
        """`sender` and `listeners`: from `sending` and `hearing`, closed in the end."""
        self.sent = 0
        self.heard = {name: Heard(time.time()) for name in listeners}
        self._sender, self._to, self._rate = sender, to, rate
        self._names = {listener: name for name, listener in listeners.items()}
        self._who = secrets.randbits(64)  # others may send to the same listeners
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="numbered")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        for listener, name in self._names.items():
            about = listener.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
            self.heard[name].overrun = _MEMINFO.unpack(about)[-1]
        for one in (self._sender, *self._names):
            one.close()

    def _run(self) -> None:
        begin = time.monotonic()
        while not self._stopped.is_set():
            is_due = self.sent < (time.monotonic() - begin) * self._rate
            if is_due:
                self._sender.sendto(NUMBER.pack(self._who, self.sent), (self._to, DISCARD))
                self.sent += 1
            self._hear(0.0 if is_due else 1 / self._rate)  # who is late with many does not stop hearing
        end = time.monotonic() + _WAY_S
        while self._hear(max(0.0, end - time.monotonic())):
            pass  # at last what came in time, and was not read in time

    def _hear(self, within_s: float) -> bool:
        """Take one frame of each listener that has any; False: none had."""
        ready = select.select([*self._names], [], [], within_s)[0]
        for listener in ready:
            data, extras, _, _ = listener.recvmsg(64, 64)
            seconds, ns = _TIMESPEC.unpack(extras[0][2])
            who, number = NUMBER.unpack(data)
            if who == self._who:
                self.heard[self._names[listener]].take(number, seconds + ns / 1e9)
        return bool(ready)


def sending(device: str = "") -> socket.socket:
    """Open a socket that sends to everybody, or by a device to groups, in the namespace of the caller."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    if device:
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, _by(device))
    return made


def hearing(device: str, *groups: str) -> socket.socket:
    """Open a socket that hears what comes by a device to everybody, and to groups, which it joins there; in
    the namespace of the caller."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM_BYTES)  # as much of it as anyone may have
    with suppress(PermissionError):  # in a user namespace
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM_BYTES)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    made.bind(("", DISCARD))
    made.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)  # its own groups, not those of its neighbours
    for group in groups:
        made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, _by(device, group))
    return made


def _by(device: str, group: str = "0.0.0.0") -> bytes:
    """A struct ip_mreqn."""
    return socket.inet_aton(group) + struct.pack("=4xi", socket.if_nametoindex(device))

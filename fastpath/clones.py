"""Fan-out by in-kernel clones: one send, whatever the number of receivers; all copies share what they carry.

1. We send to a private device, whose egress program makes the copies: for each it writes a head over the
   frame's first bytes and sends a clone of it out of an interface. The device itself transmits nothing.
2. Heads are made by us, as for every other way to send, and stand in a table that we and the program share.
   The program knows no lists, no forms and no IP: what a copy looks like is said in one place (`_copy.pxd`).
3. The program runs inside of our own call to send. When that returns, the outcome of each copy stands beside
   its head, and the table is free again: nothing is in flight between two calls, and a new FIB needs no care.
4. A frame on the device names heads only if it begins with our magic number, where the sender's MAC would
   stand: whatever else the kernel sends there is dropped.
5. Device, program and table belong to descriptors of ours alone, and go with them, by kill -9 too: the device
   is a TAP that does not persist, and the program is attached to it, so it needs no link (tcx: kernel 6.6).

One program run is at most `TURNS` copies: so many clones are on their way before any receiver runs, and
net.core.netdev_max_backlog (1000) must have room for them.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from fastpath import bpf
from fastpath._port import IoPort
from fastpath.bpf import DOUBLE, HALF, R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10, WORD, Label
from fastpath.io._clones import (
    HEAD_AT,
    HEAD_ROOM,
    HEAD_SIZE_MIN,
    IFINDEX_AT,
    MAGIC,
    OUTCOME_AT,
    RECORD_SIZE,
    TURNS,
    UNTOLD,
    CloneMessages,
    ClonesIo,
)

__all__ = ["TURNS", "ClonePort", "Clones", "clone_program", "order"]

Program = list[bpf.Instruction | Label]

# struct __sk_buff
_DATA, _DATA_END = 76, 80
_STOLEN, _DROP = 4, 2  # linux/pkt_cls.h, TC_ACT_*

# Of if_tun.h, if_ether.h, if_packet.h, sockios.h and ethtool.h in linux/
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x400454CA, 2, 0x1000, 0x4000
_ETH_P_IP = 0x0800
_SOL_PACKET, _VNET_HDR = 263, 15
_VNET_SIZE, _NEEDS_CSUM, _GSO_UDP_L4 = 10, 1, 5  # linux/virtio_net.h
_SIOCETHTOOL, _GET_SET_INFO, _GET_STRINGS, _GET_FEATURES, _FEATURES = 0x8946, 0x37, 0x1B, 0x3A, 4
_SO_SNDBUFFORCE, _SEND_BUFFER = 32, 1 << 24

_ORDER = struct.Struct("=IHHI")


def order(first: int, n: int, head_size: int) -> bytes:
    """Say which heads to use: what a frame on the device has in the place of its MAC addresses."""
    return _ORDER.pack(first, n, head_size, MAGIC)


def clone_program(table: int, n_records: int) -> Program:
    """Write the program for a table, an array of one value, of so many records (at least `TURNS`)."""
    return [
        bpf.mov(R6, R1),
        bpf.load(WORD, R2, R6, _DATA),
        bpf.load(WORD, R3, R6, _DATA_END),
        bpf.mov(R1, R2),
        bpf.alu("add", R1, _ORDER.size),
        bpf.jump("not ours", ">", R1, R3),
        bpf.load(WORD, R1, R2, 8),
        bpf.jump("not ours", "!=", R1, MAGIC, bits=32),
        bpf.load(WORD, R7, R2, 0),
        bpf.jump("not ours", ">", R7, n_records - TURNS),
        bpf.load(HALF, R1, R2, 4),
        bpf.store(DOUBLE, R10, -8, R1),
        bpf.load(HALF, R9, R2, 6),
        bpf.jump("not ours", "<", R9, HEAD_SIZE_MIN),
        bpf.jump("not ours", ">", R9, HEAD_ROOM),
        bpf.alu("mul", R7, RECORD_SIZE),
        bpf.load_value(R1, table),
        bpf.alu("add", R7, R1),
        bpf.mov(R8, 0),  # counts turns: the verifier wants to see an end
        Label("next"),
        bpf.load(DOUBLE, R1, R10, -8),
        bpf.jump("done", ">=", R8, R1),
        bpf.mov(R1, R6),
        bpf.mov(R2, 0),
        bpf.mov(R3, R7),
        bpf.alu("add", R3, HEAD_AT),
        bpf.mov(R4, R9),
        bpf.mov(R5, 0),
        bpf.call(bpf.HELPER_STORE_BYTES),
        bpf.jump("told", "!=", R0, 0),
        bpf.mov(R1, R6),
        bpf.load(WORD, R2, R7, IFINDEX_AT),
        bpf.mov(R3, 0),
        bpf.call(bpf.HELPER_CLONE_REDIRECT),
        Label("told"),
        bpf.store(WORD, R7, OUTCOME_AT, R0),
        bpf.alu("add", R8, 1),
        bpf.jump("done", "==", R8, TURNS),  # without CAP_PERFMON no pointer may leave the table
        bpf.alu("add", R7, RECORD_SIZE),
        bpf.jump("next"),
        Label("done"),
        bpf.mov(R0, _STOLEN),  # dropping would make the send fail
        bpf.leave(),
        Label("not ours"),
        bpf.mov(R0, _DROP),
        bpf.leave(),
    ]


class Clones:
    """The private device of one worker, its program, and the table of heads; several ports may share it.

    Made in the network namespace of the calling thread, where the interfaces must be as well. OSError that
    names the step where the system refuses: it takes CAP_BPF and CAP_NET_ADMIN, and /dev/net/tun.
    `attach(index, program)` lets the device run the program on what it is to send, and brings it up.
    """

    def __init__(self, attach: Callable[[int, int], None], n_records: int = TURNS) -> None:
        if reason := bpf.available():
            raise OSError(errno.EPERM, reason)
        with ExitStack() as opened:
            size = n_records * RECORD_SIZE
            table = bpf.create_map(bpf.MapKind.ARRAY, 4, size, 1, "fp_heads", shared=True)
            opened.callback(os.close, table)
            self.table = mmap.mmap(table, size)
            """Records of `RECORD_SIZE` bytes: an interface's index, the outcome, a head."""
            opened.callback(self.table.close)
            program = bpf.load_program(
                bpf.ProgramKind.SCHED_CLS, clone_program(table, n_records), "fp_clones"
            )
            opened.callback(os.close, program)
            with _step("/dev/net/tun"):
                tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            opened.callback(os.close, tap)
            with _step("a TAP of our own"):
                flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
                made = fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", b"fpclones%d", flags))
            self.device = made[:16].split(b"\0")[0].decode()
            """The device's name."""
            attach(socket.if_nametoindex(self.device), program)
            with _step("a packet socket"):
                self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
            opened.callback(self._socket.close)
            self._socket.setsockopt(_SOL_PACKET, _VNET_HDR, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER)
            self._socket.bind((self.device, 0))
            with _step("a frame on the device"):
                self._socket.send(bytes(_VNET_SIZE) + _nothing_to_clone(0))
            self.messages = CloneMessages(self._socket.fileno(), self.table, trains=self._takes_trains())
            """What its ports hand over."""
            opened.callback(self.messages.close)
            self._opened = opened.pop_all()

    def put(self, place: int, ifindex: int, head: bytes) -> None:
        """Write a record; a port writes its own."""
        at = place * RECORD_SIZE
        struct.pack_into("=II", self.table, at + IFINDEX_AT, ifindex, UNTOLD)
        self.table[at + HEAD_AT : at + HEAD_AT + len(head)] = head

    def outcome(self, place: int) -> int | None:
        """Tell what the kernel said of a clone: 0 if it took it, else -errno or NET_XMIT_*; None: nothing."""
        (outcome,) = struct.unpack_from("=i", self.table, place * RECORD_SIZE + OUTCOME_AT)
        return None if outcome == UNTOLD else outcome

    @property
    def sends(self) -> int:
        """Count the frames and trains that were handed over to be cloned."""
        return self.messages.sends

    @property
    def cloned(self) -> int:
        """Count the clones that were made of them, a train being one."""
        return self.messages.cloned

    def fileno(self) -> int:
        """Return the socket to send by: a virtio_net_hdr, an `order`, the rest of a head, what all carry."""
        return self._socket.fileno()

    def _takes_trains(self) -> bool:
        """Try it: AF_PACKET takes UDP super-frames from kernel 6.2 on."""
        at, udp = 34, 8
        vnet = struct.pack("=BBHHHH", _NEEDS_CSUM, _GSO_UDP_L4, at + udp, 1, at, 6)
        try:
            self._socket.send(vnet + _nothing_to_clone(2))
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Take it all away. Closing twice does nothing more. Not while a port that uses it is open."""
        self._opened.close()


class ClonePort(ClonesIo):
    """Sends copies by clones where a request is for several receivers; the rest does the port `below`.

    `below` is a packet or XDP port on the same interface. It stays the caller's to close, after this one; so
    do `clones`. `singles`: clone single frames, too, and not trains alone.
    """

    def __init__(self, below: IoPort, clones: Clones, device: str, *, singles: bool = True) -> None:
        super().__init__(below, clones.messages, device, singles=singles)
        self._clones, self._device = clones, device
        self.refresh()

    def refresh(self) -> None:
        """Ask what the interface's offloads are now; to be called when something has changed there."""
        self.segments = _has_feature(self._clones.fileno(), self._device, "tx-udp-segmentation")


def _nothing_to_clone(n_bytes: int) -> bytes:
    """Write a frame for the device that names no head: UDP, with so many bytes of payload."""
    ip = struct.pack(">BBHHHBBH8x", 0x45, 0, 28 + n_bytes, 0, 0, 1, socket.IPPROTO_UDP, 0)
    udp = struct.pack(">4xHH", 8 + n_bytes, 0)
    return order(0, 0, 42) + struct.pack(">H", _ETH_P_IP) + ip + udp + bytes(n_bytes)


def _has_feature(fd: int, device: str, name: str) -> bool:
    """Say whether an offload is on, by the name that ethtool -k shows; False where nobody tells."""

    def ask(request: bytes, size: int) -> bytes:
        answer = ctypes.create_string_buffer(request, size)
        fcntl.ioctl(fd, _SIOCETHTOOL, struct.pack("16sP", os.fsencode(device), ctypes.addressof(answer)))
        return answer.raw

    try:
        n = struct.unpack_from("=I", ask(struct.pack("=IIQ", _GET_SET_INFO, 0, 1 << _FEATURES), 20), 16)[0]
        names = ask(struct.pack("=III", _GET_STRINGS, _FEATURES, n), 12 + 32 * n)[12:]
        place = next(i for i in range(n) if names[32 * i : 32 * i + 32].rstrip(b"\0") == name.encode())
        words = -(-n // 32)
        active = ask(struct.pack("=II", _GET_FEATURES, words), 8 + 16 * words)
    except (OSError, StopIteration):
        return False
    return bool(struct.unpack_from("=I", active, 8 + 16 * (place // 32) + 8)[0] >> place % 32 & 1)


@contextmanager
def _step(what: str) -> Iterator[None]:
    """Name the step at which the system refuses."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{what}: {error.strerror}") from None

"""What the benchmarks send, and through what: VXLAN frames as numpy arrays, one layout, lists of any fan-out.

A frame of `size` is a VM's UDP datagram to a group, in an Ethernet frame of that size, in VXLAN without a UDP
checksum, to an outer group: 50 bytes more. The list of a group has `fan_out` receivers of one form.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address

import numpy as np
import numpy.typing as npt

from fastpath.forwarder import Forwarder
from fastpath.model import (
    Egress,
    Encap,
    Endpoint,
    Faces,
    Form,
    Frame,
    KeyKind,
    Layout,
    Owner,
    Port,
    ReplicationList,
    Scope,
    group_key,
)
from fastpath.ports import MemoryPort
from fastpath.reference import Reference

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]

SIZES = (64, 512, 1400)
BATCHES = (1, 32, 256)
BATCH = 256
VNI = 0x010264
OURS = IPv4Address("10.0.0.1")
SENDER = IPv4Address("10.1.1.2")
FIRST_GROUP = int(IPv4Address("232.0.0.0"))
FIRST_PEER = int(IPv4Address("10.8.0.1"))

RECORD_SIZE = 24
"""What a memory port puts before each copy, in front of which and behind which it rounds up to 8."""
TRAIN_HEAD_SIZE = 112
"""The most that a memory port needs for the head of a train."""
SLACK = 256


def frame_size(size: int) -> int:
    """Bytes of the tunnel packet that carries a VM's frame of `size`, with its Ethernet header."""
    return size + 50


def copy_size(form: Form, size: int) -> int:
    """Bytes of one copy of it."""
    return size + (82 if form is Form.NESTED else 50)


def _put(rows: Bytes, at: int, value: npt.ArrayLike, n_bytes: int) -> None:
    """Write big-endian values into a column of every row."""
    values = np.broadcast_to(np.asarray(value, np.int64), rows.shape[0])
    for i in range(n_bytes):
        rows[:, at + i] = values >> (8 * (n_bytes - 1 - i)) & 0xFF


def _put_ip_checksum(rows: Bytes, at: int) -> None:
    words = rows[:, at : at + 20].reshape(len(rows), 10, 2).astype(np.int64)
    total = (words[:, :, 0] << 8 | words[:, :, 1]).sum(axis=1)
    for _ in range(2):
        total = (total & 0xFFFF) + (total >> 16)
    _put(rows, at + 10, ~total & 0xFFFF, 2)


def _put_ip(rows: Bytes, at: int, size: int, *, src: npt.ArrayLike, dst: npt.ArrayLike) -> None:
    """An IPv4 header for UDP; identifications count up from row to row."""
    _put(rows, at, 0x4500, 2)
    _put(rows, at + 2, size, 2)
    _put(rows, at + 4, np.arange(len(rows)) & 0xFFFF, 2)
    _put(rows, at + 6, 0x4000, 2)
    _put(rows, at + 8, 0x4011, 2)
    _put(rows, at + 12, src, 4)
    _put(rows, at + 16, dst, 4)
    _put_ip_checksum(rows, at)


def vxlan_frames(size: int, groups: npt.ArrayLike, flows: npt.ArrayLike) -> Bytes:
    """One frame per row: row i goes to the outer group number groups[i] and belongs to flow flows[i]."""
    group, flow = np.broadcast_arrays(np.asarray(groups, np.int64), np.asarray(flows, np.int64))
    rows = np.zeros((len(group), frame_size(size)), np.uint8)
    _put(rows, 0, 0x01005E, 3)
    _put(rows, 3, FIRST_GROUP + group & 0x7FFFFF, 3)
    _put(rows, 6, 0x02DE1F00AB42, 6)
    _put(rows, 12, 0x0800, 2)
    _put_ip(rows, 14, size + 36, src=int(SENDER), dst=FIRST_GROUP + group)
    _put(rows, 34, 0xC000 | flow & 0x3FFF, 2)
    _put(rows, 36, 4789, 2)
    _put(rows, 38, size + 16, 2)
    _put(rows, 42, 0x08000000, 4)
    _put(rows, 46, VNI << 8, 4)
    _put(rows, 50, 0x01005E010203, 6)
    _put(rows, 56, 0x0250560A0B0C, 6)
    _put(rows, 62, 0x0800, 2)
    _put_ip(rows, 64, size - 14, src=int(IPv4Address("192.168.7.9")), dst=int(IPv4Address("239.129.2.3")))
    _put(rows, 84, 0x8000 | flow & 0x7FFF, 2)
    _put(rows, 86, 5004 + (flow >> 15), 2)
    _put(rows, 88, size - 34, 2)
    rows[:, 92:] = np.arange(rows.shape[1] - 92, dtype=np.int64) & 0xFF
    return rows


def mac(number: int) -> bytes:
    return bytes.fromhex("02fa5700") + number.to_bytes(2, "big")


def layout(n_out: int = 1) -> Layout:
    """Port 0 faces our NVEs, the `n_out` behind it the core."""
    out = tuple(Port(f"core{i}", Faces.CORE, mac(i), mac(0x8000 + i)) for i in range(1, n_out + 1))
    return Layout((Port("nve", Faces.NVE, mac(0), mac(0x8000)), *out), (Endpoint(OURS, Scope.DEVICE),))


def egress(form: Form, number: int) -> Egress:
    """Receiver `number`: a tunnel end behind port 1, or, for GROUP, the port `number` + 1 itself."""
    if form is Form.GROUP:
        return Egress(number + 1, form, Owner(port=number + 1))
    address = IPv4Address(FIRST_PEER + number)
    return Egress(1, form, Owner(address=address), address, OURS)


def receivers(form: Form, fan_out: int, group: int = 0) -> ReplicationList:
    """The list of a group; its sender's port is a member too, and left out of every frame."""
    key = group_key(Scope.DEVICE, IPv4Address(FIRST_GROUP + group))
    own = Egress(0, Form.GROUP, Owner(port=0))
    return ReplicationList(key, (own,), tuple(egress(form, i) for i in range(fan_out)))


def group_keys(n_groups: int) -> Words:
    """The keys of groups 0 to n, as `fastpath.compiler.Columns` wants them."""
    keys = np.zeros((n_groups, 5), np.uint64)
    keys[:, 1] = np.uint64(0xFFFF << 32) | (np.uint64(FIRST_GROUP) + np.arange(n_groups, dtype=np.uint64))
    keys[:, 4] = int(KeyKind.GROUP) << 48 | int(Scope.DEVICE) << 40 | int(Encap.VXLAN) << 32
    return keys


class Bench:
    """A forwarder between memory ports, with all its frames waiting: calling it sends them through once."""

    def __init__(
        self,
        frames: Bytes,
        out_capacity: int,
        *,
        n_out: int = 1,
        lists: Iterable[ReplicationList] = (),
        batch: int = BATCH,
        trains: bool = False,
    ) -> None:
        self.frames = frames
        self.layout = layout(n_out)
        self.lists = tuple(lists)
        self.source = MemoryPort(1 << 12, overwrite=True)
        self.sinks = [MemoryPort(out_capacity + SLACK, trains=trains, overwrite=True) for _ in range(n_out)]
        for row in frames:
            self.source.push(row.tobytes())
        self.forwarder = Forwarder(
            self.layout, [self.source, *self.sinks], self.lists, batch=batch, trains=trains
        )

    def __call__(self) -> None:
        self.source.rewind()
        self.forwarder.run()

    def reference(self, n_frames: int, first: int = 0) -> list[tuple[int, bytes]]:
        """(out port, bytes) of each copy that the reference makes of some frames."""
        reference = Reference(self.layout, self.lists)
        made = (reference.forward(0, Frame(row.tobytes())) for row in self.frames[first : first + n_frames])
        return [(copy.out_port, copy.data) for outcome in made for copy in outcome.copies]


def check(bench: Bench, n_frames: int, *, trains: bool = False) -> None:
    """Send all frames of a fresh bench through: what comes out must be what the reference makes.

    The reference is slow, so only the first frames are compared, the others counted. Segments of trains stand
    in another order, and carry a UDP checksum: that one field is left out here, the tests verify it.
    """
    bench()
    expected: dict[int, list[bytes]] = {}
    for port, data in bench.reference(n_frames):
        expected.setdefault(port, []).append(data)
    n_copies = 0
    for place, sink in enumerate(bench.sinks, start=1):
        found: Sequence[bytes] = sink.take()
        n_copies += len(found)
        wanted = expected.pop(place)
        if trains:
            found, wanted = (
                sorted(map(_without_udp_checksum, found)),
                list(map(_without_udp_checksum, wanted)),
            )
            assert set(wanted) <= set(found)
        else:
            assert wanted == found[: len(wanted)]
    assert not expected
    statistics = bench.forwarder.statistics()
    assert n_copies == statistics.copies_out
    assert statistics.copies_dropped == 0
    assert statistics.received == statistics.replicated == len(bench.frames)
    bench.source.rewind()


def _without_udp_checksum(datagram: bytes) -> bytes:
    return datagram[:40] + bytes(2) + datagram[42:]

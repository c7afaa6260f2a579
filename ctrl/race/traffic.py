"""What the race sends: one tenant's datagrams, as they come to us and as the rivals send them.

A frame of `size` bytes is a VM's UDP datagram to a group, in its Ethernet frame; the tunnel packet around it
has 50 bytes more (NVGRE 42). A batch is 220 frames, in trains of 44 of one flow; with trains of 1 each
frame is a flow of its own, and nothing can ride together. Receivers are dealt out to the ports that copies
leave by, one each in turn.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network

from fastpath.clones import TURNS, order
from fastpath.model import Encap

BATCH = 220
TRAIN = 44
VNI = 0x010264
GROUP = IPv4Address("239.1.1.100")
OURS = IPv4Address("10.0.0.1")
NVE = IPv4Address("10.1.0.2")
FIRST_RECEIVERS = int(IPv4Address("10.8.0.0"))
OUR_MAC = bytes.fromhex("02fa57000001")
SINK_MAC = bytes.fromhex("02fa57000002")
NVE_MAC = bytes.fromhex("02fa57000003")
GROUP_MAC = bytes.fromhex("01005e010164")
VM_MAC = bytes.fromhex("0250560a0b0c")
INNER_GROUP_MAC = bytes.fromhex("01005e010203")
VXLAN_PORT = 4789
TRAIN_SIZE_MAX = 65000  # as in _frame.pxd: the UDP payload of a super-frame
INNER_HEAD = 42
"""Ethernet, IPv4 and UDP: the least that a frame can have."""
OUTER_HEAD = 42
"""The same outside; of NVGRE, with its GRE header in the place of UDP's."""

NEEDS_CSUM = 1
UDP_TRAIN = 5  # VIRTIO_NET_HDR_GSO_UDP_L4
VNET = struct.Struct("<BBHHHH")
NO_OFFLOAD = VNET.pack(0, 0, 0, 0, 0, 0)


def behind(port: int) -> IPv4Network:
    """The addresses of all receivers behind a port: 10.8.0.0/16, 10.9.0.0/16 and so on."""
    return IPv4Network((FIRST_RECEIVERS + (port << 16), 16))


@dataclass(frozen=True, slots=True)
class Load:
    """What is offered to all who race: `train` frames of `size` bytes in a row belong to one flow.

    `segmentation`: the devices that all send by cut trains themselves, or leave that to the receiver;
    without, the kernel builds every datagram before them. `ports`: so many devices.
    """

    egresses: int
    size: int
    train: int = TRAIN
    encap: Encap = Encap.VXLAN
    segmentation: bool = True
    ports: int = 1

    @property
    def flows(self) -> Iterator[int]:
        """The flow of each frame of a batch."""
        return (place // self.train for place in range(BATCH))

    @property
    def receivers(self) -> list[IPv4Address]:
        """Receiver i is behind port i % ports."""
        networks = [behind(port) for port in range(self.ports)]
        return [networks[n % self.ports][1 + n // self.ports] for n in range(self.egresses)]

    @property
    def tunnel_size(self) -> int:
        """Bytes of one copy, as of one frame that comes in."""
        return self.size + (50 if self.encap is Encap.VXLAN else 42)


def longest_train(size: int) -> int:
    """How many frames of a size ride together, where 64 KB have room for the usual number and where not."""
    return min(TRAIN, TRAIN_SIZE_MAX // (size + 8))


@dataclass(frozen=True, slots=True)
class Messages:
    """What a `fastpath.limit.Sender` takes: message i is heads[i] and, where there are any, payloads[i]."""

    heads: list[bytes]
    payloads: list[bytes]
    copies: int
    """Datagrams in all of them together."""


def checksum(data: bytes, start: int = 0) -> int:
    """Fold the ones' complement sum of 16-bit words, not complemented."""
    total: int = start + sum(struct.unpack(f">{len(data) // 2}H", data[: len(data) & ~1]))
    total += data[-1] << 8 if len(data) % 2 else 0
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def ipv4(source: IPv4Address, destination: IPv4Address, size: int, *, protocol: int = 17) -> bytes:
    """Make the IPv4 header of a packet of `size` bytes."""
    head = struct.pack(">HHHHBBH", 0x4500, size, 0, 0x4000, 64, protocol, 0)
    head += source.packed + destination.packed
    return head[:10] + struct.pack(">H", ~checksum(head) & 0xFFFF) + head[12:]


def inner(load: Load, flow: int) -> bytes:
    """Make the VM's own frame."""
    source, destination = IPv4Address("192.168.7.9"), IPv4Address("239.129.2.3")
    udp = struct.pack(">HHHH", 0x8000 | flow & 0x7FFF, 5004, load.size - 34, 0)
    head = INNER_GROUP_MAC + VM_MAC + b"\x08\0" + ipv4(source, destination, load.size - 14) + udp
    return head + bytes(place & 0xFF for place in range(load.size - INNER_HEAD))


def tunnel_head(load: Load, flow: int, source: IPv4Address, destination: IPv4Address, macs: bytes) -> bytes:
    """Make the outer headers of one frame."""
    size = load.tunnel_size - 14
    if load.encap is Encap.NVGRE:
        key = struct.pack(">HHI", 0x2000, 0x6558, VNI << 8 | flow & 0xFF)
        return macs + b"\x08\0" + ipv4(source, destination, size, protocol=47) + key
    udp = struct.pack(">HHHHII", 0xC000 | flow & 0x3FFF, VXLAN_PORT, size - 20, 0, 8 << 24, VNI << 8)
    return macs + b"\x08\0" + ipv4(source, destination, size) + udp


def arriving(load: Load) -> list[bytes]:
    """Make a batch of tunnel packets as an NVE sends them to the group."""
    return [
        tunnel_head(load, flow, NVE, GROUP, GROUP_MAC + NVE_MAC) + inner(load, flow) for flow in load.flows
    ]


def arriving_trains(load: Load) -> Messages:
    """Make the same as an NVE sends it whose VM hands over trains: a super-frame a flow."""
    heads = []
    for flow, n_frames in sorted(Counter(load.flows).items()):
        one = _carried(load, flow)
        payload = one * n_frames
        head = _train_head(GROUP_MAC + NVE_MAC, NVE, GROUP, flow, payload, len(one), whole=False)
        heads.append(head + payload)
    return Messages(heads, [], BATCH)


def plain(frames: Iterable[bytes]) -> Messages:
    """Lay frames out one by one, for a socket without PACKET_VNET_HDR."""
    heads = list(frames)
    return Messages(heads, [], len(heads))


@lru_cache(1)
def copies(load: Load) -> Messages:
    """Make all copies of a batch, one message each: what the loop of sendmmsg sends."""
    macs = SINK_MAC + OUR_MAC
    payloads = {flow: inner(load, flow) for flow in set(load.flows)}
    heads = {
        flow: [tunnel_head(load, flow, OURS, receiver, macs) for receiver in load.receivers]
        for flow in payloads
    }
    batch = [(head, payloads[flow]) for flow in load.flows for head in heads[flow]]
    return Messages([head for head, _ in batch], [payload for _, payload in batch], len(batch))


def prebuilt(load: Load, n_frames: int) -> list[bytes]:
    """Make the first whole copies of a batch: what AF_XDP sends from its own memory."""
    made = copies(load)
    return [made.heads[n % made.copies] + made.payloads[n % made.copies] for n in range(n_frames)]


@lru_cache(1)
def trains(load: Load) -> Messages:
    """Make the copies of a batch as super-frames, all receivers sharing a flow's payload (LIMITS trap 1)."""
    heads, payloads = [], []
    for flow, n_frames in sorted(Counter(load.flows).items()):
        one = _carried(load, flow)
        payload = one * n_frames
        for receiver in load.receivers:
            heads.append(_train_head(SINK_MAC + OUR_MAC, OURS, receiver, flow, payload, len(one)))
            payloads.append(payload)
    return Messages(heads, payloads, BATCH * load.egresses)


def inner_trains(load: Load) -> Messages:
    """Make a batch as a VM's own trains, before any encapsulation: the best case of a VXLAN device."""
    heads = []
    source, destination = IPv4Address("192.168.7.9"), IPv4Address("239.129.2.3")
    for flow, n_frames in sorted(Counter(load.flows).items()):
        one = inner(load, flow)[INNER_HEAD:]
        macs = INNER_GROUP_MAC + VM_MAC
        payload = one * n_frames
        head = _train_head(macs, source, destination, flow, payload, len(one), whole=False)
        heads.append(head + payload)
    return Messages(heads, [], BATCH)


def clone_heads(load: Load) -> list[bytes]:
    """Make the heads of one flow's copies: without a virtio header, and one for all of a train."""
    flow = next(load.flows)
    macs = SINK_MAC + OUR_MAC
    payload = _carried(load, flow)
    if load.train == 1:
        return [tunnel_head(load, flow, OURS, one, macs)[:OUTER_HEAD] for one in load.receivers]
    trains = payload * load.train
    heads = [_train_head(macs, OURS, one, flow, trains, len(payload), whole=False) for one in load.receivers]
    return [head[VNET.size :] for head in heads]


def clone_orders(load: Load) -> Messages:
    """Make a batch as it is sent to be cloned: an order for each flow, or several where receivers are many.

    All flows use the heads of one: what is counted are copies.
    """
    first = clone_heads(load)[0]
    heads, payloads = [], []
    for flow, n_frames in sorted(Counter(load.flows).items()):
        payload = _carried(load, flow)
        whole = (
            _train_head(SINK_MAC + OUR_MAC, OURS, OURS, flow, payload * n_frames, len(payload), whole=False)
            if load.train > 1
            else NO_OFFLOAD + first
        )
        for place in range(0, load.egresses, TURNS):
            said = order(place, min(TURNS, load.egresses - place), len(first))
            heads.append(whole[: VNET.size] + said + whole[VNET.size + len(said) :])
            payloads.append(payload * n_frames)
    return Messages(heads, payloads, BATCH * load.egresses)


def _carried(load: Load, flow: int) -> bytes:
    """Make what follows the outer headers of a copy up to UDP, or GRE."""
    return tunnel_head(load, flow, OURS, OURS, SINK_MAC + OUR_MAC)[OUTER_HEAD:] + inner(load, flow)


def _train_head(
    macs: bytes,
    source: IPv4Address,
    destination: IPv4Address,
    flow: int,
    payload: bytes,
    segment: int,
    *,
    whole: bool = True,
) -> bytes:
    """Make the virtio header and the outer headers of a train. `whole`: name all of it as the header, which
    saves the kernel a page list where nobody clones it (LIMITS trap 6)."""
    size = 8 + len(payload)
    pseudo = checksum(source.packed + destination.packed, 17 + size)
    udp = struct.pack(">HHHH", 0xC000 | flow & 0x3FFF, VXLAN_PORT, size, pseudo)
    head = macs + b"\x08\0" + ipv4(source, destination, 20 + size) + udp
    head_size = len(head) + (len(payload) if whole else 0)
    return VNET.pack(NEEDS_CSUM, UDP_TRAIN, head_size, segment, 34, 6) + head

"""A list whose copies leave by eight ports of a `fastpath run`, and what comes behind each of them.

    n0 [up] ---- [p0] box [p1] ---- [up] n1, ... n8

An NVE sends behind p0. Ports 1 to 6 face NVEs, 7 and 8 the core.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from tests import frames as f
from tests.system.lab import DEADLINE_S, ETH_P_ALL, QUIET_S, Fastpath, Lab, numbered, plug, roomy, wait_for
from tests.system.wires import PACKET_VNET_HDR, SOL_PACKET

GROUP, GROUP_MAC, VNI, DEVICE = "239.1.1.100", bytes.fromhex("01005e010164"), 100, "10.9.0.1"
PORTS, CORE = set(range(1, 9)), {7, 8}
HEADS, VXLAN, VNET = 42, 8, 10
_VM_MAC = b"\x02\xd0\0\0\0\1"


def address(n: int, receiver: int = 0) -> str:
    """Of a receiver behind a port."""
    return f"10.1.{n}.{2 + receiver}"


class Fan:
    """The boxes, with a socket on each far end that takes super-frames as they come."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.box = lab.box("box", forwards=True)
        self.far = {n: lab.box(f"n{n}") for n in (0, *sorted(PORTS))}
        for n, far in self.far.items():
            plug(self.box, f"p{n}", far, (f"10.1.{n}.1/24", f"{address(n)}/24"))
            for receiver in range(2):
                self.box.neighbour(f"p{n}", address(n, receiver), far.mac("up"))
        self.box.address("lo", f"{DEVICE}/32")
        self.sender = lab.packet_socket(self.far[0], "up")
        self._beside = lab.packet_socket(self.box, "p0", ETH_P_ALL)
        self._beside.settimeout(DEADLINE_S)
        roomy(self._beside)
        self.wires: dict[int, socket.socket] = {}

    def listen(self) -> None:
        """Take what comes behind the ports from now on."""
        for n in PORTS:
            self.wires[n] = super_frames(self.lab.packet_socket(self.far[n], "up", f.IPV4))

    def start(self, receivers: Mapping[int, Sequence[str]], dataplane: str) -> Fastpath:
        """Start with the receivers of each port: addresses, or none for a member by port."""
        config = f"[dataplane]\n{dataplane}\n"
        for n in (0, *sorted(PORTS)):
            config += f'[[port]]\nname = "p{n}"\nfaces = "{"core" if n in CORE else "nve"}"\n'
        config += f'[[network]]\nname = "blue"\nvni = {VNI}\ngroup = "{GROUP}"\n'
        config += f'[device]\naddress = "{DEVICE}"\ntunnel = "rewrite"\nsource = "keep"\n'
        peers = [one for n in sorted(CORE) for one in receivers[n]]
        config += f'[[device.peer]]\ngroup = "{GROUP}"\naddresses = {peers}\n'
        for n in sorted(receivers.keys() - CORE):
            member = f'[[device.member]]\ngroup = "{GROUP}"\nport = "p{n}"\n'
            config += "".join(f'{member}nve = "{one}"\n' for one in receivers[n]) or member
        self.fastpath = Fastpath(self.lab, self.box, config)
        wait_for(lambda: len(self.fastpath.show("tunnels", state="up")) == len(peers), "the peers' MACs")
        return self.fastpath

    def send(self, *numbers: int, **how: Any) -> None:
        """Let the NVE send a frame of each number; return when all wait for the box."""
        for number in numbers:
            self.sender.send(vm_frame(number, address(0), **how))
        left = len(numbers)
        while left:
            left -= self._beside.recv(1 << 17)[26:30] == ip_address(address(0)).packed

    def taken(self, n_datagrams: int, but: Collection[int] = ()) -> dict[int, list[bytes]]:
        """Take so many datagrams, and all that follow, behind each port but some."""
        places = {n: wire for n, wire in self.wires.items() if n not in but}
        return dict(zip(places, taken(list(places.values()), n_datagrams), strict=True))


def taken(wires: Sequence[socket.socket], n_datagrams: int) -> list[list[bytes]]:
    """Take so many datagrams, and all that follow, from sockets for super-frames: these, of each."""
    found: dict[socket.socket, list[bytes]] = {wire: [] for wire in wires}
    while ready := select.select(wires, [], [], DEADLINE_S if n_datagrams > 0 else QUIET_S)[0]:
        for wire in ready:
            frame = wire.recv(1 << 17)
            if frame[VNET + 23] == f.UDP:  # else a query of ours
                found[wire].append(frame)
                n_datagrams -= len(datagrams(frame))
    return list(found.values())


def vm_frame(
    number: int, nve: str, size: int = 64, sport: int = 0xC000, checksum: int | None = f.ZERO, vni: int = VNI
) -> bytes:
    """What an NVE makes of a VM's frame with a number."""
    datagram = {"sport": sport, "checksum": checksum}
    packet = f.vxlan_packet(numbered(number, _VM_MAC, size), nve, GROUP, vni, datagram=datagram)
    return f.ethernet(packet, f.IPV4, dst=GROUP_MAC)


def datagrams(frame: bytes) -> list[bytes]:
    """What each datagram of a super-frame carries; its virtio_net_hdr comes first."""
    payload, size = frame[VNET + HEADS :], struct.unpack_from("=H", frame, 4)[0]
    return [payload[at : at + size] for at in range(0, len(payload), size)] if size else [payload]


def copies(frame: bytes) -> Iterator[tuple[str, int]]:
    """For whom each datagram of a super-frame is, and the number of the VM's frame in it."""
    receiver = str(ip_address(frame[VNET + 30 : VNET + 34]))
    for datagram in datagrams(frame):
        yield receiver, struct.unpack_from(">I", datagram, VXLAN + 14)[0]


def super_frames(lab_socket: socket.socket) -> socket.socket:
    """Have an AF_PACKET socket take super-frames as they come, a virtio_net_hdr before each."""
    lab_socket.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    roomy(lab_socket)
    return lab_socket

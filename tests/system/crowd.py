"""Many ports, and behind each a wire on which tests put frames by hand; the kernel counts what comes out.

    host n [v<n>] ---- [p<n>] box        n = 1, 2, ...

Nobody there has an IP stack, so each frame is ours. Floods are sent by a program of their own:

    python -m tests.system.crowd DEVICE FILE RATE SECONDS

It sends the frames of the file in turn, again and again; at the end it says how many left.
"""

from __future__ import annotations

import ctypes
import json
import re
import select
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from ipaddress import IPv4Address
from pathlib import Path

GROUP = IPv4Address("239.77.0.1")
"""That of the data whose copies are counted."""
FIRST_OWN, FIRST_OTHER = 0xEF400000, 0xEF800000
"""From here on: the groups that quiet hosts join; those that a crowd joins."""
ETH_P_ALL, SO_ATTACH_FILTER, SOL_PACKET, PACKET_STATISTICS, PACKET_IGNORE_OUTGOING = 3, 26, 263, 6, 23
_SIZE = struct.Struct(">I")


def send(device: str, file: str, rate: float, seconds: float) -> None:
    """Send, a millisecond's worth at a time; `seconds` 0: each frame once."""
    data, frames, at = Path(file).read_bytes(), [], 0
    while at < len(data):
        (size,) = _SIZE.unpack_from(data, at)
        frames.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    packet.bind((device, 0))
    count = int(rate * seconds) if seconds else len(frames)
    begin, number = time.monotonic(), 0
    while number < count:
        due = min(count, int((time.monotonic() - begin) * rate) + 1)
        while number < due:
            try:
                packet.send(frames[number % len(frames)])
            except OSError:  # the device is full: again
                continue
            number += 1
        time.sleep(0.001)
    print(json.dumps({"sent": number, "seconds": time.monotonic() - begin}))


if __name__ == "__main__":
    send(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
    sys.exit()

from ctrl.lab.namespaces import Namespace, connect  # noqa: E402  the program above is there at once
from ctrl.protocols import igmp  # noqa: E402
from ctrl.protocols.messages import Kind, Record, Report  # noqa: E402
from tests import frames as f  # noqa: E402
from tests.house.tree import ROOT  # noqa: E402
from tests.system.lab import MTU, Fastpath, Lab  # noqa: E402


class Crowd:
    """A device with `n` ports."""

    def __init__(self, lab: Lab, n: int, *, ring_frames: int = 1024, **membership: float) -> None:
        self.lab, self.n = lab, n
        self.box, self.far = lab.box("tor"), lab.box("far")
        for number in range(1, n + 1):
            connect(self.box, f"p{number}", self.far, f"v{number}", mtu=MTU)
        ports = "".join(f'[[port]]\nname = "p{number}"\nfaces = "nve"\n' for number in range(1, n + 1))
        settings = "".join(f"{key} = {str(value).lower()}\n" for key, value in membership.items())
        # without trains each copy is a frame to the kernel, which counts them
        config = f"[dataplane]\nring_frames = {ring_frames}\ntrains = false\n{ports}[membership]\n{settings}"
        self.fastpath = Fastpath(lab, self.box, f'{config}[device]\naddress = "10.9.0.1"\n')
        self.wires = {number: lab.packet_socket(self.far, f"v{number}") for number in range(1, n + 1)}

    def join(self, number: int, group: int, kind: Kind = Kind.TO_EX) -> None:
        """Have host `number` say that it joins a group."""
        self.wires[number].send(report(number, [Record(kind, group)]))

    def flood(
        self, number: int, frames: Iterable[bytes], rate: float, seconds: float = 0
    ) -> subprocess.Popen[str]:
        """Have host `number` send frames; 0 seconds: each once."""
        return flood(self.lab, self.far, f"v{number}", frames, rate, seconds)

    def ear(self, number: int, prefix: int, bits: int) -> Ear:
        """Listen for the data that comes to host `number`, to groups with a prefix."""
        return Ear(self.lab.packet_socket(self.far, f"v{number}", 1), prefix, bits)

    def members(self, number: int) -> int:
        """Groups that host `number` is in."""
        return len(self.fastpath.show("members", port=f"p{number}"))

    def memory(self, key: str = "VmRSS") -> float:
        """MiB of the process."""
        text = Path(f"/proc/{self.fastpath.process.pid}/status").read_text()
        found = re.search(rf"{key}:\s+(\d+) kB", text)
        assert found
        return int(found[1]) / 1024

    def settled(self) -> Counter[str]:
        """Wait until nothing happens any more; how often each reason struck, and how many were punted."""
        before: Counter[str] = Counter()
        while True:
            now = Counter(self.fastpath.drops() | {"punted": int(self.fastpath.status()["punted"])})
            if now == before:
                return now
            before = now
            time.sleep(0.15)


def flood(
    lab: Lab, box: Namespace, device: str, frames: Iterable[bytes], rate: float, seconds: float = 0
) -> subprocess.Popen[str]:
    """Have the program above send frames by a device of a box; 0 seconds: each once."""
    file = lab.directory / f"{device}-{time.monotonic_ns()}"
    file.write_bytes(b"".join(_SIZE.pack(len(frame)) + frame for frame in frames))
    words = ("-m", "tests.system.crowd", device, str(file), str(rate), str(seconds))
    return box.popen(sys.executable, *words, cwd=ROOT, stdout=subprocess.PIPE)


class Ear:
    """What passes a filter of the kernel at a host's end of the wire: counted there, whoever is too slow to
    read. `at`: where in a packet the Ethernet frame begins that is meant, if it is not the packet itself."""

    def __init__(self, packet: socket.socket, prefix: int, bits: int, at: int = 0) -> None:
        mask = (1 << 32) - (1 << 32 - bits)
        words = [  # IPv4, UDP, and the destination: see <linux/bpf_common.h>
            (0x28, 0, 0, at + 12), (0x15, 0, 6, 0x0800), (0x30, 0, 0, at + 23), (0x15, 0, 4, 17),
            (0x20, 0, 0, at + 30), (0x54, 0, 0, mask), (0x15, 0, 1, prefix & mask),
            (0x06, 0, 0, 0xFFFF), (0x06, 0, 0, 0),
        ]  # fmt: skip
        code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *word) for word in words))
        filtered = struct.pack("@HP", len(words), ctypes.addressof(code))
        packet.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filtered)
        packet.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        device = packet.getsockname()[0]
        packet.bind((device, ETH_P_ALL))  # what a filter of nftables takes away is counted, too
        self._packet, self._n = packet, 0

    def news(self) -> int:
        """How many came since the last call."""
        return int(struct.unpack("II", self._packet.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[0])

    def count(self) -> int:
        """How many came so far."""
        self._n += self.news()
        return self._n

    def wait(self, seconds: float) -> bool:
        """Whether something comes within this time; all that is there is taken."""
        if not select.select([self._packet], [], [], seconds)[0]:
            return False
        while select.select([self._packet], [], [], 0)[0]:
            self._packet.recv(65536)
        return True


def mac_of(number: int) -> bytes:
    return bytes((2, 0xC0, 0, 0, number >> 8, number & 255))


def address_of(number: int) -> IPv4Address:
    return IPv4Address(0x0A020000 + number)


def report(number: int, records: Iterable[Record]) -> bytes:
    """What host `number` says, as a frame."""
    return igmp.report_frame(Report(3, tuple(records)), mac_of(number), int(address_of(number)))


def joins(number: int, count: int, per: int, kind: Kind = Kind.TO_EX, *, after: int = 0) -> list[bytes]:
    """Reports of a crowd's own groups behind so many, each once, `per` of them a report."""
    groups = range(FIRST_OTHER + after, FIRST_OTHER + after + count)
    return [
        report(number, (Record(kind, group) for group in groups[at : at + per]))
        for at in range(0, count, per)
    ]


def data(number: int, group: int) -> bytes:
    """A frame of a VM behind host `number`, to a group."""
    packet = f.vxlan_packet(bytes(64), str(address_of(number)), str(IPv4Address(group)), 100)
    to = b"\x01\x00\x5e" + (group & 0x7FFFFF).to_bytes(3, "big")
    return f.ethernet(packet, f.IPV4, dst=to, src=mac_of(number))


def sent(program: subprocess.Popen[str], within_s: float = 60.0) -> int:
    """How many frames a flood came to, at its end."""
    told = json.loads(program.communicate(timeout=within_s)[0])
    return int(told["sent"])


def first_copies(crowd: Crowd, sender: int, hosts: Iterable[int], first: int, count: int) -> list[float]:
    """Have hosts join groups of their own, one after the other; ms from each report to the first copy."""
    hosts, found = list(hosts), []
    ears = {number: crowd.ear(number, FIRST_OWN, 10) for number in hosts}
    for at in range(count):
        number, group = hosts[at % len(hosts)], FIRST_OWN + first + at
        frame = data(sender, group)
        begin = time.perf_counter()
        crowd.join(number, group)
        while True:
            crowd.wires[sender].send(frame)
            if ears[number].wait(0.0005):
                break
            assert time.perf_counter() < begin + 10, f"no copy of {IPv4Address(group)} at {number}"
        found.append(1e3 * (time.perf_counter() - begin))
    return found


def quantile(values: list[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]

"""VMs that are in groups inside the overlay: real sockets join and send, an ear counts what came."""

from __future__ import annotations

import re
import socket
import struct
import time
from collections import Counter
from collections.abc import Collection, Mapping
from ipaddress import ip_address

from ctrl.lab.namespaces import Namespace
from tests.system.joins import IP_ADD_SOURCE_MEMBERSHIP, Ear, is_control
from tests.system.lab import QUIET_S, Fastpath, Lab, wait_for
from tests.system.nves import veth_box

PORT = 5004
_NUMBERED = re.compile(rb"tenant(\d{8})")


class Tenant:
    """What a VM does inside the overlay, in both families: its addresses end in its number. With an `address`
    it has that one already, and no other."""

    def __init__(self, lab: Lab, box: Namespace, device: str, number: int, address: str = "") -> None:
        self._lab, self.box, self.device = lab, box, device
        self._index = box.index(device)
        self.address, self.address6 = address or f"192.168.7.{number}", f"fd00:7::{number}"
        if not address:
            box.sysctl(f"net/ipv6/conf/{device}/accept_dad", 0)
            box.sysctl(f"net/ipv6/conf/{device}/disable_ipv6", 0)
            box.address(device, f"{self.address}/24")
            box.address(device, f"{self.address6}/64")
        self.ear = Ear(lab, box, device)

    def _socket(self, six: bool, *options: tuple[int, int, bytes]) -> socket.socket:
        def make() -> socket.socket:
            made = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
            for option in options:
                made.setsockopt(*option)
            return made

        self._lab.sockets.append(self.box.run(make))
        return self._lab.sockets[-1]

    def join(self, group: str, source: str = "") -> socket.socket:
        """Join as a program does, whole or one source alone; who closes the socket leaves."""
        to = ip_address(group).packed
        if ":" in group:
            request = to + struct.pack("=I", self._index)
            return self._socket(True, (socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request))
        if source:
            request = to + ip_address(self.address).packed + ip_address(source).packed
            return self._socket(False, (socket.IPPROTO_IP, IP_ADD_SOURCE_MEMBERSHIP, request))
        request = to + struct.pack("=4xi", self._index)
        return self._socket(False, (socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request))

    def send(self, group: str, numbers: Collection[int]) -> None:
        """Send numbered datagrams to a group."""
        index = struct.pack("=i", self._index)
        if ":" in group:
            sender = self._socket(True, (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index))
        else:
            sender = self._socket(False, (socket.IPPROTO_IP, socket.IP_MULTICAST_IF, bytes(8) + index))
        with sender:
            for number in numbers:
                sender.sendto(b"tenant%08d" % number, (group, PORT))

    def got(self, numbers: Collection[int]) -> Counter[int]:
        """How often each of these came."""
        frames = self.ear.frames(outgoing=False)
        found = (int(number) for frame in frames for number in _NUMBERED.findall(frame))
        return Counter(number for number in found if number in numbers)

    def forget(self) -> None:
        """Let go of what came and left so far."""
        self.ear.forget()

    def control(self) -> list[bytes]:
        """The IGMP and MLD that came."""
        return [frame for frame in self.ear.frames(outgoing=False) if is_control(frame)]


def veth_tenant(lab: Lab, host: Namespace, device: str, number: int) -> Tenant:
    """A VM in a namespace of its own, on a veth of its host."""
    return Tenant(lab, veth_box(lab, host, device, f"vm{number}"), "eth0", number)


def stream(vms: Mapping[str, Tenant], sender: str, group: str, numbers: Collection[int], *to: str) -> None:
    """Send a stream, and assert that these VMs got each datagram once, all others none."""
    vms[sender].send(group, numbers)
    all_once = Counter(dict.fromkeys(numbers, 1))
    served = lambda: all(vms[name].got(numbers).keys() == all_once.keys() for name in to)  # noqa: E731
    wait_for(served, f"{group} from {sender} at {to}")
    time.sleep(QUIET_S)
    heard = {name: vm.got(numbers) for name, vm in vms.items()}
    wanted = {name: all_once if name in to else Counter() for name in vms}
    assert heard == wanted, {name: sum(one.values()) for name, one in heard.items()}


def expect_tenants(nve: Fastpath, group: str, *wanted: tuple[str, str], within_s: float = 10.0) -> None:
    """Wait until these (port, VM's address) are the members of a tenant group, and no others."""

    def found() -> set[tuple[str, str]]:
        rows = nve.show("members", group=group)
        return {(str(row["port"]), str(row["nve"])) for row in rows if row["network"]}

    wait_for(
        lambda: found() == set(wanted),
        lambda: f"members of {group} at {nve.name}: {wanted}, not {found()}",
        within_s,
    )


def goes_to(box: Fastpath, group: str, *ports: str) -> None:
    """Return when a tenants' group goes to these ports and no other: who is new there has had its time."""

    def found() -> list[list[str]]:
        return [sorted(row["local"]) for row in box.show("groups") if row["tenants"] == group]

    wait_for(lambda: found() == [sorted(ports)], lambda: f"{group} goes to {ports}, not {found()}")

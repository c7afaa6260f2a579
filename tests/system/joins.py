"""What the tests of snooping share: a ToR whose members nobody configured, hosts that join, ears on wires."""

from __future__ import annotations

import json
import re
import select
import socket
import time
from collections.abc import Iterable
from functools import partial
from ipaddress import IPv4Address, ip_address, ip_interface
from typing import Any

from ctrl import punt
from ctrl.lab.namespaces import Namespace, connect
from ctrl.protocols.messages import Query, Record, Report
from fastpath.model import IPAddress
from tests import frames as f
from tests.system.lab import (
    DEADLINE_S,
    ETH_P_ALL,
    MTU,
    TEST_ETHERTYPE,
    Fastpath,
    Lab,
    Vm,
    has_carrier,
    plug,
    roomy,
    wait_for,
)

GROUP, OTHER_GROUP, THIRD_GROUP = "239.1.1.100", "239.1.1.200", "239.1.2.50"
GROUP6 = "ff05::100"
QUICK: dict[str, Any] = {
    "query_interval_s": 2,
    "query_response_interval_s": 0.4,
    "startup_response_interval_s": 0.4,
    "last_member_query_interval_s": 0.2,
}
"""Timers for tests that wait for queries."""
BUSY_S = 1.1
"""What a busy machine may add to the last member's time by these timers: even twice that, with this, is less
than the 2 s after which who left unheard would be gone at the earliest."""
IP_BLOCK_SOURCE, IP_ADD_SOURCE_MEMBERSHIP = 38, 39  # <linux/in.h>; socket has them from Python 3.12 on
OUTGOING = 4  # PACKET_OUTGOING of <linux/if_packet.h>

NUMBERED = re.compile(rb"\x02\xd0\0{3}.%b(.{4})" % re.escape(TEST_ETHERTYPE.to_bytes(2, "big")), re.DOTALL)
"""A VM's MAC, the type of its frames, and the number (see `lab.Vm`)."""

Membership = tuple[str, str, str]
"""Port, source of the reports, group."""


class Tor:
    """A device that faces NVEs by p1, p2, ..., each port with one host behind it or with a switch of many."""

    def __init__(self, lab: Lab, number: int = 1, *, six: bool = False) -> None:
        self.lab = lab
        self.number = number
        self.six = six
        self.box = lab.box(f"tor{number}", six=six, forwards=True)
        self.hosts: dict[int, Namespace] = {}
        self.switches = lab.box(f"sw{number}")
        self.ports: list[int] = []
        self.address = f"fd00:9::{number}" if six else f"10.9.0.{number}"
        self.box.address("lo", self.address + ("/128" if six else "/32"))

    def host(self, number: int) -> Namespace:
        """Put a host of its own behind port `number`."""
        self.hosts[number] = made = self.lab.box(f"h{number}", six=self.six)
        plug(self.box, f"p{number}", made, self.link(number))
        self.ports.append(number)
        return made

    def switch(self, port: int, *numbers: int, snoops: bool, **bridge: int) -> None:
        """Put a Linux bridge behind a port, and hosts behind that; further options are the bridge's own."""
        connect(self.box, f"p{port}", self.switches, f"up{port}", mtu=MTU)
        words = [f"{word}" for pair in {"mcast_snooping": int(snoops), **bridge}.items() for word in pair]
        self.switches.command("ip", "link", "add", f"br{port}", "type", "bridge", *words)
        self.switches.set_link(f"br{port}", state="up")
        self.enslave(f"up{port}", port)
        near = self.link(port)[0]
        self.box.address(f"p{port}", near)
        for number in numbers:
            self.hosts[number] = host = self.lab.box(f"h{number}", six=self.six)
            connect(self.switches, f"d{number}", host, "up", mtu=MTU)
            self.enslave(f"d{number}", port)
            host.address("up", f"10.1.{port}.{number}/24")
            host.route("0.0.0.0/0", "up", str(ip_interface(near).ip))
            wait_for(partial(has_carrier, host, "up"), "carrier of a host")
        wait_for(partial(has_carrier, self.box, f"p{port}"), "carrier of the port")
        self.ports.append(port)

    def enslave(self, device: str, port: int) -> None:
        """Make a device a port of the bridge behind our port."""
        self.switches.set_link(device, master=self.switches.index(f"br{port}"))

    def link(self, number: int) -> tuple[str, str]:
        """The addresses of both ends of a port's link."""
        if self.six:
            return f"fd00:1:{number}::1/64", f"fd00:1:{number}::2/64"
        return f"10.1.{number}.1/24", f"10.1.{number}.2/24"

    def of(self, number: int) -> str:
        """The address of the host that is alone behind a port."""
        return str(ip_interface(self.link(number)[1]).ip)

    def config(self, more: str = "", *, device: str = "", **membership: float | bool) -> str:
        """Ports and timers; nobody is a member. `device`: more lines of its table."""
        ports = "".join(f'[[port]]\nname = "p{n}"\nfaces = "nve"\n' for n in self.ports)
        timers = "".join(f"{key} = {str(value).lower()}\n" for key, value in membership.items())
        return f'{ports}[membership]\n{timers}[device]\naddress = "{self.address}"\n{device}{more}'

    def run(self, more: str = "", **settings: Any) -> Fastpath:
        """Run `fastpath` there."""
        return Fastpath(self.lab, self.box, self.config(more, **settings), name=f"tor{self.number}")

    def nve(self, number: int, vni: int = 100, group: str = GROUP, *, local: str = "", name: str = "") -> Vm:
        """Make an unmodified Linux VXLAN device on a host, with a VM on it: its kernel joins the group."""
        host, device = self.hosts[number], name or f"vx{vni}"
        address = local or str(address_of(host, 6 if self.six else 4))
        host.vxlan(device, vni, local=address, under="up", group=group)
        return Vm(self.lab, host, device, number)


def address_of(host: Namespace, version: int = 4) -> IPAddress:
    """The address of a host's interface."""

    def listed(ip: Any) -> list[Any]:
        return list(ip.get_addr(index=index, family=2 if version == 4 else 10))

    index = host.index("up")
    found = (ip_address(one.get_attr("IFA_ADDRESS")) for one in host.netlink(listed, "its addresses"))
    return next(address for address in found if not address.is_link_local)


def members(fastpath: Fastpath) -> set[Membership]:
    return {(str(row["port"]), str(row["nve"]), str(row["group"])) for row in fastpath.show("members")}


def expect_members(fastpath: Fastpath, *wanted: Membership, within_s: float = DEADLINE_S) -> None:
    """Wait until these are the members, and no others."""
    end_s = time.monotonic() + within_s
    while (found := members(fastpath)) != set(wanted):
        missing, others = set(wanted) - found, found - set(wanted)
        assert time.monotonic() < end_s, f"not within {within_s:g} s: missing {missing}, not wanted {others}"
        time.sleep(0.01)


class Watch:
    """What a box tells those who watch, from now on."""

    def __init__(self, lab: Lab, fastpath: Fastpath, *topics: str) -> None:
        self._text = b""
        self._socket = socket.socket(socket.AF_UNIX)
        lab.sockets.append(self._socket)
        self._socket.settimeout(DEADLINE_S)
        self._socket.connect(str(fastpath.socket))
        query = "&".join(f"topic={topic}" for topic in topics)
        self._socket.sendall(f"GET /v1/monitor?{query} HTTP/1.0\r\nHost: test\r\n\r\n".encode())
        while b"\r\n\r\n\n" not in self._text:  # the first line, an empty one: it is heard
            self._text += self._socket.recv(65536)
        self._text = b""

    def rows(self) -> list[dict[str, Any]]:
        """What was told so far."""
        while select.select([self._socket], [], [], 0)[0]:
            text = self._socket.recv(65536)
            assert text, "the box has gone"
            self._text += text
        return [json.loads(line) for line in self._text.split(b"\n")[:-1] if line]

    def told(self) -> list[tuple[str, str]]:
        """(event, group) of each."""
        return [(row["event"], row["group"]) for row in self.rows()]


class Ear:
    """What passes a host's interface, either way, from now on."""

    def __init__(self, lab: Lab, host: Namespace, device: str = "up") -> None:
        self._socket = lab.packet_socket(host, device, ETH_P_ALL)
        roomy(self._socket)
        self._frames: list[tuple[bool, bytes]] = []

    def frames(self, *, outgoing: bool) -> list[bytes]:
        """Those that left, or those that came."""
        while select.select([self._socket], [], [], 0)[0]:
            frame, address = self._socket.recvfrom(65536)
            self._frames.append((address[2] == OUTGOING, frame))
        return [frame for left, frame in self._frames if left == outgoing]

    def forget(self) -> None:
        """Let go of what passed so far."""
        self.frames(outgoing=False)
        self._frames.clear()

    def messages(self, *, outgoing: bool) -> list[Query | Report]:
        """IGMP and MLD, each with TTL 1, Router Alert and right sums."""
        return messages_in(self.frames(outgoing=outgoing))

    def queries(self, *, six: bool = False) -> list[Query]:
        """The queries that came, of IGMP or of MLD."""
        kind = b"\x86\xdd" if six else b"\x08\x00"
        frames = [frame for frame in self.frames(outgoing=False) if frame[12:14] == kind]
        return [one for one in messages_in(frames) if isinstance(one, Query)]

    def reports(self) -> list[Report]:
        """The reports that the host sent."""
        return reports_in(self.frames(outgoing=True))

    def said(self, *groups: str) -> list[tuple[str, str]]:
        """(kind, group) of each record about these groups that the host sent."""
        records = (record for report in self.reports() for record in report.records)
        named = ((one.kind.name, str(group_of(one))) for one in records)
        return [(kind, group) for kind, group in named if group in groups]

    def numbers(self) -> list[int]:
        """The numbers in the VXLAN packets that came (see `lab.numbered`); a train is one frame of many."""
        found = (number for frame in self.frames(outgoing=False) for number in NUMBERED.findall(frame))
        return [int.from_bytes(number, "big") for number in found]


def messages_in(frames: Iterable[bytes]) -> list[Query | Report]:
    found = (punt.read(frame, strict_headers=True) for frame in frames if is_control(frame))
    return [one.message for one in found if not isinstance(one, str)]


def reports_in(frames: Iterable[bytes]) -> list[Report]:
    return [one for one in messages_in(frames) if isinstance(one, Report)]


def is_control(frame: bytes) -> bool:
    """Whether it is IGMP, or MLD behind its hop-by-hop header."""
    kind = frame[12:14]
    return (kind == b"\x08\x00" and frame[23] == 2) or (kind == b"\x86\xdd" and frame[20] == 0)


def group_of(one: Record | Query) -> IPAddress:
    return IPv4Address(one.group) if one.group < 1 << 32 else ip_address(one.group.to_bytes(16, "big"))


def many_vnis(lab: Lab, host: Namespace, local: str, vnis: Iterable[tuple[int, str]]) -> None:
    """Make `vxm`, one VXLAN device with many VNIs, each with a group of its own; up."""
    host.command("ip", "link", "add", "vxm", "type", "vxlan", "dstport", "4789", "local", local, "dev", "up",
                 "external", "vnifilter")  # fmt: skip
    host.set_link("vxm", state="up")
    batch = lab.directory / "vnis"
    batch.write_text("".join(f"vni add dev vxm vni {vni} group {group}\n" for vni, group in vnis))
    host.command("bridge", "-batch", str(batch))


def lose_igmp(host: Namespace, *, but_answers: bool = False) -> None:
    """Have the IGMP of a host lost on its way, from now on; or only what it says unasked, in version 3."""
    news = "@th,64,8 3-6 " if but_answers else ""  # the type of the first record: a change of state
    host.command(
        "nft",
        "add table ip lossy; add chain ip lossy out { type filter hook output priority 0; };"
        f"add rule ip lossy out ip protocol igmp {news}drop",
    )


def member_socket(
    lab: Lab, host: Namespace, group: str, source: str = "", *, blocks: bool = False
) -> socket.socket:
    """Join a group as a program does: whole, of one source alone, or of all sources but one."""
    made = host.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    lab.sockets.append(made)
    here = address_of(host).packed
    if not source or blocks:
        made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, ip_address(group).packed + here)
    if source:
        option = IP_BLOCK_SOURCE if blocks else IP_ADD_SOURCE_MEMBERSHIP
        made.setsockopt(
            socket.IPPROTO_IP, option, ip_address(group).packed + here + ip_address(source).packed
        )
    return made


def send_vxlan(lab: Lab, host: Namespace, group: str, vni: int, *frames: bytes) -> None:
    """Send frames of a VM to a group, as an NVE on the host."""
    with host.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, address_of(host).packed)
        for frame in frames:
            sender.sendto(f.vxlan_header(vni) + frame, (group, f.VXLAN_PORT))

"""What arrives at a box, drawn at random: aimed at a list, then perhaps spoiled (see `tests.strategies`)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any, TypeVar

from fastpath.model import (
    ANY_GROUP,
    Encap,
    Faces,
    Frame,
    KeyKind,
    Layout,
    Mark,
    ReplicationList,
    Scope,
)
from tests import frames as f

T = TypeVar("T")

GROUPS = ("239.1.1.100", "239.129.7.8", "ff15::1:7788:99aa", "225.0.13.255")
INNER_GROUPS = ("239.77.1.3", "239.77.200.9", "ff15::7", "224.0.0.251")
INNER_UNICAST = ("172.16.5.77", "fd00:0:0:5::4d")
INNER_SOURCES = ("172.16.5.9", "fd00:0:0:5::9", "172.16.5.10", "fd00:0:0:5::a")
VTEPS = ("10.1.1.2", "2001:db8:1::2", "10.1.1.9", "2001:db8:1::9")
PEERS = ("10.0.0.2", "2001:db8::2", "10.0.0.3", "2001:db8::3", "10.0.0.4")
OWN = {
    Scope.DEVICE: ("10.0.0.1", "2001:db8::1"),
    Scope.REPLICATOR: ("10.0.0.110", "10.0.0.111", "2001:db8::110"),
    Scope.NVE: ("10.1.1.200", "2001:db8:1::200"),
}
STRANGERS = ("203.0.113.66", "2001:db8:bad::66")
VNIS = (0x0A1B2C, 0x9C8D7E, 0x313233, 0x000FFE)
VSIDS = (0x51D2E3, 0x6F4E3D, 0x0A1B2C, 0x101112)
TAGS = ((f.TAG, 0x6064), (f.SERVICE_TAG, 0x0FFE))
MAX_TENANT = 90
VM_MACS = tuple(
    bytes.fromhex(one) for one in ("0eb1c3d5e7f9", "0210aabbcc01", "0210aabbcc02", "a6ffffffff03")
)
"""Source and destination of most frames of VMs."""
NO_STATION = (bytes(6), b"\xff" * 6, bytes.fromhex("01005e4d0103"), bytes.fromhex("33330000aa07"))


def chance(rng: random.Random, percent: int) -> bool:
    """Whether something unusual happens; 0 draws as no."""
    return rng.randrange(100) >= 100 - percent


def some(rng: random.Random, items: Sequence[T], percent: int) -> list[T]:
    """A part of the items."""
    return [one for one in items if chance(rng, percent)]


def same_version(items: Sequence[str], like: str) -> list[str]:
    """The addresses of one IP version."""
    return [one for one in items if (":" in one) == (":" in like)]


def random_tenant(rng: random.Random, encap: Encap, group: str | None, source: str | None) -> bytes:
    """A VM's frame between some of the MACs, seldom from an impossible one."""
    frame = random_frame(rng, encap, group, source)
    src = rng.choice(NO_STATION) if chance(rng, 3) else rng.choice(VM_MACS)
    to_group = chance(rng, 35 if group is None else 85)
    return (rng.choice(NO_STATION[1:]) if to_group else rng.choice(VM_MACS)) + src + frame[12:]


def random_frame(rng: random.Random, encap: Encap, group: str | None, source: str | None) -> bytes:
    """A VM's frame, to this inner group if one is asked for; in NVGRE seldom with a tag."""
    if group is None and chance(rng, 15):
        return f.arp()
    if chance(rng, 18):
        return membership(rng)
    dst = rng.choice((*INNER_GROUPS, *INNER_UNICAST)) if group is None else group
    src = rng.choice(same_version(INNER_SOURCES, dst)) if source is None else source
    knobs: f.Knobs = {"tos": rng.choice((0, 2, 1, 3, 0xBA))}
    if ":" not in dst:
        knobs |= rng.choice(({}, {}, {"options": bytes(4)}, {"flags": 1}, {"ihl": 4}, {"version": 6}))
    tags: Sequence[tuple[int, int]] = ()
    if chance(rng, 5 if encap is Encap.NVGRE else 40):
        tags = rng.choice((TAGS[:1], TAGS[1:], TAGS, (*TAGS, TAGS[0])))
    protocol = rng.choice((f.UDP, f.UDP, f.TCP, f.SCTP, f.ICMPV6))
    frame = f.tenant(src, dst, size=rng.randrange(MAX_TENANT), tags=tags, protocol=protocol, packet=knobs)
    return frame[: 14 + rng.randrange(len(frame) - 14)] if chance(rng, 6) else frame


def membership(rng: random.Random) -> bytes:
    """A VM's IGMP or MLD, or what only looks like it."""
    tags = TAGS[:1] if chance(rng, 20) else ()
    if chance(rng, 50):
        packet = f.igmp(INNER_SOURCES[0], rng.choice(("224.0.0.22", "224.0.0.1", INNER_GROUPS[0])))
        flags = rng.choice((0, 0, 0, 0, 0x20, 0x01))
        packet = packet[:6] + bytes((packet[6] | flags,)) + packet[7:]
        frame = f.ethernet(packet, f.IPV4, tags=tags)
    else:
        packet = f.mld("fe80::7", rng.choice(("ff02::16", "ff02::1")), rng.choice((143, 130, 131, 132, 135)))
        if chance(rng, 15):
            later = f.fragment_extension(rng.choice((0, 7)), more=chance(rng, 50))
            packet = f.ipv6(packet[48:], "fe80::7", "ff02::16", f.ICMPV6, extensions=(later,))
        frame = f.ethernet(packet, f.IPV6, tags=tags)
    if chance(rng, 15):
        return frame[: 14 + rng.randrange(len(frame) - 14)]
    return frame + bytes(rng.choice((0, 0, 5)))


def ip_knobs(rng: random.Random, address: str, spoil: bool) -> f.Knobs:
    """Fields of an outer IP header: unusual ones, and wrong ones to spoil."""
    knobs: f.Knobs = {"ttl": rng.choice((1, 64, 0, 255)), "tos": rng.choice((0, 2, 1, 3, 0x28))}
    if ":" in address:
        if chance(rng, 12):
            kinds = (f.HOP_BY_HOP, f.ROUTING, f.DESTINATION_OPTIONS, f.AUTHENTICATION)
            count = 9 if chance(rng, 12) else 1 + rng.randrange(8)
            knobs["extensions"] = [
                f.extension(rng.choice(kinds), rng.choice((0, 1, 4)) if count < 4 else 0)
                for _ in range(count)
            ]
        if spoil:
            fragment = f.fragment_extension(rng.choice((0, 7)), more=chance(rng, 50))
            knobs |= rng.choice(
                ({"version": 4}, {"length": rng.randrange(70)}, {"extensions": [fragment]}, {"length": 3})
            )
        return knobs
    knobs["ident"] = rng.randrange(65536)
    if chance(rng, 10):
        knobs["options"] = bytes(4 * (1 + rng.randrange(3)))
    if spoil:
        knobs |= rng.choice(
            (
                {"checksum": rng.randrange(65536)},
                {"version": 5},
                {"ihl": rng.randrange(16)},
                {"length": rng.randrange(90)},
                {"flags": 1},
                {"offset": 9, "flags": 0},
                {"flags": 4},
            )
        )
    return knobs


def udp_knobs(rng: random.Random, spoil: bool) -> f.Knobs:
    """Fields of an outer UDP header."""
    knobs: f.Knobs = {"sport": 0xC000 + rng.randrange(0x4000), "checksum": rng.choice((f.ZERO, f.RIGHT))}
    if spoil:
        knobs |= rng.choice(
            ({"checksum": 0xFFFF}, {"length": rng.randrange(80)}, {"dport": 8472}, {"dport": 4754})
        )
    return knobs


def overlay_packet(
    rng: random.Random, encap: Encap, number: int, inner: bytes, src: str, dst: str, spoil: str = ""
) -> bytes:
    """A VXLAN or NVGRE packet; `spoil` names the layer that is wrong."""
    packet = ip_knobs(rng, dst, spoil == "ip")
    if encap is Encap.NVGRE:
        gre: f.Knobs = {"flow_id": rng.randrange(256)}
        if spoil == "overlay":
            gre |= rng.choice(
                ({"flags": 0}, {"flags": 0x2001}, {"flags": 0xB000}, {"flags": 0x2008}, {"protocol": 0x800})
            )
            number = rng.choice((number, 0, 0xFFF, 0xFFFFFF))
        return f.nvgre_packet(inner, src, dst, number, header=gre, packet=packet)
    vxlan: f.Knobs = rng.choice(({}, {}, {}, {"reserved": 0x0A0B0C}, {"last": 0x80}, {"flags": 0x8C}))
    if spoil == "overlay":
        vxlan = rng.choice(({"flags": 0xF7}, {"flags": 0x18}, {"reserved": 1}, {"last": 1}))
    behind = bytes(3) if chance(rng, 4) else b""
    datagram = udp_knobs(rng, spoil == "udp")
    return f.vxlan_packet(
        inner, src, dst, number, header=vxlan, datagram=datagram, packet=packet, behind=behind
    )


def number_of(rng: random.Random, layout: Layout, encap: Encap, group: str | None) -> int:
    """A number for a packet to this group: mostly of a network that has the group."""
    numbers = [n.number(encap) for n in layout.networks if group is None or ip_address(group) in n.groups()]
    known = [n for n in numbers if n is not None]
    if known and not chance(rng, 8):
        return rng.choice(known)
    return rng.choice(VSIDS if encap is Encap.NVGRE else VNIS)


def facing(layout: Layout, *faces: Faces) -> list[int]:
    """The ports that face one of these."""
    return [i for i, p in enumerate(layout.ports) if p.faces in faces]


def sender_for(rng: random.Random, layout: Layout, one: ReplicationList | None, scope: Scope, to: str) -> str:
    """A unicast sender that is mostly welcome."""
    peers = [str(p.address) for p in layout.peers if p.scope is scope]
    if scope is Scope.REPLICATOR and one is not None:
        listed = {str(e.owner.address) for e in (*one.local, *one.remote) if e.owner.port is None}
        peers = [p for p in peers if p in listed]
    welcome = same_version(peers, to)
    if not welcome or chance(rng, 7):
        return rng.choice(same_version((*STRANGERS, *VTEPS, *PEERS, *OWN[Scope.DEVICE]), to))
    return rng.choice(welcome)


@dataclass(frozen=True)
class Aim:
    """What a frame is aimed at."""

    one: ReplicationList | None
    scope: Scope
    encap: Encap
    number: int
    group: str | None
    tenant: bytes


def take_aim(rng: random.Random, layout: Layout, lists: Sequence[ReplicationList]) -> Aim:
    """Pick a list, now and then none, and what a frame for it must carry."""
    if not lists or chance(rng, 5):
        scope = rng.choice([e.scope for e in layout.endpoints])
        group = rng.choice((None, *GROUPS))
        encap = rng.choice((Encap.VXLAN, Encap.NVGRE))
        tenant = random_tenant(rng, encap, None, None)
        return Aim(None, scope, encap, rng.choice(VNIS), group, tenant)
    one = rng.choice(lists)
    key = one.key
    if key.kind is KeyKind.GROUP and key.scope is Scope.NVE:
        tenant = random_tenant(rng, key.encap, rng.choice(INNER_GROUPS), None)
        return Aim(one, key.scope, key.encap, key.vni, None, tenant)
    if key.kind in (KeyKind.GROUP, KeyKind.SOURCE_GROUP):
        encap = rng.choice((Encap.VXLAN, Encap.NVGRE))
        group = str(key.group)
        tenant = random_tenant(rng, encap, None, None)
        return Aim(one, key.scope, encap, number_of(rng, layout, encap, group), group, tenant)
    inner = rng.choice(INNER_GROUPS) if key.group == ANY_GROUP else None
    if key.group is not None and inner is None:
        inner = str(key.group)
    source = None if key.source is None else str(key.source)
    tenant = random_tenant(rng, key.encap, inner, source)
    groups = [str(g) for n in layout.networks if n.number(key.encap) == key.vni for g in n.groups()]
    some_group = None if not groups or chance(rng, 30) else rng.choice(sorted(groups))
    return Aim(one, key.scope, key.encap, key.vni, some_group, tenant)


def from_vm(rng: random.Random, layout: Layout, aim: Aim) -> tuple[int, bytes] | None:
    """A VM's own frame, if there is a port where it fits."""
    names = [n.name for n in layout.networks if n.encap is aim.encap and n.number(n.encap) == aim.number]
    ports = [i for i, p in enumerate(layout.ports) if p.network and p.network in names]
    return (rng.choice(ports), aim.tenant) if ports else None


def outer_source(rng: random.Random, aim: Aim, group: str) -> str:
    """Who sends to the group: the list's source if it has one."""
    if aim.one is not None and aim.one.key.kind is KeyKind.SOURCE_GROUP:
        return str(aim.one.key.source)
    return rng.choice(same_version((*VTEPS, *VTEPS, *PEERS, *OWN[Scope.NVE]), group))


def to_group(rng: random.Random, layout: Layout, aim: Aim, group: str, spoil: str) -> tuple[int, bytes]:
    """A packet to the group, from a VTEP."""
    if aim.scope is Scope.NVE:
        ports = facing(layout, Faces.CORE)
    else:
        ports = facing(layout, Faces.NVE, Faces.NVE | Faces.CORE)
        if chance(rng, 10):
            ports = facing(layout, Faces.CORE)
    src = outer_source(rng, aim, group)
    return rng.choice(ports), overlay_packet(rng, aim.encap, aim.number, aim.tenant, src, group, spoil)


def to_us(rng: random.Random, layout: Layout, aim: Aim, spoil: str) -> tuple[int, bytes]:
    """A unicast tunnel packet: nested where the aim is a group, else as it is."""
    ours = [str(e.address) for e in layout.endpoints if e.scope is aim.scope] or list(STRANGERS)
    dst = rng.choice(ours)
    src = sender_for(rng, layout, aim.one, aim.scope, dst)
    ports = (
        facing(layout, Faces.CORE, Faces.NVE | Faces.CORE)
        if not chance(rng, 10)
        else facing(layout, Faces.NVE)
    )
    in_port = rng.choice(ports)
    if aim.group is None or chance(rng, 10):
        return in_port, overlay_packet(rng, aim.encap, aim.number, aim.tenant, src, dst, spoil)
    sender = outer_source(rng, aim, aim.group)
    inside = overlay_packet(
        rng, aim.encap, aim.number, aim.tenant, sender, aim.group, spoil if chance(rng, 50) else ""
    )
    if spoil == "overlay":
        inside = rng.choice(
            (
                inside,
                f.igmp(VTEPS[0], "224.0.0.22"),
                f.nested_packet(inside, VTEPS[0], GROUPS[0]),
                overlay_packet(rng, aim.encap, aim.number, aim.tenant, PEERS[0], "10.0.0.1"),
            )
        )
    gre = rng.choice((None, b"\x20\x00\x08\x00", b"\x00\x00\x86\xdd")) if spoil == "udp" else None
    outside = ip_knobs(rng, dst, spoil == "ip")
    datagram = {**udp_knobs(rng, spoil == "udp"), "dport": f.NESTED_PORT}
    return in_port, f.nested_packet(inside, src, dst, gre=gre, datagram=datagram, packet=outside)


def random_arrival(rng: random.Random, layout: Layout, lists: Sequence[ReplicationList]) -> tuple[int, Frame]:
    """One frame and its in-port."""
    if chance(rng, 6):
        return rng.randrange(len(layout.ports)), Frame(strange_frame(rng))
    aim = take_aim(rng, layout, lists)
    spoil = rng.choice(("ip", "udp", "overlay")) if chance(rng, 16) else ""
    if aim.scope is Scope.NVE and not chance(rng, 30):
        raw = from_vm(rng, layout, aim)
        if raw is not None:
            return raw[0], damaged(rng, layout, raw[1], 8)
    ours = any(e.scope is aim.scope for e in layout.endpoints)
    if not ours and not chance(rng, 10):
        aim = replace(aim, group=aim.group or rng.choice(GROUPS), scope=Scope.DEVICE)
    if aim.group is not None and aim.scope is not Scope.REPLICATOR and not (ours and chance(rng, 35)):
        in_port, packet = to_group(rng, layout, aim, aim.group, spoil)
    else:
        in_port, packet = to_us(rng, layout, aim, spoil)
    tags = (
        rng.choice(((), (), (), (), (), TAGS[:1], TAGS[1:], TAGS)) if not chance(rng, 2) else (*TAGS, TAGS[0])
    )
    padding = bytes(rng.randrange(12)) if chance(rng, 10) else b""
    return in_port, damaged(rng, layout, f.wire(packet, tags, padding), 6)


def damaged(rng: random.Random, layout: Layout, data: bytes, percent: int) -> Frame:
    """The frame as the port hands it over: mostly whole; else cut, one byte wrong, marked, tagged aside."""
    if chance(rng, percent):
        data = data[: rng.randrange(len(data) + 1)]
    if data and chance(rng, percent):
        at = rng.randrange(min(len(data), 140))
        data = data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :]
    mark = None
    if chance(rng, 6):
        mark = Mark(
            rng.choice((34, 84, 54, 38, rng.randrange(200))), rng.choice((6, 6, 6, 16, rng.randrange(200)))
        )
    vlan = rng.choice(TAGS) if chance(rng, 5) else None
    return Frame(data, mark, vlan)


def strange_frame(rng: random.Random) -> bytes:
    """Membership, other people's traffic, and noise."""
    kind = rng.randrange(6)
    if kind == 0:
        return f.wire(f.igmp(rng.choice(VTEPS[::2]), rng.choice(("224.0.0.22", "239.1.1.100"))))
    if kind == 1:
        return f.wire(f.mld("fe80::7", "ff02::16", rng.choice((143, 130, 131, 132, 135))))
    if kind == 2:
        return f.arp()
    if kind == 3:
        other: dict[str, Any] = {"dport": rng.choice((53, 4789, 4754))}
        return f.wire(
            f.ipv4(
                f.udp(bytes(rng.randrange(40)), VTEPS[0], STRANGERS[0], **other),
                VTEPS[0],
                STRANGERS[0],
                f.UDP,
            )
        )
    if kind == 4:
        body = bytes(rng.randrange(12))
        address = rng.choice((GROUPS[0], GROUPS[2]))
        return f.wire(
            f.ip(body, same_version(VTEPS, address)[0], address, rng.choice((f.UDP, f.GRE, f.ICMPV6)))
        )
    return bytes(rng.randrange(256) for _ in range(rng.randrange(80)))

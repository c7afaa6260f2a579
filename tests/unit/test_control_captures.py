"""IGMP and MLD of other projects' captures (../shared/captures), as tshark reads them and as we do.

All of their frames go into one capture, which one tshark reads: every message is read as it says, also in
tunnels, and every frame is heard or refused as its fields make us expect.
"""

from __future__ import annotations

import csv
import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from xml.etree import ElementTree as ET

import pytest

from ctrl import punt
from ctrl.protocols import igmp, mld
from ctrl.protocols.messages import Kind, Query, Record, Report
from ctrl.protocols.wire import UnknownTypeError
from tests.captures_io import pcap, read_frames
from tests.frames import IPV6, ethernet

SHARED = Path(__file__).parents[3] / "shared" / "captures"
pytestmark = [
    pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not here"),
    pytest.mark.skipif(which("tshark") is None, reason="tshark is not here"),
]

NO_LINK = {"zeek_zeek/icmp/icmp6-mld-query.pcap"}
"""Of IPv6 packets without a link: they get an Ethernet header."""
MLD_TYPES = (130, 131, 132, 143)
PLAIN = {"eth", "ethertype", "vlan", "ip", "igmp", "ipv6", "ipv6.hopopts", "icmpv6"}
"""The protocols of a frame whose message is in no tunnel."""


@dataclass
class Told:
    """A message that tshark found: the frame it is in, where, and its fields in order."""

    origin: str
    frame: bytes
    packet: ET.Element
    proto: ET.Element

    @property
    def payload(self) -> bytes:
        at = int(self.proto.attrib["pos"])
        return self.frame[at : at + int(self.proto.attrib["size"])]

    def shown(self, name: str, within: ET.Element | None = None) -> list[str]:
        where = self.proto if within is None else within
        return [field.attrib["show"] for field in where.iter("field") if field.attrib["name"] == name]

    def number(self, name: str) -> int:
        return int(self.shown(name)[0], 0)

    @property
    def is_sound(self) -> bool | None:
        """None: tshark could not tell."""
        name = f"{self.proto.attrib['name']}.checksum.status"
        return {"0": False, "1": True}.get((self.shown(name) or [""])[0])

    @property
    def is_plain(self) -> bool:
        return set(self.shown("frame.protocols", self.packet)[0].split(":")) <= PLAIN


def seconds(told: Told, name: str) -> float:
    """A response time in tshark's words, which has worked out the code."""
    words = [field.attrib["showname"] for field in told.proto.iter("field") if field.attrib["name"] == name]
    return float(re.findall(r"([\d.]+) sec", words[0])[0])


def expected(told: Told) -> Query | Report | None:
    """Make the message of tshark's fields; None: it is of a type that is not ours."""
    return expected_mld(told) if told.proto.attrib["name"] == "icmpv6" else expected_igmp(told)


def addresses(told: Told, name: str, within: ET.Element | None = None) -> tuple[int, ...]:
    return tuple(int(ip_address(text)) for text in told.shown(name, within))


def expected_igmp(told: Told) -> Query | Report | None:
    kind, group = told.number("igmp.type"), addresses(told, "igmp.maddr")
    if kind == 0x11:
        version = told.number("igmp.version")
        if version == 1:
            return Query(1)
        response_s = told.number("igmp.max_resp") / 10 if version == 2 else seconds(told, "igmp.max_resp")
        if version == 2:
            return Query(2, group[0], response_s=response_s)
        return Query(
            3,
            group[0],
            addresses(told, "igmp.saddr"),
            response_s,
            bool(told.number("igmp.s")),
            told.number("igmp.qrv"),
            told.number("igmp.qqic"),
        )
    if kind == 0x22:
        return records(told, "igmp.record_type", "igmp.maddr", "igmp.saddr")
    older = {0x12: (1, Kind.IS_EX), 0x16: (2, Kind.IS_EX), 0x17: (2, Kind.TO_IN)}.get(kind)
    return Report(older[0], (Record(older[1], group[0]),)) if older else None


def expected_mld(told: Told) -> Query | Report:
    kind, group = told.number("icmpv6.type"), addresses(told, "icmpv6.mld.multicast_address")
    if kind == 143:
        name = "icmpv6.mldr.mar"
        return records(told, f"{name}.record_type", f"{name}.multicast_address", f"{name}.source_address")
    if kind != 130:
        return Report(2, (Record(Kind.TO_IN if kind == 132 else Kind.IS_EX, group[0]),))
    if not told.shown("icmpv6.mld.flag.qrv"):
        return Query(2, group[0], response_s=told.number("icmpv6.mld.maximum_response_delay") / 1000)
    return Query(
        3,
        group[0],
        addresses(told, "icmpv6.mld.source_address"),
        told.number("icmpv6.mld.maximum_response_code") / 1000,
        bool(told.number("icmpv6.mld.flag.s")),
        told.number("icmpv6.mld.flag.qrv"),
        told.number("icmpv6.mld.qqi"),
    )


def records(told: Told, kind: str, group: str, source: str) -> Report:
    found = [
        field for field in told.proto.iter("field") if any(child.attrib["name"] == kind for child in field)
    ]
    known = [field for field in found if 1 <= int(told.shown(kind, field)[0]) <= 6]
    return Report(
        3,
        tuple(
            Record(
                Kind(int(told.shown(kind, field)[0])),
                addresses(told, group, field)[0],
                addresses(told, source, field),
            )
            for field in known
        ),
        len(found) - len(known),
    )


@cache
def frames() -> list[tuple[str, bytes]]:
    """Every frame of every capture in which tshark has found IGMP or MLD, by where it is from."""
    found = []
    for path in sorted((SHARED / "expected_tshark").iterdir()):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        if not any(row["igmp.type"] or row["icmpv6.type"] for row in rows):
            continue
        (name,) = (
            str(p.relative_to(SHARED))
            for p in SHARED.rglob("*.pcap*")
            if str(p.relative_to(SHARED)).replace("/", "__") + ".tsv" == path.name
        )
        for i, (_, _, data) in enumerate(read_frames(SHARED / name), 1):
            found.append((f"{name}:{i}", ethernet(data, IPV6) if name in NO_LINK else data))
    return found


@cache
def messages() -> list[Told]:
    """What tshark makes of `frames`."""
    with TemporaryDirectory() as directory:
        path = Path(directory) / "all.pcap"
        path.write_bytes(pcap((i, data) for i, (_, data) in enumerate(frames())))
        wanted = "igmp || icmpv6.type in {130, 131, 132, 143}"
        options = ["-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE", "-T", "pdml", "-Y", wanted]
        done = subprocess.run(["tshark", "-n", "-r", str(path), *options], capture_output=True, check=True)
    found = []
    for packet in ET.fromstring(done.stdout).iter("packet"):
        number = next(
            int(field.attrib["show"]) for field in packet.iter("field") if field.attrib["name"] == "num"
        )
        for proto in packet.iter("proto"):
            told = Told(*frames()[number - 1], packet, proto)
            if proto.attrib["name"] == "igmp" or (
                proto.attrib["name"] == "icmpv6" and told.number("icmpv6.type") in MLD_TYPES
            ):
                found.append(told)
    return found


def read(told: Told) -> Query | Report | None:
    """Read it ourselves; None: its type is unknown."""
    try:
        return igmp.read(told.payload) if told.proto.attrib["name"] == "igmp" else mld.read(told.payload)
    except UnknownTypeError:
        return None


def is_sound(told: Told) -> bool:
    if told.proto.attrib["name"] == "igmp":
        return igmp.is_sound(told.payload)
    source, destination = (IPv6Address(told.shown(f"ipv6.{end}", told.packet)[-1]) for end in ("src", "dst"))
    return mld.is_sound(told.payload, source.packed, destination.packed)


def test_every_message_is_read_as_tshark_reads_it():
    """Type, version, groups, record types, sources and times, of tunnelled ones too."""
    told = messages()
    assert {t.origin: read(t) for t in told} == {t.origin: expected(t) for t in told}
    kinds = Counter(t.payload[0] for t in told)
    assert kinds.keys() >= {0x11, 0x12, 0x16, 0x17, 0x22, *MLD_TYPES}
    assert kinds.total() >= 259


def test_every_checksum_is_right_where_tshark_says_so_and_wrong_where_not():
    judged = [t for t in messages() if t.is_sound is not None]
    assert {t.origin: is_sound(t) for t in judged} == {t.origin: t.is_sound for t in judged}
    assert {t.is_sound for t in judged} == {True, False}


def fate(told: Told) -> str | None:
    """Tell what has to become of a plain frame by the fields of its headers; None: it is heard."""
    if told.shown("eth.src", told.packet)[0] == "00:00:00:00:00:00":
        return "zero_mac"
    is_mld = told.proto.attrib["name"] == "icmpv6"
    at = int(told.proto.attrib["pos"])
    if is_mld and len(told.frame) < at - 8 + int(told.shown("ipv6.plen", told.packet)[0]):
        return "malformed_control"
    if told.is_sound is False:
        return "bad_control_checksum"
    if is_mld:
        source = ip_address(told.shown("ipv6.src", told.packet)[0])
        may_speak = source.is_link_local or (source.is_unspecified and told.payload[0] in (131, 143))
        is_alert = told.shown("ipv6.opt.router_alert", told.packet) == ["0"]
        is_last_hop = told.shown("ipv6.hlim", told.packet) == ["1"]
        return None if may_speak and is_alert and is_last_hop else "not_from_the_link"
    return "unknown_control" if expected(told) is None else None


def test_every_frame_is_heard_or_refused_as_its_headers_say():
    """W8, and the odd inputs of zeek (a MAC of zeros, a wrong checksum), Open vSwitch (frames 27, 28, 42)."""
    plain = {t.origin: t for t in messages() if t.is_plain}
    fates: Counter[str | None] = Counter()
    for origin, frame in frames():
        heard = punt.read(frame, strict_headers=False)
        told = plain.get(origin)
        if told is None:
            assert isinstance(heard, str), origin
            continue
        refusal = fate(told)
        fates[refusal] += 1
        if refusal:
            assert (origin, heard) == (origin, refusal)
            continue
        is_mld = told.proto.attrib["name"] == "icmpv6"
        source, destination = (
            int(ip_address(told.shown(f"{'ipv6' if is_mld else 'ip'}.{end}", told.packet)[0]))
            for end in ("src", "dst")
        )
        mac = bytes.fromhex(told.shown("eth.src", told.packet)[0].replace(":", ""))
        message = expected(told)
        assert message is not None
        assert (origin, heard) == (
            origin,
            punt.Heard(mac, source, destination, 128 if is_mld else 32, message),
        )
    assert fates.keys() == {
        None,
        "zero_mac",
        "malformed_control",
        "bad_control_checksum",
        "unknown_control",
        "not_from_the_link",
    }

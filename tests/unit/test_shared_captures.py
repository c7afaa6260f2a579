"""The captures of other projects' test suites (../shared/captures), where they are present.

Each goes through two boxes: one made for it, to which all of its tunnels lead and whose lists make every form
of copy; and the one of the demo, to which most of it is noise. What tshark decoded is the third opinion.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from ctrl.config import load
from ctrl.replay import replay
from fastpath.errors import CaptureError
from fastpath.model import (
    AllowFrom,
    Egress,
    Encap,
    Endpoint,
    Faces,
    Form,
    Frame,
    IPAddress,
    KeyKind,
    Layout,
    Network,
    Owner,
    Port,
    ReplicationList,
    Scope,
    group_key,
    vni_key,
)
from fastpath.reference.parse import parse
from fastpath.reference.wire import Drop
from tests.captures_io import read_frames
from tests.compiled import Compiled, assert_same
from tests.replaying import EXAMPLES, ROOT, checked

SHARED = ROOT.parent / "shared" / "captures"
TSHARK = SHARED / "expected_tshark"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not here")


def table(path: Path) -> list[dict[str, str]]:
    """Read a tab-separated file with headings."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


FILES = [row["file"] for row in table(SHARED / "INDEX.tsv")] if SHARED.is_dir() else []
NO_ETHERNET = {
    "the-tcpdump-group_tcpdump/icmp-cksum-oobr-1.pcap": 113,
    "the-tcpdump-group_tcpdump/ipv6-next-header-oobr-1.pcap": 229,
    "the-tcpdump-group_tcpdump/ipv6-next-header-oobr-2.pcap": 229,
    "the-tcpdump-group_tcpdump/ipv6-rthdr-oobr.pcap": 229,
    "the-tcpdump-group_tcpdump/isis-infinite-loop.pcap": 113,
    "zeek_zeek/icmp/icmp6-mld-query.pcap": 229,
}
"""Captures of another link type (113: Linux cooked, 229: IPv6 without a link)."""
ETHERNET = [file for file in FILES if file not in NO_ETHERNET]

Kind = str | tuple[Encap, int]
"""What a frame is: "punt", an encapsulation and its number, or why it is dropped."""

TO_US, P2, VM, CORE = range(4)
PORTS = tuple(
    Port(name, faces, bytes((2, 0, 0, 0, 0, i)), bytes((2, 0, 0, 0, 1, i)), network=network)
    for i, (name, faces, network) in enumerate(
        (
            ("p1", Faces.NVE | Faces.CORE, ""),
            ("p2", Faces.NVE, ""),
            ("vm", Faces.VM, "of the VM"),
            ("core", Faces.CORE, ""),
        )
    )
)
EVERYONE = (AllowFrom(Scope.DEVICE, ip_network("0.0.0.0/0")), AllowFrom(Scope.DEVICE, ip_network("::/0")))
V4, V6 = ip_address("192.0.2.1"), ip_address("2001:db8::1")
PEER4, PEER6 = ip_address("192.0.2.2"), ip_address("2001:db8::2")
LOCAL = (
    Egress(P2, Form.GROUP, Owner(P2)),
    Egress(P2, Form.REWRITE, Owner(P2, PEER4), PEER4, V4, Encap.NVGRE, 5000),
    Egress(P2, Form.REWRITE, Owner(P2, PEER6), PEER6, V6, Encap.VXLAN, 70),
    Egress(VM, Form.DECAPSULATED, Owner(VM)),
)
REMOTE = (
    Egress(CORE, Form.NESTED, Owner(address=V4), PEER4, V4),
    Egress(CORE, Form.NESTED, Owner(address=V6), PEER6, V6),
    Egress(CORE, Form.REWRITE, Owner(address=PEER4), PEER4),
)


@dataclass(frozen=True)
class Opinion:
    """What tshark says of a frame."""

    kinds: frozenset[Kind]
    tunnel: tuple[IPAddress, IPAddress] | None
    """The outermost addresses."""


def opinions(file: str) -> list[Opinion]:
    """Read tshark's opinion of each frame of a capture."""
    return [opinion(row) for row in table(TSHARK / f"{file.replace('/', '__')}.tsv")]


def opinion(row: dict[str, str]) -> Opinion:
    kinds: set[Kind] = {(Encap.VXLAN, int(vni)) for vni in row["vxlan.vni"].split("|") if vni}
    if "0x6558" in row["gre.proto"].split("|"):
        kinds |= {(Encap.NVGRE, int(key, 16) >> 8) for key in row["gre.key"].split("|") if key}
    # All of IGMP is punted: what is no membership (PIMv1, DVMRP) control ignores (RFC 3376 section 4).
    if "igmp" in row["frame.protocols"].split(":") or {"130", "131", "132", "143"} & {
        *row["icmpv6.type"].split("|")
    }:
        kinds.add("punt")
    if not kinds or "punt" in kinds:
        return Opinion(frozenset(kinds), None)
    outer = next(name for name in row["frame.protocols"].split(":") if name in {"ip", "ipv6"})
    source, target = (ip_address(row[f"{outer}.{end}"].split("|")[0]) for end in ("src", "dst"))
    return Opinion(frozenset(kinds), (source, target))


def boxes(told: Iterable[Opinion]) -> tuple[Layout, Layout]:
    """Two boxes, one for each end of the tunnels: a box takes no frame that one of its own addresses sent."""
    ends: tuple[set[IPAddress], set[IPAddress]] = (set(), set())
    for one in told:
        if one.tunnel:
            source, target = one.tunnel
            here = 1 if source in ends[0] or target in ends[1] else 0
            ends[here].add(target)
            ends[1 - here].add(source)
    plain = Layout(PORTS, networks=(Network("of the VM", 6000, 6000),), allow_from=EVERYONE)

    def box(addresses: set[IPAddress]) -> Layout:
        return replace(
            plain,
            endpoints=tuple(
                Endpoint(a, Scope.DEVICE) for a in sorted(addresses, key=str) if not a.is_multicast
            ),
        )

    return box(ends[0]), box(ends[1])


def lists(told: Iterable[Opinion]) -> tuple[ReplicationList, ...]:
    """A list for every number and for every group, with a copy of every form."""
    numbers = {kind for one in told for kind in one.kinds if not isinstance(kind, str)}
    groups = {one.tunnel[1] for one in told if one.tunnel and one.tunnel[1].is_multicast}
    keys = [vni_key(Scope.DEVICE, *number) for number in sorted(numbers)]
    keys += [group_key(Scope.DEVICE, group) for group in sorted(groups, key=str)]
    return tuple(ReplicationList(key, LOCAL, REMOTE) for key in keys)


def kind(data: bytes, layout: Layout) -> Kind:
    """What the reference parses a frame as."""
    try:
        parsed = parse(Frame(data), PORTS[TO_US], layout)
    except Drop as drop:
        return str(drop)
    return "punt" if parsed is None else (parsed.encap, parsed.number)


# --- agreement ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ETHERNET)
def test_the_compiled_path_does_what_the_reference_does_in_a_box_made_for_the_capture(file: str):
    told = opinions(file)
    arrivals = [(TO_US, Frame(data)) for *_, data in read_frames(SHARED / file)]
    for layout in boxes(told):
        assert_same(layout, lists(told), arrivals)
        unverified = replace(layout, verify_checksums=False)
        assert_same(unverified, lists(told), arrivals, batch=3)


@pytest.mark.parametrize("in_port", ["p1", "core"])
@pytest.mark.parametrize("file", ETHERNET)
def test_the_compiled_path_does_what_the_reference_does_in_the_demo_s_box(file: str, in_port: str, tmp_path):
    """The whole way, from file to file; `checked` balances the books."""
    result = checked(load(EXAMPLES / "demo.toml"), SHARED / file, tmp_path / "out.pcapng", in_port)
    assert result.done.damage is None


@pytest.mark.parametrize("file", NO_ETHERNET)
def test_a_capture_of_another_link_type_is_refused(file: str, tmp_path):
    with pytest.raises(CaptureError, match=f"has link type {NO_ETHERNET[file]}; expected Ethernet"):
        replay(load(EXAMPLES / "demo.toml"), SHARED / file, tmp_path / "out.pcap", "p1")


# --- tshark's opinion ---------------------------------------------------------------------------------------

EXCEPTIONS: dict[tuple[str, int], Kind] = {
    # UDP port 4790 is VXLAN-GPE (draft-ietf-nvo3-vxlan-gpe), not VXLAN on 4789 (RFC 7348 section 5).
    ("arkime_arkime/arkime_synthetic.pcap", 618): "not_ours",
    ("arkime_arkime/arkime_synthetic.pcap", 619): "not_ours",
    ("the-tcpdump-group_tcpdump/nsh-over-vxlan-gpe.pcap", 1): "not_ours",
    # VXLAN inside ERSPAN: tshark opens what a mirror wrapped. Outside it is GRE with protocol 0x88be, not
    # NVGRE's 0x6558 (RFC 7637 section 3.2), and nothing is decapsulated twice.
    **{("arkime_arkime/gre-erspan-vxlan.pcap", n): "not_ours" for n in range(1, 8)},
    # The VSIDs 0 to 0xfff are reserved (RFC 7637 section 3.2); the keys here are plain GRE keys (RFC 2890).
    ("derived_ovs/ovs_vectors.pcap", 6): "reserved_vsid",
    ("derived_ovs/ovs_vectors.pcap", 19): "reserved_vsid",
    ("seladb_PcapPlusPlus/pp_GrePackets.pcap", 7): "reserved_vsid",
    # A wrong IPv4 header checksum is discarded (RFC 1122 section 3.2.1.2); tshark only remarks on it.
    ("derived_ovs/ovs_vectors.pcap", 9): "bad_ip_checksum",
    ("derived_ovs/ovs_vectors.pcap", 10): "bad_ip_checksum",
    ("seladb_PcapPlusPlus/pcapp_IgmpPackets.pcap", 2): "bad_ip_checksum",
    ("seladb_PcapPlusPlus/pcapp_IgmpPackets.pcap", 40): "bad_ip_checksum",
    # A UDP checksum that is not zero must be right (RFC 7348 section 5, RFC 1122 section 4.1.3.4). Those of
    # gso-* were left unfinished by the sender's kernel, and a capture does not say so (LIMITS trap 12).
    ("derived_ovs/ovs_vectors.pcap", 11): "bad_udp_checksum",
    ("derived_ovs/ovs_vectors.pcap", 23): "bad_udp_checksum",
    ("the-tcpdump-group_tcpdump/gso-ipv4-vxlan-ipv4.pcap", 1): "bad_udp_checksum",
    ("the-tcpdump-group_tcpdump/gso-ipv4-vxlan-ipv6.pcap", 1): "bad_udp_checksum",
    # A packet that ends before its own length says (RFC 791 section 3.1): the capture holds 38 bytes of it.
    ("the-tcpdump-group_tcpdump/hoobr_pimv1.pcap", 9): "truncated",
    # IPv6 packets shorter than their payload length says (RFC 8200 section 3); tshark decodes what there is.
    ("derived_gopacket/gopacket_vectors.pcap", 6): "truncated",
    ("derived_gopacket/gopacket_vectors.pcap", 7): "truncated",
    ("derived_gopacket/gopacket_vectors.pcap", 8): "truncated",
}
"""Frames on which we and tshark differ: what we make of them, and who says so."""


def expected(file: str, number: int, one: Opinion) -> set[Kind]:
    """What we are to make of a frame; nothing is any reason for a drop."""
    return {EXCEPTIONS[file, number]} if (file, number) in EXCEPTIONS else {*one.kinds}


@pytest.mark.parametrize("file", ETHERNET)
def test_each_frame_is_parsed_as_what_tshark_decodes(file: str):
    told = opinions(file)
    frames = [data for *_, data in read_frames(SHARED / file)]
    for number, (data, one) in enumerate(zip(frames, told, strict=True), 1):
        layout = next((box for box in boxes(told) if kind(data, box) != "not_ours"), boxes(told)[0])
        got = kind(data, layout)
        wanted = expected(file, number, one)
        is_dropped = isinstance(got, str) and got != "punt"
        assert {got} == wanted or (not wanted and is_dropped), f"frame {number}: {data.hex()}"


@pytest.mark.parametrize("file", ETHERNET)
def test_as_many_frames_are_punted_and_replicated_by_number_as_tshark_decodes(file: str):
    """By the counters of the compiled path."""
    told = opinions(file)
    wanted = Counter(
        kind
        for number, one in enumerate(told, 1)
        for kind in expected(file, number, one)
        if not isinstance(kind, str) or kind == "punt"
    )
    got: Counter[Kind] = Counter()
    arrivals = [(TO_US, Frame(data)) for *_, data in read_frames(SHARED / file)]
    for layout in boxes(told):
        box = Compiled(layout, lists(told))
        box.forward_batch(arrivals)
        counted = box.forwarder.statistics()
        got["punt"] = counted.punted
        for row in counted.lists:
            assert row.key.kind is KeyKind.VNI, "a frame to a group, whose list does not tell its number"
            got[row.key.encap, row.key.vni] += row.frames
    assert +got == wanted


def test_the_exceptions_are_of_frames_that_tshark_decodes():
    """An exception that is none any more is noticed."""
    for (file, number), ours in EXCEPTIONS.items():
        assert opinions(file)[number - 1].kinds - {ours}


def test_enough_is_decoded_to_mean_something():
    kinds = Counter(
        kind if isinstance(kind, str) else kind[0].name
        for f in FILES
        for o in opinions(f)
        for kind in o.kinds
    )
    assert kinds["VXLAN"] > 50
    assert kinds["NVGRE"] >= 3
    assert kinds["punt"] > 200

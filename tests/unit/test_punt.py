"""Punted frames: what is heard, and by which name the rest is refused. Nothing ever raises."""

from __future__ import annotations

import random
from collections import Counter
from ipaddress import ip_address
from typing import Any

import pytest

from ctrl import punt
from ctrl.protocols import igmp, mld, wire
from ctrl.protocols.messages import Kind, Query, Record, Report
from ctrl.refusals import REFUSALS
from tests import frames as f
from tests.igmp_vectors import IGMP, MLD, WRONG_CHECKSUM

ALERT = bytes.fromhex("94040000")
MLD_ALERT = f.HOP_BY_HOP, bytes.fromhex("0000050200000100")
HOST, NVE = "10.1.1.2", "fe80::fa57:2"
TAG = (f.TAG, 1725)
OUTCOMES = {
    "heard",
    "zero_mac",
    "bad_control_checksum",
    "malformed_control",
    "unknown_control",
    "not_from_the_link",
}


def igmp_frame(payload: bytes, src: str = HOST, dst: str = "224.0.0.22", **knobs: Any) -> bytes:
    tags = knobs.pop("tags", ())
    mac = knobs.pop("mac", f.THERE_MAC)
    packet = f.ipv4(payload, src, dst, f.IGMP, **{"ttl": 1, "options": ALERT, **knobs})
    return f.ethernet(packet, f.IPV4, src=mac, tags=tags)


def mld_frame(payload: bytes, src: str = NVE, dst: str = "ff02::16", **knobs: Any) -> bytes:
    """`sound` False leaves the checksum as it is."""
    if knobs.pop("sound", True) and len(payload) > 3:
        payload = payload[:2] + bytes(2) + payload[4:]
        total = f.internet_checksum(f.pseudo(src, dst, f.ICMPV6, len(payload)) + payload)
        payload = payload[:2] + total.to_bytes(2, "big") + payload[4:]
    tags = knobs.pop("tags", ())
    mac = knobs.pop("mac", f.THERE_MAC)
    packet = f.ipv6(payload, src, dst, f.ICMPV6, **{"ttl": 1, "extensions": [MLD_ALERT], **knobs})
    return f.ethernet(packet, f.IPV6, src=mac, tags=tags)


def read(frame: bytes, *, strict: bool = False) -> punt.Heard | str:
    return punt.read(frame, strict_headers=strict)


def sound(payload: bytes) -> bytes:
    bare = payload[:2] + bytes(2) + payload[4:]
    return bare[:2] + f.internet_checksum(bare).to_bytes(2, "big") + bare[4:]


SOUND = sorted(IGMP.keys() - WRONG_CHECKSUM)
JOIN, JOIN6 = igmp_frame(IGMP["IS_EXC"]), mld_frame(MLD["IS_EXC"])


@pytest.mark.parametrize("name", SOUND)
def test_igmp_is_heard_with_who_said_it_and_to_whom(name):
    """W8: the MAC and the source of the report, whatever is behind them."""
    expected = punt.Heard(
        f.THERE_MAC, int(ip_address(HOST)), int(ip_address("224.0.0.22")), 32, igmp.read(IGMP[name])
    )
    for strict in (False, True):
        assert read(igmp_frame(IGMP[name]), strict=strict) == expected


@pytest.mark.parametrize("name", MLD)
def test_mld_is_heard_with_who_said_it_and_to_whom(name):
    """W8."""
    expected = punt.Heard(
        f.THERE_MAC, int(ip_address(NVE)), int(ip_address("ff02::16")), 128, mld.read(MLD[name])
    )
    assert read(mld_frame(MLD[name])) == expected


@pytest.mark.parametrize(
    "frame",
    [
        igmp.query_frame(Query(3, robustness=2, interval_s=125.0), f.HERE_MAC, 0x0A000001),
        igmp.report_frame(Report(2, (Record(Kind.TO_IN, 0xEF010101),)), f.HERE_MAC, 0x0A000001),
        mld.query_frame(Query(3, robustness=2, interval_s=125.0), f.HERE_MAC, 0xFE80 << 112 | 1),
        mld.report_frame(Report(2, (Record(Kind.IS_EX, 0xFF05 << 112 | 1),)), f.HERE_MAC, 0xFE80 << 112 | 1),
    ],
)
def test_frames_of_our_own_are_heard(frame):
    assert isinstance(read(frame, strict=True), punt.Heard)


@pytest.mark.parametrize(
    "mac", ["000000000000", "ffffffffffff", "01005e000016", "333300000016", "03fa57000001"]
)
def test_an_ethernet_source_that_is_no_station_is_refused(mac):
    """Zeek's icmp6-mldv1 has the zeros; Linux drops all of them before MLD."""
    for frame in (
        igmp_frame(IGMP["IS_INC"], mac=bytes.fromhex(mac)),
        mld_frame(MLD["IS_INC"], mac=bytes.fromhex(mac)),
    ):
        assert read(frame) == "zero_mac"


@pytest.mark.parametrize(
    ("tags", "outcome"),
    [([TAG], ""), ([(f.SERVICE_TAG, 5), TAG], ""), ([TAG] * 3, "unknown_control")],
)
def test_up_to_two_tags_are_stepped_over(tags, outcome):
    for frame, bare in (
        (igmp_frame(IGMP["IS_EXC"], tags=tags), JOIN),
        (mld_frame(MLD["IS_EXC"], tags=tags), JOIN6),
    ):
        assert read(frame) == (outcome or read(bare))


def test_ethernet_padding_is_no_part_of_a_message():
    """Or an 8-byte query with padding would be one of version 3."""
    query = sound(bytes.fromhex("1164000000000000"))
    heard = read(igmp_frame(query, options=b"") + bytes(18))
    assert isinstance(heard, punt.Heard)
    assert heard.message == Query(2, response_s=10.0)


@pytest.mark.parametrize(
    ("knobs", "strict"),
    [
        ({}, ""),
        ({"src": "0.0.0.0"}, ""),
        ({"dst": "239.9.9.9"}, ""),
        ({"options": bytes.fromhex("01010194040000 00")}, ""),
        ({"options": bytes.fromhex("8303049404000001")}, ""),
        ({"options": bytes.fromhex("8307049404000001")}, "not_from_the_link"),
        ({"options": bytes.fromhex("8304049494040000")}, ""),
        ({"options": bytes.fromhex("0000000094040000")}, "not_from_the_link"),
        ({"options": bytes.fromhex("0004000094040000")}, "not_from_the_link"),
        ({"options": bytes.fromhex("8300000094040000")}, "not_from_the_link"),
        ({"options": bytes.fromhex("94040001")}, "not_from_the_link"),
        ({"options": bytes.fromhex("010101 94")}, "not_from_the_link"),
        ({"options": b""}, "not_from_the_link"),
        ({"ttl": 64}, "not_from_the_link"),
        ({"ttl": 0}, "not_from_the_link"),
    ],
)
def test_ttl_and_router_alert_of_igmp_count_with_strict_headers_alone(knobs, strict):
    """A source of 0.0.0.0 and a destination that is not the group are as good as any (RFC 4541)."""
    frame = igmp_frame(IGMP["IS_EXC"], **knobs)
    assert isinstance(read(frame), punt.Heard)
    heard = read(frame, strict=True)
    assert heard == strict if strict else isinstance(heard, punt.Heard)


PAD = bytes.fromhex("0000010400000000")
QUERY6 = bytes.fromhex("8200000027100000") + bytes(16) + bytes.fromhex("027d0000")


@pytest.mark.parametrize(
    ("payload", "knobs", "outcome"),
    [
        (MLD["OVS_V2"], {"extensions": []}, "not_from_the_link"),  # OVS's frame 42; OVS takes it
        (MLD["IS_EXC"], {"extensions": [], "ttl": 64}, "not_from_the_link"),  # zeek's icmp6-mldv2
        (MLD["IS_EXC"], {"ttl": 64}, "not_from_the_link"),
        (MLD["IS_EXC"], {"ttl": 0}, "not_from_the_link"),
        (MLD["IS_EXC"], {"src": "2001:db8::1"}, "not_from_the_link"),
        (MLD["IS_EXC"], {"src": "fec0::1"}, "not_from_the_link"),
        (MLD["IS_EXC"], {"src": "febf::1"}, ""),
        (MLD["IS_EXC"], {"src": "::"}, ""),
        (MLD["OVS_V1"], {"src": "::", "dst": "ff02::1:ff0e:4c67"}, ""),  # OVS's frame 28
        (b"\x84" + MLD["OVS_V1"][1:], {}, ""),
        (b"\x84" + MLD["OVS_V1"][1:], {"src": "::"}, "not_from_the_link"),
        (QUERY6, {"dst": "ff02::1"}, ""),
        (QUERY6, {"dst": "ff02::1", "src": "::"}, "not_from_the_link"),
        (MLD["IS_EXC"], {"extensions": [(0, PAD)]}, "not_from_the_link"),
        (MLD["IS_EXC"], {"extensions": [(0, bytes.fromhex("0000000005020000"))]}, ""),
        (MLD["IS_EXC"], {"extensions": [(0, bytes.fromhex("0001010205020502 0500050200000100"))]}, ""),
        (MLD["IS_EXC"], {"extensions": [(0, bytes.fromhex("0000050200010100"))]}, "not_from_the_link"),
        (MLD["IS_EXC"], {"extensions": [(0, bytes.fromhex("00001eff05020000"))]}, "not_from_the_link"),
        (MLD["IS_EXC"], {"extensions": [MLD_ALERT, (60, PAD)]}, ""),
        (MLD["IS_EXC"], {"extensions": [(60, PAD), MLD_ALERT]}, "not_from_the_link"),
        (
            MLD["IS_EXC"],
            {"extensions": [MLD_ALERT, f.extension(f.AUTHENTICATION, 1), f.extension(43, 2)]},
            "",
        ),
        (MLD["IS_EXC"], {"extensions": [MLD_ALERT] + 7 * [(60, PAD)]}, ""),
        (MLD["IS_EXC"], {"extensions": [MLD_ALERT] + 8 * [(60, PAD)]}, "malformed_control"),
        (MLD["IS_EXC"], {"extensions": [MLD_ALERT, f.fragment_extension(0, True)]}, "malformed_control"),
        (MLD["IS_EXC"], {"extensions": [MLD_ALERT, f.fragment_extension(1, False)]}, "malformed_control"),
    ],
)
def test_mld_comes_from_the_link_or_is_refused(payload, knobs, outcome):
    """RFC 9777 section 5: a link-local source (or none, of a report), hop limit 1 and Router Alert."""
    heard = read(mld_frame(payload, **knobs))
    assert heard == outcome if outcome else isinstance(heard, punt.Heard)


def test_a_wrong_checksum_is_refused_and_that_of_mld_covers_the_addresses():
    assert read(igmp_frame(IGMP["OVS_QUERY_BAD"])) == "bad_control_checksum"
    for name in WRONG_CHECKSUM & MLD.keys():
        assert read(mld_frame(MLD[name], sound=False)) == "bad_control_checksum"
    right = mld_frame(MLD["MDB_IS_IN"], "fe80::1", "ff0e::1", sound=False)
    assert isinstance(read(right), punt.Heard)
    assert read(mld_frame(MLD["MDB_IS_IN"], "fe80::2", "ff0e::1", sound=False)) == "bad_control_checksum"


@pytest.mark.parametrize(
    "frame",
    [
        igmp_frame(IGMP["IS_EXC"], version=6),
        igmp_frame(IGMP["IS_EXC"], ihl=4),
        igmp_frame(IGMP["IS_EXC"], ihl=15),
        igmp_frame(IGMP["IS_EXC"], length=23),
        igmp_frame(IGMP["IS_EXC"], length=57),
        igmp_frame(IGMP["IS_EXC"], flags=1),
        igmp_frame(IGMP["IS_EXC"], offset=1),
        igmp_frame(sound(IGMP["IS_EXC"][:-4])),
        igmp_frame(sound(bytes.fromhex("116400000000000000"))),
        igmp_frame(b""),
        mld_frame(MLD["IS_EXC"], version=4),
        mld_frame(MLD["IS_EXC"], length=0),
        mld_frame(MLD["IS_EXC"], length=0xFFFF),
        mld_frame(MLD["IS_EXC"], length=4),
        mld_frame(MLD["IS_EXC"], length=8),
        mld_frame(MLD["IS_EXC"], extensions=[(0, bytes.fromhex("00ff050200000100"))]),
        f.ethernet(f.ipv6(b"", NVE, "ff02::16", f.UDP, extensions=[(0, b"\x00\x01" + bytes(6))]), f.IPV6),
        mld_frame(MLD["IS_EXC"][:-16]),
        mld_frame(b""),
    ],
)
def test_a_frame_at_odds_with_itself_is_malformed(frame):
    assert read(frame) == "malformed_control"


@pytest.mark.parametrize(
    "frame",
    [
        igmp_frame(sound(bytes.fromhex("1300000000000000"))),
        igmp_frame(sound(bytes(7) + b"\x01")),
        mld_frame(bytes.fromhex("8000000000000000")),
        f.ethernet(f.ipv4(b"12345678", HOST, "239.1.1.1", f.UDP), f.IPV4),
        f.ethernet(f.ipv6(b"12345678", NVE, "ff05::1", f.UDP), f.IPV6),
        f.ethernet(bytes(28), 0x0806),
    ],
)
def test_what_is_neither_query_nor_report_nor_leave_is_unknown(frame):
    assert read(frame) == "unknown_control"


FRAMES = {
    **{f"igmp_{name}": igmp_frame(payload, tags=[TAG]) for name, payload in IGMP.items()},
    **{f"mld_{name}": mld_frame(payload, tags=[TAG]) for name, payload in MLD.items()},
}


@pytest.mark.parametrize("name", FRAMES)
def test_every_prefix_of_every_frame_is_malformed(name):
    frame = FRAMES[name]
    assert {read(frame[:size], strict=True) for size in range(len(frame))} == {"malformed_control"}


@pytest.mark.parametrize("name", [*(f"igmp_{name}" for name in IGMP), *(f"mld_{name}" for name in MLD)])
def test_every_prefix_of_every_message_in_a_frame_that_is_right_is_malformed_or_an_older_query(name):
    family, _, vector = name.partition("_")
    payload = IGMP[vector] if family == "igmp" else MLD[vector]
    for size in range(len(payload)):
        part = payload[:size]
        frame = igmp_frame(sound(part) if size > 3 else part) if family == "igmp" else mld_frame(part)
        heard = read(frame)
        if isinstance(heard, punt.Heard):
            assert isinstance(heard.message, Query)
            assert size in (8, 24)
        elif size > 3:
            assert heard == "malformed_control"
        else:
            assert heard in ("malformed_control", "bad_control_checksum")


def spoil(rng: random.Random, frame: bytes) -> bytes:
    """Change, cut, double or insert a few bytes; more often than not behind the IP header."""
    raw = bytearray(frame)
    for _ in range(rng.randint(1, 4)):
        low = rng.choice((0, 12, 14, 38, 54, 62))
        at = rng.randrange(min(low, len(raw) - 1), len(raw))
        what = rng.random()
        if what < 0.7:
            raw[at] = rng.choice((0, 1, 2, 4, 8, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif what < 0.8:
            del raw[max(at, 16) :]
        elif what < 0.9:
            raw[at:at] = raw[at : at + rng.choice((1, 4, 8, 20))]
        else:
            raw[at:at] = bytes(rng.choice((1, 4, 16)))
    return bytes(raw)


def mend(frame: bytes) -> bytes:
    """Set the length and checksum right of what looks like a report of either kind, so that it is read."""
    raw = bytearray(frame)
    if raw[12:14] == b"\x08\x00" and len(raw) > 42:
        start = 14 + (raw[14] & 15) * 4
        raw[16:18] = (len(raw) - 14).to_bytes(2, "big")
        raw[start + 2 : start + 4] = bytes(2)
        raw[start + 2 : start + 4] = wire.checksum(bytes(raw[start:])).to_bytes(2, "big")
    elif raw[12:14] == b"\x86\xdd" and len(raw) > 66:
        raw[18:20] = (len(raw) - 54).to_bytes(2, "big")
        raw[64:66] = bytes(2)
        pseudo = bytes(raw[22:54]) + (len(raw) - 62).to_bytes(4, "big") + bytes((0, 0, 0, 58))
        raw[64:66] = wire.checksum(pseudo + bytes(raw[62:])).to_bytes(2, "big")
    return bytes(raw)


def test_a_hundred_thousand_spoiled_reports_are_each_heard_or_refused_by_name():
    rng = random.Random(20261122)
    seeds = [igmp_frame(payload) for payload in IGMP.values()] + [
        mld_frame(payload) for payload in MLD.values()
    ]
    outcomes: Counter[str] = Counter()
    for i in range(100_000):
        frame = spoil(rng, seeds[i % len(seeds)])
        heard = read(mend(frame) if i % 3 else frame, strict=i % 2 == 0)
        outcomes["heard" if isinstance(heard, punt.Heard) else heard] += 1
    assert outcomes.keys() == OUTCOMES
    assert OUTCOMES - {"heard"} <= REFUSALS.keys()
    assert min(outcomes.values()) > 500
    assert outcomes.total() == 100_000


def test_a_report_of_mld_from_nobody_is_refused_with_strict_headers():
    """VECTORS.md: accepted for snooping (RFC 4541), by a switch."""
    frame = mld_frame(MLD["OVS_V1"], src="::", dst="ff02::1:ff0e:4c67")
    assert [isinstance(read(frame, strict=strict), punt.Heard) for strict in (False, True)] == [True, False]
    assert isinstance(read(mld_frame(MLD["IS_EXC"]), strict=True), punt.Heard)

"""IGMP on the wire: the vectors, the odd inputs, and scapy as the other reader and writer."""

from __future__ import annotations

import tracemalloc
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers import igmp as theirs
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether

from ctrl.protocols import igmp, wire
from ctrl.protocols.messages import Kind, MalformedError, Query, Record, Report
from tests.frames import internet_checksum
from tests.igmp_vectors import IGMP, WRONG_CHECKSUM

MAC = bytes.fromhex("02fa57000001")
GROUP = int(IPv4Address("239.10.10.10"))
NET = int(IPv4Address("192.0.2.0"))
HERE = int(IPv4Address("10.0.0.1"))
TABLE = {
    "IS_INC": (Kind.IS_IN, (1, 2, 3)),
    "IS_INC2": (Kind.IS_IN, (10, 11, 12)),
    "IS_INC3": (Kind.IS_IN, (20, 30)),
    "ALLOW": (Kind.ALLOW, (10, 11, 12)),
    "ALLOW2": (Kind.ALLOW, (20, 30)),
    "IS_EXC": (Kind.IS_EX, (1, 2, 20, 21)),
    "IS_EXC2": (Kind.IS_EX, (20, 30)),
    "TO_EXC": (Kind.TO_EX, (1, 20, 30)),
    "BLOCK": (Kind.BLOCK, (1, 20, 30)),
}


def ip(text: str) -> int:
    return int(IPv4Address(text))


def joins(version: int, *groups: str) -> Report:
    return Report(version, tuple(Record(Kind.IS_EX, ip(group)) for group in groups))


READ: dict[str, Query | Report] = {
    **{
        name: Report(3, (Record(kind, GROUP, tuple(NET + n for n in sources)),))
        for name, (kind, sources) in TABLE.items()
    },
    "MDB_IS_IN": Report(3, (Record(Kind.IS_IN, ip("239.1.1.1"), (NET + 2,)),)),
    "AUX_DATA": joins(3, "239.1.1.1", "239.1.1.1"),
    "V2_LEAVE": Report(2, (Record(Kind.TO_IN, ip("224.0.6.150")),)),
    "V2_REPORT": joins(2, "225.0.0.37"),
    "OVS_QUERY": Query(3, response_s=10.0, robustness=2, interval_s=125.0),
    "OVS_QUERY_BAD": Query(3, response_s=10.0, robustness=2, interval_s=125.0),
    "OVS_V1": joins(1, "224.1.1.1"),
    "OVS_V2": joins(2, "224.1.1.2"),
    "OVS_V3": Report(3, (Record(Kind.TO_EX, ip("233.54.12.230")),)),
    "OVS_V1_AGAIN": joins(1, "224.1.1.2"),
}


@pytest.mark.parametrize("name", IGMP)
def test_every_vector_is_read_as_its_table_says(name):
    assert igmp.read(IGMP[name]) == READ[name]
    assert igmp.is_sound(IGMP[name]) == (name not in WRONG_CHECKSUM)


@pytest.mark.parametrize("name", sorted(IGMP.keys() - WRONG_CHECKSUM - {"AUX_DATA"}))
def test_every_vector_is_written_again_to_the_last_bit(name):
    """The bits that the vector's message has: OVS's IGMPv1 report has a code, which nothing reads."""
    message = READ[name]
    written = igmp.query(message) if isinstance(message, Query) else igmp.report(message)
    expected = IGMP[name] if name != "OVS_V1" else bytes.fromhex("12000cfde0010101")
    assert written == expected


def test_auxiliary_data_is_stepped_over_and_never_taken_for_a_group():
    """VPP's test of 2026-05: Linux learns 239.1.1.99 out of it."""
    report = igmp.read(IGMP["AUX_DATA"])
    assert isinstance(report, Report)
    assert {record.group for record in report.records} == {ip("239.1.1.1")}
    packet = igmp.V3Report(IGMP["AUX_DATA"])
    assert [(r.type, r.aux_words, r.aux.hex()) for r in packet.records] == [
        (2, 2, "02000000ef010163"),
        (2, 0, ""),
    ]
    assert bytes(packet) == IGMP["AUX_DATA"]


@settings(deadline=None)
@given(st.binary(max_size=40).filter(any))
def test_the_checksum_is_that_of_rfc_1071(data):
    assert wire.checksum(data) == internet_checksum(data)
    assert wire.is_sound(data + bytes(len(data) % 2) + wire.checksum(data).to_bytes(2, "big"))


@pytest.mark.parametrize("behind", ["0102030405060708", "010203"])
def test_a_v2_report_with_bytes_behind_it_is_taken_and_its_checksum_covers_them(behind):
    """RFC 2236 section 2.5; refusing it was FRR's issue 10331."""
    longer = bytes.fromhex("16000000e1000025" + behind)
    longer = longer[:2] + internet_checksum(longer).to_bytes(2, "big") + longer[4:]
    assert igmp.read(longer) == joins(2, "225.0.0.37")
    assert igmp.is_sound(longer)
    assert not igmp.is_sound(longer[:-1] + b"\x09")


def test_the_length_of_a_query_says_its_version_and_9_to_11_bytes_say_none():
    """W5. RFC 9776 section 7.1."""
    v3 = bytes.fromhex("1164000000000000 027d0000")
    assert igmp.read(bytes.fromhex("1100000000000000")) == Query(1, response_s=10.0)
    assert igmp.read(bytes.fromhex("11640000e1000025")) == Query(2, ip("225.0.0.37"), response_s=10.0)
    assert igmp.read(v3) == igmp.read(v3 + b"and more") == READ["OVS_QUERY"]
    for size in range(9, 12):
        with pytest.raises(MalformedError, match=rf"{size} bytes is of no version: 8, or 12"):
            igmp.read(v3[:size])
    for size in range(8):
        with pytest.raises(MalformedError, match=rf"{size} bytes are no IGMP message"):
            igmp.read(v3[:size])


def test_the_group_of_a_v1_query_is_ignored():
    assert igmp.read(bytes.fromhex("11000000e1000025")) == Query(1, response_s=10.0)


@pytest.mark.parametrize(
    ("code", "seconds"), [(0, 0.0), (1, 0.1), (0x7F, 12.7), (0x80, 12.8), (0xFF, 3174.4)]
)
def test_response_codes_are_exact_and_zero_divides_nothing(code, seconds):
    """CVE-2012-0207 was a division by the 0; VPP made 36 days of 0xff until 2026-05."""
    query = igmp.read(bytes((0x11, code)) + bytes(6) + bytes((0x0A, code, 0, 0)))
    assert isinstance(query, Query)
    assert (query.response_s, query.interval_s) == (seconds, round(seconds * 10))
    assert (query.suppress, query.robustness) == (True, 2)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_code_stands_for_what_the_rfc_works_out_and_goes_back_to_itself(bits):
    """RFC 9776 section 4.1.1, RFC 9777 section 5.1.3: (mant | 16 or 4096) << (exp + 3)."""
    values = [wire.value_of(code, bits) for code in range(1 << bits)]
    for code in range(1 << bits - 1, 1 << bits, 1 if bits == 8 else 97):
        binary = f"{code:b}"
        mantissa, exponent = int("1" + binary[4:], 2), int(binary[1:4], 2)
        assert values[code] == mantissa * 2 ** (exponent + 3)
    assert values[: 1 << bits - 1] == list(range(1 << bits - 1))
    assert values == sorted(set(values))
    assert [wire.code_of(value, bits) for value in values] == list(range(1 << bits))


@settings(deadline=None)
@given(st.integers(0, 40_000_000), st.sampled_from([8, 16]))
def test_a_number_without_a_code_gets_the_next_one_below(value, bits):
    code = wire.code_of(value, bits)
    assert wire.value_of(code, bits) <= value
    assert code == (1 << bits) - 1 or wire.value_of(code + 1, bits) > value


def test_a_record_of_an_unknown_type_is_left_out_and_counted_and_the_next_is_taken():
    odd = bytes.fromhex("2200000000000002 09010001 ef010163 c0000201 abababab 04000000 ef010101")
    assert igmp.read(odd) == Report(3, (Record(Kind.TO_EX, ip("239.1.1.1")),), unknown=1)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("0000 0002 02000000 ef010101", "2 records announced, 1 present"),
        ("0000 0002 02000000 ef010101 02000000 ef01", "2 records announced, 1 present"),
        ("0000 0002 02000000 ef010101 02000001 ef010102", "record 2 of 2: 4 bytes less"),
        ("0000 0001 02020000 ef010101 02000000", "record 1 of 1: 4 bytes less"),
        ("0000 0001 0200ffff ef010101 c0000201", "record 1 of 1: 262136 bytes less"),
        ("0000 ffff 02000000 ef010101", "65535 records announced, 1 present"),
    ],
)
def test_a_report_with_less_than_it_announces_is_refused_whole_and_makes_no_room_for_it(body, sentence):
    """All or nothing, decided so: half a report would be believed as if the host had said no more."""
    payload = bytes.fromhex("22000000" + body)
    tracemalloc.start()
    try:
        with pytest.raises(MalformedError, match=sentence):
            igmp.read(payload)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20_000


def test_a_query_with_fewer_sources_than_it_announces_is_refused():
    with pytest.raises(MalformedError, match="3 sources announced, 2 present"):
        igmp.read(bytes.fromhex("1164000000000000 027d0003 c0000201 c0000202 c000"))


@pytest.mark.parametrize("kind", [0x00, 0x13, 0x14, 0x1E, 0x1F, 0x30, 0xFF])
def test_what_is_neither_query_nor_report_nor_leave_is_unknown(kind):
    with pytest.raises(wire.UnknownTypeError, match=f"0x{kind:02x} is neither"):
        igmp.read(bytes((kind,)) + bytes(15))


addresses = st.integers(0, 2**32 - 1)
records = st.builds(Record, st.sampled_from(Kind), addresses, st.lists(addresses, max_size=5).map(tuple))
reports = st.builds(Report, st.just(3), st.lists(records, max_size=8).map(tuple))
queries = st.builds(
    Query,
    st.just(3),
    addresses,
    st.lists(addresses, max_size=5).map(tuple),
    st.integers(0, 255).map(lambda code: wire.value_of(code) / 10),
    st.booleans(),
    st.integers(0, 7),
    st.integers(0, 255).map(lambda code: float(wire.value_of(code))),
)


@settings(deadline=None)
@given(reports)
def test_a_report_is_read_as_it_was_written_by_us_and_by_scapy(report):
    payload = igmp.report(report)
    assert igmp.read(payload) == report
    assert internet_checksum(payload) == 0
    assert bytes(scapy_report(report)) == payload
    seen = theirs.IGMPv3_MR(payload)
    assert [(r.rtype, ip(r.maddr), tuple(map(ip, r.srcaddrs))) for r in seen.records] == [
        (r.kind, r.group, r.sources) for r in report.records
    ]


def scapy_report(report: Report) -> Any:
    found = [
        theirs.IGMPv3_MR_Group(
            rtype=int(r.kind),
            maddr=str(IPv4Address(r.group)),
            srcaddrs=[str(IPv4Address(s)) for s in r.sources],
        )
        for r in report.records
    ]
    return theirs.IGMPv3_MR(records=found)


@settings(deadline=None)
@given(queries)
def test_a_query_is_read_as_it_was_written_by_us_and_by_scapy(query):
    payload = igmp.query(query)
    assert igmp.read(payload) == query
    assert internet_checksum(payload) == 0
    asked = theirs.IGMPv3_MQ(payload)
    assert (ip(asked.gaddr), tuple(map(ip, asked.srcaddrs))) == (query.group, query.sources)
    assert (asked.s, asked.qrv, asked.qqic) == (query.suppress, query.robustness, payload[9])
    tenths = round(query.response_s * 10)  # scapy makes a code of it, but does not undo it
    assert bytes(theirs.IGMPv3_MQ(**asked.fields | {"mrcode": tenths, "chksum": None})) == payload


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (0x11, Query(2, ip("239.1.2.3"), response_s=1.5)),
        (0x12, joins(1, "239.1.2.3")),
        (0x16, joins(2, "239.1.2.3")),
        (0x17, Report(2, (Record(Kind.TO_IN, ip("239.1.2.3")),))),
    ],
)
def test_older_messages_are_those_of_scapy(kind, message):
    """W5."""
    raw = bytes(theirs.IGMP(type=kind, mrcode=15 if kind == 0x11 else 0, gaddr="239.1.2.3"))
    assert igmp.read(raw) == message
    assert (igmp.query(message) if isinstance(message, Query) else igmp.report(message)) == raw


def test_times_that_cannot_be_said_become_the_nearest_that_can():
    """A v2 query that says 0 would be a v1 query."""
    assert igmp.query(Query(2, response_s=0.0))[1] == 1
    assert igmp.query(Query(2, response_s=60.0))[1] == 255
    assert igmp.query(Query(1, GROUP, response_s=60.0)).hex() == "1100eeff00000000"
    query = igmp.read(igmp.query(Query(3, response_s=13.0, robustness=8, interval_s=1e6)))
    assert query == Query(3, response_s=12.8, robustness=0, interval_s=31744.0)


@pytest.mark.parametrize(
    "report",
    [
        Report(2, ()),
        joins(2, "239.1.1.1", "239.1.1.2"),
        Report(2, (Record(Kind.IS_EX, GROUP, (NET,)),)),
        Report(2, (Record(Kind.ALLOW, GROUP),)),
        Report(1, (Record(Kind.TO_IN, GROUP),)),
    ],
)
def test_what_an_older_version_cannot_say_is_an_error(report):
    with pytest.raises(ValueError, match=f"version {report.version} says one"):
        igmp.report(report)


@pytest.mark.parametrize(
    ("message", "dst", "mac"),
    [
        (Query(3), "224.0.0.1", "01:00:5e:00:00:01"),
        (Query(1, GROUP), "224.0.0.1", "01:00:5e:00:00:01"),
        (Query(3, ip("239.138.10.11"), (NET + 1,)), "239.138.10.11", "01:00:5e:0a:0a:0b"),
        (Query(2, ip("239.138.10.11")), "239.138.10.11", "01:00:5e:0a:0a:0b"),
        (Report(3, (Record(Kind.TO_EX, GROUP),)), "224.0.0.22", "01:00:5e:00:00:16"),
        (joins(2, "239.138.10.11"), "239.138.10.11", "01:00:5e:0a:0a:0b"),
        (joins(1, "239.138.10.11"), "239.138.10.11", "01:00:5e:0a:0a:0b"),
        (Report(2, (Record(Kind.TO_IN, GROUP),)), "224.0.0.2", "01:00:5e:00:00:02"),
    ],
)
def test_a_frame_has_ttl_1_router_alert_tos_c0_and_the_mac_of_its_destination(message, dst, mac):
    """W5."""
    made = igmp.query_frame if isinstance(message, Query) else igmp.report_frame
    raw = made(message, MAC, HERE)
    frame = Ether(raw)
    assert (frame.src, frame.dst, frame.type) == ("02:fa:57:00:00:01", mac, 0x0800)
    packet = frame[IP]
    assert (packet.src, packet.dst, packet.ttl, packet.tos, packet.proto) == ("10.0.0.1", dst, 1, 0xC0, 2)
    assert raw[34:38].hex() == "94040000"
    assert internet_checksum(raw[14:38]) == 0
    assert (packet.ihl, packet.len) == (6, len(raw) - 14)
    assert raw[38:] == (igmp.query(message) if isinstance(message, Query) else igmp.report(message))


def test_5000_sources_are_asked_for_in_queries_that_fit_the_mtu():
    """FRR's pim_igmp_specific_query_frag: 20 reports of 250 sources, then BLOCK."""
    query = Query(3, ip("232.1.1.12"), tuple(range(NET, NET + 5000)), 1.0, True, 2, 125.0)
    parts = list(igmp.split(query, 1500))
    assert [len(part.sources) for part in parts] == [366] * 13 + [242]
    assert sum((part.sources for part in parts), ()) == query.sources
    assert {(p.version, p.group, p.response_s, p.suppress, p.robustness, p.interval_s) for p in parts} == {
        (3, query.group, 1.0, True, 2, 125.0)
    }
    assert max(len(igmp.query_frame(part, MAC, HERE)) for part in parts) == 14 + 1500
    assert list(igmp.split(query, 0)) == [query]


def test_a_query_that_fits_stays_as_it_is_and_an_mtu_without_room_is_an_error():
    query = Query(3, GROUP, tuple(range(NET, NET + 366)))
    assert list(igmp.split(query, 1500)) == [query]
    assert list(igmp.split(Query(3), 30)) == [Query(3)]
    with pytest.raises(ValueError, match="no room for a source"):
        list(igmp.split(query, 39))

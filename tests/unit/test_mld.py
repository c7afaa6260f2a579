"""MLD on the wire: the vectors, and scapy as the other reader and writer. `test_igmp` has what both share."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers import inet6 as theirs
from scapy.layers.l2 import Ether

from ctrl.protocols import mld, wire
from ctrl.protocols.messages import Kind, MalformedError, Query, Record, Report
from tests.frames import internet_checksum, pseudo
from tests.igmp_vectors import MLD, WRONG_CHECKSUM

MAC = bytes.fromhex("02fa57000001")


def ip(text: str) -> int:
    return int(IPv6Address(text))


GROUP = ip("ff02::cc")
NET = ip("2001:db8:1::")
HERE = ip("fe80::fa57:1")
TABLE = {
    "IS_INC": (Kind.IS_IN, (1, 2, 3)),
    "IS_INC2": (Kind.IS_IN, (0x10, 0x11, 0x12)),
    "ALLOW": (Kind.ALLOW, (0x10, 0x11, 0x12)),
    "ALLOW2": (Kind.ALLOW, (0x20, 0x30)),
    "IS_EXC": (Kind.IS_EX, (1, 2, 0x20, 0x21)),
    "TO_EXC": (Kind.TO_EX, (1, 0x20, 0x30)),
}
READ: dict[str, Query | Report] = {
    **{
        name: Report(3, (Record(kind, GROUP, tuple(NET + n for n in sources)),))
        for name, (kind, sources) in TABLE.items()
    },
    "MDB_IS_IN": Report(3, (Record(Kind.IS_IN, ip("ff0e::1"), (NET + 2,)),)),
    "SMOLTCP_QUERY": Query(3, ip("ff02::1"), (ip("ff02::2"),), 1.024, True, 2, 18.0),
    "SMOLTCP_REPORT": Report(3, (Record(Kind.IS_IN, ip("ff02::1"), (ip("ff02::2"),)),)),
    "OVS_V1": Report(2, (Record(Kind.IS_EX, ip("ff02::1:ff0e:4c67")),)),
    "OVS_V2": Report(3, (Record(Kind.TO_EX, ip("ff02::1:ff52:f3e1")),)),
}
ENDS = {
    "MDB_IS_IN": ("fe80::1", "ff0e::1"),
    "OVS_V1": ("::", "ff02::1:ff0e:4c67"),
    "OVS_V2": ("fe80::7120:6558:9886:fa88", "ff02::16"),
}


def ends(name: str) -> tuple[str, str]:
    return ENDS.get(name, ("fe80::fc54:ff:fe04:5eba", "ff02::1"))


@pytest.mark.parametrize("name", MLD)
def test_every_vector_is_read_as_its_table_says(name):
    assert mld.read(MLD[name]) == READ[name]
    source, destination = (IPv6Address(end).packed for end in ends(name))
    assert mld.is_sound(MLD[name], source, destination) == (name not in WRONG_CHECKSUM)


@pytest.mark.parametrize("name", MLD)
def test_every_vector_is_written_again_to_the_last_bit_of_what_is_no_checksum(name):
    message = READ[name]
    written = mld.query(message) if isinstance(message, Query) else mld.report(message)
    assert written == MLD[name][:2] + bytes(2) + MLD[name][4:]


def test_the_length_of_a_query_says_its_version_and_25_to_27_bytes_say_none():
    """W5. RFC 9777 section 8.1; MLDv1 is told as 2."""
    v2 = bytes.fromhex("8200000027100000") + bytes(16) + bytes.fromhex("027d0000")
    assert mld.read(v2[:24]) == Query(2, response_s=10.0)
    assert (
        mld.read(v2)
        == mld.read(v2 + b"and more")
        == Query(3, response_s=10.0, robustness=2, interval_s=125.0)
    )
    for size in range(25, 28):
        with pytest.raises(MalformedError, match=rf"{size} bytes is of no version: 24, or 28"):
            mld.read(v2[:size])
    for size in range(8, 24):
        with pytest.raises(MalformedError, match=rf"{size} bytes of MLD type 130: 24"):
            mld.read(v2[:size])
    for size in range(8):
        with pytest.raises(MalformedError, match=rf"{size} bytes are no MLD message"):
            mld.read(v2[:size])


@pytest.mark.parametrize(
    ("code", "seconds"), [(0, 0.0), (0x7FFF, 32.767), (0x8000, 32.768), (0xFFFF, 8387.584)]
)
def test_response_codes_of_16_bits_are_exact(code, seconds):
    head = bytes.fromhex("82000000") + code.to_bytes(2, "big") + bytes(18)
    query = mld.read(head + bytes.fromhex("0aff0000"))
    assert query == Query(3, 0, (), seconds, True, 2, 31744.0)
    assert mld.query(query)[4:6] == code.to_bytes(2, "big")
    linear = mld.read(head)
    assert isinstance(linear, Query)
    assert linear.response_s == code / 1000


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("00000001 04000001 ff050000000000000000000000000001 20010db8", "record 1 of 1: 12 bytes less"),
        ("00000001 0400ffff ff050000000000000000000000000001", "record 1 of 1: 1048560 bytes less"),
        ("00000002 04000000 ff050000000000000000000000000001", "2 records announced, 1 present"),
        ("00000001 04010000 ff050000000000000000000000000001", "record 1 of 1: 4 bytes less"),
    ],
)
def test_a_report_with_less_than_it_announces_is_refused_whole(body, sentence):
    with pytest.raises(MalformedError, match=sentence):
        mld.read(bytes.fromhex("8f000000" + body))


def test_auxiliary_data_and_unknown_records_are_stepped_over():
    odd = bytes.fromhex(
        "8f00000000000002 09010000 ff050000000000000000000000000009 04000000"
        "04010000 ff050000000000000000000000000001 04000000"
    )
    assert mld.read(odd) == Report(3, (Record(Kind.TO_EX, ip("ff05::1")),), unknown=1)
    records = mld.V2Report(odd).records
    assert [(r.type, r.aux, r.sources) for r in records] == [(9, b"\4\0\0\0", ()), (4, b"\4\0\0\0", ())]


@pytest.mark.parametrize("kind", [1, 128, 133, 134, 142, 144, 255])
def test_what_is_not_of_mld_is_unknown(kind):
    with pytest.raises(wire.UnknownTypeError, match=f"type {kind} is not MLD's"):
        mld.read(bytes((kind,)) + bytes(27))


addresses = st.integers(0, 2**128 - 1)
records = st.builds(Record, st.sampled_from(Kind), addresses, st.lists(addresses, max_size=5).map(tuple))
reports = st.builds(Report, st.just(3), st.lists(records, max_size=8).map(tuple))
queries = st.builds(
    Query,
    st.just(3),
    addresses,
    st.lists(addresses, max_size=5).map(tuple),
    st.integers(0, 0xFFFF).map(lambda code: wire.value_of(code, 16) / 1000),
    st.booleans(),
    st.integers(0, 7),
    st.integers(0, 255).map(lambda code: float(wire.value_of(code))),
)


@settings(max_examples=50, deadline=None)
@given(reports)
def test_a_report_is_read_as_it_was_written_by_us_and_by_scapy(report):
    payload = mld.report(report)
    assert mld.read(payload) == report
    made = [
        theirs.ICMPv6MLDMultAddrRec(
            rtype=int(r.kind), dst=str(IPv6Address(r.group)), sources=[str(IPv6Address(s)) for s in r.sources]
        )
        for r in report.records
    ]
    frame = mld.report_frame(report, MAC, HERE)
    head = Ether(frame)[theirs.IPv6]
    again = theirs.IPv6(src=head.src, dst=head.dst, hlim=1) / head[theirs.IPv6ExtHdrHopByHop].copy()
    again[theirs.IPv6ExtHdrHopByHop].remove_payload()
    again /= theirs.ICMPv6MLReport2(records=made, records_number=len(made))
    assert bytes(again) == frame[14:]
    seen = [
        layer
        for record in Ether(frame)[theirs.ICMPv6MLReport2].records
        for layer in record.iterpayloads()  # scapy takes the records behind the first one for its payload
    ]
    assert [(r.rtype, ip(r.dst), tuple(map(ip, r.sources))) for r in seen] == [
        (r.kind, r.group, r.sources) for r in report.records
    ]


@settings(max_examples=50, deadline=None)
@given(queries)
def test_a_query_is_read_as_it_was_written_by_us_and_by_scapy(query):
    assert mld.read(mld.query(query)) == query
    seen = Ether(mld.query_frame(query, MAC, HERE))[theirs.ICMPv6MLQuery2]
    assert (ip(seen.mladdr), tuple(map(ip, seen.sources))) == (query.group, query.sources)
    assert (wire.value_of(seen.mrd, 16), seen.S, seen.QRV, wire.value_of(seen.QQIC)) == (
        round(query.response_s * 1000),
        query.suppress,
        query.robustness,
        query.interval_s,
    )
    sum_of_ours = seen.cksum
    seen.cksum = seen.sources_number = None
    whole = theirs.IPv6(src=IPv6Address(HERE), dst=IPv6Address(query.group or mld.ALL_NODES)) / seen
    assert theirs.IPv6(bytes(whole))[theirs.ICMPv6MLQuery2].cksum == sum_of_ours


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (theirs.ICMPv6MLQuery(mrd=1500, mladdr="ff05::1"), Query(2, ip("ff05::1"), response_s=1.5)),
        (theirs.ICMPv6MLReport(mladdr="ff05::1"), Report(2, (Record(Kind.IS_EX, ip("ff05::1")),))),
        (theirs.ICMPv6MLDone(mladdr="ff05::1"), Report(2, (Record(Kind.TO_IN, ip("ff05::1")),))),
    ],
)
def test_messages_of_version_1_are_those_of_scapy(made, message):
    """W5."""
    raw = bytes(made)
    assert mld.read(raw) == message
    ours = mld.query(message) if isinstance(message, Query) else mld.report(message)
    assert ours == raw[:2] + bytes(2) + raw[4:]


def test_what_version_1_cannot_say_is_an_error_or_the_nearest():
    with pytest.raises(ValueError, match="version 2 says one"):
        mld.report(Report(2, (Record(Kind.BLOCK, GROUP),)))
    assert mld.query(Query(2, response_s=100.0))[4:6] == b"\xff\xff"
    assert mld.query(Query(3, response_s=1e6, robustness=8))[4:6] == b"\xff\xff"


@pytest.mark.parametrize(
    ("message", "dst", "mac"),
    [
        (Query(3), "ff02::1", "33:33:00:00:00:01"),
        (Query(2, ip("ff05::a:b:c")), "ff05::a:b:c", "33:33:00:0b:00:0c"),
        (Query(3, ip("ff05::a:b:c"), (NET + 1,)), "ff05::a:b:c", "33:33:00:0b:00:0c"),
        (Report(3, (Record(Kind.TO_EX, GROUP),)), "ff02::16", "33:33:00:00:00:16"),
        (Report(2, (Record(Kind.IS_EX, ip("ff05::a:b:c")),)), "ff05::a:b:c", "33:33:00:0b:00:0c"),
        (Report(2, (Record(Kind.TO_IN, GROUP),)), "ff02::2", "33:33:00:00:00:02"),
    ],
)
def test_a_frame_has_hop_limit_1_router_alert_and_the_mac_of_its_destination(message, dst, mac):
    """W5."""
    made = mld.query_frame if isinstance(message, Query) else mld.report_frame
    raw = made(message, MAC, HERE)
    frame = Ether(raw)
    assert (frame.src, frame.dst, frame.type) == ("02:fa:57:00:00:01", mac, 0x86DD)
    packet = frame[theirs.IPv6]
    assert (packet.src, packet.dst, packet.hlim, packet.nh) == ("fe80::fa57:1", dst, 1, 0)
    assert packet.plen == len(raw) - 54
    options = packet[theirs.IPv6ExtHdrHopByHop].options
    assert (type(options[0]).__name__, options[0].value) == ("RouterAlert", 0)
    payload = raw[62:]
    ours = mld.query(message) if isinstance(message, Query) else mld.report(message)
    assert payload == ours[:2] + payload[2:4] + ours[4:]
    assert internet_checksum(pseudo("fe80::fa57:1", dst, 58, len(payload)) + payload) == 0


def test_many_sources_are_asked_for_in_queries_that_fit_the_mtu():
    query = Query(3, ip("ff05::1"), tuple(range(NET, NET + 200)), 1.0, True, 2, 125.0)
    parts = list(mld.split(query, 1500))
    assert [len(part.sources) for part in parts] == [89, 89, 22]
    assert sum((part.sources for part in parts), ()) == query.sources
    assert max(len(mld.query_frame(part, MAC, HERE)) for part in parts) == 14 + 1500

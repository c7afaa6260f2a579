"""An explanation is what the data path does, told: every case ends in its verdict, reason and copies."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from ipaddress import ip_address
from typing import Any

import pytest

from ctrl.explain import EXPLAINED, MAX_FRAME, Step, schema
from ctrl.explain.answer import BadQuestion, answer, explain, place_of
from ctrl.protocols import igmp, mld
from ctrl.protocols.messages import Kind, Query, Record, Report
from ctrl.static import plan
from ctrl.stations import static_egresses
from fastpath.model import Faces, Frame, GroupKey, Layout, Port, ReplicationList, Verdict
from fastpath.reasons import REASONS
from fastpath.reference import Reference
from tests import frames as f
from tests.cases import CASES, Case
from tests.cases import box as b
from tests.cases import made as m
from tests.compiled import Compiled
from tests.replaying import config_of

MAC = bytes.fromhex("02fad0a1b2c3")
VXLAN = f.wire(f.vxlan_packet(m.TENANT, b.VTEP, b.GROUP, b.VNI))
SENTENCES = {reason.name: reason.sentence for reason in REASONS}
WHATS = {Verdict.REPLICATE: "replicate", Verdict.PUNT: "punt", Verdict.DROP: "drop"}
ORDER = [
    *("port", "checksum", "ethernet", "outer", "nested", "overlay", "inner", "role", "class", "sender"),
    *(
        "station",
        "key",
        "network",
        "refined",
        "exclusion",
        "lesson",
        "settled",
        "copy",
        "message",
        "record",
        "verdict",
    ),
]
"""The steps in the order of the rules; a recovered group stands among the keys."""


def keyed(lists: tuple[ReplicationList, ...]) -> dict[GroupKey, ReplicationList]:
    return {one.key: one for one in lists}


def told(frame: bytes, in_port: int = b.P0, layout: Layout = b.BOX, **more: Any) -> list[dict[str, Any]]:
    return explain(
        layout, more.pop("lists", keyed(b.LISTS)), more.pop("hops", {}), Frame(frame), in_port, **more
    )


def whats(rows: list[dict[str, Any]], step: str) -> list[tuple[str, str]]:
    return [(row["what"], row["detail"]) for row in rows if row["step"] == step]


# --- the verdict is the data path's -------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_is_explained_in_the_rules_order_and_ends_as_it_must(case: Case):
    rows = explain(case.layout, keyed(case.lists), {}, case.frame, case.in_port)

    steps = [row["step"] for row in rows if row["step"] != "group"]
    assert steps == sorted(steps, key=ORDER.index)
    assert steps[0] == "port"
    verdict = rows[-1]
    assert (verdict["step"], verdict["what"]) == ("verdict", WHATS[case.expect_verdict])
    assert verdict["reason"] == case.expect_reason
    if case.expect_reason is not None:
        assert verdict["detail"] == SENTENCES[case.expect_reason]
    assert case.expect_verdict is not Verdict.PUNT or "message" in steps

    copies = [row for row in rows if row["step"] == "copy"]
    made = [(row["port"], row["size"], row["frame"]) for row in copies if row["what"] == "made"]
    if case.copies is not None:
        wanted = [(case.layout.ports[port].name, len(data), data.hex()) for port, data in case.copies]
        assert made == wanted
    if case.copy_drops is not None:
        assert Counter(row["reason"] for row in copies if row["what"] == "dropped") == case.copy_drops
    assert bool(copies) == (case.expect_verdict is Verdict.REPLICATE)
    assert all(row["detail"] == SENTENCES[row["reason"]] for row in copies if row["what"] == "dropped")


@pytest.mark.parametrize("mac", [MAC, None])
def test_a_next_hop_that_was_told_decides_as_in_the_compiled_path(mac: bytes | None):
    """To PEER goes what was told, to FAR_PEER the port's own, in the reference as well."""
    hops = {(b.CORE, ip_address(b.PEER)): mac}
    compiled = Compiled(b.BOX, b.LISTS)
    compiled.forwarder.resolve(hops)
    wanted = compiled.forward(b.P0, Frame(VXLAN))
    assert Reference(b.BOX, b.LISTS, hops).forward(b.P0, Frame(VXLAN)) == wanted

    copies = [row for row in told(VXLAN, hops=hops) if row["step"] == "copy"]
    assert [row["frame"] for row in copies if row["frame"]] == [one.data.hex() for one in wanted.copies]
    to_peer = next(row for row in copies if row["receiver"] == b.PEER)
    assert to_peer["reason"] == (None if mac else "no_neighbour")
    assert not mac or to_peer["frame"].startswith(mac.hex())


def test_a_link_that_is_down_is_told_of_its_copies_alone():
    down = tuple(replace(port, is_up=i != b.CORE) for i, port in enumerate(b.PORTS))
    rows = told(VXLAN, layout=replace(b.BOX, ports=down))
    lost = [
        (row["port"], row["reason"]) for row in rows if row["step"] == "copy" and row["what"] == "dropped"
    ]
    assert lost == [("p2", "link_down")]
    assert whats(rows, "verdict") == [("replicate", "4 copies, 1 dropped")]


def test_where_a_frame_was_dropped_shows_in_how_far_it_came():
    last = {
        case.name: explain(case.layout, keyed(case.lists), {}, case.frame, case.in_port)[-2] for case in CASES
    }
    assert last["no_vni_flag"]["step"] == "overlay"
    assert last["key_no_list"]["step"] == "key"
    assert last["udp_checksum_wrong"]["step"] == "outer"


def test_lists_are_looked_up_and_never_walked():
    class Many(Mapping[GroupKey, ReplicationList]):
        """More lists than anybody may walk."""

        def __getitem__(self, key: GroupKey) -> ReplicationList:
            return keyed(b.LISTS)[key]

        def __iter__(self) -> Iterator[GroupKey]:
            raise AssertionError("walked")

        def __len__(self) -> int:
            return 10**9

    assert told(VXLAN, lists=Many())[-1]["what"] == "replicate"


# --- what it says -------------------------------------------------------------------------------------------


def test_rows_have_the_keys_of_the_published_schema_in_its_order_and_their_types():
    item = schema()["items"]
    assert [field.name for field in fields(Step)] == list(EXPLAINED.keys) == item["required"]
    python = {"string": str, "integer": int, "null": type(None)}
    for case in CASES:
        for row in json.loads(
            json.dumps(explain(case.layout, keyed(case.lists), {}, case.frame, case.in_port))
        ):
            assert list(row) == item["required"]
            for key, value in row.items():
                kinds = item["properties"][key]["type"]
                assert isinstance(
                    value, tuple(python[k] for k in ([kinds] if isinstance(kinds, str) else kinds))
                )
            assert row["step"] in item["properties"]["step"]["description"]


def test_every_key_that_was_tried_is_told_and_the_group_where_it_was_recovered():
    case = next(case for case in CASES if case.name == "recover_from_the_network")
    rows = explain(case.layout, keyed(case.lists), {}, case.frame, case.in_port)
    assert [(r["step"], r["what"], r["detail"]) for r in rows if r["step"] in {"key", "group"}] == [
        ("key", "vxlan 662316", "number: no list"),
        ("group", "239.1.1.100", "recovered: the group of vxlan 662316"),
        ("key", "(10.0.0.2, 239.1.1.100)", "outer source and group: no list"),
        ("key", "239.1.1.100", "outer group: the list: 1 local, 1 remote"),
    ]


def test_who_is_left_out_is_told_by_name():
    assert whats(told(VXLAN, b.P0), "exclusion") == [("p0", "where the frame comes from: no copy")]
    by_nve = f.wire(f.vxlan_packet(m.TENANT, b.UNICAST_NVE, b.GROUP, b.VNI))
    (out,) = whats(told(by_nve, b.P1), "exclusion")
    assert out[0] == f"p1, p1/{b.UNICAST_NVE}"
    from_core = told(f.wire(f.vxlan_packet(m.TENANT, b.PEER, b.GROUP, b.VNI)), b.CORE)
    assert whats(from_core, "exclusion") == [("-", "nobody of the list sent it")]
    assert whats(from_core, "class") == [("remote", "gets the local segment of a list alone")]
    assert whats(from_core, "sender") == [(b.PEER, "a peer")]


HOST = config_of("""
[nve]
address = "10.1.1.2"
[[nve.mac]]
network = "blue"
mac = "02:00:00:00:00:01"
port = "vm1"
[[nve.mac]]
network = "blue"
mac = "02:00:00:00:00:09"
vtep = "10.1.1.3"
[[network]]
name = "blue"
vni = 5001
group = "239.1.1.1"
[[port]]
name = "vm1"
faces = "vm"
network = "blue"
[[port]]
name = "up"
faces = "core"
""")


@pytest.mark.parametrize(
    ("dst", "src", "steps"),
    [
        ("09", "01", [("station", "02:00:00:00:00:09", "it is behind 10.1.1.3")]),
        (
            "08",
            "02",
            [
                (
                    "station",
                    "02:00:00:00:00:08",
                    "nobody knows where: it goes to all of its network, as a broadcast does",
                ),
                ("lesson", "02:00:00:00:00:02", "control is told that it is at port vm1"),
            ],
        ),
    ],
)
def test_a_frame_of_a_vm_is_told_where_its_receiver_is_and_what_it_teaches(dst, src, steps):
    made = plan(HOST)
    frame = f.tenant(dst_mac=bytes.fromhex(f"0200000000{dst}"), src_mac=bytes.fromhex(f"0200000000{src}"))
    rows = told(frame, 0, made.layout, lists=keyed(made.lists), macs=static_egresses(HOST))
    found = [
        (row["step"], row["what"], row["detail"]) for row in rows if row["rule"] and row["rule"][0] == "6"
    ]
    assert found == steps
    assert [row["receiver"] for row in rows if row["step"] == "copy"] == [
        "10.1.1.3" if dst == "09" else "239.1.1.1"
    ]


def test_what_another_vtep_teaches_is_told_with_what_it_speaks():
    made = plan(HOST)
    inner = f.tenant(dst_mac=bytes.fromhex("020000000001"), src_mac=bytes.fromhex("020000000007"))
    frame = f.wire(f.vxlan_packet(inner, "10.1.1.4", "10.1.1.2", 5001))
    rows = told(frame, 1, made.layout, lists=keyed(made.lists), macs=static_egresses(HOST))
    assert whats(rows, "station") == [("02:00:00:00:00:01", "it is at port vm1")]
    assert whats(rows, "lesson") == [
        ("02:00:00:00:00:07", "control is told that it is behind 10.1.1.4, which speaks VXLAN")
    ]


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (Record(Kind.TO_EX, 0xEF010164), "TO_EX: joins"),
        (Record(Kind.TO_EX, 0xEF010164, (0x0A010203,)), "TO_EX: joins, but not from 10.1.2.3"),
        (Record(Kind.IS_EX, 0xEF010164), "IS_EX: wants it"),
        (Record(Kind.IS_IN, 0xEF010164), "IS_IN: wants it from nobody"),
        (Record(Kind.TO_IN, 0xEF010164), "TO_IN: leaves"),
        (
            Record(Kind.TO_IN, 0xEF010164, (0x0A010203, 0x0A010204)),
            "TO_IN: wants it from these sources alone from now on: 10.1.2.3, 10.1.2.4",
        ),
        (
            Record(Kind.BLOCK, 0xEF010164, (0x0A010203,)),
            "BLOCK: wants it from these sources no longer: 10.1.2.3",
        ),
    ],
)
def test_a_report_is_told_record_by_record(record: Record, says: str):
    rows = told(igmp.report_frame(Report(3, (record,)), MAC, 0x0A010102))
    assert whats(rows, "message") == [("IGMPv3 report", f"from 10.1.1.2 at {MAC.hex(':')}")]
    assert whats(rows, "record") == [("239.1.1.100", says)]
    assert rows[-1]["what"] == "punt"


def test_versions_are_told_as_their_protocol_counts_them():
    group = int(ip_address("ff15::7"))
    source = int(ip_address("fe80::1"))
    rows = told(mld.report_frame(Report(2, (Record(Kind.TO_IN, group),)), MAC, source))
    assert [what for what, _ in whats(rows, "message")] == ["MLDv1 report"]
    assert whats(rows, "record") == [("ff15::7", "TO_IN: leaves")]
    rows = told(mld.query_frame(Query(3, group, (group + 1,), response_s=2.5), MAC, source))
    ((what, detail),) = whats(rows, "message")
    assert what == "MLDv2 query"
    assert detail.endswith("of ff15::7 from ff15::8, to be answered within 2.5 s")
    ((what, detail),) = whats(told(igmp.query_frame(Query(2), MAC, 0x0A010102)), "message")
    assert (what, detail.split(", ", 1)[1]) == ("IGMPv2 query", "general, to be answered within 10 s")


def test_a_message_that_control_refuses_is_told_with_its_name():
    frame = bytearray(igmp.report_frame(Report(3, (Record(Kind.TO_EX, 0xEF010164),)), MAC, 0x0A010102))
    frame[-1] ^= 1
    rows = told(bytes(frame))
    assert [(r["what"], r["reason"]) for r in rows if r["step"] == "message"] == [
        ("refused", "bad_control_checksum")
    ]
    assert rows[-1]["what"] == "punt"


def test_headers_that_control_wants_strictly_are_those_of_the_config():
    joins = igmp.report(Report(2, (Record(Kind.IS_EX, 0xEF010164),)))
    lazy = f.wire(f.ipv4(joins, "10.1.1.2", "239.1.1.100", f.IGMP, ttl=1))
    reasons = [
        [row["reason"] for row in told(lazy, strict_headers=strict) if row["step"] == "message"]
        for strict in (False, True)
    ]
    assert reasons == [[None], ["not_from_the_link"]]


# --- a question over the control socket ---------------------------------------------------------------------


def asked(question: object, ports: tuple[Port, ...] = b.PORTS) -> list[dict[str, Any]]:
    layout = replace(b.BOX, ports=ports)
    body = question if isinstance(question, bytes) else json.dumps(question).encode()
    return answer(body, layout, keyed(b.LISTS), {})


def test_a_question_names_its_port_or_means_the_first_that_faces_somebody():
    assert asked({"frame": VXLAN.hex(), "port": "p1"}) == told(VXLAN, b.P1)
    assert asked({"frame": VXLAN.hex(), "port": None}) == asked({"frame": VXLAN.hex()}) == told(VXLAN, b.P0)
    gone = (replace(b.PORTS[0], faces=Faces(0)), *b.PORTS[1:])
    assert asked({"frame": VXLAN.hex()}, gone)[0]["what"] == "p1"


@pytest.mark.parametrize(
    ("question", "why"),
    [
        (b"{", "the body is no JSON"),
        (b"\xff", "the body is no JSON"),
        (b"[" * 100_000, "the body is no JSON"),
        ([], "the body is no question; expected "),
        ({}, "the body is no question; expected "),
        ({"frame": 7}, "the body is no question; expected "),
        ({"frame": "00", "port": 1}, "the body is no question; expected "),
        ({"frame": "00", "prot": "p1"}, "the body is no question; expected "),
        ({"frame": "0"}, "frame: expected pairs of hex digits"),
        ({"frame": "zz"}, "frame: expected pairs of hex digits"),
        ({"frame": "00" * (MAX_FRAME + 1)}, "frame: 131,073 bytes; 131,072 at most"),
        ({"frame": "00", "port": "p11"}, 'p11: no port is called that; the ports are p0, p1, p2, .*"p1"'),
    ],
)
def test_a_question_that_cannot_be_is_refused_in_a_sentence(question: object, why: str):
    with pytest.raises(BadQuestion, match=f"^{why}"):
        asked(question)


def test_a_box_without_ports_says_so():
    with pytest.raises(BadQuestion, match="no \\[\\[port\\]\\] is given"):
        place_of(None, (replace(b.PORTS[0], faces=Faces(0)),))

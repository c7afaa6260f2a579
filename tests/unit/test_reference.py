"""The oracle itself: every case of `tests.cases`, its state, and what the random batches reach.

Each engine is one row of ENGINES, and gives the same outcomes for the same cases.
"""

from __future__ import annotations

import ast
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

import fastpath.reference
from fastpath.model import Egress, Encap, Form, Frame, Owner, ReplicationList, Scope, Verdict
from fastpath.reasons import REASONS, Unit
from fastpath.reference import Outcome, Reference, Trail, egress_order
from fastpath.reference.lookup import decapsulated_ecn
from fastpath.reference.wire import updated_checksum
from tests import frames as f
from tests.cases import CASES, Case
from tests.cases import box as b
from tests.cases import made as m
from tests.cases.ecn import DECAPSULATED_ECN, ECN_NAMES
from tests.compiled import Compiled
from tests.reached import OF_TENANTS, of_tenants
from tests.strategies import Scene, scenes, seeded_scenes


class Engine(Protocol):
    """What the cases run through."""

    def forward(self, in_port: int, frame: Frame) -> Outcome: ...


ENGINES: dict[str, Callable[..., Engine]] = {"reference": Reference, "compiled": Compiled}

SHOWN_HERE = {
    *(f"D{i}" for i in (9, 10, 11, 12, 13, 14, 15, 17, 20)),
    *(f"R{i}" for i in (2, 3, 4, 5, 6, 7, 10)),
    *("W1", "W2", "W4", "W6", "W7"),
    *("N1", "N8", "N9", "N10"),
}
"""The lines of CONFORMANCE.md that the cases must show."""


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Callable[..., Engine]:
    """Make an engine for a box and its lists."""
    return ENGINES[request.param]


def lines_of(case: Case) -> set[str]:
    """The conformance lines that a case's note names."""
    words = case.note.replace(":", " ").replace(";", " ").replace("'", " ").split()
    return {word for word in words if word[:1] in "DRWN" and word[1:].isdigit()}


def case_id(case: Case) -> str:
    """The case's name and the conformance lines it shows."""
    return "-".join((case.name, *sorted(lines_of(case))))


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_a_frame_meets_its_fate(case: Case, engine):
    outcome = engine(case.layout, case.lists).forward(case.in_port, case.frame)

    assert (outcome.verdict, outcome.reason) == (case.expect_verdict, case.expect_reason)
    if case.copies is not None:
        sent = [(port, data.hex()) for port, data in ((c.out_port, c.data) for c in outcome.copies)]
        assert sent == [(port, data.hex()) for port, data in case.copies]
    if case.copy_drops is not None:
        assert dict(outcome.copy_drops) == dict(case.copy_drops)
    if case.expect_verdict is not Verdict.REPLICATE:
        assert not outcome.copies
        assert not outcome.copy_drops


def test_case_names_are_unique():
    assert len({case.name for case in CASES}) == len(CASES)


# what only a port of a running box can find
LIVE_REASONS = {"gso_unsupported", "punt_limit", "punt_full", "port_refused", "ring_full", "learn_lost"}
# what no single frame meets: see test_nve_frames
STORMS = {"storm_broadcast", "storm_multicast", "storm_unknown"}


def test_every_reason_has_a_case():
    frames = {case.expect_reason for case in CASES}
    copies = {reason for case in CASES for reason in case.copy_drops or ()}

    assert {r.name for r in REASONS if r.unit is Unit.FRAME} - frames <= LIVE_REASONS | STORMS
    assert {r.name for r in REASONS} - frames - copies == LIVE_REASONS | STORMS


def test_every_conformance_line_of_the_data_path_has_a_case():
    assert set().union(*map(lines_of, CASES)) >= SHOWN_HERE


# --- what the copies are made of ----------------------------------------------------------------------------


def recomputed(packet: Packet) -> bytes:
    """The packet once scapy has computed its outer checksums anew.

    A zero UDP checksum stays, and one of a datagram shorter than its packet, where scapy sums too much.
    """
    packet = packet.copy()
    if IP in packet:
        del packet[IP].chksum
    if UDP in packet and packet[UDP].chksum != 0 and len(packet[UDP]) == packet[UDP].len:
        del packet[UDP].chksum
    return bytes(packet)


def outer_of(data: bytes) -> Packet | None:
    """The frame, if it begins with an IP header of its own."""
    packet = Ether(data)
    return packet if isinstance(packet.payload, IP | IPv6) else None


VERIFIED = [case for case in CASES if case.layout.verify_checksums and case.frame.mark is None]
"""Cases in which no wrong checksum can come in; one that does goes out as wrong as it was."""


@pytest.mark.parametrize("case", VERIFIED, ids=case_id)
def test_outer_checksums_of_copies_are_right(case: Case, engine):
    """W1, W4: whatever becomes of a packet, scapy computes the same checksums."""
    for copy in engine(case.layout, case.lists).forward(case.in_port, case.frame).copies:
        packet = outer_of(copy.data)
        if copy.egress.form is not Form.DECAPSULATED and packet is not None:
            assert recomputed(packet).hex() == copy.data.hex()


def test_a_nested_tunnel_holds_the_group_packet_bit_for_bit(engine):
    """R5, D20: the packet inside is the one that came, source NVE and all."""
    arrived = m.arriving(m.FROM_NVE_SUMMED)
    outcome = engine(b.BOX, b.LISTS).forward(b.P1, Frame(arrived))

    nested = [c for c in outcome.copies if c.egress.form is Form.NESTED]
    assert len(nested) == 2
    for copy in nested:
        assert copy.data[14 + 20 + 8 + 4 :] == arrived[14:]
        assert Ether(copy.data)[IP].src == b.OWN


def test_the_flow_is_that_of_the_program_in_c(engine):
    """W1: the hash of the tenant's frame, computed once by hand."""
    for inner, flow in ((m.TENANT, m.TENANT_FLOW), (m.ARP, m.ARP_FLOW)):
        outcome = engine(b.BOX, b.LISTS).forward(b.P1, Frame(m.arriving(m.vxlan(inner, b.VTEP, b.GROUP))))
        assert outcome.flow == flow


def test_the_key_is_that_of_the_list_that_was_taken(engine):
    outcome = engine(b.BOX, b.LISTS).forward(b.P1, Frame(m.arriving(m.FROM_NVE)))
    assert outcome.key == b.LISTS[0].key


def test_one_frame_of_a_flow_names_one_flow_id(engine):
    """W2: whatever comes outside, a flow has one FlowID and one source port."""
    lists = (b.of_group(b.at_port(b.P7, encap=Encap.NVGRE), b.at_peer(b.CORE, b.PEER)),)
    seen = set()
    box = engine(b.BOX, lists)
    for ttl in (1, 9):
        for source in (b.VTEP, "10.1.1.44"):
            packet = m.vxlan(m.TENANT, source, b.GROUP, ip={"ttl": ttl}, sport=50000 + ttl)
            copies = box.forward(b.P1, Frame(m.arriving(packet))).copies
            seen.add((copies[0].data[34:36], copies[1].data[41]))
    assert seen == {(m.TENANT_PORT.to_bytes(2, "big"), m.TENANT_FLOW_ID)}


# --- state --------------------------------------------------------------------------------------------------


def identifications(outcome: Outcome, form: Form = Form.NESTED) -> list[int]:
    """The IPv4 identifications of the copies of one form."""
    return [Ether(c.data)[IP].id for c in outcome.copies if c.egress.form is form]


def test_identifications_count_from_0_for_each_egress(engine):
    box = engine(b.BOX, b.LISTS)
    frame = Frame(m.arriving(m.FROM_NVE))
    got = [identifications(box.forward(b.P1, frame)) for _ in range(4)]
    assert got == [[0, 0], [1, 1], [2, 2], [3, 3]]


def test_identifications_go_round_after_65536(engine):
    up = Egress(b.CORE, Form.REWRITE, Owner(b.CORE), ip_address(b.GROUP), ip_address(b.VTEP), Encap.VXLAN)
    box = engine(b.EDGE, (b.of_number(Scope.NVE, b.VNI, up),))
    frame = Frame(m.ARP[:14])
    if isinstance(box, Reference):
        box._copier.identifications[up] = 65535  # it would take ten seconds
    else:
        for _ in range(65535):
            box.forward(b.VM_BLUE, frame)
    got = [identifications(box.forward(b.VM_BLUE, frame), Form.REWRITE) for _ in range(3)]
    assert got == [[65535], [0], [1]]


def test_a_copy_that_is_dropped_takes_no_identification(engine):
    ports = (*b.PORTS[: b.SMALL], replace(b.PORTS[b.SMALL], mtu=200), *b.PORTS[b.SMALL + 1 :])
    lists = (b.of_group(remote=(b.at_peer(b.SMALL, b.PEER),)),)
    box = engine(replace(b.BOX, ports=ports), lists)
    small = Frame(m.arriving(m.vxlan(m.TENANT, b.VTEP, b.GROUP)))
    large = Frame(m.arriving(m.vxlan(f.tenant(size=120), b.VTEP, b.GROUP)))
    got = [identifications(box.forward(b.P1, frame)) for frame in (small, large, large, small)]
    assert got == [[0], [], [], [1]]


def test_a_copy_as_it_came_takes_no_identification(engine):
    """A group copy counts only where its header is made anew."""
    box = engine(b.BOX, (b.of_group(b.at_port(b.P0, encap=Encap.NVGRE)),))
    kept = Frame(m.arriving(m.nvgre(m.TENANT, b.VTEP, b.GROUP, id=0x7777)))
    anew = Frame(m.arriving(m.vxlan(m.TENANT, b.VTEP, b.GROUP)))
    got = [identifications(box.forward(b.P1, frame), Form.GROUP) for frame in (anew, kept, kept, anew)]
    assert got == [[0], [0x7777], [0x7777], [1]]


def test_equal_egresses_of_two_lists_share_their_count(engine):
    egress = b.at_peer(b.CORE, b.PEER)
    box = engine(b.BARE, (b.of_group(remote=(egress,)), b.of_group(remote=(egress,), group=b.MAPPED)))
    got = [
        identifications(box.forward(b.P1, Frame(m.arriving(m.vxlan(m.TENANT, b.VTEP, group)))))
        for group in (b.GROUP, b.MAPPED, b.GROUP)
    ]
    assert got == [[0], [1], [2]]


def test_the_order_in_which_a_list_is_given_means_nothing(engine):
    frame = Frame(m.arriving(m.FROM_NVE))
    want = engine(b.BOX, b.LISTS).forward(b.P0, frame).copies
    for seed in range(5):
        rng = random.Random(seed)
        lists = tuple(
            ReplicationList(
                one.key,
                tuple(rng.sample(one.local, len(one.local))),
                tuple(rng.sample(one.remote, len(one.remote))),
            )
            for one in b.LISTS
        )
        assert engine(b.BOX, lists).forward(b.P0, frame).copies == want


def test_egress_order_knows_port_0_from_no_port():
    address = ip_address("10.0.0.9")
    later = ip_address("2001:db8::")
    owners = [Owner(), Owner(None, address), Owner(None, later), Owner(0), Owner(0, address), Owner(1)]
    egresses = [Egress(3, form, owner) for form in (Form.GROUP, Form.REWRITE) for owner in owners]
    mixed = random.Random(3).sample(egresses, len(egresses))
    assert sorted(mixed, key=egress_order) == egresses


# --- damage -------------------------------------------------------------------------------------------------

WHOLE_FRAMES = {
    "vxlan": f.wire(bytes(m.FROM_NVE_SUMMED), [(f.SERVICE_TAG, 5), (f.TAG, 6)]),
    "vxlan_ipv6": f.wire(
        f.vxlan_packet(
            m.TENANT6,
            b.VTEP6,
            b.GROUP6,
            0x313233,
            packet={"extensions": [f.extension(f.DESTINATION_OPTIONS, 1)]},
        )
    ),
    "nvgre": f.wire(f.nvgre_packet(m.TENANT, b.VTEP, b.GROUP, b.VSID, packet={"options": bytes(8)})),
    "nested": f.wire(f.nested_packet(bytes(m.FROM_NVE), b.PEER, b.OWN)),
    "nested_ipv6": f.wire(
        f.nested_packet(f.vxlan_packet(m.TENANT6, b.VTEP6, b.GROUP6, 0x313233), b.PEER6, b.OWN6)
    ),
}


@pytest.mark.parametrize("name", WHOLE_FRAMES)
def test_a_frame_cut_anywhere_is_truncated(name: str, engine):
    whole = WHOLE_FRAMES[name]
    in_port = b.CORE if "nested" in name else b.P1
    box = engine(b.BOX, b.LISTS)
    assert box.forward(in_port, Frame(whole)).verdict is Verdict.REPLICATE
    fates = {box.forward(in_port, Frame(whole[:size])).reason for size in range(len(whole))}
    assert fates == {"truncated"}


@pytest.mark.parametrize("inner", [m.TENANT, m.TENANT6, m.TAGGED], ids=["ipv4", "ipv6", "tagged"])
def test_a_tenant_cut_anywhere_is_replicated_if_it_has_an_ethernet_header(inner: bytes, engine):
    """The lengths outside agree with the cut: only a tenant without an Ethernet header is refused."""
    box = engine(b.BOX, b.LISTS)
    for size in range(len(inner)):
        cut = f.wire(f.vxlan_packet(inner[:size], b.VTEP, b.GROUP, b.VNI))
        outcome = box.forward(b.P1, Frame(cut))
        want = (Verdict.DROP, "truncated") if size < 14 else (Verdict.REPLICATE, None)
        assert (outcome.verdict, outcome.reason) == want


# --- the tools of the tests ---------------------------------------------------------------------------------


def test_frames_made_by_hand_are_those_of_scapy():
    ip: m.Fields = {"ttl": 7, "id": 0x4321, "flags": "DF"}
    plain = m.vxlan(m.TENANT, b.VTEP, b.GROUP, ip=ip)
    summed = m.vxlan(m.TENANT6, b.VTEP6, b.GROUP6, 5, ip={"ttl": 7, "fl": 0x5A5A5}, chksum=None)
    gre = m.nvgre(m.TENANT, b.VTEP, b.GROUP, **ip)
    tunnel = m.nested(gre, b.PEER, b.OWN, 0xC123, None, **ip)
    right = {"checksum": f.RIGHT}
    by_hand = f.vxlan_packet(m.TENANT6, b.VTEP6, b.GROUP6, 5, datagram=right)
    assert f.wire(f.vxlan_packet(m.TENANT, b.VTEP, b.GROUP, b.VNI)) == m.arriving(plain)
    assert f.wire(by_hand) == m.arriving(summed)
    assert f.wire(f.nvgre_packet(m.TENANT, b.VTEP, b.GROUP, b.VSID)) == m.arriving(gre)
    assert f.wire(f.nested_packet(bytes(gre), b.PEER, b.OWN, datagram=right)) == m.arriving(tunnel)
    assert recomputed(Ether(m.TENANT)) == m.TENANT


def test_the_ecn_table_is_rfc_6040s():
    """RFC 6040 section 4.2, figure 4."""
    for (inside, outside), after in DECAPSULATED_ECN.items():
        got = decapsulated_ecn(ECN_NAMES.index(outside), ECN_NAMES.index(inside))
        assert (None if got is None else ECN_NAMES[got]) == after


def test_an_updated_checksum_is_the_recomputed_one():
    """RFC 1624 against RFC 1071, with the zeros where the two forms of zero could meet."""
    rng = random.Random(20)
    for _ in range(3000):
        words = [rng.choice((0, 0xFFFF, 1, 0xFFFE, rng.randrange(65536))) for _ in range(6)]
        data = b"".join(word.to_bytes(2, "big") for word in words) + b"\x00\x11"
        after = bytes(rng.choice((0, 255, rng.randrange(256))) for _ in range(4))
        updated = updated_checksum(f.internet_checksum(data), data[4:8], after)
        assert updated == f.internet_checksum(data[:4] + after + data[8:])


def test_the_oracle_leans_on_nothing_compiled():
    allowed = {"__future__", "collections", "dataclasses", "enum", "ipaddress", "dpkt", "fastpath"}
    mine = {"fastpath.model"}
    for path in Path(fastpath.reference.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert {name.name for name in node.names} <= {"dpkt"}
            elif isinstance(node, ast.ImportFrom):
                module = node.module or ""
                assert module.split(".")[0] in allowed
                own = module.startswith("fastpath.reference")
                assert own or not module.startswith("fastpath") or module in mine


# --- random batches -----------------------------------------------------------------------------------------


def test_ten_thousand_random_frames_reach_every_reason(engine):
    """And more than two in five of them are replicated, or the property would say little."""
    fates: Counter[str] = Counter()
    tenants: Counter[str] = Counter()
    for scene in seeded_scenes(7, 250, 40, rates=True):
        box = engine(scene.layout, scene.lists, macs=scene.macs)
        for in_port, frame in scene.batch:
            if isinstance(box, Reference):
                trail = Trail()
                outcome = box.forward(in_port, frame, trail)
                tenants.update(of_tenants(scene.layout, trail, outcome))
            else:
                outcome = box.forward(in_port, frame)
            fates[outcome.reason or outcome.verdict.name] += 1
            fates.update(outcome.copy_drops)
            fates.update(copy.egress.form.name for copy in outcome.copies)
    assert {r.name for r in REASONS} - fates.keys() == {*LIVE_REASONS, "link_down", "no_neighbour"}
    assert fates["REPLICATE"] > 4000
    assert all(fates[form.name] > 300 for form in Form)
    assert fates["PUNT"] > 50
    assert not tenants or tenants.keys() >= OF_TENANTS


@settings(
    max_examples=40,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking a whole box takes minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(scene=scenes(12, rates=True))
def test_nothing_random_breaks_the_sums(scene: Scene):
    """Copies wanted are copies sent or dropped, no copy breaks its port's MTU, and only REPLICATE copies."""
    box = Reference(scene.layout, scene.lists, macs=scene.macs)
    lists = {one.key: one for one in scene.lists}
    for in_port, frame in scene.batch:
        outcome = box.forward(in_port, frame)
        wanted = len(outcome.copies) + sum(outcome.copy_drops.values())
        assert (wanted > 0) == (outcome.verdict is Verdict.REPLICATE)
        assert (outcome.reason is None) == (outcome.verdict is not Verdict.DROP)
        if outcome.key is None:
            assert wanted <= 1
        else:
            one = lists[outcome.key]
            assert wanted <= len(one.local) + len(one.remote)
        for copy in outcome.copies:
            mtu = scene.layout.ports[copy.out_port].mtu
            assert mtu == 0 or len(copy.data) - 14 <= mtu
            assert copy.egress.owner != Owner(in_port)

"""The compiled data path does what the reference does, to whole batches and to damaged frames."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import groupby

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastpath.forwarder import Forwarder
from fastpath.model import AllowFrom, Encap, Form, Frame, GroupMap, Peer, Scope, Verdict
from fastpath.ports import MemoryPort
from fastpath.reference import Reference
from tests import frames as f
from tests.cases import CASES, Case
from tests.cases import box as b
from tests.cases import made as m
from tests.compiled import Arrival, Compiled, assert_same
from tests.native._arrivals import Arrivals
from tests.strategies import scenes, seeded_scenes

BATCHES = (1, 3, 32, 256)
RANDOM = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


def by_box(case: Case) -> str:
    return repr((case.layout, case.lists))


BOXES = [list(cases) for _, cases in groupby(sorted(CASES, key=by_box), by_box)]
"""The cases, those of one box together."""


@pytest.mark.parametrize("batch", BATCHES)
def test_all_cases_of_a_box_travel_together(batch: int):
    for cases in BOXES:
        arrivals = [(case.in_port, case.frame) for case in cases]
        assert_same(cases[0].layout, cases[0].lists, arrivals, batch)


@pytest.mark.parametrize("batch", BATCHES)
def test_all_cases_travel_as_well_with_their_tunnels_sum_left_to_be_finished(batch: int):
    """The compiled path leaves it open while nobody needs it; the reference never does."""
    n_open = 0
    for cases in BOXES:
        left = [(case.in_port, f.unfinished(case.frame)) for case in cases]
        arrivals = [(in_port, frame) for in_port, frame in left if frame is not None]
        assert_same(cases[0].layout, cases[0].lists, arrivals, batch)
        n_open += len(arrivals)
    assert n_open > 50


@RANDOM
@given(scene=scenes(24, rates=True), batch=st.sampled_from(BATCHES))
def test_a_random_batch_is_replicated_as_the_reference_does(scene, batch):
    assert_same(scene.layout, scene.lists, scene.batch, batch, macs=scene.macs)


@pytest.mark.parametrize("batch", BATCHES)
def test_many_seeded_batches_are_replicated_as_the_reference_does(batch: int):
    for i, scene in enumerate(seeded_scenes(11 + batch, 20, 300, rates=True)):
        assert_same(scene.layout, scene.lists, scene.batch, batch, macs=scene.macs, stepwise=i % 4 == 0)


def test_copies_leave_in_the_order_of_the_frames_and_of_their_lists_whatever_their_ports():
    """Where one sink stands for all ports, as a capture does, the order is that of the reference."""
    for scene in seeded_scenes(5, 20, 200):
        reference = Reference(scene.layout, scene.lists)
        wanted = [copy.data for arrival in scene.batch for copy in reference.forward(*arrival).copies]
        sink, source = MemoryPort(1 << 22), Arrivals()
        forwarder = Forwarder(scene.layout, [sink] * len(scene.layout.ports), scene.lists, sources=[source])
        for in_port, frame in scene.batch:
            source.push(in_port, frame.data, frame.mark and (frame.mark.start, frame.mark.offset), frame.vlan)
        forwarder.run()
        assert sink.take() == wanted


def of_size(size: int) -> Frame:
    """A VM's frame."""
    return Frame(m.TENANT.ljust(size, b"."))


def test_no_packet_is_larger_than_its_length_field_says_even_where_the_link_would_take_it():
    """The MTU of lo is 65536."""
    ports = tuple(replace(port, mtu=65536) for port in b.PORTS)
    for encap, overhead in ((Encap.VXLAN, 36), (Encap.NVGRE, 28)):
        lists = (b.of_number(b.NVE, b.VNI, b.at_peer(b.CORE, b.PEER, Form.REWRITE, encap=encap)),)
        arrivals = [(b.VM_BLUE, of_size(size - overhead)) for size in (65535, 65536)]
        assert assert_same(replace(b.EDGE, ports=ports), lists, arrivals).copy_drops == {"over_mtu": 1}


def test_a_vms_frame_is_not_measured_by_the_packet_that_came_before_it():
    """Only IPv6 packets may have 40 bytes more; the frame stands where one stood."""
    lists = (b.of_number(b.NVE, b.VNI, b.at_vm(b.VM_GREEN)),)
    networks = (*b.EDGE.networks, replace(b.BLUE, group=ip_address(b.GROUP6)))
    ports = [MemoryPort(1 << 20) for _ in b.PORTS]
    forwarder = Forwarder(replace(b.EDGE, networks=networks), ports, lists, batch=1)
    ports[b.CORE].push(f.wire(f.vxlan_packet(m.TENANT, b.VTEP6[:-1] + "9", b.GROUP6, b.VNI)))
    assert forwarder.run() == 1
    ports[b.VM_BLUE].push(of_size(65550).data)
    assert forwarder.run() == 1
    assert {row.reason.name: row.count for row in forwarder.statistics().drops} == {"over_mtu": 1}


# --- damage -------------------------------------------------------------------------------------------------

VXLAN = f.vxlan_packet(m.TENANT, b.VTEP, b.GROUP, b.VNI, datagram={"checksum": f.RIGHT})
VXLAN6 = f.vxlan_packet(m.TENANT6, b.VTEP6, b.GROUP6, 0x313233, datagram={"checksum": f.RIGHT})
NVGRE = f.nvgre_packet(m.TENANT, b.VTEP, b.GROUP, b.VSID)
ROUTED = {"extensions": [f.extension(f.HOP_BY_HOP), f.extension(f.DESTINATION_OPTIONS, 1)]}

WHOLE: dict[str, tuple[int, bytes]] = {
    "vxlan": (b.P1, f.wire(VXLAN)),
    "vxlan_tagged": (b.P1, f.wire(VXLAN, [(f.SERVICE_TAG, 5), (f.TAG, 6)], bytes(9))),
    "vxlan_inner_tags": (b.P1, f.wire(f.vxlan_packet(f.tenant(tags=[(f.TAG, 9)]), b.VTEP, b.GROUP, b.VNI))),
    "vxlan_options": (
        b.P1,
        f.wire(f.vxlan_packet(m.ARP, b.VTEP, b.GROUP, b.VNI, packet={"options": bytes(8)})),
    ),
    "vxlan_ipv6": (b.P1, f.wire(f.vxlan_packet(m.TENANT6, b.VTEP6, b.GROUP6, 0x313233, packet=ROUTED))),
    "vxlan_to_us": (
        b.CORE,
        f.wire(f.vxlan_packet(m.TENANT, b.PEER, b.OWN, b.VNI, datagram={"checksum": f.RIGHT})),
    ),
    "nvgre": (b.P1, f.wire(f.nvgre_packet(m.TENANT, b.VTEP, b.GROUP, b.VSID, packet={"options": bytes(4)}))),
    "nvgre_ipv6": (b.P1, f.wire(f.nvgre_packet(m.TENANT6, b.VTEP6, b.GROUP6, 0x313233))),
    "nested": (b.CORE, f.wire(f.nested_packet(VXLAN, b.PEER, b.OWN, datagram={"checksum": f.RIGHT}))),
    "nested_nvgre": (b.CORE, f.wire(f.nested_packet(NVGRE, b.PEER, b.OWN, packet={"options": bytes(4)}))),
    "nested_ipv6": (b.CORE, f.wire(f.nested_packet(VXLAN6, b.PEER6, b.OWN6, packet=ROUTED))),
    "raw": (b.VM_BLUE, f.tenant(tags=[(f.TAG, 7)])),
    "igmp": (b.P0, f.wire(f.igmp(b.VTEP, "224.0.0.22"))),
    "mld": (b.P0, f.wire(f.mld("fe80::7", "ff02::16"))),
}
"""A sound frame of every kind, and where it comes in."""

DAMAGED = replace(
    b.BOX,
    networks=(replace(b.BLUE, clear_reserved=True), b.GREEN),
    peers=(*b.BOX.peers, Peer(Scope.REPLICATOR, ip_address(b.PEER))),
    nves=b.BOX.nves,
)
EVERYWHERE = (
    b.of_group(
        *b.LISTS[0].local,
        b.at_nve(b.P0, "2001:db8:1::9", source=ip_address(b.OWN6)),
        b.at_vm(b.VM_GREEN),
        remote=(*b.LISTS[0].remote, b.at_peer(b.SMALL, "10.0.0.4", encap=Encap.NVGRE, form=Form.REWRITE)),
    ),
    b.of_group(
        *b.LISTS[1].local,
        b.at_vm(b.VM_BLUE),
        remote=(b.at_peer(b.CORE, b.PEER6, source=b.OWN6), b.at_peer(b.MIX, b.PEER, form=Form.REWRITE)),
        group=b.GROUP6,
    ),
    b.of_number(
        Scope.NVE, b.VNI, b.at_vm(b.VM_GREEN), b.at_peer(b.CORE, b.PEER, Form.REWRITE, encap=Encap.VXLAN)
    ),
)


@pytest.fixture(params=WHOLE)
def whole(request: pytest.FixtureRequest) -> Arrival:
    """Give one sound frame after the other."""
    in_port, data = WHOLE[request.param]
    return in_port, Frame(data)


def test_a_sound_frame_is_not_dropped(whole):
    sent = assert_same(DAMAGED, EVERYWHERE, [whole])
    assert Verdict.DROP not in sent.verdicts


def test_a_frame_cut_anywhere_meets_the_same_fate(whole):
    in_port, frame = whole
    assert_same(
        DAMAGED, EVERYWHERE, [(in_port, Frame(frame.data[:size])) for size in range(len(frame.data) + 1)]
    )


def corrupted(frame: Frame, values: int, first: int = 0, last: int = 120) -> list[Frame]:
    """The frame with each of its bytes replaced: by `values` spread over all 256, some that mean much."""
    data = frame.data
    out = []
    for at in range(first, min(last, len(data))):
        chosen = {data[at] ^ 1 << bit for bit in range(8)} | {0, 0xFF, data[at] ^ 0xFF}
        chosen |= {(data[at] + 1 + i * 256 // values) % 256 for i in range(values - 1)}
        out += [Frame(data[:at] + bytes((value,)) + data[at + 1 :]) for value in sorted(chosen - {data[at]})]
    return out


def test_a_frame_with_one_wrong_byte_meets_the_same_fate(whole):
    in_port, frame = whole
    assert_same(DAMAGED, EVERYWHERE, [(in_port, one) for one in corrupted(frame, 2)])


def test_a_frame_with_one_wrong_byte_meets_the_same_fate_when_no_checksum_shows_it(whole):
    """Deeper: most corruption of an outer header would otherwise end at its checksum."""
    in_port, frame = whole
    layout = replace(DAMAGED, verify_checksums=False)
    assert_same(layout, EVERYWHERE, [(in_port, one) for one in corrupted(frame, 2)])


@pytest.mark.slow
def test_a_frame_with_any_byte_of_its_headers_replaced_by_any_other_meets_the_same_fate(whole):
    """By no checksum, which would end most of them before anything else is read."""
    in_port, frame = whole
    layout = replace(DAMAGED, verify_checksums=False)
    assert_same(layout, EVERYWHERE, [(in_port, one) for one in corrupted(frame, 256)])


@pytest.mark.slow
def test_a_frame_with_any_bytes_of_its_headers_replaced_is_refused_by_the_same_checksum(whole):
    """What the checksums themselves refuse; of what they do not cover, the test before has every value."""
    in_port, frame = whole
    assert_same(DAMAGED, EVERYWHERE, [(in_port, one) for one in corrupted(frame, 32)])


@pytest.mark.parametrize("vlan", [(f.TAG, 0x6064), (f.SERVICE_TAG, 7)])
def test_a_cut_frame_with_a_tag_out_of_band_meets_the_same_fate(whole, vlan):
    in_port, frame = whole
    cut = [Frame(frame.data[:size], vlan=vlan) for size in range(0, len(frame.data) + 1, 3)]
    assert_same(DAMAGED, EVERYWHERE, [(in_port, one) for one in cut])


def test_an_ipv6_packet_with_an_ipv4_address_mapped_is_not_taken_for_ipv4():
    """::ffff:10.0.0.1 is not 10.0.0.1: not as a sender, an address of ours, or a tenant's group."""
    mapped = [
        ("::ffff:10.0.0.2", b.OWN6),
        (b.PEER6, "::ffff:10.0.0.1"),
        ("::ffff:10.0.0.1", b.GROUP6),
        ("::ffff:10.0.0.2", b.GROUP6),
        (b.VTEP6, "::ffff:239.1.1.100"),
    ]
    inner = [f.tenant("fd00::9", "::ffff:239.77.1.3"), m.TENANT6]
    arrivals = [
        (port, Frame(f.wire(f.vxlan_packet(one, src, dst, 0x313233, datagram={"checksum": f.RIGHT}))))
        for src, dst in (*mapped, (b.VTEP6, b.GROUP6), (b.PEER6, b.OWN6))
        for one in inner
        for port in (b.P1, b.CORE)
    ]
    lists = (*EVERYWHERE, b.of_number(b.DEVICE, 0x313233, b.at_vm(b.VM_BLUE), group="239.77.1.3"))
    assert_same(DAMAGED, lists, arrivals)


def test_a_prefix_of_all_ipv6_holds_no_ipv4_address():
    """::/0 among the allowed senders, and as a map of a network."""
    everyone = replace(b.BLUE, maps=(GroupMap(ip_network("::/0"), ip_address(b.MAPPED)),))
    layout = replace(
        b.BOX,
        networks=(everyone, b.GREEN),
        allow_from=(AllowFrom(Scope.DEVICE, ip_network("::/0")),),
        peers=(),
    )
    lists = (*b.LISTS, b.of_group(b.at_port(b.P7), group=b.MAPPED))
    arrivals = [
        (b.CORE, Frame(f.wire(f.vxlan_packet(m.TENANT, src, dst, b.VNI, datagram={"checksum": f.RIGHT}))))
        for src, dst in ((b.STRANGER, b.OWN), ("2001:db8:bad::66", b.OWN6))
    ]
    sent = assert_same(layout, lists, arrivals)
    assert sent.reasons == {"unknown_peer": 1, "ambiguous_group": 1}
    allowed = replace(layout, peers=(Peer(Scope.DEVICE, ip_address(b.STRANGER)),))
    assert assert_same(allowed, lists, arrivals[:1]).copies[b.P1]


def test_the_compiled_engine_tells_with_which_frame_a_difference_begins(monkeypatch):
    """The comparison itself: a reference that forgets one rule is found out, and the frame named."""
    from fastpath.reference.lookup import Lookup

    monkeypatch.setattr(Lookup, "refuse_own", lambda *_: None)
    own = f.wire(f.vxlan_packet(m.TENANT, b.OWN, b.GROUP, b.VNI))
    arrivals = [(b.P1, Frame(f.wire(VXLAN))), (b.P1, Frame(own))]
    with pytest.raises(AssertionError, match=own.hex()):
        assert_same(b.BOX, b.LISTS, arrivals)


def test_the_books_of_a_batch_are_balanced_by_someone_else_than_the_engine(monkeypatch):
    """The adapter sees a copy that left uncounted."""
    box = Compiled(b.BOX, b.LISTS)
    box.forward(b.P1, Frame(f.wire(VXLAN)))
    monkeypatch.setattr(MemoryPort, "take", lambda self: [b"one too many"])
    with pytest.raises(AssertionError):
        box.forward(b.P1, Frame(f.wire(VXLAN)))

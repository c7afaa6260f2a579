"""Trains: cut into datagrams they are what the copies would have been, and every flow stays in order."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastpath.forwarder import Forwarder
from fastpath.model import Encap, Form, Frame
from fastpath.ports import MemoryPort
from fastpath.reference import Copy, Reference
from tests import frames as f
from tests.arrivals import chance
from tests.cases import box as b
from tests.compiled import Arrival, Compiled
from tests.strategies import seeded_scenes

MAGIC = b"flow"
ALL = range(len(b.PORTS))
RANDOM = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

MIXED = (
    b.of_group(
        b.at_port(b.P0),
        b.at_nve(b.P0, "10.1.1.3"),
        b.at_nve(b.P0, "10.1.1.4", source=ip_address(b.OWN)),
        b.at_nve(b.P0, "2001:db8:1::3", source=ip_address(b.OWN6)),
        b.at_nve(b.P0, "10.1.1.5", source=ip_address(b.OWN), encap=Encap.NVGRE),
        b.at_nve(b.P0, "10.1.1.6", source=ip_address(b.OWN), encap=Encap.VXLAN, vni=7),
        b.at_nve(b.P0, "10.1.1.7", source=ip_address(b.OWN), encap=Encap.VXLAN, vni=b.OTHER_VNI),
        b.at_nve(b.P0, "2001:db8:1::6", source=ip_address(b.OWN6), encap=Encap.VXLAN, vni=7),
        b.at_port(b.P7, encap=Encap.NVGRE),
        b.at_vm(b.VM_GREEN),
        remote=(
            b.at_peer(b.CORE, b.PEER),
            b.at_peer(b.CORE, b.FAR_PEER, Form.REWRITE),
            b.at_peer(b.SMALL, "10.0.0.7"),
            b.at_peer(b.SMALL, "10.0.0.8", Form.REWRITE),
            b.at_peer(b.MIX, b.PEER6, source=b.OWN6),
        ),
    ),
    b.of_group(
        b.at_port(b.P0, b.GROUP6),
        b.at_nve(b.P0, "2001:db8:1::3", source=ip_address(b.OWN6)),
        b.at_nve(b.P0, "10.1.1.3", source=ip_address(b.OWN)),
        remote=(b.at_peer(b.CORE, b.PEER), b.at_peer(b.MIX, b.PEER6, Form.REWRITE, source=b.OWN6)),
        group=b.GROUP6,
    ),
)
"""Every form: those that ride and those that do not, neighbours and strangers, a port with a small MTU."""


def tenant_frame(flow: int, sequence: int, size: int) -> bytes:
    """A VM's frame of one flow, with `size` bytes behind what tells it from others."""
    body = (
        MAGIC
        + flow.to_bytes(2, "big")
        + sequence.to_bytes(4, "big")
        + bytes((sequence + i) & 255 for i in range(size))
    )
    inside = f.udp(body, "172.16.5.9", "239.77.1.3", sport=20000 + flow, dport=5004, checksum=f.RIGHT)
    packet = f.ipv4(inside, "172.16.5.9", "239.77.1.3", f.UDP, ident=sequence & 0xFFFF)
    return f.ethernet(packet, f.IPV4, bytes.fromhex("01005e4d0103"))


def tunnel_packet(inner: bytes, *, group: str = b.GROUP, encap: Encap = Encap.VXLAN, **knobs: Any) -> bytes:
    """An overlay packet to a group; `checksum` and `sport` are UDP's, the rest IP's."""
    source = b.VTEP6 if ":" in group else b.VTEP
    datagram = {"checksum": knobs.pop("checksum", f.ZERO), "sport": knobs.pop("sport", 0xC123)}
    if encap is Encap.NVGRE:
        return f.nvgre_packet(inner, source, group, 0x313233 if ":" in group else b.VSID, packet=knobs)
    number = 0x313233 if ":" in group else b.VNI  # that of no network: any number may travel in GROUP6
    return f.vxlan_packet(inner, source, group, number, datagram=datagram, packet=knobs)


def run_of(sizes: list[int], flow: int = 1, **knobs: Any) -> list[Arrival]:
    """One flow that comes in on P1."""
    return [
        (b.P1, Frame(f.wire(tunnel_packet(tenant_frame(flow, i, n), **knobs)))) for i, n in enumerate(sizes)
    ]


def flowing(rng: random.Random, n_frames: int, largest: int) -> list[Arrival]:
    """Flows that interleave, mostly of equal frames; what a header says for all changes now and then."""
    flows: list[dict[str, Any]] = [
        {
            "group": rng.choice((b.GROUP, b.GROUP, b.GROUP6)),
            "encap": rng.choice((Encap.VXLAN, Encap.VXLAN, Encap.VXLAN, Encap.NVGRE)),
            "checksum": rng.choice((f.ZERO, f.RIGHT)),
            "ttl": 9,
            "tos": 0,
        }
        for _ in range(1 + rng.randrange(4))
    ]
    sizes = [rng.randrange(largest) for _ in flows]
    arrivals: list[Arrival] = []
    at = 0
    while len(arrivals) < n_frames:
        if chance(rng, 25):
            at = rng.randrange(len(flows))
        knobs, size = flows[at], sizes[at]
        if chance(rng, 6):
            knobs["ttl"] = rng.choice((1, 9, 64))
        if chance(rng, 6):
            knobs["tos"] = rng.choice((0, 2, 0xB8))
        if chance(rng, 4):
            knobs["checksum"] = rng.choice((f.ZERO, f.RIGHT))
        if chance(rng, 4):
            knobs["sport"] = 0xC000 + rng.randrange(3)
        if chance(rng, 4) and knobs["group"] == b.GROUP:
            knobs["flags"] = rng.choice((0, 2))
        if chance(rng, 3) and knobs["group"] == b.GROUP:
            knobs["options"] = rng.choice((b"", bytes(4)))
        if chance(rng, 8):
            size = rng.randrange(size + 1)
        elif chance(rng, 3):
            size = sizes[at] = rng.randrange(largest)
        packet = tunnel_packet(tenant_frame(at, len(arrivals), size), **knobs)
        nested = f.nested_packet(packet, b.PEER, b.OWN) if chance(rng, 10) else None
        arrivals.append((b.P1, Frame(f.wire(packet))) if nested is None else (b.CORE, Frame(f.wire(nested))))
    return arrivals


# --- what a copy is, but for what segmentation may choose ---------------------------------------------------


def masked(data: bytes) -> tuple[bytes, int | None]:
    """A copy without IPv4 id and checksums, which must be right; and its UDP checksum (None: no UDP)."""
    version = data[14] >> 4
    ip = data[14:]
    out = bytearray(data)
    if version == 4:
        assert f.internet_checksum(ip[: (ip[0] & 15) * 4]) == 0
        out[18:20] = out[24:26] = b"\0\0"
    protocol, size = (ip[9], (ip[0] & 15) * 4) if version == 4 else (ip[6], 40)
    if protocol != f.UDP:
        return bytes(out), None
    datagram = ip[size:]
    addresses = ip[12:20] if version == 4 else ip[8:40]
    total = int.from_bytes(datagram[6:8], "big")
    assert len(datagram) == int.from_bytes(datagram[4:6], "big")
    if total != 0:
        pseudo = addresses + len(datagram).to_bytes(4, "big") + bytes((0, 0, 0, f.UDP))
        assert f.internet_checksum(pseudo + datagram) == 0
    out[14 + size + 6 : 14 + size + 8] = b"\0\0"
    return bytes(out), total


def flow_and_place(data: bytes) -> tuple[int, int]:
    at = data.index(MAGIC) + 4
    return int.from_bytes(data[at : at + 2], "big"), int.from_bytes(data[at + 2 : at + 6], "big")


def identification(data: bytes) -> int:
    return int.from_bytes(data[18:20], "big")


def by_flow_and_destination(copies: list[bytes]) -> dict[tuple[object, ...], list[int]]:
    """The places in its flow of each flow's frames, in the order in which one receiver gets them."""
    out: dict[tuple[object, ...], list[int]] = {}
    for data in copies:
        flow, place = flow_and_place(data)
        version = data[14] >> 4
        to = data[30:34] if version == 4 else data[38:54]
        out.setdefault((flow, to, data.index(MAGIC) - 14), []).append(place)
    return out


def assert_trains_carry_the_copies(arrivals: list[Arrival], trains: Any = ALL, batch: int = 256) -> Compiled:
    """Forward with trains, and compare with what the reference makes one by one."""
    compiled, reference = (
        Compiled(b.BOX, MIXED, batch=batch, trains=trains, room=1 << 25),
        Reference(b.BOX, MIXED),
    )
    got = compiled.forward_batch(arrivals)
    outcomes = [reference.forward(*arrival) for arrival in arrivals]
    drops = sum((Counter(outcome.copy_drops) for outcome in outcomes), Counter[str]())
    assert dict(got.copy_drops) == dict(drops)
    wanted: list[list[Copy]] = [[] for _ in b.PORTS]
    for outcome in outcomes:
        for copy in outcome.copies:
            wanted[copy.out_port].append(copy)
    for port, (copies, wants) in enumerate(zip(got.copies, wanted, strict=True)):
        assert by_flow_and_destination(list(copies)) == by_flow_and_destination([copy.data for copy in wants])
        if port == b.VM_GREEN:
            assert sorted(copies) == sorted(copy.data for copy in wants)
            continue
        sent, want = sorted(map(masked, copies)), sorted(masked(copy.data) for copy in wants)
        assert [one for one, _ in sent] == [one for one, _ in want]
        for (_, total), (_, before) in zip(sent, want, strict=True):
            assert before in {total, 0}
        new = [copy for copy in wants if copy.egress.form in (Form.REWRITE, Form.NESTED)]
        fresh = {copy.data[26:34] for copy in new if copy.data[14] >> 4 == 4}
        numbers = [[identification(data) for data in copies if data[26:34] == pair] for pair in sorted(fresh)]
        assert all(sorted(ids) == list(range(len(ids))) for ids in numbers)
    return compiled


@RANDOM
@given(
    rng=st.randoms(use_true_random=False),
    n_frames=st.integers(2, 60),
    largest=st.sampled_from((30, 180, 600)),
    batch=st.sampled_from((3, 32, 256)),
    trains=st.sampled_from((ALL, (b.P0, b.SMALL), (b.CORE, b.MIX))),
)
def test_the_segments_of_trains_are_the_copies_one_by_one(rng, n_frames, largest, batch, trains):
    assert_trains_carry_the_copies(flowing(rng, n_frames, largest), trains, batch)


@pytest.mark.parametrize("seed", range(8))
def test_long_batches_ride_as_the_copies_one_by_one(seed: int):
    rng = random.Random(seed)
    arrivals = flowing(rng, 700, (40, 200, 1400)[seed % 3])
    compiled = assert_trains_carry_the_copies(arrivals)
    assert compiled.forwarder.statistics().train_copies > 100


def test_the_largest_frames_ride_as_the_copies_one_by_one():
    for size in (900, 8900, 32400, 32430, 32470, 65400):
        assert_trains_carry_the_copies(run_of([size] * 5 + [size // 2] + [size] * 2))
        assert_trains_carry_the_copies(run_of([size] * 3, group=b.GROUP6, checksum=f.RIGHT))


def test_trains_of_random_boxes_balance_the_books():
    """Any lists at all: the adapter's sums hold, and as many copies leave as without trains."""
    for scene in seeded_scenes(23, 30, 120):
        arrivals = [arrival for one in scene.batch for arrival in (one, one, one)]
        single = Compiled(scene.layout, scene.lists).forward_batch(arrivals)
        train = Compiled(scene.layout, scene.lists, trains=range(9)).forward_batch(arrivals)
        assert replace(train, copies=()) == replace(single, copies=())
        assert [len(one) for one in train.copies] == [len(one) for one in single.copies]


# --- how many trains ----------------------------------------------------------------------------------------

RIDING = (b.at_port(b.P0), b.at_nve(b.P0, "10.1.1.3"), b.at_nve(b.P0, "10.1.1.4", source=ip_address(b.OWN)))


def trains_of(arrivals: list[Arrival], *egresses: Any, trains: Any = ALL) -> tuple[int, int]:
    """(super-frames, copies in them) for egresses of one list; three that ride if none are given."""
    box = Compiled(b.BOX, b.of_only(*(egresses or RIDING)), trains=trains, room=1 << 24)
    box.forward_batch(arrivals)
    counted = box.forwarder.statistics()
    return counted.trains, counted.train_copies


def test_equal_frames_of_a_flow_make_one_train_per_destination():
    assert trains_of(run_of([40] * 10)) == (3, 30)


def test_one_frame_is_no_train():
    assert trains_of(run_of([40])) == (0, 0)


def test_a_shorter_frame_ends_its_train():
    assert trains_of(run_of([40] * 9 + [39])) == (3, 30)
    assert trains_of(run_of([40] * 5 + [39] + [40] * 4)) == (6, 30)
    assert trains_of(run_of([39] * 5 + [40] * 5)) == (6, 30)


def test_a_train_has_128_segments_at_most():
    assert trains_of(run_of([40] * 128)) == (3, 384)
    assert trains_of(run_of([40] * 130)) == (6, 390)


def test_a_train_is_smaller_than_64_kb():
    size = 1400
    nested = 4 + 20 + 8 + 8 + len(tenant_frame(1, 0, size))
    assert trains_of(run_of([size] * (65000 // nested))) == (3, 3 * (65000 // nested))
    assert trains_of(run_of([size] * (65000 // nested + 2))) == (6, 3 * (65000 // nested + 2))


def test_interleaved_flows_ride_their_own_trains():
    one, other = run_of([40] * 10, flow=1), run_of([50] * 10, flow=2)
    assert trains_of([arrival for pair in zip(one, other, strict=True) for arrival in pair]) == (6, 60)


@pytest.mark.parametrize(
    "knobs",
    [{"ttl": 8}, {"tos": 4}, {"checksum": f.RIGHT}, {"sport": 0xC124}, {"flags": 0}, {"options": bytes(4)}],
    ids=str,
)
def test_what_an_outer_header_says_once_is_equal_in_all_of_a_train(knobs):
    """Each change begins a new train. Frames with options go one by one."""
    trains = trains_of(run_of([40] * 5) + run_of([40] * 5, **knobs))
    assert trains == ((6, 30) if "options" not in knobs else (3, 15))


def test_a_batch_ends_its_trains():
    box = Compiled(b.BOX, b.of_only(*RIDING), batch=4, trains=ALL)
    box.forward_batch(run_of([40] * 9))
    assert (box.forwarder.statistics().trains, box.forwarder.statistics().train_copies) == (6, 24)


def test_nvgre_goes_one_by_one_but_rides_when_nested():
    nvgre = run_of([40] * 10, encap=Encap.NVGRE)
    assert trains_of(nvgre) == (0, 0)
    assert trains_of(nvgre, b.at_peer(b.CORE, b.PEER)) == (1, 10)
    assert trains_of(run_of([40] * 10), b.at_peer(b.CORE, b.PEER)) == (1, 10)


def test_vxlan_made_anew_rides_with_the_number_of_its_egress_and_nvgre_goes_one_by_one():
    ours = {"source": ip_address(b.OWN), "encap": Encap.VXLAN}
    made = [b.at_nve(b.P0, f"10.1.1.{n}", vni=vni, **ours) for n, vni in ((3, 7), (4, 8), (5, 8), (6, 7))]
    arrivals = run_of([40] * 10)
    assert trains_of(arrivals, *made) == (4, 40)
    want = Compiled(b.BOX, b.of_only(*made)).forward_batch(arrivals).copies[b.P0]
    got = Compiled(b.BOX, b.of_only(*made), trains=ALL).forward_batch(arrivals).copies[b.P0]
    assert sorted(masked(copy)[0] for copy in got) == sorted(masked(copy)[0] for copy in want)
    assert trains_of(arrivals, b.at_port(b.P7, encap=Encap.NVGRE)) == (0, 0)


def test_only_ports_that_take_trains_get_them():
    assert trains_of(run_of([40] * 10), b.at_port(b.P0), b.at_port(b.P7), trains=(b.P7,)) == (1, 10)
    assert trains_of(run_of([40] * 10), trains=()) == (0, 0)


def test_a_forwarder_without_trains_sends_none():
    ports = [MemoryPort(1 << 20, trains=True) for _ in b.PORTS]
    forwarder = Forwarder(b.BOX, ports, b.of_only(*RIDING), trains=False)
    ports[b.P1].receive(*(frame for _, frame in run_of([40] * 10)))
    forwarder.run()
    assert forwarder.statistics().trains == 0
    assert len(ports[b.P0].records()) == 30


def test_a_train_is_handed_over_as_heads_over_one_payload():
    ports = [MemoryPort(1 << 20, trains=True) for _ in b.PORTS]
    forwarder = Forwarder(b.BOX, ports, b.of_only(*RIDING))
    arrivals = run_of([40] * 9 + [33])
    ports[b.P1].receive(*(frame for _, frame in arrivals))
    forwarder.run()
    overlay = 14 + 20 + 8
    records = ports[b.P0].records()
    assert {payload for _, payload, _ in records} == {b"".join(frame.data[overlay:] for _, frame in arrivals)}
    assert {size for *_, size in records} == {len(arrivals[0][1].data) - overlay}
    assert [len(head) for head, *_ in records] == [overlay] * 3


# --- what does not fit --------------------------------------------------------------------------------------


def test_of_a_train_over_the_mtu_the_shorter_last_frame_still_goes():
    """R9, per copy: the MTU of SMALL is 301."""
    room = 301 - 20 - 8 - 8 - len(tenant_frame(1, 0, 0))
    arrivals = run_of([room + 1] * 4 + [room - 5])
    got = Compiled(b.BOX, b.of_only(b.at_nve(b.SMALL, "10.1.1.3")), trains=ALL).forward_batch(arrivals)
    assert (dict(got.copy_drops), len(got.copies[b.SMALL])) == ({"over_mtu": 4}, 1)


def test_a_train_that_a_port_refuses_is_counted_as_its_copies_and_not_as_a_train():
    box = Compiled(b.BOX, b.of_only(*RIDING, b.at_port(b.P7)), trains=ALL, room=400)
    sent = box.forward_batch(run_of([40] * 10))
    assert sent.copy_drops == {"port_refused": 40}
    assert (box.forwarder.statistics().trains, box.forwarder.statistics().train_copies) == (0, 0)


def test_an_identification_goes_round_inside_a_train():
    lists = b.of_only(b.at_nve(b.P0, "10.1.1.3", source=ip_address(b.OWN)))
    box = Compiled(b.BOX, lists, trains=ALL, room=1 << 25)
    seen: list[int] = []
    for _ in range(513):
        seen += [identification(data) for data in box.forward_batch(run_of([1] * 128)).copies[b.P0]]
    assert seen == [i % 65536 for i in range(513 * 128)]


def test_a_group_copy_continues_the_first_frames_identification():
    arrivals = run_of([40] * 3, ident=0xFFFE)
    sent = Compiled(b.BOX, b.of_only(b.at_port(b.P0)), trains=ALL).forward_batch(arrivals)
    assert [identification(data) for data in sent.copies[b.P0]] == [0xFFFE, 0xFFFF, 0]


def test_an_unverified_wrong_checksum_is_not_hidden():
    """verify_checksums off: what came wrong does not ride, where the kernel would make it right."""
    layout = replace(b.BOX, verify_checksums=False)
    arrivals = run_of([40] * 3, checksum=0x1234)
    want = Compiled(layout, b.of_only(*RIDING)).forward_batch(arrivals)
    assert Compiled(layout, b.of_only(*RIDING), trains=ALL).forward_batch(arrivals).copies == want.copies

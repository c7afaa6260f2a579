"""Trains of VMs' own frames: encapsulated anew towards the network, and alone towards a VM.

To a VM the law is exactness: cut by a kernel, a train gives back the very bytes that came, or the frames go
one by one. `cut_train` stands for the kernel here; `tests/contract/test_ports.py` has real ones do it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fastpath.model import Encap, Form, Frame, Mark
from fastpath.reference.inner import inner_headers
from tests import frames as f
from tests.arrivals import chance
from tests.cases import box as b
from tests.compiled import Arrival, Compiled
from tests.tenants import FIN, PSH, datagram, frame, segment
from tests.unit.test_trains import ALL, masked

Made = Callable[..., bytes]
TO_NETWORK = (
    b.at_peer(b.CORE, b.PEER, Form.REWRITE, b.VTEP, encap=Encap.VXLAN),
    b.at_peer(b.CORE, b.GROUP, Form.REWRITE, b.VTEP, encap=Encap.VXLAN),
    b.at_peer(b.MIX, b.PEER6, Form.REWRITE, b.VTEP6, encap=Encap.VXLAN),
)


def vm_sends(
    inner: list[bytes], *egresses: Any, trains: Any = ALL
) -> tuple[tuple[bytes, ...], tuple[int, int]]:
    """What leaves by CORE and MIX, and (super-frames, copies in them), where VM_BLUE sends frames."""
    remote = egresses or TO_NETWORK
    box = Compiled(b.EDGE, (b.of_number(b.NVE, b.VNI, remote=remote),), trains=trains, room=1 << 24)
    sent = box.forward_batch([(b.VM_BLUE, Frame(one)) for one in inner])
    counted = box.forwarder.statistics()
    return (*sent.copies[b.CORE], *sent.copies[b.MIX]), (counted.trains, counted.train_copies)


def vm_gets(inner: list[bytes], trains: Any = ALL, mtu: int = 0) -> tuple[list[bytes], tuple[int, int]]:
    """What VM_GREEN gets of frames to its group, and (super-frames, copies in them)."""
    ports = tuple(replace(port, mtu=mtu) for port in b.PORTS)
    layout = replace(b.BOX, ports=ports)
    box = Compiled(layout, b.of_only(b.at_vm(b.VM_GREEN)), trains=trains, room=1 << 24)
    wrapped = (f.wire(f.vxlan_packet(one, b.VTEP, b.GROUP, b.VNI)) for one in inner)
    arrivals: list[Arrival] = [(b.P1, Frame(data)) for data in wrapped]
    sent = box.forward_batch(arrivals)
    counted = box.forwarder.statistics()
    return list(sent.copies[b.VM_GREEN]), (counted.trains, counted.train_copies)


# --- from a VM ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("made", [datagram, segment], ids=["udp", "tcp"])
def test_equal_frames_of_a_vm_leave_as_one_train_per_destination(made: Made, version: int) -> None:
    """What the frames are is all the same: they are what the segments carry."""
    inner = [made(i, 100, version, tos=0xB8) for i in range(44)] + [made(44, 99, version, tos=0xB8)]
    copies, trains = vm_sends(inner)
    alone, none = vm_sends(inner, trains=())
    assert (trains, none) == ((3, 135), (0, 0))
    assert sorted(masked(copy)[0] for copy in copies) == sorted(masked(copy)[0] for copy in alone)
    assert {copy[15] for copy in copies if copy[14] >> 4 == 4} == {0xB8}


def test_a_frame_of_no_ip_rides_as_well() -> None:
    assert vm_sends([f.arp()] * 10)[1] == (3, 30)


@pytest.mark.parametrize("knobs", [{"tos": 4}, {"sport": 40002}, {"dport": 5005}], ids=str)
def test_what_the_outer_header_says_once_is_equal_in_all_of_a_vms_train(knobs: dict[str, Any]) -> None:
    inner = [datagram(i, 100) for i in range(5)] + [datagram(i, 100, **knobs) for i in range(5)]
    assert vm_sends(inner)[1] == (6, 30)


def test_a_vms_frames_to_nvgre_go_one_by_one() -> None:
    nvgre = b.at_peer(b.CORE, b.PEER, Form.REWRITE, b.VTEP, encap=Encap.NVGRE)
    copies, trains = vm_sends([datagram(i, 100) for i in range(5)], nvgre)
    assert (len(copies), trains) == (5, (0, 0))


def test_an_unfinished_checksum_of_a_vm_is_finished_in_every_segment() -> None:
    inner = [datagram(i, 100) for i in range(5)]
    box = Compiled(b.EDGE, (b.of_number(b.NVE, b.VNI, remote=TO_NETWORK[:1]),), trains=ALL)
    open_sum = f.internet_checksum(f.pseudo("172.16.5.9", "239.77.1.3", f.UDP, 108)) ^ 0xFFFF
    unfinished = [one[:40] + open_sum.to_bytes(2, "big") + one[42:] for one in inner]
    sent = box.forward_batch([(b.VM_BLUE, Frame(one, Mark(34, 6))) for one in unfinished])
    assert [copy[50:] for copy in sent.copies[b.CORE]] == inner
    assert box.forwarder.statistics().trains == 1


@pytest.mark.parametrize("size", [1, 22, 900, 21600, 32450, 32451, 65400])
def test_a_vms_train_is_smaller_than_64_kb(size: int) -> None:
    inner = [datagram(i, size) for i in range(130 if size < 1000 else 4)]
    copies, (_, n_copies) = vm_sends(inner, TO_NETWORK[0])
    assert [copy[50:] for copy in copies] == inner
    assert (n_copies > 0) is (size <= 32450)


# --- to a VM ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("made", [datagram, segment], ids=["udp", "tcp"])
def test_frames_that_a_kernel_would_cut_from_one_go_to_a_vm_as_one(made: Made, version: int) -> None:
    inner = [made(i, 100, version) for i in range(44)]
    assert vm_gets(inner) == (inner, (1, 44))


def test_a_vm_gets_what_another_vm_beside_it_sends_as_one() -> None:
    inner = [datagram(i, 100) for i in range(44)]
    box = Compiled(b.EDGE, (b.of_number(b.NVE, b.VNI, b.at_vm(b.VM_GREEN)),), trains=ALL)
    sent = box.forward_batch([(b.VM_BLUE, Frame(one)) for one in inner])
    assert list(sent.copies[b.VM_GREEN]) == inner
    assert box.forwarder.statistics().trains == 1


def wrong(data: bytes, at: int) -> bytes:
    """A frame with one byte changed."""
    return data[:at] + bytes((data[at] ^ 0x5A,)) + data[at + 1 :]


def summing_to_zero(checksum: int) -> bytes:
    """A datagram whose right checksum is 0, and so is written 0xffff."""
    one = datagram(5, 100)
    end = int.from_bytes(one[-2:], "big") + int.from_bytes(one[40:42], "big")
    one = one[:-2] + ((end & 0xFFFF) + (end >> 16)).to_bytes(2, "big")
    return one[:40] + checksum.to_bytes(2, "big") + one[42:]


def short_of(version: int) -> bytes:
    """A datagram whose IP header says one byte less than there is, and whose checksums are right."""
    body = datagram(5, 100, version)[34 if version == 4 else 54 :]
    return frame(body, f.UDP, version, ident=0xFFF5, length=len(body) + (19 if version == 4 else -1))


ODD: dict[str, bytes] = {
    "identification": datagram(5, 100, ident=1),
    "same_identification": datagram(5, 100, ident=0xFFF4),
    "no_checksum": datagram(5, 100, checksum=f.ZERO),
    "wrong_checksum": datagram(5, 100, checksum=0x1234),
    "wrong_payload": wrong(datagram(5, 100), 90),
    "wrong_header_checksum": datagram(5, 100)[:24] + b"\xff\xff" + datagram(5, 100)[26:],
    "udp_length": datagram(5, 100, length=100),
    "padded": datagram(5, 98) + b"\0\0",
    "ttl": datagram(5, 100, ttl=9),
    "tos": datagram(5, 100, tos=4),
    "may_be_cut": datagram(5, 100, flags=0),
    "options": datagram(5, 96, options=b"\x01\x01\x01\x01"),
    "zero_for_no_checksum": summing_to_zero(0),
    "ip_length": short_of(4),
    "tag": datagram(5, 96, tags=[(f.TAG, 5)]),
}
ODD_TCP: dict[str, bytes] = {
    "sequence": segment(5, 100, at=501),
    "acknowledged": segment(5, 100, ack=78),
    "window": segment(5, 100, window=500),
    "urgent": segment(5, 100, flags=0x30, urgent=4),
    "reduced": segment(5, 100, flags=0x90),
    "reset": segment(5, 100, flags=0x14),
    "timestamp": segment(5, 100, options=b"\x01\x01\x08\x0a12345679"),
    "fewer_options": segment(5, 104, at=500, options=b"\x01\x01\x01\x01\x01\x01\x01\x01"),
    "wrong_tcp_checksum": segment(5, 100, checksum=0x4321),
}


ODD_6: dict[str, bytes] = {
    "payload_length": short_of(6),
    "hop_limit": datagram(5, 100, 6, ttl=9),
    "traffic_class": datagram(5, 100, 6, tos=4),
    "flow_label": datagram(5, 100, 6, flow_label=7),
}


@pytest.mark.parametrize("odd", [*ODD, *ODD_TCP, *ODD_6])
def test_a_frame_that_a_kernel_would_not_give_back_leaves_the_train(odd: str) -> None:
    """Those before it ride, and those behind it in another one."""
    made: Made = segment if odd in ODD_TCP else datagram
    inner = [made(i, 100, 6 if odd in ODD_6 else 4) for i in range(11)]
    inner[5] = {**ODD, **ODD_TCP, **ODD_6}[odd]
    got, (trains, n_copies) = vm_gets(inner)
    assert got == inner
    assert (trains, n_copies) == (2, 10)


@pytest.mark.parametrize(("flags", "trains"), [(PSH, (2, 11)), (FIN, (2, 11))], ids=["push", "fin"])
def test_a_segment_that_ends_what_was_written_ends_its_train(flags: int, trains: tuple[int, int]) -> None:
    inner = [segment(i, 100, flags=0x10 | (flags if i == 5 else 0)) for i in range(11)]
    assert vm_gets(inner) == (inner, trains)


@pytest.mark.parametrize("flags", [0x80, 0x20, 0x04, 0x02], ids=["cwr", "urg", "rst", "syn"])
def test_segments_that_all_have_a_flag_of_one_alone_go_one_by_one(flags: int) -> None:
    inner = [segment(i, 100, flags=0x10 | flags) for i in range(5)]
    assert vm_gets(inner) == (inner, (0, 0))


@pytest.mark.parametrize(("written", "trains"), [(0, (1, 11)), (0xFFFF, (2, 10))], ids=str)
def test_a_header_checksum_of_0_rides_and_0xffff_does_not(written: int, trains: tuple[int, int]) -> None:
    """Both sum up right; a kernel writes 0."""
    start = int.from_bytes(datagram(0, 100, ident=0)[24:26], "big") - 5
    inner = [datagram(i, 100, ident=start + i) for i in range(11)]
    assert inner[5][24:26] == bytes(2)
    inner[5] = inner[5][:24] + written.to_bytes(2, "big") + inner[5][26:]
    assert vm_gets(inner) == (inner, trains)


def test_all_segments_may_push() -> None:
    inner = [segment(i, 100, flags=0x10 | PSH) for i in range(5)]
    assert vm_gets(inner) == (inner, (0, 0))


def test_a_shorter_frame_ends_a_vms_train_too() -> None:
    inner = [datagram(i, 60 if i == 5 else 100) for i in range(11)]
    assert vm_gets(inner) == (inner, (2, 11))


def test_a_checksum_of_0xffff_rides() -> None:
    inner = [datagram(4, 100), summing_to_zero(0xFFFF), datagram(6, 100)]
    assert vm_gets(inner) == (inner, (1, 3))


def test_a_longer_frame_begins_a_vms_train() -> None:
    inner = [datagram(i, 101 if i == 5 else 100) for i in range(11)]
    assert vm_gets(inner) == (inner, (3, 11))


@pytest.mark.parametrize("knobs", [{"flags": 1}, {"offset": 3}], ids=str)
def test_a_fragment_goes_by_itself(knobs: dict[str, Any]) -> None:
    """It is a flow of its own: nobody looks for ports in it."""
    inner = [datagram(i, 96, **(knobs if i == 5 else {})) for i in range(11)]
    got, trains = vm_gets(inner)
    assert (sorted(got), trains) == (sorted(inner), (2, 10))


@pytest.mark.parametrize("size", [0, 1])
def test_frames_without_payload_go_one_by_one(size: int) -> None:
    inner = [made(i, size) for made in (datagram, segment) for i in range(5)]
    assert vm_gets(inner) == (inner, (0, 0) if size == 0 else (2, 10))


def test_a_frame_over_the_mtu_of_a_vm_is_refused_and_the_shorter_last_one_goes() -> None:
    inner = [datagram(i, 100) for i in range(4)] + [datagram(4, 50)]
    assert vm_gets(inner, mtu=120) == (inner[4:], (0, 0))


def test_only_a_vm_port_that_takes_trains_gets_them() -> None:
    inner = [datagram(i, 100) for i in range(5)]
    assert vm_gets(inner, trains=(b.P0,)) == (inner, (0, 0))


def test_two_vms_get_the_same_train() -> None:
    inner = [datagram(i, 100) for i in range(5)]
    box = Compiled(b.BOX, b.of_only(b.at_vm(b.VM_GREEN), b.at_vm(b.VM_BLUE)), trains=ALL)
    arrivals: list[Arrival] = [
        (b.P1, Frame(f.wire(f.vxlan_packet(one, b.VTEP, b.GROUP, b.VNI)))) for one in inner
    ]
    sent = box.forward_batch(arrivals)
    assert list(sent.copies[b.VM_GREEN]) == list(sent.copies[b.VM_BLUE]) == inner
    assert box.forwarder.statistics().trains == 2


@pytest.mark.parametrize("seed", range(3))
def test_whatever_comes_a_vm_gets_the_very_bytes_in_order(seed: int) -> None:
    """Flows of both kinds and versions, odd frames among them, byte by byte damaged ones too."""
    rng = random.Random(seed)
    inner: list[bytes] = []
    while len(inner) < 400:
        made, version = rng.choice((datagram, segment)), rng.choice((4, 6))
        size = rng.choice((1, 20, 99, 500))
        for place in range(rng.randrange(2, 20)):
            one = made(place, size if chance(rng, 95) else rng.randrange(size + 1), version)
            if chance(rng, 8):
                one = rng.choice(list({**ODD, **ODD_TCP}.values()))
            if chance(rng, 8):
                one = wrong(one, rng.randrange(len(one)))
            inner.append(one)
    got, (_, n_copies) = vm_gets(inner)
    assert n_copies > 150
    assert sorted(got) == sorted(inner)
    assert by_flow(got) == by_flow(inner)


def by_flow(frames: list[bytes]) -> dict[int, list[bytes]]:
    out: dict[int, list[bytes]] = {}
    for one in frames:
        out.setdefault(inner_headers(one, 0, len(one))[1], []).append(one)
    return out


def test_an_outer_address_of_our_own_is_named() -> None:
    """The made header of a VM's frame needs it: without, nothing leaves, and nothing rides."""
    nameless = b.at_peer(b.CORE, b.PEER, Form.REWRITE, None, encap=Encap.VXLAN)
    copies, trains = vm_sends([datagram(i, 100) for i in range(5)], nameless)
    assert (copies, trains) == ((), (0, 0))

"""The XDP program decides as the specification of our claims does: BPF_PROG_TEST_RUN, frame by frame."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastpath import bpf
from fastpath.claims import Claims, is_consumed
from fastpath.redirect import reason_against, receive_queues, redirect_program
from tests import frames as f
from tests.cases import box as b
from tests.cases import made as m

needs_bpf = pytest.mark.skipif(bpf.available() is not None, reason=str(bpf.available()))

CLAIMS = Claims((4789, 8472), tuple(ip_address(one) for one in (b.OWN, b.OWN6, "10.0.0.7", "2001:db8::1:1")))
TEST_RUN = 10
TUNNEL = f.vxlan_packet(m.TENANT, b.VTEP, b.GROUP, b.VNI)


def run(program: int, frame: bytes) -> int:
    """What the program says about a frame."""
    data = ctypes.create_string_buffer(frame, len(frame))
    attributes = ctypes.create_string_buffer(
        struct.pack("<IIIIQQIIIIQQ", program, 0, len(frame), 0, ctypes.addressof(data), 0, 1, 0, 0, 0, 0, 0)
    )
    bpf_number = bpf._CALL_NUMBERS[os.uname().machine]
    assert bpf._libc.syscall(bpf_number, TEST_RUN, attributes, 64) == 0, os.strerror(ctypes.get_errno())
    verdict: int = struct.unpack_from("<I", attributes.raw, 4)[0]
    return verdict


@pytest.fixture(scope="module")
def claims_frame() -> Iterator[Callable[[bytes], bool]]:
    """Does the program claim a frame? Its map is empty, and it is made to drop then, for us to see."""
    sockets = bpf.create_map(bpf.MapKind.XSKMAP, 4, 4, 1, "fp_test")
    program = redirect_program(CLAIMS, sockets)
    at = program.index(bpf.mov(bpf.R3, bpf.XDP_PASS))
    program[at] = bpf.mov(bpf.R3, bpf.XDP_DROP)
    loaded = bpf.load_program(bpf.ProgramKind.XDP, program, "fp_test")
    yield lambda frame: run(loaded, frame) == bpf.XDP_DROP
    os.close(loaded)
    os.close(sockets)


def tagged(frame: bytes, tpid: int, tci: int) -> bytes:
    return frame[:12] + struct.pack(">HH", tpid, tci) + frame[12:]


def frames() -> dict[str, bytes]:
    made = {
        "to a group": f.wire(TUNNEL),
        "to us": f.wire(f.vxlan_packet(m.TENANT, b.VTEP, b.OWN, b.VNI)),
        "to our other address": f.wire(f.vxlan_packet(m.TENANT, b.VTEP, "10.0.0.7", b.VNI)),
        "to another": f.wire(f.vxlan_packet(m.TENANT, b.VTEP, b.PEER, b.VNI)),
        "to a group, IPv6": f.wire(f.vxlan_packet(m.TENANT, b.VTEP6, b.GROUP6, b.VNI)),
        "to us, IPv6": f.wire(f.vxlan_packet(m.TENANT, b.VTEP6, b.OWN6, b.VNI)),
        "to another, IPv6": f.wire(f.vxlan_packet(m.TENANT, b.VTEP6, b.PEER6, b.VNI)),
        "nvgre": f.wire(f.nvgre_packet(m.TENANT, b.VTEP, b.GROUP, b.VSID)),
        "nothing": b"",
    }
    made |= {f"{name}, priority tag": tagged(frame, 0x8100, 0xE000) for name, frame in made.items() if frame}
    made |= {
        "a VLAN": tagged(f.wire(TUNNEL), 0x8100, 5),
        "a service VLAN": tagged(f.wire(TUNNEL), 0x88A8, 0),
        "a packet of version 5": f.wire(TUNNEL)[:14] + b"\x55" + f.wire(TUNNEL)[15:],
        "two tags": tagged(tagged(f.wire(TUNNEL), 0x8100, 0), 0x8100, 0),
    }
    return made


KNOWN = frames()


@needs_bpf
@pytest.mark.parametrize("name", [name for name, frame in KNOWN.items() if len(frame) > 14])
def test_the_program_claims_what_the_specification_claims_whole_and_cut_anywhere(name, claims_frame):
    frame = KNOWN[name]
    for size in (*range(15, min(len(frame), 90)), len(frame)):
        assert claims_frame(frame[:size]) == is_consumed(CLAIMS, frame[:size]), size


@needs_bpf
def test_the_cases_are_claimed_for_a_reason():
    claimed = {name for name, frame in KNOWN.items() if is_consumed(CLAIMS, frame)}
    assert {"to a group", "to us", "to us, IPv6", "nvgre", "a service VLAN", "to us, priority tag"} <= claimed
    assert not claimed & {"to another", "to another, IPv6", "a VLAN", "two tags", "a packet of version 5"}


@needs_bpf
@settings(
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    name=st.sampled_from([name for name, frame in KNOWN.items() if frame]),
    changes=st.lists(st.tuples(st.integers(12, 63), st.integers(0, 255)), max_size=3),
)
def test_the_program_and_the_specification_agree_on_damaged_frames(name, changes, claims_frame):
    frame = bytearray(KNOWN[name])
    for at, value in changes:
        frame[at] = value
    assert claims_frame(bytes(frame)) == is_consumed(CLAIMS, bytes(frame))


@needs_bpf
def test_the_largest_claims_make_a_program_that_the_kernel_takes():
    addresses = tuple(ip_address(f"2001:db8::{number:x}") for number in range(1, 65))
    sockets = bpf.create_map(bpf.MapKind.XSKMAP, 4, 4, 1, "fp_test")
    try:
        claims = Claims(tuple(range(5000, 5016)), addresses)
        os.close(bpf.load_program(bpf.ProgramKind.XDP, redirect_program(claims, sockets), "fp_test"))
    finally:
        os.close(sockets)


def test_an_interface_is_asked_for_its_queues_and_what_speaks_against_it():
    assert receive_queues("lo") == [0]
    assert reason_against("lo") is None
    with pytest.raises(OSError, match="ethtool on nosuch0"):
        receive_queues("nosuch0")

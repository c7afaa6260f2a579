"""The eBPF assembler against encodings known from elsewhere, and bpf(2) where it is permitted."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from fastpath import bpf
from fastpath.bpf import BYTE, DOUBLE, HALF, R0, R1, R2, R6, R10, WORD, Label, MapKind, ProgramKind

needs_bpf = pytest.mark.skipif(bpf.available() is not None, reason=str(bpf.available()))

# By hand from RFC 9669 (BPF ISA): opcode, source << 4 | target, offset, immediate.
KNOWN = {
    "mov of a number": (bpf.mov(R0, 2), "b7 00 0000 02000000"),
    "mov of a register": (bpf.mov(R6, R1), "bf 16 0000 00000000"),
    "a negative number": (bpf.alu("add", R2, -8), "07 02 0000 f8ffffff"),
    "32 bits": (bpf.alu("and", R1, 0xF0, 32), "54 01 0000 f0000000"),
    "a shift by a register": (bpf.alu("<<", R1, R2), "6f 21 0000 00000000"),
    "load byte": (bpf.load(BYTE, R0, R2, 14), "71 20 0e00 00000000"),
    "load half": (bpf.load(HALF, R0, R2, 12), "69 20 0c00 00000000"),
    "load word": (bpf.load(WORD, R2, R1), "61 12 0000 00000000"),
    "load double": (bpf.load(DOUBLE, R2, R10, -8), "79 a2 f8ff 00000000"),
    "store a register": (bpf.store(DOUBLE, R0, 8, R1), "7b 10 0800 00000000"),
    "store a number": (bpf.store(WORD, R10, -4, 7), "62 0a fcff 07000000"),
    "call": (bpf.call(bpf.HELPER_MAP_LOOKUP), "85 00 0000 01000000"),
    "leave": (bpf.leave(), "95 00 0000 00000000"),
    "map": (bpf.load_map(R1, 5), "18 11 0000 05000000 0000000000000000"),
}


@pytest.mark.parametrize("line", KNOWN)
def test_an_instruction_is_encoded_as_the_standard_says(line):
    instruction, known = KNOWN[line]
    assert bpf.assemble([instruction]) == bytes.fromhex(known)


def test_jumps_count_from_the_next_instruction_and_a_map_counts_twice():
    code = bpf.assemble(
        [
            Label("again"),
            bpf.jump("end", "==", R0, 0),
            bpf.load_map(R1, 3),
            bpf.jump("end", ">", R1, R2, bits=32),
            bpf.jump("again"),
            Label("end"),
            bpf.leave(),
        ]
    )
    assert code[:8] == bytes.fromhex("15 00 0400 00000000")
    assert code[24:32] == bytes.fromhex("2e 21 0100 00000000")
    assert code[32:40] == bytes.fromhex("05 00 fbff 00000000")


def test_a_program_with_a_wrong_label_or_number_is_refused():
    with pytest.raises(ValueError, match="label 'nowhere'"):
        bpf.assemble([bpf.jump("nowhere")])
    with pytest.raises(ValueError, match="'here' stands twice"):
        bpf.assemble([Label("here"), Label("here")])
    with pytest.raises(ValueError, match="no number of 32 bits"):
        bpf.assemble([bpf.mov(R0, 1 << 32)])


@needs_bpf
def test_a_refusal_carries_what_the_verifier_said():
    with pytest.raises(OSError, match="program 'fp_bad' of 1 instructions was refused") as caught:
        bpf.load_program(ProgramKind.XDP, [bpf.leave()], "fp_bad")
    assert "R0 !read_ok" in str(caught.value)
    assert caught.value.errno == errno.EACCES


@needs_bpf
def test_a_map_gives_back_what_was_put_in():
    fd = bpf.create_map(MapKind.ARRAY, 4, 8, 3, "fp_test")
    try:
        bpf.map_update(fd, struct.pack("<I", 2), b"12345678")
        assert bpf.map_lookup(fd, struct.pack("<I", 2), 8) == b"12345678"
        assert bpf.map_lookup(fd, struct.pack("<I", 0), 8) == bytes(8)
        with pytest.raises(KeyError):
            bpf.map_lookup(fd, struct.pack("<I", 3), 8)
    finally:
        os.close(fd)


@needs_bpf
def test_a_map_per_cpu_has_a_value_for_each_possible_one():
    size = 8 * bpf.possible_cpus()
    fd = bpf.create_map(MapKind.PERCPU_ARRAY, 4, 8, 1, "fp_test")
    try:
        value = struct.pack(f"<{bpf.possible_cpus()}Q", *range(1, bpf.possible_cpus() + 1))
        bpf.map_update(fd, bytes(4), value)
        assert bpf.map_lookup(fd, bytes(4), size) == value
    finally:
        os.close(fd)


@needs_bpf
def test_a_program_that_no_interface_takes_is_a_clear_error():
    fd = bpf.load_program(ProgramKind.XDP, [bpf.mov(R0, bpf.XDP_PASS), bpf.leave()], "fp_test")
    try:
        with pytest.raises(OSError, match="no XDP program on number 2147483647"):
            bpf.attach_xdp(fd, 0x7FFFFFFF)
    finally:
        os.close(fd)


def test_a_name_that_the_kernel_would_cut_is_refused():
    with pytest.raises(ValueError, match="the kernel keeps 15"):
        bpf.create_map(MapKind.ARRAY, 4, 4, 1, "sixteen_letters_")

"""The innermost functions, which check nothing: each against a slow twin, at every size and alignment."""

from __future__ import annotations

import random

import pytest

from tests.native import _wire as wire

RNG = random.Random(6)
ALIGNMENTS = range(9)


def slow_sum(data: bytes) -> int:
    """RFC 1071: the words, the last one padded, folded into 16 bits."""
    padded = data + bytes(len(data) % 2)
    total = sum(int.from_bytes(padded[i : i + 2], "big") for i in range(0, len(padded), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@pytest.mark.parametrize("fill", [None, 0, 0xFF])
def test_a_sum_is_that_of_the_words_at_every_size_and_alignment(fill):
    for size in (*range(140), 511, 512, 1499, 9001, 65535):
        data = RNG.randbytes(size) if fill is None else bytes((fill,)) * size
        want = slow_sum(data)
        assert {wire.sum_of(data, offset) for offset in ALIGNMENTS} == {want}


def test_the_sum_of_an_ipv4_header_is_that_of_its_words():
    for data in (*(RNG.randbytes(20) for _ in range(500)), b"\xff" * 20, bytes(20)):
        assert {wire.sum20_of(data, offset) for offset in ALIGNMENTS} == {slow_sum(data)}


def test_a_copy_is_whole_and_touches_nothing_around_it_at_every_size():
    around = b"\x5a" * 64
    for size in range(600):
        data = RNG.randbytes(size)
        for offset in (0, 1, 7):
            assert wire.copy_of(data, offset, 3 * offset) == around + data + around


def test_what_is_stored_is_big_endian_and_loads_again_at_every_alignment():
    for size in (2, 4, 8):
        for offset in ALIGNMENTS:
            value = RNG.getrandbits(8 * size)
            assert wire.stored(size, value, offset) == (value.to_bytes(size, "big"), value)


def folded(total: int) -> int:
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_a_fold_ends_in_16_bits_for_every_sum():
    edges = [0, 1, 0xFFFF, 0x10000, 0x1FFFE, 0xFFFEFFFF, 0xFFFF0000, 0xFFFFFFFF]
    wide = [0x00010000_FFFFFFFF, 0xFFFFFFFF_FFFFFFFF, 0xFFFF_00000000_0001, 0x1_00000000, 0xFFFFFFFE_FFFFFFFF]
    for total in (*edges, *(RNG.getrandbits(32) for _ in range(2000))):
        assert wire.fold32(total) == wire.fold(total) == folded(total)
    for total in (*wide, *(RNG.getrandbits(64) for _ in range(2000))):
        assert wire.fold(total) == folded(total)


def test_a_checksum_is_the_complement_and_never_zero_in_udp():
    """RFC 768."""
    assert wire.checksums(0xFFFF) == (0, 0xFFFF)
    assert wire.checksums(0) == (0xFFFF, 0xFFFF)
    assert wire.checksums(0x1234_5678) == (0xFFFF - folded(0x12345678),) * 2


@pytest.mark.parametrize("udp", [False, True])
def test_an_updated_checksum_is_the_one_computed_anew(udp: bool):
    """RFC 1624, whose point is that all words zero and all ones do not meet."""
    for _ in range(4000):
        words = [RNG.choice((0, 0xFFFF, 1, 0xFFFE, RNG.randrange(65536))) for _ in range(4)] + [0x0011]
        old, new = words[0], RNG.choice((0, 0xFFFF, 1, RNG.randrange(65536)))
        before, after = 0xFFFF - folded(sum(words)), 0xFFFF - folded(sum(words[1:]) + new)
        if udp:
            before, after = before or 0xFFFF, after or 0xFFFF
        assert wire.updated(before, old, new, udp) == after


def test_a_udp_checksum_of_zero_stays_zero():
    assert wire.updated(0, 0x1234, 0x4321, True) == 0


def test_the_ecn_field_inside_is_that_of_rfc_6040():
    """RFC 6040 section 4.2, figure 4: rows are the inner field, columns the outer; its drop is elsewhere."""
    not_ect, ect1, ect0, ce = range(4)
    figure = {
        not_ect: {not_ect: not_ect, ect0: not_ect, ect1: not_ect, ce: not_ect},
        ect0: {not_ect: ect0, ect0: ect0, ect1: ect1, ce: ce},
        ect1: {not_ect: ect1, ect0: ect1, ect1: ect1, ce: ce},
        ce: {not_ect: ce, ect0: ce, ect1: ce, ce: ce},
    }
    assert {i: {o: wire.ecn(o, i) for o in row} for i, row in figure.items()} == figure

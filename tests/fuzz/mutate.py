"""Ways to spoil a frame, and to mend what would stop it early.

Most random damage ends at a length or a checksum. So after the mutations the lengths and checksums of the
headers are mended more often than not: what is still wrong behind them is then reached.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from tests import frames as f

INTERESTING = (
    0,
    1,
    2,
    4,
    5,
    7,
    8,
    0x0F,
    0x10,
    0x1F,
    0x20,
    0x40,
    0x45,
    0x46,
    0x4F,
    0x60,
    0x7F,
    0x80,
    0xE0,
    0xEF,
    0xFE,
    0xFF,
)
WORDS = (
    0,
    1,
    7,
    8,
    0x13,
    0x14,
    0x0800,
    0x86DD,
    0x8100,
    0x88A8,
    0x6558,
    0x12B5,
    0x1292,
    0x2118,
    0x2000,
    0x7FFF,
    0x8000,
    0xFFFF,
)
HEADERS = 128
"""Three mutations of four fall into this many first bytes."""


def somewhere(rng: random.Random, data: bytearray, size: int = 1) -> int:
    """A place for `size` bytes, mostly in the headers; the frame is long enough."""
    room = len(data) - size + 1
    return rng.randrange(min(room, HEADERS) if rng.random() < 0.75 else room)


def flip_bits(rng: random.Random, data: bytearray) -> None:
    for _ in range(1 + int(rng.random() * 4)):
        data[somewhere(rng, data)] ^= 1 << int(rng.random() * 8)


def set_byte(rng: random.Random, data: bytearray) -> None:
    data[somewhere(rng, data)] = rng.choice(INTERESTING)


def set_word(rng: random.Random, data: bytearray) -> None:
    at = somewhere(rng, data, 2) & ~1
    data[at : at + 2] = rng.choice(WORDS).to_bytes(2, "big")


def add_to_word(rng: random.Random, data: bytearray) -> None:
    """What length fields suffer from: a little more, a little less."""
    at = somewhere(rng, data, 2) & ~1
    value = int.from_bytes(data[at : at + 2], "big") + rng.choice((-20, -8, -4, -1, 1, 4, 8, 20, 40))
    data[at : at + 2] = (value & 0xFFFF).to_bytes(2, "big")


def cut(rng: random.Random, data: bytearray) -> None:
    del data[int(rng.random() * (len(data) + 1)) :]


def extend(rng: random.Random, data: bytearray) -> None:
    data += rng.randbytes(1 + int(rng.random() * (8 if rng.random() < 0.8 else 3000)))


def insert(rng: random.Random, data: bytearray) -> None:
    at = somewhere(rng, data)
    data[at:at] = rng.randbytes(rng.choice((1, 2, 4, 8, 20)))


def remove(rng: random.Random, data: bytearray) -> None:
    at = somewhere(rng, data)
    del data[at : at + rng.choice((1, 2, 4, 8, 20))]


def tag(rng: random.Random, data: bytearray) -> None:
    data[12:12] = rng.choice((b"\x81\x00\x00\x05", b"\x88\xa8\x60\x07"))


MUTATIONS: Sequence[Callable[[random.Random, bytearray], None]] = (
    flip_bits,
    flip_bits,
    set_byte,
    set_byte,
    set_word,
    add_to_word,
    cut,
    extend,
    insert,
    remove,
    tag,
)


def splice(rng: random.Random, one: bytes, other: bytes) -> bytearray:
    """The beginning of one frame and the end of another."""
    at = int(rng.random() * (len(one) + 1))
    return bytearray(one[:at] + other[max(0, at + rng.choice((0, 0, -8, 8, -20, 20, 14))) :])


def mutate(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One seed, spoiled, and mostly mended."""
    data = bytearray(rng.choice(seeds))
    chance = rng.random()
    if chance < 0.06:
        return bytes(data)
    if chance < 0.12:
        data = splice(rng, bytes(data), rng.choice(seeds))
    for _ in range(1 + int(rng.random() * 3)):
        if len(data) > 2:
            rng.choice(MUTATIONS)(rng, data)
    if rng.random() < 0.7:
        mend(data, 14, len(data), lengths=rng.random() < 0.7)
    return bytes(data)


def ones_sum(data: bytes | bytearray) -> int:
    """The ones' complement sum, 0 for 65535: 2^16 is 1 modulo 65535, so a large number is its words' sum."""
    return int.from_bytes(data if len(data) % 2 == 0 else data + b"\0", "big") % 65535


def mend(data: bytearray, at: int, end: int, *, lengths: bool, depth: int = 0) -> None:
    """Mend the IP packet at `at` and the UDP datagram in it; of a nested tunnel first what is inside."""
    while depth == 0 and at < 22 and bytes(data[at - 2 : at]) in {b"\x81\x00", b"\x88\xa8"}:
        at += 4
    if at + 20 > end:
        return
    version = data[at] >> 4
    if version == 4:
        transport = at + (data[at] & 15) * 4
        if lengths and transport <= end:
            data[at + 2 : at + 4] = min(end - at, 0xFFFF).to_bytes(2, "big")
        protocol, addresses = data[at + 9], slice(at + 12, at + 20)
    elif version == 6 and at + 40 <= end:
        transport = at + 40
        if lengths:
            data[at + 4 : at + 6] = min(end - transport, 0xFFFF).to_bytes(2, "big")
        protocol, addresses = data[at + 6], slice(at + 8, at + 40)
    else:
        return
    if protocol == f.UDP and transport + 8 <= end:
        mend_udp(data, transport, end, addresses, lengths=lengths, depth=depth)
    if version == 4 and at + 20 <= transport <= end:
        data[at + 10 : at + 12] = b"\0\0"
        data[at + 10 : at + 12] = (0xFFFF - ones_sum(data[at:transport])).to_bytes(2, "big")


def mend_udp(data: bytearray, at: int, end: int, addresses: slice, *, lengths: bool, depth: int) -> None:
    """Mend a datagram's length, and its checksum unless that is zero."""
    if lengths:
        data[at + 4 : at + 6] = min(end - at, 0xFFFF).to_bytes(2, "big")
    if data[at + 2 : at + 4] == b"\x12\x92" and depth == 0 and at + 12 < end:
        mend(data, at + 12, end, lengths=lengths, depth=1)
    size = int.from_bytes(data[at + 4 : at + 6], "big")
    if data[at + 6 : at + 8] != b"\0\0" and at + size <= end:
        data[at + 6 : at + 8] = b"\0\0"
        total = ones_sum(data[addresses]) + f.UDP + size + ones_sum(data[at : at + size])
        data[at + 6 : at + 8] = ((0xFFFF - total % 65535) or 0xFFFF).to_bytes(2, "big")

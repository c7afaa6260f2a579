"""The innermost functions, each on memory of exactly the size it may touch: the sanitizer watches what is around."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from fastpath._normalise cimport ecn_inside
from fastpath._wire cimport (
    wire_checksum, wire_copy, wire_fold, wire_fold32, wire_load_be16, wire_load_be32, wire_load_be64, wire_store_be16,
    wire_store_be32, wire_store_be64, wire_sum, wire_sum20, wire_udp_checksum, wire_update_checksum, wire_update_udp_checksum,
)


cdef uint8_t *held(bytes data, uint32_t offset) except NULL:
    """A copy of `data` at `offset` bytes from an aligned place, with nothing behind it."""
    cdef uint8_t *memory = <uint8_t *>malloc(offset + len(data) + (1 if not data else 0))
    if memory == NULL:
        raise MemoryError
    memset(memory, 0xa5, offset)
    memcpy(memory + offset, <const uint8_t *>data, len(data))
    return memory


def sum_of(bytes data not None, uint32_t offset):
    """wire_sum of `data`, which begins `offset` bytes behind an aligned place."""
    cdef uint8_t *memory = held(data, offset)
    out = wire_sum(memory + offset, <uint32_t>len(data))
    free(memory)
    return out


def sum20_of(bytes data not None, uint32_t offset):
    """wire_sum20 of 20 bytes."""
    cdef uint8_t *memory = held(data, offset)
    assert len(data) == 20
    out = wire_sum20(memory + offset)
    free(memory)
    return out


def copy_of(bytes data not None, uint32_t from_offset, uint32_t to_offset):
    """wire_copy of `data`: the copy with the 64 bytes around it on either side, which were 0x5a."""
    cdef uint32_t size = <uint32_t>len(data)
    cdef uint8_t *source = held(data, from_offset)
    cdef uint8_t *target = <uint8_t *>malloc(128 + to_offset + size)
    memset(target, 0x5a, 128 + to_offset + size)
    wire_copy(target + 64 + to_offset, source + from_offset, size)
    out = target[to_offset:to_offset + 128 + size]
    free(source)
    free(target)
    return out


def stored(uint32_t size, uint64_t value, uint32_t offset):
    """(bytes, value loaded again) of a store of 2, 4 or 8 bytes."""
    cdef uint8_t *memory = held(bytes(size), offset)
    cdef uint8_t *at = memory + offset
    cdef uint64_t loaded
    if size == 2:
        wire_store_be16(at, <uint16_t>value)
        loaded = wire_load_be16(at)
    elif size == 4:
        wire_store_be32(at, <uint32_t>value)
        loaded = wire_load_be32(at)
    else:
        wire_store_be64(at, value)
        loaded = wire_load_be64(at)
    out = at[:size], loaded
    free(memory)
    return out


def fold(uint64_t total):
    """wire_fold."""
    return wire_fold(total)


def fold32(uint32_t total):
    """wire_fold32."""
    return wire_fold32(total)


def checksums(uint64_t total):
    """(wire_checksum, wire_udp_checksum) of a sum."""
    return wire_checksum(total), wire_udp_checksum(total)


def updated(uint16_t field, uint32_t old, uint32_t new, bint udp):
    """A checksum field after words that summed to `old` sum to `new`."""
    cdef uint8_t memory[2]
    wire_store_be16(memory, field)
    if udp:
        wire_update_udp_checksum(memory, old, new)
    else:
        wire_update_checksum(memory, old, new)
    return wire_load_be16(memory)


def ecn(uint8_t outer, uint8_t inner):
    """ecn_inside: the ECN field to deliver."""
    return ecn_inside(outer, inner)

# The only code that indexes raw bytes: unaligned big-endian loads and stores, and ones' complement sums.
#
# Law: nothing here checks bounds. A caller has compared the offset with the frame's size first (`_decap.pxd`
# does so header by header); the sanitizer build checks that it did.
#
# Sums are kept in the value domain (big-endian words as integers), at most 48 bits wide, and folded once.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from * nogil:
    """
    #include <stdint.h>
    #include <string.h>
    static inline uint16_t wire_load_be16(const uint8_t *p) { uint16_t v; memcpy(&v, p, 2); return __builtin_bswap16(v); }
    static inline uint32_t wire_load_be32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return __builtin_bswap32(v); }
    static inline uint64_t wire_load_be64(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return __builtin_bswap64(v); }
    static inline void wire_store_be16(uint8_t *p, uint16_t v) { v = __builtin_bswap16(v); memcpy(p, &v, 2); }
    static inline void wire_store_be32(uint8_t *p, uint32_t v) { v = __builtin_bswap32(v); memcpy(p, &v, 4); }
    static inline void wire_store_be64(uint8_t *p, uint64_t v) { v = __builtin_bswap64(v); memcpy(p, &v, 8); }

    static inline uint16_t wire_fold(uint64_t sum) {
        sum = (sum & 0xffffffffu) + (sum >> 32);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        return (uint16_t)sum;
    }

    /* As wire_fold, for sums below 2^32. */
    static inline uint16_t wire_fold32(uint32_t sum) {
        sum = (sum & 0xffff) + (sum >> 16);
        return (uint16_t)(sum + (sum >> 16));
    }

    /* wire_sum of an IPv4 header without options. */
    static inline uint32_t wire_sum20(const uint8_t *p) {  /* below 6 x 2^32: three folds do */
        uint64_t v, w;
        uint32_t x;
        memcpy(&v, p, 8);
        memcpy(&w, p + 8, 8);
        memcpy(&x, p + 16, 4);
        v = (v & 0xffffffffu) + (v >> 32) + (w & 0xffffffffu) + (w >> 32) + x;
        return __builtin_bswap16(wire_fold32((uint32_t)((v & 0xffff) + (v >> 16 & 0xffff) + (v >> 32))));
    }

    /* memcpy for what is mostly small: no call below 512 bytes. */
    static inline void wire_copy(uint8_t *to, const uint8_t *from, uint32_t size) {
        uint32_t at;
        if (size > 512 || size < 16) {
            memcpy(to, from, size);
            return;
        }
        for (at = 0; at + 64 <= size; at += 64) {
            memcpy(to + at, from + at, 16);
            memcpy(to + at + 16, from + at + 16, 16);
            memcpy(to + at + 32, from + at + 32, 16);
            memcpy(to + at + 48, from + at + 48, 16);
        }
        for (; at + 16 <= size; at += 16) memcpy(to + at, from + at, 16);
        memcpy(to + size - 16, from + size - 16, 16);
    }

    /* Ones' complement sum of `size` bytes, an odd last byte padded with zero; folded to 16 bits. */
    static inline uint32_t wire_sum(const uint8_t *p, uint32_t size) {
        uint64_t a = 0, b = 0, v, w;
        uint32_t tail;
        while (size >= 16) {
            memcpy(&v, p, 8);
            memcpy(&w, p + 8, 8);
            a += (v & 0xffffffffu) + (v >> 32);
            b += (w & 0xffffffffu) + (w >> 32);
            p += 16;
            size -= 16;
        }
        if (size >= 8) {
            memcpy(&v, p, 8);
            a += (v & 0xffffffffu) + (v >> 32);
            p += 8;
            size -= 8;
        }
        if (size) {
            v = 0;
            for (tail = 0; tail < size; tail++) v |= (uint64_t)p[tail] << (8 * tail);
            b += (v & 0xffffffffu) + (v >> 32);
        }
        return __builtin_bswap16(wire_fold((a & 0xffffffffu) + (a >> 32) + (b & 0xffffffffu) + (b >> 32)));
    }
    """
    void wire_prefetch "__builtin_prefetch"(const void *p) noexcept
    uint16_t wire_load_be16(const uint8_t *p) noexcept
    uint32_t wire_load_be32(const uint8_t *p) noexcept
    uint64_t wire_load_be64(const uint8_t *p) noexcept
    void wire_store_be16(uint8_t *p, uint16_t value) noexcept
    void wire_store_be32(uint8_t *p, uint32_t value) noexcept
    void wire_store_be64(uint8_t *p, uint64_t value) noexcept
    uint16_t wire_fold(uint64_t total) noexcept
    uint16_t wire_fold32(uint32_t total) noexcept
    uint32_t wire_sum20(const uint8_t *p) noexcept
    void wire_copy(uint8_t *to, const uint8_t *from_, uint32_t size) noexcept
    uint32_t wire_sum(const uint8_t *p, uint32_t size) noexcept


cdef inline uint16_t wire_checksum(uint64_t total) noexcept nogil:
    """The checksum field for a sum: its complement. For UDP see `wire_udp_checksum`."""
    return <uint16_t>~wire_fold(total)


cdef inline uint16_t wire_udp_checksum(uint64_t total) noexcept nogil:
    """As `wire_checksum`, but never 0, which in UDP would say that there is none (RFC 768)."""
    cdef uint16_t field = <uint16_t>~wire_fold(total)
    return field if field != 0 else 0xffff


cdef inline void wire_update_checksum(uint8_t *field, uint32_t old, uint32_t new) noexcept nogil:
    """Update a checksum field for words that summed to `old` and now sum to `new` (RFC 1624)."""
    cdef uint64_t total = <uint16_t>~wire_load_be16(field)
    total += <uint16_t>~wire_fold(old)
    total += new
    wire_store_be16(field, <uint16_t>~wire_fold(total))


cdef inline void wire_update_udp_checksum(uint8_t *field, uint32_t old, uint32_t new) noexcept nogil:
    """As `wire_update_checksum` for UDP: zero stays zero, and a sum of zero is written 0xffff."""
    if wire_load_be16(field) == 0:
        return
    wire_update_checksum(field, old, new)
    if wire_load_be16(field) == 0:
        wire_store_be16(field, 0xffff)

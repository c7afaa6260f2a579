# Tenants' own frames as one super-frame to their VM: where, and only where, segmentation gives back exactly these bytes.
#
# Law:
# 1. Segmentation (inet_gso_segment, __udp_gso_segment, tcp_gso_segment in Linux) repeats the head and sets in each segment the
#    lengths, the header checksum, the UDP or TCP checksum, and an IPv4 identification that counts up from the first.
#    For TCP it counts the sequence number up as well, and takes FIN and PSH from all but the last.
# 2. So a frame rides only if all of these are already what it would set: lengths that add up to the frame's end, checksums that
#    are right and, for UDP, not zero. Else a padded or damaged frame would be mended on the way.
# 3. A frame follows another one if the rest of their headers is equal, and what counts has counted on. All segments are of
#    one size, the last at most that.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from fastpath._frame cimport frame_t
from fastpath._ip cimport PROTO_TCP, PROTO_UDP, address_words_sum
from fastpath._port cimport train_t
from fastpath._wire cimport (
    wire_checksum, wire_fold, wire_load_be16, wire_load_be32, wire_store_be16, wire_sum, wire_sum20,
)

cdef enum:
    INNER_IP = 14
    TCP_FIN_PSH = 0x09
    TCP_UNFIT = 0xa6          # CWR, URG, RST, SYN


cdef inline uint32_t inner_transport(const uint8_t *at) noexcept nogil:
    """Where the transport header of a frame begins that `inner_fits`."""
    return 34 if at[INNER_IP] >> 4 == 4 else 54


cdef inline uint32_t inner_head_size(const uint8_t *at) noexcept nogil:
    """Bytes before the payload of a frame that `inner_fits`."""
    cdef uint32_t transport = inner_transport(at)
    return transport + (8 if at[23 if transport == 34 else 20] == PROTO_UDP else (at[transport + 12] >> 4) * 4)


cdef inline bint inner_fits(const frame_t *f) noexcept nogil:
    """Is every field that segmentation sets already what it would be? (2)"""
    cdef const uint8_t *at = f.data + f.inner
    cdef uint32_t size = f.inner_end - f.inner, transport, head, left, total
    cdef uint8_t protocol
    if f.inner_ip != f.inner + INNER_IP:
        return False
    if f.inner_version == 4:
        transport = 34
        protocol = at[23]
        if (
            at[INNER_IP] != 0x45 or wire_load_be16(at + 16) != size - INNER_IP or wire_load_be16(at + 20) & 0xbfff
            or wire_fold(wire_sum20(at + INNER_IP)) != 0xffff or wire_load_be16(at + 24) == 0xffff
        ):
            return False
    elif f.inner_version == 6:
        transport = 54
        protocol = at[20]
        if wire_load_be16(at + 18) != size - transport:
            return False
    else:
        return False
    left = size - transport
    if protocol == PROTO_UDP:
        if left <= 8 or wire_load_be16(at + transport + 4) != left or wire_load_be16(at + transport + 6) == 0:
            return False
    elif protocol == PROTO_TCP:
        if left <= 20:
            return False
        head = (at[transport + 12] >> 4) * 4
        if head < 20 or left <= head or at[transport + 13] & TCP_UNFIT or wire_load_be16(at + transport + 16) == 0xffff:
            return False
    else:
        return False
    total = address_words_sum(at + INNER_IP, f.inner_version) + protocol + left
    return wire_fold(<uint64_t>total + wire_sum(at + transport, left)) == 0xffff


cdef inline bint inner_follows(const frame_t *f, const frame_t *first, const frame_t *last, uint32_t place) noexcept nogil:
    """May a frame be segment `place` of a train, behind `last`? All of them fit. (3)"""
    cdef const uint8_t *at = f.data + f.inner
    cdef const uint8_t *one = first.data + first.inner
    cdef const uint8_t *before = last.data + last.inner
    cdef uint32_t size = f.inner_end - f.inner, whole = first.inner_end - first.inner, transport = inner_transport(one), head
    if size > whole or last.inner_end - last.inner != whole or memcmp(at, one, 16) != 0:
        return False
    if transport == 34:
        if (
            memcmp(at + 20, one + 20, 4) != 0 or memcmp(at + 26, one + 26, 12) != 0
            or wire_load_be16(at + 18) != <uint16_t>(wire_load_be16(one + 18) + place)
        ):
            return False
    elif memcmp(at + 16, one + 16, 2) != 0 or memcmp(at + 20, one + 20, 38) != 0:
        return False
    if one[23 if transport == 34 else 20] == PROTO_UDP:
        return True
    at += transport
    one += transport
    before += transport
    head = (one[12] >> 4) * 4
    return (
        memcmp(at + 8, one + 8, 5) == 0 and (at[13] ^ one[13]) & ~TCP_FIN_PSH == 0 and not before[13] & TCP_FIN_PSH
        and memcmp(at + 14, one + 14, 2) == 0 and memcmp(at + 18, one + 18, head - 18) == 0
        and wire_load_be32(at + 4) == <uint32_t>(wire_load_be32(one + 4) + place * (whole - transport - head))
    )


cdef inline void inner_train(train_t *train, const frame_t *first, const frame_t *last) noexcept nogil:
    """What the head of a train has to tell of its transport."""
    cdef const uint8_t *one = first.data + first.inner
    cdef uint32_t transport = inner_transport(one)
    train.protocol = one[23 if transport == 34 else 20]
    train.size = <uint8_t>(inner_head_size(one) - transport)
    train.last_flags = last.data[last.inner + transport + 13] if train.protocol == PROTO_TCP else 0


cdef inline uint32_t inner_head_write(uint8_t *out, const frame_t *f, const train_t *train, uint32_t train_size) noexcept nogil:
    """Write the head of a train whose first frame is `f`; returns its size."""
    cdef const uint8_t *at = f.data + f.inner
    cdef uint32_t transport = inner_transport(at), head = transport + train.size, left = train.size + train_size
    memcpy(out, at, head)
    if transport == 34:
        wire_store_be16(out + 16, <uint16_t>(20 + left))
        wire_store_be16(out + 24, 0)
        wire_store_be16(out + 24, wire_checksum(wire_sum20(out + INNER_IP)))
    else:
        wire_store_be16(out + 18, <uint16_t>left)
    if train.protocol == PROTO_UDP:
        wire_store_be16(out + transport + 4, <uint16_t>left)
    else:
        out[transport + 13] = train.last_flags
    wire_store_be16(
        out + transport + (6 if train.protocol == PROTO_UDP else 16),
        wire_fold(<uint64_t>address_words_sum(out + INNER_IP, f.inner_version) + train.protocol + left),
    )
    return head

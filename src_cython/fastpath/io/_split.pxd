# Super-frames cut into the frames that they stand for. Shared by the ports whose kernel hands them over whole.
#
# A super-frame is one set of headers and the payload of many packets; which kind, and how much of the payload goes
# into each, says the virtio_net_hdr beside it. Its headers end with that of the transport whose checksum is left to finish:
# the outer UDP header of a train, or the UDP or TCP header of a VM inside a tunnel. They are walked once, here, and each frame
# gets a copy of them with every length, identification and sequence number set right. The innermost checksum is left
# unfinished in every frame (the mark of LIMITS trap 12), for the data path to complete; a tunnel's UDP checksum that
# is not zero is made such that it is right once that is done, as the sum of a finished packet depends on its pseudo-header alone.
#
# Law: nothing is read or written that `split_begin` has not compared with `size`. What does not add up is not cut.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from fastpath._ip cimport (
    PORT_NESTED, PROTO_GRE, PROTO_TCP, PROTO_UDP, TYPE_BRIDGED, TYPE_IPV4, TYPE_IPV6, address_words_sum, is_tag,
)
from fastpath._wire cimport (
    wire_checksum, wire_fold, wire_load_be16, wire_load_be32, wire_store_be16, wire_store_be32, wire_sum, wire_udp_checksum,
)
from fastpath.io._linux cimport (
    VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_ECN, VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6,
    VIRTIO_NET_HDR_GSO_UDP_L4, virtio_net_hdr,
)

cdef enum:
    SPLIT_LEVELS_MAX = 3      # nested tunnel, overlay tunnel, the VM's own
    SPLIT_HEADS_MAX = 512     # more than the longest of three levels with options
    TCP_FIN_PSH = 0x09
    TCP_CWR = 0x80

cdef struct level_t:          # one IP header
    uint16_t ip
    uint16_t udp              # of the tunnel behind it; 0: the last level, or GRE
    uint8_t version

cdef struct split_t:
    const uint8_t *data       # NULL: nothing to cut
    uint32_t size
    uint32_t at               # payload that is cut so far ends here
    uint32_t n_cut
    uint16_t head_size
    uint16_t gso_size
    uint16_t start            # of the transport header
    uint16_t offset           # of its checksum
    uint8_t protocol
    uint8_t n_levels
    level_t levels[SPLIT_LEVELS_MAX]


cdef inline uint32_t split_tunnel(split_t *s, uint32_t at, uint8_t protocol, bint *is_ethernet) noexcept nogil:
    """Step over the tunnel header at `at`; where its packet or frame begins, 0 where we know no such tunnel."""
    cdef uint16_t kind
    if at + 16 > s.start:
        return 0
    kind = wire_load_be16(s.data + at + 2)
    is_ethernet[0] = True
    if protocol == PROTO_GRE:
        return at + 8 if wire_load_be16(s.data + at) == 0x2000 and kind == TYPE_BRIDGED else 0
    if protocol != PROTO_UDP:
        return 0
    s.levels[s.n_levels - 1].udp = <uint16_t>at
    if kind != PORT_NESTED:
        return at + 16
    is_ethernet[0] = False
    return at + 12 if wire_load_be16(s.data + at + 8) == 0 else 0


cdef inline bint split_levels(split_t *s) noexcept nogil:
    """Walk the headers down to the transport header at `start`."""
    cdef uint32_t at = 0
    cdef uint16_t ethertype
    cdef level_t *level
    cdef bint is_ethernet = True
    while s.n_levels < SPLIT_LEVELS_MAX:
        if is_ethernet:
            at += 12
            while at + 6 <= s.start and is_tag(wire_load_be16(s.data + at)):
                at += 4
            at += 2
        if at + 20 > s.start:
            return False
        level = &s.levels[s.n_levels]
        level.ip = <uint16_t>at
        level.udp = 0
        level.version = s.data[at] >> 4
        ethertype = wire_load_be16(s.data + at - 2)
        s.n_levels += 1
        if level.version == 4 and ethertype == TYPE_IPV4:
            s.protocol = s.data[at + 9]
            if s.data[at] & 15 < 5 or wire_load_be16(s.data + at + 6) & 0x3fff:
                return False
            at += (s.data[at] & 15) * 4
        elif level.version == 6 and ethertype == TYPE_IPV6 and at + 40 <= s.start:
            s.protocol = s.data[at + 6]
            at += 40
        else:
            return False
        if at == s.start:
            return True
        at = split_tunnel(s, at, s.protocol, &is_ethernet)
        if at == 0:
            return False
    return False


cdef inline bint split_begin(
    split_t *s, const uint8_t *data, uint32_t size, const virtio_net_hdr *vnet
) noexcept nogil:
    """Look at a super-frame; False where it cannot be cut, and `s` is then empty."""
    cdef uint8_t kind = vnet.gso_type & ~VIRTIO_NET_HDR_GSO_ECN
    cdef bint is_tcp = kind == VIRTIO_NET_HDR_GSO_TCPV4 or kind == VIRTIO_NET_HDR_GSO_TCPV6
    cdef uint32_t head_size = vnet.csum_start + 8
    s.data = NULL
    if not is_tcp and kind != VIRTIO_NET_HDR_GSO_UDP_L4:
        return False
    if not vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM or vnet.gso_size == 0 or vnet.csum_offset != (16 if is_tcp else 6):
        return False
    if is_tcp:
        if <uint32_t>vnet.csum_start + 20 > size or data[vnet.csum_start + 12] >> 4 < 5:
            return False
        head_size = vnet.csum_start + (data[vnet.csum_start + 12] >> 4) * 4
    if head_size >= size or head_size > SPLIT_HEADS_MAX:
        return False
    s.data = data
    s.size = size
    s.at = head_size
    s.n_cut = 0
    s.head_size = <uint16_t>head_size
    s.gso_size = vnet.gso_size
    s.start = vnet.csum_start
    s.offset = vnet.csum_offset
    s.n_levels = 0
    if (
        not split_levels(s)
        or s.protocol != (PROTO_TCP if is_tcp else PROTO_UDP)
        or (is_tcp and (s.levels[s.n_levels - 1].version == 4) != (kind == VIRTIO_NET_HDR_GSO_TCPV4))
        or s.head_size + s.gso_size > 0xffff
    ):
        s.data = NULL
        return False
    return True


cdef inline uint32_t split_size(const split_t *s) noexcept nogil:
    """Size of the next frame."""
    cdef uint32_t left = s.size - s.at
    return s.head_size + (s.gso_size if s.gso_size < left else left)


cdef inline void split_transport(const split_t *s, uint8_t *out, uint32_t size, bint is_last) noexcept nogil:
    cdef const level_t *level = &s.levels[s.n_levels - 1]
    cdef uint8_t *at = out + s.start
    cdef uint8_t clear = 0
    if s.protocol == PROTO_UDP:
        wire_store_be16(at + 4, <uint16_t>(size - s.start))
    else:
        wire_store_be32(at + 4, wire_load_be32(at + 4) + s.n_cut * s.gso_size)
        if not is_last:
            clear |= TCP_FIN_PSH
        if s.n_cut != 0:
            clear |= TCP_CWR
        at[13] &= <uint8_t>~clear
    wire_store_be16(
        at + s.offset,
        wire_fold(<uint64_t>address_words_sum(out + level.ip, level.version) + s.protocol + (size - s.start)),
    )


cdef inline void split_ip(const split_t *s, const level_t *level, uint8_t *out, uint32_t size) noexcept nogil:
    cdef uint8_t *ip = out + level.ip
    if level.version == 6:
        wire_store_be16(ip + 4, <uint16_t>(size - level.ip - 40))
        return
    wire_store_be16(ip + 2, <uint16_t>(size - level.ip))
    wire_store_be16(ip + 4, <uint16_t>(wire_load_be16(ip + 4) + s.n_cut))
    wire_store_be16(ip + 10, 0)
    wire_store_be16(ip + 10, wire_checksum(wire_sum(ip, (ip[0] & 15) * 4)))


cdef inline void split_udp(const split_t *s, const level_t *level, uint8_t *out, uint32_t size) noexcept nogil:
    """A tunnel's UDP header. The packet's end, from `start`, will sum to the complement of its pseudo-header."""
    cdef uint8_t *udp = out + level.udp
    wire_store_be16(udp + 4, <uint16_t>(size - level.udp))
    if wire_load_be16(udp + 6) == 0:
        return
    wire_store_be16(udp + 6, 0)
    wire_store_be16(udp + 6, wire_udp_checksum(
        <uint64_t>address_words_sum(out + level.ip, level.version) + PROTO_UDP + (size - level.udp)
        + wire_sum(udp, s.start - level.udp) + <uint16_t>~wire_load_be16(out + s.start + s.offset)
    ))


cdef inline uint32_t split_next(split_t *s, uint8_t *out) noexcept nogil:
    """Write the next frame, `split_size` bytes, and return its size; empties `s` with the last one."""
    cdef uint32_t size = split_size(s), n = size - s.head_size, k
    cdef bint is_last = s.at + n == s.size
    memcpy(out, s.data, s.head_size)
    memcpy(out + s.head_size, s.data + s.at, n)
    split_transport(s, out, size, is_last)
    for k in range(s.n_levels, 0, -1):  # a sum counts what stands inside
        split_ip(s, &s.levels[k - 1], out, size)
        if s.levels[k - 1].udp != 0:
            split_udp(s, &s.levels[k - 1], out, size)
    s.at += n
    s.n_cut += 1
    if is_last:
        s.data = NULL
    return size

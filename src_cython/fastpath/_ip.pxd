# IP and UDP headers, outside and nested alike; rules 3 and 5 of section 1 of README.md in this folder.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from fastpath._frame cimport (
    REASON_BAD_IP_CHECKSUM, REASON_BAD_IP_HEADER, REASON_BAD_LENGTH, REASON_BAD_UDP_CHECKSUM, REASON_FRAGMENT, REASON_NONE,
    REASON_TOO_MANY_EXTENSIONS, REASON_TRUNCATED, address_t,
)
from fastpath._wire cimport wire_fold, wire_load_be16, wire_load_be32, wire_load_be64, wire_sum, wire_sum20

cdef enum:
    TYPE_IPV4 = 0x0800
    TYPE_IPV6 = 0x86dd
    TYPE_8021Q = 0x8100
    TYPE_8021AD = 0x88a8
    TYPE_BRIDGED = 0x6558
    PROTO_IGMP = 2
    PROTO_TCP = 6
    PROTO_UDP = 17
    PROTO_GRE = 47
    PROTO_ICMPV6 = 58
    PROTO_SCTP = 132
    PORT_NESTED = 4754
    EXTENSIONS_MAX = 8

cdef enum:
    DISCARD_ONLY = 0x0100000000000000

cdef struct ip_t:
    uint32_t at
    uint32_t transport
    uint32_t end
    uint8_t version
    uint8_t protocol
    uint8_t fragment
    uint8_t later_fragment


cdef inline bint is_tag(uint16_t ethertype) noexcept nogil:
    return ethertype == TYPE_8021Q or ethertype == TYPE_8021AD


cdef inline bint is_mld(uint8_t icmp_type) noexcept nogil:
    return icmp_type == 130 or icmp_type == 131 or icmp_type == 132 or icmp_type == 143


cdef inline void load_address(const uint8_t *at, uint8_t version, address_t *out) noexcept nogil:
    """IPv4 is held mapped. An IPv6 packet must not name itself so (RFC 4291 section 2.5.5.2): moved into 100::/64, which
    nobody is in (RFC 6666), it is never taken for IPv4."""
    if version == 4:
        out.high = 0
        out.low = <uint64_t>0xffff << 32 | wire_load_be32(at)
    else:
        out.high = wire_load_be64(at)
        out.low = wire_load_be64(at + 8)
        if out.high == 0 and out.low >> 32 == 0xffff:
            out.high = DISCARD_ONLY


cdef inline void load_source(const uint8_t *ip, uint8_t version, address_t *out) noexcept nogil:
    load_address(ip + (12 if version == 4 else 8), version, out)


cdef inline void load_destination(const uint8_t *ip, uint8_t version, address_t *out) noexcept nogil:
    load_address(ip + (16 if version == 4 else 24), version, out)


cdef inline uint8_t load_tos(const uint8_t *ip, uint8_t version) noexcept nogil:
    return ip[1] if version == 4 else <uint8_t>(wire_load_be16(ip) >> 4)


cdef inline uint32_t address_words_sum(const uint8_t *ip, uint8_t version) noexcept nogil:
    """Ones' complement sum of both addresses, for the pseudo-header."""
    return wire_sum(ip + 12, 8) if version == 4 else wire_sum(ip + 8, 32)


cdef inline uint8_t ip_extensions(const uint8_t *data, uint32_t limit, ip_t *ip) noexcept nogil:
    """Rule 3: walk IPv6 extension headers."""
    cdef uint32_t n = 0, size
    while True:
        if ip.protocol != 0 and ip.protocol != 43 and ip.protocol != 60 and ip.protocol != 51 and ip.protocol != 44:
            return REASON_NONE
        if n == EXTENSIONS_MAX:
            return REASON_TOO_MANY_EXTENSIONS
        n += 1
        if ip.transport + 8 > limit:
            return REASON_TRUNCATED
        if ip.protocol == 44:
            size = 8
            ip.fragment = 1
            if wire_load_be16(data + ip.transport + 2) & 0xfff8:
                ip.later_fragment = 1
                return REASON_NONE
        elif ip.protocol == 51:
            size = (data[ip.transport + 1] + 2) * 4
        else:
            size = (data[ip.transport + 1] + 1) * 8
        if ip.transport + size > limit:
            return REASON_TRUNCATED
        ip.protocol = data[ip.transport]
        ip.transport += size


cdef inline uint8_t ip_header(
    const uint8_t *data, uint32_t at, uint32_t limit, uint16_t ethertype, ip_t *ip
) noexcept nogil:
    """Rule 3: find the version, the protocol and where the transport header begins."""
    cdef uint32_t word
    ip.at = at
    ip.fragment = ip.later_fragment = 0
    if ethertype == TYPE_IPV4:
        if at + 20 > limit:
            return REASON_TRUNCATED
        if data[at] >> 4 != 4 or data[at] & 15 < 5:
            return REASON_BAD_IP_HEADER
        ip.version = 4
        ip.protocol = data[at + 9]
        ip.transport = at + (data[at] & 15) * 4
        if ip.transport > limit:
            return REASON_TRUNCATED
        word = wire_load_be16(data + at + 6) & 0x3fff
        if word:
            ip.fragment = 1
            ip.later_fragment = word & 0x1fff != 0
        return REASON_NONE
    if at + 40 > limit:
        return REASON_TRUNCATED
    if data[at] >> 4 != 6:
        return REASON_BAD_IP_HEADER
    ip.version = 6
    ip.protocol = data[at + 6]
    ip.transport = at + 40
    return ip_extensions(data, limit, ip)


cdef inline uint8_t ip_sound(const uint8_t *data, uint32_t limit, bint verify, ip_t *ip) noexcept nogil:
    """Rule 5: lengths and header checksum; sets the end of the packet."""
    cdef uint32_t size, header_size = ip.transport - ip.at
    if ip.version == 4:
        size = wire_load_be16(data + ip.at + 2)
        if size < header_size:
            return REASON_BAD_LENGTH
        if ip.at + size > limit:
            return REASON_TRUNCATED
        if verify and (wire_sum20(data + ip.at) if header_size == 20 else wire_sum(data + ip.at, header_size)) != 0xffff:
            return REASON_BAD_IP_CHECKSUM
    else:
        size = wire_load_be16(data + ip.at + 4)
        if size == 0 or size + 40 < header_size:
            return REASON_BAD_LENGTH
        size += 40
        if ip.at + size > limit:
            return REASON_TRUNCATED
    ip.end = ip.at + size
    if ip.fragment:
        return REASON_FRAGMENT
    return REASON_NONE


cdef inline uint8_t ip_udp(const uint8_t *data, bint verify, const ip_t *ip, uint32_t *end) noexcept nogil:
    """Rule 5: UDP's length and checksum; sets the end of the datagram."""
    cdef const uint8_t *udp = data + ip.transport
    cdef uint32_t size
    if ip.transport + 8 > ip.end:
        return REASON_BAD_LENGTH
    size = wire_load_be16(udp + 4)
    if size < 8 or ip.transport + size > ip.end:
        return REASON_BAD_LENGTH
    end[0] = ip.transport + size
    if verify and wire_load_be16(udp + 6) != 0 and wire_fold(
        <uint64_t>address_words_sum(data + ip.at, ip.version) + PROTO_UDP + size + wire_sum(udp, size)
    ) != 0xffff:
        return REASON_BAD_UDP_CHECKSUM
    return REASON_NONE

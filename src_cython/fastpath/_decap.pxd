# One inline parser per header, outermost first; section 1 of README.md in this folder, rule by rule.
#
# Every parser takes the frame, compares what it needs with `limit` before it reads, and answers REASON_NONE or
# why the frame is dropped. A new encapsulation is one more parser here and one line in `decap_frame`.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from fastpath._frame cimport (
    ENCAP_NVGRE, ENCAP_RAW, ENCAP_VXLAN, FACES_VM, MARK_NONE, MARK_UNSPLIT, REASON_BAD_GRE, REASON_BAD_MARK, REASON_BAD_NESTING,
    REASON_GSO_UNSUPPORTED, REASON_INNER_TAG,
    REASON_NO_VNI_FLAG, REASON_NONE, REASON_NOT_OURS, REASON_RESERVED_BITS, REASON_RESERVED_VSID, REASON_TRUNCATED, SCOPE_NVE,
    VERDICT_DROP, VERDICT_PENDING, VERDICT_PUNT, address_t, frame_t,
)
from fastpath._ip cimport (
    PORT_NESTED, PROTO_GRE, PROTO_ICMPV6, PROTO_IGMP, PROTO_SCTP, PROTO_TCP, PROTO_UDP, TYPE_BRIDGED, TYPE_IPV4, TYPE_IPV6,
    ip_header, ip_sound, ip_t, ip_udp, is_mld, is_tag, load_destination, load_tos,
)
from fastpath._layout cimport address_equal, address_is_multicast, layout_t, mix
from fastpath._wire cimport (
    wire_load_be16, wire_load_be32, wire_load_be64, wire_store_be16, wire_sum, wire_udp_checksum,
)

cdef enum:
    NO_ENDPOINT = 255


cdef inline void finish_sum(frame_t *f) noexcept nogil:
    """Finish the checksum that the sender's kernel left, so that it is right in every copy that carries it."""
    if f.marked != MARK_NONE:
        f.marked = MARK_NONE
        wire_store_be16(
            f.data + f.mark_start + f.mark_offset, wire_udp_checksum(wire_sum(f.data + f.mark_start, f.size - f.mark_start))
        )


cdef inline bint is_vxlan_port(const layout_t *layout, uint16_t port) noexcept nogil:
    cdef uint32_t i
    for i in range(layout.n_vxlan_ports):
        if layout.vxlan_ports[i] == port:
            return True
    return False


cdef inline bint is_tunnels_mark(const frame_t *f, const layout_t *layout) noexcept nogil:
    """Is the unfinished checksum that of a VXLAN packet over IPv4, right behind the plain headers?"""
    return (
        f.mark_start == 34 and f.mark_offset == 6 and f.size >= 42 and wire_load_be16(f.data + 12) == TYPE_IPV4 and f.data[14] == 0x45
        and f.data[23] == PROTO_UDP and is_vxlan_port(layout, wire_load_be16(f.data + 36))
        and layout.ports[f.in_port].faces != FACES_VM
    )


cdef inline uint8_t decap_mark(frame_t *f, const layout_t *layout) noexcept nogil:
    """Rule 1. A tunnel's own sum is over all that is inside, and trains do without: it is left to those who send it or change it."""
    cdef uint32_t field = <uint32_t>f.mark_start + f.mark_offset
    if f.marked == MARK_UNSPLIT:
        return REASON_GSO_UNSUPPORTED
    if f.mark_start > f.size or field + 2 > f.size:
        return REASON_BAD_MARK
    f.verified = 1
    if not is_tunnels_mark(f, layout):
        finish_sum(f)
    return REASON_NONE


cdef inline uint8_t find_endpoint(const layout_t *layout, const address_t *address) noexcept nogil:
    cdef uint32_t i
    for i in range(layout.n_endpoints):
        if address_equal(&layout.endpoints[i].address, address):
            return <uint8_t>i
    return NO_ENDPOINT


cdef inline uint8_t decap_vxlan(frame_t *f, bint strict) noexcept nogil:
    """Rule 7 (RFC 7348 section 5)."""
    cdef const uint8_t *at = f.data + f.overlay
    if f.overlay + 8 > f.inner_end:
        return REASON_TRUNCATED
    if not at[0] & 0x08:
        return REASON_NO_VNI_FLAG
    if strict and (wire_load_be32(at) != 0x08000000 or at[7] != 0):
        return REASON_RESERVED_BITS
    f.number = wire_load_be32(at + 4) >> 8
    return REASON_NONE


cdef inline uint8_t decap_nvgre(frame_t *f, bint strict) noexcept nogil:
    """Rule 7 (RFC 7637 section 3.2)."""
    cdef const uint8_t *at = f.data + f.overlay
    cdef uint16_t flags = wire_load_be16(at)
    if flags & 0xf807 != 0x2000:
        return REASON_BAD_GRE
    if strict and flags != 0x2000:
        return REASON_RESERVED_BITS
    if f.overlay + 8 > f.inner_end:
        return REASON_TRUNCATED
    f.number = wire_load_be32(at + 4) >> 8
    if f.number < 0x1000 or f.number == 0xffffff:
        return REASON_RESERVED_VSID
    return REASON_NONE


cdef inline uint8_t decap_inner(frame_t *f) noexcept nogil:
    """Rules 8 and 9: the inner Ethernet and IP headers, and the flow."""
    cdef const uint8_t *at = f.data + f.inner
    cdef const uint8_t *ip
    cdef uint32_t left, header_size, i
    cdef uint64_t h = <uint64_t>0x9e3779b97f4a7c15
    cdef uint64_t ports = 0
    cdef uint16_t ethertype
    cdef uint8_t protocol
    if f.inner + 14 > f.inner_end:
        return REASON_TRUNCATED
    ethertype = wire_load_be16(at + 12)
    f.inner_tagged = is_tag(ethertype)
    if f.inner_tagged and f.encap == ENCAP_NVGRE:
        return REASON_INNER_TAG
    left = f.inner_end - f.inner - 14
    ip = at + 14
    for i in range(2):
        if not is_tag(ethertype):
            break
        if left < 4:
            ethertype = 0
            left = 0
            break
        ethertype = wire_load_be16(ip + 2)
        ip += 4
        left -= 4
    h = mix(h, wire_load_be64(at))
    h = mix(h, <uint64_t>wire_load_be32(at + 8) << 16 | ethertype)
    f.inner_version = 0
    if ethertype == TYPE_IPV4 and left >= 20 and ip[0] >> 4 == 4 and ip[0] & 15 >= 5 and left >= (ip[0] & 15) * 4:
        f.inner_version = 4
        header_size = (ip[0] & 15) * 4
        protocol = ip[9]
        h = mix(h, wire_load_be64(ip + 12))
        if wire_load_be16(ip + 6) & 0x3fff:
            left = 0
    elif ethertype == TYPE_IPV6 and left >= 40 and ip[0] >> 4 == 6:
        f.inner_version = 6
        header_size = 40
        protocol = ip[6]
        for i in range(4):
            h = mix(h, wire_load_be64(ip + 8 + 8 * i))
    if f.inner_version:
        f.inner_ip = <uint16_t>(ip - f.data)
        if left >= header_size + 4 and (protocol == PROTO_UDP or protocol == PROTO_TCP or protocol == PROTO_SCTP):
            ports = wire_load_be32(ip + header_size)
        h = mix(h, <uint64_t>protocol << 32 | ports)
    f.flow = <uint32_t>(h >> 32)
    return REASON_NONE


cdef inline uint8_t decap_nested(frame_t *f, const layout_t *layout, ip_t *ip) noexcept nogil:
    """Rule 6: GRE-in-UDP (RFC 8086) around one packet to a group; `ip` becomes that of the packet inside."""
    cdef uint32_t at = ip.transport + 8
    cdef uint16_t ethertype
    cdef uint8_t reason
    if f.to_group:
        return REASON_BAD_NESTING
    if at + 4 > f.inner_end:
        return REASON_TRUNCATED
    ethertype = wire_load_be16(f.data + at + 2)
    if wire_load_be16(f.data + at) != 0 or (ethertype != TYPE_IPV4 and ethertype != TYPE_IPV6):
        return REASON_BAD_GRE
    reason = ip_header(f.data, at + 4, f.inner_end, ethertype, ip)
    if reason != REASON_NONE:
        return reason
    if ip.later_fragment:
        return REASON_BAD_NESTING
    load_destination(f.data + ip.at, ip.version, &f.group)
    if ip.protocol == PROTO_UDP:
        if ip.transport + 8 > f.inner_end:
            return REASON_TRUNCATED
        if not is_vxlan_port(layout, wire_load_be16(f.data + ip.transport + 2)):
            return REASON_BAD_NESTING
    elif ip.protocol == PROTO_GRE:
        if ip.transport + 4 > f.inner_end:
            return REASON_TRUNCATED
        if wire_load_be16(f.data + ip.transport + 2) != TYPE_BRIDGED:
            return REASON_BAD_NESTING
    else:
        return REASON_BAD_NESTING
    if not address_is_multicast(&f.group):
        return REASON_BAD_NESTING
    f.nested = 1
    f.to_group = 1
    return ip_sound(f.data, f.inner_end, layout.verify_checksums, ip)


cdef inline uint8_t decap_tunnel(frame_t *f, const layout_t *layout, ip_t *ip, bint nested) noexcept nogil:
    """Rules 5 to 8 behind a sound outer IP header."""
    cdef bint verify = layout.verify_checksums and not f.verified
    cdef uint8_t reason
    f.inner_end = ip.end
    if ip.protocol == PROTO_UDP:
        reason = ip_udp(f.data, verify, ip, &f.inner_end)
        if reason != REASON_NONE:
            return reason
    if nested:
        reason = decap_nested(f, layout, ip)
        if reason != REASON_NONE:
            return reason
        f.inner_end = ip.end
        if ip.protocol == PROTO_UDP:
            reason = ip_udp(f.data, verify, ip, &f.inner_end)
            if reason != REASON_NONE:
                return reason
    f.mt = <uint16_t>ip.at
    f.version = ip.version
    f.transport = <uint16_t>ip.transport
    f.end = ip.end
    f.tos = load_tos(f.data + ip.at, ip.version)
    if ip.protocol == PROTO_UDP:
        f.encap = ENCAP_VXLAN
        f.overlay = f.transport + 8
        reason = decap_vxlan(f, layout.strict_reserved)
    else:
        f.encap = ENCAP_NVGRE
        f.overlay = f.transport
        if f.overlay + 4 > f.inner_end:
            return REASON_TRUNCATED
        reason = decap_nvgre(f, layout.strict_reserved)
    if reason != REASON_NONE:
        return reason
    f.number_encap = f.encap
    f.inner = f.overlay + 8
    return decap_inner(f)


cdef inline uint8_t decap_raw(frame_t *f, const layout_t *layout) noexcept nogil:
    """A VM's own frame: nothing outside, its network is that of the port."""
    cdef uint8_t reason
    f.encap = ENCAP_RAW
    f.number_encap = layout.ports[f.in_port].raw_encap
    f.number = layout.ports[f.in_port].raw_number
    f.scope = SCOPE_NVE
    f.version = 0
    f.inner = f.mt = f.ut = 0
    f.inner_end = f.end = f.size
    reason = decap_inner(f)
    f.tos = load_tos(f.data + f.inner_ip, f.inner_version) if f.inner_version else 0
    return reason


cdef inline uint8_t decap_outer(frame_t *f, const layout_t *layout) noexcept nogil:
    """Rules 2 to 4: to the tunnel packet, if it is one of ours."""
    cdef uint32_t at = 12, n_tags = 1 if f.vlan_tpid else 0
    cdef uint16_t ethertype, port
    cdef uint8_t reason
    cdef bint nested = False
    cdef ip_t ip
    if f.size < 14:
        return REASON_TRUNCATED
    if layout.ports[f.in_port].faces == FACES_VM:
        return decap_raw(f, layout)
    ethertype = wire_load_be16(f.data + at)
    while is_tag(ethertype) and n_tags < 2:
        n_tags += 1
        at += 4
        if at + 2 > f.size:
            return REASON_TRUNCATED
        ethertype = wire_load_be16(f.data + at)
    if ethertype != TYPE_IPV4 and ethertype != TYPE_IPV6:
        return REASON_NOT_OURS
    reason = ip_header(f.data, at + 2, f.size, ethertype, &ip)
    if reason != REASON_NONE:
        return reason
    if ip.later_fragment:
        return REASON_NOT_OURS
    f.ut = <uint16_t>ip.at
    f.ut_version = ip.version
    if ip.protocol == PROTO_UDP:
        if ip.transport + 8 > f.size:
            return REASON_TRUNCATED
        port = wire_load_be16(f.data + ip.transport + 2)
        if not is_vxlan_port(layout, port):
            if port != PORT_NESTED:
                return REASON_NOT_OURS
            nested = True
    elif ip.protocol == PROTO_GRE:
        if ip.transport + 4 > f.size:
            return REASON_TRUNCATED
        if wire_load_be16(f.data + ip.transport + 2) != TYPE_BRIDGED:
            return REASON_NOT_OURS
    elif ip.protocol == PROTO_IGMP and ip.version == 4:
        f.verdict = VERDICT_PUNT
    elif ip.protocol == PROTO_ICMPV6 and ip.version == 6:
        if ip.transport + 1 > f.size:
            return REASON_TRUNCATED
        if not is_mld(f.data[ip.transport]):
            return REASON_NOT_OURS
        f.verdict = VERDICT_PUNT
    else:
        return REASON_NOT_OURS
    if f.verdict == VERDICT_PENDING:
        load_destination(f.data + ip.at, ip.version, &f.group)
        f.to_group = address_is_multicast(&f.group)
        if not f.to_group:
            f.endpoint = find_endpoint(layout, &f.group)
            if f.endpoint == NO_ENDPOINT:
                return REASON_NOT_OURS
    reason = ip_sound(f.data, f.size, layout.verify_checksums, &ip)
    if reason != REASON_NONE or f.verdict == VERDICT_PUNT:
        return reason
    return decap_tunnel(f, layout, &ip, nested)


cdef inline void decap_frame(frame_t *f, const layout_t *layout) noexcept nogil:
    """Parse one frame: leaves it PENDING with its places known, or PUNT, or DROP with the reason."""
    cdef uint8_t reason = REASON_NONE
    f.verdict = VERDICT_PENDING
    f.verified = 0
    f.nested = 0
    f.to_group = 0
    f.endpoint = NO_ENDPOINT
    f.allowed = 0
    f.of_tenant = 0
    if f.marked:
        reason = decap_mark(f, layout)
    if reason == REASON_NONE:
        reason = decap_outer(f, layout)
    if reason != REASON_NONE:
        f.verdict = VERDICT_DROP
        f.reason = reason

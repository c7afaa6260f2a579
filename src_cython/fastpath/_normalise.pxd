# What is set right once per frame, in place, before any copy is made; section 3 of README.md in this folder.
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from fastpath._decap cimport NO_ENDPOINT, finish_sum
from fastpath._ip cimport load_tos
from fastpath._frame cimport ENCAP_RAW, ENCAP_VXLAN, SCOPE_NVE, frame_t
from fastpath._layout cimport layout_t, network_find
from fastpath._wire cimport (
    wire_load_be16, wire_store_be16, wire_store_be32, wire_store_be64, wire_sum, wire_update_checksum,
    wire_update_udp_checksum,
)


cdef inline uint8_t ecn_inside(uint8_t outer, uint8_t inner) noexcept nogil:
    """The ECN field to deliver for an arriving outer and inner one (RFC 6040 figure 4, without its drop)."""
    if inner == 0 or inner == 3:
        return inner
    if outer == 3:
        return 3
    return 1 if outer == 1 else inner


cdef inline void set_ecn(uint8_t *ip, uint8_t version, uint8_t ecn) noexcept nogil:
    """Set the ECN field; IPv4's checksum is updated."""
    cdef uint16_t old = wire_load_be16(ip)
    cdef uint16_t new
    if version == 4:
        new = (old & 0xfffc) | ecn
        if new != old:
            wire_store_be16(ip, new)
            wire_update_checksum(ip + 10, old, new)
    else:
        wire_store_be16(ip, (old & 0xffcf) | <uint16_t>ecn << 4)


cdef inline void set_inner_ecn(frame_t *f) noexcept nogil:
    """Carry MT's congestion mark inside. In IPv4 the inner checksum balances it, for IPv6 the outer UDP sum must follow."""
    cdef uint8_t *ip = f.data + f.inner_ip
    cdef uint16_t old = wire_load_be16(ip)
    if f.inner_version == 6:
        finish_sum(f)
    set_ecn(ip, f.inner_version, ecn_inside(f.tos & 3, load_tos(ip, f.inner_version) & 3))
    if f.inner_version == 6 and f.encap == ENCAP_VXLAN:
        wire_update_udp_checksum(f.data + f.transport + 6, old, wire_load_be16(ip))


cdef inline void set_group(frame_t *f) noexcept nogil:
    """Readdress a rewritten packet to the group that was recovered for it."""
    cdef uint8_t *ip = f.data + f.mt
    cdef uint8_t *field = ip + (16 if f.version == 4 else 24)
    cdef uint32_t size = 4 if f.version == 4 else 16
    cdef uint32_t old = wire_sum(field, size), new
    finish_sum(f)
    if f.version == 4:
        wire_store_be32(field, <uint32_t>f.group.low)
    else:
        wire_store_be64(field, f.group.high)
        wire_store_be64(field + 8, f.group.low)
    new = wire_sum(field, size)
    if f.version == 4:
        wire_update_checksum(ip + 10, old, new)
    if f.encap == ENCAP_VXLAN:
        wire_update_udp_checksum(f.data + f.transport + 6, old, new)


cdef inline void lift_ttl(frame_t *f) noexcept nogil:
    cdef uint8_t *ip = f.data + f.mt
    if f.version == 6:
        if ip[7] == 0:
            ip[7] = 1
    elif ip[8] == 0:
        ip[8] = 1
        wire_update_checksum(ip + 10, 0, 0x0100)


cdef inline void clear_reserved(frame_t *f, const layout_t *layout) noexcept nogil:
    cdef uint32_t tagged = <uint32_t>ENCAP_VXLAN << 24 | f.number
    cdef uint32_t at = network_find(layout, tagged), old
    cdef uint8_t *vxlan = f.data + f.overlay
    cdef bint asked = False
    while at < layout.n_networks and layout.networks[at].tagged_number == tagged:
        asked |= layout.networks[at].clear_reserved
        at += 1
    if asked:
        finish_sum(f)
        old = wire_sum(vxlan, 8)
        wire_store_be32(vxlan, 0x08000000)
        vxlan[7] = 0
        wire_update_udp_checksum(f.data + f.transport + 6, old, wire_sum(vxlan, 8))


cdef inline void normalise_frame(frame_t *f, const layout_t *layout) noexcept nogil:
    if f.encap == ENCAP_RAW:
        return
    if f.endpoint != NO_ENDPOINT and f.to_group and not f.nested:
        set_group(f)
    if f.nested:
        set_ecn(f.data + f.mt, f.version, ecn_inside(load_tos(f.data + f.ut, f.ut_version) & 3, f.tos & 3))
        f.tos = load_tos(f.data + f.mt, f.version)
    if f.scope == SCOPE_NVE and f.inner_version:
        set_inner_ecn(f)
    lift_ttl(f)
    if f.encap == ENCAP_VXLAN and layout.n_networks:
        clear_reserved(f, layout)

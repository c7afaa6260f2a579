# Tenants' groups in the networks of our own NVE: section 8 of README.md. What is here is only asked where some network snoops.
from libc.stdint cimport uint32_t
from fastpath._frame cimport REASON_NONE, SCOPE_NVE, address_t, frame_t
from fastpath._ip cimport PROTO_ICMPV6, PROTO_IGMP, TYPE_IPV4, TYPE_IPV6, ip_header, ip_sound, ip_t, is_mld, load_destination
from fastpath._layout cimport address_is_ipv4, address_is_multicast, layout_t, network_of, network_row_t
from fastpath._trie cimport KIND_VNI

cdef enum:
    LINK_BLOCK = 0xe00000     # 224.0.0.0/24
    SCOPE_LINK = 2            # RFC 4291 section 2.7: those up to it end at the link


cdef inline bint is_membership(const frame_t *f, bint verify) noexcept nogil:
    """Does the frame hold sound IGMP or MLD of a tenant?"""
    cdef ip_t ip
    if f.inner_version == 0:
        return False
    if ip_header(f.data, f.inner_ip, f.inner_end, TYPE_IPV4 if f.inner_version == 4 else TYPE_IPV6, &ip) != REASON_NONE:
        return False
    if ip.version == 4:
        if ip.protocol != PROTO_IGMP:
            return False
    elif ip.protocol != PROTO_ICMPV6 or ip.transport + 1 > f.inner_end or not is_mld(f.data[ip.transport]):
        return False
    return ip_sound(f.data, f.inner_end, verify, &ip) == REASON_NONE


cdef inline bint is_tenants_word(const frame_t *f, const layout_t *layout) noexcept nogil:
    """Rule 8.1, but for its group: is this what control hands on, and nobody else?"""
    cdef const network_row_t *network
    if f.scope != SCOPE_NVE or not is_membership(f, layout.verify_checksums):
        return False
    network = network_of(f, layout)
    return network != NULL and network.snoop


cdef inline bint is_beyond_link(const address_t *group) noexcept nogil:
    if address_is_ipv4(group):
        return <uint32_t>group.low >> 8 != LINK_BLOCK
    return group.high >> 48 & 15 > SCOPE_LINK


cdef inline bint is_unregistered(const frame_t *f, const layout_t *layout) noexcept nogil:
    """Rule 8.3: for an inner group that nobody said he wants, in a network that minds."""
    cdef const network_row_t *network
    cdef address_t group
    if f.scope != SCOPE_NVE or f.inner_version == 0 or f.unknown_unicast or f.entry.key.kind_scope_encap_number >> 48 < KIND_VNI:
        return False
    load_destination(f.data + f.inner_ip, f.inner_version, &group)
    if not address_is_multicast(&group) or not is_beyond_link(&group):
        return False
    network = network_of(f, layout)
    return network != NULL and network.drop_unregistered

# Tenants' groups: section 8 of README.md. What is here is only asked where some network snoops, or some list has an inner group.
from libc.stdint cimport uint8_t, uint32_t
from fastpath._frame cimport (
    CLASS_LOCAL, CLASS_UP, REASON_NONE, REASON_NO_RECEIVER, REASON_UNREGISTERED_GROUP, address_t, entry_t, frame_t, key_t,
)
from fastpath._ip cimport PROTO_ICMPV6, PROTO_IGMP, TYPE_IPV4, TYPE_IPV6, ip_header, ip_sound, ip_t, is_mld, load_destination
from fastpath._layout cimport address_is_ipv4, address_is_multicast, layout_t, network_of, network_row_t
from fastpath._trie cimport KIND_INNER_GROUP, KIND_INNER_SOURCE_GROUP, KIND_VNI, fib_find, fib_t, key_meta

cdef enum:
    LINK_BLOCK = 0xe00000     # 224.0.0.0/24
    SCOPE_LINK = 2            # RFC 4291 section 2.7: those up to it end at the link
    ANY_GROUP = 0xffff00000000  # 0.0.0.0 as an address of the FIB: low word, its high word is 0


cdef inline bint has_tenants(const fib_t *fib) noexcept nogil:
    """Is there anything that this section is asked for?"""
    return fib.layout.has_snoop or fib.n_kind[KIND_INNER_SOURCE_GROUP] != 0 or fib.n_kind[KIND_INNER_GROUP] != 0


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
    if not is_membership(f, layout.verify_checksums):
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
    if f.inner_version == 0 or f.unknown_unicast or f.entry.key.kind_scope_encap_number >> 48 < KIND_VNI:
        return False
    load_destination(f.data + f.inner_ip, f.inner_version, &group)
    if not address_is_multicast(&group) or not is_beyond_link(&group):
        return False
    network = network_of(f, layout)
    return network != NULL and network.drop_unregistered


cdef inline const entry_t *any_group(const frame_t *f, const fib_t *fib) noexcept nogil:
    """The any-group list of a frame's network; NULL: it has none."""
    cdef key_t key
    if fib.n_kind[KIND_INNER_GROUP] == 0:
        return NULL
    key.source.high = key.source.low = key.group.high = 0
    key.group.low = ANY_GROUP
    key.kind_scope_encap_number = key_meta(KIND_INNER_GROUP, f.scope, f.number_encap, f.number)
    return fib_find(fib, &key)


cdef inline uint8_t narrow(frame_t *f, const fib_t *fib) noexcept nogil:
    """Rules 8.2 and 8.3: put `refined` in the place of the frame's list; why the frame is dropped if that leaves nobody.

    `unregistered_group` without a `refined`: it is dropped.
    """
    cdef uint8_t nobody = REASON_NO_RECEIVER
    if f.refined == NULL and fib.layout.has_snoop and is_unregistered(f, fib.layout):
        f.refined = any_group(f, fib)
        if f.refined == NULL and f.source_class == CLASS_LOCAL:
            f.source_class = CLASS_UP
        else:
            nobody = REASON_UNREGISTERED_GROUP
    if f.refined != NULL:
        f.entry = f.refined
    return nobody

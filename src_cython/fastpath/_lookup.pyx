"""From a frame to its list: rules 2.5 and 8.2 of README.md, in rounds over the batch.

Each round looks one kind of key up for every frame that has no list yet, with prefetch between its steps. What tenants' groups
refine (8.2) is looked up first and set aside: so the round that asks for them costs nothing where there is none, and all that judges a
frame by its own list finds that in its place.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from fastpath._frame cimport (
    BATCH_MAX, ENCAP_RAW, REASON_AMBIGUOUS_GROUP, REASON_NONE, REASON_UNKNOWN_VNI, SCOPE_NVE, VERDICT_DROP, VERDICT_PENDING,
    address_t, batch_t, entry_t, frame_t, key_t,
)
from fastpath._ip cimport load_destination, load_source
from fastpath._layout cimport (
    NO_ROW, address_equal, address_is_ipv4, address_is_multicast, layout_t, network_find, network_of, network_row_t, prefix_holds,
    tagged_number,
)
from fastpath._trie cimport (
    KIND_GROUP, KIND_INNER_GROUP, KIND_INNER_SOURCE_GROUP, KIND_SOURCE_GROUP, KIND_VNI, fib_page, fib_t, key_equal, key_hash, key_meta,
    node_slot, node_t, page_entry, page_match, page_t, root_slot,
)
from fastpath._wire cimport wire_prefetch

cdef enum:
    KIND_MAP = 255            # of the FIB's kinds GROUP, found by a network's maps


cdef inline bint map_group(const frame_t *f, const network_row_t *network, address_t *group) noexcept nogil:
    """The group that the longest map of a network gives a frame; False where none holds its inner destination."""
    cdef address_t inner
    cdef uint32_t i
    if network.n_maps and f.inner_version:
        load_destination(f.data + f.inner_ip, f.inner_version, &inner)
        for i in range(network.n_maps):
            if prefix_holds(&network.maps[i], &inner):
                group[0] = network.maps[i].group
                return True
    return False


cdef inline bint map_key(const frame_t *f, const layout_t *layout, key_t *key) noexcept nogil:
    """The key of the group that the maps of his network give a VM's frame to an inner group."""
    cdef const network_row_t *network
    if f.encap != ENCAP_RAW or f.inner_version == 0 or f.unknown_unicast:
        return False
    load_destination(f.data + f.inner_ip, f.inner_version, &key.group)
    network = network_of(f, layout)
    if not address_is_multicast(&key.group) or network == NULL or not map_group(f, network, &key.group):
        return False
    key.kind_scope_encap_number = key_meta(KIND_GROUP, SCOPE_NVE, f.number_encap, f.number)
    return True


cdef inline bint make_key(const frame_t *f, const layout_t *layout, uint8_t kind, key_t *key) noexcept nogil:
    """The key of a kind for a frame; False where the frame has none."""
    if kind == KIND_MAP:
        key.source.high = key.source.low = 0
        return map_key(f, layout, key)
    key.group.high = key.group.low = key.source.high = key.source.low = 0
    if kind == KIND_INNER_GROUP or kind == KIND_INNER_SOURCE_GROUP:
        if f.inner_version == 0 or f.unknown_unicast:
            return False
        load_destination(f.data + f.inner_ip, f.inner_version, &key.group)
        if not address_is_multicast(&key.group):
            return False
        if kind == KIND_INNER_SOURCE_GROUP:
            load_source(f.data + f.inner_ip, f.inner_version, &key.source)
        key.kind_scope_encap_number = key_meta(kind, f.scope, f.number_encap, f.number)
    elif kind == KIND_VNI:
        if not by_number(f):
            return False
        key.kind_scope_encap_number = key_meta(kind, f.scope, f.number_encap, f.number)
    else:
        if not f.to_group or f.scope == SCOPE_NVE:
            return False
        key.group = f.group
        if kind == KIND_SOURCE_GROUP:
            load_source(f.data + f.mt, f.version, &key.source)
        key.kind_scope_encap_number = key_meta(kind, f.scope, 0, 0)
    return True


cdef struct lookup_t:
    key_t key
    uint64_t hash
    frame_t *frame
    const page_t *page
    const entry_t *candidate
    uint32_t at


cdef void lookup_round(batch_t *batch, const fib_t *fib, uint8_t kind) noexcept nogil:
    """Look one kind of key up for every pending frame that has no list yet."""
    cdef lookup_t lookups[BATCH_MAX]
    cdef lookup_t *one
    cdef size_t slot
    cdef uint32_t i, n = 0
    for i in range(batch.n):
        one = &lookups[n]
        one.frame = &batch.frames[i]
        if one.frame.verdict != VERDICT_PENDING or one.frame.entry != NULL or not make_key(one.frame, fib.layout, kind, &one.key):
            continue
        one.hash = key_hash(&one.key)
        slot = <size_t>fib.slots[root_slot(one.hash)]
        if slot & 1:
            wire_prefetch(&(<node_t *>(slot - 1)).pages[node_slot(one.hash)])
        n += 1
    for i in range(n):
        one = &lookups[i]
        one.page = fib_page(fib, one.hash)
        wire_prefetch(one.page)
    for i in range(n):
        one = &lookups[i]
        one.candidate = NULL
        if one.page != NULL:
            one.at = page_match(one.page, <uint16_t>one.hash, 0)
            if one.at < one.page.n:
                one.candidate = page_entry(one.page, one.at)
                wire_prefetch(one.candidate)
                wire_prefetch(<const uint8_t *>one.candidate + 64)
    for i in range(n):
        one = &lookups[i]
        while one.candidate != NULL:
            if key_equal(&one.candidate.key, &one.key):
                one.frame.entry = one.candidate
                break
            one.at = page_match(one.page, <uint16_t>one.hash, one.at + 1)
            one.candidate = page_entry(one.page, one.at) if one.at < one.page.n else NULL


cdef inline bint network_group(const frame_t *f, const network_row_t *network, address_t *group) noexcept nogil:
    """The group that a network gives a frame: by its longest map, else its own."""
    if map_group(f, network, group):
        return True
    group[0] = network.group
    return network.has_group


cdef inline uint8_t recover_group(frame_t *f, const layout_t *layout) noexcept nogil:
    """D14: the group of a packet that came under our own address, from its number and inner destination."""
    cdef uint32_t at = network_find(layout, tagged_number(f))
    cdef address_t group
    cdef bint found = False
    if at == NO_ROW:
        return REASON_UNKNOWN_VNI
    while at < layout.n_networks and layout.networks[at].tagged_number == tagged_number(f):
        if network_group(f, &layout.networks[at], &group):
            if found and not address_equal(&group, &f.group):
                return REASON_AMBIGUOUS_GROUP
            f.group = group
            found = True
        at += 1
    if not found or address_is_ipv4(&f.group) != (f.version == 4):
        return REASON_AMBIGUOUS_GROUP
    f.to_group = 1
    return REASON_NONE


cdef void recover_groups(batch_t *batch, const layout_t *layout) noexcept nogil:
    """What is keyed by a number and has no list of it: a group's list may serve."""
    cdef frame_t *f
    cdef uint8_t reason
    cdef uint32_t i
    for i in range(batch.n):
        f = &batch.frames[i]
        if f.verdict == VERDICT_PENDING and f.entry == NULL and by_number(f):
            reason = REASON_UNKNOWN_VNI if f.scope == SCOPE_NVE else recover_group(f, layout)
            if reason != REASON_NONE:
                f.verdict = VERDICT_DROP
                f.reason = reason


cdef void set_aside(batch_t *batch) noexcept nogil:
    """Rule 8.2: outside of scope NVE, what inner keys found is no list of the frame's own."""
    cdef frame_t *f
    cdef uint32_t i
    for i in range(batch.n):
        f = &batch.frames[i]
        f.refined = NULL
        if f.verdict == VERDICT_PENDING and f.scope != SCOPE_NVE:
            f.refined = f.entry
            f.entry = NULL


cdef void lookup_batch(batch_t *batch, const fib_t *fib, bint numbered, bint tenants) noexcept nogil:
    """Find the list of each pending frame, and with `tenants` what refines it. `numbered`: some have a key made of their number."""
    if fib.n_kind[KIND_INNER_SOURCE_GROUP]:
        lookup_round(batch, fib, KIND_INNER_SOURCE_GROUP)
    if fib.n_kind[KIND_INNER_GROUP]:
        lookup_round(batch, fib, KIND_INNER_GROUP)
    if tenants:
        set_aside(batch)
    if fib.layout.has_vm_maps and fib.n_kind[KIND_GROUP]:
        lookup_round(batch, fib, KIND_MAP)
    if numbered:
        if fib.n_kind[KIND_VNI]:
            lookup_round(batch, fib, KIND_VNI)
        recover_groups(batch, fib.layout)
    if fib.n_kind[KIND_SOURCE_GROUP]:
        lookup_round(batch, fib, KIND_SOURCE_GROUP)
    if fib.n_kind[KIND_GROUP]:
        lookup_round(batch, fib, KIND_GROUP)

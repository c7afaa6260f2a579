"""From frame to verdict: sections 1 to 3 of README.md in this folder, as passes over the batch.

Parse all frames, ask who sent each, look all keys up with prefetch between the steps, then judge. Passes, because at a million
groups every step of a lookup misses the cache, and 256 misses side by side cost little more than one.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from fastpath._decap cimport NO_ENDPOINT, decap_frame
from fastpath._ip cimport load_destination, load_source, load_tos
from fastpath._guard cimport guard_form
from fastpath._trie cimport (
    KIND_GROUP, KIND_INNER_GROUP, KIND_INNER_SOURCE_GROUP, KIND_SOURCE_GROUP, KIND_VNI, directory_egress,
    directory_t, entry_egresses, entry_first, entry_last, entry_numbers, fib_page, fib_t, key_equal, key_hash, key_meta, node_slot,
    node_t, page_entry, page_match, page_t, root_slot,
)
from fastpath._frame cimport (
    BATCH_MAX, CLASS_ALL, CLASS_LOCAL, CLASS_REMOTE, CLASS_UP, ENCAP_RAW, FACES_CORE, FACES_NVE, OWNER_NONE,
    REASON_AMBIGUOUS_GROUP, REASON_ECN_NOT_CAPABLE, REASON_NONE, REASON_NOT_A_MEMBER, REASON_NO_RECEIVER,
    REASON_OWN_SOURCE, REASON_UNKNOWN_GROUP, REASON_UNKNOWN_PEER, REASON_UNKNOWN_VNI, REASON_UNREGISTERED_GROUP, REASON_WRONG_GROUP,
    REASON_WRONG_POINT, SCOPE_DEVICE, SCOPE_NVE, SCOPE_REPLICATOR, VERDICT_DROP, VERDICT_PENDING, VERDICT_PUNT,
    VERDICT_REPLICATE, address_t, batch_t, entry_t, frame_t, key_t,
)
from fastpath._layout cimport (
    NO_ROW, address_equal, address_is_ipv4, address_is_multicast, address_table_find, allowed_from,
    layout_t, network_find, network_of, network_row_t, port_row_t, prefix_holds, tagged_number,
)
from fastpath._learn cimport learn_lookup, learner_t
from fastpath._normalise cimport ecn_inside, normalise_frame
from fastpath._snoop cimport is_tenants_word, is_unregistered
from fastpath._wire cimport wire_prefetch

cdef extern from *:
    bint unlikely(bint) noexcept nogil  # Cython's own: what stands behind it must not weigh on boxes without it (1 ns a frame)

cdef enum:
    KIND_MAP = 255            # of the FIB's kinds GROUP, found by a network's maps


cdef inline void drop(frame_t *f, uint8_t reason) noexcept nogil:
    f.verdict = VERDICT_DROP
    f.reason = reason


cdef inline bint in_point_ranges(const layout_t *layout, uint32_t number) noexcept nogil:
    cdef uint32_t i
    for i in range(layout.n_point_ranges):
        if layout.point_ranges[i].first <= number <= layout.point_ranges[i].last:
            return True
    return layout.n_point_ranges == 0


cdef inline uint8_t identify(frame_t *f, const layout_t *layout) noexcept nogil:
    """Section 2, rules 1 to 4: source class, owners, and whether the sender may."""
    cdef const port_row_t *port = &layout.ports[f.in_port]
    cdef bint asked
    cdef address_t sender
    cdef uint32_t i
    cdef uint32_t peer, nve = OWNER_NONE
    f.owner_port = f.in_port
    f.owner_sender = OWNER_NONE
    f.from_nve = 0
    f.unknown_unicast = 0
    f.entry = NULL
    f.source_class = CLASS_LOCAL
    if f.encap == ENCAP_RAW:
        return guard_form(f, port)
    load_source(f.data + f.ut, f.ut_version, &sender)
    f.scope = port.group_scope if f.endpoint == NO_ENDPOINT else layout.endpoints[f.endpoint].scope
    for i in range(layout.n_endpoints):
        if address_equal(&layout.endpoints[i].address, &sender) and (
            f.scope == SCOPE_NVE or layout.endpoints[i].scope != SCOPE_NVE
        ):
            return REASON_OWN_SOURCE
    peer = address_table_find(&layout.peers, &sender, f.scope)
    if port.has_nves:
        nve = address_table_find(&layout.nves, &sender, f.in_port)
    if f.scope == SCOPE_NVE:
        f.source_class = CLASS_REMOTE
    elif f.endpoint != NO_ENDPOINT and layout.endpoints[f.endpoint].replicate:
        f.source_class = CLASS_ALL
    elif port.faces & FACES_CORE and (not port.faces & FACES_NVE or peer != OWNER_NONE):
        f.source_class = CLASS_REMOTE
    f.from_nve = nve != OWNER_NONE and f.source_class != CLASS_REMOTE
    f.owner_sender = nve if f.from_nve else peer
    if f.endpoint == NO_ENDPOINT:
        return REASON_NONE
    asked = f.scope != SCOPE_NVE or layout.nve_allow_from
    if asked and layout.n_allow_from:
        f.allowed = allowed_from(layout, f.scope, &sender)
    if asked and peer == OWNER_NONE and not f.allowed and (f.scope != SCOPE_DEVICE or nve == OWNER_NONE):
        return REASON_UNKNOWN_PEER
    if f.scope == SCOPE_REPLICATOR and not in_point_ranges(layout, f.number):
        return REASON_WRONG_POINT
    return REASON_NONE


cdef inline bint by_number(const frame_t *f) noexcept nogil:
    """Is the key made of the number, not of the outer group?"""
    return f.scope == SCOPE_NVE or (f.endpoint != NO_ENDPOINT and not f.nested)


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
                drop(f, reason)


cdef inline bint network_has_group(const layout_t *layout, uint32_t tagged, const address_t *group) noexcept nogil:
    cdef uint32_t at = network_find(layout, tagged), i
    while at < layout.n_networks and layout.networks[at].tagged_number == tagged:
        if layout.networks[at].has_group and address_equal(&layout.networks[at].group, group):
            return True
        for i in range(layout.networks[at].n_maps):
            if address_equal(&layout.networks[at].maps[i].group, group):
                return True
        at += 1
    return False


cdef inline bint numbers_hold(const entry_t *entry, uint32_t tagged) noexcept nogil:
    cdef const uint32_t *numbers = entry_numbers(entry)
    cdef uint32_t low = 0, high = entry.n_numbers, middle
    while low < high:
        middle = (low + high) / 2
        if numbers[middle] < tagged:
            low = middle + 1
        else:
            high = middle
    return low < entry.n_numbers and numbers[low] == tagged


cdef inline bint any_network_has_group(const layout_t *layout, const address_t *group) noexcept nogil:
    cdef uint32_t i
    for i in range(layout.n_networks):
        if network_has_group(layout, layout.networks[i].tagged_number, group):
            return True
    return False


cdef inline bint in_wrong_group(const frame_t *f, const layout_t *layout) noexcept nogil:
    """Rule 6."""
    if f.encap == ENCAP_RAW or (f.endpoint != NO_ENDPOINT and not f.nested):
        return False
    if layout.n_networks == 0:
        return f.scope == SCOPE_NVE
    if f.scope == SCOPE_NVE:
        return not network_has_group(layout, tagged_number(f), &f.group)
    if f.entry.key.kind_scope_encap_number >> 48 < KIND_VNI:
        if network_find(layout, tagged_number(f)) == NO_ROW:
            return any_network_has_group(layout, &f.group)
        return not network_has_group(layout, tagged_number(f), &f.group)
    if f.entry.n_numbers:
        return not numbers_hold(f.entry, tagged_number(f))
    return network_find(layout, tagged_number(f)) != NO_ROW


cdef inline uint32_t count_owner(
    const entry_t *entry, uint32_t first, uint32_t n, const directory_t *egresses, uint32_t owner
) noexcept nogil:
    cdef const uint32_t *ids = entry_egresses(entry) + first
    cdef uint32_t i
    if owner == OWNER_NONE:
        return 0
    for i in range(n):
        if directory_egress(egresses, ids[i]).owner == owner:
            return 1
    return 0


cdef inline bint ecn_lost(const frame_t *f) noexcept nogil:
    """RFC 6040 section 4.2: congestion outside, over a packet that cannot carry the mark."""
    cdef uint8_t outside = f.tos & 3
    if f.nested:
        outside = load_tos(f.data + f.ut, f.ut_version) & 3
        if outside == 3 and f.tos & 3 == 0:
            return True
        outside = ecn_inside(outside, f.tos & 3)
    return (
        outside == 3 and f.scope == SCOPE_NVE and f.encap != ENCAP_RAW and f.inner_version != 0
        and load_tos(f.data + f.inner_ip, f.inner_version) & 3 == 0
    )


cdef inline uint8_t judge(frame_t *f, const fib_t *fib) noexcept nogil:
    """Rules 6 to 9 for a frame that has its list."""
    cdef const layout_t *layout = fib.layout
    cdef const entry_t *entry = f.entry
    cdef uint32_t first, n
    if in_wrong_group(f, layout):
        return REASON_WRONG_GROUP
    if f.scope == SCOPE_REPLICATOR and not f.allowed and count_owner(
        entry, 0, entry.n_local + entry.n_remote, fib.directory, f.owner_sender
    ) == 0:
        return REASON_UNKNOWN_PEER
    if layout.strict_members and f.scope == SCOPE_DEVICE and f.source_class == CLASS_LOCAL and count_owner(
        entry, 0, entry.n_local, fib.directory, f.owner_port
    ) + count_owner(entry, 0, entry.n_local, fib.directory, f.owner_sender if f.from_nve else OWNER_NONE) == 0:
        return REASON_NOT_A_MEMBER
    if ecn_lost(f):
        return REASON_ECN_NOT_CAPABLE
    if unlikely(layout.has_snoop) and is_unregistered(f, layout):
        if f.encap != ENCAP_RAW:
            return REASON_UNREGISTERED_GROUP
        f.source_class = CLASS_UP
    first = entry_first(entry, f.source_class)
    n = entry_last(entry, f.source_class) - first
    if n <= 2 and n == count_owner(entry, first, n, fib.directory, f.owner_port) + count_owner(
        entry, first, n, fib.directory, f.owner_sender
    ):
        return REASON_NO_RECEIVER
    return REASON_NONE


cdef void classify_batch(batch_t *batch, const fib_t *fib, learner_t *learner) noexcept nogil:
    """Give every frame its verdict; frames to REPLICATE know their list and are set right in place."""
    cdef const layout_t *layout = fib.layout
    cdef frame_t *f
    cdef uint8_t reason
    cdef uint32_t i
    cdef bint numbered = False
    batch.n_punts = 0
    for i in range(batch.n):
        if i + 4 < batch.n:
            wire_prefetch(batch.frames[i + 4].data)
            wire_prefetch(batch.frames[i + 4].data + 64)
        f = &batch.frames[i]
        decap_frame(f, layout)
        if f.verdict == VERDICT_PENDING:
            reason = identify(f, layout)
            if reason != REASON_NONE:
                drop(f, reason)
            elif unlikely(layout.has_snoop) and is_tenants_word(f, layout):
                if in_wrong_group(f, layout):
                    drop(f, REASON_WRONG_GROUP)
                else:
                    f.verdict = VERDICT_PUNT
                    f.of_tenant = True
            else:
                numbered |= by_number(f)
        if f.verdict == VERDICT_PUNT:
            batch.n_punts += 1
            if batch.stepwise:
                batch.n = i + 1
                break
    if learner != NULL:
        learn_lookup(learner, batch, fib)
    if fib.n_kind[KIND_INNER_SOURCE_GROUP]:
        lookup_round(batch, fib, KIND_INNER_SOURCE_GROUP)
    if fib.n_kind[KIND_INNER_GROUP]:
        lookup_round(batch, fib, KIND_INNER_GROUP)
    if layout.has_vm_maps and fib.n_kind[KIND_GROUP]:
        lookup_round(batch, fib, KIND_MAP)
    if numbered:
        if fib.n_kind[KIND_VNI]:
            lookup_round(batch, fib, KIND_VNI)
        recover_groups(batch, layout)
    if fib.n_kind[KIND_SOURCE_GROUP]:
        lookup_round(batch, fib, KIND_SOURCE_GROUP)
    if fib.n_kind[KIND_GROUP]:
        lookup_round(batch, fib, KIND_GROUP)
    for i in range(batch.n):
        f = &batch.frames[i]
        if f.verdict != VERDICT_PENDING:
            continue
        reason = judge(f, fib) if f.entry != NULL else REASON_UNKNOWN_GROUP
        if reason != REASON_NONE:
            drop(f, reason)
        else:
            f.verdict = VERDICT_REPLICATE
            normalise_frame(f, layout)

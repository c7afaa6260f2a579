"""From frame to verdict: sections 1 to 3 of README.md in this folder, as passes over the batch.

Parse all frames, ask who sent each, look all keys up with prefetch between the steps, then judge. Passes, because at a million
groups every step of a lookup misses the cache, and 256 misses side by side cost little more than one.
"""

from libc.stdint cimport uint8_t, uint32_t
from fastpath._decap cimport NO_ENDPOINT, decap_frame, finish_sum
from fastpath._frame cimport (
    CLASS_ALL, CLASS_LOCAL, CLASS_REMOTE, ENCAP_RAW, FACES_CORE, FACES_NVE, OWNER_NONE, REASON_ECN_NOT_CAPABLE, REASON_NONE,
    REASON_NOT_A_MEMBER, REASON_NO_RECEIVER, REASON_OWN_SOURCE, REASON_UNKNOWN_GROUP, REASON_UNKNOWN_PEER,
    REASON_UNREGISTERED_GROUP, REASON_WRONG_GROUP, REASON_WRONG_POINT, SCOPE_DEVICE, SCOPE_NVE, SCOPE_REPLICATOR, VERDICT_DROP, VERDICT_PENDING, VERDICT_PUNT, VERDICT_REPLICATE,
    address_t, batch_t, entry_t, frame_t,
)
from fastpath._guard cimport guard_form
from fastpath._ip cimport load_source, load_tos
from fastpath._layout cimport (
    NO_ROW, address_equal, address_table_find, allowed_from, layout_t, network_find, port_row_t, tagged_number,
)
from fastpath._learn cimport learn_lookup, learner_t
from fastpath._lookup cimport by_number, lookup_batch
from fastpath._normalise cimport ecn_inside, normalise_frame
from fastpath._snoop cimport has_tenants, is_tenants_word, narrow
from fastpath._trie cimport directory_egress, directory_t, entry_egresses, entry_first, entry_last, entry_numbers, fib_t
from fastpath._wire cimport wire_prefetch

cdef extern from *:
    bint unlikely(bint) noexcept nogil  # Cython's own: what stands behind it must not weigh on boxes without it (1 ns a frame)

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


cdef inline bint in_wrong_group(const frame_t *f, const layout_t *layout) noexcept nogil:
    """Rule 6."""
    if f.encap == ENCAP_RAW or (f.endpoint != NO_ENDPOINT and not f.nested):
        return False
    if layout.n_networks == 0:
        return f.scope == SCOPE_NVE
    if f.scope == SCOPE_NVE:
        return not network_has_group(layout, tagged_number(f), &f.group)
    if f.entry == NULL:       # asked by 8.1, which knows that some network has the number
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


cdef inline uint8_t judge(frame_t *f, const fib_t *fib, bint tenants) noexcept nogil:
    """Rules 6 to 9 for a frame that has its list; behind 8, with `tenants`, that of its tenants' group takes its place."""
    cdef const layout_t *layout = fib.layout
    cdef const entry_t *entry = f.entry
    cdef uint8_t nobody = REASON_NO_RECEIVER
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
    if unlikely(tenants):
        nobody = narrow(f, fib)
        if nobody == REASON_UNREGISTERED_GROUP and f.refined == NULL:
            return nobody
        entry = f.entry
    first = entry_first(entry, f.source_class)
    n = entry_last(entry, f.source_class) - first
    if n <= 2 and n == count_owner(entry, first, n, fib.directory, f.owner_port) + count_owner(
        entry, first, n, fib.directory, f.owner_sender
    ):
        return nobody
    return REASON_NONE


cdef void classify_batch(batch_t *batch, const fib_t *fib, learner_t *learner) noexcept nogil:
    """Give every frame its verdict; frames to REPLICATE know their list and are set right in place."""
    cdef const layout_t *layout = fib.layout
    cdef frame_t *f
    cdef uint8_t reason
    cdef uint32_t i
    cdef bint numbered = False, tenants = has_tenants(fib)
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
            finish_sum(f)
            batch.n_punts += 1
            if batch.stepwise:
                batch.n = i + 1
                break
    if learner != NULL:
        learn_lookup(learner, batch, fib)
    lookup_batch(batch, fib, numbered, tenants)
    for i in range(batch.n):
        f = &batch.frames[i]
        if f.verdict != VERDICT_PENDING:
            continue
        reason = judge(f, fib, tenants) if f.entry != NULL else REASON_UNKNOWN_GROUP
        if reason != REASON_NONE:
            drop(f, reason)
        else:
            f.verdict = VERDICT_REPLICATE
            normalise_frame(f, layout)

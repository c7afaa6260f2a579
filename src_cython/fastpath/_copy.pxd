# The one operation behind every copy: strip to what is kept, prepend a head, patch. Section 4 of README.md in this folder.
#
# All copies of a run at egresses of one class are alike but for addresses, identification and checksums. What they have in common,
# whether they are made at all included, is worked out once: the stamp. A port goes through the egresses of a request, asks
# `stamp_of` for the stamp where the class changes, finds room for `size` + HEAD_MAX bytes and has `copy_write` fill it. It keeps the
# stamp in a local variable whose address goes nowhere, so that the compiler may keep it in registers while bytes are written.
# Heads are copied in one of two sizes: that is a few vector stores, a variable copy is a function call.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from fastpath._frame cimport (
    ENCAP_ANY, ENCAP_NVGRE, ENCAP_RAW, ENCAP_VXLAN, HEAD_MAX, KEEP_OVERLAY, NUMBER_NONE, PATCH_FLOW_ID, PATCH_GRE_TYPE, PATCH_GROUP,
    PATCH_GROUP_MAC, PATCH_IPV4, PATCH_NUMBER, PATCH_PORTS, PATCH_SOURCE, PATCH_UDP_FULL, REASON_LINK_DOWN, REASON_NONE,
    REASON_NO_HEADER, REASON_NO_NEIGHBOUR, REASON_NO_VSID, REASON_OVER_MTU, REASON_TAG_IN_NVGRE, address_t, egress_state_t, egress_t, frame_t, program_t,
)
from fastpath._inner_train cimport inner_head_write
from fastpath._ip cimport PROTO_UDP, TYPE_IPV4, TYPE_IPV6, address_words_sum
from fastpath._layout cimport NO_ROW, address_is_ipv4, layout_t, network_find, tagged_number
from fastpath._port cimport run_t, tx_t
from fastpath._trie cimport directory_egress
from fastpath._wire cimport (
    wire_checksum, wire_copy, wire_fold, wire_fold32, wire_load_be16, wire_load_be32, wire_prefetch, wire_store_be16, wire_store_be32, wire_store_be64,
    wire_sum, wire_sum20, wire_udp_checksum,
)

cdef enum:
    CLASS_NONE = 0xffffffff
    DONT_FRAGMENT = 0x4000
    SHORT_HEAD = 48           # a nested tunnel over IPv4 needs 46, a group copy 14

# What all copies of one run have in common at egresses of one class.
cdef struct stamp_t:
    const uint8_t *kept
    uint64_t udp              # ports and length, as they stand in the header
    uint64_t udp_sum          # what the UDP checksum adds the addresses to
    uint32_t egress_class
    uint32_t size             # of a copy
    uint32_t kept_size
    uint32_t ip               # the first four bytes of the IP header
    uint32_t ip_sum           # IPv4: what its checksum adds addresses and identification to; IPv6: the payload length
    uint32_t addresses        # sum of those that come from the frame
    uint32_t word             # four bytes at word_at: VNI, VSID and FlowID, or the GRE header of a nested tunnel
    uint16_t patches
    uint8_t reason            # REASON_NONE: copies are made
    uint8_t made              # by the program of that name
    uint8_t has_udp_sum
    uint8_t head_size
    uint8_t ip_at
    uint8_t udp_at
    uint8_t word_at           # where there is no such word, behind the head, for the kept bytes to overwrite

cdef enum form_t:             # fastpath.model.Form
    FORM_GROUP = 0
    FORM_REWRITE = 1
    FORM_NESTED = 2
    FORM_DECAPSULATED = 3


cdef inline bint keeps_overlay(const egress_t *e, const frame_t *f) noexcept nogil:
    """Does the copy carry the frame's overlay header as it came?"""
    return (
        f.encap != ENCAP_RAW and (e.encap == ENCAP_ANY or e.encap == f.encap)
        and (e.vni == NUMBER_NONE or e.vni == f.number)
    )


cdef inline uint32_t made_number(const egress_t *e, const frame_t *f, const layout_t *layout) noexcept nogil:
    """The VNI or VSID of a copy whose overlay header is made anew."""
    cdef uint32_t at
    if e.vni != NUMBER_NONE:
        return e.vni
    if f.number_encap == e.encap:
        return f.number
    at = network_find(layout, tagged_number(f))
    return f.number if at == NO_ROW else layout.networks[at].other_number


cdef inline const program_t *choose_program(
    const egress_t *e, const frame_t *f, const layout_t *layout, uint32_t *number, uint8_t *reason
) noexcept nogil:
    """The program for a frame at an egress; NULL and the reason where there is none."""
    cdef const program_t *p = &e.native
    cdef bint kept = keeps_overlay(e, f)
    reason[0] = REASON_NO_HEADER
    number[0] = 0
    if e.form == FORM_DECAPSULATED:
        return p
    if e.form == FORM_NESTED or e.form == FORM_GROUP:
        if f.encap == ENCAP_RAW or not f.to_group:
            return NULL
        if e.form == FORM_NESTED or kept:
            return p
    elif kept:
        if e.encap == ENCAP_ANY and f.encap == ENCAP_NVGRE:
            p = &e.made
        if p.patches & PATCH_SOURCE and p.version != f.version:
            return NULL
        return p
    p = &e.made
    if e.encap == ENCAP_ANY or not p.valid:
        return NULL
    if p.patches & (PATCH_SOURCE | PATCH_GROUP) and (f.encap == ENCAP_RAW or p.version != f.version):
        return NULL
    number[0] = made_number(e, f, layout)
    if e.encap == ENCAP_NVGRE:
        if f.inner_tagged:
            reason[0] = REASON_TAG_IN_NVGRE
            return NULL
        if number[0] < 0x1000 or number[0] >= 0xffffff:
            reason[0] = REASON_NO_VSID
            return NULL
    return p


cdef inline uint32_t packet_limit(const program_t *p, const frame_t *f, uint32_t mtu) noexcept nogil:
    cdef uint32_t largest = 65575 if p.version == 6 or (p.version == 0 and f.version == 6) else 65535
    return mtu if 0 < mtu < largest else largest


cdef inline uint32_t kept_sum(run_t *run, uint8_t keep) noexcept nogil:
    if not run.sums_known >> keep & 1:
        run.sums[keep] = wire_sum(run.kept[keep], run.kept_size[keep])
        run.sums_known |= 1 << keep
    return run.sums[keep]


cdef inline uint32_t frame_addresses_sum(const program_t *p, const frame_t *f) noexcept nogil:
    """The sum of those addresses that the head takes from MT."""
    cdef const uint8_t *mt = f.data + f.mt
    cdef uint32_t total = 0
    if p.patches & PATCH_SOURCE:
        total += wire_sum(mt + 12, 4) if p.version == 4 else wire_sum(mt + 8, 16)
    if p.patches & PATCH_GROUP:
        total += wire_sum(mt + 16, 4) if p.version == 4 else wire_sum(mt + 24, 16)
    return total


cdef inline void stamp_udp(stamp_t *stamp, const program_t *p, run_t *run) noexcept nogil:
    """Ports, length, and what the checksum of every copy begins with: none, carried over, or in full."""
    cdef const frame_t *f = run.frame
    cdef uint32_t size = stamp.size - p.udp
    cdef uint32_t ports = <uint32_t>0xc0000000 | (f.flow & 0x3fff) << 16 | wire_load_be16(p.head + p.udp + 2)
    cdef uint16_t old = 0
    cdef uint32_t at
    if p.patches & PATCH_PORTS:
        ports = wire_load_be32(f.data + f.transport)
        old = wire_load_be16(f.data + f.transport + 6)
    stamp.udp = <uint64_t>ports << 32 | <uint64_t>size << 16
    stamp.has_udp_sum = 1
    if old != 0:
        stamp.udp_sum = <uint64_t><uint16_t>~old + <uint16_t>~address_words_sum(f.data + f.mt, f.version)
    elif p.patches & PATCH_UDP_FULL or (p.patches & PATCH_PORTS and p.version == 6):
        stamp.udp_sum = <uint64_t>PROTO_UDP + 2 * size + (ports >> 16) + (ports & 0xffff) + kept_sum(run, p.keep)
        for at in range(p.udp + 8, stamp.word_at, 2):
            stamp.udp_sum += wire_load_be16(p.head + at)
        if stamp.word_at < p.head_size:
            stamp.udp_sum += (stamp.word >> 16) + (stamp.word & 0xffff)
    else:
        stamp.has_udp_sum = 0


cdef inline void stamp_ip(stamp_t *stamp, const program_t *p, uint8_t tos, uint32_t size) noexcept nogil:
    """The first words of the IP header, which hold the TOS and the length."""
    if p.patches & PATCH_IPV4:
        stamp.ip = <uint32_t>0x4500 << 16 | <uint32_t>tos << 16 | size
        stamp.ip_sum = p.ip_sum + tos + size
    else:
        stamp.ip = <uint32_t>6 << 28 | <uint32_t>tos << 20
        stamp.ip_sum = size - 40


cdef inline uint16_t frame_ethertype(const frame_t *f) noexcept nogil:
    return TYPE_IPV4 if f.version == 4 else TYPE_IPV6


cdef inline stamp_t stamp_of(tx_t *tx, const egress_t *e) noexcept nogil:
    """Work out what all copies of a run for the class of `e` have in common."""
    cdef run_t *run = tx.run
    cdef const frame_t *f = run.frame
    cdef uint32_t number
    cdef stamp_t stamp
    cdef const program_t *p
    memset(&stamp, 0, sizeof(stamp))
    p = choose_program(e, f, tx.layout, &number, &stamp.reason)
    stamp.egress_class = e.egress_class
    if p == NULL:
        return stamp
    stamp.kept = run.kept[p.keep]
    stamp.kept_size = run.kept_size[p.keep]
    stamp.size = p.head_size + stamp.kept_size
    if stamp.size - 14 > packet_limit(p, f, tx.layout.ports[tx.out_port].mtu):
        stamp.reason = REASON_OVER_MTU
        return stamp
    if tx.layout.ports[tx.out_port].is_down:
        stamp.reason = REASON_LINK_DOWN
        return stamp
    if e.unresolved:
        stamp.reason = REASON_NO_NEIGHBOUR
        return stamp
    stamp.reason = REASON_NONE
    stamp.made = p == &e.made
    stamp.patches = p.patches
    stamp.head_size = p.head_size
    stamp.ip_at = p.ip
    stamp.udp_at = p.udp
    stamp.word_at = p.head_size
    stamp.addresses = frame_addresses_sum(p, f)
    if p.patches & PATCH_NUMBER:
        stamp.word_at = p.number
        stamp.word = number << 8 | ((f.flow >> 16 & 0xff) if p.patches & PATCH_FLOW_ID else 0)
    elif p.patches & PATCH_GRE_TYPE:
        stamp.word_at = p.head_size - 4
        stamp.word = frame_ethertype(f)
    if p.ip != 0:
        stamp_ip(&stamp, p, f.tos, stamp.size - p.ip)
        if p.udp != 0:
            stamp_udp(&stamp, p, run)
    return stamp


cdef inline stamp_t train_stamp_of(tx_t *tx, const egress_t *e) noexcept nogil:
    """As `stamp_of`, for the one outer header of a train; `size` is still that of its first copy."""
    cdef stamp_t stamp = stamp_of(tx, e)
    cdef const program_t *p = &e.made if stamp.made else &e.native
    if stamp.reason == REASON_NONE and p.ip != 0:
        stamp_ip(&stamp, p, tx.run.frame.tos, p.udp - p.ip + 8 + tx.train_size)
    return stamp


cdef inline const egress_t *tx_egress(const tx_t *tx, uint32_t k) noexcept nogil:
    """Egress `k` of a request. Those two ahead are fetched meanwhile: what copies write drives them out of the first cache."""
    cdef const egress_t *ahead
    if k + 2 < tx.n_egresses:
        ahead = directory_egress(tx.directory, tx.egresses[k + 2])
        wire_prefetch(ahead)
        wire_prefetch(<const uint8_t *>ahead + 64)
    return directory_egress(tx.directory, tx.egresses[k])


cdef inline const program_t *stamp_program(const stamp_t *stamp, const egress_t *e) noexcept nogil:
    return &e.made if stamp.made else &e.native


cdef inline void tx_refuse(tx_t *tx, uint32_t k, uint8_t reason) noexcept nogil:
    """Book the copies of egress `k` as dropped."""
    tx.drops[reason] += tx.run.n_frames
    tx.states[tx.egresses[k]].dropped += tx.run.n_frames


cdef inline void state_unbook(egress_state_t *state, uint32_t n_copies, uint64_t size, bint kept) noexcept nogil:
    """Take back what `copy_write` or `train_head_write` booked for copies, `size` bytes together, that did not leave after all."""
    state.copies -= n_copies
    state.bytes -= size
    if kept:
        state.kept -= n_copies


cdef inline void write_group_mac(uint8_t *mac, const address_t *group) noexcept nogil:
    if address_is_ipv4(group):
        wire_store_be16(mac, 0x0100)
        wire_store_be32(mac + 2, 0x5e000000 | (<uint32_t>group.low & 0x7fffff))
    else:
        wire_store_be16(mac, 0x3333)
        wire_store_be32(mac + 2, <uint32_t>group.low)


cdef inline void write_from_frame(uint8_t *out, const stamp_t *stamp, const program_t *p, const frame_t *f) noexcept nogil:
    """Fill in what comes from the frame's own outer headers: the group's MAC, the addresses."""
    cdef const uint8_t *mt = f.data + f.mt
    cdef uint8_t *ip = out + stamp.ip_at
    if stamp.patches & PATCH_GROUP_MAC:
        write_group_mac(out, &f.group)
        wire_store_be16(out + 12, frame_ethertype(f))
    if stamp.patches & PATCH_SOURCE:
        if p.version == 4:
            memcpy(ip + 12, mt + 12, 4)
        else:
            memcpy(ip + 8, mt + 8, 16)
    if stamp.patches & PATCH_GROUP:
        if p.version == 4:
            memcpy(ip + 16, mt + 16, 4)
        else:
            memcpy(ip + 24, mt + 24, 16)


cdef inline uint32_t write_head(
    uint8_t *out, const stamp_t *stamp, const program_t *p, const frame_t *f, uint64_t id
) noexcept nogil:
    """Ethernet and IP headers of a copy; returns the sum of the IP addresses."""
    cdef uint32_t addresses = p.address_sum + stamp.addresses
    memcpy(out, p.head, SHORT_HEAD)
    if stamp.head_size > SHORT_HEAD:
        memcpy(out + SHORT_HEAD, p.head + SHORT_HEAD, HEAD_MAX - SHORT_HEAD)
    if stamp.patches & (PATCH_GROUP_MAC | PATCH_SOURCE | PATCH_GROUP):
        write_from_frame(out, stamp, p, f)
    if stamp.patches & PATCH_IPV4:
        wire_store_be64(out + stamp.ip_at, <uint64_t>stamp.ip << 32 | (id & 0xffff) << 16 | DONT_FRAGMENT)
        wire_store_be16(out + stamp.ip_at + 10, <uint16_t>~wire_fold32(stamp.ip_sum + addresses + (id & 0xffff)))
    elif stamp.ip_at != 0:
        wire_store_be32(out + stamp.ip_at, stamp.ip)
        wire_store_be16(out + stamp.ip_at + 4, <uint16_t>stamp.ip_sum)
    return addresses


cdef inline void copy_write(
    uint8_t *out, const stamp_t *stamp, const egress_t *e, const frame_t *f, egress_state_t *state
) noexcept nogil:
    """Write one copy, the stamp's `size` bytes, and book it; HEAD_MAX bytes behind it may be overwritten."""
    cdef uint32_t addresses = write_head(out, stamp, stamp_program(stamp, e), f, state.copies - state.kept)
    if stamp.udp_at != 0:
        wire_store_be64(out + stamp.udp_at, stamp.udp)
        if stamp.has_udp_sum:
            wire_store_be16(out + stamp.udp_at + 6, wire_udp_checksum(stamp.udp_sum + addresses))
    wire_store_be32(out + stamp.word_at, stamp.word)
    wire_copy(out + stamp.head_size, stamp.kept, stamp.kept_size)
    state.copies += 1
    if stamp.ip_at == 0:
        state.kept += 1
    state.bytes += stamp.size


cdef inline bint fits_mtu(const program_t *p, const run_t *run, const layout_t *layout, uint32_t out_port) noexcept nogil:
    """Are the copies of the largest frame of a run, its first, within the MTU?"""
    return p.head_size + run.kept_size[p.keep] - 14 <= packet_limit(p, run.frame, layout.ports[out_port].mtu)


cdef inline bint rides(const egress_t *e, const run_t *run, const layout_t *layout) noexcept nogil:
    """May the copies of a train leave as one super-frame at this egress? Only UDP outside, and headers of fixed size.

    Copies over the MTU go one by one, for a shorter last one may pass. So do those whose checksum nobody has verified:
    segmentation would make a wrong one right.
    """
    cdef uint32_t number
    cdef uint8_t reason
    cdef const frame_t *f = run.frame
    cdef const program_t *p = choose_program(e, f, layout, &number, &reason)
    if p == NULL or p.rides == 255 or not fits_mtu(p, run, layout, e.out_port):
        return False
    if p.keep != KEEP_OVERLAY and p.ip != 0:
        return True
    return (
        f.encap == ENCAP_VXLAN and (p.ip != 0 or f.transport - f.mt == (20 if f.version == 4 else 40))
        and (layout.verify_checksums or wire_load_be16(f.data + f.transport + 6) == 0)
    )


cdef inline uint32_t train_head_write(uint8_t *out, tx_t *tx, uint32_t k, const stamp_t *stamp) noexcept nogil:
    """Write the one header of a train for egress `k` by a `train_stamp_of`, with room for TRAIN_HEAD_MAX bytes, and book its
    copies; returns its size.

    The checksum field holds the sum of the pseudo-header, for the kernel to finish in every segment (LIMITS trap 1).
    """
    cdef const frame_t *f = tx.run.frame
    cdef const egress_t *e = tx_egress(tx, k)
    cdef const program_t *p = stamp_program(stamp, e)
    cdef egress_state_t *state = &tx.states[tx.egresses[k]]
    cdef uint32_t ip = 14, udp = p.udp if p.ip != 0 else ip + f.transport - f.mt, addresses, size
    if e.form == FORM_DECAPSULATED:
        size = inner_head_write(out, f, &tx.transport, tx.train_size)
        state.copies += tx.run.n_frames
        state.kept += tx.run.n_frames
        state.bytes += <uint64_t>tx.run.n_frames * size + tx.train_size
        return size
    if p.ip != 0:
        addresses = write_head(out, stamp, p, f, state.copies - state.kept)
        wire_store_be32(out + udp, <uint32_t>(stamp.udp >> 32))
    else:
        write_head(out, stamp, p, f, 0)
        memcpy(out + ip, f.data + f.mt, f.overlay - f.mt)
        addresses = address_words_sum(f.data + f.mt, f.version)
        size = udp - ip + 8 + tx.train_size
        if f.version == 4:
            wire_store_be16(out + ip + 2, <uint16_t>size)
            wire_store_be16(out + ip + 10, 0)
            wire_store_be16(out + ip + 10, wire_checksum(wire_sum20(out + ip)))
        else:
            wire_store_be16(out + ip + 4, <uint16_t>(size - 40))
    wire_store_be16(out + udp + 4, <uint16_t>(8 + tx.train_size))
    wire_store_be16(out + udp + 6, wire_fold(<uint64_t>addresses + PROTO_UDP + 8 + tx.train_size))
    state.copies += tx.run.n_frames
    if p.ip == 0:
        state.kept += tx.run.n_frames
    state.bytes += <uint64_t>tx.run.n_frames * (udp + 8) + tx.train_size
    return udp + 8

# The one operation behind every copy: strip to what is kept, prepend a head, patch. Section 4 of README.md in this folder.
#
# A port asks `tx_program` for each egress, which answers NULL where no copy is made (and has counted why), makes room for
# `size` + HEAD_MAX bytes, and has `copy_write` fill it. Heads are copied at their largest size: a fixed copy is a few
# vector stores, a variable one a function call.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from fastpath._decap cimport TYPE_IPV4, TYPE_IPV6, address_words_sum
from fastpath._trie cimport directory_egress
from fastpath._frame cimport (
    ENCAP_ANY, ENCAP_NVGRE, ENCAP_RAW, ENCAP_VXLAN, HEAD_MAX, KEEP_MT, KEEP_OVERLAY, NUMBER_NONE, PATCH_FLOW_ID,
    PATCH_FLOW_PORT, PATCH_GRE_TYPE, PATCH_GROUP, PATCH_GROUP_MAC, PATCH_IPV4, PATCH_IPV6, PATCH_NUMBER, PATCH_PORTS,
    PATCH_SOURCE, PATCH_UDP_FULL, REASON_NONE, REASON_NO_HEADER, REASON_NO_VSID, REASON_OVER_MTU,
    REASON_TAG_IN_NVGRE, TRAIN_SIZE_MAX, address_t, egress_state_t, egress_t, frame_t, program_t,
)
from fastpath._layout cimport NO_ROW, address_is_ipv4, layout_t, network_find
from fastpath._port cimport run_t, tx_t
from fastpath._wire cimport (
    wire_checksum, wire_fold, wire_load_be16, wire_load_be32, wire_load_be64, wire_store_be16, wire_store_be32,
    wire_store_be64, wire_sum, wire_udp_checksum,
)

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
    if f.encap == ENCAP_RAW or f.encap == e.encap:
        return f.number
    at = network_find(layout, <uint32_t>f.encap << 24 | f.number)
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
    if mtu != 0:
        return mtu
    return 65575 if p.version == 6 or (p.version == 0 and f.version == 6) else 65535


cdef inline const program_t *tx_program(tx_t *tx, uint32_t k, uint32_t *number, uint32_t *size) noexcept nogil:
    """The program for copy (or train) `k` of a request, and the size of one copy; NULL where it is dropped."""
    cdef const egress_t *e = directory_egress(tx.directory, tx.egresses[k])
    cdef const frame_t *f = tx.run.frame
    cdef uint8_t reason
    cdef const program_t *p = choose_program(e, f, tx.layout, number, &reason)
    if p != NULL:
        size[0] = p.head_size + tx.run.kept_size[p.keep]
        if size[0] - 14 <= packet_limit(p, f, tx.layout.ports[tx.out_port].mtu):
            return p
        reason = REASON_OVER_MTU
    tx.drops[reason] += tx.run.n_frames
    tx.states[tx.egresses[k]].dropped += tx.run.n_frames
    return NULL


cdef inline void tx_count(tx_t *tx, uint32_t k, uint64_t size) noexcept nogil:
    """Book the copies of egress `k`, `size` bytes together, as sent."""
    cdef egress_state_t *state = &tx.states[tx.egresses[k]]
    state.copies += tx.run.n_frames
    state.bytes += size


cdef inline void tx_refuse(tx_t *tx, uint32_t k, uint8_t reason) noexcept nogil:
    tx.drops[reason] += tx.run.n_frames
    tx.states[tx.egresses[k]].dropped += tx.run.n_frames


cdef inline void write_group_mac(uint8_t *mac, const address_t *group) noexcept nogil:
    if address_is_ipv4(group):
        wire_store_be16(mac, 0x0100)
        wire_store_be32(mac + 2, 0x5e000000 | (<uint32_t>group.low & 0x7fffff))
    else:
        wire_store_be16(mac, 0x3333)
        wire_store_be32(mac + 2, <uint32_t>group.low)


cdef inline uint32_t write_addresses(uint8_t *head, const program_t *p, const frame_t *f) noexcept nogil:
    """Fill the addresses that come from MT; returns the sum of both addresses."""
    cdef uint32_t total = p.address_sum
    cdef const uint8_t *mt = f.data + f.mt
    if p.patches & (PATCH_SOURCE | PATCH_GROUP) == 0:
        return total
    if p.version == 4:
        if p.patches & PATCH_SOURCE:
            memcpy(head + p.ip + 12, mt + 12, 4)
            total += wire_sum(mt + 12, 4)
        if p.patches & PATCH_GROUP:
            memcpy(head + p.ip + 16, mt + 16, 4)
            total += wire_sum(mt + 16, 4)
    else:
        if p.patches & PATCH_SOURCE:
            memcpy(head + p.ip + 8, mt + 8, 16)
            total += wire_sum(mt + 8, 16)
        if p.patches & PATCH_GROUP:
            memcpy(head + p.ip + 24, mt + 24, 16)
            total += wire_sum(mt + 24, 16)
    return total


cdef inline void write_ip(
    uint8_t *ip, const program_t *p, uint8_t tos, uint32_t size, uint32_t addresses, uint64_t id
) noexcept nogil:
    """Lengths, TOS, identification and checksum of the head's IP header; `size` counts from it to the end."""
    if p.patches & PATCH_IPV4:
        ip[1] = tos
        wire_store_be16(ip + 2, <uint16_t>size)
        wire_store_be16(ip + 4, <uint16_t>id)
        wire_store_be16(ip + 10, wire_checksum(<uint64_t>p.ip_sum + addresses + tos + size + (id & 0xffff)))
    else:
        wire_store_be32(ip, <uint32_t>6 << 28 | <uint32_t>tos << 20)
        wire_store_be16(ip + 4, <uint16_t>(size - 40))


cdef inline uint32_t kept_sum(run_t *run, uint8_t keep) noexcept nogil:
    if not run.sums_known >> keep & 1:
        run.sums[keep] = wire_sum(run.kept[keep], run.kept_size[keep])
        run.sums_known |= 1 << keep
    return run.sums[keep]


cdef inline uint16_t copied_udp_checksum(
    const uint8_t *head, const program_t *p, run_t *run, uint32_t size, uint32_t addresses
) noexcept nogil:
    """The UDP checksum of a copy, by the rules of section 4: none, carried over, or in full."""
    cdef const frame_t *f = run.frame
    cdef uint16_t old
    if p.patches & PATCH_PORTS:
        old = wire_load_be16(f.data + f.transport + 6)
        if old != 0:
            return wire_udp_checksum(
                <uint64_t><uint16_t>~old + <uint16_t>~address_words_sum(f.data + f.mt, f.version) + addresses
            )
        if p.version == 4:
            return 0
    elif not p.patches & PATCH_UDP_FULL:
        return 0
    return wire_udp_checksum(
        <uint64_t>addresses + 17 + size + wire_sum(head + p.udp, p.head_size - p.udp) + kept_sum(run, p.keep)
    )


cdef inline void write_udp(uint8_t *head, const program_t *p, const frame_t *f, uint32_t size) noexcept nogil:
    """Ports and length; the checksum field stays zero."""
    if p.patches & PATCH_PORTS:
        memcpy(head + p.udp, f.data + f.transport, 4)
    else:
        wire_store_be16(head + p.udp, <uint16_t>(0xc000 | (f.flow & 0x3fff)))
    wire_store_be16(head + p.udp + 4, <uint16_t>size)


cdef inline void copy_write(
    uint8_t *out, tx_t *tx, uint32_t k, const program_t *p, uint32_t number, uint32_t size
) noexcept nogil:
    """Write copy `k` of a request: `size` bytes; HEAD_MAX more behind them may be overwritten."""
    cdef run_t *run = tx.run
    cdef const frame_t *f = run.frame
    cdef egress_state_t *state = &tx.states[tx.egresses[k]]
    cdef uint32_t addresses
    memcpy(out, p.head, HEAD_MAX)
    memcpy(out + p.head_size, run.kept[p.keep], run.kept_size[p.keep])
    if p.patches & PATCH_GROUP_MAC:
        write_group_mac(out, &f.group)
        wire_store_be16(out + 12, TYPE_IPV4 if f.version == 4 else TYPE_IPV6)
    if p.ip == 0:
        return
    addresses = write_addresses(out, p, f)
    write_ip(out + p.ip, p, f.tos, size - p.ip, addresses, state.next_id)
    state.next_id += 1
    if p.patches & PATCH_NUMBER:
        wire_store_be32(out + p.number, number << 8 | ((f.flow >> 16 & 0xff) if p.patches & PATCH_FLOW_ID else 0))
    if p.patches & PATCH_GRE_TYPE:
        wire_store_be16(out + p.head_size - 2, TYPE_IPV4 if f.version == 4 else TYPE_IPV6)
    if p.udp != 0:
        write_udp(out, p, f, size - p.udp)
        wire_store_be16(out + p.udp + 6, copied_udp_checksum(out, p, run, size - p.udp, addresses))


cdef inline bint rides(const egress_t *e, const frame_t *f, const layout_t *layout) noexcept nogil:
    """May the copies of a train leave as one super-frame at this egress? Only UDP outside, and headers of fixed size."""
    cdef uint32_t number
    cdef uint8_t reason
    cdef const program_t *p = choose_program(e, f, layout, &number, &reason)
    return p != NULL and p.rides != 255 and (p.keep == KEEP_MT or f.encap == ENCAP_VXLAN) and (
        p.ip != 0 or (f.encap == ENCAP_VXLAN and f.transport - f.mt == (20 if f.version == 4 else 40))
    )


cdef inline uint32_t train_head_write(uint8_t *out, tx_t *tx, uint32_t k, const program_t *p) noexcept nogil:
    """Write the one outer header of a train for egress `k`, with room for HEAD_MAX bytes; returns its size.

    The UDP checksum field holds the sum of the pseudo-header, for the kernel to finish in every segment (LIMITS trap 1).
    """
    cdef const frame_t *f = tx.run.frame
    cdef egress_state_t *state = &tx.states[tx.egresses[k]]
    cdef uint32_t ip = p.ip, udp = p.udp, addresses, size
    memcpy(out, p.head, HEAD_MAX)
    if p.patches & PATCH_GROUP_MAC:
        write_group_mac(out, &f.group)
        wire_store_be16(out + 12, TYPE_IPV4 if f.version == 4 else TYPE_IPV6)
    if ip == 0:
        ip = 14
        udp = ip + f.transport - f.mt
        memcpy(out + ip, f.data + f.mt, f.overlay - f.mt)
        size = udp - ip + 8 + tx.train_size
        addresses = address_words_sum(f.data + f.mt, f.version)
        if f.version == 4:
            wire_store_be16(out + ip + 2, <uint16_t>size)
            wire_store_be16(out + ip + 10, 0)
            wire_store_be16(out + ip + 10, wire_checksum(wire_sum(out + ip, 20)))
        else:
            wire_store_be16(out + ip + 4, <uint16_t>(size - 40))
        wire_store_be16(out + udp + 4, <uint16_t>(8 + tx.train_size))
    else:
        addresses = write_addresses(out, p, f)
        write_ip(out + ip, p, f.tos, udp - ip + 8 + tx.train_size, addresses, state.next_id)
        state.next_id += tx.run.n_frames
        write_udp(out, p, f, 8 + tx.train_size)
    wire_store_be16(out + udp + 6, wire_fold(<uint64_t>addresses + 17 + 8 + tx.train_size))
    return udp + 8

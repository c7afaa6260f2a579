# The receiving half of the AF_PACKET port: a TPACKET_V2 ring, with virtio_net_hdr before each frame.
#
# Slots are handed over one by one (the blocks of V3 keep a lone frame for a millisecond: LIMITS trap 8). Frames are worked on where
# they stand. What is larger than a slot, super-frames above all, comes whole through the socket's queue, in step with its slot.
# Super-frames are cut (`_split.pxd`) into a room of the ring, as many as the batch still takes; the slot is kept until the rest has gone
# with the next bursts.
from libc.errno cimport EBADF
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memmove
from fastpath._frame cimport MARK_NONE, MARK_UNFINISHED, MARK_UNSPLIT, batch_t, frame_t
from fastpath._wire cimport wire_prefetch, wire_store_be16
from fastpath.io._linux cimport (
    MSG_DONTWAIT, TP_STATUS_COPY, TP_STATUS_KERNEL, TP_STATUS_USER, TP_STATUS_VLAN_TPID_VALID, TP_STATUS_VLAN_VALID,
    VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_NONE, VNET_SIZE, recv, shared_load, shared_store, tpacket2_hdr,
    virtio_net_hdr,
)
from fastpath.io._split cimport split_begin, split_next, split_size, split_t

cdef enum:
    SLOT_SIZE = 2048
    ROOM_SIZE = 1 << 20       # for what does not stand in the ring: of one batch
    SUPER_SIZE = 1 << 17      # one super-frame, twice what there is
    MACS_SIZE = 12
    TAG_SIZE = 4

cdef struct ring_t:
    uint8_t *slots            # NULL: closed
    uint64_t n_slots          # a power of two
    uint64_t cursor           # the next slot to look at; counts on
    uint64_t released         # the oldest slot that is ours
    uint64_t n_cut_off        # frames that came without their end
    int fd
    bint tags_in_place        # a tag that the kernel took out of a frame is put back
    uint32_t room_used
    uint8_t *room
    uint8_t *super_frame
    split_t split             # the super-frame of the slot at `cursor`


cdef inline tpacket2_hdr *slot_at(const ring_t *r, uint64_t place) noexcept nogil:
    return <tpacket2_hdr *>(r.slots + (place & (r.n_slots - 1)) * SLOT_SIZE)


cdef inline frame_t *push_frame(
    const tpacket2_hdr *slot, uint32_t status, uint16_t in_port, batch_t *batch, uint8_t *data, uint32_t size
) noexcept nogil:
    """One more frame in the batch, as its slot describes it."""
    cdef frame_t *f = &batch.frames[batch.n]
    batch.n += 1
    f.data = data
    f.size = size
    f.time_ns = <uint64_t>slot.tp_sec * 1000000000 + slot.tp_nsec
    f.in_port = in_port
    f.marked = MARK_NONE
    f.vlan_tpid = f.vlan_tci = 0
    if status & TP_STATUS_VLAN_VALID:
        f.vlan_tpid = slot.tp_vlan_tpid if status & TP_STATUS_VLAN_TPID_VALID else 0x8100
        f.vlan_tci = slot.tp_vlan_tci
    return f


cdef inline void cut(ring_t *r, uint16_t in_port, batch_t *batch) noexcept nogil:
    """Frames of the super-frame at hand, as many as find a place; the slot is done with the last."""
    cdef tpacket2_hdr *slot = slot_at(r, r.cursor)
    cdef uint32_t size
    cdef frame_t *f
    while batch.n < batch.capacity:
        size = split_size(&r.split)
        if r.room_used + size > ROOM_SIZE:
            return
        f = push_frame(slot, slot.tp_status, in_port, batch, r.room + r.room_used, size)
        f.marked = MARK_UNFINISHED
        f.mark_start = r.split.start
        f.mark_offset = r.split.offset
        r.room_used += (split_next(&r.split, f.data) + 63) & ~63
        if r.split.data == NULL:
            r.cursor += 1
            return


cdef inline uint8_t *put_tag_back(tpacket2_hdr *slot, uint8_t *data, virtio_net_hdr *vnet) noexcept nogil:
    """Make the tag part of the frame at `data`, over the virtio_net_hdr before it; returns where the frame begins now."""
    cdef uint16_t tpid = slot.tp_vlan_tpid if slot.tp_status & TP_STATUS_VLAN_TPID_VALID else 0x8100
    memmove(data - TAG_SIZE, data, MACS_SIZE)
    wire_store_be16(data + MACS_SIZE - TAG_SIZE, tpid)
    wire_store_be16(data + MACS_SIZE - TAG_SIZE + 2, slot.tp_vlan_tci)
    slot.tp_status &= ~TP_STATUS_VLAN_VALID
    vnet.csum_start += TAG_SIZE
    return data - TAG_SIZE


cdef inline int64_t take_queued(ring_t *r, uint8_t *to, uint32_t size) noexcept nogil:
    """Read the frame that belongs to a slot from the queue, with its virtio_net_hdr; its size, or 0."""
    cdef ssize_t n = -1
    cdef int tries = 3
    while n < 0 and tries:  # an interface that went down interrupts once
        n = recv(r.fd, to, size, MSG_DONTWAIT)
        tries -= 1
    return n - VNET_SIZE if n > VNET_SIZE else 0


cdef inline bint take_slot(ring_t *r, tpacket2_hdr *slot, uint32_t status, uint16_t in_port, batch_t *batch) noexcept nogil:
    """Hand over what came with a slot. False: no room for it in this batch."""
    cdef uint8_t *data = <uint8_t *>slot + slot.tp_mac
    cdef virtio_net_hdr *vnet = <virtio_net_hdr *>(data - VNET_SIZE)
    cdef virtio_net_hdr saved
    cdef uint32_t size = slot.tp_snaplen
    cdef frame_t *f
    cdef bint is_super = vnet.gso_type != VIRTIO_NET_HDR_GSO_NONE, is_whole = size == slot.tp_len
    cdef uint8_t *whole = data
    wire_prefetch(data + 64)  # with the line at hand, all headers
    if not is_whole and status & TP_STATUS_COPY:
        if is_super:
            whole = r.super_frame
        elif r.room_used + VNET_SIZE + slot.tp_len > ROOM_SIZE:
            return False
        else:
            whole = r.room + r.room_used
        size = <uint32_t>take_queued(r, whole, SUPER_SIZE if is_super else ROOM_SIZE - r.room_used)
        whole += VNET_SIZE
        is_whole = size == slot.tp_len
        if is_whole and not is_super:
            r.room_used += (VNET_SIZE + size + 63) & ~63
    if not is_whole:
        r.n_cut_off += 1
        r.cursor += 1
        return True
    if r.tags_in_place and status & TP_STATUS_VLAN_VALID:
        saved = vnet[0]
        vnet = &saved
        whole = put_tag_back(slot, whole, vnet)
        size += TAG_SIZE
        status = slot.tp_status
    if is_super and split_begin(&r.split, whole, size, vnet):
        cut(r, in_port, batch)
        return r.split.data == NULL
    r.cursor += 1
    if is_super:
        f = push_frame(slot, status, in_port, batch, data, slot.tp_snaplen)
        f.marked = MARK_UNSPLIT
        return True
    f = push_frame(slot, status, in_port, batch, whole, size)
    if vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM:
        f.marked = MARK_UNFINISHED
        f.mark_start = vnet.csum_start
        f.mark_offset = vnet.csum_offset
    return True


cdef inline void ring_release(ring_t *r) noexcept nogil:
    """Give what the last batch stood in back to the kernel."""
    r.room_used = 0
    while r.released != r.cursor:
        shared_store(&slot_at(r, r.released).tp_status, TP_STATUS_KERNEL)
        r.released += 1


cdef inline int ring_receive(ring_t *r, uint16_t in_port, batch_t *batch) noexcept nogil:
    """The operation `receive` of a port."""
    cdef tpacket2_hdr *slot
    cdef uint32_t status
    if r.slots == NULL:
        return -EBADF
    if r.split.data != NULL:
        cut(r, in_port, batch)
    while batch.n < batch.capacity and r.split.data == NULL and r.cursor - r.released < r.n_slots:
        slot = slot_at(r, r.cursor)
        status = shared_load(&slot.tp_status)
        if not status & TP_STATUS_USER or not take_slot(r, slot, status, in_port, batch):
            break
    if batch.n == 0:
        ring_release(r)
    return <int>batch.n

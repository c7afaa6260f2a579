"""A port on a live interface by AF_PACKET: works on every one, needs CAP_NET_RAW alone.

Receive: a TPACKET_V2 ring, whose slots the kernel hands over one by one (the blocks of V3 keep a lone frame for a millisecond: LIMITS
trap 8). Frames are worked on where they stand in the ring. What is larger than a slot, super-frames above all, comes whole through the
socket's queue, in step with its slot; super-frames are cut (`_split.pxd`) into a room of the port, as many as the batch still
takes, the rest with the next burst.

Transmit: sendmmsg, within `transmit`: nothing is kept from one request to the next. A train is one message a destination: its head, and
the payload that all of them share.
"""

import os
import re
import socket
import struct

from libc.errno cimport (
    EAGAIN, EBADF, EINTR, EINVAL, EIO, EMSGSIZE, ENETDOWN, ENOBUFS, ENODEV, ENOMEM, ENXIO, EOPNOTSUPP, errno,
)
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from fastpath._copy cimport CLASS_NONE, copy_write, stamp_of, stamp_t, train_head_write, train_stamp_of, tx_egress, tx_refuse
from fastpath._frame cimport (
    HEAD_MAX, MARK_NONE, MARK_UNFINISHED, MARK_UNSPLIT, REASON_LINK_DOWN, REASON_NONE, REASON_OVER_MTU, REASON_PORT_REFUSED,
    batch_t, egress_state_t, egress_t, frame_t,
)
from fastpath._port cimport IoPort, port_t, tx_t
from fastpath.io._linux cimport (
    ARPHRD_ETHER, ARPHRD_LOOPBACK, ETH_P_ALL, MAP_FAILED, MAP_POPULATE, MAP_SHARED, MSG_DONTWAIT, PACKET_ADD_MEMBERSHIP,
    PACKET_COPY_THRESH, PACKET_FANOUT, PACKET_FANOUT_HASH, PACKET_IGNORE_OUTGOING, PACKET_MR_ALLMULTI, PACKET_RX_RING,
    PACKET_STATISTICS, PACKET_VERSION, PACKET_VNET_HDR, PROT_READ, PROT_WRITE, SO_ATTACH_FILTER, SO_DETACH_FILTER, SO_ERROR,
    SO_RCVBUF, SO_RCVBUFFORCE, SO_SNDBUF, SO_SNDBUFFORCE, SOL_PACKET, SOL_SOCKET, TPACKET_V2, TP_STATUS_COPY,
    TP_STATUS_KERNEL, TP_STATUS_USER, TP_STATUS_VLAN_TPID_VALID, TP_STATUS_VLAN_VALID, VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_UDP_L4, VNET_SIZE, getsockopt, iovec, mmap, mmsghdr, munmap, recv, sendmmsg,
    shared_load, shared_store, sock_filter, sock_fprog, tpacket2_hdr, tpacket_stats, virtio_net_hdr,
)
from fastpath.io._split cimport split_begin, split_next, split_size, split_t

cdef enum:
    SLOT_SIZE = 2048
    BLOCK_SIZE = 1 << 18      # the kernel's unit of memory for a ring
    ROOM_SIZE = 1 << 20       # for what does not stand in the ring: of one batch
    SUPER_SIZE = 1 << 17      # one super-frame, twice what there is
    MESSAGES_MAX = 64         # of one sendmmsg
    HEAD_ROOM = 96            # 6 bytes nobody uses, virtio_net_hdr, the head of a train
    HEAD_AT = 16
    ARENA_SIZE = 1 << 18      # copies of one sendmmsg; three of the largest
    ARENA_SPARE = 66000       # the largest, its virtio_net_hdr and what is overwritten behind
    IDLE_TURNS = 64
    SEND_BUFFER = 1 << 24
    RECEIVE_BUFFER = 1 << 25

# What a copy, or the copies of a train, was booked for.
cdef struct booked_t:
    uint32_t k
    uint32_t size             # bytes
    bint kept

cdef struct packet_t:
    uint8_t *ring
    uint64_t n_slots          # a power of two
    uint64_t cursor           # the next slot to look at; counts on
    uint64_t released         # the oldest slot that is ours
    uint32_t idle             # turns in which nothing was there
    int fd
    uint8_t *room
    uint32_t room_used
    uint8_t *super_frame
    split_t split             # the super-frame of the slot at `cursor`
    uint64_t n_cut_off        # frames that came without their end
    uint8_t *arena
    int no_trains             # errno by which the kernel refused one
    iovec vectors[MESSAGES_MAX][2]
    mmsghdr messages[MESSAGES_MAX]
    booked_t booked[MESSAGES_MAX]
    uint8_t heads[MESSAGES_MAX][HEAD_ROOM]


cdef class PacketIo(IoPort):
    """A live interface by AF_PACKET.

    `ring_frames`: slots of the receive ring, a power of two, 2 KB each. `trains`: send super-frames if the kernel can.
    `all_multicast`: have the network card pass all multicast frames. `fanout`: a number (1-65535) that all ports on this device share
    whose worker gets its part of the flows. `filter`: see `attach_filter`; without one, everything comes in.
    OSError with the device's name where the system refuses.
    """

    cdef packet_t _p
    cdef object _socket
    cdef readonly str device
    cdef readonly int ifindex
    cdef str _why
    cdef uint64_t _dropped

    def __cinit__(
        self, str device not None, *, uint32_t ring_frames=8192, bint trains=True, bint all_multicast=False, fanout=None, filter=None
    ):
        self._p.fd = -1
        self.port.fd = -1
        self.device = device
        self.port.state = &self._p
        self.port.receive = packet_receive
        self.port.transmit = packet_transmit
        self.port.release = packet_release
        if not 16 <= ring_frames <= 1 << 20 or ring_frames & (ring_frames - 1):
            raise ValueError(f"ring_frames {ring_frames}: expected a power of two, 16 to {1 << 20}")
        if fanout is not None and not 1 <= fanout <= 0xffff:
            raise ValueError(f"fanout {fanout}: expected 1 to 65535")
        self._p.n_slots = ring_frames
        self._p.room = <uint8_t *>malloc(ROOM_SIZE)
        self._p.super_frame = <uint8_t *>malloc(SUPER_SIZE)
        self._p.arena = <uint8_t *>malloc(ARENA_SIZE)
        if self._p.room == NULL or self._p.super_frame == NULL or self._p.arena == NULL:
            raise MemoryError
        self._choose(trains)
        try:
            self._open(all_multicast, fanout, filter)
        except OSError as error:
            self.close()
            raise self._error(error) from None
        except BaseException:
            self.close()
            raise

    def __dealloc__(self):
        if self._p.ring != NULL:
            munmap(self._p.ring, self._p.n_slots * SLOT_SIZE)
        free(self._p.room)
        free(self._p.super_frame)
        free(self._p.arena)

    cdef int _choose(self, bint trains) except -1:
        """Decide on trains by what is known beforehand."""
        release = os.uname().release
        version = tuple(int(number) for number in re.findall(r"\d+", release)[:2])
        self.port.trains = trains and version >= (6, 2)
        if not trains:
            self._why = "trains are turned off"
        elif not self.port.trains:
            self._why = f"Linux {release} takes no trains: they need 6.2"
        else:
            self._why = "the kernel cuts trains, or the device does"
        return 0

    def _error(self, error):
        """The same error with the device's name, and what is missing."""
        text = error.strerror or str(error)
        if isinstance(error, PermissionError):
            text += ": a packet socket needs CAP_NET_RAW"
        return OSError(error.errno, text, self.device)

    def _open(self, all_multicast, fanout, filter):
        cdef uint32_t block_size = min(BLOCK_SIZE, self._p.n_slots * SLOT_SIZE)
        cdef void *ring
        try:
            self.ifindex = socket.if_nametoindex(self.device)
        except OSError:
            raise OSError(ENODEV, "no such interface") from None
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._set(PACKET_VERSION, TPACKET_V2)
        self._set(PACKET_VNET_HDR, 1)
        self._set(PACKET_COPY_THRESH, 1)
        self._set(PACKET_IGNORE_OUTGOING, 1)
        self._enlarge(SO_RCVBUFFORCE, SO_RCVBUF, RECEIVE_BUFFER)
        self._enlarge(SO_SNDBUFFORCE, SO_SNDBUF, SEND_BUFFER)
        size = self._p.n_slots * SLOT_SIZE
        self._set(PACKET_RX_RING, struct.pack("@4I", block_size, size // block_size, SLOT_SIZE, self._p.n_slots))
        ring = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, self._socket.fileno(), 0)
        if ring == MAP_FAILED:
            raise OSError(errno, os.strerror(errno))
        self._p.ring = <uint8_t *>ring
        # Nothing comes in before it is settled what may.
        self.attach_filter([(6, 0, 0, 0)] if fanout is not None else filter)
        self._socket.bind((self.device, ETH_P_ALL))
        if self._socket.getsockname()[3] not in (ARPHRD_ETHER, ARPHRD_LOOPBACK):
            raise OSError(EOPNOTSUPP, "not an Ethernet interface")
        if all_multicast:
            self._set(PACKET_ADD_MEMBERSHIP, struct.pack("@iHH8x", self.ifindex, PACKET_MR_ALLMULTI, 0))
        if fanout is not None:
            self._set(PACKET_FANOUT, <uint32_t>(fanout | PACKET_FANOUT_HASH << 16))
            self.attach_filter(filter)
        self._p.fd = self.port.fd = self._socket.fileno()

    def _set(self, option, value):
        self._socket.setsockopt(SOL_PACKET, option, value)

    def _enlarge(self, forced, asked, size):
        """Ask for a buffer; without CAP_NET_ADMIN it is what net.core allows."""
        try:
            self._socket.setsockopt(SOL_SOCKET, forced, size)
        except PermissionError:
            self._socket.setsockopt(SOL_SOCKET, asked, size)

    def attach_filter(self, filter):
        """Let in only what a classic BPF program accepts: [(code, jt, jf, k)], None for everything.

        One program takes the place of the other between two frames. OSError where the kernel finds it wrong.
        """
        cdef sock_fprog program
        if self._socket is None:
            raise ValueError(f"{self.device}: the port is closed")
        if filter is None:
            try:
                self._socket.setsockopt(SOL_SOCKET, SO_DETACH_FILTER, 0)
            except FileNotFoundError:
                pass
            return
        code = b"".join(struct.pack("@HBBI", *instruction) for instruction in filter)
        program.len = <unsigned short>(len(code) // sizeof(sock_filter))
        program.filter = <sock_filter *><char *>code
        self._socket.setsockopt(SOL_SOCKET, SO_ATTACH_FILTER, (<char *>&program)[:sizeof(program)])

    def close(self):
        """Leave the interface; again is allowed. Not while a forwarder runs on it."""
        if self._p.ring != NULL:
            munmap(self._p.ring, self._p.n_slots * SLOT_SIZE)
            self._p.ring = NULL
        if self._socket is not None:
            if self._p.fd >= 0:
                self.ring_lost  # what the kernel still counts
            self._socket.close()
            self._socket = None
        self._p.fd = self.port.fd = -1
        self._p.split.data = NULL

    @property
    def ring_lost(self):
        """Frames, or whole super-frames, that the ring or the socket's queue had no room for, since the start."""
        cdef tpacket_stats stats
        cdef uint32_t size = sizeof(stats)
        if self._p.fd >= 0 and getsockopt(self._p.fd, SOL_PACKET, PACKET_STATISTICS, &stats, &size) == 0:
            self._dropped += stats.tp_drops  # the kernel counts from 0 after each look
        return self._dropped + self._p.n_cut_off

    @property
    def transmits(self):
        """How copies leave at best: "trains" or "packet", one by one."""
        return "trains" if self.port.trains else "packet"

    @property
    def why(self):
        """A sentence on why it is `transmits`."""
        if self._p.no_trains != 0:
            return f"the kernel refused a train: {os.strerror(self._p.no_trains)}"
        return self._why


cdef inline tpacket2_hdr *slot_at(const packet_t *p, uint64_t place) noexcept nogil:
    return <tpacket2_hdr *>(p.ring + (place & (p.n_slots - 1)) * SLOT_SIZE)


cdef inline frame_t *push_frame(
    const tpacket2_hdr *slot, uint32_t status, port_t *port, batch_t *batch, uint8_t *data, uint32_t size
) noexcept nogil:
    """One more frame in the batch, as its slot describes it."""
    cdef frame_t *f = &batch.frames[batch.n]
    batch.n += 1
    f.data = data
    f.size = size
    f.time_ns = <uint64_t>slot.tp_sec * 1000000000 + slot.tp_nsec
    f.in_port = port.index
    f.marked = MARK_NONE
    f.vlan_tpid = f.vlan_tci = 0
    if status & TP_STATUS_VLAN_VALID:
        f.vlan_tpid = slot.tp_vlan_tpid if status & TP_STATUS_VLAN_TPID_VALID else 0x8100
        f.vlan_tci = slot.tp_vlan_tci
    return f


cdef void cut(packet_t *p, port_t *port, batch_t *batch) noexcept nogil:
    """Frames of the super-frame at hand, as many as find a place; the slot is done with the last."""
    cdef tpacket2_hdr *slot = slot_at(p, p.cursor)
    cdef uint32_t size
    cdef frame_t *f
    while batch.n < batch.capacity:
        size = split_size(&p.split)
        if p.room_used + size > ROOM_SIZE:
            return
        f = push_frame(slot, slot.tp_status, port, batch, p.room + p.room_used, size)
        f.marked = MARK_UNFINISHED
        f.mark_start = p.split.start
        f.mark_offset = p.split.offset
        p.room_used += (split_next(&p.split, f.data) + 63) & ~63
        if p.split.data == NULL:
            p.cursor += 1
            return


cdef inline int64_t take_queued(packet_t *p, uint8_t *to, uint32_t size) noexcept nogil:
    """Read the frame that belongs to a slot from the queue, with its virtio_net_hdr; its size, or 0."""
    cdef ssize_t n = -1
    cdef int tries = 3
    while n < 0 and tries:  # an interface that went down interrupts once
        n = recv(p.fd, to, size, MSG_DONTWAIT)
        tries -= 1
    return n - VNET_SIZE if n > VNET_SIZE else 0


cdef bint take_slot(packet_t *p, tpacket2_hdr *slot, uint32_t status, port_t *port, batch_t *batch) noexcept nogil:
    """Hand over what came with a slot. False: no room for it in this batch."""
    cdef uint8_t *data = <uint8_t *>slot + slot.tp_mac
    cdef virtio_net_hdr *vnet = <virtio_net_hdr *>(data - VNET_SIZE)
    cdef uint32_t size = slot.tp_snaplen
    cdef frame_t *f
    cdef bint is_super = vnet.gso_type != VIRTIO_NET_HDR_GSO_NONE, is_whole = size == slot.tp_len
    cdef uint8_t *whole = data
    if not is_whole and status & TP_STATUS_COPY:
        if is_super:
            whole = p.super_frame
        elif p.room_used + VNET_SIZE + slot.tp_len > ROOM_SIZE:
            return False
        else:
            whole = p.room + p.room_used
        size = <uint32_t>take_queued(p, whole, SUPER_SIZE if is_super else ROOM_SIZE - p.room_used)
        whole += VNET_SIZE
        is_whole = size == slot.tp_len
        if is_whole and not is_super:
            p.room_used += (VNET_SIZE + size + 63) & ~63
    if not is_whole:
        p.n_cut_off += 1
        p.cursor += 1
        return True
    if is_super and split_begin(&p.split, whole, size, vnet):
        cut(p, port, batch)
        return p.split.data == NULL
    p.cursor += 1
    if is_super:
        f = push_frame(slot, status, port, batch, data, slot.tp_snaplen)
        f.marked = MARK_UNSPLIT
        return True
    f = push_frame(slot, status, port, batch, whole, size)
    if vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM:
        f.marked = MARK_UNFINISHED
        f.mark_start = vnet.csum_start
        f.mark_offset = vnet.csum_offset
    return True


cdef inline void give_back(packet_t *p) noexcept nogil:
    p.room_used = 0
    while p.released != p.cursor:
        shared_store(&slot_at(p, p.released).tp_status, TP_STATUS_KERNEL)
        p.released += 1


cdef void clear_error(packet_t *p) noexcept nogil:
    """Forget that the interface went down: poll() would report it for ever."""
    cdef int pending
    cdef uint32_t size = sizeof(pending)
    getsockopt(p.fd, SOL_SOCKET, SO_ERROR, &pending, &size)


cdef int packet_receive(port_t *port, batch_t *batch) noexcept nogil:
    cdef packet_t *p = <packet_t *>port.state
    cdef tpacket2_hdr *slot
    cdef uint32_t status
    if p.ring == NULL:
        return -EBADF
    if p.split.data != NULL:
        cut(p, port, batch)
    while batch.n < batch.capacity and p.split.data == NULL and p.cursor - p.released < p.n_slots:
        slot = slot_at(p, p.cursor)
        status = shared_load(&slot.tp_status)
        if not status & TP_STATUS_USER or not take_slot(p, slot, status, port, batch):
            break
    if batch.n == 0:
        give_back(p)
        p.idle += 1
        if p.idle % IDLE_TURNS == 0:
            clear_error(p)
    return <int>batch.n


cdef void packet_release(port_t *port, batch_t *batch) noexcept nogil:
    give_back(<packet_t *>port.state)


cdef inline void unbook(tx_t *tx, const booked_t *booked) noexcept nogil:
    """Take back what was booked for a message that did not leave."""
    cdef egress_state_t *state = &tx.states[tx.egresses[booked.k]]
    state.copies -= tx.run.n_frames
    state.bytes -= booked.size
    if booked.kept:
        state.kept -= tx.run.n_frames


cdef inline uint8_t reason_of(int error) noexcept nogil:
    if error == ENETDOWN or error == ENXIO or error == ENODEV:
        return REASON_LINK_DOWN
    return REASON_OVER_MTU if error == EMSGSIZE else REASON_PORT_REFUSED


cdef bint shorten(packet_t *p, uint32_t first, uint32_t n) noexcept nogil:
    """Ask for no more than the headers of trains in one piece of memory; False where that is so (LIMITS trap 6)."""
    cdef uint32_t i
    cdef virtio_net_hdr *vnet
    for i in range(first, n):
        vnet = <virtio_net_hdr *>p.vectors[i][0].iov_base
        if vnet.hdr_len == vnet.csum_start + 8:
            return False
        vnet.hdr_len = vnet.csum_start + 8
    return True


cdef int64_t send(port_t *port, tx_t *tx, uint32_t n, bint nothing_done) noexcept nogil:
    """Send the first `n` messages, and take back the booking of those that the kernel refuses; how many left.

    -1: the kernel takes no trains, and all bookings are taken back. After a partial sendmmsg the next call begins with the message
    that was refused, and says why (LIMITS trap 10).
    """
    cdef packet_t *p = <packet_t *>port.state
    cdef uint32_t i = 0
    cdef int64_t sent = 0
    cdef bint asked_again = False
    cdef int done, error
    cdef uint8_t reason
    while i < n:
        done = sendmmsg(p.fd, &p.messages[i], n - i, MSG_DONTWAIT)
        if done > 0:
            i += done
            sent += done
            continue
        error = errno
        if error == EINTR:
            continue
        if error == ENETDOWN and not asked_again:  # perhaps an old one, that waited for the next call
            asked_again = True
            continue
        if tx.train != NULL:
            if (error == ENOBUFS or error == ENOMEM) and shorten(p, i, n):
                continue
            if error == EINVAL or error == EIO or error == EOPNOTSUPP:
                port.trains = False
                p.no_trains = error
                if nothing_done and sent == 0 and i == 0:
                    for i in range(n):
                        unbook(tx, &p.booked[i])
                    return -1
        reason = reason_of(error)
        while i < n:
            unbook(tx, &p.booked[i])
            tx_refuse(tx, p.booked[i].k, reason)
            i += 1
            if reason != REASON_LINK_DOWN:
                break
    return sent


cdef inline void book(packet_t *p, uint32_t i, uint32_t k, uint32_t size, bint kept) noexcept nogil:
    p.booked[i].k = k
    p.booked[i].size = size
    p.booked[i].kept = kept


cdef int64_t transmit_train(port_t *port, packet_t *p, tx_t *tx) noexcept nogil:
    cdef const egress_t *e
    cdef stamp_t fresh, stamp
    cdef virtio_net_hdr *vnet
    cdef uint8_t *head
    cdef uint32_t k, n = 0, size, segment_size
    cdef int64_t done, taken = 0
    cdef bint nothing_done = True
    memset(&stamp, 0, sizeof(stamp))
    stamp.egress_class = CLASS_NONE
    for k in range(tx.n_egresses):
        e = tx_egress(tx, k)
        if e.egress_class != stamp.egress_class:
            fresh = train_stamp_of(tx, e)
            stamp = fresh
        if stamp.reason != REASON_NONE:
            tx_refuse(tx, k, stamp.reason)
            nothing_done = False
        else:
            head = p.heads[n] + HEAD_AT
            size = train_head_write(head, tx, k, &stamp)
            segment_size = stamp.size - size
            vnet = <virtio_net_hdr *>(head - VNET_SIZE)
            vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM
            vnet.gso_type = VIRTIO_NET_HDR_GSO_UDP_L4 if tx.train_size > segment_size else VIRTIO_NET_HDR_GSO_NONE
            vnet.hdr_len = <uint16_t>(size + tx.train_size)
            vnet.gso_size = <uint16_t>segment_size
            vnet.csum_start = <uint16_t>(size - 8)
            vnet.csum_offset = 6
            p.vectors[n][0].iov_base = vnet
            p.vectors[n][0].iov_len = VNET_SIZE + size
            p.vectors[n][1].iov_base = <void *>tx.train
            p.vectors[n][1].iov_len = tx.train_size
            p.messages[n].msg_hdr.msg_iov = p.vectors[n]
            p.messages[n].msg_hdr.msg_iovlen = 2
            book(p, n, k, tx.run.n_frames * size + tx.train_size, stamp.ip_at == 0)
            n += 1
        if n == MESSAGES_MAX or (k + 1 == tx.n_egresses and n != 0):
            done = send(port, tx, n, nothing_done)
            if done < 0:
                return -1
            taken += done * tx.run.n_frames
            nothing_done = False
            n = 0
    return taken


cdef int64_t transmit_copies(port_t *port, packet_t *p, tx_t *tx) noexcept nogil:
    cdef const frame_t *f = tx.run.frame
    cdef const egress_t *e
    cdef stamp_t fresh, stamp
    cdef uint8_t *at = p.arena
    cdef uint32_t k, n = 0
    cdef int64_t taken = 0
    memset(&stamp, 0, sizeof(stamp))
    stamp.egress_class = CLASS_NONE
    for k in range(tx.n_egresses):
        e = tx_egress(tx, k)
        if e.egress_class != stamp.egress_class:
            fresh = stamp_of(tx, e)
            stamp = fresh
        if stamp.reason != REASON_NONE:
            tx_refuse(tx, k, stamp.reason)
        else:
            memset(at, 0, HEAD_AT)
            copy_write(at + HEAD_AT, &stamp, e, f, &tx.states[tx.egresses[k]])
            p.vectors[n][0].iov_base = at + HEAD_AT - VNET_SIZE
            p.vectors[n][0].iov_len = VNET_SIZE + stamp.size
            p.messages[n].msg_hdr.msg_iov = p.vectors[n]
            p.messages[n].msg_hdr.msg_iovlen = 1
            book(p, n, k, stamp.size, stamp.ip_at == 0)
            at += (HEAD_AT + stamp.size + 15) & ~15
            n += 1
        if n == MESSAGES_MAX or at - p.arena > ARENA_SIZE - ARENA_SPARE or (k + 1 == tx.n_egresses and n != 0):
            taken += send(port, tx, n, False)
            at = p.arena
            n = 0
    return taken


cdef int64_t packet_transmit(port_t *port, tx_t *tx) noexcept nogil:
    cdef packet_t *p = <packet_t *>port.state
    return transmit_copies(port, p, tx) if tx.train == NULL else transmit_train(port, p, tx)

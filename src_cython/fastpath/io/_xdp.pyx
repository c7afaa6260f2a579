"""Single copies by AF_XDP, and trains by AF_PACKET: the faster way for each (LIMITS, first table).

The port stands on top of a packet port of the same interface, which it asks for what it cannot do itself: trains, copies larger than
a chunk, and receiving wherever frames come with unfinished checksums or with their tags taken out, about which AF_XDP says nothing
(LIMITS trap 12). Where it receives by AF_XDP, the packet port brings the IGMP and MLD that the kernel must see as well.

A flow is not reordered: before copies go one way, all that went the other way has been handed to the kernel. (Behind that, on an
interface with a queueing discipline, AF_PACKET waits in it and AF_XDP does not.)
"""

import os
import time

from libc.errno cimport EBADF, EBUSY, EINVAL, ENOBUFS, ENXIO, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from posix.unistd cimport close
from fastpath._copy cimport CLASS_NONE, copy_write, stamp_of, stamp_t, tx_egress, tx_refuse
from fastpath._frame cimport BATCH_MAX, HEAD_MAX, MARK_NONE, REASON_NONE, REASON_PORT_REFUSED, batch_t, egress_t, frame_t
from fastpath._port cimport IoPort, port_t, tx_t
from fastpath.io._below cimport below_finish, below_flush, below_receive, below_t, below_transmit, below_transmit_one
from fastpath.io._xdp_send cimport (
    BATCH_COPIES, BUDGET, DEVICE_SIZE, pending_t, sender_begin, sender_push, sender_reserve, sender_settle, sender_t,
)
from fastpath.io._xsk cimport (
    AF_INET, AF_XDP, MSG_DONTWAIT, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_RAW, SOL_SOCKET, SOL_XDP, SO_SNDBUF, SO_SNDBUFFORCE,
    XDP_COPY, XDP_MAX_TX_SKB_BUDGET, XDP_RING_NEED_WAKEUP, XDP_STATISTICS, XDP_USE_NEED_WAKEUP, getsockopt, recvfrom,
    ring_address, ring_descriptor, setsockopt, socket, xdp_desc, xdp_statistics, xsk_bind, xsk_close, xsk_load, xsk_map_rings,
    xsk_register, xsk_store, xsk_t,
)

cdef extern from * nogil:
    """
    #include <net/if.h>
    #include <string.h>
    #include <sys/epoll.h>
    #include <sys/ioctl.h>
    static inline uint32_t xdp_mtu(int fd, const char *device) {
        struct ifreq request = {0};
        strcpy(request.ifr_name, device);
        return ioctl(fd, SIOCGIFMTU, &request) != 0 ? 0 : (uint32_t)request.ifr_mtu;
    }
    static inline int xdp_watch(int epoll, int fd) {
        struct epoll_event event = {.events = EPOLLIN};
        return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    }
    """
    uint32_t xdp_mtu(int fd, const char *device)
    int xdp_watch(int epoll, int fd)
    int epoll_create1(int flags)
    unsigned int if_nametoindex(const char *device)
    enum:
        EPOLL_CLOEXEC

cdef enum:
    SEND_BUFFER = 64 << 20    # of copies on their way through the kernel; it must never be what is short
    QUEUES_MAX = 64
    CHUNK_HEADROOM = 256      # what XDP leaves free before a received frame

cdef struct xdp_t:
    sender_t sender
    xsk_t *sockets            # the first one sends
    uint32_t n_sockets
    below_t packet
    # receiving
    bint receives
    bint packet_next          # whose turn it is, packet port's or ours
    bint from_packet          # who made the batch that is out
    uint32_t next_socket
    uint32_t n_held
    uint32_t held_socket
    uint64_t held[BATCH_MAX]
    int epoll


cdef class XdpIo(IoPort):
    """Sends by AF_XDP on the first of `queues` of `device`, on top of the packet port `packet` of the same interface.

    `frames` is the number of chunks per socket and direction, a power of two. With `receive`, frames come in by AF_XDP on all of
    `queues`, for the redirect program to send there (`fastpath/redirect.py`), and from the packet port what its own filter lets pass;
    zero copy is tried. Without, nothing but the packet port receives. Raises OSError where the system says no. `packet` stays
    the caller's to close, after this one.
    """

    cdef xdp_t _x
    cdef IoPort _packet

    def __cinit__(self, *_, **__):
        self._x.epoll = self._x.sender.questions = -1

    def __init__(self, IoPort packet not None, str device not None, *, queues=(0,), uint32_t frames=4096, bint receive=False):
        cdef bytes name = os.fsencode(device)
        cdef unsigned int ifindex
        if self._x.sockets != NULL:
            raise RuntimeError("a port is opened once")
        if not 64 <= frames <= 1 << 20 or frames & (frames - 1):
            raise ValueError(f"frames={frames}: expected a power of two from 64 to {1 << 20}")
        if not 1 <= len(queues) <= QUEUES_MAX:
            raise ValueError(f"{len(queues)} queues: expected 1 to {QUEUES_MAX}")
        ifindex = if_nametoindex(name) if 0 < len(name) < DEVICE_SIZE else 0
        if ifindex == 0:
            raise OSError(ENXIO, f"there is no interface {device!r}")
        self._packet = packet
        self._x.packet.port = &packet.port
        memcpy(self._x.sender.device, <const char *>name, len(name))
        self._x.receives = receive
        self._x.sockets = <xsk_t *>calloc(len(queues) if receive else 1, sizeof(xsk_t))
        self._x.sender.chunks = <uint64_t *>malloc((frames + 1) * sizeof(uint64_t))  # one for what is no chunk
        if self._x.sockets == NULL or self._x.sender.chunks == NULL:
            raise MemoryError
        try:
            self._x.sender.questions = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)
            if self._x.sender.questions < 0:
                raise OSError(errno, os.strerror(errno))
            for place, queue in enumerate(queues if receive else queues[:1]):
                self._open(place, queue, ifindex, frames)
            self._start(frames)
        except BaseException:
            self.close()
            raise

    def __dealloc__(self):
        self._close()
        free(self._x.sockets)
        free(self._x.sender.chunks)

    cdef int _open(self, uint32_t place, uint32_t queue, uint32_t ifindex, uint32_t frames) except -1:
        cdef xsk_t *s = &self._x.sockets[place]
        cdef uint32_t mtu
        cdef int status, size = SEND_BUFFER
        cdef uint16_t flags = XDP_USE_NEED_WAKEUP if self._x.receives else XDP_USE_NEED_WAKEUP | XDP_COPY
        s.fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0)
        self._x.n_sockets = place + 1
        if s.fd < 0:
            raise self._error(-errno, queue, "socket")
        mtu = xdp_mtu(self._x.sender.questions, self._x.sender.device)
        s.queue = queue
        s.n_tx = frames if place == 0 else 0
        s.n_rx = frames if self._x.receives else 0
        s.chunk_size = 2048 if mtu + 18 + CHUNK_HEADROOM <= 2048 else 4096
        if s.n_rx and mtu + 18 + CHUNK_HEADROOM > s.chunk_size:
            raise OSError(
                EINVAL,
                f"AF_XDP on {os.fsdecode(self._x.sender.device)}: the MTU is {mtu}, and there is room to receive frames of "
                f"{s.chunk_size - CHUNK_HEADROOM} bytes",
            )
        status = xsk_register(s)
        if status != 0:
            raise self._error(status, queue, "memory")
        status = xsk_map_rings(s)
        if status != 0:
            raise self._error(status, queue, "rings")
        for _ in range(100):
            status = xsk_bind(s, ifindex, flags)
            if status != -EBUSY:
                break
            time.sleep(0.01)
        if status != 0:
            raise self._error(status, queue, "bind")
        if setsockopt(s.fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) != 0:
            setsockopt(s.fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size))
        return 0

    cdef object _error(self, int status, uint32_t queue, str step):
        cdef str where = f"AF_XDP on {os.fsdecode(self._x.sender.device)} queue {queue}"
        cdef uint64_t size = self._x.sockets[self._x.n_sockets - 1].memory_size
        if step == "bind" and status == -EBUSY:
            return OSError(-status, f"{where}: another socket has this queue: another fastpath, or another program")
        if step == "bind" and status == -EINVAL:
            return OSError(-status, f"{where}: the interface has no such queue")
        if step == "memory" and status == -ENOBUFS:
            return OSError(
                -status,
                f"{where}: {size >> 10} KB of memory may not be locked: RLIMIT_MEMLOCK (ulimit -l, LimitMEMLOCK=) is lower, and "
                "CAP_IPC_LOCK is missing",
            )
        return OSError(-status, f"{where}: {step}: {os.strerror(-status)}")

    cdef int _start(self, uint32_t frames) except -1:
        cdef xsk_t *s = self._x.sockets
        cdef uint32_t i, k, budget = BATCH_COPIES
        self._x.sender.socket = s
        self._x.sender.batch = BUDGET
        if setsockopt(s.fd, SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &budget, sizeof(budget)) == 0:
            self._x.sender.batch = BATCH_COPIES
        for i in range(frames):
            self._x.sender.chunks[i] = <uint64_t>(frames - 1 - i) * s.chunk_size
        self._x.sender.n_chunks = frames
        self.port.state = &self._x
        self.port.transmit = xdp_transmit
        self.port.receive = xdp_receive
        self.port.flush = xdp_flush
        self.port.release = xdp_release
        self.port.trains = self._x.packet.port.trains
        self.port.fd = self._x.packet.port.fd
        if not self._x.receives:
            return 0
        self._x.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self._x.epoll < 0:
            raise OSError(errno, os.strerror(errno))
        self.port.fd = self._x.epoll
        for k in range(self._x.n_sockets):
            s = &self._x.sockets[k]
            for i in range(s.n_rx):
                ring_address(&s.fill, i)[0] = <uint64_t>(s.n_tx + i) * s.chunk_size
            xsk_store(s.fill.producer, s.n_rx)
            if xdp_watch(self._x.epoll, s.fd) != 0:
                raise OSError(errno, os.strerror(errno))
        if self._x.packet.port.fd >= 0 and xdp_watch(self._x.epoll, self._x.packet.port.fd) != 0:
            raise OSError(errno, os.strerror(errno))
        return 0

    cdef int _close(self) noexcept:
        cdef uint32_t i
        for i in range(self._x.n_sockets):
            xsk_close(&self._x.sockets[i])
        if self._x.epoll >= 0:
            close(self._x.epoll)
        if self._x.sender.questions >= 0:
            close(self._x.sender.questions)
        self._x.epoll = self._x.sender.questions = self.port.fd = -1
        self._x.n_sockets = self._x.n_held = 0
        return 0

    def close(self):
        """Give the sockets back; what is asked for later is refused. The packet port stays open."""
        self._close()

    def send(self, bytes frame not None):
        """Send a frame of our own, as the packet port does."""
        if self._x.n_sockets == 0:
            raise OSError(EBADF, "the port is closed")
        self._packet.send(frame)

    @property
    def transmits(self):
        """How single copies leave."""
        return "xdp zero copy" if self._x.n_sockets and self._x.sockets[0].zero_copy else "xdp"

    @property
    def receives(self):
        """By which kind of socket tunnel packets come in."""
        return "xdp" if self._x.receives else "packet"

    @property
    def why(self):
        """Why copies leave in this way and no better one."""
        if self.transmits == "xdp zero copy":
            return "the driver reads our memory"
        if self._x.receives:
            return "the driver has no zero copy"
        return "zero copy would take the queue's frames from the kernel, and this port receives by AF_PACKET"

    @property
    def sockets(self):
        """(queue, descriptor) of each socket that receives: for the redirect program's map."""
        return [(self._x.sockets[i].queue, self._x.sockets[i].fd) for i in range(self._x.n_sockets) if self._x.receives]

    @property
    def ring_lost(self):
        """Frames for which there was no room before we could receive them, those of the packet port included."""
        cdef xdp_statistics statistics
        cdef uint32_t i, size
        lost = self._packet.ring_lost
        for i in range(self._x.n_sockets):
            size = sizeof(statistics)
            memset(&statistics, 0, sizeof(statistics))
            if self._x.receives and getsockopt(self._x.sockets[i].fd, SOL_XDP, XDP_STATISTICS, &statistics, &size) == 0:
                lost += statistics.rx_dropped + statistics.rx_ring_full
        return lost


cdef void finish_sender(xdp_t *x) noexcept nogil:
    """Have the kernel take all copies that are in our ring."""
    if x.sender.n_pending:
        sender_settle(&x.sender)


cdef int64_t xdp_transmit(port_t *port, tx_t *tx) noexcept nogil:
    cdef xdp_t *x = <xdp_t *>port.state
    cdef sender_t *sender = &x.sender
    cdef const frame_t *f = tx.run.frame
    cdef const egress_t *e
    cdef stamp_t fresh, stamp
    cdef pending_t booked
    cdef uint8_t *out
    cdef uint32_t k
    cdef int64_t taken = 0
    cdef uint8_t reason = REASON_PORT_REFUSED
    if tx.train != NULL:
        finish_sender(x)
        return below_transmit(&x.packet, port, tx)
    memset(&stamp, 0, sizeof(stamp))
    stamp.egress_class = CLASS_NONE
    booked.drops = tx.drops
    if x.n_sockets:
        below_finish(&x.packet)
        reason = sender_begin(sender)
    for k in range(tx.n_egresses):
        e = tx_egress(tx, k)
        if e.egress_class != stamp.egress_class:
            fresh = stamp_of(tx, e)
            stamp = fresh
        if stamp.reason != REASON_NONE or reason != REASON_NONE:
            tx_refuse(tx, k, stamp.reason if stamp.reason != REASON_NONE else reason)
        elif stamp.size + HEAD_MAX > x.sockets.chunk_size:
            reason = sender_settle(sender)  # too large for a chunk: what was written before it leaves before it
            taken += below_transmit_one(&x.packet, port, tx, k)
            below_finish(&x.packet)
        else:
            out = sender_reserve(sender, &reason)
            if out == NULL:
                tx_refuse(tx, k, reason)
                continue
            booked.state = &tx.states[tx.egresses[k]]
            booked.kept = stamp.ip_at == 0
            copy_write(out, &stamp, e, f, booked.state)
            sender_push(sender, stamp.size, &booked)
            taken += 1
            if sender.n_pending == sender.batch:
                reason = sender_settle(sender)
    return taken


cdef int xdp_flush(port_t *port) noexcept nogil:
    cdef xdp_t *x = <xdp_t *>port.state
    cdef int status = below_flush(&x.packet)
    finish_sender(x)
    if status < 0:
        return status
    status += <int>x.sender.n_lost
    x.sender.n_lost = 0
    return status


cdef int receive_packet(port_t *port, batch_t *batch) noexcept nogil:
    cdef xdp_t *x = <xdp_t *>port.state
    x.from_packet = True
    return below_receive(&x.packet, port, batch)


cdef int receive_socket(port_t *port, uint32_t place, batch_t *batch) noexcept nogil:
    cdef xdp_t *x = <xdp_t *>port.state
    cdef xsk_t *s = &x.sockets[place]
    cdef uint32_t at = s.rx.consumer[0], end = xsk_load(s.rx.producer)
    cdef xdp_desc *descriptor
    cdef frame_t *f
    x.from_packet = False
    x.held_socket = place
    while at != end and batch.n < batch.capacity:
        descriptor = ring_descriptor(&s.rx, at)
        f = &batch.frames[batch.n]
        f.data = s.memory + descriptor.addr
        f.size = descriptor.len
        f.time_ns = 0
        f.in_port = port.index
        f.marked = MARK_NONE
        f.mark_start = f.mark_offset = f.vlan_tpid = f.vlan_tci = 0
        x.held[x.n_held] = descriptor.addr
        x.n_held += 1
        batch.n += 1
        at += 1
    xsk_store(s.rx.consumer, at)
    return <int>batch.n


cdef int xdp_receive(port_t *port, batch_t *batch) noexcept nogil:
    """Fill a batch from one socket, of those that have frames the next one in turn: neither they nor the packet port wait for ever."""
    cdef xdp_t *x = <xdp_t *>port.state
    cdef int n
    if not x.receives or x.n_sockets == 0:
        return receive_packet(port, batch)
    x.packet_next = not x.packet_next
    if x.packet_next:
        n = receive_packet(port, batch)
        if n != 0:
            return n
    for _ in range(x.n_sockets):
        x.next_socket = (x.next_socket + 1) % x.n_sockets
        n = receive_socket(port, x.next_socket, batch)
        if n != 0:
            return n
    return 0 if x.packet_next else receive_packet(port, batch)


cdef void xdp_release(port_t *port, batch_t *batch) noexcept nogil:
    cdef xdp_t *x = <xdp_t *>port.state
    cdef xsk_t *s
    cdef uint32_t i, at
    if x.from_packet:
        if x.packet.port.release != NULL:
            x.packet.port.release(x.packet.port, batch)
        return
    s = &x.sockets[x.held_socket]
    at = s.fill.producer[0]
    for i in range(x.n_held):
        ring_address(&s.fill, at + i)[0] = x.held[i] & ~<uint64_t>(s.chunk_size - 1)
    xsk_store(s.fill.producer, at + x.n_held)
    x.n_held = 0
    if xsk_load(s.fill.flags) & XDP_RING_NEED_WAKEUP:
        recvfrom(s.fd, NULL, 0, MSG_DONTWAIT, NULL, NULL)

"""Single copies by AF_XDP, and trains by AF_PACKET: the faster way for each (LIMITS, first table).

The port stands on top of a packet port of the same interface, which it asks for what it cannot do itself: trains, copies larger than
a chunk, and receiving wherever frames come with unfinished checksums or with their tags taken out, about which AF_XDP says nothing
(LIMITS trap 12). Where it receives by AF_XDP, the packet port brings the IGMP and MLD that the kernel must see as well.

In copy mode, the kernel takes copies only while we call it. So all copies of a request are settled before `transmit` returns: each
one was taken, or dropped, which the kernel says one by one (EBUSY), or is revoked. To revoke is to overwrite the descriptor by one
that the kernel skips: winding the ring back would not do, for the kernel may have read how far it goes.

A flow is not reordered: before copies go one way, all that went the other way has been handed to the kernel. (Behind that, on an
interface with a queueing discipline, AF_PACKET waits in it and AF_XDP does not.)
"""

import os
import time

from libc.errno cimport EAGAIN, EBUSY, EINTR, EINVAL, ENETDOWN, ENOBUFS, ENXIO, errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from posix.unistd cimport close
from fastpath._copy cimport CLASS_NONE, copy_write, stamp_of, stamp_t, tx_egress, tx_refuse
from fastpath._frame cimport (
    BATCH_MAX, HEAD_MAX, REASON_LINK_DOWN, REASON_NONE, REASON_PORT_REFUSED, batch_t, egress_state_t, egress_t, frame_t,
)
from fastpath._port cimport IoPort, port_t, tx_t
from fastpath.io._xsk cimport (
    AF_XDP, MSG_DONTWAIT, SOCK_CLOEXEC, SOCK_RAW, SOL_SOCKET, SOL_XDP, SO_SNDBUFFORCE, SO_SNDBUF, XDP_COPY, XDP_MAX_TX_SKB_BUDGET,
    XDP_RING_NEED_WAKEUP, XDP_STATISTICS, XDP_USE_NEED_WAKEUP, getsockopt, recvfrom, ring_address, ring_descriptor, sendto,
    setsockopt, socket, xdp_desc, xdp_statistics, xsk_bind, xsk_close, xsk_load, xsk_map_rings, xsk_register, xsk_store, xsk_t,
)

cdef extern from * nogil:
    """
    #include <net/if.h>
    #include <string.h>
    #include <sys/epoll.h>
    #include <sys/ioctl.h>
    static inline int xdp_link_is_up(int fd, const char *device) {
        struct ifreq request = {0};
        strcpy(request.ifr_name, device);
        if (ioctl(fd, SIOCGIFFLAGS, &request) != 0)
            return 0;
        return (request.ifr_flags & (IFF_UP | IFF_RUNNING)) == (IFF_UP | IFF_RUNNING);
    }
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
    int xdp_link_is_up(int fd, const char *device)
    uint32_t xdp_mtu(int fd, const char *device)
    int xdp_watch(int epoll, int fd)
    int epoll_create1(int flags)
    unsigned int if_nametoindex(const char *device)
    enum:
        EPOLL_CLOEXEC

cdef enum:
    NAME_MAX = 16
    BUDGET = 32               # copies that the kernel takes in one call, unless it lets itself be asked for more
    BATCH_COPIES = 64         # the most we hand over in one call
    TRIES = 64                # calls without progress before copies are given up: some ten microseconds
    SEND_BUFFER = 64 << 20    # of copies on their way through the kernel; it must never be what is short
    QUEUES_MAX = 64
    CHUNK_HEADROOM = 256      # what XDP leaves free before a received frame

cdef uint64_t REVOKED = <uint64_t>-1      # an address outside of any memory: the kernel skips this descriptor

# A copy that is in the ring, and not yet settled.
cdef struct pending_t:
    uint32_t k                # its egress's place in the request
    uint32_t kept             # it went under the IP header it came with

cdef struct xdp_t:
    xsk_t *sockets            # the first one sends
    uint32_t n_sockets
    port_t *packet
    char device[NAME_MAX]
    bint packet_busy          # asked to send since its last flush
    int packet_status         # of flushes between bursts
    # sending
    uint64_t *chunks          # free ones, the last used on top: that one is in the cache
    uint32_t n_chunks
    uint32_t produced         # positions in the ring: where we are,
    uint32_t settled          # and up to where nothing is open any more
    uint32_t batch            # copies a call
    uint32_t n_pending
    pending_t pending[BATCH_COPIES]
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
        self._x.epoll = -1

    def __init__(self, IoPort packet not None, str device not None, *, queues=(0,), uint32_t frames=4096, bint receive=False):
        cdef bytes name = os.fsencode(device)
        cdef unsigned int ifindex
        if self._x.sockets != NULL:
            raise RuntimeError("a port is opened once")
        if not 64 <= frames <= 1 << 20 or frames & (frames - 1):
            raise ValueError(f"frames={frames}: expected a power of two from 64 to {1 << 20}")
        if not 1 <= len(queues) <= QUEUES_MAX:
            raise ValueError(f"{len(queues)} queues: expected 1 to {QUEUES_MAX}")
        ifindex = if_nametoindex(name) if 0 < len(name) < NAME_MAX else 0
        if ifindex == 0:
            raise OSError(ENXIO, f"there is no interface {device!r}")
        self._packet = packet
        self._x.packet = &packet.port
        memcpy(self._x.device, <const char *>name, len(name))
        self._x.receives = receive
        self._x.sockets = <xsk_t *>calloc(len(queues) if receive else 1, sizeof(xsk_t))
        self._x.chunks = <uint64_t *>malloc(frames * sizeof(uint64_t))
        if self._x.sockets == NULL or self._x.chunks == NULL:
            raise MemoryError
        try:
            for place, queue in enumerate(queues if receive else queues[:1]):
                self._open(place, queue, ifindex, frames)
            self._start(frames)
        except BaseException:
            self.close()
            raise

    def __dealloc__(self):
        self.close()
        free(self._x.sockets)
        free(self._x.chunks)

    cdef int _open(self, uint32_t place, uint32_t queue, uint32_t ifindex, uint32_t frames) except -1:
        cdef xsk_t *s = &self._x.sockets[place]
        cdef uint32_t mtu
        cdef int status, size = SEND_BUFFER
        cdef uint16_t flags = XDP_USE_NEED_WAKEUP if self._x.receives else XDP_USE_NEED_WAKEUP | XDP_COPY
        s.fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0)
        self._x.n_sockets = place + 1
        if s.fd < 0:
            raise self._error(-errno, queue, "socket")
        mtu = xdp_mtu(s.fd, self._x.device)
        s.queue = queue
        s.n_tx = frames if place == 0 else 0
        s.n_rx = frames if self._x.receives else 0
        s.chunk_size = 2048 if mtu + 18 + CHUNK_HEADROOM <= 2048 else 4096
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
        cdef str where = f"AF_XDP on {os.fsdecode(self._x.device)} queue {queue}"
        cdef uint64_t size = self._x.sockets[self._x.n_sockets - 1].memory_size
        if step == "bind" and status == -EBUSY:
            return OSError(-status, f"{where}: another socket has this queue: another fastpath, or another program")
        if step == "bind" and status == -EINVAL:
            return OSError(-status, f"{where}: the interface has no such queue, or its MTU is too large for AF_XDP")
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
        self._x.batch = BUDGET
        if setsockopt(s.fd, SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &budget, sizeof(budget)) == 0:
            self._x.batch = BATCH_COPIES
        for i in range(frames):
            self._x.chunks[i] = <uint64_t>(frames - 1 - i) * s.chunk_size
        self._x.n_chunks = frames
        self.port.state = &self._x
        self.port.transmit = xdp_transmit
        self.port.receive = xdp_receive
        self.port.flush = xdp_flush
        self.port.release = xdp_release
        self.port.trains = self._x.packet.trains
        self.port.fd = self._x.packet.fd
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
        if self._x.packet.fd >= 0 and xdp_watch(self._x.epoll, self._x.packet.fd) != 0:
            raise OSError(errno, os.strerror(errno))
        return 0

    def close(self):
        """Give the sockets back; what is asked for later is refused. The packet port stays open."""
        cdef uint32_t i
        for i in range(self._x.n_sockets):
            xsk_close(&self._x.sockets[i])
        if self._x.epoll >= 0:
            close(self._x.epoll)
        self._x.epoll = -1
        self._x.n_sockets = self._x.n_chunks = self._x.n_held = 0
        self.port.fd = -1

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


cdef inline void reap(xdp_t *x) noexcept nogil:
    """Take back the chunks of copies that have left."""
    cdef xsk_t *s = x.sockets
    cdef uint32_t at = s.completion.consumer[0], end = xsk_load(s.completion.producer)
    while at != end:
        x.chunks[x.n_chunks] = ring_address(&s.completion, at)[0]
        x.n_chunks += 1
        at += 1
    xsk_store(s.completion.consumer, end)


cdef inline int kick(xdp_t *x) noexcept nogil:
    """Have the kernel take what is in the ring: 0 when it took all, or errno."""
    return 0 if sendto(x.sockets[0].fd, NULL, 0, MSG_DONTWAIT, NULL, 0) >= 0 else errno


cdef inline uint8_t reason_of(const xdp_t *x, int error) noexcept nogil:
    if error == ENETDOWN or error == ENXIO or not xdp_link_is_up(x.sockets[0].fd, x.device):
        return REASON_LINK_DOWN
    return REASON_PORT_REFUSED


cdef void unbook(xdp_t *x, tx_t *tx, uint32_t position, uint8_t reason) noexcept nogil:
    """Make a written copy a dropped one."""
    cdef const pending_t *p = &x.pending[x.n_pending - (x.produced - position)]
    cdef egress_state_t *state = &tx.states[tx.egresses[p.k]]
    state.copies -= 1
    state.kept -= p.kept
    state.bytes -= ring_descriptor(&x.sockets[0].tx, position).len
    tx_refuse(tx, p.k, reason)


cdef uint8_t settle(xdp_t *x, tx_t *tx, int64_t *taken) noexcept nogil:
    """Hand all pending copies to the kernel, and book what it did not take. REASON_NONE, or why no more should be tried."""
    cdef xsk_t *s = x.sockets
    cdef uint32_t taken_to, tries = 0
    cdef uint8_t reason = REASON_NONE
    cdef int error
    taken[0] += x.n_pending
    xsk_store(s.tx.producer, x.produced)
    if s.zero_copy:
        # the driver reads the ring by itself: what is in there is in its hands
        error = kick(x) if xsk_load(s.tx.flags) & XDP_RING_NEED_WAKEUP else 0
        x.settled = x.produced
        x.n_pending = 0
        return REASON_LINK_DOWN if error == ENETDOWN or error == ENXIO else REASON_NONE
    while x.settled != x.produced and reason == REASON_NONE:
        error = kick(x)
        taken_to = xsk_load(s.tx.consumer)
        if error == EBUSY:
            # the last copy taken was dropped; if it was the only one, the kernel does not tell that it took any
            x.settled = taken_to if <int32_t>(taken_to - x.settled) > 0 else x.settled + 1
            reason = reason_of(x, error)
            unbook(x, tx, x.settled - 1, reason)
            taken[0] -= 1
            if reason == REASON_PORT_REFUSED:
                reason = REASON_NONE
        elif <int32_t>(taken_to - x.settled) > 0:
            x.settled = taken_to
            tries = 0
        elif (error == 0 or error == EAGAIN or error == ENOBUFS or error == EINTR) and tries < TRIES:
            tries += 1
        else:
            reason = reason_of(x, error)
    for taken_to in range(x.settled, x.produced):
        unbook(x, tx, taken_to, reason)
        x.chunks[x.n_chunks] = ring_descriptor(&s.tx, taken_to).addr
        x.n_chunks += 1
        ring_descriptor(&s.tx, taken_to).addr = REVOKED
        taken[0] -= 1
    x.n_pending = 0
    reap(x)
    return reason


cdef uint8_t skip_revoked(xdp_t *x) noexcept nogil:
    """Have the kernel step over revoked descriptors; as long as it does not, why it takes nothing."""
    cdef int error
    if x.settled == x.produced:
        return REASON_NONE
    error = kick(x)
    if error == 0:
        error = kick(x)       # only now it tells how far it came
    if error != 0 or xsk_load(x.sockets[0].tx.consumer) != x.produced:
        return reason_of(x, error)
    x.settled = x.produced
    return REASON_NONE


cdef int64_t by_packet(port_t *port, tx_t *tx) noexcept nogil:
    """Hand a request to the packet port."""
    cdef xdp_t *x = <xdp_t *>port.state
    cdef int64_t taken = x.packet.transmit(x.packet, tx)
    port.trains = x.packet.trains
    x.packet_busy = True
    return taken


cdef int64_t large_by_packet(port_t *port, tx_t *tx, uint32_t k) noexcept nogil:
    """Hand one copy, too large for a chunk, to the packet port; what was written before it has left."""
    cdef tx_t single = tx[0]
    single.egresses = tx.egresses + k
    single.n_egresses = 1
    return by_packet(port, &single)


cdef void finish_packet(xdp_t *x) noexcept nogil:
    """Have the packet port send all that it was asked for."""
    cdef int status = 0
    if x.packet_busy and x.packet.flush != NULL:
        status = x.packet.flush(x.packet)
    if status < 0:
        x.packet_status = status
    x.packet_busy = False


cdef int64_t xdp_transmit(port_t *port, tx_t *tx) noexcept nogil:
    cdef xdp_t *x = <xdp_t *>port.state
    cdef xsk_t *s = x.sockets
    cdef const frame_t *f = tx.run.frame
    cdef const egress_t *e
    cdef xdp_desc *descriptor
    cdef stamp_t fresh, stamp
    cdef uint64_t chunk
    cdef uint32_t k
    cdef int64_t taken = 0
    cdef uint8_t reason = REASON_PORT_REFUSED
    if tx.train != NULL:
        return by_packet(port, tx)
    memset(&stamp, 0, sizeof(stamp))
    stamp.egress_class = CLASS_NONE
    if x.n_sockets:
        finish_packet(x)
        reason = skip_revoked(x)
    for k in range(tx.n_egresses):
        e = tx_egress(tx, k)
        if e.egress_class != stamp.egress_class:
            fresh = stamp_of(tx, e)
            stamp = fresh
        if stamp.reason != REASON_NONE or reason != REASON_NONE:
            tx_refuse(tx, k, stamp.reason if stamp.reason != REASON_NONE else reason)
            continue
        if stamp.size + HEAD_MAX > s.chunk_size:
            reason = settle(x, tx, &taken)
            if reason == REASON_NONE:
                taken += large_by_packet(port, tx, k)
                finish_packet(x)
            else:
                tx_refuse(tx, k, reason)
            continue
        if x.n_chunks == 0:
            reason = settle(x, tx, &taken)
            reap(x)
            if x.n_chunks == 0:
                tx_refuse(tx, k, reason if reason != REASON_NONE else REASON_PORT_REFUSED)
                continue
        x.n_chunks -= 1
        chunk = x.chunks[x.n_chunks]
        copy_write(s.memory + chunk, &stamp, e, f, &tx.states[tx.egresses[k]])
        descriptor = ring_descriptor(&s.tx, x.produced)
        descriptor.addr = chunk
        descriptor.len = stamp.size
        descriptor.options = 0
        x.produced += 1
        x.pending[x.n_pending].k = k
        x.pending[x.n_pending].kept = stamp.ip_at == 0
        x.n_pending += 1
        if x.n_pending == x.batch:
            reason = settle(x, tx, &taken)
    if x.n_pending:
        settle(x, tx, &taken)
    return taken


cdef int xdp_flush(port_t *port) noexcept nogil:
    cdef xdp_t *x = <xdp_t *>port.state
    cdef int status
    finish_packet(x)
    status = x.packet_status
    x.packet_status = 0
    return status


cdef int receive_packet(port_t *port, batch_t *batch) noexcept nogil:
    cdef xdp_t *x = <xdp_t *>port.state
    x.packet.index = port.index
    x.from_packet = True
    return x.packet.receive(x.packet, batch)


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
        memset(f, 0, sizeof(frame_t))
        f.data = s.memory + descriptor.addr
        f.size = descriptor.len
        f.in_port = port.index
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
    if not x.receives:
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
        if x.packet.release != NULL:
            x.packet.release(x.packet, batch)
        return
    s = &x.sockets[x.held_socket]
    at = s.fill.producer[0]
    for i in range(x.n_held):
        ring_address(&s.fill, at + i)[0] = x.held[i] & ~<uint64_t>(s.chunk_size - 1)
    xsk_store(s.fill.producer, at + x.n_held)
    x.n_held = 0
    if xsk_load(s.fill.flags) & XDP_RING_NEED_WAKEUP:
        recvfrom(s.fd, NULL, 0, MSG_DONTWAIT, NULL, NULL)

"""Copies by in-kernel clones: one send for many receivers, on top of a port of the same interface.

What a frame on the private device of `fastpath/clones.py` is followed by, and how its program answers, says that page. Here a request is
turned into it: the head of each copy goes into a record of the table, as `_copy.pxd` writes heads for every way to send, then one
message carries what all of them keep. It is cut where heads change their size, where copies keep something else, after TURNS, and,
where the device does not segment, before it makes more datagrams than a receiver's backlog has room for: none is taken in before the
last clone is made, and what finds no room is lost without a word.

1. The books: a copy is booked when its head is written, and counts as what its record says once the send has returned.
2. A copy whose record says nothing was not made: the device is gone, or full, or takes no such frame. The port below is asked for it.
3. So are requests for fewer copies than FEWEST, and copies for VMs: there is nothing to share, or nobody to gain.
4. A flow is not reordered: before copies go one way, all that went the other way has been handed to the kernel.
"""

import os

from libc.errno cimport EAGAIN, EBADF, EINTR, EINVAL, EMSGSIZE, ENETDOWN, ENOBUFS, ENOMEM, ENXIO, errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from fastpath._copy cimport CLASS_NONE, FORM_DECAPSULATED, copy_write, stamp_of, stamp_t, train_head_write, train_stamp_of, tx_egress, tx_refuse
from fastpath._frame cimport REASON_LINK_DOWN, REASON_NONE, REASON_PORT_REFUSED, batch_t, egress_t, frame_t
from fastpath._port cimport IoPort, port_t, tx_t
from fastpath.io._below cimport below_finish, below_flush, below_receive, below_t, below_transmit, below_transmit_one
from fastpath.io._linux cimport MSG_DONTWAIT, VNET_SIZE, iovec, mmsghdr, sendmmsg, virtio_net_hdr
from fastpath.io._packet_send cimport booked_t, reason_of, unbook
from fastpath.io._vnet cimport vnet_train

cdef extern from * nogil:
    """
    #include <linux/if.h>
    #include <linux/sockios.h>
    #include <string.h>
    #include <sys/ioctl.h>
    static inline int clones_ask(int fd, unsigned long what, const char *device, struct ifreq *answer) {
        memset(answer, 0, sizeof(*answer));
        strcpy(answer->ifr_name, device);
        return ioctl(fd, what, answer);
    }
    static inline uint32_t clones_ifindex(int fd, const char *device) {
        struct ifreq answer;
        return clones_ask(fd, SIOCGIFINDEX, device, &answer) == 0 ? (uint32_t)answer.ifr_ifindex : 0;
    }
    static inline int clones_link_is_up(int fd, const char *device) {
        struct ifreq answer;
        return clones_ask(fd, SIOCGIFFLAGS, device, &answer) == 0 && answer.ifr_flags & IFF_UP && answer.ifr_flags & IFF_RUNNING;
    }
    """
    uint32_t clones_ifindex(int fd, const char *device)
    int clones_link_is_up(int fd, const char *device)

cdef enum:
    DEVICE_SIZE = 16          # IFNAMSIZ
    FEWEST = 2                # copies that are worth a detour
    N_TURNS = 256             # copies of one program run
    ON_THE_WAY = 1000         # datagrams of one, where each is built at once: net.core.netdev_max_backlog
    RECORD = 192              # three cache lines: one for interface, outcome and most heads, all that `_copy.pxd` may write behind
    AT_IFINDEX = 0
    AT_OUTCOME = 4
    AT_HEAD = 8
    ROOM = 128                # bytes of a head
    ORDER_MAGIC = 0x46504c43
    HEAD_AT_OWN = 16          # 6 bytes nobody uses, virtio_net_hdr
    NOT_TOLD = 0x7fffffff
    NET_XMIT_CN = 2           # linux/netdevice.h: something was dropped, perhaps this, perhaps by an interface that is down

TURNS, RECORD_SIZE, IFINDEX_AT, OUTCOME_AT, HEAD_AT, HEAD_ROOM = N_TURNS, RECORD, AT_IFINDEX, AT_OUTCOME, AT_HEAD, ROOM
HEAD_SIZE_MIN, MAGIC, UNTOLD = 14, ORDER_MAGIC, NOT_TOLD

cdef struct order_t:
    uint32_t first
    uint16_t n
    uint16_t head_size
    uint32_t magic

cdef struct clones_t:
    below_t below
    int fd
    int refused               # errno with which the device took nothing; then it is not asked again
    bint singles              # single frames are cloned, too
    bint segments             # the interface takes trains whole
    uint32_t ifindex
    char device[DEVICE_SIZE]
    uint8_t *table
    uint32_t n                # records of the message at hand, and what its copies share
    uint32_t head_size
    uint32_t segment_size     # of a train: UDP payload of one datagram
    const uint8_t *kept
    uint32_t kept_size
    uint64_t *sends           # frames and trains that were handed over, and clones that were made of them
    uint64_t *cloned
    booked_t booked[N_TURNS]
    uint8_t head[HEAD_AT_OWN + ROOM]  # that of the first record, with an order in the place of its MAC addresses
    iovec vectors[2]
    mmsghdr message


cdef class ClonesIo(IoPort):
    """Clones on top of the port `below`, out of the interface `device`, by the socket `fd` of a `Clones`, its `table` and its `counts`.

    `singles`: clone single frames, too, and not trains alone: not where the port below has a better way for those.
    Raises OSError where there is no such interface, ValueError where table or counts are too small. Both ports are used by one thread.
    """

    cdef clones_t _c
    cdef IoPort _below
    cdef uint8_t[::1] _table
    cdef uint64_t[::1] _counts

    def __init__(
        self, IoPort below not None, int fd, uint8_t[::1] table not None, uint64_t[::1] counts not None, str device not None,
        *, bint singles=True,
    ):
        cdef bytes name = os.fsencode(device)
        if table.shape[0] < N_TURNS * RECORD:
            raise ValueError(f"a table of {table.shape[0]} bytes: expected {N_TURNS * RECORD} at least")
        if counts.shape[0] != 2:
            raise ValueError(f"{counts.shape[0]} counts: expected 2")
        self._c.ifindex = clones_ifindex(fd, name) if 0 < len(name) < DEVICE_SIZE else 0
        if self._c.ifindex == 0:
            raise OSError(ENXIO, f"there is no interface {device!r}")
        memcpy(self._c.device, <const char *>name, len(name))
        self._below = below
        self._table = table
        self._counts = counts
        self._c.below.port = &below.port
        self._c.table = &table[0]
        self._c.sends = &counts[0]
        self._c.cloned = &counts[1]
        self._c.fd = fd
        self._c.singles = singles
        self._c.message.msg_hdr.msg_iov = self._c.vectors
        self._c.message.msg_hdr.msg_iovlen = 2
        self.port.state = &self._c
        self.port.transmit = clones_transmit
        self.port.flush = clones_flush
        if below.port.receive != NULL:
            self.port.receive = clones_receive
        if below.port.release != NULL:
            self.port.release = clones_release
        self.port.fd = below.port.fd
        self.port.trains = below.port.trains
        self.port.steps = below.port.steps

    def send(self, bytes frame not None):
        """Send a frame of our own, as the port below does."""
        if self._c.table == NULL:
            raise OSError(EBADF, "the port is closed")
        self._below.send(frame)

    def close(self):
        """Use the device no more; the port below stays open, and sends what is asked for later."""
        if self._c.refused == 0:
            self._c.refused = EBADF
        self._table = None
        self._c.table = NULL

    @property
    def segments(self):
        """Does the interface take trains whole, and segment them or leave that to who receives them?"""
        return bool(self._c.segments)

    @segments.setter
    def segments(self, value):
        self._c.segments = value

    @property
    def transmits(self):
        """How copies to several receivers leave."""
        return self._below.transmits if self._c.refused else "clones"

    @property
    def why(self):
        """A sentence on why it is `transmits`."""
        if self._c.refused:
            return f"no clones any more: their device refused a frame: {os.strerror(self._c.refused)}"
        return "the kernel makes the copies, which share what they carry"

    @property
    def ring_lost(self):
        """Frames that the port below lost before we could receive them."""
        return self._below.ring_lost

cdef int64_t by_below(port_t *port, tx_t *tx) noexcept nogil:
    return below_transmit(&(<clones_t *>port.state).below, port, tx)


cdef int64_t one_by_below(port_t *port, tx_t *tx, uint32_t k) noexcept nogil:
    cdef int64_t taken = below_transmit_one(&(<clones_t *>port.state).below, port, tx, k)
    if taken < 0:  # no trains, and some copies of this one have left: too late to ask for its frames
        tx_refuse(tx, k, REASON_PORT_REFUSED)
        return 0
    return taken


cdef inline int32_t *outcome_at(const clones_t *c, uint32_t i) noexcept nogil:
    return <int32_t *>(c.table + i * RECORD + AT_OUTCOME)


cdef void send_message(clones_t *c, const tx_t *tx) noexcept nogil:
    """Hand what stands in the table over; the outcomes stand in it afterwards."""
    cdef virtio_net_hdr *vnet = <virtio_net_hdr *>(c.head + HEAD_AT_OWN - VNET_SIZE)
    cdef order_t order
    cdef bint asked_again = False
    cdef int error
    memset(vnet, 0, VNET_SIZE)
    memcpy(c.head + HEAD_AT_OWN, c.table + AT_HEAD, c.head_size)
    if tx.train != NULL:
        vnet_train(vnet, tx, c.head + HEAD_AT_OWN, c.head_size, c.segment_size, c.head_size)
    order.first = 0
    order.n = <uint16_t>c.n
    order.head_size = <uint16_t>c.head_size
    order.magic = ORDER_MAGIC
    memcpy(c.head + HEAD_AT_OWN, &order, sizeof(order))
    c.vectors[0].iov_base = vnet
    c.vectors[0].iov_len = VNET_SIZE + c.head_size
    c.vectors[1].iov_base = <void *>c.kept
    c.vectors[1].iov_len = c.kept_size
    c.sends[0] += 1
    while sendmmsg(c.fd, &c.message, 1, MSG_DONTWAIT) < 0:
        error = errno
        if error == EINTR:
            continue
        if error == ENETDOWN and not asked_again:  # perhaps an old one, that waited for the next call
            asked_again = True
            continue
        if error != EAGAIN and error != ENOBUFS and error != ENOMEM and error != EMSGSIZE:
            c.refused = error
        break


cdef inline uint8_t outcome_reason(const clones_t *c, int32_t outcome) noexcept nogil:
    """What the kernel says of a clone: the same as of a frame by AF_PACKET, which asks first whether the interface is there and up."""
    if outcome == 0:
        return REASON_NONE
    if outcome == NET_XMIT_CN:
        return REASON_NONE if clones_link_is_up(c.fd, c.device) else REASON_LINK_DOWN
    if outcome == -EINVAL:
        return REASON_LINK_DOWN
    return reason_of(-outcome)


cdef int64_t settle(port_t *port, tx_t *tx, bint nothing_done) noexcept nogil:
    """Send the message at hand, and count each copy as what became of it; how many left.

    -1: the device took nothing, and neither has anything else of this request been done: all bookings are taken back.
    """
    cdef clones_t *c = <clones_t *>port.state
    cdef uint32_t i, n = c.n
    cdef int32_t outcome
    cdef uint8_t reason
    cdef int64_t taken = 0
    send_message(c, tx)
    c.n = 0
    if nothing_done and outcome_at(c, 0)[0] == NOT_TOLD:
        for i in range(n):
            unbook(tx, &c.booked[i])
        return -1
    for i in range(n):
        outcome = outcome_at(c, i)[0]
        reason = REASON_PORT_REFUSED if outcome == NOT_TOLD else outcome_reason(c, outcome)
        if reason == REASON_NONE:
            c.cloned[0] += 1
            taken += tx.run.n_frames
            continue
        unbook(tx, &c.booked[i])
        if outcome == NOT_TOLD:
            taken += one_by_below(port, tx, c.booked[i].k)
        else:
            tx_refuse(tx, c.booked[i].k, reason)
    return taken


cdef inline void record_write(clones_t *c, tx_t *tx, uint32_t k, const egress_t *e, const stamp_t *stamp) noexcept nogil:
    """Write the next record, for egress `k`, and book its copies."""
    cdef uint8_t *record = c.table + c.n * RECORD
    cdef booked_t *booked = &c.booked[c.n]
    (<uint32_t *>(record + AT_IFINDEX))[0] = c.ifindex
    outcome_at(c, c.n)[0] = NOT_TOLD
    booked.k = k
    booked.kept = stamp.ip_at == 0
    if tx.train != NULL:
        train_head_write(record + AT_HEAD, tx, k, stamp)
        booked.size = tx.run.n_frames * c.head_size + tx.train_size
    else:
        copy_write(record + AT_HEAD, stamp, e, tx.run.frame, &tx.states[tx.egresses[k]])
        booked.size = stamp.size
    c.n += 1


cdef inline uint32_t head_size_of(const tx_t *tx, const stamp_t *stamp) noexcept nogil:
    """Of a train: up to the end of its UDP header."""
    cdef const frame_t *f = tx.run.frame
    if tx.train == NULL:
        return stamp.head_size
    return 8 + (stamp.udp_at if stamp.ip_at != 0 else 14 + f.transport - f.mt)


cdef int64_t clones_transmit(port_t *port, tx_t *tx) noexcept nogil:
    cdef clones_t *c = <clones_t *>port.state
    cdef const egress_t *e = tx_egress(tx, 0)
    cdef stamp_t fresh, stamp
    cdef const uint8_t *kept = tx.train
    cdef uint32_t k, kept_size = tx.train_size, head_size, most = N_TURNS
    cdef int64_t done, taken = 0
    cdef bint nothing_done = True
    if tx.n_egresses < FEWEST or c.refused != 0 or e.form == FORM_DECAPSULATED or (tx.train == NULL and not c.singles):
        return by_below(port, tx)
    below_finish(&c.below)
    if not c.segments:
        most = min(most, ON_THE_WAY // tx.run.n_frames)
    memset(&stamp, 0, sizeof(stamp))
    stamp.egress_class = CLASS_NONE
    for k in range(tx.n_egresses):
        e = tx_egress(tx, k)
        if e.egress_class != stamp.egress_class:
            if tx.train != NULL:
                fresh = train_stamp_of(tx, e)
                stamp = fresh
            else:
                fresh = stamp_of(tx, e)
                stamp = fresh
                kept = stamp.kept
                kept_size = stamp.kept_size
                stamp.kept_size = 0
            if stamp.reason == REASON_NONE:
                head_size = head_size_of(tx, &stamp)
                if c.n != 0 and (head_size != c.head_size or kept != c.kept or kept_size != c.kept_size):
                    done = settle(port, tx, nothing_done)
                    if done < 0:
                        return by_below(port, tx)
                    taken += done
                    nothing_done = False
                c.head_size = head_size
                c.segment_size = stamp.size - head_size
                c.kept = kept
                c.kept_size = kept_size
        if stamp.reason != REASON_NONE:
            tx_refuse(tx, k, stamp.reason)
            nothing_done = False
            continue
        record_write(c, tx, k, e, &stamp)
        if c.n == most:
            done = settle(port, tx, nothing_done)
            if done < 0:
                return by_below(port, tx)
            taken += done
            nothing_done = False
    if c.n != 0:
        done = settle(port, tx, nothing_done)
        if done < 0:
            return by_below(port, tx)
        taken += done
    return taken


cdef int clones_flush(port_t *port) noexcept nogil:
    return below_flush(&(<clones_t *>port.state).below)


cdef int clones_receive(port_t *port, batch_t *batch) noexcept nogil:
    return below_receive(&(<clones_t *>port.state).below, port, batch)


cdef void clones_release(port_t *port, batch_t *batch) noexcept nogil:
    cdef port_t *below = (<clones_t *>port.state).below.port
    below.release(below, batch)

"""Copies by in-kernel clones: one send for many receivers, on top of a port of the same interface.

A request is turned into records of the message (`_clone_message.pxd`) that all ports of one private device share: the head of each copy,
as `_copy.pxd` writes heads for every way to send. Copies for VMs go by the port below: there is nobody to gain.

A flow is not reordered: before copies go one way, all that went the other way has been handed to the kernel. What the message holds is of
one run, of which no egress gets more than one copy or train.
"""

import os

from libc.errno cimport EBADF, ENXIO
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset
from fastpath._copy cimport CLASS_NONE, FORM_DECAPSULATED, stamp_of, stamp_t, train_stamp_of, tx_egress, tx_refuse
from fastpath._frame cimport REASON_NONE, batch_t, egress_t, frame_t
from fastpath._port cimport IoPort, port_t, tx_t
from fastpath.io._below cimport below_finish, below_flush, below_receive, below_transmit
from fastpath.io._clone_message cimport (
    AT_HEAD, AT_IFINDEX, AT_OUTCOME, DEVICE_SIZE, FEWEST, N_REQUESTS, N_TURNS, NOT_TOLD, ORDER_MAGIC, RECORD, ROOM, cloning_t, clones_ifindex,
    message_add, message_fits, message_hold, message_is_full, message_settle, message_t,
)

TURNS, RECORD_SIZE, IFINDEX_AT, OUTCOME_AT, HEAD_AT, HEAD_ROOM = N_TURNS, RECORD, AT_IFINDEX, AT_OUTCOME, AT_HEAD, ROOM
HEAD_SIZE_MIN, MAGIC, UNTOLD = 14, ORDER_MAGIC, NOT_TOLD


cdef class CloneMessages:
    """What ports hand to one private device, by the socket `fd`; `table` is where its program finds the heads.

    `trains`: the kernel takes super-frames there. Raises ValueError where the table is too small. Used by one thread.
    """

    cdef message_t _m
    cdef uint8_t[::1] _table

    def __init__(self, int fd, uint8_t[::1] table not None, *, bint trains):
        if table.shape[0] < N_TURNS * RECORD:
            raise ValueError(f"a table of {table.shape[0]} bytes: expected {N_TURNS * RECORD} at least")
        self._table = table
        self._m.table = &table[0]
        self._m.fd = fd
        self._m.trains = trains

    def close(self):
        """Hand nothing over any more: what ports are asked for goes by the ports below."""
        self._m.refused = EBADF
        self._table = None

    @property
    def sends(self):
        """Frames and trains that were handed over to be cloned."""
        return self._m.sends

    @property
    def cloned(self):
        """The clones that were made of them, a train being one."""
        return self._m.cloned


cdef class ClonesIo(IoPort):
    """Clones on top of the port `below`, out of the interface `device`.

    `singles`: clone single frames, too, and not trains alone: not where the port below has a better way for those.
    Raises OSError where there is no such interface. It is used by the thread that uses the messages.
    """

    cdef cloning_t _c
    cdef IoPort _below
    cdef CloneMessages _messages

    def __init__(self, IoPort below not None, CloneMessages messages not None, str device not None, *, bint singles=True):
        cdef bytes name = os.fsencode(device)
        self._c.ifindex = clones_ifindex(messages._m.fd, name) if 0 < len(name) < DEVICE_SIZE else 0
        if self._c.ifindex == 0:
            raise OSError(ENXIO, f"there is no interface {device!r}")
        memcpy(self._c.device, <const char *>name, len(name))
        self._below = below
        self._messages = messages
        self._c.below.port = &below.port
        self._c.message = &messages._m
        self._c.singles = singles
        self.port.state = &self._c
        self.port.transmit = clones_transmit
        self.port.settle = clones_settle
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
        if self._c.is_closed:
            raise OSError(EBADF, "the port is closed")
        self._below.send(frame)

    def close(self):
        """Use the device no more; the port below stays open, and sends what is asked for later."""
        self._c.is_closed = True

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
        return self._below.transmits if self._messages._m.refused else "clones"

    @property
    def why(self):
        """A sentence on why it is `transmits`."""
        if self._messages._m.refused:
            return f"no clones any more: their device refused a frame: {os.strerror(self._messages._m.refused)}"
        return "the kernel makes the copies, which share what they carry"

    @property
    def ring_lost(self):
        """Frames that the port below lost before we could receive them."""
        return self._below.ring_lost


cdef inline uint32_t head_size_of(const tx_t *tx, const stamp_t *stamp) noexcept nogil:
    """Of a train: up to the end of its UDP header."""
    cdef const frame_t *f = tx.run.frame
    if tx.train == NULL:
        return stamp.head_size
    return 8 + (stamp.udp_at if stamp.ip_at != 0 else 14 + f.transport - f.mt)


cdef int64_t clones_transmit(port_t *port, tx_t *tx) noexcept nogil:
    cdef cloning_t *c = <cloning_t *>port.state
    cdef message_t *m = c.message
    cdef const egress_t *e = tx_egress(tx, 0)
    cdef stamp_t fresh, stamp
    cdef const uint8_t *kept = tx.train
    cdef uint32_t k, kept_size = tx.train_size, head_size = 0
    cdef tx_t rest
    cdef int64_t taken = 0
    cdef bint is_held = False
    if (
        c.is_closed or m.refused != 0 or e.form == FORM_DECAPSULATED or not (m.trains if tx.train != NULL else c.singles)
        or (m.n == 0 and tx.n_egresses < FEWEST and not tx.more)
    ):
        message_settle(m)
        return below_transmit(&c.below, port, tx)
    if m.n == 0 and tx.unsettled != NULL:  # it stands on another device
        tx.unsettled.settle(tx.unsettled)
    below_finish(&c.below)
    memset(&stamp, 0, sizeof(stamp))
    stamp.egress_class = CLASS_NONE
    for k in range(tx.n_egresses):
        e = tx_egress(tx, k)
        if e.form == FORM_DECAPSULATED:  # then so are those behind it, and it rides in no train with those before
            message_settle(m)
            rest = tx[0]
            rest.egresses += k
            rest.n_egresses -= k
            return taken + below_transmit(&c.below, port, &rest)
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
            head_size = head_size_of(tx, &stamp)
        if stamp.reason != REASON_NONE:
            tx_refuse(tx, k, stamp.reason)
            continue
        if not message_fits(m, head_size, kept, kept_size) or message_is_full(m, c, tx) or (not is_held and m.n_requests == N_REQUESTS):
            message_settle(m)
            is_held = False
        if m.n == 0:
            m.head_size = head_size
            m.segment_size = stamp.size - head_size
            m.kept = kept
            m.kept_size = kept_size
        if not is_held:
            message_hold(m, port, tx)
            is_held = True
        message_add(m, c, tx, k, e, &stamp)
        taken += tx.run.n_frames
    tx.unsettled = port
    return taken


cdef void clones_settle(port_t *port) noexcept nogil:
    message_settle((<cloning_t *>port.state).message)


cdef int clones_flush(port_t *port) noexcept nogil:
    return below_flush(&(<cloning_t *>port.state).below)


cdef int clones_receive(port_t *port, batch_t *batch) noexcept nogil:
    return below_receive(&(<cloning_t *>port.state).below, port, batch)


cdef void clones_release(port_t *port, batch_t *batch) noexcept nogil:
    cdef port_t *below = (<cloning_t *>port.state).below.port
    below.release(below, batch)

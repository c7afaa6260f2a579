"""Two ports of one process, back to back: what one sends comes in at the other, and no kernel sees it.

1. A pair belongs to one worker: copies go into a lane that its own thread empties, later in the same round or in the next one,
   for a round that received anything is followed by another at once. So there is nothing to wait for. It is emptied whole, before
   other ports receive more: what crosses is not lost to those who flood.
2. Control has a lane of its own, small, and rings a bell: the worker may be asleep. Whoever rings counts afterwards, and who hears
   compares the count before it silences the bell: a bell is never left ringing, nor a frame lying.
3. A lane is bounded in bytes. A frame without room in it is refused, and counted by who sent it.

A record that would run over the end of its lane is written on, into what is there for that: every frame is in one piece. Its place at
the lane's beginning stays empty. A lane that has been emptied begins anew, so that few bytes are in use, and these in the cache.
"""

from libc.errno cimport EBADF, EMSGSIZE, ENOBUFS
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset
from posix.stdlib cimport posix_memalign
from posix.unistd cimport read, write
from fastpath._copy cimport CLASS_NONE, copy_write, stamp_of, stamp_t, tx_egress, tx_refuse
from fastpath._frame cimport HEAD_MAX, MARK_NONE, REASON_NONE, REASON_PORT_REFUSED, batch_t, egress_t, frame_t
from fastpath._port cimport IoPort, port_t, tx_t

import os

cdef extern from * nogil:
    """
    #include <stdint.h>
    #define lane_load(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define lane_store(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    """
    uint64_t lane_load(const uint64_t *place) noexcept
    void lane_store(uint64_t *place, uint64_t value) noexcept

cdef enum:
    LINE = 64
    FRAME_ROOM = 2048         # of a lane for each frame that it is asked to hold; large ones take more, small ones less
    FRAME_MAX = (1 << 16) + 2 * LINE  # an IP packet of 64 KB, IPv6's header and Ethernet's
    CONTROL_SIZE = 1 << 17

# Stands before each frame.
cdef struct record_t:
    uint64_t time_ns          # of the frame that a copy was made of; 0: from control
    uint32_t size
    uint32_t _pad

cdef struct lane_t:
    uint8_t *bytes            # `size` and room for one record more
    uint64_t size             # a power of two
    uint64_t head             # written up to here; counts on
    uint64_t cursor           # handed to the worker up to here
    uint64_t tail             # and done with

# One direction.
cdef struct way_t:
    lane_t copies
    lane_t control
    uint64_t rung             # frames of control so far
    uint64_t heard
    int bell                  # eventfd; -1: closed

cdef struct internal_t:
    way_t *rx
    way_t *tx


cdef inline uint64_t span(uint32_t size) noexcept nogil:
    """What a frame takes of a lane."""
    return (sizeof(record_t) + size + LINE - 1) & ~<uint64_t>(LINE - 1)


cdef inline record_t *reserve(const lane_t *lane, uint32_t size) noexcept nogil:
    """Where the next record goes, with room for a frame and what a head may overwrite behind it; NULL: it has none."""
    if size > FRAME_MAX or span(size) + HEAD_MAX > lane.size - (lane.head - lane_load(&lane.tail)):
        return NULL
    return <record_t *>(lane.bytes + (lane.head & (lane.size - 1)))


cdef inline void push(lane_t *lane, record_t *record, uint32_t size, uint64_t time_ns) noexcept nogil:
    """The record is complete."""
    record.size = size
    record.time_ns = time_ns
    lane_store(&lane.head, lane.head + span(size))


cdef inline void take(lane_t *lane, port_t *port, batch_t *batch) noexcept nogil:
    """Put what waits in a lane into the batch, as far as there is room."""
    cdef uint64_t head = lane_load(&lane.head)
    cdef record_t *record
    cdef frame_t *f
    while lane.cursor != head and batch.n < batch.capacity:
        record = <record_t *>(lane.bytes + (lane.cursor & (lane.size - 1)))
        f = &batch.frames[batch.n]
        f.data = <uint8_t *>(record + 1)
        f.size = record.size
        f.time_ns = record.time_ns
        f.in_port = port.index
        f.marked = MARK_NONE
        f.mark_start = f.mark_offset = f.vlan_tpid = f.vlan_tci = 0
        batch.n += 1
        lane.cursor += span(record.size)


cdef int lane_begin(lane_t *lane, uint64_t size) except -1:
    lane.size = size
    if posix_memalign(<void **>&lane.bytes, LINE, size + span(FRAME_MAX) + HEAD_MAX):
        raise MemoryError
    return 0


cdef class _Way:
    """The memory of one direction, held by both ports."""

    cdef way_t way

    def __cinit__(self, uint64_t size):
        self.way.bell = -1
        lane_begin(&self.way.copies, size)
        lane_begin(&self.way.control, CONTROL_SIZE)
        self.way.bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def __dealloc__(self):
        free(self.way.copies.bytes)
        free(self.way.control.bytes)
        self.close()

    cdef void close(self):
        if self.way.bell >= 0:
            os.close(self.way.bell)
        self.way.bell = -1


cdef class InternalIo(IoPort):
    """One of two ports that are each other's wire; see `pair`."""

    cdef internal_t _i
    cdef _Way _rx
    cdef _Way _tx

    def __cinit__(self, _Way rx not None, _Way tx not None):
        self._rx, self._tx = rx, tx
        self._i.rx = &rx.way
        self._i.tx = &tx.way
        self.port.state = &self._i
        self.port.receive = internal_receive
        self.port.transmit = internal_transmit
        self.port.release = internal_release
        self.port.is_inner = True
        self.port.fd = rx.way.bell

    @staticmethod
    def pair(uint32_t room_frames=8192):
        """Two ports, both for one worker. `room_frames`: how many frames of 2 KB each way holds, a power of two."""
        if not 64 <= room_frames <= 1 << 20 or room_frames & (room_frames - 1):
            raise ValueError(f"room_frames {room_frames}: expected a power of two, 64 to {1 << 20}")
        size = <uint64_t>room_frames * FRAME_ROOM
        one, other = _Way(size), _Way(size)
        return InternalIo(one, other), InternalIo(other, one)

    @property
    def transmits(self):
        """How copies leave."""
        return "internal"

    @property
    def why(self):
        """Why they leave so."""
        return "" if self._rx.way.bell >= 0 else "the port is closed"

    def send(self, bytes frame not None):
        """Send a frame of our own, beside a worker if there is one; OSError where there is no room for it, or no other end."""
        cdef way_t *way = self._i.tx
        cdef uint64_t size = len(frame), one = 1
        cdef int64_t _
        cdef record_t *record
        if way.bell < 0:
            raise OSError(EBADF, "the port is closed")
        if size > FRAME_MAX:
            raise OSError(EMSGSIZE, os.strerror(EMSGSIZE))
        record = reserve(&way.control, <uint32_t>size)
        if record == NULL:
            raise OSError(ENOBUFS, os.strerror(ENOBUFS))
        memcpy(record + 1, <const uint8_t *>frame, size)
        push(&way.control, record, <uint32_t>size, 0)
        _ = write(way.bell, &one, sizeof(one))  # it fails where it rings already
        lane_store(&way.rung, way.rung + 1)

    def close(self):
        """Take this end away: nothing can be sent to it or by it. Not while a worker uses the pair."""
        self._rx.close()
        self._tx.close()
        self.port.fd = -1


cdef int internal_receive(port_t *port, batch_t *batch) noexcept nogil:
    cdef way_t *way = (<internal_t *>port.state).rx
    cdef uint64_t rung = lane_load(&way.rung), word
    cdef int64_t _
    if rung != way.heard:
        way.heard = rung
        _ = read(way.bell, &word, sizeof(word))
    take(&way.control, port, batch)
    take(&way.copies, port, batch)
    return <int>batch.n


cdef void internal_release(port_t *port, batch_t *batch) noexcept nogil:
    cdef way_t *way = (<internal_t *>port.state).rx
    lane_store(&way.control.tail, way.control.cursor)
    way.copies.tail = way.copies.cursor
    if way.copies.tail == way.copies.head:
        way.copies.head = way.copies.cursor = way.copies.tail = 0


cdef int64_t internal_transmit(port_t *port, tx_t *tx) noexcept nogil:
    cdef lane_t *lane = &(<internal_t *>port.state).tx.copies
    cdef const frame_t *f = tx.run.frame
    cdef const egress_t *e
    cdef record_t *record
    cdef stamp_t fresh, stamp
    cdef uint32_t k
    cdef int64_t taken = 0
    memset(&stamp, 0, sizeof(stamp))
    stamp.egress_class = CLASS_NONE
    for k in range(tx.n_egresses):
        e = tx_egress(tx, k)
        if e.egress_class != stamp.egress_class:
            fresh = stamp_of(tx, e)
            stamp = fresh
        record = reserve(lane, stamp.size) if stamp.reason == REASON_NONE else NULL
        if record == NULL:
            tx_refuse(tx, k, stamp.reason if stamp.reason != REASON_NONE else REASON_PORT_REFUSED)
            continue
        copy_write(<uint8_t *>(record + 1), &stamp, e, f, &tx.states[tx.egresses[k]])
        push(lane, record, stamp.size, f.time_ns)
        taken += 1
    return taken

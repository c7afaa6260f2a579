"""A port in memory: frames pushed by Python come in, copies go out into one arena. For tests and benchmarks.

The arena is the contract of a real transmit ring in small: fixed room, a copy that does not fit is refused and counted, and a
train is kept as it was handed over (heads, and one payload for all of them) until someone pops it.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport ENOBUFS
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset
from fastpath._copy cimport CLASS_NONE, copy_write, stamp_of, stamp_t, train_head_write, train_stamp_of, tx_egress, tx_refuse
from fastpath._frame cimport (
    FRAME_SIZE_MAX, HEAD_MAX, REASON_NONE, REASON_PORT_REFUSED, TRAIN_HEAD_MAX, batch_t, egress_t, frame_t,
)
from fastpath._port cimport IoPort, port_t, tx_t

import os

# A frame that waits to come in; its bytes stand at `offset`.
cdef struct waiting_t:
    uint64_t offset
    uint64_t time_ns
    uint32_t size
    uint16_t mark_start
    uint16_t mark_offset
    uint16_t vlan_tpid
    uint16_t vlan_tci
    uint8_t marked

# What stands before each copy or train head in the arena.
cdef enum record_kind:
    RECORD_COPY
    RECORD_TRAIN              # a carried_t and the head
    RECORD_PAYLOAD            # what several trains carry

cdef struct record_t:
    uint32_t size             # of what follows
    uint32_t kind

# Stands between the record and the head of a train.
cdef struct carried_t:
    uint64_t payload          # where the payload of the train stands
    uint32_t size             # of the payload
    uint32_t segment_size

cdef inline uint64_t aligned(uint64_t size) noexcept nogil:
    return (size + 7) & ~<uint64_t>7


cdef struct memory_t:
    uint8_t *bytes_in
    uint64_t in_used
    uint64_t in_room
    waiting_t *waiting
    uint64_t n_waiting
    uint64_t waiting_room
    uint64_t cursor
    uint8_t *out
    uint64_t out_used
    uint64_t capacity
    bint overwrite


cdef class MemoryIo(IoPort):
    """A memory port with room for `capacity` bytes of copies.

    `trains`: take super-frames. `overwrite`: when full, forget what is there instead of refusing (benchmarks).
    """

    cdef memory_t _m

    def __cinit__(self, uint64_t capacity=1 << 26, bint trains=False, bint overwrite=False):
        self._m.capacity = capacity
        self._m.overwrite = overwrite
        self._m.out = <uint8_t *>malloc(capacity)
        if self._m.out == NULL:
            raise MemoryError
        self.port.receive = memory_receive
        self.port.transmit = memory_transmit
        self.port.release = memory_release
        self.port.steps = True
        self.port.trains = trains
        self.port.state = &self._m

    def __dealloc__(self):
        free(self._m.bytes_in)
        free(self._m.waiting)
        free(self._m.out)

    def push(self, data, mark=None, vlan=None, uint64_t time_ns=0):
        """Queue one frame (bytes). `mark`: (start, offset) of an unfinished checksum; `vlan`: (TPID, TCI) out of band."""
        cdef const uint8_t[::1] view = data
        cdef uint64_t size = view.shape[0]
        cdef waiting_t *frame
        if size > FRAME_SIZE_MAX:
            raise ValueError(f"a frame of {size} bytes; expected at most {FRAME_SIZE_MAX}")
        if self._m.in_used + size >= self._m.in_room:
            self._m.in_room = 2 * (self._m.in_used + size) + 4096
            self._m.bytes_in = <uint8_t *>self._grow(self._m.bytes_in, self._m.in_room)
        if self._m.n_waiting == self._m.waiting_room:
            self._m.waiting_room = 2 * self._m.n_waiting + 256
            self._m.waiting = <waiting_t *>self._grow(self._m.waiting, self._m.waiting_room * sizeof(waiting_t))
        frame = &self._m.waiting[self._m.n_waiting]
        memset(frame, 0, sizeof(waiting_t))
        frame.offset = self._m.in_used
        frame.size = <uint32_t>size
        frame.time_ns = time_ns
        if mark is not None:
            frame.marked = 1
            frame.mark_start, frame.mark_offset = mark
        if vlan is not None:
            frame.vlan_tpid, frame.vlan_tci = vlan
        if size:
            memcpy(self._m.bytes_in + self._m.in_used, &view[0], size)
        self._m.in_used += size
        self._m.n_waiting += 1

    cdef void *_grow(self, void *memory, uint64_t size) except NULL:
        memory = realloc(memory, size)
        if memory == NULL:
            raise MemoryError
        return memory

    def rewind(self):
        """Let all frames come in once more, as the data path left them: the next round of a benchmark."""
        self._m.cursor = 0

    def clear(self):
        """Forget the copies in the arena and the frames that have come in."""
        self._m.out_used = 0
        if self._m.cursor == self._m.n_waiting:
            self._m.cursor = self._m.n_waiting = self._m.in_used = 0

    def send(self, bytes frame not None):
        """Send a frame of our own: one more record among the copies. Not while a worker runs; OSError where it finds no room."""
        cdef record_t *record = reserve(&self._m, len(frame))
        if record == NULL:
            raise OSError(ENOBUFS, os.strerror(ENOBUFS))
        memcpy(record + 1, <const uint8_t *>frame, len(frame))
        self._m.out_used += sizeof(record_t) + aligned(record.size)

    def records(self):
        """What stands in the arena, oldest first: (copy, b"", 0), or (head, payload, segment size) of a train."""
        cdef uint64_t at = 0
        cdef record_t *record
        cdef carried_t *train
        cdef uint8_t *data
        out = []
        while at < self._m.out_used:
            record = <record_t *>(self._m.out + at)
            data = <uint8_t *>(record + 1)
            at += sizeof(record_t) + aligned(record.size)
            if record.kind == RECORD_COPY:
                out.append((PyBytes_FromStringAndSize(<char *>data, record.size), b"", 0))
            elif record.kind == RECORD_TRAIN:
                train = <carried_t *>data
                out.append((
                    PyBytes_FromStringAndSize(<char *>(train + 1), record.size - sizeof(carried_t)),
                    PyBytes_FromStringAndSize(<char *>self._m.out + train.payload, train.size),
                    train.segment_size,
                ))
        return out

    @property
    def bytes_used(self):
        """Bytes of the arena in use."""
        return self._m.out_used


cdef int memory_receive(port_t *port, batch_t *batch) noexcept nogil:
    cdef memory_t *m = <memory_t *>port.state
    cdef waiting_t *waiting
    cdef uint64_t at = m.cursor
    cdef frame_t *f
    while batch.n < batch.capacity and at < m.n_waiting:
        waiting = &m.waiting[at]
        f = &batch.frames[batch.n]
        f.data = m.bytes_in + waiting.offset
        f.size = waiting.size
        f.time_ns = waiting.time_ns
        f.in_port = port.index
        f.marked = waiting.marked
        f.mark_start = waiting.mark_start
        f.mark_offset = waiting.mark_offset
        f.vlan_tpid = waiting.vlan_tpid
        f.vlan_tci = waiting.vlan_tci
        batch.n += 1
        at += 1
    return <int>batch.n


cdef void memory_release(port_t *port, batch_t *batch) noexcept nogil:
    (<memory_t *>port.state).cursor += batch.n


cdef inline record_t *reserve(memory_t *m, uint64_t size) noexcept nogil:
    """Room for a record of `size` bytes and what a head may overwrite behind it; NULL when there is none."""
    cdef record_t *record
    if m.out_used + sizeof(record_t) + size + HEAD_MAX > m.capacity:
        if not m.overwrite or sizeof(record_t) + size + HEAD_MAX > m.capacity:
            return NULL
        m.out_used = 0
    record = <record_t *>(m.out + m.out_used)
    record.size = <uint32_t>size
    record.kind = RECORD_COPY
    return record


cdef int64_t transmit_train(memory_t *m, tx_t *tx) noexcept nogil:
    """One payload record, then one head record per destination."""
    cdef record_t *record
    cdef carried_t *train
    cdef const egress_t *e
    cdef stamp_t fresh, stamp
    cdef uint32_t k
    cdef uint64_t payload = 0
    cdef uint64_t room = tx.train_size + (tx.n_egresses + 1) * (sizeof(record_t) + sizeof(carried_t) + TRAIN_HEAD_MAX + 8)
    cdef int64_t taken = 0
    memset(&stamp, 0, sizeof(stamp))
    stamp.egress_class = CLASS_NONE
    record = reserve(m, room)
    if record != NULL:
        record.kind = RECORD_PAYLOAD
        record.size = tx.train_size
        payload = m.out_used + sizeof(record_t)
        memcpy(m.out + payload, tx.train, tx.train_size)
        m.out_used = payload + aligned(tx.train_size)
    for k in range(tx.n_egresses):
        e = tx_egress(tx, k)
        if e.egress_class != stamp.egress_class:
            fresh = train_stamp_of(tx, e)
            stamp = fresh
        if stamp.reason != REASON_NONE or record == NULL:
            tx_refuse(tx, k, stamp.reason if stamp.reason != REASON_NONE else REASON_PORT_REFUSED)
            continue
        record = <record_t *>(m.out + m.out_used)
        train = <carried_t *>(record + 1)
        record.kind = RECORD_TRAIN
        record.size = <uint32_t>sizeof(carried_t) + train_head_write(<uint8_t *>(train + 1), tx, k, &stamp)
        train.payload = payload
        train.size = tx.train_size
        train.segment_size = stamp.size + <uint32_t>sizeof(carried_t) - record.size
        m.out_used += sizeof(record_t) + aligned(record.size)
        taken += tx.run.n_frames
    return taken


cdef int64_t memory_transmit(port_t *port, tx_t *tx) noexcept nogil:
    cdef memory_t *m = <memory_t *>port.state
    cdef const frame_t *f = tx.run.frame
    cdef const egress_t *e
    cdef record_t *record
    cdef stamp_t fresh, stamp
    cdef uint32_t k, n_refused = 0
    if tx.train != NULL:
        return transmit_train(m, tx)
    memset(&stamp, 0, sizeof(stamp))
    stamp.egress_class = CLASS_NONE
    for k in range(tx.n_egresses):
        e = tx_egress(tx, k)
        if e.egress_class != stamp.egress_class:
            fresh = stamp_of(tx, e)
            stamp = fresh
        record = reserve(m, stamp.size) if stamp.reason == REASON_NONE else NULL
        if record == NULL:
            tx_refuse(tx, k, stamp.reason if stamp.reason != REASON_NONE else REASON_PORT_REFUSED)
            n_refused += 1
            continue
        copy_write(<uint8_t *>(record + 1), &stamp, e, f, &tx.states[tx.egresses[k]])
        m.out_used += sizeof(record_t) + aligned(stamp.size)
    return tx.n_egresses - n_refused

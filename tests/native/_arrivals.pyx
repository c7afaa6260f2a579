"""A source for tests: frames of any in port, mixed in one batch as a capture mixes them, each in memory of exactly its size.

So the sanitizer sees every read behind a frame's end, which the arena of a memory port would hide.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset
from fastpath._frame cimport PORTS_MAX, batch_t, frame_t
from fastpath._port cimport IoPort, port_t

cdef struct waiting_t:
    uint32_t n
    uint32_t room
    uint32_t cursor
    frame_t *frames


cdef class Arrivals(IoPort):
    """Frames that wait to come in."""

    cdef waiting_t _waiting

    def __cinit__(self):
        self.port.receive = arrivals_receive
        self.port.release = arrivals_release
        self.port.steps = True
        self.port.state = &self._waiting

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self._waiting.cursor, self._waiting.n):
            free(self._waiting.frames[i].data)
        free(self._waiting.frames)

    def push(self, uint16_t in_port, bytes data not None, mark=None, vlan=None, uint64_t time_ns=0):
        """Queue one frame. `mark`: (start, offset) of an unfinished checksum; `vlan`: (TPID, TCI) out of band."""
        cdef waiting_t *w = &self._waiting
        cdef frame_t *f
        if in_port >= PORTS_MAX:
            raise ValueError(f"in_port {in_port}")
        if w.cursor == w.n:
            w.cursor = w.n = 0
        if w.n == w.room:
            f = <frame_t *>realloc(w.frames, (2 * w.room + 256) * sizeof(frame_t))
            if f == NULL:
                raise MemoryError
            w.frames = f
            w.room = 2 * w.room + 256
        f = &w.frames[w.n]
        memset(f, 0xa5, sizeof(frame_t))
        f.data = <uint8_t *>malloc(len(data))
        if f.data == NULL and data:
            raise MemoryError
        memcpy(f.data, <const uint8_t *>data, len(data))
        f.size = <uint32_t>len(data)
        f.in_port = in_port
        f.time_ns = time_ns
        f.marked = mark is not None
        f.mark_start, f.mark_offset = mark or (0, 0)
        f.vlan_tpid, f.vlan_tci = vlan or (0, 0)
        w.n += 1


cdef int arrivals_receive(port_t *port, batch_t *batch) noexcept nogil:
    cdef waiting_t *w = <waiting_t *>port.state
    while batch.n < batch.capacity and w.cursor + batch.n < w.n:
        batch.frames[batch.n] = w.frames[w.cursor + batch.n]
        batch.n += 1
    return <int>batch.n


cdef void arrivals_release(port_t *port, batch_t *batch) noexcept nogil:
    cdef waiting_t *w = <waiting_t *>port.state
    cdef uint32_t i
    for i in range(batch.n):
        free(w.frames[w.cursor + i].data)
    w.cursor += batch.n

"""A capture as a port: the copies of all out ports go into one pcap or pcapng file.

Copies are made right in one buffer, which goes to write(2) when it is full, never at the end of a burst. Why not a mapping of the
file: on tmpfs a fresh mapping costs a page fault and a page of zeros every 4 KB, which write(2) does not, and a full disk would
be a SIGBUS instead of an error that can be told. Why this size: the buffer stays in the second-level cache. Measured in plain C
(900 MB, memcpy and write, EPYC): fresh mapping 0.7 GB/s; buffer of 64 KB 1.3, 256 KB 1.4, 512 KB 1.55, 1 MB 1.3, 4 MB 1.2 GB/s.

A write that fails is the last one. What is in the file stays and is cut behind its last whole copy; the copies that were still in
the buffer, counted as sent, are `lost`; every later one is refused.
"""

from libc.errno cimport EBADF, EINTR, EIO, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from posix.unistd cimport close, ftruncate, write
from fastpath._copy cimport CLASS_NONE, copy_write, stamp_of, stamp_t, tx_egress, tx_refuse
from fastpath._frame cimport FRAME_SIZE_MAX, HEAD_MAX, REASON_NONE, REASON_PORT_REFUSED, egress_t, frame_t
from fastpath._port cimport IoPort, port_t, tx_t

import os

cdef enum:
    BUFFER_SIZE = 1 << 19
    PACKET_BLOCK = 6
    SECONDS_MAX = 0xffffffff  # the year 2106, where classic pcap ends: later times stay there

# What stands before each copy, both in our own byte order.
cdef struct pcap_packet_t:
    uint32_t seconds
    uint32_t fraction
    uint32_t size
    uint32_t wire_size

cdef struct packet_block_t:
    uint32_t kind
    uint32_t block_size       # with the padding of the copy and this size once more behind it
    uint32_t interface
    uint32_t time_high
    uint32_t time_low
    uint32_t size
    uint32_t wire_size

cdef struct sink_t:
    uint8_t *buffer           # begins with a whole record
    uint64_t used
    uint64_t written          # bytes in the file
    uint64_t copies           # taken
    uint64_t lost             # of these, not in the file
    uint64_t sent             # of our own, for control
    uint32_t n_ports
    int fd                    # -1: closed
    int error                 # errno of the write that failed
    bint blocks               # pcapng
    bint nanoseconds

assert sizeof(pcap_packet_t) == 16 and sizeof(packet_block_t) == 28
assert sizeof(packet_block_t) + FRAME_SIZE_MAX + 2 * HEAD_MAX + 8 < BUFFER_SIZE


cdef class PcapOut(IoPort):
    """Writes copies to the file descriptor `fd`, which it owns from now on, behind the file header `head`.

    One object serves all of `n_ports` out ports. `blocks`: pcapng, whose interfaces stand in `head`; else classic pcap, with
    `nanoseconds` or microseconds.
    """

    cdef sink_t _s

    def __cinit__(self, *_, **__):
        self._s.fd = -1

    def __init__(self, int fd, bytes head not None, uint32_t n_ports, bint blocks, bint nanoseconds):
        if self._s.buffer != NULL:
            raise RuntimeError("a capture is opened once")
        if len(head) > BUFFER_SIZE:
            raise ValueError(f"a file header of {len(head)} bytes: there is room for {BUFFER_SIZE}")
        self._s.buffer = <uint8_t *>malloc(BUFFER_SIZE)
        if self._s.buffer == NULL:
            raise MemoryError
        self._s.fd = fd
        self._s.n_ports = n_ports
        self._s.blocks = blocks
        self._s.nanoseconds = nanoseconds
        self.port.state = &self._s
        self.port.transmit = sink_transmit
        self.port.flush = sink_flush
        memcpy(self._s.buffer, <const uint8_t *>head, len(head))
        self._s.used = len(head)
        with nogil:
            put(&self._s)

    def __dealloc__(self):
        finish(&self._s)
        free(self._s.buffer)

    def finish(self):
        """Write what is still in the buffer and close the file; returns whether it was open. Not while a worker runs."""
        cdef bint was_open = self._s.fd >= 0
        with nogil:
            finish(&self._s)
        return was_open

    def send(self, uint32_t place, bytes frame not None, uint64_t time_ns):
        """Write a frame of our own to out port `place`, behind the copies so far and in the file at once.

        OSError where it, or a write before it, failed. Not while a worker runs.
        """
        cdef uint64_t size = len(frame), lost
        if place >= self._s.n_ports:
            raise IndexError(place)
        if size > FRAME_SIZE_MAX:
            raise ValueError(f"a frame of {size} bytes; expected at most {FRAME_SIZE_MAX}")
        if self._s.error == 0 and self._s.fd >= 0:
            drain(&self._s)
        if self._s.error == 0 and self._s.fd >= 0:
            memcpy(record_begin(&self._s, place, <uint32_t>size, time_ns), <const uint8_t *>frame, size)
            record_end(&self._s, <uint32_t>size)
            lost = self._s.lost
            drain(&self._s)
            self._s.lost = lost  # which counts copies
        if self._s.error or self._s.fd < 0:
            error = self._s.error or EBADF
            raise OSError(error, os.strerror(error))
        self._s.sent += 1

    @property
    def sent(self):
        """Frames of our own in the file, which are no copies."""
        return self._s.sent

    @property
    def error(self):
        """The errno of the write that failed, 0 if none did."""
        return self._s.error

    @property
    def copies(self):
        """Copies taken, those that were lost afterwards included."""
        return self._s.copies

    @property
    def lost(self):
        """Copies that were taken and, because a write failed, are not in the file."""
        return self._s.lost

    @property
    def size_bytes(self):
        """Size of the file, with what still waits in the buffer."""
        return self._s.written + self._s.used


cdef void finish(sink_t *s) noexcept nogil:
    if s.fd < 0:
        return
    drain(s)
    if close(s.fd) != 0 and s.error == 0 and errno != EINTR:
        s.error = errno
    s.fd = -1


cdef uint64_t put(sink_t *s) noexcept nogil:
    """Write the buffer; returns how much of it got into the file."""
    cdef uint64_t done = 0
    cdef ssize_t n
    while done < s.used and s.error == 0:
        n = write(s.fd, s.buffer + done, s.used - done)
        if n > 0:
            done += <uint64_t>n
        elif n == 0:
            s.error = EIO
        elif errno != EINTR:
            s.error = errno
    s.written += done
    s.used = 0
    return done


cdef void drain(sink_t *s) noexcept nogil:
    """Write the buffer. If that fails, cut the file behind its last whole record and count those behind it."""
    cdef uint64_t used = s.used, done = put(s), at = 0, whole = 0
    cdef pcap_packet_t packet
    cdef packet_block_t block
    if s.error == 0:
        return
    while at < used:
        if s.blocks:
            memcpy(&block, s.buffer + at, sizeof(block))
            at += block.block_size
        else:
            memcpy(&packet, s.buffer + at, sizeof(packet))
            at += sizeof(packet) + packet.size
        if at <= done:
            whole = at
        else:
            s.lost += 1
    if done != whole and ftruncate(s.fd, <int64_t>(s.written - done + whole)) == 0:
        s.written -= done - whole


cdef inline uint32_t block_size(uint32_t size) noexcept nogil:
    return <uint32_t>sizeof(packet_block_t) + size + (-size & 3) + 4


cdef inline uint8_t *record_begin(sink_t *s, uint32_t out_port, uint32_t size, uint64_t time_ns) noexcept nogil:
    """Write what stands before a frame of `size` bytes; the place of the frame. `record_end` closes it."""
    cdef uint8_t *out = s.buffer + s.used
    cdef pcap_packet_t packet
    cdef packet_block_t block
    cdef uint64_t seconds = time_ns // 1000000000
    if s.blocks:
        block.kind = PACKET_BLOCK
        block.block_size = block_size(size)
        block.interface = out_port
        block.time_high = <uint32_t>(time_ns >> 32)
        block.time_low = <uint32_t>time_ns
        block.size = block.wire_size = size
        memcpy(out, &block, sizeof(block))
        return out + sizeof(block)
    packet.seconds = <uint32_t>(seconds if seconds < SECONDS_MAX else SECONDS_MAX)
    packet.fraction = <uint32_t>(time_ns % 1000000000 // (1 if s.nanoseconds else 1000))
    packet.size = packet.wire_size = size
    memcpy(out, &packet, sizeof(packet))
    return out + sizeof(packet)


cdef inline void record_end(sink_t *s, uint32_t size) noexcept nogil:
    """Take a record into the file, once its frame is written: that may have overwritten what is behind it."""
    cdef uint8_t *behind = s.buffer + s.used + sizeof(packet_block_t) + size
    cdef uint32_t whole = block_size(size)
    if not s.blocks:
        s.used += sizeof(pcap_packet_t) + size
        return
    memset(behind, 0, -size & 3)
    memcpy(behind + (-size & 3), &whole, 4)
    s.used += whole


cdef int sink_flush(port_t *port) noexcept nogil:
    return -(<sink_t *>port.state).error


cdef int64_t sink_transmit(port_t *port, tx_t *tx) noexcept nogil:
    cdef sink_t *s = <sink_t *>port.state
    cdef const frame_t *f = tx.run.frame
    cdef const egress_t *e
    cdef stamp_t fresh, stamp
    cdef uint8_t *out
    cdef uint32_t k, size
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
            continue
        size = stamp.size
        if s.used + sizeof(packet_block_t) + size + 8 + HEAD_MAX > BUFFER_SIZE:
            drain(s)
        if s.error != 0 or s.fd < 0 or tx.out_port >= s.n_ports:
            tx_refuse(tx, k, REASON_PORT_REFUSED)
            continue
        out = record_begin(s, tx.out_port, size, f.time_ns)
        copy_write(out, &stamp, e, f, &tx.states[tx.egresses[k]])
        record_end(s, size)
        taken += 1
    s.copies += <uint64_t>taken
    return taken

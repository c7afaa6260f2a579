"""A capture as a port: frames come in from a pcap or pcapng file.

The file is mapped, private and writable: frames are handed over where they stand, the data path corrects some of their fields
there, and the file keeps what it has. There is never a Python object per packet; `_capture.pxd` makes the index.

A mapped file that shrinks kills its reader (SIGBUS). Files up to SMALL_SIZE are read instead, which costs them nothing; larger
ones must be left alone while they are replayed.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EINTR, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from posix.mman cimport (
    MADV_SEQUENTIAL, MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, madvise, mmap, munmap,
)
from posix.unistd cimport pread
from fastpath._frame cimport batch_t, frame_t
from fastpath._port cimport IoPort, port_t
from fastpath.io._capture cimport capture_t, fault, index_file, interface_t, packet_t

import os

cdef enum:
    SMALL_SIZE = 1 << 20

cdef uint64_t FOR_EVER = 0xffffffffffffffff

assert sizeof(packet_t) == 24


cdef class PcapIn(IoPort):
    """The frames of the capture behind file descriptor `fd`, which is not needed any more afterwards.

    Frames come in on the port that `assign` gave to their interface; before that, on port 0.
    """

    cdef capture_t _c

    def __init__(self, int fd):
        if self.port.receive != NULL:
            raise RuntimeError("a capture is opened once")
        self.port.state = &self._c
        self.port.receive = capture_receive
        self.port.release = capture_release
        self.port.steps = True
        self._c.until_ns = FOR_EVER
        self._c.size = os.fstat(fd).st_size
        if self._c.size == 0:
            self._c.fatal = True
            fault(&self._c, 0, "is empty", 0, 0)
            return
        self._map(fd)
        with nogil:
            index_file(&self._c)
        if self._c.no_memory:
            raise MemoryError(f"no room for the index of a capture of {self._c.size} bytes")

    def __dealloc__(self):
        unmap(&self._c)

    cdef int _map(self, int fd) except -1:
        cdef bint small = self._c.size <= SMALL_SIZE
        cdef int flags = MAP_PRIVATE | MAP_ANONYMOUS if small else MAP_PRIVATE
        cdef uint64_t got = 0
        cdef ssize_t n
        cdef void *memory = mmap(NULL, self._c.size, PROT_READ | PROT_WRITE, flags, -1 if small else fd, 0)
        if memory == MAP_FAILED:
            raise OSError(errno, os.strerror(errno))
        self._c.bytes = <uint8_t *>memory
        self._c.mapped = self._c.size
        if not small:
            madvise(memory, self._c.size, MADV_SEQUENTIAL)
            return 0
        while got < self._c.size:
            n = pread(fd, self._c.bytes + got, self._c.size - got, got)
            if n < 0 and errno == EINTR:
                continue
            if n < 0:
                raise OSError(errno, os.strerror(errno))
            if n == 0:
                break
            got += n
        self._c.size = got
        return 0

    def close(self):
        """Give the mapping back. Not while a worker runs; afterwards nothing comes in any more."""
        unmap(&self._c)

    def assign(self, uint32_t interface, uint16_t port):
        """Let the frames of an interface come in on a port of the layout."""
        if interface >= self._c.n_interfaces:
            raise IndexError(interface)
        self._c.interfaces[interface].port = port

    def declared(self):
        """The interfaces in the order of the file: (name as it stands there or None, number of frames)."""
        cdef interface_t *row
        out = []
        for i in range(self._c.n_interfaces if self._c.bytes != NULL else 0):
            row = &self._c.interfaces[i]
            name = PyBytes_FromStringAndSize(<char *>self._c.bytes + row.name, row.name_size) if row.name_size else None
            out.append((name, row.n_frames))
        return out

    def frames(self):
        """Every frame once, whatever has come in: (place of its interface, bytes). For comparing captures, not for speed."""
        cdef uint64_t at = 0
        cdef packet_t *packet
        while self._c.bytes != NULL and at < self._c.n_packets:
            packet = &self._c.packets[at]
            at += 1
            yield packet.interface, PyBytes_FromStringAndSize(<char *>self._c.bytes + packet.offset, packet.size)

    @property
    def fault(self):
        """What is wrong with the file: (offset, sentence, is nothing usable?); None if nothing is."""
        if self._c.fault == NULL:
            return None
        sentence = self._c.fault.decode("ascii").format(found=self._c.found, expected=self._c.expected)
        return self._c.fault_offset, sentence, bool(self._c.fatal)

    @property
    def is_pcapng(self):
        """Is the file a pcapng, whose interfaces have names?"""
        return bool(self._c.pcapng)

    @property
    def nanoseconds(self):
        """Does the file tell times finer than microseconds?"""
        return bool(self._c.fine)

    @property
    def n_frames(self):
        """Frames in the file, as far as it is whole."""
        return self._c.n_packets

    @property
    def frames_read(self):
        """Frames that have come in so far."""
        return self._c.cursor

    @property
    def size_bytes(self):
        """Size of the file when it was opened."""
        return self._c.size

    @property
    def first_ns(self):
        """Time of the first frame, 0 without frames."""
        return self._c.first_ns

    @property
    def clock_ns(self):
        """The latest time of the frames that have come in: the clock of a replay, which never goes back."""
        return self._c.clock_ns

    @property
    def next_ns(self):
        """What the clock will be with the next frame; None where there is no other."""
        if self._c.cursor == self._c.n_packets:
            return None
        return max(self._c.clock_ns, self._c.packets[self._c.cursor].time_ns)

    @property
    def until_ns(self):
        """The clock must not reach this: a frame that would bring it there waits, and the source is idle. None: no limit."""
        return None if self._c.until_ns == FOR_EVER else self._c.until_ns

    @until_ns.setter
    def until_ns(self, value):
        self._c.until_ns = FOR_EVER if value is None else value

    @property
    def last_ns(self):
        """The latest time of any frame: captures of several interfaces are not quite in order."""
        return self._c.last_ns


cdef void unmap(capture_t *c) noexcept:
    if c.bytes != NULL:
        munmap(c.bytes, c.mapped)
    free(c.packets)
    free(c.interfaces)
    c.bytes = NULL
    c.packets = NULL
    c.interfaces = NULL
    c.n_interfaces = 0
    c.cursor = c.n_packets


cdef int capture_receive(port_t *port, batch_t *batch) noexcept nogil:
    cdef capture_t *c = <capture_t *>port.state
    cdef uint64_t at = c.cursor
    cdef packet_t *packet
    cdef frame_t *f
    if c.clock_ns >= c.until_ns:
        return 0
    while batch.n < batch.capacity and at < c.n_packets and c.packets[at].time_ns < c.until_ns:
        packet = &c.packets[at]
        f = &batch.frames[batch.n]
        f.data = c.bytes + packet.offset
        f.size = packet.size
        f.time_ns = packet.time_ns
        f.in_port = c.interfaces[packet.interface].port
        f.marked = 0
        f.mark_start = f.mark_offset = 0
        f.vlan_tpid = f.vlan_tci = 0
        batch.n += 1
        at += 1
    return <int>batch.n


cdef void capture_release(port_t *port, batch_t *batch) noexcept nogil:
    """Go on behind what the burst took. What it left stands as it stood: nobody has touched it."""
    cdef capture_t *c = <capture_t *>port.state
    cdef uint32_t i
    for i in range(batch.n):
        c.clock_ns = max(c.clock_ns, batch.frames[i].time_ns)
    c.cursor += batch.n

"""The punt ring as Python holds it; `_punt.pxd` says what it is and what bounds it."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.unistd cimport read, write
from fastpath._bucket cimport RATE_MAX, bucket_spend, bucket_t, limit_set
from fastpath._frame cimport (
    ENCAP_RAW, PORTS_MAX, REASON_NONE, REASON_PUNT_FULL, REASON_PUNT_LIMIT, VERDICT_DROP, VERDICT_PUNT, batch_t, frame_t,
)

import os

cdef extern from * nogil:
    """
    #define punt_load(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define punt_store(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    """
    uint64_t punt_load(const uint64_t *place) noexcept
    void punt_store(uint64_t *place, uint64_t value) noexcept

cdef enum:
    RING_MIN = 1 << 12
    RING_MAX = 1 << 30
    ADDRESSES = 12            # where a tag stands, behind the MACs
    TAG = 4
    NUMBER = 0xffffff

assert sizeof(punt_record_t) == 24 and PORTS_MAX <= 256


cdef class PuntRing:
    """Room for `size` bytes of frames on their way to control, a power of two; see `set_limits` for the rest.

    With `frame_time` the rate counts by the frames' own times, which makes a replay repeatable.
    """

    def __cinit__(self, uint64_t size, uint64_t rate_pps, uint64_t burst, bint frame_time=False):
        cdef uint32_t i, k
        self.ring.fd = -1
        if not RING_MIN <= size <= RING_MAX or size & (size - 1):
            raise ValueError(f"a punt ring of {size} bytes: expected a power of two, {RING_MIN} to {RING_MAX}")
        self.set_limits(rate_pps, burst)
        for i in range(PORTS_MAX):
            for k in range(BUCKETS):
                self.ring.ports[i].buckets[k].credit = self.ring.limit.credit_max
        self.ring.bytes = <uint8_t *>calloc(size, 1)
        if self.ring.bytes == NULL:
            raise MemoryError
        self.ring.size = size
        self.divide(1)
        self.ring.frame_time = frame_time
        self.ring.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def __dealloc__(self):
        free(self.ring.bytes)
        if self.ring.fd >= 0:
            os.close(self.ring.fd)

    cdef void divide(self, uint32_t n_ports) noexcept:
        """Divide half of the ring among so many ports. Not while a worker is within a burst."""
        self.ring.n_ports = n_ports
        self.ring.own = self.ring.size // 2 // n_ports

    @property
    def fd(self):
        """Readable while frames wait."""
        return self.ring.fd

    def set_limits(self, uint64_t rate_pps, uint64_t burst):
        """Let each port punt `rate_pps` frames a second, and `burst` at once. Not while a worker is within a burst."""
        cdef bucket_t *bucket
        cdef uint32_t i, k
        if not 1 <= rate_pps <= RATE_MAX or not 1 <= burst <= RATE_MAX:
            raise ValueError(f"punts of {rate_pps} a second, {burst} at once: expected 1 to {RATE_MAX} each")
        limit_set(&self.ring.limit, rate_pps, burst)
        for i in range(PORTS_MAX):
            for k in range(BUCKETS):
                bucket = &self.ring.ports[i].buckets[k]
                bucket.credit = min(bucket.credit, self.ring.limit.credit_max)

    def read(self, uint64_t max_frames):
        """The frames that wait, oldest first, at most so many: [(in_port, time_ns, frame, (encap, number, start, end, scope) of a
        tenant's frame in it or None)]. For one thread at a time."""
        cdef punt_ring_t *r = &self.ring
        cdef uint64_t at = r.tail, end, word
        cdef punt_record_t record
        cdef punt_port_t *port
        cdef bytes data
        out = []
        read(r.fd, &word, sizeof(word))  # before the look: what comes later, rings again
        end = punt_load(&r.head)
        while at != end and <uint64_t>len(out) < max_frames:
            copy_out(r, at, <uint8_t *>&record, sizeof(record))
            data = PyBytes_FromStringAndSize(NULL, record.size)
            copy_out(r, at + sizeof(record), <uint8_t *>PyBytes_AS_STRING(data), record.size)
            inner = None
            if record.inner_end:
                inner = record.tagged_number >> 24, record.tagged_number & NUMBER, record.inner, record.inner_end, record.scope
            out.append((record.in_port, record.time_ns, data, inner))
            port = &r.ports[record.in_port]
            punt_store(&port.taken, port.taken + record_size(record.size))
            at += record_size(record.size)
            punt_store(&r.tail, at)
        if at != end:
            ring_bell(r)
        return out


cdef inline uint64_t record_size(uint32_t frame_size) noexcept nogil:
    return (sizeof(punt_record_t) + frame_size + RECORD_ALIGN - 1) & ~<uint64_t>(RECORD_ALIGN - 1)


cdef inline void ring_bell(punt_ring_t *r) noexcept nogil:
    cdef uint64_t one = 1
    cdef int64_t _
    _ = write(r.fd, &one, sizeof(one))  # it fails where it says so already


cdef inline void copy_in(punt_ring_t *r, uint64_t at, const uint8_t *data, uint64_t size) noexcept nogil:
    cdef uint64_t first = r.size - (at & (r.size - 1))
    first = min(first, size)
    memcpy(r.bytes + (at & (r.size - 1)), data, first)
    memcpy(r.bytes, data + first, size - first)


cdef inline void copy_out(const punt_ring_t *r, uint64_t at, uint8_t *data, uint64_t size) noexcept nogil:
    cdef uint64_t first = r.size - (at & (r.size - 1))
    first = min(first, size)
    memcpy(data, r.bytes + (at & (r.size - 1)), first)
    memcpy(data + first, r.bytes, size - first)


cdef inline bint has_room(punt_ring_t *r, const punt_port_t *port, uint64_t size) noexcept nogil:
    """May a port hold `size` bytes more? Up to its own part it may; beyond, with all others, up to what is nobody's own."""
    cdef uint64_t held = port.pushed - punt_load(&port.taken) + size, beyond = 0
    cdef uint32_t i
    if size > r.size - (r.head - punt_load(&r.tail)):
        return False
    if held <= r.own:
        return True
    for i in range(r.n_ports):
        held = r.ports[i].pushed - punt_load(&r.ports[i].taken) + (size if &r.ports[i] == port else 0)
        if held > r.own:
            beyond += held - r.own
    return beyond <= r.size - r.n_ports * r.own


cdef inline bint push(punt_ring_t *r, punt_port_t *port, const frame_t *f) noexcept nogil:
    cdef uint64_t at = r.head, size
    cdef uint8_t tag[TAG]
    cdef bint tagged = f.vlan_tpid != 0 and not (f.of_tenant and f.encap == ENCAP_RAW)
    cdef punt_record_t record
    memset(&record, 0, sizeof(record))
    record.time_ns = f.time_ns
    record.size = f.size + TAG if tagged else f.size
    record.in_port = <uint8_t>f.in_port
    if f.of_tenant:
        record.tagged_number = <uint32_t>f.encap << 24 | f.number
        record.scope = f.scope
        record.inner = f.inner + TAG if tagged else f.inner
        record.inner_end = f.inner_end + TAG if tagged else f.inner_end
    size = record_size(record.size)
    if not has_room(r, port, size):
        return False
    copy_in(r, at, <uint8_t *>&record, sizeof(record))
    at += sizeof(record)
    if tagged:
        tag[0] = <uint8_t>(f.vlan_tpid >> 8)
        tag[1] = <uint8_t>f.vlan_tpid
        tag[2] = <uint8_t>(f.vlan_tci >> 8)
        tag[3] = <uint8_t>f.vlan_tci
        copy_in(r, at, f.data, ADDRESSES)
        copy_in(r, at + ADDRESSES, tag, TAG)
        copy_in(r, at + ADDRESSES + TAG, f.data + ADDRESSES, f.size - ADDRESSES)
    else:
        copy_in(r, at, f.data, f.size)
    port.pushed += size
    punt_store(&r.head, r.head + size)
    return True


cdef uint32_t punt_batch(punt_ring_t *ring, batch_t *batch, uint64_t now_ns) noexcept nogil:
    """Hand the frames to punt to control, and drop those that it may not have; how many it got."""
    cdef frame_t *f
    cdef punt_port_t *port
    cdef uint32_t i, n = 0
    for i in range(batch.n):
        f = &batch.frames[i]
        if f.verdict != VERDICT_PUNT:
            continue
        port = &ring.ports[f.in_port]
        f.reason = REASON_NONE
        if not bucket_spend(&port.buckets[f.of_tenant], &ring.limit, f.time_ns if ring.frame_time else now_ns):
            f.reason = REASON_PUNT_LIMIT
        elif not push(ring, port, f):
            f.reason = REASON_PUNT_FULL
        if f.reason != REASON_NONE:
            f.verdict = VERDICT_DROP
        else:
            n += 1
    if n:
        ring_bell(ring)
    return n


cdef uint8_t punt_offer(
    punt_ring_t *ring, uint16_t in_port, uint64_t time_ns, uint64_t now_ns, const uint8_t *data, uint32_t size
) noexcept nogil:
    """Hand over a record of a port that is no frame, by the same bounds; why not, or REASON_NONE. `punt_bell` ends a burst of them."""
    cdef punt_port_t *port = &ring.ports[in_port]
    cdef uint64_t whole = record_size(size)
    cdef punt_record_t record
    memset(&record, 0, sizeof(record))
    if not bucket_spend(&port.buckets[0], &ring.limit, now_ns):
        return REASON_PUNT_LIMIT
    if not has_room(ring, port, whole):
        return REASON_PUNT_FULL
    record.time_ns = time_ns
    record.size = size
    record.in_port = <uint8_t>in_port
    copy_in(ring, ring.head, <const uint8_t *>&record, sizeof(record))
    copy_in(ring, ring.head + sizeof(record), data, size)
    port.pushed += whole
    punt_store(&ring.head, ring.head + whole)
    return REASON_NONE


cdef void punt_bell(punt_ring_t *ring) noexcept nogil:
    ring_bell(ring)

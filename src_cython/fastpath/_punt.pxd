# Punts: frames that a worker hands to control, through a ring of bytes that one thread writes and one reads.
#
# 1. Bounded twice, here and not in Python: by rate, two token buckets for each port; and by room. Half of the ring is divided among the
#    ports, so that each finds its part of it free whatever the others send; the other half is for who needs more. Why not equal parts
#    alone: a burst of joins is the business of one port. What is refused is dropped, with its reason, and stands in the books as that.
# 2. A record is punt_record_t and the frame, padded to 8 bytes; it may go round the end of the ring. A tag that came out of band is put
#    back into the frame, so that control sees one plain Ethernet frame.
# 3. Each count has one writer. `pushed` and `head` are the worker's, `taken` and `tail` the reader's; all count bytes since the start.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from fastpath._bucket cimport bucket_t, limit_t
from fastpath._frame cimport PORTS_MAX, batch_t

cdef enum:
    RECORD_ALIGN = 8

cdef struct punt_record_t:
    uint64_t time_ns
    uint32_t size             # of the frame that follows, less the padding
    uint32_t inner_end        # of a tenant's frame within it; 0: it is about no tenant
    uint32_t tagged_number    # of the tenant's network: encap << 24 | number
    uint16_t inner            # where the tenant's frame begins
    uint8_t in_port
    uint8_t scope             # of the tenant's frame

cdef enum:
    BUCKETS = 2               # what is said to us, and what tenants say

cdef struct punt_port_t:
    uint64_t pushed           # bytes of records
    uint64_t taken
    bucket_t buckets[BUCKETS]

cdef struct punt_ring_t:
    uint8_t *bytes
    uint64_t size             # a power of two
    uint64_t own              # bytes of it that are kept for each port
    uint64_t head
    uint64_t tail
    limit_t limit             # of each bucket
    uint32_t n_ports
    int fd                    # eventfd, readable while records wait
    bint frame_time           # the frames' own clock counts, not ours
    punt_port_t ports[PORTS_MAX]

cdef uint32_t punt_batch(punt_ring_t *ring, batch_t *batch, uint64_t now_ns) noexcept nogil
cdef uint8_t punt_offer(
    punt_ring_t *ring, uint16_t in_port, uint64_t time_ns, uint64_t now_ns, const uint8_t *data, uint32_t size
) noexcept nogil
cdef void punt_bell(punt_ring_t *ring) noexcept nogil


cdef class PuntRing:
    cdef punt_ring_t ring
    cdef void divide(self, uint32_t n_ports) noexcept

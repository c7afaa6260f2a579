# The guards of VM ports: section 7 of README.md.
#
# Storm control counts frames in buckets, one for each port, kind and worker. What fills them is told once, when a batch comes with a
# layout that this worker has not seen: then a rate that has changed takes effect, and credit beyond the new burst is lost.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from fastpath._bucket cimport bucket_spend, bucket_t, limit_set, limit_t
from fastpath._frame cimport (
    ENCAP_RAW, PORTS_MAX, REASON_BAD_SOURCE, REASON_NONE, REASON_STORM_BROADCAST, REASON_STORM_MULTICAST, REASON_STORM_UNKNOWN,
    REASON_TAGGED_FRAME, REASON_WRONG_SOURCE, VERDICT_DROP, VERDICT_REPLICATE, batch_t, frame_t,
)
from fastpath._layout cimport STORMS, STORM_BROADCAST, STORM_MULTICAST, STORM_UNKNOWN, layout_t, port_row_t, rate_t
from fastpath._wire cimport wire_load_be64

cdef enum:
    BROADCAST = 0xffffffffffff

# One worker's buckets.
cdef struct storm_t:
    uint64_t serial           # of the layout that they are for
    uint32_t share            # workers that divide each rate
    bint frame_time           # go by the frames' own time: a replay is the same each time
    limit_t limits[PORTS_MAX][STORMS]  # `pps` 0: none
    bucket_t buckets[PORTS_MAX][STORMS]


cdef inline bint guard_holds(const port_row_t *port, uint64_t mac) noexcept nogil:
    cdef uint32_t low = 0, high = port.n_macs, middle
    while low < high:
        middle = (low + high) / 2
        if port.macs[middle] < mac:
            low = middle + 1
        else:
            high = middle
    return low < port.n_macs and port.macs[low] == mac


cdef inline uint8_t guard_form(const frame_t *f, const port_row_t *port) noexcept nogil:
    """Rule 7.1, for a RAW frame: REASON_NONE, or why it is dropped."""
    cdef uint64_t source = wire_load_be64(f.data + 4) & BROADCAST
    if source == 0 or source >> 40 & 1:
        return REASON_BAD_SOURCE
    if port.n_macs and not guard_holds(port, source):
        return REASON_WRONG_SOURCE
    if port.drop_tagged and f.inner_tagged:
        return REASON_TAGGED_FRAME
    return REASON_NONE


cdef inline void bucket_adopt(bucket_t *bucket, limit_t *limit, const rate_t *rate, uint32_t share) noexcept nogil:
    cdef bint begins = limit.pps == 0
    if rate.pps == 0:
        limit.pps = 0
        return
    limit_set(limit, max(<uint64_t>1, rate.pps // share), max(<uint64_t>1, rate.burst // share))
    if begins or bucket.credit > limit.credit_max:
        bucket.credit = limit.credit_max


cdef inline void storm_batch(storm_t *storm, batch_t *batch, const layout_t *layout, uint64_t now_ns) noexcept nogil:
    """Rule 7.2: drop what its port sends too much of."""
    cdef frame_t *f
    cdef const limit_t *limit
    cdef uint64_t destination
    cdef uint32_t i, kind
    if storm.serial != layout.serial:
        storm.serial = layout.serial
        for i in range(PORTS_MAX):
            for kind in range(STORMS):
                bucket_adopt(&storm.buckets[i][kind], &storm.limits[i][kind], &layout.storms[i][kind], storm.share)
    if not layout.has_storm:
        return
    for i in range(batch.n):
        f = &batch.frames[i]
        if f.verdict != VERDICT_REPLICATE or f.encap != ENCAP_RAW or not layout.ports[f.in_port].has_storm:
            continue
        destination = wire_load_be64(f.data) >> 16
        if destination == BROADCAST:
            kind = STORM_BROADCAST
        elif destination >> 40 & 1:
            kind = STORM_MULTICAST
        elif f.unknown_unicast:
            kind = STORM_UNKNOWN
        else:
            continue
        limit = &storm.limits[f.in_port][kind]
        if limit.pps != 0 and not bucket_spend(
            &storm.buckets[f.in_port][kind], limit, f.time_ns if storm.frame_time else now_ns
        ):
            f.verdict = VERDICT_DROP
            f.reason = <uint8_t>(REASON_STORM_BROADCAST + kind)

# Token buckets: so many frames a second, and so many at once. Rules 5.1 and 7.2 of README.md.
from libc.stdint cimport uint64_t

cdef enum:
    CREDIT_FRAME = 1000000000  # so that a nanosecond at 1 pps is one unit: nothing is rounded
    RATE_MAX = 1000000000     # frames, a second and at once: what is added up stays within 64 bits

cdef struct limit_t:
    uint64_t pps
    uint64_t credit_max       # the burst, as credit
    uint64_t fill_ns          # in which a bucket is full, whatever was in it

cdef struct bucket_t:
    uint64_t credit           # in frames / CREDIT_FRAME
    uint64_t last_ns          # when `credit` was right


cdef inline void limit_set(limit_t *limit, uint64_t pps, uint64_t burst) noexcept nogil:
    limit.pps = pps
    limit.credit_max = burst * CREDIT_FRAME
    limit.fill_ns = limit.credit_max // pps + 1


cdef inline bint bucket_spend(bucket_t *bucket, const limit_t *limit, uint64_t now_ns) noexcept nogil:
    """Take a frame out. A clock that goes back stands still."""
    if now_ns > bucket.last_ns:
        if now_ns - bucket.last_ns >= limit.fill_ns:
            bucket.credit = limit.credit_max
        else:
            bucket.credit = min(bucket.credit + (now_ns - bucket.last_ns) * limit.pps, limit.credit_max)
        bucket.last_ns = now_ns
    if bucket.credit < CREDIT_FRAME:
        return False
    bucket.credit -= CREDIT_FRAME
    return True

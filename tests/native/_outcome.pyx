"""What classification makes of one frame: the part of an outcome that no counter and no copy tells."""

from libc.stdint cimport uint8_t, uint16_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from fastpath._classify cimport classify_batch
from fastpath._fib cimport Fib
from fastpath._frame cimport batch_t, frame_t
from fastpath._learn cimport Learner, learner_t


def classified(Fib fib not None, uint16_t in_port, bytes data not None, mark=None, vlan=None, Learner learner=None):
    """(verdict, reason, key words or None, flow, source class) of a frame, whose bytes end where the sanitizer watches."""
    cdef learner_t *knows = NULL if learner is None else learner.learner
    cdef batch_t *batch = <batch_t *>malloc(sizeof(batch_t))
    cdef uint8_t *copy = <uint8_t *>malloc(len(data) if data else 1)
    cdef frame_t *f
    try:
        memset(batch, 0xa5, sizeof(batch_t))
        batch.n = batch.capacity = 1
        f = &batch.frames[0]
        memcpy(copy, <const uint8_t *>data, len(data))
        f.data = copy
        f.size = len(data)
        f.in_port = in_port
        f.marked = mark is not None
        f.mark_start, f.mark_offset = mark or (0, 0)
        f.vlan_tpid, f.vlan_tci = vlan or (0, 0)
        classify_batch(batch, fib.fib, knows)
        if f.verdict != 0:
            return f.verdict, f.reason, None, 0, 0
        key = f.entry.key
        words = (key.group.high, key.group.low, key.source.high, key.source.low, key.kind_scope_encap_number)
        return f.verdict, f.reason, words, f.flow, f.source_class
    finally:
        free(copy)
        free(batch)

# Lookup: the list of each frame of a batch.
from fastpath._decap cimport NO_ENDPOINT
from fastpath._frame cimport SCOPE_NVE, batch_t, frame_t
from fastpath._trie cimport fib_t


cdef inline bint by_number(const frame_t *f) noexcept nogil:
    """Is the key made of the number, not of the outer group?"""
    return f.scope == SCOPE_NVE or (f.endpoint != NO_ENDPOINT and not f.nested)


cdef void lookup_batch(batch_t *batch, const fib_t *fib, bint numbered, bint tenants) noexcept nogil

# Classification: one verdict per frame of a batch.
from fastpath._trie cimport fib_t
from fastpath._frame cimport batch_t
from fastpath._learn cimport learner_t

cdef void classify_batch(batch_t *batch, const fib_t *fib, learner_t *learner) noexcept nogil

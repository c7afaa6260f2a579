# The snapshot that Python holds; its memory is `_trie`.
from libc.stdint cimport uint64_t
from fastpath._layout cimport LayoutTable
from fastpath._trie cimport fib_t


cdef class Fib:
    cdef fib_t *fib
    cdef readonly LayoutTable layout
    cdef readonly uint64_t revision

"""Super-frames cut, with memory that ends where the sanitizer watches."""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from fastpath.io._linux cimport VNET_SIZE, virtio_net_hdr
from fastpath.io._split cimport split_begin, split_next, split_size, split_t


def cut(bytes data not None, bytes vnet not None):
    """[(frame, mark start, mark offset)] of a super-frame and its virtio_net_hdr; None where it is not cut."""
    cdef virtio_net_hdr header
    cdef split_t split
    cdef uint32_t size
    cdef uint8_t *frame
    cdef uint8_t *memory = <uint8_t *>malloc(len(data))
    out = []
    assert len(vnet) == VNET_SIZE
    memcpy(&header, <const uint8_t *>vnet, VNET_SIZE)
    memcpy(memory, <const uint8_t *>data, len(data))
    try:
        if not split_begin(&split, memory, <uint32_t>len(data), &header):
            assert split.data == NULL
            return None
        while split.data != NULL:
            size = split_size(&split)
            frame = <uint8_t *>malloc(size)
            assert split_next(&split, frame) == size
            out.append((frame[:size], split.start, split.offset))
            free(frame)
        return out
    finally:
        free(memory)

"""One batch as a port hands it over, marks and tags included, and given back."""

from libc.stdlib cimport free, malloc
from libc.string cimport memset
from fastpath._frame cimport BATCH_MAX, batch_t, frame_t
from fastpath._port cimport IoPort


def handed(IoPort port not None, capacity=BATCH_MAX):
    """[(bytes, (kind of mark, start, offset), (TPID, TCI), time in ns)]. The batch is full of rubbish before."""
    cdef batch_t *batch = <batch_t *>malloc(sizeof(batch_t))
    cdef frame_t *f
    try:
        memset(batch, 0xa5, sizeof(batch_t))
        batch.capacity = capacity
        batch.n = 0
        n = port.port.receive(&port.port, batch)
        assert n == batch.n <= capacity
        out = []
        for i in range(n):
            f = &batch.frames[i]
            mark = (f.marked, f.mark_start, f.mark_offset)
            out.append((f.data[:f.size], mark if f.marked == 1 else (f.marked, 0, 0), (f.vlan_tpid, f.vlan_tci), f.time_ns))
        if n > 0 and port.port.release != NULL:
            port.port.release(&port.port, batch)
        return out
    finally:
        free(batch)


def descriptor(IoPort port not None):
    """What poll() waits on."""
    return port.port.fd

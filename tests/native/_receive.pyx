"""Frames as a port hands them over, before anything looks at them."""

from libc.stdlib cimport free, malloc
from libc.string cimport memset
from fastpath._frame cimport BATCH_MAX, batch_t, frame_t
from fastpath._port cimport IoPort


def received(IoPort port, capacity=BATCH_MAX):
    """Receive until nothing comes in: [(in port, time in ns, bytes)]. The batch is full of rubbish before each burst."""
    cdef batch_t *batch = <batch_t *>malloc(sizeof(batch_t))
    cdef frame_t *f
    out = []
    try:
        while True:
            memset(batch, 0xa5, sizeof(batch_t))
            batch.capacity = capacity
            batch.n = 0
            n = port.port.receive(&port.port, batch)
            assert n == batch.n <= capacity
            if n == 0:
                return out
            for i in range(n):
                f = &batch.frames[i]
                assert (f.marked, f.mark_start, f.mark_offset, f.vlan_tpid, f.vlan_tci) == (0, 0, 0, 0, 0)
                out.append((f.in_port, f.time_ns, f.data[:f.size]))
            if port.port.release != NULL:
                port.port.release(&port.port, batch)
    finally:
        free(batch)

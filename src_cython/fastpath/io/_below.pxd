# The port below: one of the same interface that a port stands on, and asks for what it cannot do itself.
from libc.stdint cimport int64_t, uint32_t
from fastpath._frame cimport batch_t
from fastpath._port cimport port_t, tx_t

cdef struct below_t:
    port_t *port
    bint busy                 # asked to send since its last flush
    int status                # of flushes within a burst, where one failed
    int64_t n_lost            # copies that came to nothing after `transmit` had counted them: for the next flush to tell


cdef inline int64_t below_transmit(below_t *below, port_t *port, tx_t *tx) noexcept nogil:
    """Hand a request of `port` on."""
    cdef int64_t taken = below.port.transmit(below.port, tx)
    port.trains = below.port.trains
    below.busy = True
    return taken


cdef inline int64_t below_transmit_one(below_t *below, port_t *port, tx_t *tx, uint32_t k) noexcept nogil:
    """Hand on what a request has for one of its egresses."""
    cdef tx_t single = tx[0]
    single.egresses = tx.egresses + k
    single.n_egresses = 1
    return below_transmit(below, port, &single)


cdef inline void below_finish(below_t *below) noexcept nogil:
    """Have it send all that it was asked for."""
    cdef int status = 0
    if below.busy and below.port.flush != NULL:
        status = below.port.flush(below.port)
    if status < 0:
        below.status = status
    else:
        below.n_lost += status
    below.busy = False


cdef inline int below_flush(below_t *below) noexcept nogil:
    """The same at the end of a burst: how many copies were lost in all of it, or what failed."""
    cdef int status, n_lost
    below_finish(below)
    status = below.status
    below.status = 0
    if status < 0:
        return status
    n_lost = <int>below.n_lost
    below.n_lost = 0
    return n_lost


cdef inline int below_receive(below_t *below, const port_t *port, batch_t *batch) noexcept nogil:
    below.port.index = port.index
    return below.port.receive(below.port, batch)

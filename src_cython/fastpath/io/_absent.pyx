"""A port whose interface is not there: nothing comes in, and what should leave is counted as `link_down`."""

from libc.errno cimport ENETDOWN
from libc.stdint cimport int64_t, uint32_t
from fastpath._copy cimport tx_refuse
from fastpath._frame cimport REASON_LINK_DOWN, batch_t
from fastpath._port cimport IoPort, port_t, tx_t

import os


cdef class AbsentIo(IoPort):
    """Stands in for a port until its interface appears."""

    def __cinit__(self):
        self.port.receive = absent_receive
        self.port.transmit = absent_transmit

    @property
    def transmits(self):
        """How copies leave."""
        return "none"

    @property
    def why(self):
        """Why they leave so; who made it knows."""
        return ""

    def send(self, bytes frame not None):
        """Send a frame of our own: OSError, for there is nowhere to."""
        raise OSError(ENETDOWN, os.strerror(ENETDOWN))

    def close(self):
        """Nothing is open."""


cdef int absent_receive(port_t *port, batch_t *batch) noexcept nogil:
    return 0


cdef int64_t absent_transmit(port_t *port, tx_t *tx) noexcept nogil:
    cdef uint32_t k
    for k in range(tx.n_egresses):
        tx_refuse(tx, k, REASON_LINK_DOWN)
    return 0

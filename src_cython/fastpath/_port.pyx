"""The base of all ports: a table of C operations."""


cdef class IoPort:
    """A place where frames come in or copies go out; the kinds are in `fastpath.ports`."""

    def __cinit__(self):
        self.port.fd = -1

    @property
    def index(self):
        """Its place among the ports of the layout; the forwarder sets it."""
        return self.port.index

    @index.setter
    def index(self, value):
        self.port.index = value

    @property
    def trains(self):
        """Does it take super-frames?"""
        return bool(self.port.trains)

    @property
    def ring_lost(self):
        """Frames that the kernel had no room for before we could receive them; none where there is no kernel."""
        return 0

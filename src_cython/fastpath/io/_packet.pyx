"""A port on a live interface by AF_PACKET: works on every one, needs CAP_NET_RAW alone.

Receiving is a ring (`_packet_ring.pxd`), sending is sendmmsg (`_packet_send.pxd`). One socket serves both: beside a bare sender on a
socket of its own nothing is lost.
"""

import os
import re
import socket
import struct

from libc.errno cimport EBADF, ENETDOWN, ENODEV, EOPNOTSUPP, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from fastpath._frame cimport batch_t
from fastpath._port cimport IoPort, port_t, tx_t
from fastpath.io._linux cimport (
    ARPHRD_ETHER, ARPHRD_LOOPBACK, ETH_P_ALL, MAP_FAILED, MAP_POPULATE, MAP_SHARED, MSG_DONTWAIT, PACKET_ADD_MEMBERSHIP, PACKET_COPY_THRESH,
    PACKET_FANOUT, PACKET_FANOUT_HASH, PACKET_IGNORE_OUTGOING, PACKET_MR_ALLMULTI, PACKET_MR_PROMISC, PACKET_RX_RING, PACKET_STATISTICS,
    PACKET_VERSION, PACKET_VNET_HDR, PROT_READ, PROT_WRITE, SO_ATTACH_FILTER, SO_DETACH_FILTER, SO_RCVBUF, SO_RCVBUFFORCE,
    SO_SNDBUF, SO_SNDBUFFORCE, SOL_PACKET, SOL_SOCKET, TPACKET_V2, getsockopt, mmap, munmap, sock_filter, sock_fprog,
    VNET_SIZE, tpacket_stats,
)
from fastpath.io._packet_ring cimport ROOM_SIZE, SLOT_SIZE, SUPER_SIZE, ring_receive, ring_release, ring_t
from fastpath.io._packet_send cimport sender_copies, sender_t, sender_train

cdef enum:
    BLOCK_SIZE = 1 << 18      # the kernel's unit of memory for a ring
    SEND_BUFFER = 1 << 24
    RECEIVE_BUFFER = 1 << 25

cdef struct packet_t:
    ring_t ring
    sender_t sender


cdef class PacketIo(IoPort):
    """A live interface by AF_PACKET.

    `ring_frames`: slots of the receive ring, a power of two, 2 KB each. `trains`: send super-frames if the kernel can.
    `all_multicast`: have the network card pass all multicast frames. `vms`: VMs are behind the device; it passes frames to any address,
    and the tags of VLANs, which the kernel takes out, are where they were. `fanout`: a number (1-65535) that all ports on this device share
    whose worker gets its part of the flows. `program`: see `attach_filter`; without one, everything comes in.
    OSError with the device's name where the system refuses.
    """

    cdef packet_t _p
    cdef object _socket
    cdef readonly str device
    cdef readonly int ifindex
    cdef str _why
    cdef uint64_t _dropped

    def __cinit__(
        self, str device not None, *, uint32_t ring_frames=8192, bint trains=True, bint all_multicast=False, bint vms=False, fanout=None,
        program=None,
    ):
        self._p.ring.fd = self._p.sender.fd = -1
        self.device = device
        self.port.state = &self._p
        self.port.receive = packet_receive
        self.port.transmit = packet_transmit
        self.port.release = packet_release
        if not 16 <= ring_frames <= 1 << 20 or ring_frames & (ring_frames - 1):
            raise ValueError(f"ring_frames {ring_frames}: expected a power of two, 16 to {1 << 20}")
        if fanout is not None and not 1 <= fanout <= 0xffff:
            raise ValueError(f"fanout {fanout}: expected 1 to 65535")
        self._p.ring.n_slots = ring_frames
        self._p.ring.tags_in_place = vms
        self._p.ring.room = <uint8_t *>malloc(ROOM_SIZE)
        self._p.ring.super_frame = <uint8_t *>malloc(SUPER_SIZE)
        if self._p.ring.room == NULL or self._p.ring.super_frame == NULL:
            raise MemoryError
        self._choose(trains)
        try:
            self._open(PACKET_MR_PROMISC if vms else PACKET_MR_ALLMULTI if all_multicast else None, fanout, program)
        except OSError as error:
            self.close()
            raise self._error(error) from None
        except BaseException:
            self.close()
            raise

    def __dealloc__(self):
        if self._p.ring.slots != NULL:
            munmap(self._p.ring.slots, self._p.ring.n_slots * SLOT_SIZE)
        free(self._p.ring.room)
        free(self._p.ring.super_frame)

    cdef int _choose(self, bint trains) except -1:
        """Decide on trains by what is known beforehand."""
        release = os.uname().release
        version = tuple([int(number) for number in re.findall(r"\d+", release)[:2]])
        self.port.trains = trains and version >= (6, 2)
        if not trains:
            self._why = "trains are turned off"
        elif not self.port.trains:
            self._why = f"Linux {release} takes no trains: they need 6.2"
        else:
            self._why = "the kernel cuts trains, or the device does"
        return 0

    def _error(self, error):
        """The same error with the device's name, and what is missing."""
        text = error.strerror or str(error)
        if isinstance(error, PermissionError):
            text += ": a packet socket needs CAP_NET_RAW"
        return OSError(error.errno, text, self.device)

    def _open(self, passes, fanout, program):
        cdef uint32_t block_size = min(BLOCK_SIZE, self._p.ring.n_slots * SLOT_SIZE)
        cdef void *ring
        try:
            self.ifindex = socket.if_nametoindex(self.device)
        except OSError:
            raise OSError(ENODEV, "no such interface") from None
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._set(PACKET_VERSION, TPACKET_V2)
        self._set(PACKET_VNET_HDR, 1)
        self._set(PACKET_COPY_THRESH, 1)
        self._set(PACKET_IGNORE_OUTGOING, 1)
        self._enlarge(SO_RCVBUFFORCE, SO_RCVBUF, RECEIVE_BUFFER)
        self._enlarge(SO_SNDBUFFORCE, SO_SNDBUF, SEND_BUFFER)
        size = self._p.ring.n_slots * SLOT_SIZE
        self._set(PACKET_RX_RING, struct.pack("@4I", block_size, size // block_size, SLOT_SIZE, self._p.ring.n_slots))
        ring = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, self._socket.fileno(), 0)
        if ring == MAP_FAILED:
            raise OSError(errno, os.strerror(errno))
        self._p.ring.slots = <uint8_t *>ring
        # Nothing comes in before it is settled what may.
        self.attach_filter([(6, 0, 0, 0)] if fanout is not None else program)
        self._socket.bind((self.device, ETH_P_ALL))
        if self._socket.getsockname()[3] not in (ARPHRD_ETHER, ARPHRD_LOOPBACK):
            raise OSError(EOPNOTSUPP, "not an Ethernet interface")
        if passes is not None:
            self._set(PACKET_ADD_MEMBERSHIP, struct.pack("@iHH8x", self.ifindex, passes, 0))
        if fanout is not None:
            self._set(PACKET_FANOUT, <uint32_t>(fanout | PACKET_FANOUT_HASH << 16))
            self.attach_filter(program)
        self._p.ring.fd = self._p.sender.fd = self.port.fd = self._socket.fileno()

    def _set(self, option, value):
        self._socket.setsockopt(SOL_PACKET, option, value)

    def _enlarge(self, forced, asked, size):
        """Ask for a buffer; without CAP_NET_ADMIN it is what net.core allows."""
        try:
            self._socket.setsockopt(SOL_SOCKET, forced, size)
        except PermissionError:
            self._socket.setsockopt(SOL_SOCKET, asked, size)

    def attach_filter(self, program):
        """Let in only what a classic BPF program accepts: [(code, jt, jf, k)], None for everything.

        One program takes the place of the other between two frames. OSError where the kernel finds it wrong.
        """
        cdef sock_fprog attached
        if self._socket is None:
            raise ValueError(f"{self.device}: the port is closed")
        if program is None:
            try:
                self._socket.setsockopt(SOL_SOCKET, SO_DETACH_FILTER, 0)
            except FileNotFoundError:
                pass
            return
        code = b"".join([struct.pack("@HBBI", *instruction) for instruction in program])
        attached.len = <unsigned short>(len(code) // sizeof(sock_filter))
        attached.filter = <sock_filter *><char *>code
        self._socket.setsockopt(SOL_SOCKET, SO_ATTACH_FILTER, (<char *>&attached)[:sizeof(attached)])

    def send(self, bytes frame not None):
        """Send a frame of our own, beside a worker if there is one; OSError where the kernel does not take it."""
        if self._socket is None:
            raise OSError(EBADF, "the port is closed", self.device)
        data = bytes(VNET_SIZE) + frame
        try:
            self._socket.send(data, MSG_DONTWAIT)
        except OSError as error:
            if error.errno != ENETDOWN:
                raise
            self._socket.send(data, MSG_DONTWAIT)  # that may have been an old one, which waited for the next call

    def close(self):
        """Leave the interface; again is allowed. Not while a forwarder runs on it."""
        if self._p.ring.slots != NULL:
            munmap(self._p.ring.slots, self._p.ring.n_slots * SLOT_SIZE)
            self._p.ring.slots = NULL
        if self._socket is not None:
            if self.port.fd >= 0:
                self.ring_lost  # what the kernel still counts
            self._socket.close()
            self._socket = None
        self._p.ring.fd = self._p.sender.fd = self.port.fd = -1
        self._p.ring.split.data = NULL

    @property
    def ring_lost(self):
        """Frames, or whole super-frames, that the ring or the socket's queue had no room for, since the start."""
        cdef tpacket_stats stats
        cdef uint32_t size = sizeof(stats)
        if self.port.fd >= 0 and getsockopt(self.port.fd, SOL_PACKET, PACKET_STATISTICS, &stats, &size) == 0:
            self._dropped += stats.tp_drops  # the kernel counts from 0 after each look
        return self._dropped + self._p.ring.n_cut_off

    @property
    def transmits(self):
        """How copies leave at best: "trains" or "packet", one by one."""
        return "trains" if self.port.trains else "packet"

    @property
    def why(self):
        """A sentence on why it is `transmits`."""
        if self._p.sender.refused != 0:
            return f"the kernel refused a train: {os.strerror(self._p.sender.refused)}"
        return self._why


cdef int packet_receive(port_t *port, batch_t *batch) noexcept nogil:
    return ring_receive(&(<packet_t *>port.state).ring, port.index, batch)


cdef void packet_release(port_t *port, batch_t *batch) noexcept nogil:
    ring_release(&(<packet_t *>port.state).ring)


cdef int64_t packet_transmit(port_t *port, tx_t *tx) noexcept nogil:
    cdef packet_t *p = <packet_t *>port.state
    cdef int64_t taken
    if tx.train == NULL:
        return sender_copies(&p.sender, tx)
    taken = sender_train(&p.sender, tx)
    if p.sender.refused != 0:
        port.trains = False
    return taken

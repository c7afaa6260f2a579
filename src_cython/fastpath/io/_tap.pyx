"""A TAP device as a port: what the kernel's end of it sends comes in, copies go out as if they came off a wire.

Every frame is one read and every copy one write, a microsecond each (LIMITS): the kernel offers no way to hand over many. So super-frames
count double here. They go out as trains, and those that the kernel's end makes of its own (UDP_SEGMENT, a VM's TCP) come in whole and
are cut by us. A write is taken in by the kernel's stack before it returns: what follows, up to the VM, is part of its cost. The
header length of a train is told as it is: that of LIMITS trap 6, the whole train, costs a tenth here.

Reads go into an arena, one frame behind the other, so that small frames use little cache and every one is contiguous; a batch
ends early where the arena might not hold one more super-frame. The frame begins a cache line, its virtio header stands just before it.
"""

from libc.errno cimport EAGAIN, EBADF, EBADFD, EINTR, EINVAL, EIO, ENETDOWN, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memmove, memset
from posix.stdlib cimport posix_memalign
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec
from posix.unistd cimport close, read, write
from fastpath._copy cimport CLASS_NONE, copy_write, stamp_of, stamp_t, state_unbook, train_head_write, train_stamp_of, tx_egress, tx_refuse
from fastpath._frame cimport (
    HEAD_MAX, MARK_NONE, MARK_UNFINISHED, MARK_UNSPLIT, REASON_LINK_DOWN, REASON_NONE, REASON_PORT_REFUSED, batch_t,
    egress_t, frame_t,
)
from fastpath._port cimport IoPort, port_t, tx_t
from fastpath.io._linux cimport (
    POLLERR, POLLOUT, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_NONE, VNET_SIZE, iovec, poll, pollfd, virtio_net_hdr, writev,
)
from fastpath.io._split cimport split_begin, split_next, split_size, split_t
from fastpath.io._vnet cimport vnet_train

import errno as codes
import fcntl
import os
import socket
import struct

cdef enum:
    LINE = 64
    FRAME_ROOM = (1 << 16) + 4 * LINE  # a super-frame ends at 64 KB of IP; Ethernet, tags and the line before it
    ARENA_SIZE = 512 << 10
    COPY_ROOM = VNET_SIZE + (1 << 16) + 2 * HEAD_MAX

cdef struct tap_t:
    int fd
    int refused               # errno of the first train that the kernel would not take
    uint8_t *arena
    uint8_t *out              # the copy being sent, behind its virtio header
    split_t split             # a super-frame that the last batch had no room for to its end

# include/uapi/linux/{if_tun,sockios,rtnetlink,if_link}.h
_TUNSETIFF, _TUNSETOFFLOAD, _TUNSETVNETHDRSZ = 0x400454CA, 0x400454D0, 0x400454D8
_IFF_UP, _IFF_TAP, _IFF_MULTI_QUEUE, _IFF_NO_PI, _IFF_VNET_HDR = 1, 2, 0x100, 0x1000, 0x4000
_CSUM, _TSO, _USO = 1, 2 | 4, 0x20 | 0x40
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCGIFINDEX = 0x8913, 0x8914, 0x8933
_RTM_NEWSTATS, _RTM_GETSTATS, _STATS_LINK_64, _TX_DROPPED = 92, 94, 1, 7

_REFUSALS = {
    codes.ENOENT: "there is no /dev/net/tun: load the module tun",
    codes.EACCES: "no right to open /dev/net/tun, which a user namespace does not give",
    codes.EPERM: "no right to make or attach to TAP devices: needs CAP_NET_ADMIN in the network namespace",
    codes.EBUSY: "in use by another program, or by one more queue than the device has",
    codes.EINVAL: "exists, but is no TAP device, or was made with another number of queues (multi_queue)",
}


cdef class TapIo(IoPort):
    """One queue of the TAP device named `device`.

    A device that is not there is made, brought up, and goes with its last queue; one that is there is attached to and left as it is. A
    device with `multi_queue` takes several TapIo, among which the kernel spreads its frames by flow. `counts_losses`: tell in
    `ring_lost` what the device lost; that is counted for the device, so only one of its queues should.

    Raises ValueError for what cannot be a device's name, and OSError that says what is missing.
    """

    cdef tap_t _t
    cdef readonly str device
    cdef readonly int ifindex
    cdef bint _counts_losses
    cdef int _netlink         # a socket in the device's network namespace
    cdef uint64_t _lost_before
    cdef uint64_t _lost
    cdef list _notes

    def __cinit__(self, str device not None, *, bint multi_queue=False, bint trains=True, bint counts_losses=True):
        self._t.fd = self._netlink = -1
        if not 0 < len(os.fsencode(device)) < 16 or set(device) & set("/%: \t\n\0") or device in {".", ".."}:
            raise ValueError(f"{device!r} cannot be the name of a TAP device: expected 1 to 15 bytes without / % : and space")
        self.device = device
        self._counts_losses = counts_losses
        self._notes = []
        if posix_memalign(<void **>&self._t.arena, LINE, ARENA_SIZE) or posix_memalign(<void **>&self._t.out, LINE, COPY_ROOM):
            raise MemoryError
        try:
            self._attach(multi_queue)
        except OSError as error:
            self._close()
            raise OSError(error.errno, _REFUSALS.get(error.errno, os.strerror(error.errno)), device) from None
        self.port.receive = tap_receive
        self.port.transmit = tap_transmit
        self.port.state = &self._t
        self.port.fd = self._t.fd
        if trains and not self._notes:
            self.port.trains = True
        elif not trains:
            self._notes.append("trains are switched off")

    def __dealloc__(self):
        self._close()
        free(self._t.arena)
        free(self._t.out)

    cdef void _close(self) noexcept:
        if self._t.fd >= 0:
            close(self._t.fd)
        if self._netlink >= 0:
            close(self._netlink)
        self._t.fd = self._netlink = self.port.fd = -1

    cdef int _attach(self, bint multi_queue) except -1:
        """Make or find the device in the network namespace of the calling thread, and set it up."""
        cdef int fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._t.fd = fd
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | (_IFF_MULTI_QUEUE if multi_queue else 0)
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE).detach()
        name = os.fsencode(self.device)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            try:
                fcntl.ioctl(control, _SIOCGIFINDEX, struct.pack("16s24x", name))
                made = False
            except OSError:
                made = True
            fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name, flags))
            fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("i", VNET_SIZE))
            self._offload(fd)
            found = fcntl.ioctl(control, _SIOCGIFINDEX, struct.pack("16s24x", name))
            self.ifindex = struct.unpack_from("i", found, 16)[0]
            if made:
                state = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16s24x", name))
                up = struct.unpack_from("H", state, 16)[0] | _IFF_UP
                fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", name, up))
        self._lost_before = self._dropped()
        return 0

    cdef int _offload(self, int fd) except -1:
        """Let the kernel's end hand over unfinished checksums and super-frames, as far as it knows them."""
        for features, lacks in ((_CSUM | _TSO | _USO, ""), (_CSUM | _TSO, "knows no super-frames of UDP (before Linux 6.2)")):
            try:
                fcntl.ioctl(fd, _TUNSETOFFLOAD, features)
            except OSError as error:
                refused = error
                continue
            if lacks:
                self._notes.append(f"the kernel {lacks}")
            return 0
        raise refused

    cdef uint64_t _dropped(self) except? 0xffffffffffffffff:
        """The device's tx_dropped: frames that found its queue full, or no queue at all."""
        os.write(self._netlink, struct.pack("=IHHIIBBHII", 28, _RTM_GETSTATS, 1, 0, 0, 0, 0, 0, self.ifindex, _STATS_LINK_64))
        reply = os.read(self._netlink, 4096)
        if struct.unpack_from("=H", reply, 4)[0] != _RTM_NEWSTATS:
            raise OSError(-struct.unpack_from("=i", reply, 16)[0], "no statistics")
        at = 28
        while struct.unpack_from("=H", reply, at + 2)[0] != _STATS_LINK_64:  # a pad may stand before it
            at += struct.unpack_from("=H", reply, at)[0]
        return struct.unpack_from("=Q", reply, at + 4 + 8 * _TX_DROPPED)[0]

    @property
    def ring_lost(self):
        """Frames that the kernel's end sent and that found the queue full, since the device was opened here."""
        if self._counts_losses and self._netlink >= 0:
            try:
                self._lost = self._dropped() - self._lost_before
            except OSError:  # the device is gone; what it lost before is known
                pass
        return self._lost

    @property
    def transmits(self):
        """The way out: "trains", or "packet", a write for every copy."""
        return "trains" if self.port.trains else "packet"

    @property
    def why(self):
        """Why not the better way; empty where there is nothing to say."""
        notes = list(self._notes)
        if self._t.refused:
            notes.append(f"the kernel refused a super-frame: {os.strerror(self._t.refused)}")
        return "; ".join(notes)

    @property
    def state(self):
        """What the kernel's end is, in whatever namespace: "up", "down" or "gone"."""
        cdef pollfd asked
        asked.fd = self._t.fd
        asked.events = POLLOUT  # of an interface that is up: drivers/net/tun.c, tun_sock_writeable
        asked.revents = 0
        if self._t.fd < 0 or poll(&asked, 1, 0) < 0 or asked.revents & POLLERR:
            return "gone"
        return "up" if asked.revents & POLLOUT else "down"

    def send(self, bytes frame not None):
        """Send a frame of our own, beside a worker if there is one; OSError where the kernel does not take it."""
        os.write(self._t.fd, bytes(VNET_SIZE) + frame)

    def close(self):
        """Give the queue back; a device made by us goes with its last one. Not while a worker uses the port."""
        self._lost = self.ring_lost
        self._close()


cdef inline uint32_t lines(uint32_t size) noexcept nogil:
    """Room for `size` bytes and the line before them."""
    return (LINE + size + LINE - 1) & ~<uint32_t>(LINE - 1)


cdef inline frame_t *push(port_t *port, batch_t *batch, uint8_t *data, uint32_t size, uint64_t time_ns) noexcept nogil:
    cdef frame_t *f = &batch.frames[batch.n]
    f.data = data
    f.size = size
    f.time_ns = time_ns
    f.in_port = port.index
    f.marked = MARK_NONE
    f.mark_start = f.mark_offset = f.vlan_tpid = f.vlan_tci = 0
    batch.n += 1
    return f


cdef inline uint32_t cut(port_t *port, batch_t *batch, uint32_t used, uint64_t time_ns) noexcept nogil:
    """Cut frames off the super-frame into the arena, as many as batch and arena hold; returns what of it is used."""
    cdef tap_t *t = <tap_t *>port.state
    cdef frame_t *f
    while t.split.data != NULL and batch.n < batch.capacity and used + lines(split_size(&t.split)) <= ARENA_SIZE:
        f = push(port, batch, t.arena + used + LINE, split_size(&t.split), time_ns)
        f.marked = MARK_UNFINISHED
        f.mark_start = t.split.start
        f.mark_offset = t.split.offset
        used += lines(split_next(&t.split, f.data))
    return used


cdef int tap_receive(port_t *port, batch_t *batch) noexcept nogil:
    """Read frames until there are none, the batch is full, or the arena might not hold one more."""
    cdef tap_t *t = <tap_t *>port.state
    cdef uint32_t used = 0, size
    cdef ssize_t got
    cdef timespec now
    cdef uint64_t time_ns
    cdef virtio_net_hdr *header
    cdef uint8_t *data
    cdef frame_t *f
    clock_gettime(CLOCK_REALTIME, &now)
    time_ns = <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec
    if t.split.data != NULL:
        memmove(t.arena + LINE, t.split.data, t.split.size)
        t.split.data = t.arena + LINE
        used = cut(port, batch, lines(t.split.size), time_ns)
    while batch.n < batch.capacity and used + FRAME_ROOM <= ARENA_SIZE and t.split.data == NULL:
        header = <virtio_net_hdr *>(t.arena + used + LINE - VNET_SIZE)
        got = read(t.fd, header, FRAME_ROOM - LINE + VNET_SIZE)
        if got < VNET_SIZE:
            if got < 0 and errno == EINTR:
                continue
            if got < 0 and errno != EAGAIN and batch.n == 0:
                return -errno
            break
        data = t.arena + used + LINE
        size = <uint32_t>(got - VNET_SIZE)
        used += lines(size)
        if header.gso_type != VIRTIO_NET_HDR_GSO_NONE and got < FRAME_ROOM - LINE + VNET_SIZE and split_begin(
            &t.split, data, size, header
        ):
            used = cut(port, batch, used, time_ns)
            continue
        f = push(port, batch, data, size, time_ns)
        if header.gso_type != VIRTIO_NET_HDR_GSO_NONE:
            f.marked = MARK_UNSPLIT
        elif header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM:
            f.marked = MARK_UNFINISHED
            f.mark_start = header.csum_start
            f.mark_offset = header.csum_offset
    return <int>batch.n


cdef inline uint8_t refusal() noexcept nogil:
    """The drop reason for a write that failed."""
    if errno == EIO or errno == ENETDOWN or errno == EBADFD or errno == EBADF:
        return REASON_LINK_DOWN
    return REASON_PORT_REFUSED


cdef inline bint send(int fd, const iovec *parts, int n_parts) noexcept nogil:
    """Write one frame; False and errno where the kernel took nothing of it: there is no partial write."""
    cdef ssize_t written
    while True:
        written = write(fd, parts.iov_base, parts.iov_len) if n_parts == 1 else writev(fd, parts, n_parts)
        if written >= 0:
            return True
        if errno != EINTR:
            return False


cdef int64_t transmit_train(port_t *port, tap_t *t, tx_t *tx) noexcept nogil:
    """One write per destination: header and head, then the payload that all share."""
    cdef virtio_net_hdr *header = <virtio_net_hdr *>t.out
    cdef const egress_t *e
    cdef stamp_t fresh, stamp
    cdef iovec parts[2]
    cdef uint32_t k, head_size
    cdef int64_t taken = 0
    memset(&stamp, 0, sizeof(stamp))
    stamp.egress_class = CLASS_NONE
    parts[0].iov_base = t.out
    parts[1].iov_base = <void *>tx.train
    parts[1].iov_len = tx.train_size
    for k in range(tx.n_egresses):
        e = tx_egress(tx, k)
        if e.egress_class != stamp.egress_class:
            fresh = train_stamp_of(tx, e)
            stamp = fresh
        if stamp.reason != REASON_NONE:
            tx_refuse(tx, k, stamp.reason)
            continue
        head_size = train_head_write(t.out + VNET_SIZE, tx, k, &stamp)
        vnet_train(header, tx, t.out + VNET_SIZE, head_size, stamp.size - head_size, head_size)
        parts[0].iov_len = VNET_SIZE + head_size
        if send(t.fd, parts, 2):
            taken += tx.run.n_frames
            continue
        state_unbook(
            &tx.states[tx.egresses[k]], tx.run.n_frames, tx.run.n_frames * head_size + tx.train_size, stamp.ip_at == 0
        )
        if errno == EINVAL:
            port.trains = False
            t.refused = EINVAL
            if k == 0:
                return -1
        tx_refuse(tx, k, refusal())
    return taken


cdef int64_t tap_transmit(port_t *port, tx_t *tx) noexcept nogil:
    cdef tap_t *t = <tap_t *>port.state
    cdef const egress_t *e
    cdef stamp_t fresh, stamp
    cdef iovec part
    cdef uint32_t k
    cdef int64_t taken = 0
    if tx.train != NULL:
        return transmit_train(port, t, tx)
    memset(&stamp, 0, sizeof(stamp))
    stamp.egress_class = CLASS_NONE
    memset(t.out, 0, VNET_SIZE)
    part.iov_base = t.out
    for k in range(tx.n_egresses):
        e = tx_egress(tx, k)
        if e.egress_class != stamp.egress_class:
            fresh = stamp_of(tx, e)
            stamp = fresh
            if stamp.reason == REASON_NONE and VNET_SIZE + stamp.size + HEAD_MAX > COPY_ROOM:
                stamp.reason = REASON_PORT_REFUSED
            part.iov_len = VNET_SIZE + stamp.size
        if stamp.reason != REASON_NONE:
            tx_refuse(tx, k, stamp.reason)
            continue
        copy_write(t.out + VNET_SIZE, &stamp, e, tx.run.frame, &tx.states[tx.egresses[k]])
        if send(t.fd, &part, 1):
            taken += 1
            continue
        state_unbook(&tx.states[tx.egresses[k]], 1, stamp.size, stamp.ip_at == 0)
        tx_refuse(tx, k, refusal())
    return taken

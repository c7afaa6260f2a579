# Copies into the transmit ring of an AF_XDP socket, and what became of each.
#
# In copy mode the kernel takes copies only while we call it, so we know of each one whether it was taken, dropped, which the kernel says
# one by one (EBUSY), or left in the ring. What is left when we give up is revoked: its descriptor is overwritten by one that the kernel
# skips. Winding the ring back would not do, for the kernel may have read already how far it goes.
from libc.errno cimport EAGAIN, EBUSY, EINTR, ENETDOWN, ENOBUFS, ENXIO, errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from fastpath._copy cimport state_unbook
from fastpath._frame cimport REASON_LINK_DOWN, REASON_NONE, REASON_PORT_REFUSED, egress_state_t
from fastpath.io._xsk cimport (
    MSG_DONTWAIT, XDP_RING_NEED_WAKEUP, ring_address, ring_descriptor, sendto, xdp_desc, xsk_load, xsk_store, xsk_t,
)

cdef extern from * nogil:
    """
    #include <net/if.h>
    #include <stdint.h>
    #include <string.h>
    #include <sys/ioctl.h>
    static inline int xdp_link_is_up(int fd, const char *device) {
        struct ifreq request = {0};
        strcpy(request.ifr_name, device);
        return ioctl(fd, SIOCGIFFLAGS, &request) == 0 && request.ifr_flags & IFF_UP && request.ifr_flags & IFF_RUNNING;
    }
    #define REVOKED UINT64_MAX
    """
    const uint64_t REVOKED    # an address outside of any memory
    int xdp_link_is_up(int fd, const char *device)

cdef enum:
    DEVICE_SIZE = 16          # IFNAMSIZ
    BUDGET = 32               # copies that the kernel takes in one call, unless it lets itself be asked for more
    BATCH_COPIES = 64         # the most we hand over in one call
    TRIES = 64                # calls without progress before copies are given up: some ten microseconds

# A copy that is in the ring, and not yet settled.
cdef struct pending_t:
    egress_state_t *state
    uint64_t *drops
    bint kept                 # it went under the IP header it came with

cdef struct sender_t:
    xsk_t *socket
    char device[DEVICE_SIZE]
    int questions             # a socket that answers ioctls, which those of AF_XDP do not
    uint64_t *chunks          # free ones, the last used on top: that one is in the cache; room for one more
    uint32_t n_chunks
    uint32_t produced         # positions in the ring: where we are,
    uint32_t settled          # and up to where nothing is open any more
    uint32_t batch            # copies a call
    uint32_t n_pending
    int64_t n_lost            # copies that were pending and came to nothing
    pending_t pending[BATCH_COPIES]


cdef inline void sender_reap(sender_t *x) noexcept nogil:
    """Take back the chunks of copies that have left. Some kernels complete revoked descriptors, too."""
    cdef xsk_t *s = x.socket
    cdef uint32_t at = s.completion.consumer[0], end = xsk_load(s.completion.producer)
    while at != end:
        x.chunks[x.n_chunks] = ring_address(&s.completion, at)[0]
        x.n_chunks += x.chunks[x.n_chunks] != REVOKED
        at += 1
    xsk_store(s.completion.consumer, end)


cdef inline int sender_kick(sender_t *x) noexcept nogil:
    """Have the kernel take what is in the ring: 0, or errno."""
    return 0 if sendto(x.socket.fd, NULL, 0, MSG_DONTWAIT, NULL, 0) >= 0 else errno


cdef inline uint8_t reason_of(const sender_t *x, int error) noexcept nogil:
    if error == ENETDOWN or error == ENXIO or not xdp_link_is_up(x.questions, x.device):
        return REASON_LINK_DOWN
    return REASON_PORT_REFUSED


cdef inline void sender_lose(sender_t *x, uint32_t position, uint8_t reason) noexcept nogil:
    """Make a pending copy a dropped one."""
    cdef const pending_t *p = &x.pending[x.n_pending - (x.produced - position)]
    state_unbook(p.state, 1, ring_descriptor(&x.socket.tx, position).len, p.kept)
    p.state.dropped += 1
    p.drops[reason] += 1
    x.n_lost += 1


cdef inline uint8_t sender_wake(sender_t *x) noexcept nogil:
    """Zero copy: the driver reads the ring by itself; what is in there is in its hands."""
    cdef int error = 0
    if xsk_load(x.socket.tx.flags) & XDP_RING_NEED_WAKEUP:
        error = sender_kick(x)
    x.settled = x.produced
    x.n_pending = 0
    sender_reap(x)
    return REASON_LINK_DOWN if error == ENETDOWN or error == ENXIO else REASON_NONE


cdef inline uint8_t sender_settle(sender_t *x) noexcept nogil:
    """Hand all pending copies to the kernel; those that it does not take are lost. REASON_NONE, or why no more should be tried."""
    cdef xsk_t *s = x.socket
    cdef uint32_t taken_to, tries = 0
    cdef uint8_t reason = REASON_NONE
    cdef int error
    xsk_store(s.tx.producer, x.produced)
    if s.zero_copy:
        return sender_wake(x)
    while x.settled != x.produced and reason == REASON_NONE:
        error = sender_kick(x)
        taken_to = xsk_load(s.tx.consumer)
        if error == EBUSY:
            # the last copy taken was dropped; if it was the only one, not every kernel tells that it took any
            x.settled = taken_to if <int32_t>(taken_to - x.settled) > 0 else x.settled + 1
            reason = reason_of(x, error)
            sender_lose(x, x.settled - 1, reason)
            if reason == REASON_PORT_REFUSED:
                reason = REASON_NONE
        elif <int32_t>(taken_to - x.settled) > 0:
            x.settled = taken_to
            tries = 0
        elif (error == 0 or error == EAGAIN or error == ENOBUFS or error == EINTR) and tries < TRIES:
            tries += 1
        else:
            reason = reason_of(x, error)
    for taken_to in range(x.settled, x.produced):
        sender_lose(x, taken_to, reason)
        x.chunks[x.n_chunks] = ring_descriptor(&s.tx, taken_to).addr
        x.n_chunks += 1
        ring_descriptor(&s.tx, taken_to).addr = REVOKED
    x.n_pending = 0
    sender_reap(x)
    return reason


cdef inline uint8_t sender_begin(sender_t *x) noexcept nogil:
    """Have the kernel step over revoked descriptors; as long as it does not, why it takes nothing.

    Some kernels skip one a call, some all at once but tell it with the next call only.
    """
    cdef int error = 0
    if x.n_pending or x.settled == x.produced:
        return REASON_NONE
    if not xdp_link_is_up(x.questions, x.device):
        return REASON_LINK_DOWN
    for _ in range(2 * BATCH_COPIES):
        error = sender_kick(x)
        sender_reap(x)
        if xsk_load(x.socket.tx.consumer) == x.produced:
            x.settled = x.produced
            return REASON_NONE
        if error != 0 and error != EAGAIN:
            break
    return reason_of(x, error)


cdef inline uint8_t *sender_reserve(sender_t *x, uint8_t *reason) noexcept nogil:
    """Where the next copy goes; NULL and the reason where there is no room."""
    if x.n_chunks == 0:
        reason[0] = sender_settle(x)
        sender_reap(x)
        if reason[0] == REASON_NONE and x.n_chunks == 0:
            reason[0] = REASON_PORT_REFUSED
        if reason[0] != REASON_NONE:
            return NULL
    return x.socket.memory + x.chunks[x.n_chunks - 1]


cdef inline void sender_push(sender_t *x, uint32_t size, const pending_t *booked) noexcept nogil:
    """Put the copy that was written where `sender_reserve` said into the ring."""
    cdef xdp_desc *descriptor = ring_descriptor(&x.socket.tx, x.produced)
    x.n_chunks -= 1
    descriptor.addr = x.chunks[x.n_chunks]
    descriptor.len = size
    descriptor.options = 0
    x.produced += 1
    x.pending[x.n_pending] = booked[0]
    x.n_pending += 1

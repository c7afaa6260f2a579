# The sending half of the AF_PACKET port: sendmmsg, within one request.
#
# A train is one message a destination: virtio_net_hdr and head, and the payload that all of them share. A message that the kernel
# refuses is taken out of the books again, and counted by its reason; the others leave.
from libc.errno cimport (
    EINTR, EINVAL, EIO, EMSGSIZE, ENETDOWN, ENOBUFS, ENODEV, ENOMEM, ENXIO, EOPNOTSUPP, errno,
)
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memset
from fastpath._copy cimport CLASS_NONE, copy_write, stamp_of, stamp_t, state_unbook, train_head_write, train_stamp_of, tx_egress, tx_refuse
from fastpath._frame cimport (
    REASON_LINK_DOWN, REASON_NONE, REASON_OVER_MTU, REASON_PORT_REFUSED, TRAIN_HEAD_MAX, egress_t, frame_t,
)
from fastpath._port cimport tx_t
from fastpath.io._linux cimport (
    MSG_DONTWAIT, VNET_SIZE, iovec, mmsghdr, sendmmsg, virtio_net_hdr,
)
from fastpath.io._vnet cimport vnet_train

cdef enum:
    MESSAGES_MAX = 64         # of one sendmmsg
    HEAD_AT = 16              # 6 bytes nobody uses, virtio_net_hdr
    HEAD_ROOM = HEAD_AT + TRAIN_HEAD_MAX

# What a copy, or the copies of a train, was booked for.
cdef struct booked_t:
    uint32_t k
    uint32_t size             # bytes
    bint kept

cdef struct sender_t:
    int fd
    int refused               # errno by which the kernel refused a train; 0: never
    iovec vectors[MESSAGES_MAX][2]
    mmsghdr messages[MESSAGES_MAX]
    booked_t booked[MESSAGES_MAX]
    uint8_t heads[MESSAGES_MAX][HEAD_ROOM]


cdef inline void unbook(tx_t *tx, const booked_t *booked) noexcept nogil:
    state_unbook(&tx.states[tx.egresses[booked.k]], tx.run.n_frames, booked.size, booked.kept)


cdef inline uint8_t reason_of(int error) noexcept nogil:
    if error == ENETDOWN or error == ENXIO or error == ENODEV:
        return REASON_LINK_DOWN
    return REASON_OVER_MTU if error == EMSGSIZE else REASON_PORT_REFUSED


cdef inline bint shorten(sender_t *s, const tx_t *tx, uint32_t first, uint32_t n) noexcept nogil:
    """Ask for no more than the headers of trains in one piece of memory; False where that is so (LIMITS trap 6)."""
    cdef uint32_t i
    cdef virtio_net_hdr *vnet
    for i in range(first, n):
        vnet = <virtio_net_hdr *>s.vectors[i][0].iov_base
        if vnet.hdr_len == vnet.csum_start + tx.transport.size:
            return False
        vnet.hdr_len = vnet.csum_start + tx.transport.size
    return True


cdef inline int64_t send(sender_t *s, tx_t *tx, uint32_t n, bint nothing_done) noexcept nogil:
    """Send the first `n` messages, and take back the booking of those that the kernel refuses; how many left.

    -1: the kernel takes no trains, and all bookings are taken back. After a partial sendmmsg the next call begins with the message
    that was refused, and says why (LIMITS trap 10).
    """
    cdef uint32_t i = 0
    cdef int64_t sent = 0
    cdef bint asked_again = False
    cdef int done, error
    cdef uint8_t reason
    while i < n:
        done = sendmmsg(s.fd, &s.messages[i], n - i, MSG_DONTWAIT)
        if done > 0:
            i += done
            sent += done
            continue
        error = errno
        if error == EINTR:
            continue
        if error == ENETDOWN and not asked_again:  # perhaps an old one, that waited for the next call
            asked_again = True
            continue
        if tx.train != NULL:
            if (error == ENOBUFS or error == ENOMEM) and shorten(s, tx, i, n):
                continue
            if error == EINVAL or error == EIO or error == EOPNOTSUPP:
                s.refused = error
                if nothing_done and sent == 0 and i == 0:
                    for i in range(n):
                        unbook(tx, &s.booked[i])
                    return -1
        reason = reason_of(error)
        while i < n:
            unbook(tx, &s.booked[i])
            tx_refuse(tx, s.booked[i].k, reason)
            i += 1
            if reason != REASON_LINK_DOWN:
                break
    return sent


cdef inline void book(sender_t *s, uint32_t i, uint32_t k, uint32_t size, bint kept) noexcept nogil:
    s.booked[i].k = k
    s.booked[i].size = size
    s.booked[i].kept = kept


cdef inline int64_t sender_train(sender_t *s, tx_t *tx) noexcept nogil:
    """The operation `transmit` of a port, for a train: one message a destination."""
    cdef const egress_t *e
    cdef stamp_t fresh, stamp
    cdef virtio_net_hdr *vnet
    cdef uint8_t *head
    cdef uint32_t k, n = 0, size
    cdef int64_t done, taken = 0
    cdef bint nothing_done = True
    memset(&stamp, 0, sizeof(stamp))
    stamp.egress_class = CLASS_NONE
    for k in range(tx.n_egresses):
        e = tx_egress(tx, k)
        if e.egress_class != stamp.egress_class:
            fresh = train_stamp_of(tx, e)
            stamp = fresh
        if stamp.reason != REASON_NONE:
            tx_refuse(tx, k, stamp.reason)
            nothing_done = False
        else:
            head = s.heads[n] + HEAD_AT
            size = train_head_write(head, tx, k, &stamp)
            vnet = <virtio_net_hdr *>(head - VNET_SIZE)
            vnet_train(vnet, tx, head, size, stamp.size - size, size + tx.train_size)
            s.vectors[n][0].iov_base = vnet
            s.vectors[n][0].iov_len = VNET_SIZE + size
            s.vectors[n][1].iov_base = <void *>tx.train
            s.vectors[n][1].iov_len = tx.train_size
            s.messages[n].msg_hdr.msg_iov = s.vectors[n]
            s.messages[n].msg_hdr.msg_iovlen = 2
            book(s, n, k, tx.run.n_frames * size + tx.train_size, stamp.ip_at == 0)
            n += 1
        if n == MESSAGES_MAX or (k + 1 == tx.n_egresses and n != 0):
            done = send(s, tx, n, nothing_done)
            if done < 0:
                return -1
            taken += done * tx.run.n_frames
            nothing_done = False
            n = 0
    return taken


cdef inline int64_t sender_copies(sender_t *s, tx_t *tx) noexcept nogil:
    """The same for a single frame: one message a copy. What it keeps of the frame is sent from where the frame stands."""
    cdef const frame_t *f = tx.run.frame
    cdef const egress_t *e
    cdef stamp_t fresh, stamp
    cdef uint8_t *head
    cdef uint32_t k, n = 0, kept_size = 0
    cdef int64_t taken = 0
    memset(&stamp, 0, sizeof(stamp))
    stamp.egress_class = CLASS_NONE
    for k in range(tx.n_egresses):
        e = tx_egress(tx, k)
        if e.egress_class != stamp.egress_class:
            fresh = stamp_of(tx, e)
            stamp = fresh
            kept_size = stamp.kept_size
            stamp.kept_size = 0
        if stamp.reason != REASON_NONE:
            tx_refuse(tx, k, stamp.reason)
        else:
            head = s.heads[n] + HEAD_AT
            memset(head - VNET_SIZE, 0, VNET_SIZE)
            copy_write(head, &stamp, e, f, &tx.states[tx.egresses[k]])
            s.vectors[n][0].iov_base = head - VNET_SIZE
            s.vectors[n][0].iov_len = VNET_SIZE + stamp.head_size
            s.vectors[n][1].iov_base = <void *>stamp.kept
            s.vectors[n][1].iov_len = kept_size
            s.messages[n].msg_hdr.msg_iov = s.vectors[n]
            s.messages[n].msg_hdr.msg_iovlen = 2
            book(s, n, k, stamp.size, stamp.ip_at == 0)
            n += 1
        if n == MESSAGES_MAX or (k + 1 == tx.n_egresses and n != 0):
            taken += send(s, tx, n, False)
            n = 0
    return taken

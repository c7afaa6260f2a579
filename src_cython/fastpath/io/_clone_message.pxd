# What is handed to the private device of `fastpath/clones.py`: one message, which its program makes copies of for all receivers, and the
# table in which their heads stand. The page of that module says what the program does.
#
# A message takes in requests for one frame or train by any of the ports that share the device, as long as copies keep the same of it
# under heads of one size: the receivers of a list may be behind one port or each behind its own. It is sent when it is settled: at the end
# of the run, before what does not fit it, after TURNS, and before there is more on the way than a receiver's backlog has room for: trains,
# and where an interface does not segment, datagrams. None is taken in before the last clone is made, and what finds no room is lost
# without a word.
#
# 1. The books: a copy is booked, and taken, when its head is written. Once the send has returned, its record says what became of it.
# 2. A copy whose record says nothing was not made: the device is gone, or full, or takes no such frame. The port below is asked for it.
# 3. So it is for fewer copies than FEWEST: there is nothing to share, and the message is not sent at all.
# 4. What did not leave in the end is for its port's next flush to tell.
from libc.errno cimport EAGAIN, EINTR, EINVAL, EMSGSIZE, ENETDOWN, ENOBUFS, ENOMEM, errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from fastpath._copy cimport copy_write, stamp_t, train_head_write, tx_refuse
from fastpath._frame cimport REASON_LINK_DOWN, REASON_NONE, REASON_PORT_REFUSED, egress_t
from fastpath._port cimport port_t, tx_t
from fastpath.io._below cimport below_t, below_transmit_one
from fastpath.io._linux cimport MSG_DONTWAIT, VNET_SIZE, iovec, mmsghdr, sendmmsg, virtio_net_hdr
from fastpath.io._packet_send cimport booked_t, reason_of, unbook
from fastpath.io._vnet cimport vnet_train

cdef extern from * nogil:
    """
    #include <linux/if.h>
    #include <linux/sockios.h>
    #include <string.h>
    #include <sys/ioctl.h>
    static inline int clones_ask(int fd, unsigned long what, const char *device, struct ifreq *answer) {
        memset(answer, 0, sizeof(*answer));
        strcpy(answer->ifr_name, device);
        return ioctl(fd, what, answer);
    }
    static inline uint32_t clones_ifindex(int fd, const char *device) {
        struct ifreq answer;
        return clones_ask(fd, SIOCGIFINDEX, device, &answer) == 0 ? (uint32_t)answer.ifr_ifindex : 0;
    }
    static inline int clones_link_is_up(int fd, const char *device) {
        struct ifreq answer;
        return clones_ask(fd, SIOCGIFFLAGS, device, &answer) == 0 && answer.ifr_flags & IFF_UP && answer.ifr_flags & IFF_RUNNING;
    }
    """
    uint32_t clones_ifindex(int fd, const char *device)
    int clones_link_is_up(int fd, const char *device)

cdef enum:
    DEVICE_SIZE = 16          # IFNAMSIZ
    FEWEST = 2                # copies that are worth a detour
    N_TURNS = 256             # copies of one program run
    N_REQUESTS = 64           # that one message takes in
    ON_THE_WAY = 1000         # of one message: net.core.netdev_max_backlog
    RECORD = 192              # three cache lines: one for interface, outcome and most heads, all that `_copy.pxd` may write behind
    AT_IFINDEX = 0
    AT_OUTCOME = 4
    AT_HEAD = 8
    ROOM = 128                # bytes of a head
    ORDER_MAGIC = 0x46504c43
    HEAD_AT_OWN = 16          # 6 bytes nobody uses, virtio_net_hdr
    NOT_TOLD = 0x7fffffff
    NET_XMIT_CN = 2           # linux/netdevice.h: something was dropped, perhaps this, perhaps by an interface that is down

cdef struct order_t:
    uint32_t first
    uint16_t n
    uint16_t head_size
    uint32_t magic

cdef struct message_t

# A port that stands on the device, out of its own interface.
cdef struct cloning_t:
    below_t below
    message_t *message
    bint is_closed
    bint singles              # single frames are cloned, too
    bint segments             # the interface takes trains whole
    uint32_t ifindex
    char device[DEVICE_SIZE]

# What of the message was asked for at once, by one port.
cdef struct request_t:
    port_t *port
    tx_t tx

cdef struct message_t:
    int fd
    int refused               # errno with which the device took nothing; then it is not asked again
    bint trains               # the kernel takes super-frames there
    uint8_t *table
    uint32_t n                # records of the message at hand, and what its copies share
    uint32_t head_size
    uint32_t segment_size     # of a train: UDP payload of one datagram
    const uint8_t *kept
    uint32_t kept_size
    uint32_t n_on_the_way
    uint32_t n_requests
    request_t requests[N_REQUESTS]
    uint16_t asked_by[N_TURNS]  # of a record: its request
    booked_t booked[N_TURNS]
    uint64_t sends            # frames and trains that were handed over, and clones that were made of them
    uint64_t cloned
    uint8_t head[HEAD_AT_OWN + ROOM]  # that of the first record, with an order in the place of its MAC addresses
    iovec vectors[2]
    mmsghdr mmsg


cdef inline int32_t *outcome_at(const message_t *m, uint32_t i) noexcept nogil:
    return <int32_t *>(m.table + i * RECORD + AT_OUTCOME)


cdef inline void message_send(message_t *m) noexcept nogil:
    """Hand what stands in the table over; the outcomes stand in it afterwards."""
    cdef const tx_t *tx = &m.requests[0].tx
    cdef virtio_net_hdr *vnet = <virtio_net_hdr *>(m.head + HEAD_AT_OWN - VNET_SIZE)
    cdef order_t order
    cdef bint asked_again = False
    cdef int error
    memset(vnet, 0, VNET_SIZE)
    memcpy(m.head + HEAD_AT_OWN, m.table + AT_HEAD, m.head_size)
    if tx.train != NULL:
        vnet_train(vnet, tx, m.head + HEAD_AT_OWN, m.head_size, m.segment_size, m.head_size)
    order.first = 0
    order.n = <uint16_t>m.n
    order.head_size = <uint16_t>m.head_size
    order.magic = ORDER_MAGIC
    memcpy(m.head + HEAD_AT_OWN, &order, sizeof(order))
    m.vectors[0].iov_base = vnet
    m.vectors[0].iov_len = VNET_SIZE + m.head_size
    m.vectors[1].iov_base = <void *>m.kept
    m.vectors[1].iov_len = m.kept_size
    m.mmsg.msg_hdr.msg_iov = m.vectors
    m.mmsg.msg_hdr.msg_iovlen = 2
    m.sends += 1
    while sendmmsg(m.fd, &m.mmsg, 1, MSG_DONTWAIT) < 0:
        error = errno
        if error == EINTR:
            continue
        if error == ENETDOWN and not asked_again:  # perhaps an old one, that waited for the next call
            asked_again = True
            continue
        if error != EAGAIN and error != ENOBUFS and error != ENOMEM and error != EMSGSIZE:
            m.refused = error
        break


cdef inline uint8_t outcome_reason(const message_t *m, const cloning_t *c, int32_t outcome) noexcept nogil:
    """What the kernel says of a clone: the same as of a frame by AF_PACKET, which asks first whether the interface is there and up."""
    if outcome == 0:
        return REASON_NONE
    if outcome == NET_XMIT_CN:
        return REASON_NONE if clones_link_is_up(m.fd, c.device) else REASON_LINK_DOWN
    if outcome == -EINVAL:
        return REASON_LINK_DOWN
    return reason_of(-outcome)


cdef inline void message_settle(message_t *m) noexcept nogil:
    """Send what the message holds, and do for each of its copies what follows from what became of it."""
    cdef uint32_t i, n = m.n
    cdef int32_t outcome
    cdef uint8_t reason
    cdef int64_t taken
    cdef request_t *request
    cdef cloning_t *c
    if n >= FEWEST:
        message_send(m)
    m.n = m.n_requests = m.n_on_the_way = 0
    for i in range(n):
        request = &m.requests[m.asked_by[i]]
        c = <cloning_t *>request.port.state
        outcome = outcome_at(m, i)[0]
        reason = REASON_NONE if outcome == NOT_TOLD else outcome_reason(m, c, outcome)
        if outcome != NOT_TOLD and reason == REASON_NONE:
            m.cloned += 1
            continue
        unbook(&request.tx, &m.booked[i])
        taken = 0
        if outcome == NOT_TOLD:
            taken = below_transmit_one(&c.below, request.port, &request.tx, m.booked[i].k)
            if taken < 0:  # no trains: too late to ask for its frames
                reason = REASON_PORT_REFUSED
                taken = 0
        if reason != REASON_NONE:
            tx_refuse(&request.tx, m.booked[i].k, reason)
        c.below.n_lost += request.tx.run.n_frames - taken


cdef inline bint message_fits(const message_t *m, uint32_t head_size, const uint8_t *kept, uint32_t kept_size) noexcept nogil:
    """May copies that keep this under heads of that size join the message?"""
    return m.n == 0 or (head_size == m.head_size and kept == m.kept and kept_size == m.kept_size)


cdef inline uint32_t on_the_way(const cloning_t *c, const tx_t *tx) noexcept nogil:
    """How many packets a copy or train is behind its interface."""
    return 1 if c.segments else tx.run.n_frames


cdef inline bint message_is_full(const message_t *m, const cloning_t *c, const tx_t *tx) noexcept nogil:
    return m.n == N_TURNS or (m.n != 0 and m.n_on_the_way + on_the_way(c, tx) > ON_THE_WAY)


cdef inline void message_hold(message_t *m, port_t *port, const tx_t *tx) noexcept nogil:
    """Note the request that the next records are of."""
    m.requests[m.n_requests].port = port
    m.requests[m.n_requests].tx = tx[0]
    m.n_requests += 1


cdef inline void message_add(message_t *m, const cloning_t *c, tx_t *tx, uint32_t k, const egress_t *e, const stamp_t *stamp) noexcept nogil:
    """Write the next record, for egress `k`, and book its copies."""
    cdef uint8_t *record = m.table + m.n * RECORD
    cdef booked_t *booked = &m.booked[m.n]
    (<uint32_t *>(record + AT_IFINDEX))[0] = c.ifindex
    outcome_at(m, m.n)[0] = NOT_TOLD
    m.asked_by[m.n] = <uint16_t>(m.n_requests - 1)
    booked.k = k
    booked.kept = stamp.ip_at == 0
    if tx.train != NULL:
        train_head_write(record + AT_HEAD, tx, k, stamp)
        booked.size = tx.run.n_frames * m.head_size + tx.train_size
    else:
        copy_write(record + AT_HEAD, stamp, e, tx.run.frame, &tx.states[tx.egresses[k]])
        booked.size = stamp.size
    m.n += 1
    m.n_on_the_way += on_the_way(c, tx)

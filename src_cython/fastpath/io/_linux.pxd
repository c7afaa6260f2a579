# What the live ports ask of the kernel: structures, options and calls, as the system's own headers define them.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    struct msghdr:
        void *msg_name
        iovec *msg_iov
        size_t msg_iovlen
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    int SOL_SOCKET, SO_ERROR, SO_RCVBUF, SO_RCVBUFFORCE, SO_SNDBUF, SO_SNDBUFFORCE
    int SO_ATTACH_FILTER, SO_DETACH_FILTER
    int MSG_DONTWAIT, MSG_TRUNC
    int sendmmsg(int fd, mmsghdr *messages, unsigned int n, int flags) noexcept
    ssize_t recv(int fd, void *to, size_t size, int flags) noexcept
    ssize_t readv(int fd, const iovec *vectors, int n) noexcept
    ssize_t writev(int fd, const iovec *vectors, int n) noexcept
    int getsockopt(int fd, int level, int name, void *value, uint32_t *size) noexcept

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int POLLIN, POLLOUT, POLLERR
    int poll(pollfd *fds, unsigned long n, int timeout_ms) noexcept

cdef extern from "<sys/mman.h>" nogil:
    int PROT_READ, PROT_WRITE, MAP_SHARED, MAP_POPULATE
    void *MAP_FAILED
    void *mmap(void *at, size_t size, int protection, int flags, int fd, long offset) noexcept
    int munmap(void *at, size_t size) noexcept

cdef extern from "<linux/if_ether.h>" nogil:
    int ETH_P_ALL

cdef extern from "<linux/if_arp.h>" nogil:
    int ARPHRD_ETHER, ARPHRD_LOOPBACK

cdef extern from "<linux/filter.h>" nogil:
    struct sock_filter:
        uint16_t code
        uint8_t jt
        uint8_t jf
        uint32_t k
    struct sock_fprog:
        unsigned short len
        sock_filter *filter

cdef extern from "<linux/if_packet.h>" nogil:
    # Not defined by all versions of the header that a system may have; the numbers are the kernel's ABI.
    """
    #ifndef SOL_PACKET
    #define SOL_PACKET 263
    #endif
    #ifndef PACKET_IGNORE_OUTGOING
    #define PACKET_IGNORE_OUTGOING 23
    #endif
    """
    struct sockaddr_ll:
        uint16_t sll_family
        uint16_t sll_protocol
        int sll_ifindex
        uint16_t sll_hatype
    struct tpacket2_hdr:
        uint32_t tp_status
        uint32_t tp_len
        uint32_t tp_snaplen
        uint16_t tp_mac
        uint16_t tp_net
        uint32_t tp_sec
        uint32_t tp_nsec
        uint16_t tp_vlan_tci
        uint16_t tp_vlan_tpid
    struct tpacket_stats:
        uint32_t tp_packets
        uint32_t tp_drops
    int SOL_PACKET
    int PACKET_ADD_MEMBERSHIP, PACKET_COPY_THRESH, PACKET_FANOUT, PACKET_FANOUT_HASH, PACKET_IGNORE_OUTGOING
    int PACKET_MR_ALLMULTI, PACKET_MR_PROMISC, PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION, PACKET_VNET_HDR
    int TPACKET_V2
    uint32_t TP_STATUS_KERNEL, TP_STATUS_USER, TP_STATUS_COPY, TP_STATUS_VLAN_VALID, TP_STATUS_VLAN_TPID_VALID

cdef extern from "<linux/virtio_net.h>" nogil:
    # UDP_L4 is younger (6.2) than the headers of some systems.
    """
    #ifndef VIRTIO_NET_HDR_GSO_UDP_L4
    #define VIRTIO_NET_HDR_GSO_UDP_L4 5
    #endif
    """
    struct virtio_net_hdr:
        uint8_t flags
        uint8_t gso_type
        uint16_t hdr_len
        uint16_t gso_size
        uint16_t csum_start
        uint16_t csum_offset
    int VIRTIO_NET_HDR_F_NEEDS_CSUM
    int VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_HDR_GSO_UDP_L4
    int VIRTIO_NET_HDR_GSO_ECN

cdef enum:
    VNET_SIZE = 10            # of virtio_net_hdr on a packet socket and a TAP

cdef extern from * nogil:
    """
    #include <stdint.h>
    /* A word that the kernel and we hand to each other: what was written before it is seen by who reads it. */
    static inline uint32_t shared_load(const uint32_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
    static inline void shared_store(uint32_t *word, uint32_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }
    _Static_assert(sizeof(struct virtio_net_hdr) == 10, "virtio_net_hdr");
    _Static_assert(sizeof(struct tpacket2_hdr) == 32, "tpacket2_hdr");
    """
    uint32_t shared_load(const uint32_t *word) noexcept
    void shared_store(uint32_t *word, uint32_t value) noexcept

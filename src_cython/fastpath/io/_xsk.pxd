# One AF_XDP socket by bare system calls (linux/if_xdp.h): its memory (UMEM), its four rings, its opening and closing.
#
# The first `n_tx` chunks of the memory are for copies, the `n_rx` behind them for frames. Every ring has room for all chunks that can
# ever be in it (completions for as many revoked descriptors again), so that only a lack of chunks is a lack of room. Rings are shared with the kernel: what the other side writes is loaded
# with acquire, what we publish is stored with release; positions run on and wrap at 32 bits.
from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap
from posix.unistd cimport close

cdef extern from * nogil:
    """
    #include <sys/socket.h>
    #include <linux/if_xdp.h>
    #ifndef XDP_MAX_TX_SKB_BUDGET   /* Linux 6.17 */
    #define XDP_MAX_TX_SKB_BUDGET 9
    #endif
    #define xsk_load(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define xsk_store(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    """
    uint32_t xsk_load(const uint32_t *place)
    void xsk_store(uint32_t *place, uint32_t value)

    enum:
        AF_INET, AF_XDP, SOCK_RAW, SOCK_DGRAM, SOCK_CLOEXEC, SOL_XDP, SOL_SOCKET, SO_SNDBUFFORCE, SO_SNDBUF, MSG_DONTWAIT
        XDP_COPY, XDP_USE_NEED_WAKEUP, XDP_RING_NEED_WAKEUP, XDP_OPTIONS_ZEROCOPY
        XDP_MMAP_OFFSETS, XDP_RX_RING, XDP_TX_RING, XDP_UMEM_REG, XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING
        XDP_STATISTICS, XDP_OPTIONS, XDP_MAX_TX_SKB_BUDGET

    # macros of 33 bits do not fit an enum
    const uint64_t XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_FILL_RING, XDP_UMEM_PGOFF_COMPLETION_RING

    struct sockaddr_xdp:
        unsigned short sxdp_family, sxdp_flags
        uint32_t sxdp_ifindex, sxdp_queue_id
    struct xdp_ring_offset:
        uint64_t producer, consumer, desc, flags
    struct xdp_mmap_offsets:
        xdp_ring_offset rx, tx, fr, cr
    struct xdp_umem_reg:
        uint64_t addr, len
        uint32_t chunk_size
    struct xdp_statistics:
        uint64_t rx_dropped, rx_ring_full
    struct xdp_options:
        uint32_t flags
    struct xdp_desc:
        uint64_t addr
        uint32_t len, options

    int socket(int family, int kind, int protocol)
    struct sockaddr:
        pass
    int bind(int fd, const sockaddr *address, uint32_t size)
    int getsockopt(int fd, int level, int name, void *value, uint32_t *size)
    int setsockopt(int fd, int level, int name, const void *value, uint32_t size)
    ssize_t sendto(int fd, const void *data, size_t size, int flags, const sockaddr *address, uint32_t address_size)
    ssize_t recvfrom(int fd, void *data, size_t size, int flags, sockaddr *address, uint32_t *address_size)

cdef enum:
    SLACK = 4096              # behind the memory: what reads or writes in steps may run over the end of the last chunk
    RING_LEAST = 64

# A ring: of descriptors (rx, tx), or of the addresses of chunks (fill, completion).
cdef struct ring_t:
    uint32_t *producer
    uint32_t *consumer
    uint32_t *flags
    void *entries
    uint32_t mask
    void *memory
    size_t memory_size

cdef struct xsk_t:
    int fd                    # -1: closed
    uint32_t queue
    uint32_t n_tx
    uint32_t n_rx
    uint32_t chunk_size
    bint zero_copy
    uint8_t *memory
    size_t memory_size        # as registered, without the slack
    ring_t rx
    ring_t tx
    ring_t fill
    ring_t completion


cdef inline xdp_desc *ring_descriptor(const ring_t *ring, uint32_t position) noexcept nogil:
    return <xdp_desc *>ring.entries + (position & ring.mask)


cdef inline uint64_t *ring_address(const ring_t *ring, uint32_t position) noexcept nogil:
    return <uint64_t *>ring.entries + (position & ring.mask)


cdef inline int set_size(int fd, int option, uint32_t n) noexcept nogil:
    return 0 if setsockopt(fd, SOL_XDP, option, &n, sizeof(n)) == 0 else -errno


cdef inline int ring_map(ring_t *ring, int fd, uint32_t n, const xdp_ring_offset *at, uint64_t page, uint32_t entry_size) noexcept nogil:
    """Map a ring that has been given its size of `n` entries. 0, or -errno."""
    ring.mask = n - 1
    ring.memory_size = at.desc + <uint64_t>n * entry_size
    ring.memory = mmap(NULL, ring.memory_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, <long>page)
    if ring.memory == MAP_FAILED:
        ring.memory = NULL
        return -errno
    ring.producer = <uint32_t *>(<uint8_t *>ring.memory + at.producer)
    ring.consumer = <uint32_t *>(<uint8_t *>ring.memory + at.consumer)
    ring.flags = <uint32_t *>(<uint8_t *>ring.memory + at.flags)
    ring.entries = <uint8_t *>ring.memory + at.desc
    return 0


cdef inline int xsk_map_rings(xsk_t *x) noexcept nogil:
    """Size all rings and map those in use. 0, or -errno."""
    cdef xdp_mmap_offsets at
    cdef uint32_t size = sizeof(at), n_fill = max(x.n_rx, <uint32_t>RING_LEAST), n_completion = max(2 * x.n_tx, <uint32_t>RING_LEAST)
    # the kernel wants both rings of the memory, used or not
    cdef int status = set_size(x.fd, XDP_UMEM_FILL_RING, n_fill)
    if status == 0:
        status = set_size(x.fd, XDP_UMEM_COMPLETION_RING, n_completion)
    if status == 0 and x.n_tx:
        status = set_size(x.fd, XDP_TX_RING, x.n_tx)
    if status == 0 and x.n_rx:
        status = set_size(x.fd, XDP_RX_RING, x.n_rx)
    if status == 0 and getsockopt(x.fd, SOL_XDP, XDP_MMAP_OFFSETS, &at, &size) != 0:
        status = -errno
    if status == 0:
        status = ring_map(&x.completion, x.fd, n_completion, &at.cr, XDP_UMEM_PGOFF_COMPLETION_RING, sizeof(uint64_t))
    if status == 0:
        status = ring_map(&x.fill, x.fd, n_fill, &at.fr, XDP_UMEM_PGOFF_FILL_RING, sizeof(uint64_t))
    if status == 0 and x.n_tx:
        status = ring_map(&x.tx, x.fd, x.n_tx, &at.tx, XDP_PGOFF_TX_RING, sizeof(xdp_desc))
    if status == 0 and x.n_rx:
        status = ring_map(&x.rx, x.fd, x.n_rx, &at.rx, XDP_PGOFF_RX_RING, sizeof(xdp_desc))
    return status


cdef inline int xsk_register(xsk_t *x) noexcept nogil:
    """Get the memory, and give it to the socket. 0, or -errno: ENOBUFS where so much must not be locked."""
    cdef xdp_umem_reg area
    cdef void *memory
    x.memory_size = <size_t>(x.n_tx + x.n_rx) * x.chunk_size
    memory = mmap(NULL, x.memory_size + SLACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if memory == MAP_FAILED:
        return -errno
    x.memory = <uint8_t *>memory
    memset(&area, 0, sizeof(area))
    area.addr = <uint64_t>x.memory
    area.len = x.memory_size
    area.chunk_size = x.chunk_size
    return 0 if setsockopt(x.fd, SOL_XDP, XDP_UMEM_REG, &area, sizeof(area)) == 0 else -errno


cdef inline int xsk_bind(xsk_t *x, uint32_t ifindex, uint16_t flags) noexcept nogil:
    """Bind to `x.queue`. 0, or -errno: EBUSY where another socket has it, or had it 100 ms ago (LIMITS trap 9)."""
    cdef sockaddr_xdp address
    cdef xdp_options options
    cdef uint32_t size = sizeof(options)
    memset(&address, 0, sizeof(address))
    address.sxdp_family = AF_XDP
    address.sxdp_flags = flags
    address.sxdp_ifindex = ifindex
    address.sxdp_queue_id = x.queue
    if bind(x.fd, <sockaddr *>&address, sizeof(address)) != 0:
        return -errno
    if getsockopt(x.fd, SOL_XDP, XDP_OPTIONS, &options, &size) == 0:
        x.zero_copy = options.flags & XDP_OPTIONS_ZEROCOPY
    return 0


cdef inline void ring_unmap(ring_t *ring) noexcept nogil:
    if ring.memory != NULL:
        munmap(ring.memory, ring.memory_size)
    ring.memory = NULL


cdef inline void xsk_close(xsk_t *x) noexcept nogil:
    """Give everything back; a half-opened socket, too, and a second time."""
    ring_unmap(&x.rx)
    ring_unmap(&x.tx)
    ring_unmap(&x.fill)
    ring_unmap(&x.completion)
    if x.fd >= 0:
        close(x.fd)
    x.fd = -1
    if x.memory != NULL:
        munmap(x.memory, x.memory_size + SLACK)
    x.memory = NULL

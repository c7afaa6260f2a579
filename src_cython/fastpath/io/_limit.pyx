"""The alternatives that `fastpath bench wire` races against: loops that send what stands ready, and do nothing else.

What no program in user space can beat (LIMITS): prebuilt trains or single frames by sendmmsg, prebuilt frames by AF_XDP. They know
nothing of replication; whoever calls them lays the messages out. Bytes are read where Python holds them, and held until the end.
"""

import os

from libc.errno cimport EAGAIN, EBUSY, EINTR, ENOBUFS, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

cdef extern from *:
    """
    #include <linux/if_xdp.h>
    #include <sys/mman.h>
    #include <sys/socket.h>
    #include <time.h>
    #include <unistd.h>

    #ifndef XDP_MAX_TX_SKB_BUDGET   /* Linux 6.17; before, a call sends 32 */
    #define XDP_MAX_TX_SKB_BUDGET 9
    #endif
    #define ring_load(at) __atomic_load_n(at, __ATOMIC_ACQUIRE)
    #define ring_store(at, value) __atomic_store_n(at, value, __ATOMIC_RELEASE)

    /* glibc declares sendmmsg for _GNU_SOURCE alone, whose place is before the first include */
    extern int sendmmsg(int, struct mmsghdr *, unsigned int, int);
    struct fastpath_message { struct msghdr head; unsigned int sent; };

    static inline unsigned long long now_ns(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return now.tv_sec * 1000000000ull + now.tv_nsec;
    }
    """
    cdef struct iovec:
        void *iov_base
        size_t iov_len
    cdef struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    cdef struct fastpath_message:
        msghdr head
    cdef struct mmsghdr:
        pass
    cdef struct sockaddr:
        pass
    cdef struct sockaddr_xdp:
        uint16_t sxdp_family
        uint16_t sxdp_flags
        uint32_t sxdp_ifindex
        uint32_t sxdp_queue_id
    cdef struct xdp_umem_reg:
        uint64_t addr
        uint64_t len
        uint32_t chunk_size
    cdef struct xdp_ring_offset:
        uint64_t producer
        uint64_t consumer
        uint64_t desc
    cdef struct xdp_mmap_offsets:
        xdp_ring_offset tx
        xdp_ring_offset cr
    cdef struct xdp_desc:
        uint64_t addr
        uint32_t len
        uint32_t options
    int AF_XDP, SOL_XDP, SOCK_RAW, SOCK_CLOEXEC, MSG_DONTWAIT
    int XDP_MMAP_OFFSETS, XDP_TX_RING, XDP_UMEM_REG, XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING, XDP_COPY
    int XDP_MAX_TX_SKB_BUDGET
    long XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING
    int PROT_READ, PROT_WRITE, MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS, MAP_POPULATE
    void *MAP_FAILED
    uint32_t ring_load(uint32_t *at) nogil
    void ring_store(uint32_t *at, uint32_t value) nogil
    uint64_t now_ns() nogil
    int sendmmsg(int fd, mmsghdr *messages, unsigned int n, int flags) nogil
    ssize_t sendto(int fd, const void *data, size_t size, int flags, const sockaddr *to, uint32_t to_size) nogil
    int socket(int domain, int kind, int protocol)
    int bind(int fd, const sockaddr *address, uint32_t size)
    int setsockopt(int fd, int level, int name, const void *value, uint32_t size)
    int getsockopt(int fd, int level, int name, void *value, uint32_t *size)
    void *mmap(void *at, size_t size, int protection, int flags, int fd, long offset)
    int munmap(void *at, size_t size)
    int close(int fd)

cdef enum:
    RING = 2048               # entries; more than a call can send, so that it never starves
    CHUNK = 2048
    PER_KICK = 256


cdef inline mmsghdr *kernel_messages(fastpath_message *messages) noexcept nogil:
    return <mmsghdr *>messages


cdef class Sender:
    """Sends messages round and round on the AF_PACKET socket `fd`: message i is `heads[i]` followed by `payloads[i]`, where given.

    A payload that several messages share may be one object. The socket stays the caller's.
    """

    cdef fastpath_message *_messages
    cdef iovec *_pieces
    cdef uint32_t _n
    cdef uint32_t _at
    cdef int _fd
    cdef object _held

    def __cinit__(self, int fd, heads, payloads=()):
        cdef uint32_t i, n_pieces = 2 if payloads else 1
        self._n = <uint32_t>len(heads)
        if self._n == 0 or (payloads and len(payloads) != self._n):
            raise ValueError(f"{self._n} heads, {len(payloads)} payloads; expected one head at least, and as many payloads or none")
        self._fd = fd
        self._held = list(heads), list(payloads)
        self._messages = <fastpath_message *>calloc(self._n, sizeof(fastpath_message))
        self._pieces = <iovec *>calloc(self._n * n_pieces, sizeof(iovec))
        if self._messages == NULL or self._pieces == NULL:
            raise MemoryError
        for i in range(self._n):
            self._messages[i].head.msg_iov = &self._pieces[i * n_pieces]
            self._messages[i].head.msg_iovlen = n_pieces
            self._point(i * n_pieces, self._held[0][i])
            if payloads:
                self._point(i * n_pieces + 1, self._held[1][i])

    def __dealloc__(self):
        free(self._messages)
        free(self._pieces)

    cdef _point(self, uint32_t at, bytes piece):
        self._pieces[at].iov_base = <void *><char *>piece
        self._pieces[at].iov_len = len(piece)

    def send(self, double seconds, uint32_t per_call=64):
        """Send for a while, `per_call` messages a system call, going on where the last call ended; the GIL is free meanwhile.

        Returns how many messages the kernel took. What it refused for want of room (ENOBUFS) is not sent again; any other refusal
        is an OSError.
        """
        cdef uint64_t end = now_ns() + <uint64_t>(seconds * 1e9), taken = 0
        cdef int done, failed = 0
        if per_call == 0:
            raise ValueError("0 messages a call; expected 1 to 1024")
        with nogil:
            while now_ns() < end:
                done = sendmmsg(self._fd, kernel_messages(self._messages + self._at), min(per_call, self._n - self._at), 0)
                if done > 0:
                    taken += done
                    self._at += done
                elif errno == ENOBUFS:
                    self._at += 1
                elif errno != EINTR:
                    failed = errno
                    break
                if self._at >= self._n:
                    self._at = 0
        if failed:
            raise OSError(failed, os.strerror(failed), "sendmmsg")
        return taken


cdef class XdpSender:
    """Sends prebuilt frames round and round by AF_XDP in copy mode on queue 0 of interface `ifindex`.

    No program is loaded: only receiving would need one. OSError, naming the step, where the kernel refuses; EBUSY for about 100 ms
    after another socket of the queue was closed (LIMITS trap 9).
    """

    cdef int _fd
    cdef uint8_t *_umem
    cdef uint64_t _umem_size
    cdef uint8_t *_tx
    cdef uint64_t _tx_size
    cdef uint8_t *_done
    cdef uint64_t _done_size
    cdef xdp_mmap_offsets _offsets
    cdef uint32_t *_sizes
    cdef uint32_t _n
    cdef uint32_t _at

    def __cinit__(self, uint32_t ifindex, frames):
        cdef uint32_t i
        cdef bytes frame
        self._fd = -1
        self._n = <uint32_t>len(frames)
        if self._n == 0 or max(map(len, frames)) > CHUNK:
            raise ValueError(f"{self._n} frames; expected one at least, and none over {CHUNK} bytes")
        self._sizes = <uint32_t *>calloc(self._n, sizeof(uint32_t))
        self._umem_size = <uint64_t>self._n * CHUNK
        self._umem = <uint8_t *>mmap(
            NULL, self._umem_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0
        )
        if self._sizes == NULL or self._umem == <uint8_t *>MAP_FAILED:
            self._umem = NULL
            raise MemoryError
        for i in range(self._n):
            frame = frames[i]
            self._sizes[i] = <uint32_t>len(frame)
            memcpy(self._umem + <uint64_t>i * CHUNK, <char *>frame, self._sizes[i])
        self._open(ifindex)

    def __dealloc__(self):
        self._close()

    def close(self):
        """Free the socket and its queue. Closing twice does nothing more."""
        self._close()

    cdef void _close(self) noexcept:
        if self._fd >= 0:
            close(self._fd)
            self._fd = -1
        if self._tx != NULL:
            munmap(self._tx, self._tx_size)
            self._tx = NULL
        if self._done != NULL:
            munmap(self._done, self._done_size)
            self._done = NULL
        if self._umem != NULL:
            munmap(self._umem, self._umem_size)
            self._umem = NULL
        free(self._sizes)
        self._sizes = NULL

    cdef _open(self, uint32_t ifindex):
        cdef xdp_umem_reg umem
        cdef sockaddr_xdp address
        cdef uint32_t entries = RING, budget = PER_KICK, size = sizeof(xdp_mmap_offsets)
        self._fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0)
        self._check(self._fd, "socket")
        memset(&umem, 0, sizeof(umem))
        umem.addr = <uint64_t><uintptr_t>self._umem
        umem.len = self._umem_size
        umem.chunk_size = CHUNK
        self._check(setsockopt(self._fd, SOL_XDP, XDP_UMEM_REG, &umem, sizeof(umem)), "memory for frames")
        self._check(setsockopt(self._fd, SOL_XDP, XDP_UMEM_FILL_RING, &entries, sizeof(entries)), "fill ring")
        self._check(setsockopt(self._fd, SOL_XDP, XDP_UMEM_COMPLETION_RING, &entries, sizeof(entries)), "completion ring")
        self._check(setsockopt(self._fd, SOL_XDP, XDP_TX_RING, &entries, sizeof(entries)), "transmit ring")
        self._check(getsockopt(self._fd, SOL_XDP, XDP_MMAP_OFFSETS, &self._offsets, &size), "ring layout")
        setsockopt(self._fd, SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &budget, sizeof(budget))
        self._tx_size = self._offsets.tx.desc + RING * sizeof(xdp_desc)
        self._tx = self._map(self._tx_size, XDP_PGOFF_TX_RING)
        self._done_size = self._offsets.cr.desc + RING * sizeof(uint64_t)
        self._done = self._map(self._done_size, XDP_UMEM_PGOFF_COMPLETION_RING)
        memset(&address, 0, sizeof(address))
        address.sxdp_family = <uint16_t>AF_XDP
        address.sxdp_flags = <uint16_t>XDP_COPY
        address.sxdp_ifindex = ifindex
        self._check(bind(self._fd, <sockaddr *>&address, sizeof(address)), "bind")

    cdef uint8_t *_map(self, uint64_t size, long offset) except NULL:
        cdef void *ring = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, self._fd, offset)
        if ring == MAP_FAILED:
            raise OSError(errno, os.strerror(errno), "AF_XDP: mapping a ring")
        return <uint8_t *>ring

    cdef _check(self, int result, str step):
        if result < 0:
            raise OSError(errno, os.strerror(errno), f"AF_XDP: {step}")

    def send(self, double seconds):
        """Send for a while; returns how many frames the kernel took off the ring. The GIL is free meanwhile."""
        cdef uint64_t end = now_ns() + <uint64_t>(seconds * 1e9)
        cdef int failed = 0
        cdef uint32_t before
        if self._fd < 0:
            raise ValueError("the sender is closed")
        before = ring_load(<uint32_t *>(self._tx + self._offsets.tx.consumer))
        with nogil:
            while failed == 0 and now_ns() < end:
                failed = self._round()
        if failed:
            raise OSError(failed, os.strerror(failed), "AF_XDP: send")
        return <uint32_t>(ring_load(<uint32_t *>(self._tx + self._offsets.tx.consumer)) - before)

    cdef int _round(self) noexcept nogil:
        """Fill the ring up, give back what is sent, and let the kernel send; returns an errno that ends it all."""
        cdef uint32_t *producer = <uint32_t *>(self._tx + self._offsets.tx.producer)
        cdef uint32_t *consumer = <uint32_t *>(self._tx + self._offsets.tx.consumer)
        cdef xdp_desc *ring = <xdp_desc *>(self._tx + self._offsets.tx.desc)
        cdef xdp_desc *entry
        cdef uint32_t at = producer[0], room = RING - (at - ring_load(consumer))
        if room >= PER_KICK:
            for _ in range(PER_KICK):
                entry = &ring[at & (RING - 1)]
                entry.addr = <uint64_t>self._at * CHUNK
                entry.len = self._sizes[self._at]
                entry.options = 0
                at += 1
                self._at = self._at + 1 if self._at + 1 < self._n else 0
            ring_store(producer, at)
        ring_store(
            <uint32_t *>(self._done + self._offsets.cr.consumer), ring_load(<uint32_t *>(self._done + self._offsets.cr.producer))
        )
        if sendto(self._fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 and errno not in (EAGAIN, EBUSY, EINTR, ENOBUFS):
            return errno
        return 0

# What a worker waits by: its clock, words that it shares with who wants to hold it, and poll().
from libc.stdint cimport uint32_t, uint64_t

cdef extern from * nogil:
    """
    #include <poll.h>
    #include <sched.h>
    #include <sys/socket.h>
    #include <time.h>
    #include <unistd.h>
    static inline uint64_t engine_now_ns(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    }
    #define engine_load(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
    #define engine_store(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)

    /* Wait until a port has frames or `wake` is written to. A port in error (its interface went down) would be ready for ever:
       reading the error clears it, and a millisecond passes in case it cannot be cleared. */
    static void engine_wait(struct pollfd *fds, int n) {
        int i, error, broken = 0;
        uint64_t word;
        socklen_t size;
        if (poll(fds, n, -1) <= 0)
            return;
        if (fds[0].revents & POLLIN && read(fds[0].fd, &word, sizeof(word)) < 0)
            return;
        for (i = 1; i < n; i++)
            if (fds[i].revents & (POLLERR | POLLHUP | POLLNVAL)) {
                size = sizeof(error);
                getsockopt(fds[i].fd, SOL_SOCKET, SO_ERROR, &error, &size);
                broken = 1;
            }
        if (broken) {
            struct timespec pause = {0, 1000000};
            nanosleep(&pause, NULL);
        }
    }
    """
    cdef struct pollfd:
        int fd
        short events
        short revents
    int POLLIN
    int sched_yield() noexcept
    uint64_t engine_now_ns() noexcept
    void engine_wait(pollfd *fds, int n) noexcept
    void *engine_load(void **place) noexcept
    void engine_store(void **place, void *value) noexcept
    uint32_t engine_load_word "engine_load"(uint32_t *place) noexcept
    void engine_store_word "engine_store"(uint32_t *place, uint32_t value) noexcept

"""The engine: one worker's bursts, its FIB, its counters.

A burst is receive, classify, replicate (which transmits), release; `run` repeats it without the GIL. The FIB is taken once per burst:
a hazard pointer tells the publisher which snapshot is in use, so a replaced one is freed as soon as no burst holds it. Counters
are the worker's own and are published whole at the end of each burst under a sequence number, so that a reader never sees half a burst.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from fastpath._classify cimport classify_batch
from fastpath._fib cimport Fib
from fastpath._trie cimport fib_t
from fastpath._frame cimport (
    BATCH_MAX, EGRESSES_MAX, LISTS_MAX, N_REASONS, N_STAGES, PORTS_MAX, STAGE_CLASSIFY, STAGE_RECEIVE, STAGE_REPLICATE,
    VERDICT_DROP, batch_t, counters_t, egress_state_t, frame_t,
)
from fastpath._port cimport IoPort, port_t
from fastpath._replicate cimport replicate_batch, replicator_t

import os

cdef extern from * nogil:
    """
    #include <time.h>
    static inline uint64_t engine_now_ns(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    }
    #define engine_load(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
    #define engine_store(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
    #define engine_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
    """
    uint64_t engine_now_ns() noexcept
    void *engine_load(void **place) noexcept
    void engine_store(void **place, void *value) noexcept
    uint64_t engine_load_word "engine_load"(uint64_t *place) noexcept
    void engine_store_word "engine_store"(uint64_t *place, uint64_t value) noexcept
    void engine_fence() noexcept

cdef enum:
    SNAPSHOT_TRIES = 1000


cdef class Engine:
    """One worker. `ports` are the `IoPort`s by out port, `sources` those it receives from.

    `run` may be called from one thread at a time; `publish` and `counters` from any.
    """

    cdef readonly tuple ports
    cdef readonly tuple sources
    cdef readonly Fib fib
    cdef list _retired
    cdef bint _running
    cdef void *_current
    cdef void *_in_use
    cdef uint64_t _sequence
    cdef counters_t _counters
    cdef counters_t _published
    cdef batch_t _batch
    cdef replicator_t _replicator

    def __cinit__(self, ports, sources, Fib fib not None, uint32_t batch, bint trains):
        cdef IoPort port
        cdef uint32_t i
        if not 1 <= batch <= BATCH_MAX:
            raise ValueError(f"batch {batch}: expected 1 to {BATCH_MAX} frames")
        self.ports = tuple(ports)
        self.sources = tuple(sources)
        self._retired = []
        if not self.ports:
            raise ValueError("no ports: expected one for each of the layout")
        if len(self.ports) > PORTS_MAX:
            raise ValueError(f"{len(self.ports)} ports: the data path has room for {PORTS_MAX}")
        self._batch.capacity = batch
        self._replicator.n_ports = <uint32_t>len(self.ports)
        self._replicator.counters = &self._counters
        self._replicator.states = <egress_state_t *>calloc(EGRESSES_MAX, sizeof(egress_state_t))
        self._replicator.list_frames = <uint64_t *>calloc(LISTS_MAX, sizeof(uint64_t))
        if self._replicator.states == NULL or self._replicator.list_frames == NULL:
            raise MemoryError
        for i, port in enumerate(self.ports):
            if port.port.transmit == NULL:
                raise ValueError(f"port {i} ({type(port).__name__}) cannot transmit")
            self._replicator.ports[i] = &port.port
            self._replicator.trains |= trains and port.port.trains
        for port in self.sources:
            if port.port.receive == NULL:
                raise ValueError(f"a source ({type(port).__name__}) cannot receive")
        self.publish(fib)

    def __dealloc__(self):
        free(self._replicator.states)
        free(self._replicator.list_frames)

    def publish(self, Fib fib not None):
        """Make `fib` the one that the next burst takes. The layouts of all FIBs must name the same ports."""
        if fib.layout.layout.n_ports != len(self.ports):
            raise ValueError(f"the FIB is for {fib.layout.layout.n_ports} ports, the engine has {len(self.ports)}")
        if self.fib is not None:
            self._retired.append(self.fib)
        self.fib = fib
        engine_store(&self._current, fib.fib)
        self._free_retired()

    cdef int _free_retired(self) except -1:
        """Let go of the snapshots that no burst holds."""
        self._retired = [old for old in self._retired if (<Fib>old).fib == engine_load(&self._in_use)]
        return 0

    @property
    def fibs_alive(self):
        """Snapshots that are published or still in use by a burst."""
        return 1 + len(self._retired)

    cdef const fib_t *_take_fib(self) noexcept nogil:
        cdef void *fib = engine_load(&self._current)
        while True:
            engine_store(&self._in_use, fib)
            if engine_load(&self._current) == fib:
                return <const fib_t *>fib
            fib = engine_load(&self._current)

    cdef void _count(self) noexcept nogil:
        cdef uint32_t i
        cdef frame_t *f
        self._counters.received += self._batch.n
        for i in range(self._batch.n):
            f = &self._batch.frames[i]
            self._counters.verdicts[f.verdict] += 1
            self._counters.port_received[f.in_port] += 1
            if f.verdict == VERDICT_DROP:
                self._counters.drops[f.reason] += 1

    cdef void _publish_counters(self) noexcept nogil:
        engine_store_word(&self._sequence, self._sequence + 1)
        engine_fence()
        memcpy(&self._published, &self._counters, sizeof(counters_t))
        engine_fence()
        engine_store_word(&self._sequence, self._sequence + 1)

    cdef int _burst(self, port_t *source) noexcept nogil:
        """One burst from one source: the number of frames, or -errno."""
        cdef uint64_t begin = engine_now_ns(), now
        cdef const fib_t *fib
        cdef int n, status = 0
        cdef uint32_t i
        self._batch.n = 0
        n = source.receive(source, &self._batch)
        if n <= 0:
            return n
        fib = self._take_fib()
        now = engine_now_ns()
        self._counters.stage_ns[STAGE_RECEIVE] += now - begin
        classify_batch(&self._batch, fib)
        self._count()
        begin = engine_now_ns()
        self._counters.stage_ns[STAGE_CLASSIFY] += begin - now
        replicate_batch(&self._replicator, &self._batch, fib)
        for i in range(self._replicator.n_ports):
            if self._replicator.ports[i].flush != NULL and status == 0:
                status = self._replicator.ports[i].flush(self._replicator.ports[i])
        engine_store(&self._in_use, NULL)
        if source.release != NULL:
            source.release(source, &self._batch)
        self._counters.stage_ns[STAGE_REPLICATE] += engine_now_ns() - begin
        self._counters.bursts += 1
        self._publish_counters()
        return n if status == 0 else status

    def run(self, int64_t max_frames=-1):
        """Burst until every source is idle, or until `max_frames` (-1: no limit) were received; returns their number.

        Raises OSError where a port failed for good; what was received before is accounted for.
        """
        cdef int64_t total = 0
        cdef int n = 0
        cdef bint idle = False
        cdef IoPort source
        if self._running:
            raise RuntimeError("run() is already running in another thread")
        self._running = True
        try:
            while not idle and (max_frames < 0 or total < max_frames):
                idle = True
                for source in self.sources:
                    with nogil:
                        while max_frames < 0 or total < max_frames:
                            n = self._burst(&source.port)
                            if n <= 0:
                                break
                            total += n
                            idle = False
                    if n < 0:
                        raise OSError(-n, os.strerror(-n))
        finally:
            self._running = False
            self._free_retired()
        return total

    def counters(self):
        """A consistent snapshot: dict of the counters by their names in `counters_t`."""
        cdef counters_t snapshot
        cdef uint64_t before
        for _ in range(SNAPSHOT_TRIES):
            before = engine_load_word(&self._sequence)
            memcpy(&snapshot, &self._published, sizeof(counters_t))
            engine_fence()
            if before % 2 == 0 and before == engine_load_word(&self._sequence):
                break
        else:
            raise RuntimeError("the worker publishes faster than its counters can be read")
        n_ports = len(self.ports)
        return {
            "bursts": snapshot.bursts,
            "received": snapshot.received,
            "verdicts": [snapshot.verdicts[i] for i in range(3)],
            "drops": [snapshot.drops[i] for i in range(N_REASONS)],
            "copies_out": snapshot.copies_out,
            "trains": snapshot.trains,
            "train_copies": snapshot.train_copies,
            "stage_ns": [snapshot.stage_ns[i] for i in range(N_STAGES)],
            "port_received": [snapshot.port_received[i] for i in range(n_ports)],
            "port_copies": [snapshot.port_copies[i] for i in range(n_ports)],
        }

    def egress_counters(self, uint32_t egress):
        """(copies, bytes, dropped) of one egress."""
        cdef egress_state_t *state
        if egress >= EGRESSES_MAX:
            raise IndexError(egress)
        state = &self._replicator.states[egress]
        return state.copies, state.bytes, state.dropped

    def list_frames(self, uint32_t place):
        """Number of frames that were replicated by the list that counts in this place."""
        if place >= LISTS_MAX:
            raise IndexError(place)
        return self._replicator.list_frames[place]

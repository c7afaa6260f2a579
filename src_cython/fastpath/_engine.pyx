"""The engine: one worker's bursts, its FIB, its counters.

A burst is receive, classify, replicate (which transmits), release. `run` repeats it until nothing comes in any more; `work` is a
worker thread's whole life, without the GIL: while nothing comes in it sleeps in poll().

1. The FIB is taken once per burst: a hazard pointer tells the publisher which snapshot is in use, so a replaced one is freed as soon as
   no burst holds it, and publishing never waits.
2. Everything else crosses between two bursts. Who wants to read the counters, or to change the ports, holds the worker: it stands still
   at the next gap, and a sleeping one stands already. So a snapshot is always of whole bursts, and a burst costs two stores for it.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from fastpath._classify cimport classify_batch
from fastpath._fib cimport Fib
from fastpath._trie cimport fib_t
from fastpath._frame cimport (
    BATCH_MAX, EGRESSES_MAX, LISTS_MAX, N_REASONS, N_STAGES, PORTS_MAX, STAGE_CLASSIFY, STAGE_RECEIVE, STAGE_REPLICATE,
    VERDICT_DROP, batch_t, counters_t, egress_state_t, frame_t,
)
from fastpath._guard cimport storm_batch, storm_t
from fastpath._learn cimport Learner, learn_batch, learner_t
from fastpath._port cimport IoPort, port_t
from fastpath._punt cimport PuntRing, punt_batch
from fastpath._replicate cimport replicate_batch, replicator_t
from fastpath._wait cimport (
    POLLIN, engine_load, engine_load_word, engine_now_ns, engine_store, engine_store_word, engine_wait, pollfd, sched_yield,
)

import os
import threading

cdef enum:
    INNER_BURSTS = 64         # of an inner port in a round: however much waits there, others have their turn
    SPIN_NS = 20000           # how long after the last frame a worker looks again at once: a wake-up costs about as much

cdef enum state_t:            # of the worker, for who wants to hold it
    STANDING = 0              # between bursts, asleep, or not there at all
    WALKING = 1

cdef enum order_t:
    ORDER_WORK = 0
    ORDER_DRAIN = 1           # go on until nothing comes in, or until the deadline


cdef int check_ports(Fib fib, size_t n_ports) except -1:
    if fib.layout.layout.n_ports != n_ports:
        raise ValueError(f"the FIB is for {fib.layout.layout.n_ports} ports, the engine has {n_ports}")
    return 0


cdef class Engine:
    """One worker. `ports` are the `IoPort`s by out port, `sources` those it receives from.

    `punts` takes the frames to punt; without it they are counted, and that is all. `stepwise`: a burst ends with the first of
    them, and `run` with that burst, so that control may act before the next frame is looked at. `learner` knows the stations of
    our own NVE; stepwise, with one, frames travel one by one, for each may teach.

    `share`: the workers that divide each port's storm rates.

    `run` and `work` are for one thread at a time; the rest may be called from any.
    """

    cdef readonly tuple ports
    cdef readonly tuple sources
    cdef readonly Fib fib
    cdef readonly PuntRing punts
    cdef readonly Learner learner
    cdef learner_t *_learner
    cdef readonly int wake_fd
    cdef bint _trains
    cdef list _retired
    cdef object _lock
    cdef object _running
    cdef void *_current
    cdef void *_in_use
    cdef uint32_t _hold
    cdef uint32_t _state
    cdef uint32_t _order
    cdef uint64_t _deadline_ns
    cdef bint _stepped        # the last burst ended with a frame that control got
    cdef uint32_t _n_sources
    cdef port_t *_sources[PORTS_MAX]
    cdef int _errors[PORTS_MAX]
    cdef counters_t _counters
    cdef batch_t _batch
    cdef replicator_t _replicator
    cdef storm_t _storm

    def __cinit__(
        self, ports, sources, Fib fib not None, uint32_t batch, bint trains, PuntRing punts=None, bint stepwise=False,
        Learner learner=None, uint32_t share=1,
    ):
        self.wake_fd = -1
        if not 1 <= batch <= BATCH_MAX:
            raise ValueError(f"batch {batch}: expected 1 to {BATCH_MAX} frames")
        self._retired = []
        self._lock = threading.Lock()
        self._running = threading.Lock()
        self._batch.capacity = 1 if stepwise and learner is not None else batch
        self._batch.stepwise = self._storm.frame_time = stepwise
        self._storm.share = share
        self.punts = punts
        self.learner = learner
        if learner is not None:
            self._learner = learner.learner
        self._trains = trains
        self._replicator.counters = &self._counters
        self._replicator.states = <egress_state_t *>calloc(EGRESSES_MAX, sizeof(egress_state_t))
        self._replicator.list_frames = <uint64_t *>calloc(LISTS_MAX, sizeof(uint64_t))
        if self._replicator.states == NULL or self._replicator.list_frames == NULL:
            raise MemoryError
        self.wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.set_ports(ports, sources, fib)

    def __dealloc__(self):
        free(self._replicator.states)
        free(self._replicator.list_frames)
        if self.wake_fd >= 0:
            os.close(self.wake_fd)

    cdef int _begin_hold(self) except -1:
        self._lock.acquire()
        engine_store_word(&self._hold, 1)
        with nogil:
            while engine_load_word(&self._state) == WALKING:
                sched_yield()
        return 0

    cdef int _end_hold(self) except -1:
        engine_store_word(&self._hold, 0)
        self._lock.release()
        return 0

    cdef inline void _walk(self) noexcept nogil:
        """Begin a burst, once nobody holds us."""
        while True:
            engine_store_word(&self._state, WALKING)
            if not engine_load_word(&self._hold):
                return
            engine_store_word(&self._state, STANDING)
            while engine_load_word(&self._hold):
                sched_yield()

    cdef inline void _stand(self) noexcept nogil:
        engine_store_word(&self._state, STANDING)

    def set_ports(self, ports, sources, Fib fib not None):
        """Forward between these ports, by a FIB that is for as many, from the next burst on; between none, nothing is received."""
        cdef IoPort port
        cdef uint32_t i
        ports, sources = tuple(ports), tuple(sources)
        if len(ports) > PORTS_MAX or len(sources) > PORTS_MAX:
            raise ValueError(f"{max(len(ports), len(sources))} ports: the data path has room for {PORTS_MAX}")
        for i, port in enumerate(ports):
            if port.port.transmit == NULL:
                raise ValueError(f"port {i} ({type(port).__name__}) cannot transmit")
        for port in sources:
            if port.port.receive == NULL:
                raise ValueError(f"a source ({type(port).__name__}) cannot receive")
            if self._batch.stepwise and not port.port.steps:
                raise ValueError(f"a source ({type(port).__name__}) cannot go in steps")
        check_ports(fib, len(ports))
        self._begin_hold()
        self._replicator.trains = False
        for i, port in enumerate(ports):
            self._replicator.ports[i] = &port.port
            self._replicator.trains |= self._trains and port.port.trains
        for i, port in enumerate(sources):
            self._sources[i] = &port.port
            self._errors[i] = 0
        self._replicator.n_ports = <uint32_t>len(ports)
        self._n_sources = <uint32_t>len(sources)
        if self.punts is not None:
            self.punts.divide(max(<uint32_t>1, self._replicator.n_ports))
        if self.learner is not None:
            self.learner.ring.divide(max(<uint32_t>1, self._replicator.n_ports))
        self.ports, self.sources = ports, sources
        self._set_fib(fib)
        self._end_hold()
        self._wake()

    cdef int _wake(self) except -1:
        os.eventfd_write(self.wake_fd, 1)
        return 0

    def publish(self, Fib fib not None):
        """Make `fib` the one that the next burst takes. The layouts of all FIBs must name the same ports."""
        check_ports(fib, len(self.ports))
        self._set_fib(fib)
        self._free_retired()

    cdef int _set_fib(self, Fib fib) except -1:
        if self.fib is not None:
            self._retired.append(self.fib)
        self.fib = fib
        engine_store(&self._current, fib.fib)
        return 0

    cdef int _free_retired(self) except -1:
        """Let go of the snapshots that no burst holds."""
        self._retired = [old for old in self._retired if (<Fib>old).fib == engine_load(&self._in_use)]
        return 0

    @property
    def fibs_alive(self):
        """Snapshots that are published or still in use by a burst."""
        self._free_retired()
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

    cdef int _burst(self, port_t *source) noexcept nogil:
        """One burst from one source: the number of frames, or -errno."""
        cdef uint64_t begin = engine_now_ns(), now
        cdef const fib_t *fib
        cdef int n, status = 0, late
        cdef uint32_t i
        self._batch.n = 0
        n = source.receive(source, &self._batch)
        if n <= 0:
            return n
        fib = self._take_fib()
        now = engine_now_ns()
        self._counters.stage_ns[STAGE_RECEIVE] += now - begin
        classify_batch(&self._batch, fib, self._learner)
        if self._learner != NULL:
            self._stepped = learn_batch(self._learner, &self._counters, now) != 0 and self._batch.stepwise
        if self._batch.n_punts and self.punts is not None:
            self._stepped |= punt_batch(&self.punts.ring, &self._batch, now) != 0 and self._batch.stepwise
        storm_batch(&self._storm, &self._batch, fib.layout, now)
        n = <int>self._batch.n
        self._count()
        begin = engine_now_ns()
        self._counters.stage_ns[STAGE_CLASSIFY] += begin - now
        replicate_batch(&self._replicator, &self._batch, fib)
        for i in range(self._replicator.n_ports):
            if self._replicator.ports[i].flush == NULL:
                continue
            late = self._replicator.ports[i].flush(self._replicator.ports[i])
            if late > 0:
                self._counters.copies_out -= late
                self._counters.port_copies[i] -= late
            elif status == 0:
                status = late
        engine_store(&self._in_use, NULL)
        if source.release != NULL:
            source.release(source, &self._batch)
        self._counters.stage_ns[STAGE_REPLICATE] += engine_now_ns() - begin
        self._counters.bursts += 1
        return n if status == 0 else status

    def run(self, int64_t max_frames=-1):
        """Burst until every source is idle, or until `max_frames` (-1: no limit) were received; returns their number.

        Going stepwise, also until a burst that handed a frame to control.
        Raises OSError where a port failed for good; what was received before is accounted for.
        """
        cdef int64_t total = 0
        cdef int n = 0
        cdef bint idle = False
        cdef IoPort source
        if not self._running.acquire(False):
            raise RuntimeError("run() is already running in another thread")
        try:
            self._stepped = False
            while not idle and not self._stepped and (max_frames < 0 or total < max_frames):
                idle = True
                for source in self.sources:
                    with nogil:
                        while not self._stepped and (max_frames < 0 or total < max_frames):
                            self._walk()
                            n = self._burst(&source.port)
                            self._stand()
                            if n <= 0:
                                break
                            total += n
                            idle = False
                    if n < 0:
                        raise OSError(-n, os.strerror(-n))
        finally:
            self._running.release()
            self._free_retired()
        return total

    def work(self):
        """Be a worker, from all sources, until `stop`: for a thread of its own, which holds the GIL at neither end nor between.

        A source that can never receive again is left out, and told by `failures`.
        """
        if not self._running.acquire(False):
            raise RuntimeError("the engine is already running in another thread")
        try:
            with nogil:
                self._work()
            engine_store_word(&self._order, ORDER_WORK)
        finally:
            self._running.release()
            self._free_retired()

    cdef void _work(self) noexcept nogil:
        cdef pollfd fds[PORTS_MAX + 1]
        cdef uint64_t last_ns = engine_now_ns(), now
        cdef uint32_t i, n_fds, order
        cdef bint idle
        cdef int n
        while True:
            order = engine_load_word(&self._order)
            idle = True
            self._walk()
            for i in range(self._n_sources):
                if self._errors[i] == 0:
                    n = self._burst(self._sources[i])
                    if n > 0:
                        idle = False
                    for _ in range(INNER_BURSTS):
                        if n < <int>self._batch.capacity or not self._sources[i].is_inner:
                            break
                        n = self._burst(self._sources[i])
                    if n < 0:
                        self._errors[i] = -n
            n_fds = 1
            for i in range(self._n_sources):
                if self._errors[i] == 0:
                    fds[n_fds].fd = self._sources[i].fd
                    fds[n_fds].events = <short>POLLIN
                    n_fds += 1
            self._stand()
            now = engine_now_ns()
            if order == ORDER_DRAIN and (idle or now >= self._deadline_ns):
                return
            if not idle:
                last_ns = now
            elif now - last_ns > SPIN_NS:
                fds[0].fd = self.wake_fd
                fds[0].events = <short>POLLIN
                engine_wait(fds, <int>n_fds)

    def stop(self, uint64_t drain_ns=0):
        """Let `work` come to its end: at once, or when nothing comes in any more, at most `drain_ns` from now."""
        self._deadline_ns = engine_now_ns() + drain_ns
        engine_store_word(&self._order, ORDER_DRAIN)
        self._wake()

    def set_punt_limits(self, uint64_t rate_pps, uint64_t burst):
        """As `PuntRing.set_limits`, between two bursts."""
        self._begin_hold()
        try:
            self.punts.set_limits(rate_pps, burst)
        finally:
            self._end_hold()

    def set_stations(self, rows, restarted=()):
        """Let stations be what `Learner` is told of each, {station: row}, between two bursts; after the FIB with their egresses. Those
        that are `restarted` count from 0."""
        cdef uint32_t station, egress
        self._begin_hold()
        try:
            for egress in restarted:
                memset(&self._replicator.states[egress], 0, sizeof(egress_state_t))
            for station, row in rows.items():
                self.learner.set_station(station, row)
        finally:
            self._end_hold()

    def forget_lists(self, places):
        """Count from 0 at these places: before the FIB is published whose lists are counted there, and no other counts there."""
        cdef uint64_t place
        self._begin_hold()
        try:
            for place in places:
                if place < LISTS_MAX:
                    self._replicator.list_frames[place] = 0
        finally:
            self._end_hold()

    def failures(self):
        """(place among the sources, errno) of each that can never receive again."""
        return [(i, self._errors[i]) for i in range(self._n_sources) if self._errors[i]]

    def counters(self, uint32_t n_egresses=0, uint32_t n_lists=0):
        """Snapshot between two bursts: dict of the counters by their names in `counters_t`; `egresses`, (copies, bytes, dropped) of
        the first `n_egresses`; `lists`, frames replicated by the lists that count in the first `n_lists` places."""
        cdef counters_t snapshot
        cdef egress_state_t *states
        cdef uint64_t *frames
        if n_egresses > EGRESSES_MAX or n_lists > LISTS_MAX:
            raise IndexError(f"{n_egresses} egresses, {n_lists} lists: there are {EGRESSES_MAX} and {LISTS_MAX}")
        states = <egress_state_t *>malloc(n_egresses * sizeof(egress_state_t) + 1)
        frames = <uint64_t *>malloc(n_lists * sizeof(uint64_t) + 1)
        try:
            if states == NULL or frames == NULL:
                raise MemoryError
            self._begin_hold()
            memcpy(&snapshot, &self._counters, sizeof(counters_t))
            memcpy(states, self._replicator.states, n_egresses * sizeof(egress_state_t))
            memcpy(frames, self._replicator.list_frames, n_lists * sizeof(uint64_t))
            self._end_hold()
            n_ports = len(self.ports)
            return {
                "bursts": snapshot.bursts,
                "received": snapshot.received,
                "verdicts": [snapshot.verdicts[i] for i in range(3)],
                "drops": [snapshot.drops[i] for i in range(N_REASONS)],
                "copies_out": snapshot.copies_out,
                "trains": snapshot.trains,
                "train_copies": snapshot.train_copies,
                "unknown_unicast": snapshot.unknown_unicast,
                "stage_ns": [snapshot.stage_ns[i] for i in range(N_STAGES)],
                "port_received": [snapshot.port_received[i] for i in range(n_ports)],
                "port_copies": [snapshot.port_copies[i] for i in range(n_ports)],
                "egresses": [(states[i].copies, states[i].bytes, states[i].dropped) for i in range(n_egresses)],
                "lists": [frames[i] for i in range(n_lists)],
            }
        finally:
            free(states)
            free(frames)

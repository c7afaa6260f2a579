"""Frames x egresses -> requests to ports.

A request is one run to neighbouring egresses of one list on one port. Where a port takes trains, frames of one flow are gathered
first and their payload is built once for all destinations: a system call costs a microsecond and a half whatever it carries (LIMITS),
so what counts is copies per call. Gathering never reorders a flow: a frame joins the newest run of its flow or opens the next.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy, memset
from fastpath._copy cimport choose_program, rides
from fastpath._ip cimport TYPE_IPV4, TYPE_IPV6
from fastpath._trie cimport directory_egress, entry_egresses, fib_t
from fastpath._frame cimport (
    BATCH_MAX, CLASS_REMOTE, KEEP_INNER, KEEP_MT, KEEP_OVERLAY, TRAIN_SEGMENTS_MAX, TRAIN_SIZE_MAX,
    VERDICT_REPLICATE, batch_t, egress_t, frame_t,
)
from fastpath._layout cimport layout_t
from fastpath._port cimport run_t, tx_t
from fastpath._wire cimport wire_load_be16, wire_store_be32

cdef enum:
    GRE_SIZE = 4


cdef inline void run_start(run_t *run, frame_t *f) noexcept nogil:
    run.frame = f
    run.n_frames = 1
    run.sums_known = 0
    run.kept[KEEP_MT] = f.data + f.mt
    run.kept_size[KEEP_MT] = f.end - f.mt
    run.kept[KEEP_OVERLAY] = f.data + f.overlay
    run.kept_size[KEEP_OVERLAY] = f.inner_end - f.overlay
    run.kept[KEEP_INNER] = f.data + f.inner
    run.kept_size[KEEP_INNER] = f.inner_end - f.inner


cdef inline bint same_headers(const frame_t *a, const frame_t *b) noexcept nogil:
    """Do two tunnel packets differ in nothing that one outer header must say for both?"""
    cdef const uint8_t *x = a.data + a.mt
    cdef const uint8_t *y = b.data + b.mt
    cdef uint32_t size = a.transport - a.mt
    if a.version != b.version or size != b.transport - b.mt or size != (20 if a.version == 4 else 40):
        return False
    if a.version == 4:
        if x[1] != y[1] or memcmp(x + 6, y + 6, 3) != 0 or memcmp(x + 12, y + 12, 8) != 0:
            return False
    elif memcmp(x, y, 4) != 0 or memcmp(x + 7, y + 7, 33) != 0:
        return False
    if a.overlay == a.transport:
        return True
    x = a.data + a.transport
    y = b.data + b.transport
    return memcmp(x, y, 4) == 0 and (wire_load_be16(x + 6) == 0) == (wire_load_be16(y + 6) == 0)


cdef inline bint joins(const replicator_t *r, const batch_t *batch, uint32_t at, const frame_t *f) noexcept nogil:
    """May a frame join run `at` as its last segment?"""
    cdef const run_t *run = &r.runs[at]
    cdef const frame_t *first = run.frame
    cdef const frame_t *last = &batch.frames[r.last[at]]
    cdef uint32_t size = run.kept_size[KEEP_MT]
    return (
        f.entry == first.entry and f.flow == first.flow and f.source_class == first.source_class
        and f.owner_port == first.owner_port and f.owner_sender == first.owner_sender
        and f.encap == first.encap and f.number == first.number
        and f.end == f.inner_end and first.end == first.inner_end
        and last.end - last.mt == size and f.end - f.mt <= size
        and run.n_frames < TRAIN_SEGMENTS_MAX and (run.n_frames + 1) * (size + GRE_SIZE) <= TRAIN_SIZE_MAX
        and f.encap != 2 and same_headers(first, f)
    )


cdef void gather_runs(replicator_t *r, batch_t *batch) noexcept nogil:
    cdef frame_t *f
    cdef uint32_t i, at, slot
    r.n_runs = 0
    if r.trains:
        memset(r.open_runs, 0, sizeof(r.open_runs))
    for i in range(batch.n):
        f = &batch.frames[i]
        if f.verdict != VERDICT_REPLICATE:
            continue
        r.list_frames[f.entry.list_id] += 1
        if r.trains:
            slot = f.flow % BATCH_MAX
            if r.open_runs[slot] != 0 and joins(r, batch, r.open_runs[slot] - 1, f):
                at = r.open_runs[slot] - 1
                r.runs[at].n_frames += 1
                r.next[r.last[at]] = <uint16_t>i
                r.last[at] = <uint16_t>i
                continue
            r.open_runs[slot] = <uint16_t>(r.n_runs + 1)
        run_start(&r.runs[r.n_runs], f)
        r.last[r.n_runs] = <uint16_t>i
        r.n_runs += 1


cdef inline int64_t transmit(replicator_t *r, tx_t *tx) noexcept nogil:
    """Make a request; returns how many copies the port took, negative where it takes no such train."""
    cdef int64_t taken = r.ports[tx.out_port].transmit(r.ports[tx.out_port], tx)
    if taken > 0:
        r.counters.copies_out += taken
        r.counters.port_copies[tx.out_port] += taken
    return taken


cdef uint32_t build_train(replicator_t *r, batch_t *batch, const run_t *run, uint32_t kind) noexcept nogil:
    """Lay the segments of a run out one behind the other; returns their size together."""
    cdef uint8_t *out = r.trains_built[kind]
    cdef frame_t *f = run.frame
    cdef uint32_t left = run.n_frames, at = <uint32_t>(f - &batch.frames[0]), size = 0
    while left:
        left -= 1
        f = &batch.frames[at]
        if kind == NESTED_TRAIN:
            wire_store_be32(out + size, TYPE_IPV4 if f.version == 4 else TYPE_IPV6)
            memcpy(out + size + GRE_SIZE, f.data + f.mt, f.end - f.mt)
            size += GRE_SIZE + f.end - f.mt
        else:
            memcpy(out + size, f.data + f.overlay, f.inner_end - f.overlay)
            size += f.inner_end - f.overlay
        at = r.next[at]
    return size


cdef inline int train_kind(const egress_t *e, const run_t *run, const layout_t *layout) noexcept nogil:
    """Which train the copies of an egress ride, or -1."""
    cdef uint32_t number
    cdef uint8_t reason
    if not rides(e, run, layout):
        return -1
    return NESTED_TRAIN if choose_program(e, run.frame, layout, &number, &reason).rides == GRE_SIZE else OVERLAY_TRAIN


cdef void send_singly(replicator_t *r, batch_t *batch, tx_t *tx, run_t *run) noexcept nogil:
    cdef run_t single
    cdef uint32_t left = run.n_frames, at = <uint32_t>(run.frame - &batch.frames[0])
    tx.train = NULL
    tx.run = &single
    while left:
        left -= 1
        run_start(&single, &batch.frames[at])
        transmit(r, tx)
        at = r.next[at]
    tx.run = run


cdef void send_range(replicator_t *r, batch_t *batch, tx_t *tx, run_t *run) noexcept nogil:
    """Send a run to egresses of one port: each stretch that rides the same train in one request."""
    cdef const uint32_t *ids = tx.egresses
    cdef uint32_t n = tx.n_egresses, first = 0, last
    cdef const egress_t *e
    cdef uint32_t egress_class
    cdef int64_t taken
    cdef int kind
    if run.n_frames == 1:
        tx.run = run
        tx.train = NULL
        transmit(r, tx)
        return
    while first < n:
        kind = -1
        last = n
        if r.ports[tx.out_port].trains:
            e = directory_egress(tx.directory, ids[first])
            egress_class = e.egress_class
            kind = train_kind(e, run, tx.layout)
            for last in range(first + 1, n + 1):
                if last == n:
                    break
                e = directory_egress(tx.directory, ids[last])
                if e.egress_class != egress_class:
                    if train_kind(e, run, tx.layout) != kind:
                        break
                    egress_class = e.egress_class
        tx.egresses = ids + first
        tx.n_egresses = last - first
        if kind < 0:
            send_singly(r, batch, tx, run)
        else:
            if r.train_sizes[kind] == 0:
                r.train_sizes[kind] = build_train(r, batch, run, kind)
            tx.run = run
            tx.train = r.trains_built[kind]
            tx.train_size = r.train_sizes[kind]
            taken = transmit(r, tx)
            if taken < 0:
                send_singly(r, batch, tx, run)
            else:
                r.counters.trains += taken / run.n_frames
                r.counters.train_copies += taken
        first = last


cdef inline bint is_excluded(const egress_t *e, const frame_t *f) noexcept nogil:
    return e.owner == f.owner_port or e.owner == f.owner_sender


cdef void send_run(replicator_t *r, batch_t *batch, const fib_t *fib, run_t *run) noexcept nogil:
    """Cut the list of a run into stretches on one port, leaving the sender out."""
    cdef const frame_t *f = run.frame
    cdef const uint32_t *ids = entry_egresses(f.entry)
    cdef uint32_t n = f.entry.n_local if f.source_class == CLASS_REMOTE else f.entry.n_local + f.entry.n_remote
    cdef uint32_t first = 0, last
    cdef const egress_t *e
    cdef tx_t tx
    tx.directory = fib.directory
    tx.layout = fib.layout
    tx.states = r.states
    tx.drops = r.counters.drops
    r.train_sizes[OVERLAY_TRAIN] = r.train_sizes[NESTED_TRAIN] = 0
    while first < n:
        e = directory_egress(fib.directory, ids[first])
        last = first + 1
        if not is_excluded(e, f):
            tx.out_port = e.out_port
            while last < n:
                e = directory_egress(fib.directory, ids[last])
                if e.out_port != tx.out_port or is_excluded(e, f):
                    break
                last += 1
            tx.egresses = ids + first
            tx.n_egresses = last - first
            send_range(r, batch, &tx, run)
        first = last


cdef void replicate_batch(replicator_t *r, batch_t *batch, const fib_t *fib) noexcept nogil:
    """Make and send the copies of every frame to REPLICATE, in the order in which the frames came."""
    cdef uint32_t i
    gather_runs(r, batch)
    for i in range(r.n_runs):
        send_run(r, batch, fib, &r.runs[i])

"""Frames x egresses -> requests to ports.

A request is one run to neighbouring egresses of one list on one port. Where a port takes trains, frames of one flow are gathered
first and their payload is built once for all destinations: a system call costs a microsecond and a half whatever it carries (LIMITS),
so what counts is copies per call. Gathering never reorders a flow: a frame joins the newest run of its flow or opens the next.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy, memset
from fastpath._copy cimport FORM_DECAPSULATED, choose_program, fits_mtu, rides
from fastpath._decap cimport finish_sum
from fastpath._inner_train cimport inner_fits, inner_follows, inner_head_size, inner_train
from fastpath._ip cimport PROTO_UDP, TYPE_IPV4, TYPE_IPV6
from fastpath._trie cimport directory_egress, entry_egresses, entry_first, entry_last, fib_t
from fastpath._frame cimport (
    BATCH_MAX, CLASS_REMOTE, ENCAP_RAW, KEEP_INNER, KEEP_MT, KEEP_OVERLAY, TRAIN_SEGMENTS_MAX, TRAIN_SIZE_MAX,
    VERDICT_REPLICATE, batch_t, egress_t, frame_t, program_t,
)
from fastpath._layout cimport layout_t
from fastpath._port cimport run_t, tx_t
from fastpath._wire cimport wire_load_be16, wire_store_be32

cdef enum:
    GRE_SIZE = 4
    VXLAN_SIZE = 8
    UDP_SIZE = 8
    VNI_FOLLOWS = 0x08000000
    NO_TRAIN = 0xffffffff


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
    """Do two frames differ in nothing that one outer header must say for both?"""
    cdef const uint8_t *x = a.data + a.mt
    cdef const uint8_t *y = b.data + b.mt
    cdef uint32_t size = a.transport - a.mt
    if a.encap == ENCAP_RAW:
        return a.tos == b.tos
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
        and run.n_frames < TRAIN_SEGMENTS_MAX and (run.n_frames + 1) * (size + VXLAN_SIZE) <= TRAIN_SIZE_MAX
        and same_headers(first, f)
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


cdef inline void settle(tx_t *tx) noexcept nogil:
    """Have sent what ports hold back, before anything that it needs is overwritten."""
    if tx.unsettled != NULL:
        tx.unsettled.settle(tx.unsettled)
        tx.unsettled = NULL


cdef uint32_t build_train(replicator_t *r, batch_t *batch, const run_t *run, uint32_t kind, uint32_t number) noexcept nogil:
    """Lay the segments of a run out one behind the other; returns their size together."""
    cdef uint8_t *out = r.trains_built[kind]
    cdef uint32_t head_size = inner_head_size(run.kept[KEEP_INNER]) if kind == INNER_TRAIN else 0
    cdef frame_t *f = run.frame
    cdef uint32_t left = run.n_frames, at = <uint32_t>(f - &batch.frames[0]), size = 0
    while left:
        left -= 1
        f = &batch.frames[at]
        if kind == NESTED_TRAIN:
            finish_sum(f)
            wire_store_be32(out + size, TYPE_IPV4 if f.version == 4 else TYPE_IPV6)
            memcpy(out + size + GRE_SIZE, f.data + f.mt, f.end - f.mt)
            size += GRE_SIZE + f.end - f.mt
        elif kind == MADE_TRAIN:
            wire_store_be32(out + size, VNI_FOLLOWS)
            wire_store_be32(out + size + 4, number << 8)
            memcpy(out + size + VXLAN_SIZE, f.data + f.inner, f.inner_end - f.inner)
            size += VXLAN_SIZE + f.inner_end - f.inner
        elif kind == INNER_TRAIN:
            memcpy(out + size, f.data + f.inner + head_size, f.inner_end - f.inner - head_size)
            size += f.inner_end - f.inner - head_size
        else:
            memcpy(out + size, f.data + f.overlay, f.inner_end - f.overlay)
            size += f.inner_end - f.overlay
        at = r.next[at]
    return size


cdef inline uint32_t train_kind(const egress_t *e, const run_t *run, const layout_t *layout, uint32_t *number) noexcept nogil:
    """Which train the copies of an egress ride, and with which number of their own, or NO_TRAIN."""
    cdef uint8_t reason
    cdef const program_t *p
    number[0] = 0
    if e.form == FORM_DECAPSULATED and fits_mtu(&e.native, run, layout, e.out_port):
        return INNER_TRAIN
    if not rides(e, run, layout):
        return NO_TRAIN
    p = choose_program(e, run.frame, layout, number, &reason)
    if p.rides == VXLAN_SIZE:
        return MADE_TRAIN
    number[0] = 0
    return NESTED_TRAIN if p.rides == GRE_SIZE else OVERLAY_TRAIN


cdef void send_singly(replicator_t *r, batch_t *batch, tx_t *tx, run_t *run) noexcept nogil:
    cdef run_t single
    cdef uint32_t left = run.n_frames, at = <uint32_t>(run.frame - &batch.frames[0])
    tx.train = NULL
    tx.run = &single
    while left:
        left -= 1
        finish_sum(&batch.frames[at])
        run_start(&single, &batch.frames[at])
        transmit(r, tx)
        settle(tx)
        at = r.next[at]
    tx.run = run


cdef void send_train(replicator_t *r, batch_t *batch, tx_t *tx, run_t *run, uint32_t kind) noexcept nogil:
    cdef int64_t taken
    tx.run = run
    tx.train = r.trains_built[kind]
    tx.train_size = r.train_sizes[kind]
    taken = transmit(r, tx)
    if taken < 0:
        send_singly(r, batch, tx, run)
    else:
        r.counters.trains += taken / run.n_frames
        r.counters.train_copies += taken


cdef void send_inner(replicator_t *r, batch_t *batch, tx_t *tx, run_t *run) noexcept nogil:
    """Send the tenants' frames of a run to their VM: each stretch that segmentation gives back as it was in one request."""
    cdef run_t part
    cdef frame_t *f
    cdef frame_t *last
    cdef uint32_t left = run.n_frames, at = <uint32_t>(run.frame - &batch.frames[0]), first
    if not r.fits_known:
        r.fits_known = True
        for _ in range(left):
            r.fits[at] = inner_fits(&batch.frames[at])
            at = r.next[at]
        at = <uint32_t>(run.frame - &batch.frames[0])
    while left:
        first = at
        last = f = &batch.frames[at]
        run_start(&part, f)
        at = r.next[at]
        while part.n_frames < left and r.fits[first] and r.fits[at] and inner_follows(&batch.frames[at], f, last, part.n_frames):
            last = &batch.frames[at]
            part.n_frames += 1
            at = r.next[at]
        left -= part.n_frames
        if part.n_frames == 1 or not r.ports[tx.out_port].trains:
            send_singly(r, batch, tx, &part)
        else:
            r.train_sizes[INNER_TRAIN] = build_train(r, batch, &part, INNER_TRAIN, 0)
            inner_train(&tx.transport, f, last)
            send_train(r, batch, tx, &part, INNER_TRAIN)


cdef void send_range(replicator_t *r, batch_t *batch, tx_t *tx, run_t *run) noexcept nogil:
    """Send a run to egresses of one port: each stretch that rides the same train in one request."""
    cdef const uint32_t *ids = tx.egresses
    cdef uint32_t n = tx.n_egresses, first = 0, last
    cdef const egress_t *e
    cdef uint32_t egress_class, kind, number, other
    if run.n_frames == 1:
        finish_sum(run.frame)
        tx.run = run
        tx.train = NULL
        transmit(r, tx)
        return
    while first < n:
        kind = NO_TRAIN
        number = 0
        last = n
        if r.ports[tx.out_port].trains:
            e = directory_egress(tx.directory, ids[first])
            egress_class = e.egress_class
            kind = train_kind(e, run, tx.layout, &number)
            for last in range(first + 1, n + 1):
                if last == n:
                    break
                e = directory_egress(tx.directory, ids[last])
                if e.egress_class != egress_class:
                    if train_kind(e, run, tx.layout, &other) != kind or other != number:
                        break
                    egress_class = e.egress_class
        tx.egresses = ids + first
        tx.n_egresses = last - first
        if kind == NO_TRAIN:
            send_singly(r, batch, tx, run)
        elif kind == INNER_TRAIN:
            send_inner(r, batch, tx, run)
        else:
            if r.train_sizes[kind] == 0 or (kind == MADE_TRAIN and r.made_number != number):
                settle(tx)
                r.train_sizes[kind] = build_train(r, batch, run, kind, number)
                if kind == MADE_TRAIN:
                    r.made_number = number
            tx.transport.protocol = PROTO_UDP
            tx.transport.size = UDP_SIZE
            send_train(r, batch, tx, run, kind)
        first = last


cdef inline bint is_excluded(const egress_t *e, const frame_t *f) noexcept nogil:
    return e.owner == f.owner_port or e.owner == f.owner_sender


cdef inline bint rides_nowhere(const replicator_t *r, const run_t *run, const fib_t *fib, const uint32_t *ids, uint32_t n) noexcept nogil:
    """Do frames of a run have to go one by one to all egresses of their list?"""
    cdef const egress_t *e
    cdef uint32_t k, number
    for k in range(n):
        e = directory_egress(fib.directory, ids[k])
        if r.ports[e.out_port].trains and not is_excluded(e, run.frame) and train_kind(e, run, fib.layout, &number) != NO_TRAIN:
            return False
    return True


cdef void send_list(replicator_t *r, batch_t *batch, const fib_t *fib, run_t *run, const uint32_t *ids, uint32_t n) noexcept nogil:
    """Cut the list of a run into stretches on one port, leaving the sender out."""
    cdef const frame_t *f = run.frame
    cdef uint32_t first = 0, last, after
    cdef const egress_t *e
    cdef tx_t tx
    tx.directory = fib.directory
    tx.layout = fib.layout
    tx.states = r.states
    tx.drops = r.counters.drops
    tx.unsettled = NULL
    r.train_sizes[OVERLAY_TRAIN] = r.train_sizes[NESTED_TRAIN] = r.train_sizes[MADE_TRAIN] = 0
    r.fits_known = False
    while first < n:
        e = directory_egress(fib.directory, ids[first])
        after = last = first + 1
        if not is_excluded(e, f):
            tx.out_port = e.out_port
            while last < n:
                e = directory_egress(fib.directory, ids[last])
                if e.out_port != tx.out_port or is_excluded(e, f):
                    break
                last += 1
            after = last
            while after < n and is_excluded(directory_egress(fib.directory, ids[after]), f):
                after += 1
            tx.egresses = ids + first
            tx.n_egresses = last - first
            tx.more = after < n
            send_range(r, batch, &tx, run)
        first = after
    settle(&tx)


cdef void send_run(replicator_t *r, batch_t *batch, const fib_t *fib, run_t *run) noexcept nogil:
    """Send a run to its list; where it rides nowhere frame by frame, so that the copies of each are asked for one behind the other."""
    cdef const uint32_t *ids = entry_egresses(run.frame.entry) + entry_first(run.frame.entry, run.frame.source_class)
    cdef uint32_t n = entry_last(run.frame.entry, run.frame.source_class) - entry_first(run.frame.entry, run.frame.source_class)
    cdef uint32_t left = run.n_frames, at = <uint32_t>(run.frame - &batch.frames[0])
    cdef run_t single
    if run.n_frames == 1 or not rides_nowhere(r, run, fib, ids, n):
        send_list(r, batch, fib, run, ids, n)
        return
    while left:
        left -= 1
        run_start(&single, &batch.frames[at])
        send_list(r, batch, fib, &single, ids, n)
        at = r.next[at]


cdef void replicate_batch(replicator_t *r, batch_t *batch, const fib_t *fib) noexcept nogil:
    """Make and send the copies of every frame to REPLICATE, in the order in which the frames came."""
    cdef uint32_t i
    gather_runs(r, batch)
    for i in range(r.n_runs):
        send_run(r, batch, fib, &r.runs[i])

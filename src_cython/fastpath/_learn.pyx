"""From MACs to stations, and from frames to lessons; `_learn.pxd` says what they are."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from fastpath._frame cimport (
    ENCAP_RAW, NUMBER_NONE, PORTS_MAX, REASON_LEARN_LOST, REASON_NONE, REASON_NO_RECEIVER, REASON_UNREGISTERED_GROUP, SCOPE_NVE, VERDICT_DROP, VERDICT_PENDING,
    VERDICT_REPLICATE, address_t, batch_t, counters_t, frame_t,
)
from fastpath._ip cimport load_source
from fastpath._layout cimport address_equal, layout_t, mix, network_of, network_row_t
from fastpath._mac cimport (
    NO_PLACE, SEEN_NS, MacTable, first_bucket, mac_find_in, mac_hash, mac_is_unicast, mac_key, mac_station, mac_store_word, mac_table_t,
    second_bucket,
)
from fastpath._punt cimport PuntRing, punt_bell, punt_offer
from fastpath._trie cimport fib_t
from fastpath._wire cimport wire_load_be16, wire_load_be32, wire_prefetch

cdef enum:
    TELL_AGAIN_NS = 100000000

assert sizeof(station_t) == 64 and sizeof(lesson_t) == 32


cdef inline uint64_t load_mac(const uint8_t *p) noexcept nogil:
    return <uint64_t>wire_load_be32(p) << 16 | wire_load_be16(p + 4)


cdef inline uint32_t domain_of(const frame_t *f, const layout_t *layout) noexcept nogil:
    cdef const network_row_t *network = network_of(f, layout)
    return <uint32_t>NUMBER_NONE if network == NULL else network.vni


cdef inline void ask_for(const mac_table_t *t, uint64_t mac, uint32_t domain, uint64_t *key, uint64_t *h) noexcept nogil:
    key[0] = mac_key(mac, domain)
    h[0] = mac_hash(t, key[0], domain)
    wire_prefetch(first_bucket(t, h[0]))


cdef inline void look_further(const learner_t *l, uint32_t place, uint64_t h) noexcept nogil:
    """Fetch what is needed next: the station that was found, or the other bucket."""
    if place != NO_PLACE:
        wire_prefetch(&l.stations[mac_station(place)])
    else:
        wire_prefetch(second_bucket(l.table, h))


cdef inline bint is_own_station(const learner_t *l, const frame_t *f, uint32_t place) noexcept nogil:
    """Is this where the frame came from?"""
    cdef uint32_t station = mac_station(place)
    cdef const station_t *vtep
    cdef address_t address
    if f.encap == ENCAP_RAW:
        return station == f.in_port
    if station < PORTS_MAX:
        return False
    vtep = &l.stations[station]
    load_source(f.data + f.mt, f.version, &address)
    return address_equal(&vtep.entry.key.source, &address) and vtep.entry.key.kind_scope_encap_number == f.encap


cdef void learn_lookup(learner_t *l, batch_t *batch, const fib_t *fib) noexcept nogil:
    """Rule 1: give frames to a known MAC their station, mark those to an unknown one; and see what the source's entry says."""
    cdef const layout_t *layout = fib.layout
    cdef subject_t *one
    cdef frame_t *f
    cdef uint64_t mac
    cdef uint32_t i, domain, station
    l.n_subjects = 0
    for i in range(batch.n):
        f = &batch.frames[i]
        if f.verdict != VERDICT_PENDING and not f.of_tenant or f.scope != SCOPE_NVE:
            continue
        domain = domain_of(f, layout)
        if domain == NUMBER_NONE:
            continue
        one = &l.subjects[l.n_subjects]
        l.n_subjects += 1
        one.frame = f
        one.domain = domain
        one.destination = 0
        mac = load_mac(f.data + f.inner)
        if mac_is_unicast(mac):
            f.unknown_unicast = True
            if mac:
                ask_for(l.table, mac, domain, &one.destination, &one.destination_hash)
        one.source = 0
        mac = load_mac(f.data + f.inner + 6)
        if mac_is_unicast(mac) and mac:
            ask_for(l.table, mac, domain, &one.source, &one.source_hash)
    for i in range(l.n_subjects):
        one = &l.subjects[i]
        one.to_place = one.from_place = NO_PLACE
        one.entry = NULL
        if one.destination:
            mac_find_in(first_bucket(l.table, one.destination_hash), one.destination, one.domain, &one.to_place)
            look_further(l, one.to_place, one.destination_hash)
        if one.source:
            one.entry = mac_find_in(first_bucket(l.table, one.source_hash), one.source, one.domain, &one.from_place)
            look_further(l, one.from_place, one.source_hash)
    for i in range(l.n_subjects):
        one = &l.subjects[i]
        f = one.frame
        if one.destination and one.to_place == NO_PLACE:
            mac_find_in(second_bucket(l.table, one.destination_hash), one.destination, one.domain, &one.to_place)
        if one.source and one.entry == NULL:
            one.entry = mac_find_in(second_bucket(l.table, one.source_hash), one.source, one.domain, &one.from_place)
        one.is_right = one.entry != NULL and is_own_station(l, f, one.from_place)
        if one.to_place == NO_PLACE:
            continue
        station = mac_station(one.to_place)
        if station < PORTS_MAX and (station >= layout.n_ports or layout.ports[station].raw_vni != one.domain):
            continue
        f.entry = &l.stations[station].entry
        f.unknown_unicast = False


cdef inline bint was_told(learner_t *l, const subject_t *one, const lesson_t *lesson, recent_t **place, uint64_t *what) noexcept nogil:
    what[0] = mix(mix(one.source_hash, lesson.vtep.high), lesson.vtep.low)
    what[0] = mix(what[0], <uint64_t>lesson.encap << 16 | (one.frame.in_port if lesson.encap == ENCAP_RAW else 0))
    place[0] = &l.recent[one.source_hash >> 40 & (RECENT - 1)]
    return place[0].what == what[0] and l.now_ns - place[0].time_ns < TELL_AGAIN_NS


cdef inline uint8_t tell(learner_t *l, const subject_t *one) noexcept nogil:
    """Rule 4: hand a lesson over; REASON_NONE if that was done, REASON_LEARN_LOST, or NO_RECEIVER where control knows already."""
    cdef const frame_t *f = one.frame
    cdef lesson_t lesson
    cdef recent_t *recent
    cdef uint64_t what
    lesson.vtep.high = lesson.vtep.low = 0
    if f.encap != ENCAP_RAW:
        load_source(f.data + f.mt, f.version, &lesson.vtep)
    lesson.mac = one.source >> 16
    lesson.vni = one.domain
    lesson.encap = f.encap
    if was_told(l, one, &lesson, &recent, &what):
        return REASON_NO_RECEIVER
    if punt_offer(l.ring, f.in_port, f.time_ns, l.now_ns, <const uint8_t *>&lesson, sizeof(lesson_t)) != REASON_NONE:
        return REASON_LEARN_LOST
    recent.what = what
    recent.time_ns = l.now_ns
    return REASON_NONE


cdef uint32_t learn_batch(learner_t *l, counters_t *counters, uint64_t now_ns) noexcept nogil:
    """Rules 2 to 4, for the frames of the last `learn_lookup`; how many lessons control got."""
    cdef subject_t *one
    cdef frame_t *f
    cdef uint32_t i, seen, n = 0
    cdef uint8_t reason
    for i in range(l.n_subjects):
        one = &l.subjects[i]
        f = one.frame
        if l.ring.frame_time:
            now_ns = f.time_ns
        if now_ns > l.now_ns:
            l.now_ns = now_ns
        if f.verdict == VERDICT_REPLICATE:
            counters.unknown_unicast += f.unknown_unicast
        elif f.verdict == VERDICT_DROP and f.reason != REASON_NO_RECEIVER and f.reason != REASON_UNREGISTERED_GROUP:
            continue
        if one.source == 0:
            continue
        if one.is_right:
            seen = <uint32_t>(l.now_ns / SEEN_NS)
            if one.entry.seen != seen:
                mac_store_word(&one.entry.seen, seen)
            continue
        reason = tell(l, one)
        if reason == REASON_NONE:
            n += 1
        elif reason == REASON_LEARN_LOST:
            counters.drops[REASON_LEARN_LOST] += 1
    if l.ring.frame_time:
        l.table.now = <uint32_t>(l.now_ns / SEEN_NS)
    if n:
        punt_bell(l.ring)
    return n


cdef class Learner:
    """What a worker knows of the table: his own list for each station, and the ring that his lessons go by."""

    def __cinit__(self, MacTable macs not None, PuntRing ring not None):
        self.macs = macs
        self.ring = ring
        self.learner = <learner_t *>calloc(1, sizeof(learner_t))
        if self.learner == NULL:
            raise MemoryError
        self.learner.table = &macs.table
        self.learner.ring = &ring.ring
        self.learner.stations = <station_t *>calloc(macs.n_stations, sizeof(station_t))
        if self.learner.stations == NULL:
            raise MemoryError
        self.learner.n_stations = macs.n_stations

    def __dealloc__(self):
        if self.learner != NULL:
            free(self.learner.stations)
            free(self.learner)

    cdef int set_station(self, uint32_t station, object row) except -1:
        """Let a station be a VTEP by `row`, (its address as two words, encap, egress id), or a VM port (None, RAW, egress id). Between two
        bursts, after the FIB that has the egress."""
        cdef station_t *s
        if station >= self.learner.n_stations:
            raise ValueError(f"station {station}: there are {self.learner.n_stations}")
        s = &self.learner.stations[station]
        address, encap, egress = row
        s.egress = egress
        s.entry.n_local = address is None
        s.entry.n_remote = address is not None
        if address is not None:
            s.entry.key.source.high, s.entry.key.source.low = address
            s.entry.key.kind_scope_encap_number = encap
        return 0

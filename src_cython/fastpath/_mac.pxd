# The MAC table of our own NVE: (domain, MAC) -> station. Section 6 of README.md.
#
# 1. The table is one, for all workers; control alone writes it, under the GIL, and never waits for a reader. An entry is 16 bytes in a
#    bucket of one cache line, one of two that its key chooses: in the first, unless that is full. Words are stored in this order: the
#    key is emptied, the rest is set, the key is set. A reader loads key, place, key: what he then has is of one entry, or none. Where
#    both buckets are full, one of their entries goes to its other bucket, where it stands before it leaves here; who looks just then may
#    miss it, and his frame is flooded.
# 2. What a preempted reader might still mix up, if an entry comes back to the place that another had meanwhile, the classification
#    sorts out: no entry leads to a VM port of another network.
# 3. Of an entry a worker writes `seen`, and nothing else. A store that is late strikes the next in that place: it seems younger, no more.
from libc.stdint cimport uint32_t, uint64_t
from fastpath._layout cimport mix

cdef enum:
    BUCKET_MACS = 4
    STATION_MAX = (1 << 23) - 1
    NO_PLACE = 0xffffffff
    SEEN_NS = 62500000        # the unit of `seen`

cdef struct mac_entry_t:
    uint64_t key              # MAC << 16 | low 16 bits of the domain; 0: empty
    uint32_t place            # high 8 bits of the domain << 24 | station << 1 | static
    uint32_t seen             # 1/16 s, modulo 2^32

cdef struct bucket_t:
    mac_entry_t entries[BUCKET_MACS]

cdef struct mac_table_t:
    bucket_t *buckets
    uint64_t size             # bytes of them
    uint64_t mask             # buckets - 1
    uint64_t seed             # so that nobody outside can choose MACs that share their buckets
    uint32_t now              # the clock of frames, for who reads it (`frame_time`)
    bint frame_time

cdef extern from * nogil:
    """
    #define mac_load(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define mac_store(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    """
    uint64_t mac_load(const uint64_t *place) noexcept
    uint32_t mac_load_word "mac_load"(const uint32_t *place) noexcept
    void mac_store(uint64_t *place, uint64_t value) noexcept
    void mac_store_word "mac_store"(uint32_t *place, uint32_t value) noexcept


cdef inline uint64_t mac_key(uint64_t mac, uint32_t domain) noexcept nogil:
    return mac << 16 | domain & 0xffff


cdef inline uint64_t mac_hash(const mac_table_t *t, uint64_t key, uint32_t domain) noexcept nogil:
    return mix(mix(t.seed, key), domain >> 16)


cdef inline bucket_t *first_bucket(const mac_table_t *t, uint64_t h) noexcept nogil:
    return &t.buckets[h & t.mask]


cdef inline bucket_t *second_bucket(const mac_table_t *t, uint64_t h) noexcept nogil:
    """Never the first one, for there are at least two."""
    return &t.buckets[(h ^ (h >> 32 | 1)) & t.mask]


cdef inline mac_entry_t *mac_find_in(bucket_t *bucket, uint64_t key, uint32_t domain, uint32_t *place) noexcept nogil:
    """The entry of a key in one bucket, and its place as it stood with that key; NULL and NO_PLACE where it has none."""
    cdef uint32_t i, found
    for i in range(BUCKET_MACS):
        if mac_load(&bucket.entries[i].key) == key:
            found = mac_load_word(&bucket.entries[i].place)
            if found >> 24 == domain >> 16 and mac_load(&bucket.entries[i].key) == key:
                place[0] = found
                return &bucket.entries[i]
    place[0] = NO_PLACE
    return NULL


cdef inline uint32_t mac_station(uint32_t place) noexcept nogil:
    return place >> 1 & STATION_MAX


cdef inline bint mac_is_unicast(uint64_t mac) noexcept nogil:
    return mac >> 40 & 1 == 0


cdef class MacTable:
    cdef mac_table_t table
    cdef uint64_t _n
    cdef readonly uint64_t max_macs
    cdef readonly uint32_t n_stations
    cdef mac_entry_t *_find(self, uint32_t vni, bytes mac, uint64_t *key, uint64_t *h) except? NULL
    cdef mac_entry_t *_vacancy(self, uint64_t h) noexcept
    cdef mac_entry_t *_make_room(self, uint64_t h) noexcept
    cdef void _empty(self, mac_entry_t *entry) noexcept
    cdef list _collect(
        self, uint64_t first, uint64_t n, bint all_stations, uint32_t station, bint aged, uint32_t before, bint take
    )

"""The MAC table as Python holds it; `_mac.pxd` says what it is."""

from libc.stdint cimport int32_t, uint32_t, uint64_t
from fastpath._frame cimport PORTS_MAX

cdef extern from * nogil:
    """
    #include <sys/mman.h>
    #include <time.h>
    static inline uint64_t mac_now_ns(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    }
    """
    uint64_t mac_now_ns() noexcept
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t length)
    int madvise(void *addr, size_t length, int advice)
    void *MAP_FAILED
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MADV_HUGEPAGE

cdef enum:
    HUGE_PAGE = 1 << 21

assert sizeof(bucket_t) == 64


cdef inline void fill(mac_entry_t *entry, uint64_t key, uint32_t place, uint32_t seen) noexcept nogil:
    mac_store_word(&entry.seen, seen)
    mac_store_word(&entry.place, place)
    mac_store(&entry.key, key)


cdef object mac_bytes(uint64_t mac):
    return int(mac).to_bytes(6, "big")


cdef class MacTable:
    """(domain, MAC) -> station, for at most `max_macs` MACs at once, of `n_stations` stations. For one thread at a time.

    `frame_time`: the clock is that of the frames. `seed` makes it hard to choose MACs that share their places.
    """

    def __cinit__(self, uint64_t max_macs, uint32_t n_stations, uint64_t seed=0, bint frame_time=False):
        cdef uint64_t n_buckets = 2
        if not 1 <= max_macs <= 1 << 28:
            raise ValueError(f"a table of {max_macs} MACs: expected 1 to {1 << 28}")
        if not PORTS_MAX <= n_stations <= STATION_MAX:
            raise ValueError(f"{n_stations} stations: expected {PORTS_MAX} to {STATION_MAX}")
        while n_buckets * BUCKET_MACS < 2 * max_macs:
            n_buckets *= 2
        self.max_macs = max_macs
        self.n_stations = n_stations
        self.table.mask = n_buckets - 1
        self.table.seed = seed
        self.table.frame_time = frame_time
        self.table.size = n_buckets * sizeof(bucket_t)
        self.table.buckets = <bucket_t *>mmap(
            NULL, self.table.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0
        )
        if <void *>self.table.buckets == MAP_FAILED:
            self.table.buckets = NULL
            raise MemoryError
        if self.table.size >= HUGE_PAGE:
            madvise(self.table.buckets, self.table.size, MADV_HUGEPAGE)

    def __dealloc__(self):
        if self.table.buckets != NULL:
            munmap(self.table.buckets, self.table.size)

    cdef mac_entry_t *_find(self, uint32_t vni, bytes mac, uint64_t *key, uint64_t *h) except? NULL:
        cdef mac_entry_t *entry
        cdef uint32_t place
        cdef uint64_t number
        if vni >> 24:
            raise ValueError(f"domain {vni}: expected a VNI, 0 to {(1 << 24) - 1}")
        if len(mac) != 6:
            raise ValueError(f"MAC {mac.hex(':')}: expected six bytes")
        number = int.from_bytes(mac, "big")
        if number == 0 or not mac_is_unicast(number):
            raise ValueError(f"MAC {mac.hex(':')}: no address of one station")
        key[0] = mac_key(number, vni)
        h[0] = mac_hash(&self.table, key[0], vni)
        entry = mac_find_in(first_bucket(&self.table, h[0]), key[0], vni, &place)
        return entry if entry != NULL else mac_find_in(second_bucket(&self.table, h[0]), key[0], vni, &place)

    def now(self):
        """The clock that `seen` is read by, in 1/16 s modulo 2^32."""
        return self.table.now if self.table.frame_time else <uint32_t>(mac_now_ns() / SEEN_NS)

    def put(self, uint32_t vni, bytes mac not None, uint32_t station, bint static=False):
        """Let frames to a MAC go to a station, as seen now; False where there is no room for it."""
        cdef uint64_t key, h
        cdef mac_entry_t *entry = self._find(vni, mac, &key, &h)
        cdef uint32_t place = (vni >> 16) << 24 | station << 1 | static
        if station >= self.n_stations:
            raise ValueError(f"station {station}: there are {self.n_stations}")
        if entry == NULL:
            if self._n >= self.max_macs:
                return False
            entry = self._vacancy(h)
            if entry == NULL:
                entry = self._make_room(h)
            if entry == NULL:
                return False
            self._n += 1
        fill(entry, key, place, self.now())
        return True

    cdef mac_entry_t *_vacancy(self, uint64_t h) noexcept:
        """An empty place, in the second bucket only if the first is full: who looks there first mostly finds. NULL if both are."""
        cdef bucket_t *buckets[2]
        cdef uint32_t i, j
        buckets[0] = first_bucket(&self.table, h)
        buckets[1] = second_bucket(&self.table, h)
        for i in range(2):
            for j in range(BUCKET_MACS):
                if buckets[i].entries[j].key == 0:
                    return &buckets[i].entries[j]
        return NULL

    cdef mac_entry_t *_make_room(self, uint64_t h) noexcept:
        """A place that its entry leaves for its other bucket; NULL where no entry of two full buckets can."""
        cdef bucket_t *buckets[2]
        cdef mac_entry_t *entry
        cdef mac_entry_t *other
        cdef uint32_t i, j
        buckets[0] = first_bucket(&self.table, h)
        buckets[1] = second_bucket(&self.table, h)
        for i in range(2):
            for j in range(BUCKET_MACS):
                entry = &buckets[i].entries[j]
                other = self._vacancy(mac_hash(&self.table, entry.key, entry.place >> 24 << 16))
                if other != NULL:
                    fill(other, entry.key, entry.place, entry.seen)
                    mac_store(&entry.key, 0)
                    return entry
        return NULL

    cdef void _empty(self, mac_entry_t *entry) noexcept:
        mac_store(&entry.key, 0)
        self._n -= 1

    def remove(self, uint32_t vni, bytes mac not None):
        """Forget a MAC; False where it was not known."""
        cdef uint64_t key, h
        cdef mac_entry_t *entry = self._find(vni, mac, &key, &h)
        if entry == NULL:
            return False
        self._empty(entry)
        return True

    def find(self, uint32_t vni, bytes mac not None):
        """(station, seen, static) of a MAC, or None."""
        cdef uint64_t key, h
        cdef mac_entry_t *entry = self._find(vni, mac, &key, &h)
        if entry == NULL:
            return None
        return mac_station(entry.place), entry.seen, bool(entry.place & 1)

    @property
    def n_buckets(self):
        """How many parts `rows` can be asked for."""
        return self.table.mask + 1

    cdef list _collect(
        self, uint64_t first, uint64_t n, bint all_stations, uint32_t station, bint aged, uint32_t before, bint take
    ):
        """The rows of some entries of these buckets; `take`: they are removed, and none is static."""
        cdef uint64_t i
        cdef mac_entry_t *entry
        first = min(first, self.table.mask + 1)
        out = []
        for i in range(first * BUCKET_MACS, (first + min(n, self.table.mask + 1 - first)) * BUCKET_MACS):
            entry = &self.table.buckets[i // BUCKET_MACS].entries[i % BUCKET_MACS]
            if entry.key == 0 or entry.place & 1 and take or aged and <int32_t>(entry.seen - before) >= 0:
                continue
            if not all_stations and mac_station(entry.place) != station:
                continue
            out.append((
                (entry.place >> 24) << 16 | <uint32_t>(entry.key & 0xffff), mac_bytes(entry.key >> 16),
                mac_station(entry.place), entry.seen, bool(entry.place & 1),
            ))
            if take:
                self._empty(entry)
        return out

    def rows(self, uint64_t first=0, n=None):
        """All entries, or those of `n` buckets from `first` on: [(vni, mac, station, seen, static)].

        An entry may be in another bucket than before as soon as another one is put.
        """
        return self._collect(first, self.table.mask + 1 if n is None else n, True, 0, False, 0, False)

    def expire(self, uint32_t before):
        """Forget the entries that are not static and were not seen at `before` or later: [(vni, mac, station)]."""
        return [row[:3] for row in self._collect(0, self.table.mask + 1, True, 0, True, before, True)]

    def clear_station(self, uint32_t station):
        """Forget what is not static of a station: [(vni, mac)]."""
        return [row[:2] for row in self._collect(0, self.table.mask + 1, False, station, False, 0, True)]

    def __len__(self):
        return self._n

# Stations, where the frames of our own NVE go that are for one MAC; and what their sources teach. Section 6 of README.md.
#
# 1. A station is a list of one egress, in an array that each worker has for itself: it is written between two of his bursts (`Engine`),
#    so that what a frame points to stands still while the frame is here, and after the FIB that has the egress.
# 2. A lesson is a record of a punt ring: one thread writes, one reads, and the room and the rate of each port are bounded (`_punt.pxd`).
from libc.stdint cimport uint32_t, uint64_t
from fastpath._frame cimport BATCH_MAX, address_t, batch_t, counters_t, entry_t, frame_t
from fastpath._mac cimport MacTable, mac_entry_t, mac_table_t
from fastpath._punt cimport PuntRing, punt_ring_t
from fastpath._trie cimport fib_t

cdef enum:
    RECENT = 4096             # lessons that a worker remembers to have told

# The list of a station: of a VTEP, `entry.key.source` is its address, `entry.key.kind_scope_encap_number` its encap.
cdef struct station_t:
    entry_t entry
    uint32_t egress           # right behind the entry, as in any list
    uint32_t _pad

# A lesson, as it crosses. `vtep` 0: a VM port's own.
cdef struct lesson_t:
    address_t vtep
    uint64_t mac
    uint32_t vni
    uint32_t encap

# What a worker has told lately.
cdef struct recent_t:
    uint64_t what
    uint64_t time_ns

# A frame that the table is asked about.
cdef struct subject_t:
    frame_t *frame
    mac_entry_t *entry        # of its source
    uint64_t destination      # key, hash
    uint64_t destination_hash
    uint64_t source
    uint64_t source_hash
    uint32_t domain
    uint32_t to_place         # NO_PLACE: no entry
    uint32_t from_place
    bint is_right             # the entry of the source says where the frame came from

cdef struct learner_t:
    mac_table_t *table
    station_t *stations       # by number
    uint32_t n_stations
    punt_ring_t *ring
    uint64_t now_ns
    uint32_t n_subjects
    subject_t subjects[BATCH_MAX]
    recent_t recent[RECENT]

cdef void learn_lookup(learner_t *learner, batch_t *batch, const fib_t *fib) noexcept nogil
cdef uint32_t learn_batch(learner_t *learner, counters_t *counters, uint64_t now_ns) noexcept nogil


cdef class Learner:
    cdef learner_t *learner
    cdef readonly MacTable macs
    cdef readonly PuntRing ring
    cdef int set_station(self, uint32_t station, object row) except -1

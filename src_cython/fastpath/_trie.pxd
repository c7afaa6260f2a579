# What a FIB is in memory: group key -> replication list, an immutable snapshot.
#
# A trie of two levels over the hash of the key: root slots hold a page of lists, or, where that grew over
# PAGE_SPLIT lists, a node of 512 pages. Pages and nodes are shared between snapshots by reference count (touched only under
# the GIL); a change copies one page, its node and the root: microseconds, whatever the number of groups.
# Why not one flat hash table: it cannot be shared, so each join would copy or lock it. Turn back if lookups ever
# show the extra level: at a million groups it is one miss of four.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from fastpath._frame cimport CLASS_REMOTE, CLASS_UP, egress_t, entry_t, key_t
from fastpath._layout cimport layout_t, mix

cdef enum:
    ROOT_SLOTS = 512
    NODE_SLOTS = 512
    PAGE_SPLIT = 24
    CHUNK_EGRESSES = 64
    N_KINDS = 8               # the five below; a key of another kind is counted, and found by none
    KIND_INNER_SOURCE_GROUP = 0
    KIND_INNER_GROUP = 1
    KIND_VNI = 2
    KIND_SOURCE_GROUP = 3
    KIND_GROUP = 4

# What the pages of a bulk load are cut from: huge pages of the MMU, without which a million groups hit at random miss the TLB
# each time, and loading them spends half its time on page faults. Freed with the last page.
cdef struct slab_t:
    uint64_t refs
    uint64_t size
    uint64_t used

# Behind the head: n tags (uint16), padding to 4, n offsets (uint32, in units of 8 bytes from the page's start), padding to
# 8, then the entries. Tags of a small page share the head's cache line.
cdef struct page_t:
    uint32_t refs
    uint32_t n
    uint64_t size
    slab_t *slab              # NULL: the page was allocated by itself

cdef struct node_t:
    uint64_t refs
    page_t *pages[NODE_SLOTS]

cdef struct chunk_t:
    uint32_t refs
    uint32_t _pad[15]
    egress_t egresses[CHUNK_EGRESSES]

cdef struct directory_t:
    uint32_t refs
    uint32_t n_chunks
    uint32_t n_egresses
    chunk_t *chunks[1]        # n_chunks of them

cdef struct fib_t:
    void *slots[ROOT_SLOTS]   # a page_t *, or a node_t * with bit 0 set, or NULL
    uint64_t n_groups
    uint64_t n_kind[N_KINDS]
    uint64_t memory_bytes     # of pages and nodes
    directory_t *directory
    const layout_t *layout


cdef inline uint64_t key_hash(const key_t *key) noexcept nogil:
    cdef uint64_t h = mix(<uint64_t>0x9e3779b97f4a7c15, key.group.low)
    h = mix(h, key.group.high)
    h = mix(h, key.source.low ^ key.source.high)
    return mix(h, key.kind_scope_encap_number)


cdef inline bint key_equal(const key_t *a, const key_t *b) noexcept nogil:
    return (
        a.group.low == b.group.low and a.kind_scope_encap_number == b.kind_scope_encap_number
        and a.group.high == b.group.high and a.source.low == b.source.low and a.source.high == b.source.high
    )


cdef inline uint64_t key_meta(uint8_t kind, uint8_t scope, uint8_t encap, uint32_t number) noexcept nogil:
    return <uint64_t>kind << 48 | <uint64_t>scope << 40 | <uint64_t>encap << 32 | number


cdef inline uint32_t root_slot(uint64_t h) noexcept nogil:
    return h >> 55


cdef inline uint32_t node_slot(uint64_t h) noexcept nogil:
    return (h >> 46) & (NODE_SLOTS - 1)


cdef inline const uint16_t *page_tags(const page_t *page) noexcept nogil:
    return <const uint16_t *>(page + 1)


cdef inline const uint32_t *page_offsets(const page_t *page) noexcept nogil:
    return <const uint32_t *>(<const uint8_t *>(page + 1) + ((2 * page.n + 3) & ~<uint32_t>3))


cdef inline const entry_t *page_entry(const page_t *page, uint32_t i) noexcept nogil:
    return <const entry_t *>(<const uint8_t *>page + <uint64_t>8 * page_offsets(page)[i])


cdef inline uint32_t page_match(const page_t *page, uint16_t tag, uint32_t i) noexcept nogil:
    """The first place from `i` on whose tag agrees, or n."""
    cdef const uint16_t *tags = page_tags(page)
    while i < page.n and tags[i] != tag:
        i += 1
    return i


cdef inline const page_t *fib_page(const fib_t *fib, uint64_t h) noexcept nogil:
    cdef size_t slot = <size_t>fib.slots[root_slot(h)]
    if slot & 1:
        return (<node_t *>(slot - 1)).pages[node_slot(h)]
    return <const page_t *>slot


cdef inline const uint32_t *entry_egresses(const entry_t *entry) noexcept nogil:
    return <const uint32_t *>(entry + 1)


cdef inline const uint32_t *entry_numbers(const entry_t *entry) noexcept nogil:
    return entry_egresses(entry) + entry.n_local + entry.n_remote


cdef inline uint32_t entry_first(const entry_t *entry, uint8_t source_class) noexcept nogil:
    """Where the egresses begin that frames of a class get."""
    return entry.n_local if source_class == CLASS_UP else 0


cdef inline uint32_t entry_last(const entry_t *entry, uint8_t source_class) noexcept nogil:
    """Where they end."""
    return entry.n_local if source_class == CLASS_REMOTE else entry.n_local + entry.n_remote


cdef inline egress_t *directory_egress(const directory_t *directory, uint32_t id) noexcept nogil:
    return &directory.chunks[id / CHUNK_EGRESSES].egresses[id % CHUNK_EGRESSES]


cdef const entry_t *fib_find(const fib_t *fib, const key_t *key) noexcept nogil
cdef uint64_t entry_size(const entry_t *entry) noexcept nogil
cdef uint64_t page_head_size(uint32_t n) noexcept nogil
cdef void page_release(page_t *page) noexcept nogil
cdef slab_t *slab_make(uint64_t room) noexcept nogil
cdef void slab_release(slab_t *slab) noexcept nogil
cdef page_t *slab_page(slab_t *slab, uint64_t size) noexcept nogil
cdef void fib_release(fib_t *fib) noexcept nogil
cdef int fib_put(fib_t *fib, const key_t *key, const entry_t *entry) noexcept nogil
cdef fib_t *fib_clone(const fib_t *fib) except NULL
cdef void directory_release(directory_t *directory) noexcept nogil
cdef directory_t *directory_with(const directory_t *old, dict egresses) except NULL

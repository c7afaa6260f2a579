"""Pages, nodes, egress chunks: how a FIB's memory is made, shared and freed. Reference counts are touched only under the GIL."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from posix.mman cimport (
    MADV_HUGEPAGE, MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, madvise, mmap, munmap,
)
from libc.string cimport memcpy, memset

cdef enum:
    HUGE_PAGE = 1 << 21
    LINE = 64

cdef extern from "stdlib.h" nogil:
    void *aligned_alloc(size_t alignment, size_t size)

from fastpath._frame cimport EGRESSES_MAX, egress_t, entry_t, key_t

assert sizeof(entry_t) == 56 and sizeof(key_t) == 40
assert sizeof(egress_t) == 256 and sizeof(chunk_t) == 64 + CHUNK_EGRESSES * 256


cdef const entry_t *fib_find(const fib_t *fib, const key_t *key) noexcept nogil:
    cdef uint64_t h = key_hash(key)
    cdef const page_t *page = fib_page(fib, h)
    cdef uint32_t i
    if page == NULL:
        return NULL
    i = page_match(page, <uint16_t>h, 0)
    while i < page.n:
        if key_equal(&page_entry(page, i).key, key):
            return page_entry(page, i)
        i = page_match(page, <uint16_t>h, i + 1)
    return NULL


cdef uint64_t entry_size(const entry_t *entry) noexcept nogil:
    return sizeof(entry_t) + ((4 * <uint64_t>(entry.n_local + entry.n_remote + entry.n_numbers) + 7) & ~<uint64_t>7)


cdef uint64_t page_head_size(uint32_t n) noexcept nogil:
    return (sizeof(page_t) + ((2 * n + 3) & ~<uint32_t>3) + 4 * n + 7) & ~<uint64_t>7


cdef page_t *page_make(const entry_t **entries, uint32_t n) noexcept nogil:
    """A page of copies of `n` entries, which come in any order; NULL when memory is out."""
    cdef uint64_t size = page_head_size(n)
    cdef uint64_t at = size
    cdef uint32_t i
    cdef page_t *page
    for i in range(n):
        size += entry_size(entries[i])
    page = <page_t *>malloc(size)
    if page == NULL:
        return NULL
    page.refs = 1
    page.n = n
    page.size = size
    page.slab = NULL
    for i in range(n):
        (<uint16_t *>page_tags(page))[i] = <uint16_t>key_hash(&entries[i].key)
        (<uint32_t *>page_offsets(page))[i] = <uint32_t>(at / 8)
        memcpy(<uint8_t *>page + at, entries[i], entry_size(entries[i]))
        at += entry_size(entries[i])
    return page


cdef void page_release(page_t *page) noexcept nogil:
    if page != NULL:
        page.refs -= 1
        if page.refs == 0:
            if page.slab != NULL:
                slab_release(page.slab)
            else:
                free(page)


cdef slab_t *slab_make(uint64_t room) noexcept nogil:
    """A slab with room for pages of `room` bytes together, held by the caller; NULL when memory is out."""
    cdef uint64_t size = (room + sizeof(slab_t) + HUGE_PAGE - 1) & ~<uint64_t>(HUGE_PAGE - 1)
    cdef slab_t *slab = <slab_t *>mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if <void *>slab == MAP_FAILED:
        return NULL
    madvise(slab, size, MADV_HUGEPAGE)
    slab.refs = 1
    slab.size = size
    slab.used = LINE
    return slab


cdef void slab_release(slab_t *slab) noexcept nogil:
    slab.refs -= 1
    if slab.refs == 0:
        munmap(slab, slab.size)


cdef page_t *slab_page(slab_t *slab, uint64_t size) noexcept nogil:
    """A page of `size` bytes, at the beginning of a cache line; NULL when the slab is full."""
    cdef page_t *page = <page_t *>(<uint8_t *>slab + slab.used)
    if slab.used + size > slab.size:
        return NULL
    slab.used = (slab.used + size + LINE - 1) & ~<uint64_t>(LINE - 1)
    slab.refs += 1
    page.slab = slab
    return page


cdef void node_release(node_t *node) noexcept nogil:
    cdef uint32_t i
    node.refs -= 1
    if node.refs == 0:
        for i in range(NODE_SLOTS):
            page_release(node.pages[i])
        free(node)


cdef void directory_release(directory_t *directory) noexcept nogil:
    cdef uint32_t i
    if directory == NULL:
        return
    directory.refs -= 1
    if directory.refs == 0:
        for i in range(directory.n_chunks):
            directory.chunks[i].refs -= 1
            if directory.chunks[i].refs == 0:
                free(directory.chunks[i])
        free(directory)


cdef inline node_t *slot_node(void *slot) noexcept nogil:
    return <node_t *>(<size_t>slot - 1) if <size_t>slot & 1 else NULL


cdef void fib_release(fib_t *fib) noexcept nogil:
    cdef uint32_t i
    for i in range(ROOT_SLOTS):
        if slot_node(fib.slots[i]) != NULL:
            node_release(slot_node(fib.slots[i]))
        else:
            page_release(<page_t *>fib.slots[i])
    directory_release(fib.directory)
    free(fib)


cdef node_t *node_split(page_t *page) noexcept nogil:
    """A node with the entries of `page`, which it does not keep."""
    cdef const entry_t *chosen[PAGE_SPLIT + 1]
    cdef uint16_t slots[PAGE_SPLIT + 1]
    cdef uint32_t i, j, n
    cdef node_t *node = <node_t *>calloc(1, sizeof(node_t))
    if node == NULL:
        return NULL
    node.refs = 1
    for i in range(page.n):
        slots[i] = <uint16_t>node_slot(key_hash(&page_entry(page, i).key))
    for i in range(page.n):
        if node.pages[slots[i]] != NULL:
            continue
        n = 0
        for j in range(i, page.n):
            if slots[j] == slots[i]:
                chosen[n] = page_entry(page, j)
                n += 1
        node.pages[slots[i]] = page_make(chosen, n)
        if node.pages[slots[i]] == NULL:
            node_release(node)
            return NULL
    return node


cdef page_t **fib_own_slot(fib_t *fib, uint64_t h) noexcept nogil:
    """The place where the page of a hash is kept, in a node that this snapshot shares with none."""
    cdef void **slot = &fib.slots[root_slot(h)]
    cdef node_t *node = slot_node(slot[0])
    cdef node_t *own
    cdef uint32_t i
    if node == NULL:
        return <page_t **>slot
    if node.refs > 1:
        own = <node_t *>malloc(sizeof(node_t))
        if own == NULL:
            return NULL
        memcpy(own, node, sizeof(node_t))
        own.refs = 1
        for i in range(NODE_SLOTS):
            if own.pages[i] != NULL:
                own.pages[i].refs += 1
        node.refs -= 1
        slot[0] = <void *>(<size_t>own + 1)
        node = own
    return &node.pages[node_slot(h)]


cdef int fib_put(fib_t *fib, const key_t *key, const entry_t *entry) noexcept nogil:
    """Set the list of `key`, or remove it where `entry` is NULL; 0, or -1 when memory is out."""
    cdef uint64_t h = key_hash(key)
    cdef page_t **slot = fib_own_slot(fib, h)
    cdef page_t *page
    cdef page_t *fresh = NULL
    cdef node_t *node
    cdef const entry_t **entries
    cdef uint32_t i, n = 0
    cdef uint8_t kind = <uint8_t>(key.kind_scope_encap_number >> 48)
    if slot == NULL:
        return -1
    page = slot[0]
    entries = <const entry_t **>malloc((1 + (page.n if page != NULL else 0)) * sizeof(entry_t *))
    if entries == NULL:
        return -1
    for i in range(page.n if page != NULL else 0):
        if key_equal(&page_entry(page, i).key, key):
            fib.n_groups -= 1
            fib.n_kind[kind & 7] -= 1
        else:
            entries[n] = page_entry(page, i)
            n += 1
    if entry != NULL:
        entries[n] = entry
        n += 1
        fib.n_groups += 1
        fib.n_kind[kind & 7] += 1
    if n:
        fresh = page_make(entries, n)
    free(entries)
    if n and fresh == NULL:
        return -1
    fib.memory_bytes += (fresh.size if fresh != NULL else 0) - (page.size if page != NULL else 0)
    slot[0] = fresh
    page_release(page)
    if n > PAGE_SPLIT and <void **>slot == &fib.slots[root_slot(h)]:
        node = node_split(fresh)
        if node == NULL:
            return -1
        fib.memory_bytes += sizeof(node_t)
        for i in range(NODE_SLOTS):
            if node.pages[i] != NULL:
                fib.memory_bytes += node.pages[i].size
        fib.memory_bytes -= fresh.size
        fib.slots[root_slot(h)] = <void *>(<size_t>node + 1)
        page_release(fresh)
    return 0


cdef fib_t *fib_clone(const fib_t *fib) except NULL:
    """A snapshot equal to `fib`, sharing everything."""
    cdef fib_t *out = <fib_t *>malloc(sizeof(fib_t))
    cdef uint32_t i
    if out == NULL:
        raise MemoryError
    memcpy(out, fib, sizeof(fib_t))
    for i in range(ROOT_SLOTS):
        if slot_node(out.slots[i]) != NULL:
            slot_node(out.slots[i]).refs += 1
        elif out.slots[i] != NULL:
            (<page_t *>out.slots[i]).refs += 1
    out.directory.refs += 1
    return out


cdef chunk_t *chunk_make() except NULL:
    """A chunk without egresses, aligned so that what a copy reads of an egress is two cache lines."""
    cdef void *memory = aligned_alloc(64, sizeof(chunk_t))
    if memory == NULL:
        raise MemoryError
    memset(memory, 0, sizeof(chunk_t))
    (<chunk_t *>memory).refs = 1
    return <chunk_t *>memory


cdef directory_t *directory_with(const directory_t *old, dict egresses) except NULL:
    """A directory with some egresses set: id -> packed egress_t. Only chunks that change are copied."""
    cdef uint32_t n = old.n_egresses, n_chunks, i
    cdef directory_t *out
    cdef chunk_t *chunk
    cdef const uint8_t[::1] packed
    for id in egresses:
        if not 0 <= id < EGRESSES_MAX:
            raise ValueError(f"egress {id}: the data path has room for {EGRESSES_MAX} egresses")
        n = max(n, id + 1)
    n_chunks = (n + CHUNK_EGRESSES - 1) // CHUNK_EGRESSES
    out = <directory_t *>calloc(1, sizeof(directory_t) + n_chunks * sizeof(chunk_t *))
    if out == NULL:
        raise MemoryError
    out.refs = 1
    out.n_egresses = n
    out.n_chunks = n_chunks
    for i in range(old.n_chunks):
        out.chunks[i] = old.chunks[i]
        out.chunks[i].refs += 1
    try:
        for i in range(old.n_chunks, n_chunks):
            out.n_chunks = i
            out.chunks[i] = chunk_make()
        out.n_chunks = n_chunks
        for id, data in egresses.items():
            packed = data
            if packed.shape[0] != sizeof(egress_t):
                raise ValueError(f"egress {id}: {packed.shape[0]} bytes, expected {sizeof(egress_t)}")
            i = id // CHUNK_EGRESSES
            if out.chunks[i].refs > 1:
                chunk = chunk_make()
                memcpy(chunk, out.chunks[i], sizeof(chunk_t))
                chunk.refs = 1
                out.chunks[i].refs -= 1
                out.chunks[i] = chunk
            memcpy(&out.chunks[i].egresses[id % CHUNK_EGRESSES], &packed[0], sizeof(egress_t))
    except BaseException:
        directory_release(out)
        raise
    return out

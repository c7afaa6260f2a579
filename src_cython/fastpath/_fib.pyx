"""The FIB as Python holds it: snapshots derived from one another, by changes or from columns.

Keys come as five 64-bit words (group high and low, source high and low, kind << 48 | scope << 40 | encap << 32 |
number); lists as egress ids; egresses as packed structs. `fastpath.compiler` makes all three.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy, memset
from fastpath._frame cimport LISTS_MAX, entry_t, key_t
from fastpath._layout cimport LayoutTable
from fastpath._trie cimport (
    NODE_SLOTS, PAGE_SPLIT, ROOT_SLOTS, chunk_t, directory_release, directory_t, directory_with, entry_egresses, entry_numbers, entry_size,
    fib_clone, fib_find, fib_put, fib_release, fib_t, key_equal, key_hash, node_slot, node_t, page_entry, page_head_size, page_match,
    page_offsets, page_release, page_t, page_tags, root_slot, slab_make, slab_page,
    slab_release, slab_t,
)


cdef int fill_key(key_t *out, object words) except -1:
    out.group.high, out.group.low, out.source.high, out.source.low, out.kind_scope_encap_number = words
    return 0


cdef int check_columns(uint32_t n_egresses, const uint32_t[::1] offsets, const uint32_t[::1] n_local,
                       const uint32_t[::1] ids, const uint32_t[::1] number_offsets, const uint32_t[::1] numbers,
                       const int64_t[::1] order) except -1:
    cdef int64_t i, n = n_local.shape[0]
    cdef bint good = (
        offsets[0] == 0 and number_offsets[0] == 0
        and offsets[n] == ids.shape[0] and number_offsets[n] == numbers.shape[0]
    )
    with nogil:
        for i in range(n):
            if offsets[i + 1] < offsets[i] or number_offsets[i + 1] < number_offsets[i]:
                good = False
            elif n_local[i] > offsets[i + 1] - offsets[i] or not 0 <= order[i] < n:
                good = False
        for i in range(ids.shape[0]):
            if ids[i] >= n_egresses:
                good = False
    if not good:
        raise ValueError("with_columns: offsets, n_local, order or egress ids out of range")
    return 0


cdef page_t *page_from_rows(slab_t *slab, const uint64_t *keys, const int64_t *order, const uint32_t *offsets, const uint32_t *n_local,
                            const uint32_t *ids, const uint32_t *number_offsets, const uint32_t *numbers,
                            int64_t first, int64_t last) noexcept nogil:
    """The page of rows order[first:last]: one allocation, filled in place."""
    cdef uint32_t n = <uint32_t>(last - first), n_ids, n_numbers
    cdef uint64_t size = page_head_size(n), at
    cdef int64_t i, row
    cdef page_t *page
    cdef entry_t *entry
    at = size
    for i in range(first, last):
        row = order[i]
        n_ids = offsets[row + 1] - offsets[row]
        n_numbers = number_offsets[row + 1] - number_offsets[row]
        size += sizeof(entry_t) + ((4 * <uint64_t>(n_ids + n_numbers) + 7) & ~<uint64_t>7)
    page = slab_page(slab, size)
    if page == NULL:
        return NULL
    page.refs = 1
    page.n = n
    page.size = size
    for i in range(first, last):
        row = order[i]
        n_ids = offsets[row + 1] - offsets[row]
        n_numbers = number_offsets[row + 1] - number_offsets[row]
        entry = <entry_t *>(<uint8_t *>page + at)
        memset(entry, 0, sizeof(entry_t))
        memcpy(&entry.key, keys + 5 * row, sizeof(key_t))
        entry.n_local = n_local[row]
        entry.n_remote = n_ids - n_local[row]
        entry.n_numbers = n_numbers
        if n_ids:
            memcpy(<void *>entry_egresses(entry), ids + offsets[row], 4 * n_ids)
        if n_numbers:
            memcpy(<void *>entry_numbers(entry), numbers + number_offsets[row], 4 * n_numbers)
        (<uint16_t *>page_tags(page))[i - first] = <uint16_t>key_hash(&entry.key)
        (<uint32_t *>page_offsets(page))[i - first] = <uint32_t>(at / 8)
        at += entry_size(entry)
    return page


cdef bint page_repeats(const page_t *page) noexcept nogil:
    cdef uint32_t i, j
    for i in range(page.n):
        j = page_match(page, page_tags(page)[i], i + 1)
        while j < page.n:
            if key_equal(&page_entry(page, i).key, &page_entry(page, j).key):
                return True
            j = page_match(page, page_tags(page)[i], j + 1)
    return False


cdef uint64_t room_of(const uint32_t *offsets, const uint32_t *number_offsets, int64_t n) noexcept nogil:
    """At least the bytes that n rows need as pages: entries, a tag and an offset each, and the heads of as many pages as there may be."""
    cdef uint64_t entries = n * (sizeof(entry_t) + 16) + 4 * (<uint64_t>offsets[n] + number_offsets[n])
    cdef uint64_t pages = n if n < ROOT_SLOTS * NODE_SLOTS else ROOT_SLOTS * NODE_SLOTS
    return entries + pages * (sizeof(page_t) + 80)


cdef int fill_columns(slab_t *slab, fib_t *fib, const uint64_t *keys, const int64_t *order, const uint32_t *offsets,
                      const uint32_t *n_local, const uint32_t *ids, const uint32_t *number_offsets,
                      const uint32_t *numbers, int64_t n) noexcept nogil:
    """Fill an empty FIB with rows sorted by hash: 0, -1 when memory is out, -2 when a key stands twice."""
    cdef int64_t first = 0, last, page_last
    cdef uint64_t h
    cdef node_t *node
    cdef page_t *page
    while first < n:
        h = key_hash(<const key_t *>(keys + 5 * order[first]))
        last = first
        while last < n and root_slot(key_hash(<const key_t *>(keys + 5 * order[last]))) == root_slot(h):
            last += 1
        node = NULL
        if fib.slots[root_slot(h)] != NULL:
            return -2
        if last - first > PAGE_SPLIT:
            node = <node_t *>calloc(1, sizeof(node_t))
            if node == NULL:
                return -1
            node.refs = 1
            fib.memory_bytes += sizeof(node_t)
            fib.slots[root_slot(h)] = <void *>(<size_t>node + 1)
        while first < last:
            page_last = last
            if node != NULL:
                h = key_hash(<const key_t *>(keys + 5 * order[first]))
                page_last = first
                while page_last < last and node_slot(
                    key_hash(<const key_t *>(keys + 5 * order[page_last]))
                ) == node_slot(h):
                    page_last += 1
            page = page_from_rows(slab, keys, order, offsets, n_local, ids, number_offsets, numbers, first, page_last)
            if page == NULL:
                return -1
            if node == NULL:
                fib.slots[root_slot(h)] = page
            elif node.pages[node_slot(h)] != NULL:
                page_release(page)
                return -2
            else:
                node.pages[node_slot(h)] = page
            if page_repeats(page):
                return -2
            fib.memory_bytes += page.size
            for first in range(first, page_last):
                fib.n_groups += 1
                fib.n_kind[(keys[5 * order[first] + 4] >> 48) & 7] += 1
            first = page_last
    return 0


def hash_keys(const uint64_t[:, ::1] keys not None, uint64_t[::1] out not None):
    """Write the hash of each row of key words to `out`; sorting by it gives `with_columns` its order."""
    cdef int64_t i
    if keys.shape[1] != 5 or out.shape[0] != keys.shape[0]:
        raise ValueError("hash_keys: expected n x 5 words and n results")
    with nogil:
        for i in range(keys.shape[0]):
            out[i] = key_hash(<const key_t *>&keys[i, 0])


cdef Fib derive(Fib old, LayoutTable layout, dict egresses):
    cdef Fib out = Fib.__new__(Fib)
    cdef directory_t *directory
    out.fib = fib_clone(old.fib)
    out.revision = old.revision + 1
    out.layout = layout
    out.fib.layout = layout.layout
    if egresses:
        directory = directory_with(out.fib.directory, egresses)
        directory_release(out.fib.directory)
        out.fib.directory = directory
    return out


cdef class Fib:
    """An immutable snapshot of all replication lists. Start from `Fib.empty`, derive the next with `with_changes`."""

    def __cinit__(self):
        self.revision = 0

    def __dealloc__(self):
        if self.fib != NULL:
            fib_release(self.fib)

    @staticmethod
    def empty(LayoutTable layout not None):
        """A FIB without lists."""
        cdef Fib out = Fib.__new__(Fib)
        out.fib = <fib_t *>calloc(1, sizeof(fib_t))
        if out.fib == NULL:
            raise MemoryError
        out.layout = layout
        out.fib.layout = layout.layout
        out.fib.memory_bytes = sizeof(fib_t)
        out.fib.directory = <directory_t *>calloc(1, sizeof(directory_t))
        if out.fib.directory == NULL:
            raise MemoryError
        out.fib.directory.refs = 1
        return out

    def with_changes(self, LayoutTable layout not None, dict egresses, changes):
        """The next snapshot: `egresses` set by id, then each change (key words, local ids, remote ids, numbers, counter
        id) applied; a change of (key words, None) removes a list. Cost: microseconds a change, whatever the size."""
        cdef Fib out = derive(self, layout, egresses)
        cdef key_t key
        cdef entry_t *entry
        cdef uint32_t *words
        cdef uint32_t n, n_words
        cdef size_t room = 0
        cdef bytearray buffer
        for change in changes:
            fill_key(&key, change[0])
            if change[1] is None:
                if fib_put(out.fib, &key, NULL) < 0:
                    raise MemoryError
                continue
            _, local, remote, numbers, list_id = change
            ids = (*local, *remote, *numbers)
            n_words = <uint32_t>len(ids)
            if sizeof(entry_t) + 4 * n_words + 8 > room:
                room = sizeof(entry_t) + 8 * n_words + 8
                buffer = bytearray(room)
            entry = <entry_t *><char *>buffer
            memset(entry, 0, sizeof(entry_t) + 4 * n_words + 8)
            entry.key = key
            entry.n_local = len(local)
            entry.n_remote = len(remote)
            entry.n_numbers = len(numbers)
            entry.list_id = list_id if list_id < LISTS_MAX else 0
            words = <uint32_t *>entry_egresses(entry)
            for n, word in enumerate(ids):
                words[n] = word
                if n < entry.n_local + entry.n_remote and words[n] >= out.fib.directory.n_egresses:
                    raise ValueError(f"egress {word} is in a list, but was never set")
            if fib_put(out.fib, &key, entry) < 0:
                raise MemoryError
        return out

    def with_columns(self, LayoutTable layout not None, dict egresses, const uint64_t[:, ::1] keys not None,
                     const int64_t[::1] order not None, const uint32_t[::1] offsets not None,
                     const uint32_t[::1] n_local not None, const uint32_t[::1] ids not None,
                     const uint32_t[::1] number_offsets not None, const uint32_t[::1] numbers not None):
        """The next snapshot with many lists at once, from columns: row i of `keys` (n x 5 words) gets
        ids[offsets[i]:offsets[i + 1]], of which the first n_local[i] are the local segment, and the numbers
        numbers[number_offsets[i]:number_offsets[i + 1]]. `order` sorts the rows by `hash_keys`. Keys must be distinct and new
        to a FIB that is still empty (ValueError)."""
        cdef Fib out = derive(self, layout, egresses)
        cdef int64_t n = keys.shape[0]
        cdef int status
        cdef slab_t *slab
        if out.fib.n_groups:
            raise ValueError("with_columns fills an empty FIB; with_changes changes one")
        if not (order.shape[0] == n_local.shape[0] == n and offsets.shape[0] == number_offsets.shape[0] == n + 1):
            raise ValueError("with_columns: the columns differ in length")
        if n == 0:
            return out
        check_columns(out.fib.directory.n_egresses, offsets, n_local, ids, number_offsets, numbers, order)
        slab = slab_make(room_of(&offsets[0], &number_offsets[0], n))
        if slab == NULL:
            raise MemoryError
        with nogil:
            status = fill_columns(slab, out.fib, &keys[0, 0], &order[0], &offsets[0], &n_local[0],
                                  &ids[0] if ids.shape[0] else NULL, &number_offsets[0],
                                  &numbers[0] if numbers.shape[0] else NULL, n)
        slab_release(slab)
        if status == -2:
            raise ValueError("with_columns: a key stands twice")
        if status < 0:
            raise MemoryError
        return out

    def find(self, words):
        """(local ids, remote ids, numbers) of the list of a key, or None."""
        cdef key_t key
        cdef const entry_t *entry
        cdef const uint32_t *ids
        fill_key(&key, words)
        entry = fib_find(self.fib, &key)
        if entry == NULL:
            return None
        ids = entry_egresses(entry)
        all_words = [ids[i] for i in range(entry.n_local + entry.n_remote + entry.n_numbers)]
        local, remote = entry.n_local, entry.n_local + entry.n_remote
        return all_words[:local], all_words[local:remote], all_words[remote:]

    @property
    def n_groups(self):
        """Number of replication lists."""
        return self.fib.n_groups

    @property
    def n_egresses(self):
        """Number of egresses the lists may name."""
        return self.fib.directory.n_egresses

    @property
    def memory_bytes(self):
        """Bytes of this snapshot, shared ones included: root, nodes, pages and egress chunks."""
        cdef directory_t *directory = self.fib.directory
        return self.fib.memory_bytes + sizeof(directory_t) + directory.n_chunks * (sizeof(chunk_t) + sizeof(chunk_t *))

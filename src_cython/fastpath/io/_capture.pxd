# The pass over a capture: where its packets stand, when they were seen, and on which interface. For `_pcap_in` alone.
#
# Law of this file:
# 1. One pass, without the GIL, finds every packet. The index takes 24 bytes a packet, of which the file itself needs 16 at least.
# 2. No byte is read before its place was compared with the size of the file as it was when it was opened.
# 3. What is wrong before the first packet, or with an interface that packets came from, is `fatal`: nothing can be
#    replayed, or not rightly. Anything later is damage: the packets in front of it count.
#
# Formats: draft-ietf-opsawg-pcap (classic), draft-ietf-opsawg-pcapng. The size of a block includes its first 8 and last 4 bytes.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memset
from fastpath._frame cimport FRAME_SIZE_MAX
from fastpath._wire cimport wire_load_be16, wire_load_be32

cdef extern from * nogil:
    """
    #include <stdint.h>
    /* `stamp` units since `offset_s`, each of `scale` / `divide` >> `shift` ns; 0 where that is no time we can hold. */
    static inline int capture_time(
        uint64_t stamp, uint64_t scale, uint64_t divide, uint32_t shift, int64_t offset_s, uint64_t *time_ns
    ) {
        __int128 ns = ((__int128)(stamp / divide) * scale >> shift) + (__int128)offset_s * 1000000000;
        if (ns < 0 || ns > INT64_MAX) return 0;
        *time_ns = (uint64_t)ns;
        return 1;
    }
    """
    bint capture_time(
        uint64_t stamp, uint64_t scale, uint64_t divide, uint32_t shift, int64_t offset_s, uint64_t *time_ns
    ) noexcept
    uint16_t swap16 "__builtin_bswap16"(uint16_t value) noexcept
    uint32_t swap32 "__builtin_bswap32"(uint32_t value) noexcept

cdef enum:
    INTERFACES_MAX = 65535
    PCAP_HEAD = 24
    PCAP_PACKET = 16
    BLOCK_MIN = 12
    LINK_ETHERNET = 1

cdef enum magic_t:
    MAGIC_US = 0xa1b2c3d4
    MAGIC_NS = 0xa1b23c4d
    MAGIC_ORDER = 0x1a2b3c4d  # of a pcapng section

cdef enum block_t:
    BLOCK_INTERFACE = 1
    BLOCK_OLD_PACKET = 2
    BLOCK_SIMPLE_PACKET = 3
    BLOCK_PACKET = 6
    BLOCK_SECTION = 0x0a0d0d0a

cdef enum option_t:
    OPTION_END = 0
    OPTION_NAME = 2
    OPTION_RESOLUTION = 9
    OPTION_OFFSET = 14

# One packet of the file; 24 bytes.
cdef struct packet_t:
    uint64_t offset           # of its first byte
    uint64_t time_ns
    uint32_t size             # as captured
    uint16_t interface
    uint16_t _pad

# One interface, whatever section declares it: a section counts its own from 0, `first` of the pass on.
cdef struct interface_t:
    uint64_t name             # offset in the file
    uint64_t n_frames
    uint64_t scale            # see capture_time
    uint64_t divide
    int64_t offset_s
    uint32_t shift
    uint32_t snap_size        # 0: no limit
    uint32_t link
    uint16_t name_size        # 0: it has none
    uint16_t port             # among the ports of the layout
    uint8_t fcs_size          # bytes at the end of a whole frame that are its check sequence

cdef struct capture_t:
    uint8_t *bytes
    uint64_t size
    uint64_t mapped           # bytes of memory: more than `size` where the file lost some while it was opened
    packet_t *packets
    uint64_t n_packets
    uint64_t room
    interface_t *interfaces
    uint32_t n_interfaces
    uint32_t interfaces_room
    uint64_t cursor
    uint64_t clock_ns         # the latest time of the frames before the cursor
    uint64_t until_ns         # the clock may not come to this
    uint64_t first_ns
    uint64_t last_ns          # the latest
    bint pcapng
    bint little
    bint fine                 # some interface tells times finer than microseconds
    bint fatal
    bint no_memory
    # what is wrong, NULL: nothing; a sentence with the places {found} and {expected}
    const char *fault
    uint64_t fault_offset
    uint64_t found
    uint64_t expected


cdef inline bint fault(
    capture_t *c, uint64_t offset, const char *sentence, uint64_t found, uint64_t expected
) noexcept nogil:
    """Note what is wrong; always False, which ends the pass."""
    c.fault = sentence
    c.fault_offset = offset
    c.found = found
    c.expected = expected
    return False


cdef inline uint16_t load16(const capture_t *c, uint64_t offset) noexcept nogil:
    cdef uint16_t value = wire_load_be16(c.bytes + offset)
    return swap16(value) if c.little else value


cdef inline uint32_t load32(const capture_t *c, uint64_t offset) noexcept nogil:
    cdef uint32_t value = wire_load_be32(c.bytes + offset)
    return swap32(value) if c.little else value


cdef inline interface_t *add_interface(capture_t *c) noexcept nogil:
    """A new interface, of microseconds; NULL if there is no memory."""
    cdef uint32_t room = c.interfaces_room
    cdef void *memory
    cdef interface_t *row
    if c.n_interfaces == room:
        room += room + 4
        memory = realloc(c.interfaces, room * sizeof(interface_t))
        if memory == NULL:
            c.no_memory = True
            return NULL
        c.interfaces = <interface_t *>memory
        c.interfaces_room = room
    row = &c.interfaces[c.n_interfaces]
    memset(row, 0, sizeof(interface_t))
    row.scale = 1000
    row.divide = 1
    c.n_interfaces += 1
    return row


cdef inline bint add_packet(
    capture_t *c, uint64_t offset, uint32_t size, uint32_t interface, uint64_t time_ns
) noexcept nogil:
    cdef packet_t *packet
    cdef uint64_t room = c.room
    cdef void *memory
    if c.n_packets == room:
        room += (room >> 1) + 1024  # a large block moves by page tables, not by copying
        memory = realloc(c.packets, room * sizeof(packet_t))
        if memory == NULL:
            c.no_memory = True
            return False
        c.packets = <packet_t *>memory
        c.room = room
    packet = &c.packets[c.n_packets]
    packet.offset = offset
    packet.time_ns = time_ns
    packet.size = size
    packet.interface = <uint16_t>interface
    packet._pad = 0
    if c.n_packets == 0:
        c.first_ns = time_ns
    if time_ns > c.last_ns:
        c.last_ns = time_ns
    c.interfaces[interface].n_frames += 1
    c.n_packets += 1
    return True


cdef inline bint index_pcap(capture_t *c, bint nanoseconds) noexcept nogil:
    cdef uint64_t at = PCAP_HEAD
    cdef uint32_t link, size, wire_size, fcs
    cdef interface_t *row
    if c.size < PCAP_HEAD:
        return fault(c, 0, "ends within the pcap header: {found} bytes, expected {expected}", c.size, PCAP_HEAD)
    if load16(c, 4) != 2 or load16(c, 6) != 4:
        return fault(c, 4, "is pcap version {found:#x} (major << 16 | minor); expected {expected:#x}",
                     <uint32_t>load16(c, 4) << 16 | load16(c, 6), 0x20004)
    link = load32(c, 20)
    row = add_interface(c)
    if row == NULL:
        return False
    row.link = link & 0xffff
    row.scale = 1 if nanoseconds else 1000
    c.fine = nanoseconds
    if link & 0x4000000:  # it says how many pairs of bytes the frame check sequence has
        row.fcs_size = <uint8_t>(2 * (link >> 28))
    if row.link != LINK_ETHERNET:
        return fault(c, 20, "has link type {found}; expected Ethernet ({expected})", row.link, LINK_ETHERNET)
    c.fatal = False
    while at < c.size:
        if c.size - at < PCAP_PACKET:
            return fault(c, at, "the file ends within a packet's header: {found} bytes, expected {expected}",
                         c.size - at, PCAP_PACKET)
        size = load32(c, at + 8)
        wire_size = load32(c, at + 12)
        if size > FRAME_SIZE_MAX:
            return fault(c, at, "a packet of {found} bytes; expected {expected} at most", size, FRAME_SIZE_MAX)
        if size > c.size - at - PCAP_PACKET:
            return fault(c, at, "the file ends within a packet: {found} bytes, expected {expected}",
                         c.size - at - PCAP_PACKET, size)
        # of a check sequence that was cut off, nothing is left to take away
        fcs = row.fcs_size if size == wire_size and size >= row.fcs_size else 0
        if not add_packet(c, at + PCAP_PACKET, size - fcs, 0,
                          <uint64_t>load32(c, at) * 1000000000 + <uint64_t>load32(c, at + 4) * row.scale):
            return False
        at += PCAP_PACKET + size
    return True


cdef inline bint begin_section(capture_t *c, uint64_t at) noexcept nogil:
    """Learn a section's byte order, and that we can read its version."""
    if c.size - at < 16:
        return fault(c, at, "the file ends within a section header: {found} bytes, expected {expected}", c.size - at, 28)
    c.little = wire_load_be32(c.bytes + at + 8) == swap32(MAGIC_ORDER)
    if load32(c, at + 8) != MAGIC_ORDER:
        return fault(c, at + 8, "a section's byte order mark is {found:08x}; expected {expected:08x} either way round",
                     load32(c, at + 8), MAGIC_ORDER)
    if load16(c, at + 12) != 1 or (load16(c, at + 14) != 0 and load16(c, at + 14) != 2):
        return fault(c, at + 12, "a section of pcapng version {found:#x} (major << 16 | minor); expected {expected:#x} or 0x10002",
                     <uint32_t>load16(c, at + 12) << 16 | load16(c, at + 14), 0x10000)
    return True


cdef inline void set_resolution(interface_t *row, uint8_t code) noexcept nogil:
    """if_tsresol: a negative power of ten, or of two where the first bit is set."""
    cdef uint32_t power = code & 0x7f
    row.scale = row.divide = 1
    row.shift = 0
    if code & 0x80:
        row.scale = 1000000000
        row.shift = power
        return
    while power < 9:
        row.scale *= 10
        power += 1
    while power > 9:
        # past 10^19, 2^64 units are less than a nanosecond
        row.scale = row.scale if power < 29 else 0
        row.divide *= 10 if power < 29 else 1
        power -= 1


cdef inline uint32_t padded(uint32_t size) noexcept nogil:
    return (size + 3) & ~<uint32_t>3


cdef inline bint read_interface(capture_t *c, uint64_t block, uint32_t size) noexcept nogil:
    cdef uint64_t at = block + 16, end = block + size - 4
    cdef uint16_t option, length
    cdef interface_t *row
    if size < 20:
        return fault(c, block + 4, "an interface block of {found} bytes; expected {expected} at least", size, 20)
    if c.n_interfaces == INTERFACES_MAX:
        return fault(c, block, "more than {expected} interfaces", 0, INTERFACES_MAX)
    row = add_interface(c)
    if row == NULL:
        return False
    row.link = load16(c, block + 8)
    row.snap_size = load32(c, block + 12)
    while end - at >= 4:
        option = load16(c, at)
        length = load16(c, at + 2)
        at += 4
        if option == OPTION_END:
            break
        if padded(length) > end - at:
            return fault(c, at - 4, "an option of {found} bytes; its block has {expected} left", length, end - at)
        if option == OPTION_NAME:
            row.name = at
            row.name_size = length
        elif option == OPTION_RESOLUTION:
            if length != 1:
                return fault(c, at - 4, "a time resolution of {found} bytes; expected {expected}", length, 1)
            set_resolution(row, c.bytes[at])
            c.fine |= (c.bytes[at] & 0x7f) > (19 if c.bytes[at] & 0x80 else 6)
        elif option == OPTION_OFFSET:
            if length != 8:
                return fault(c, at - 4, "a time offset of {found} bytes; expected {expected}", length, 8)
            row.offset_s = <int64_t>(
                <uint64_t>load32(c, at + 4 * c.little) << 32 | load32(c, at + 4 - 4 * c.little)
            )
        at += padded(length)
    return True


cdef inline bint add_from(
    capture_t *c, uint64_t block, uint64_t offset, uint32_t size, uint32_t room, uint32_t interface, uint64_t time_ns
) noexcept nogil:
    """Add a packet of a block that has `room` bytes for it."""
    if size > FRAME_SIZE_MAX:
        return fault(c, block, "a packet of {found} bytes; expected {expected} at most", size, FRAME_SIZE_MAX)
    if size > room:
        return fault(c, block, "a packet of {found} bytes; its block has {expected} left", size, room)
    if c.interfaces[interface].link != LINK_ETHERNET:
        c.fatal = True
        return fault(c, block, "a packet of an interface of link type {found}; expected Ethernet ({expected})",
                     c.interfaces[interface].link, LINK_ETHERNET)
    return add_packet(c, offset, size, interface, time_ns)


cdef inline bint read_packet(capture_t *c, uint64_t block, uint32_t size, uint32_t first, bint old) noexcept nogil:
    cdef uint64_t time_ns = 0, stamp
    cdef uint32_t interface
    cdef interface_t *row
    if size < 32:
        return fault(c, block + 4, "a packet block of {found} bytes; expected {expected} at least", size, 32)
    interface = load16(c, block + 8) if old else load32(c, block + 8)
    if interface >= c.n_interfaces - first:
        return fault(c, block + 8, "a packet of interface {found}; its section declares {expected} before it",
                     interface, c.n_interfaces - first)
    row = &c.interfaces[first + interface]
    stamp = <uint64_t>load32(c, block + 12) << 32 | load32(c, block + 16)
    if not capture_time(stamp, row.scale, row.divide, row.shift, row.offset_s, &time_ns):
        return fault(c, block + 12, "a timestamp of {found} units; expected a time from 1970 to 2262", stamp, 0)
    return add_from(c, block, block + 28, load32(c, block + 20), size - 32, first + interface, time_ns)


cdef inline bint read_simple_packet(capture_t *c, uint64_t block, uint32_t size, uint32_t first) noexcept nogil:
    """A packet of the section's first interface without a time: it gets the latest that was seen."""
    cdef uint32_t wire_size, limit
    if size < 16:
        return fault(c, block + 4, "a packet block of {found} bytes; expected {expected} at least", size, 16)
    if c.n_interfaces == first:
        return fault(c, block, "a packet of interface 0; its section declares none before it", 0, 0)
    wire_size = load32(c, block + 8)
    limit = c.interfaces[first].snap_size
    return add_from(c, block, block + 12, limit if 0 < limit < wire_size else wire_size, size - 16, first, c.last_ns)


cdef inline bint index_pcapng(capture_t *c) noexcept nogil:
    cdef uint64_t at = 0
    cdef uint32_t kind, size, first = 0
    cdef bint good
    while at < c.size:
        if c.size - at < BLOCK_MIN:
            return fault(c, at, "the file ends within a block: {found} bytes, expected {expected} at least",
                         c.size - at, BLOCK_MIN)
        kind = load32(c, at)
        if kind == BLOCK_SECTION and not begin_section(c, at):
            return False
        size = load32(c, at + 4)
        if size < BLOCK_MIN or size % 4 != 0:
            return fault(c, at + 4, "a block of {found} bytes; expected a multiple of 4 from {expected} on", size, BLOCK_MIN)
        if size > c.size - at:
            return fault(c, at, "the file ends within a block: {found} bytes, expected {expected}", c.size - at, size)
        if load32(c, at + size - 4) != size:
            return fault(c, at + size - 4, "a block ends with the size {found}; it began with {expected}",
                         load32(c, at + size - 4), size)
        good = True
        if kind == BLOCK_SECTION:
            if size < 28:
                return fault(c, at + 4, "a section header of {found} bytes; expected {expected} at least", size, 28)
            first = c.n_interfaces
            c.fatal = False
        elif kind == BLOCK_INTERFACE:
            good = read_interface(c, at, size)
        elif kind == BLOCK_PACKET or kind == BLOCK_OLD_PACKET:
            good = read_packet(c, at, size, first, kind == BLOCK_OLD_PACKET)
        elif kind == BLOCK_SIMPLE_PACKET:
            good = read_simple_packet(c, at, size, first)
        if not good:
            return False
        at += size
    return True


cdef inline void index_file(capture_t *c) noexcept nogil:
    cdef uint32_t magic
    cdef void *memory
    c.fatal = True
    if c.size < BLOCK_MIN:
        fault(c, 0, "has {found} bytes; a capture has {expected} at least", c.size, PCAP_HEAD)
        return
    magic = wire_load_be32(c.bytes)
    if magic == BLOCK_SECTION:
        c.pcapng = True
        index_pcapng(c)
    else:
        c.little = magic == swap32(MAGIC_US) or magic == swap32(MAGIC_NS)
        magic = load32(c, 0)
        if magic != MAGIC_US and magic != MAGIC_NS:
            fault(c, 0, "starts with {found:08x}; expected a pcap (a1b2c3d4, a1b23c4d, d4c3b2a1, 4d3cb2a1) "
                  "or a pcapng (0a0d0d0a)", magic, 0)
            return
        index_pcap(c, magic == MAGIC_NS)
    if c.n_packets < c.room and c.n_packets != 0:
        memory = realloc(c.packets, c.n_packets * sizeof(packet_t))
        if memory != NULL:
            c.packets = <packet_t *>memory
            c.room = c.n_packets

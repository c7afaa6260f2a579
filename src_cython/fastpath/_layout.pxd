# The compiled layout: ports, endpoints, networks and senders as flat rows and small hash tables.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from fastpath._frame cimport ENCAP_RAW, OWNER_NONE, PORTS_MAX, address_t, frame_t

cdef enum:
    ENDPOINTS_MAX = 64
    VXLAN_PORTS_MAX = 16
    NO_ROW = 0xffffffff

cdef enum storm_kind_t:
    STORM_BROADCAST = 0
    STORM_MULTICAST = 1
    STORM_UNKNOWN = 2
    STORMS = 3

cdef struct rate_t:
    uint64_t pps              # 0: no limit
    uint64_t burst

cdef struct port_row_t:
    uint8_t faces
    uint8_t group_scope       # of packets to a group that come in here
    uint8_t raw_encap         # of VM ports: their network
    uint8_t has_nves
    uint8_t is_down
    uint8_t drop_tagged       # guards of VM ports
    uint8_t has_storm
    uint32_t raw_number
    uint32_t raw_vni          # its MAC domain; NUMBER_NONE: none, or no VM port
    uint32_t raw_row          # among the networks; NO_ROW likewise
    uint32_t mtu
    uint32_t n_macs
    uint64_t *macs            # ascending; none: any source will do

cdef struct endpoint_row_t:
    address_t address
    uint8_t scope
    uint8_t replicate

cdef struct address_row_t:
    address_t address
    uint32_t tag              # a peer's scope, an NVE's port
    uint32_t owner            # OWNER_NONE: empty

cdef struct address_table_t:
    address_row_t *rows
    uint64_t filter           # a bit per address; most strangers are told by it alone
    uint32_t mask             # rows - 1; rows is a power of two, at most half full

cdef struct prefix_row_t:
    address_t address
    address_t group           # of network maps
    uint8_t scope             # of allow_from
    uint8_t bits              # of the mapped address, 0 to 128

# A network, once per encapsulation in which it has a number; rows of one number stand together.
cdef struct network_row_t:
    uint32_t tagged_number    # encap << 24 | number
    uint32_t other_number     # in the other encapsulation; NUMBER_NONE: has none
    uint32_t vni              # its MAC domain, in both
    address_t group
    uint8_t has_group
    uint8_t clear_reserved
    uint8_t snoop
    uint8_t drop_unregistered # never without `snoop`
    uint32_t n_maps
    prefix_row_t *maps        # longest prefix first

cdef struct range_t:
    uint32_t first
    uint32_t last

cdef struct layout_t:
    uint64_t serial           # of all layouts of this process: addresses come again, and this does not
    uint8_t has_storm         # some port has
    uint8_t has_snoop         # some network has
    uint8_t has_vm_maps       # some network of a VM port has maps
    uint32_t n_ports
    port_row_t ports[PORTS_MAX]
    uint32_t n_endpoints
    endpoint_row_t endpoints[ENDPOINTS_MAX]
    uint32_t n_vxlan_ports
    uint16_t vxlan_ports[VXLAN_PORTS_MAX]
    uint8_t verify_checksums
    uint8_t strict_reserved
    uint8_t strict_members
    uint8_t nve_allow_from    # scope NVE checks its senders
    address_table_t peers
    address_table_t nves
    uint32_t n_allow_from
    prefix_row_t *allow_from
    uint32_t n_point_ranges
    range_t *point_ranges
    uint32_t n_networks
    network_row_t *networks
    uint32_t *network_index   # open addressing over tagged numbers: first row + 1, 0 empty
    uint32_t network_mask
    rate_t storms[PORTS_MAX][STORMS]  # of VM ports; told once (`_guard.pxd`), so not among what each frame is asked


cdef inline bint address_equal(const address_t *a, const address_t *b) noexcept nogil:
    return a.low == b.low and a.high == b.high


cdef inline bint address_is_ipv4(const address_t *a) noexcept nogil:
    return a.high == 0 and a.low >> 32 == 0xffff


cdef inline bint address_is_multicast(const address_t *a) noexcept nogil:
    if address_is_ipv4(a):
        return (a.low >> 28) & 0xf == 0xe
    return a.high >> 56 == 0xff


cdef inline uint64_t mix(uint64_t h, uint64_t word) noexcept nogil:
    h = (h ^ word) * <uint64_t>0xff51afd7ed558ccd
    return h ^ (h >> 32)


cdef inline uint32_t filter_bit(const address_t *address) noexcept nogil:
    return address.low * <uint64_t>0xff51afd7ed558ccd >> 58


cdef inline uint32_t address_table_find(
    const address_table_t *table, const address_t *address, uint32_t tag
) noexcept nogil:
    """The owner that stands for an address, or OWNER_NONE."""
    cdef uint32_t i
    cdef const address_row_t *row
    if table.filter >> filter_bit(address) & 1 == 0:
        return OWNER_NONE
    i = <uint32_t>mix(mix(tag, address.high), address.low)
    while True:
        row = &table.rows[i & table.mask]
        if row.owner == OWNER_NONE:
            return OWNER_NONE
        if row.tag == tag and address_equal(&row.address, address):
            return row.owner
        i += 1


cdef inline bint prefix_holds(const prefix_row_t *row, const address_t *address) noexcept nogil:
    cdef uint64_t high = row.address.high ^ address.high
    cdef uint64_t low = row.address.low ^ address.low
    if row.bits < 96 and address_is_ipv4(address):
        return False          # ::/0 holds all of IPv6, and nothing else
    if row.bits <= 64:
        return row.bits == 0 or high >> (64 - row.bits) == 0
    return high == 0 and low >> (128 - row.bits) == 0


cdef inline uint32_t network_find(const layout_t *layout, uint32_t tagged_number) noexcept nogil:
    """The first row of the networks with a number in an encapsulation, or NO_ROW."""
    cdef uint32_t i = <uint32_t>mix(0, tagged_number), at
    while True:
        at = layout.network_index[i & layout.network_mask]
        if at == 0:
            return NO_ROW
        if layout.networks[at - 1].tagged_number == tagged_number:
            return at - 1
        i += 1


cdef inline uint32_t tagged_number(const frame_t *f) noexcept nogil:
    return <uint32_t>f.number_encap << 24 | f.number


cdef inline const network_row_t *network_of(const frame_t *f, const layout_t *layout) noexcept nogil:
    """The network of a frame of scope NVE: its port's, or the first with its number; NULL: none has it."""
    cdef uint32_t at = layout.ports[f.in_port].raw_row if f.encap == ENCAP_RAW else network_find(layout, tagged_number(f))
    return NULL if at == NO_ROW else &layout.networks[at]


cdef inline bint allowed_from(const layout_t *layout, uint8_t scope, const address_t *sender) noexcept nogil:
    cdef uint32_t i
    for i in range(layout.n_allow_from):
        if layout.allow_from[i].scope == scope and prefix_holds(&layout.allow_from[i], sender):
            return True
    return False


cdef class LayoutTable:
    cdef layout_t *layout
    cdef readonly object model

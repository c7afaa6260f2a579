"""The compiled layout: built once from a `fastpath.model.Layout`, immutable, shared by FIBs."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from fastpath._bucket cimport RATE_MAX
from fastpath._frame cimport (
    ENCAP_NVGRE, ENCAP_RAW, ENCAP_VXLAN, FACES_CORE, FACES_VM, NUMBER_NONE, OWNER_NONE, PORTS_MAX, SCOPE_DEVICE,
    SCOPE_NVE, address_t,
)

cdef uint64_t n_layouts = 0


cdef int fill_address(address_t *out, object address) except -1:
    cdef object value = int(address)
    if address.version == 4:
        value |= 0xffff << 32
    elif address.ipv4_mapped is not None:
        raise ValueError(f"{address}: an IPv4 address in IPv6 clothes; say {address.ipv4_mapped}")
    out.high = <uint64_t>(value >> 64)
    out.low = <uint64_t>(value & 0xffffffffffffffff)
    return 0


cdef int fill_prefix(prefix_row_t *row, object network) except -1:
    fill_address(&row.address, network.network_address)
    row.bits = <uint8_t>(network.prefixlen + (96 if network.version == 4 else 0))
    return 0


cdef void *allocate(size_t n, size_t size) except NULL:
    cdef void *memory = calloc(n if n else 1, size)
    if memory == NULL:
        raise MemoryError
    return memory


cdef int fill_addresses(address_table_t *table, list rows) except -1:
    """`rows` of (address, tag, owner); an empty table has one empty row."""
    cdef uint32_t size = 1, i
    cdef address_row_t row
    while size < 2 * len(rows):
        size *= 2
    table.rows = <address_row_t *>allocate(size, sizeof(address_row_t))
    table.mask = size - 1
    for i in range(size):
        table.rows[i].owner = OWNER_NONE
    for address, tag, owner in rows:
        fill_address(&row.address, address)
        row.tag = tag
        row.owner = owner
        if address_table_find(table, &row.address, row.tag) != OWNER_NONE:
            continue
        table.filter |= <uint64_t>1 << filter_bit(&row.address)
        i = <uint32_t>mix(mix(row.tag, row.address.high), row.address.low)
        while table.rows[i & table.mask].owner != OWNER_NONE:
            i += 1
        table.rows[i & table.mask] = row
    return 0


cdef int fill_switches(layout_t *out, object model) except -1:
    cdef uint32_t i
    out.verify_checksums = model.verify_checksums
    out.strict_reserved = model.strict_reserved
    out.strict_members = model.strict_members
    out.n_vxlan_ports = len(model.vxlan_ports)
    for i, port in enumerate(model.vxlan_ports):
        out.vxlan_ports[i] = port
    out.point_ranges = <range_t *>allocate(len(model.point_vnis), sizeof(range_t))
    out.n_point_ranges = len(model.point_vnis)
    for i, (first, last) in enumerate(model.point_vnis):
        out.point_ranges[i].first = first
        out.point_ranges[i].last = last
    out.n_endpoints = len(model.endpoints)
    for i, endpoint in enumerate(model.endpoints):
        fill_address(&out.endpoints[i].address, endpoint.address)
        out.endpoints[i].scope = endpoint.scope
        out.endpoints[i].replicate = endpoint.replicate
    return 0


cdef int fill_guards(port_row_t *row, rate_t *storms, object port) except -1:
    cdef uint32_t i
    rates = () if port.storm is None else (port.storm.broadcast, port.storm.multicast, port.storm.unknown_unicast)
    macs = sorted({int.from_bytes(mac, "big") for mac in port.macs})
    row.drop_tagged = port.drop_tagged
    row.macs = <uint64_t *>allocate(len(macs), sizeof(uint64_t))
    row.n_macs = len(macs)
    for i, mac in enumerate(macs):
        row.macs[i] = mac
    for i, rate in enumerate(rates):
        if rate is None:
            continue
        if not 1 <= rate.pps <= RATE_MAX or not 1 <= rate.burst <= RATE_MAX:
            raise ValueError(
                f"port {port.name}: {rate.pps} frames a second, {rate.burst} at once: expected 1 to {RATE_MAX} each"
            )
        storms[i].pps = rate.pps
        storms[i].burst = rate.burst
        row.has_storm = True
    return 0


cdef int fill_ports(layout_t *out, object model, dict rows) except -1:
    cdef port_row_t *row
    has_nve = SCOPE_NVE in [endpoint.scope for endpoint in model.endpoints]
    nve_ports = {nve.port for nve in model.nves}
    networks = {network.name: network for network in model.networks}
    out.n_ports = len(model.ports)
    for i, port in enumerate(model.ports):
        row = &out.ports[i]
        row.faces = port.faces.value
        row.mtu = port.mtu
        if row.faces == FACES_VM:
            fill_guards(row, out.storms[i], port)
            out.has_storm |= row.has_storm
        row.is_down = not port.is_up
        row.group_scope = SCOPE_NVE if has_nve and row.faces == FACES_CORE else SCOPE_DEVICE
        if port.group_scope is not None:
            row.group_scope = port.group_scope
        row.has_nves = i in nve_ports
        row.raw_encap = ENCAP_RAW
        row.raw_number = row.raw_vni = NUMBER_NONE
        row.raw_row = NO_ROW
        network = networks.get(port.network)
        if network is not None:
            row.raw_encap = network.encap
            row.raw_number = network.number(network.encap)
            if row.faces == FACES_VM:
                row.raw_vni = network.vni
                row.raw_row = rows[network.name, network.encap]
                out.has_vm_maps |= out.networks[row.raw_row].n_maps != 0
    return 0


cdef int fill_senders(layout_t *out, object model, object owner_id) except -1:
    fill_addresses(&out.peers, [(p.address, p.scope, owner_id(None, p.address)) for p in model.peers])
    fill_addresses(&out.nves, [(n.address, n.port, owner_id(n.port, n.address)) for n in model.nves])
    out.allow_from = <prefix_row_t *>allocate(len(model.allow_from), sizeof(prefix_row_t))
    out.n_allow_from = len(model.allow_from)
    for i, allow in enumerate(model.allow_from):
        fill_prefix(&out.allow_from[i], allow.prefix)
        out.allow_from[i].scope = allow.scope
        if allow.scope == SCOPE_NVE:
            out.nve_allow_from = True
    return 0


cdef dict fill_networks(layout_t *out, object model):
    """Which row each network has in each encapsulation, by its name."""
    cdef network_row_t *row
    cdef uint32_t size = 1, i
    numbered = []
    for network in model.networks:
        vsid = <uint32_t>NUMBER_NONE if network.vsid is None else network.vsid
        numbered.append((ENCAP_VXLAN << 24 | network.vni, vsid, network))
        if network.vsid is not None:
            numbered.append((ENCAP_NVGRE << 24 | network.vsid, network.vni, network))
    numbered.sort(key=lambda entry: entry[0])
    out.networks = <network_row_t *>allocate(len(numbered), sizeof(network_row_t))
    out.n_networks = len(numbered)
    while size < 2 * len(numbered):
        size *= 2
    out.network_index = <uint32_t *>allocate(size, sizeof(uint32_t))
    out.network_mask = size - 1
    for place, (tagged_number, other_number, network) in enumerate(numbered):
        row = &out.networks[place]
        row.tagged_number = tagged_number
        row.other_number = other_number
        row.vni = network.vni
        row.clear_reserved = network.clear_reserved
        row.snoop = network.snoop
        row.drop_unregistered = network.snoop and network.drop_unregistered
        out.has_snoop |= row.snoop
        if network.group is not None:
            row.has_group = True
            fill_address(&row.group, network.group)
        maps = sorted(network.maps, key=lambda entry: -entry.inner.prefixlen)
        row.maps = <prefix_row_t *>allocate(len(maps), sizeof(prefix_row_t))
        row.n_maps = len(maps)
        for i, entry in enumerate(maps):
            fill_prefix(&row.maps[i], entry.inner)
            fill_address(&row.maps[i].group, entry.group)
        if place == 0 or numbered[place - 1][0] != tagged_number:
            i = <uint32_t>mix(0, row.tagged_number)
            while out.network_index[i & out.network_mask] != 0:
                i += 1
            out.network_index[i & out.network_mask] = place + 1
    return {(network.name, tagged_number >> 24): place for place, (tagged_number, _, network) in enumerate(numbered)}


cdef class LayoutTable:
    """A `Layout` as the data path reads it.

    `owner_id` maps an `Owner` to the number it has in egresses too. Raises ValueError where a bound of
    the data path is exceeded.
    """

    def __cinit__(self, model, owner_id):
        global n_layouts
        self.model = model
        for what, have, most in (
            ("ports", len(model.ports), PORTS_MAX),
            ("endpoints", len(model.endpoints), ENDPOINTS_MAX),
            ("vxlan_ports", len(model.vxlan_ports), VXLAN_PORTS_MAX),
        ):
            if have > most:
                raise ValueError(f"{have} {what}: the data path has room for {most}")
        self.layout = <layout_t *>allocate(1, sizeof(layout_t))
        n_layouts += 1
        self.layout.serial = n_layouts
        fill_switches(self.layout, model)
        fill_ports(self.layout, model, fill_networks(self.layout, model))
        fill_senders(self.layout, model, owner_id)

    def __dealloc__(self):
        cdef uint32_t i
        if self.layout == NULL:
            return
        if self.layout.networks != NULL:
            for i in range(self.layout.n_networks):
                free(self.layout.networks[i].maps)
        for i in range(self.layout.n_ports):
            free(self.layout.ports[i].macs)
        free(self.layout.networks)
        free(self.layout.network_index)
        free(self.layout.peers.rows)
        free(self.layout.nves.rows)
        free(self.layout.allow_from)
        free(self.layout.point_ranges)
        free(self.layout)

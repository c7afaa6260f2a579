# The vocabulary of the data path: frames, batches, verdicts, drop reasons, egresses, counters, limits.
#
# A frame is a place, a size and what classification found out about it; it is never a Python object.
# Offsets count from the first byte of the outer Ethernet header.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    BATCH_MAX = 256           # frames that travel together
    PORTS_MAX = 256
    EGRESSES_MAX = 1 << 20    # per-egress counters are one array of this size, touched as used
    LISTS_MAX = 1 << 20       # lists whose frames are counted singly, likewise
    HEAD_MAX = 80             # Ethernet 14 + IPv6 40 + UDP 8 + VXLAN 8, rounded up
    TRAIN_SEGMENTS_MAX = 128  # the kernel's limit (LIMITS trap 1)
    TRAIN_SIZE_MAX = 65000    # payload of a super-frame, with room for every header below 64 KB
    TRAIN_HEAD_MAX = 128      # its headers: Ethernet 14 + IPv6 40 + TCP 60, rounded up
    FRAME_SIZE_MAX = 1 << 18  # the largest snap length in use; IP packets themselves end at 64 KB

cdef enum encap_t:
    ENCAP_VXLAN = 0
    ENCAP_NVGRE = 1
    ENCAP_RAW = 2
    ENCAP_ANY = 255

cdef enum scope_t:
    SCOPE_DEVICE = 0
    SCOPE_REPLICATOR = 1
    SCOPE_NVE = 2

cdef enum faces_t:
    FACES_NVE = 1
    FACES_CORE = 2
    FACES_VM = 4

cdef enum source_class_t:
    CLASS_LOCAL = 0
    CLASS_REMOTE = 1
    CLASS_ALL = 2
    CLASS_UP = 3              # of a LOCAL frame the remote segment alone (8.3)

cdef enum verdict_t:
    VERDICT_REPLICATE = 0
    VERDICT_PUNT = 1
    VERDICT_DROP = 2
    VERDICT_PENDING = 3       # between the passes only

cdef enum mark_t:
    MARK_NONE = 0
    MARK_UNFINISHED = 1       # the checksum at mark_start + mark_offset is still to be made
    MARK_UNSPLIT = 2          # a super-frame that its port could not split: dropped

cdef enum:                    # drop reasons: the order of fastpath/reasons.py, where each has its sentence
    REASON_NOT_OURS
    REASON_TRUNCATED
    REASON_BAD_MARK
    REASON_GSO_UNSUPPORTED
    REASON_BAD_IP_HEADER
    REASON_TOO_MANY_EXTENSIONS
    REASON_BAD_LENGTH
    REASON_BAD_IP_CHECKSUM
    REASON_FRAGMENT
    REASON_BAD_UDP_CHECKSUM
    REASON_NO_VNI_FLAG
    REASON_RESERVED_BITS
    REASON_BAD_GRE
    REASON_RESERVED_VSID
    REASON_INNER_TAG
    REASON_BAD_NESTING
    REASON_BAD_SOURCE
    REASON_WRONG_SOURCE
    REASON_TAGGED_FRAME
    REASON_OWN_SOURCE
    REASON_UNKNOWN_PEER
    REASON_WRONG_POINT
    REASON_UNKNOWN_GROUP
    REASON_UNKNOWN_VNI
    REASON_AMBIGUOUS_GROUP
    REASON_WRONG_GROUP
    REASON_NOT_A_MEMBER
    REASON_ECN_NOT_CAPABLE
    REASON_UNREGISTERED_GROUP
    REASON_NO_RECEIVER
    REASON_STORM_BROADCAST    # the storms in the order of storm_kind_t
    REASON_STORM_MULTICAST
    REASON_STORM_UNKNOWN
    REASON_PUNT_LIMIT
    REASON_PUNT_FULL
    REASON_OVER_MTU           # from here on: copies
    REASON_NO_NEIGHBOUR
    REASON_LINK_DOWN
    REASON_NO_VSID
    REASON_TAG_IN_NVGRE
    REASON_NO_HEADER
    REASON_PORT_REFUSED
    REASON_RING_FULL          # counted by the ports, never by the engine
    REASON_LEARN_LOST         # lessons, not frames
    N_REASONS
    REASON_NONE = 255

cdef enum:
    OWNER_NONE = 0xffffffff
    NUMBER_NONE = 0xffffffff

# An IP address as two host-order words; IPv4 is mapped (::ffff:a.b.c.d), so that one comparison serves both.
cdef struct address_t:
    uint64_t high
    uint64_t low

cdef struct key_t:
    address_t group
    address_t source
    uint64_t kind_scope_encap_number   # 8 bits each of kind, scope, encap; 24 of number

# One replication list: this head, then n_local + n_remote egress ids, then n_numbers words of
# encap << 24 | number: the networks that may use this group, ascending.
cdef struct entry_t:
    key_t key
    uint32_t n_local
    uint32_t n_remote
    uint32_t n_numbers
    uint32_t list_id          # where its frames are counted; 0: not counted by itself

cdef struct frame_t:
    uint8_t *data
    const entry_t *entry      # set by lookup
    const entry_t *refined    # what takes its place, for frames of a FIB or layout that knows of tenants (8.2, 8.3)
    uint64_t time_ns
    uint32_t size             # bytes at data
    uint16_t in_port
    uint16_t mark_start       # with `marked`: the unfinished checksum (LIMITS trap 12)
    uint16_t mark_offset
    uint16_t vlan_tpid        # 0: no tag came out of band (LIMITS trap 13)
    uint16_t vlan_tci
    uint8_t marked            # mark_t
    uint8_t verdict
    uint8_t reason
    # found by parsing
    uint8_t encap
    uint8_t number_encap      # what `number` is a number of: `encap`, or that of a RAW frame's network
    uint8_t version           # of MT
    uint8_t ut_version
    uint8_t nested
    uint8_t to_group          # MT goes to a multicast address
    uint8_t verified          # the outer UDP sum is right by our own hand, or will be: while `marked`
    uint8_t inner_version     # 0: no complete IP header inside
    uint8_t inner_tagged
    uint8_t of_tenant         # with PUNT: IGMP or MLD inside a network that snoops
    uint8_t tos               # of MT, or of the inner packet of a RAW frame
    uint16_t ut               # the outermost IP header
    uint16_t mt               # the IP header of the tunnel packet itself
    uint16_t transport        # its UDP or GRE header
    uint16_t overlay          # its VXLAN or GRE header
    uint16_t inner            # the inner Ethernet frame
    uint16_t inner_ip
    uint32_t end              # of MT
    uint32_t inner_end
    uint32_t number           # VNI or VSID
    uint32_t flow
    # found by classification
    uint8_t scope
    uint8_t source_class
    uint8_t endpoint          # addressed to an endpoint of ours, place in the layout; 255: to a group, or RAW
    uint8_t allowed           # by an allow_from prefix
    uint8_t from_nve          # owner_sender is a local NVE's, not a peer's
    uint8_t unknown_unicast   # the MAC table was asked for its destination, and has none
    uint32_t owner_port
    uint32_t owner_sender
    address_t group           # MT's destination, or the group recovered from the number

cdef struct batch_t:
    uint32_t n
    uint32_t capacity
    uint32_t n_punts          # set by classification
    bint stepwise             # classification ends the batch with its first frame to punt; the rest comes in again
    frame_t frames[BATCH_MAX]

cdef enum:                    # keep: what a copy keeps of the frame: from here to the end of MT or of the datagram
    KEEP_MT = 0
    KEEP_OVERLAY = 1
    KEEP_INNER = 2

cdef enum:                    # patches of a program: which fields of the head a frame fills
    PATCH_GROUP_MAC = 1       # destination MAC and EtherType from MT's destination
    PATCH_IPV4 = 2            # total length, TOS, identification, header checksum
    PATCH_IPV6 = 4            # payload length, traffic class
    PATCH_SOURCE = 8          # the source address is MT's
    PATCH_GROUP = 16          # the destination address is MT's
    PATCH_PORTS = 32          # both UDP ports are MT's, its checksum is carried over
    PATCH_FLOW_PORT = 64      # the UDP source port comes from the flow
    PATCH_NUMBER = 128        # VNI or VSID
    PATCH_FLOW_ID = 256       # behind the VSID
    PATCH_UDP_FULL = 512      # IPv6: the checksum is computed over all
    PATCH_GRE_TYPE = 1024     # last two bytes of the head: the EtherType of MT

# One way to make a copy: strip to `keep`, prepend `head`, patch. Built in Python by fastpath/encap.
cdef struct program_t:
    uint8_t head[HEAD_MAX]
    uint32_t address_sum      # of the addresses that stand in the head
    uint32_t ip_sum           # IPv4: of the rest of the header, as it stands in the head
    uint16_t patches
    uint8_t valid
    uint8_t keep
    uint8_t head_size
    uint8_t ip                # offsets in the head; 0: there is none
    uint8_t udp
    uint8_t number
    uint8_t version           # of the IP header in the head; 0: none, the frame's own serves
    uint8_t rides             # bytes of the head that go before each segment of a train; 255: cannot ride
    uint8_t _pad[14]

cdef struct egress_t:
    uint32_t owner
    uint32_t vni              # NUMBER_NONE: the frame's
    uint16_t out_port
    uint8_t form
    uint8_t encap             # ENCAP_ANY: as it came
    uint32_t egress_class     # equal: alike in all but addresses; see _copy.pxd
    uint8_t unresolved        # the MAC of the next hop is not known
    uint8_t _pad[15]
    program_t native          # for frames that keep their overlay header
    program_t made            # for frames whose overlay header is made anew; ENCAP_ANY: native of NVGRE

# Per egress and worker; not part of a FIB, so that counts survive its exchange.
cdef struct egress_state_t:
    uint64_t copies
    uint64_t bytes
    uint64_t kept             # of the copies: those that went under the IP header they came with
    uint64_t dropped

cdef enum:                    # stages of a burst
    STAGE_RECEIVE
    STAGE_CLASSIFY
    STAGE_REPLICATE
    N_STAGES

cdef struct counters_t:
    uint64_t bursts
    uint64_t received
    uint64_t verdicts[3]
    uint64_t drops[N_REASONS]  # frames and copies, each in its unit
    uint64_t copies_out
    uint64_t trains
    uint64_t train_copies
    uint64_t unknown_unicast
    uint64_t stage_ns[N_STAGES]
    uint64_t port_received[PORTS_MAX]
    uint64_t port_copies[PORTS_MAX]

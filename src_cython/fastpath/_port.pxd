# What passes between replication and a port: runs, requests to send, and the operations of a port.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from fastpath._trie cimport directory_t
from fastpath._frame cimport batch_t, egress_state_t, frame_t
from fastpath._layout cimport layout_t

# One frame, or the frames of a train, and what their copies have in common. Indices are the keeps.
cdef struct run_t:
    frame_t *frame            # the first; of a train, the one whose headers serve for all
    uint32_t n_frames
    uint8_t sums_known        # bit per keep
    uint32_t sums[3]          # ones' complement sums of the kept bytes
    const uint8_t *kept[3]
    uint32_t kept_size[3]     # of a train: of its first frame

# The transport header of a train, which ends its head: whose checksum the kernel makes in every segment.
cdef struct train_t:
    uint8_t protocol          # UDP, or of tenants' own trains also TCP
    uint8_t size
    uint8_t last_flags        # TCP: of the last segment

cdef struct port_t

# One run to consecutive egresses of one list, all on one port, never expanded: a port may fan out by itself.
cdef struct tx_t:
    run_t *run
    const uint32_t *egresses
    uint32_t n_egresses
    bint more                 # behind these there are egresses of the list, perhaps on other ports
    uint16_t out_port
    const directory_t *directory
    const layout_t *layout
    egress_state_t *states
    uint64_t *drops           # by reason
    # a train: all of the egresses ride it. NULL: a single frame.
    const uint8_t *train
    uint32_t train_size
    train_t transport
    port_t *unsettled         # set by a port that holds copies back, to send them together with those of its neighbours

# A port as the engine calls it, from one thread at a time. `receive` fills the batch (at most `capacity` frames) and returns their
# number, 0 for none now, or -errno where the port can never receive again; it does not wait. `transmit` sends the copies, and returns
# how many the port took; each other one that it was asked for it counts in `drops` (tx_refuse). A negative result refuses a whole
# train of which nothing was sent: its frames are then asked for one by one, at the same egresses. What it holds back it says in
# `unsettled`, and `settle` sends it: run and train are valid until then. `flush` ends a burst and returns how many copies came to nothing
# although `transmit` had counted them as taken (each is counted in `drops` by then, and not in its egress's state), or -errno; `release`
# gives a batch back, once, after the flush. All three may be NULL, and one of the first two.
cdef struct port_t:
    int (*receive)(port_t *port, batch_t *batch) noexcept nogil
    int64_t (*transmit)(port_t *port, tx_t *tx) noexcept nogil
    void (*settle)(port_t *port) noexcept nogil
    int (*flush)(port_t *port) noexcept nogil
    void (*release)(port_t *port, batch_t *batch) noexcept nogil
    void *state               # the port's own
    int fd                    # readable while frames wait; -1: nothing to wait for, what is there is there
    uint16_t index            # its place among the ports of the layout
    bint trains               # takes super-frames; a port may find out later that it does not
    bint steps                # `release` keeps for the next burst what the batch no longer has
    bint is_inner             # what waits has been received once: it is forwarded before any port receives more


cdef class IoPort:
    cdef port_t port

# Replication: frames with their lists become runs, and runs requests to the ports.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from fastpath._trie cimport fib_t
from fastpath._frame cimport BATCH_MAX, PORTS_MAX, TRAIN_SIZE_MAX, batch_t, counters_t, egress_state_t
from fastpath._port cimport port_t, run_t

cdef enum:
    OVERLAY_TRAIN = 0         # segments: VXLAN header and inner frame
    NESTED_TRAIN = 1          # segments: GRE header and the whole packet to the group
    MADE_TRAIN = 2            # segments: a VXLAN header of our own and the inner frame
    INNER_TRAIN = 3           # segments: what inner frames carry in UDP or TCP
    N_TRAINS = 4

# What one worker needs to replicate; allocated once.
cdef struct replicator_t:
    uint32_t n_ports
    port_t *ports[PORTS_MAX]
    bint trains               # gather runs at all: asked for, and some port takes them
    counters_t *counters
    egress_state_t *states
    uint64_t *list_frames     # by list id
    uint32_t n_runs
    run_t runs[BATCH_MAX]
    uint16_t last[BATCH_MAX]  # of a run: place of its last frame
    uint16_t next[BATCH_MAX]  # of a frame: place of the one behind it in its run
    uint16_t open_runs[BATCH_MAX]  # by flow: the run that may still grow, + 1
    uint32_t train_sizes[N_TRAINS]  # of the run at hand; 0: not built yet
    uint32_t made_number      # the VNI in the segments of the MADE_TRAIN
    bint fits_known           # of the run at hand
    uint8_t fits[BATCH_MAX]   # of a frame: may be a segment of an INNER_TRAIN
    uint8_t trains_built[N_TRAINS][TRAIN_SIZE_MAX + 64]

cdef void replicate_batch(replicator_t *r, batch_t *batch, const fib_t *fib) noexcept nogil

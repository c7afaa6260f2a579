# The virtio_net_hdr of a train: what a kernel needs to cut it (LIMITS trap 1).
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from fastpath._ip cimport PROTO_UDP
from fastpath._port cimport tx_t
from fastpath.io._linux cimport (
    VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_HDR_GSO_UDP_L4, virtio_net_hdr,
)


cdef inline void vnet_train(
    virtio_net_hdr *vnet, const tx_t *tx, const uint8_t *head, uint32_t head_size, uint32_t segment_size, uint32_t linear
) noexcept nogil:
    """Describe a train behind a head of `head_size` bytes; `linear`: how many bytes to ask for in one piece of memory."""
    vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM
    vnet.hdr_len = <uint16_t>linear
    vnet.gso_size = <uint16_t>segment_size
    vnet.csum_start = <uint16_t>(head_size - tx.transport.size)
    if tx.transport.protocol == PROTO_UDP:
        vnet.gso_type = VIRTIO_NET_HDR_GSO_UDP_L4
        vnet.csum_offset = 6
    else:
        vnet.gso_type = VIRTIO_NET_HDR_GSO_TCPV4 if head[14] >> 4 == 4 else VIRTIO_NET_HDR_GSO_TCPV6
        vnet.csum_offset = 16

"""Every reason for a drop, once: the name users see, what it counts, where it strikes, one sentence.

The order is the order of the drop reasons in `src_cython/fastpath/_frame.pxd`; `tests/house` compares the
two.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Unit(Enum):
    """What a reason counts. Only frame rows sum to `dropped`; copy rows sum to the copies not sent; ring rows
    are frames, or whole super-frames, that were lost before they were received; record rows are what control
    was not told, of frames that went their way."""

    FRAME = "frame"
    COPY = "copy"
    RING = "ring"
    RECORD = "record"


@dataclass(frozen=True, slots=True)
class Reason:
    """One row of the drop table."""

    name: str
    unit: Unit
    stage: str
    sentence: str


def _frame(name: str, stage: str, sentence: str) -> Reason:
    return Reason(name, Unit.FRAME, stage, sentence)


def _copy(name: str, sentence: str) -> Reason:
    return Reason(name, Unit.COPY, "replicate", sentence)


REASONS: tuple[Reason, ...] = (
    _frame(
        "not_ours",
        "parse",
        "Not a tunnel packet to a group or to one of our addresses; only replay and TAP ports see these.",
    ),
    _frame("truncated", "parse", "The frame ends before its own headers say it should."),
    _frame("bad_mark", "parse", "The mark of an unfinished checksum points outside the frame."),
    _frame("gso_unsupported", "parse", "A super-frame of a kind that cannot be cut into its frames."),
    _frame("bad_ip_header", "parse", "The IP version or header length is impossible."),
    _frame("too_many_extensions", "parse", "More than eight IPv6 extension headers."),
    _frame("bad_length", "parse", "An IP or UDP length contradicts the headers around it."),
    _frame("bad_ip_checksum", "parse", "The IPv4 header checksum is wrong."),
    _frame(
        "fragment",
        "parse",
        "The outer packet is an IP fragment: VTEPs must not fragment (RFC 7348 section 4.3).",
    ),
    _frame("bad_udp_checksum", "parse", "The UDP checksum is neither zero nor right."),
    _frame("no_vni_flag", "parse", "A VXLAN header without the I flag (RFC 7348 section 5)."),
    _frame("reserved_bits", "parse", "Reserved bits are set, and strict_reserved asks to refuse them."),
    _frame(
        "bad_gre", "parse", "A GRE header that is neither NVGRE (RFC 7637) nor our nested tunnel (RFC 8086)."
    ),
    _frame("reserved_vsid", "parse", "An NVGRE VSID of the reserved range 0-0xfff or 0xffffff (RFC 7637)."),
    _frame("inner_tag", "parse", "An NVGRE frame with a VLAN tag inside, which RFC 7637 forbids."),
    _frame(
        "bad_nesting", "parse", "A nested tunnel that does not hold exactly one tunnel packet to a group."
    ),
    _frame("bad_source", "guard", "A VM's frame whose source MAC is a group's, or all zero."),
    _frame("wrong_source", "guard", "A VM's frame whose source MAC is not among the macs of its port."),
    _frame("tagged_frame", "guard", 'A VM\'s frame with a VLAN tag, at a port whose tagged is "drop".'),
    _frame("own_source", "lookup", "The outer source is one of our own addresses: our own frame came back."),
    _frame(
        "unknown_peer",
        "lookup",
        "A unicast tunnel packet from a sender that is no peer, member or allow_from.",
    ),
    _frame("wrong_point", "lookup", "The VNI is allocated to another replication point."),
    _frame("unknown_group", "lookup", "No replication list for the group."),
    _frame("unknown_vni", "lookup", "No replication list and no network for the VNI or VSID."),
    _frame(
        "ambiguous_group",
        "lookup",
        "The group of a rewritten packet cannot be told from its VNI and inner address.",
    ),
    _frame("wrong_group", "lookup", "The VNI or VSID does not belong to a network of this group."),
    _frame("not_a_member", "lookup", "strict_members: the sender's port or NVE is no member of the group."),
    _frame(
        "ecn_not_capable", "lookup", "Congestion was marked outside a packet that cannot carry it (RFC 6040)."
    ),
    _frame(
        "unregistered_group",
        "lookup",
        'For a tenants\' group that nobody here asked for, in a network with unregistered = "drop".',
    ),
    _frame("no_receiver", "lookup", "The list has nobody left once the sender is excluded."),
    _frame("storm_broadcast", "storm", "A VM's port sends more broadcast than its broadcast_pps allows."),
    _frame("storm_multicast", "storm", "A VM's port sends more multicast than its multicast_pps allows."),
    _frame("storm_unknown", "storm", "A VM's port sends more to unknown MACs than its unknown_pps allows."),
    _frame("punt_limit", "punt", "IGMP or MLD of a port that sends more of it than punt_rate_pps allows."),
    _frame("punt_full", "punt", "IGMP or MLD that found no room: control did not keep up with its port."),
    _copy("over_mtu", "The copy is larger than the out port's MTU, or than an IP packet can be."),
    _copy("no_neighbour", "No route to the peer, or the MAC of its next hop is still being asked for."),
    _copy("link_down", "The interface of the out port is down or gone."),
    _copy("no_vsid", "The copy is to be NVGRE, but its network has no legal VSID."),
    _copy("tag_in_nvgre", "The copy is to be NVGRE, but the inner frame carries a VLAN tag."),
    _copy("no_header", "This egress cannot make an outer header for such a frame."),
    _copy("port_refused", "The out port took no more."),
    Reason("ring_full", Unit.RING, "receive", "The kernel had no room for it in the port's receive ring."),
    Reason(
        "learn_lost",
        Unit.RECORD,
        "learn",
        "The source MAC of a frame was not learned yet: its port shows new ones faster than control hears.",
    ),
)

REASON_NAMES: tuple[str, ...] = tuple(r.name for r in REASONS)

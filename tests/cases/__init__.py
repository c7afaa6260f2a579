"""Cases: one frame into one box, and what must become of it. Run through every engine by `test_reference`.

Well-formed frames and all expected copies are made by scapy, so their checksums are scapy's; frames that are
wrong somewhere come from `tests.frames`. The data is lopsided on purpose: egresses in no order, the first one
not on port 0, numbers whose bytes all differ, odd sizes. A note that begins with a letter and a number names
lines of CONFORMANCE.md.
"""

from __future__ import annotations

from tests.cases import (
    ecn,
    edge,
    groups,
    guards,
    headers,
    overlays,
    point,
    refined,
    senders,
    translations,
    tunnels,
)
from tests.cases.entry import CASES, Case

__all__ = ["CASES", "Case"]

for _part in (
    headers.mark_cases,
    headers.ethernet_cases,
    headers.ip_cases,
    headers.claim_cases,
    headers.sound_cases,
    overlays.nested_cases,
    overlays.overlay_cases,
    overlays.flow_cases,
    senders.class_cases,
    senders.sender_cases,
    groups.key_cases,
    groups.recover_cases,
    groups.network_cases,
    refined.key_cases,
    refined.base_cases,
    refined.recovered_cases,
    refined.point_cases,
    point.point_cases,
    edge.edge_cases,
    guards.guard_cases,
    guards.own_cases,
    ecn.ecn_cases,
    translations.group_cases,
    translations.vsid_cases,
    tunnels.rewrite_cases,
    tunnels.nested_form_cases,
    tunnels.zero_sum_cases,
    tunnels.mtu_cases,
):
    _part()

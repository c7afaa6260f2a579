"""NVGRE (RFC 7637): GRE with a key of VSID and FlowID, Ethernet bridged inside."""

from __future__ import annotations

from fastpath.encap.program import GRE, Keep, Outer, Patch, Program

_KEY_PRESENT_BRIDGED = bytes((0x20, 0x00, 0x65, 0x58, 0, 0, 0, 0))


def native(outer: Outer) -> Program:
    """Readdress: the GRE header stays as it came."""
    return Program(outer.head(GRE), Keep.OVERLAY, outer.patches(), outer.version, ip=14)


def made(outer: Outer) -> Program:
    """Encapsulate the inner frame anew."""
    head = outer.head(GRE) + _KEY_PRESENT_BRIDGED
    patches = outer.patches() | Patch.NUMBER | Patch.FLOW_ID
    return Program(head, Keep.INNER, patches, outer.version, ip=14, number=outer.size() + 4)

"""VXLAN (RFC 7348): UDP, then 8 bytes of flags and VNI."""

from __future__ import annotations

from fastpath.encap.program import UDP, Keep, Outer, Patch, Program, full_sum, udp_header

_FLAGS_AND_VNI = bytes((0x08, 0, 0, 0, 0, 0, 0, 0))


def native(outer: Outer) -> Program:
    """Readdress: the VXLAN header stays as it came, and so do both UDP ports."""
    return Program(
        outer.head(UDP) + udp_header(0),
        Keep.OVERLAY,
        outer.patches() | Patch.PORTS,
        outer.version,
        ip=14,
        udp=outer.size(),
        rides=0,
    )


def made(outer: Outer, port: int) -> Program:
    """Encapsulate the inner frame anew, towards UDP `port`."""
    head = outer.head(UDP) + udp_header(port) + _FLAGS_AND_VNI
    patches = outer.patches() | Patch.FLOW_PORT | Patch.NUMBER | full_sum(outer.version)
    return Program(
        head,
        Keep.INNER,
        patches,
        outer.version,
        ip=14,
        udp=outer.size(),
        number=outer.size() + 12,
        rides=len(_FLAGS_AND_VNI),
    )

"""The device-to-device tunnel: a whole packet to a group inside GRE-in-UDP (RFC 8086, controlled
environment)."""

from __future__ import annotations

from fastpath.encap.program import UDP, Keep, Outer, Patch, Program, full_sum, udp_header

PORT = 4754
GRE_SIZE = 4


def native(outer: Outer) -> Program:
    """Nest the packet as it is; its EtherType goes into the GRE header."""
    return Program(
        outer.head(UDP) + udp_header(PORT) + bytes(GRE_SIZE),
        Keep.MT,
        outer.patches() | Patch.FLOW_PORT | Patch.GRE_TYPE | full_sum(outer.version),
        outer.version,
        ip=14,
        udp=outer.size(),
        rides=GRE_SIZE,
    )

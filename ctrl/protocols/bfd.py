"""BFD on the wire (RFC 5880 section 4.1): bytes in, packets out, and back.

1. What section 6.8.6 has a receiver discard, before it looks for a session, is refused here by name.
2. Authentication is not in use: a packet that carries it is discarded, as section 6.8.6 asks.
3. Intervals are microseconds, as on the wire. No Echo, and the control plane's fate is shared (C is 0): it is
   the control process that answers.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import NamedTuple

PORT = 4784
"""Multihop control packets (RFC 5883 section 5)."""
SENT_TTL = 255
SIZE = 24
MAX_INTERVAL_US = (1 << 32) - 1

_HEADER = Struct(">BBBBIIIII")
_VERSION = 1
_POLL, _FINAL, _AUTHENTICATED, _DEMAND, _MULTIPOINT = 32, 16, 4, 2, 1


class State(IntEnum):
    """Of a session, at either end."""

    ADMIN_DOWN, DOWN, INIT, UP = range(4)


class Diag(IntEnum):
    """Why a session went down last; those of section 4.1 that we tell. A peer may say others."""

    NONE = 0
    EXPIRED = 1
    PEER_DOWN = 3
    ADMIN_DOWN = 7


class Packet(NamedTuple):
    """A control packet. `mine` and `yours`: discriminators, as its sender sees them."""

    state: State
    mine: int
    yours: int = 0
    tx_us: int = 1_000_000
    """Desired Min TX Interval."""
    rx_us: int = 1_000_000
    """Required Min RX Interval."""
    multiplier: int = 3
    poll: bool = False
    final: bool = False
    demand: bool = False
    diag: int = Diag.NONE


REFUSALS = {
    "short": "It has fewer bytes than a BFD control packet, 24.",
    "bad_version": "Its version is not 1.",
    "bad_length": "Its Length is below 24, or more than there is.",
    "zero_multiplier": "Its Detect Mult is 0.",
    "multipoint": "It has the Multipoint bit, which must be 0.",
    "zero_discriminator": "Its My Discriminator is 0.",
    "no_your_discriminator": "Its Your Discriminator is 0, in a state in which its sender knows ours.",
    "poll_and_final": "It has both the Poll and the Final bit.",
    "authenticated": "It is authenticated, which is not in use here.",
}
"""Why `read` refuses a packet: names, and a sentence each."""


def read(data: bytes) -> Packet | str:
    """Read a packet, or name the refusal. Bytes behind its Length do not count."""
    if len(data) < SIZE:
        return "short"
    first, second, multiplier, length, mine, yours, tx_us, rx_us, _echo_us = _HEADER.unpack_from(data)
    if first >> 5 != _VERSION:
        return "bad_version"
    if not SIZE <= length <= len(data):
        return "bad_length"
    if second & _AUTHENTICATED:
        return "authenticated"
    if multiplier == 0:
        return "zero_multiplier"
    if second & _MULTIPOINT:
        return "multipoint"
    if mine == 0:
        return "zero_discriminator"
    if second & _POLL and second & _FINAL:
        return "poll_and_final"
    state = State(second >> 6)
    if yours == 0 and state >= State.INIT:
        return "no_your_discriminator"
    poll, final, demand = bool(second & _POLL), bool(second & _FINAL), bool(second & _DEMAND)
    return Packet(state, mine, yours, tx_us, rx_us, multiplier, poll, final, demand, first & 31)


def write(packet: Packet) -> bytes:
    """Write a packet."""
    flags = _POLL * packet.poll | _FINAL * packet.final | _DEMAND * packet.demand
    return _HEADER.pack(
        _VERSION << 5 | packet.diag,
        packet.state << 6 | flags,
        packet.multiplier,
        SIZE,
        packet.mine,
        packet.yours,
        packet.tx_us,
        packet.rx_us,
        0,
    )

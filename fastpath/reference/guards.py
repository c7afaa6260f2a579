"""Section 7 of `src_cython/fastpath/README.md`: what a VM may send, and how much of it.

The buckets count by the frames' own time, as those of the compiled path do where it goes stepwise.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastpath.model import Layout, Port, Rate, Storm
from fastpath.reference.wire import ETHERTYPE_TAGS, Drop, u16

BROADCAST = b"\xff" * 6
SECOND = 1_000_000_000
"""A frame's worth of credit: nanoseconds times frames a second, so that nothing is rounded."""


def guard(data: bytes, port: Port) -> None:
    """Rule 7.1: whether a VM at this port may send such a frame."""
    source = data[6:12]
    if not may_be_source(source):
        raise Drop("bad_source")
    if port.macs and source not in port.macs:
        raise Drop("wrong_source")
    if port.drop_tagged and u16(data, 12) in ETHERTYPE_TAGS:
        raise Drop("tagged_frame")


def may_be_source(mac: bytes) -> bool:
    """Whether a station may have this address: no group's, and not all zero."""
    return not mac[0] & 1 and any(mac)


@dataclass(slots=True)
class Bucket:
    """Rule 7.2: the frames of one kind that a port may still send."""

    rate: Rate
    credit: int
    at_ns: int = 0
    """When `credit` was right; a clock that goes back stands still."""

    def spend(self, now_ns: int) -> bool:
        """Take one frame out, if a whole one is in it."""
        passed = max(0, now_ns - self.at_ns)
        self.credit = min(self.credit + passed * self.rate.pps, self.rate.burst * SECOND)
        self.at_ns += passed
        if self.credit < SECOND:
            return False
        self.credit -= SECOND
        return True


class StormControl:
    """Rule 7.2: a bucket for each port and each kind of frame that may become a storm."""

    def __init__(self, layout: Layout) -> None:
        self.ports = layout.ports
        self.buckets: dict[tuple[int, str], Bucket] = {}

    def check(self, in_port: int, data: bytes, unknown_unicast: bool, now_ns: int) -> None:
        """Let a RAW frame that is to be replicated pass, or drop it."""
        storm = self.ports[in_port].storm
        kind = kind_of(data[:6], unknown_unicast)
        if storm is None or kind is None:
            return
        rate = rate_of(storm, kind)
        if rate is None:
            return
        bucket = self.buckets.setdefault((in_port, kind), Bucket(rate, rate.burst * SECOND))
        if not bucket.spend(now_ns):
            raise Drop(kind)


def kind_of(destination: bytes, unknown_unicast: bool) -> str | None:
    """The reason by which a storm of such frames is dropped; None: known unicast passes."""
    if destination == BROADCAST:
        return "storm_broadcast"
    if destination[0] & 1:
        return "storm_multicast"
    return "storm_unknown" if unknown_unicast else None


def rate_of(storm: Storm, kind: str) -> Rate | None:
    """What a port may send of a kind."""
    rates = {
        "storm_broadcast": storm.broadcast,
        "storm_multicast": storm.multicast,
        "storm_unknown": storm.unknown_unicast,
    }
    return rates[kind]

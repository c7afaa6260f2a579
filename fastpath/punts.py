"""What control wants of the frames that are for it: IGMP and MLD, which the data path punts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from fastpath._punt import PuntRing
from fastpath.model import Encap, Scope


@dataclass(frozen=True, slots=True)
class Punts:
    """How much control may be told at most: `rate_pps` frames a second from each port and `burst` at once,
    and what waits in `ring_size` bytes (a power of two; up to 31 beside each frame) for each worker.

    Each worker has its own share of rate and burst, rounded down and at least 1: the kernel spreads flows
    among workers, so one sender is with one worker and ends at that share. `stepwise` is for replay: a burst
    ends with the first frame that control is told of, so that control can act before the next frame is
    looked at, and rates count by the frames' own clock.
    """

    rate_pps: int = 10_000
    burst: int = 20_000
    ring_size: int = 1 << 22
    stepwise: bool = False

    def __post_init__(self) -> None:
        if self.rate_pps < 1 or self.burst < 1:
            raise ValueError(
                f"punts of {self.rate_pps} a second, {self.burst} at once: expected at least 1 each"
            )

    def share(self, n_workers: int) -> tuple[int, int]:
        """Rate and burst of one worker of so many."""
        return max(1, self.rate_pps // n_workers), max(1, self.burst // n_workers)


class Inner(NamedTuple):
    """A tenant's frame within a punted one: bytes `start` to `end`, of the network with `number`.

    `encap` is what carried it, RAW for a VM's own; then `number` is that of its port's network in the
    network's own encapsulation. `scope` is that of the frame: whose it is to hand it on.
    """

    encap: Encap
    number: int
    start: int
    end: int
    scope: Scope = Scope.NVE


class Punted(NamedTuple):
    """A frame for control. `inner` is set where it is a tenant's IGMP or MLD, of a network that snoops."""

    in_port: int
    time_ns: int
    frame: bytes
    inner: Inner | None = None

    @property
    def inner_frame(self) -> bytes:
        """The tenant's Ethernet frame; empty where there is none."""
        return b"" if self.inner is None else self.frame[self.inner.start : self.inner.end]


def read_punted(ring: PuntRing, at_most: int) -> list[Punted]:
    """Take what a worker has for control, oldest first."""
    return [
        Punted(in_port, time_ns, frame, inner and Inner(Encap(inner[0]), *inner[1:4], Scope(inner[4])))
        for in_port, time_ns, frame, inner in ring.read(at_most)
    ]

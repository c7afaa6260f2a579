"""What a manager is set to, and what it shows of itself."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import NamedTuple

from ctrl.topology.entry import Address


@dataclass(frozen=True, slots=True)
class ManagerSettings:
    """The bounds and times of `[manager]`. Seconds."""

    hold_s: float = 30
    """How long a silent node's tunnels stay, and a session may be silent."""
    max_nodes: int = 10_000
    max_groups: int = 200_000
    max_groups_per_node: int = 100_000
    max_devices_per_group: int = 1024


class DeviceRow(NamedTuple):
    """A node, for `show devices`; what is not known of a node that another manager serves is None."""

    node: str
    role: str
    address: Address
    state: str
    """live; held: it is gone, its tunnels stay for the hold time; dead: a point that gets no copies."""
    manager: str | None
    """Who serves it."""
    session: int | None
    revision_told: int | None
    revision_acked: int | None
    groups: int
    last_s: float | None
    """How long ago it was heard."""


class SessionRow(NamedTuple):
    """A session, for `show sessions`."""

    session: int
    node: str
    role: str
    since_s: float
    last_s: float
    unwritten: int
    """Groups that it said and that are not in the store yet."""
    pending: int
    """Keys that it has to be told of."""
    in_flight: int
    """Keys that it was told of and has not acknowledged."""
    revision_told: int
    revision_acked: int


BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Convergence:
    """How long it took from hearing second information to each acknowledgement of what it changed."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        """One a bucket of `BUCKETS_S`, not cumulative, and one for what took longer."""
        self.sum_s = 0.0

    @property
    def count(self) -> int:
        return sum(self.counts)

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_s += seconds

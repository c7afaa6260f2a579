"""What a manager is set to, what it refuses by which name, and what it shows of itself."""

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


REFUSALS = {
    # of a hello: the session ends
    "wrong_identity": "A node spoke for another one: its certificate has another name.",
    "unknown_role": "A node that is neither a device nor a replication point.",
    "bad_node": "A node whose name, addresses or networks no node can have.",
    "address_claimed": "A node claimed an address that another node has.",
    "old_generation": "A node came that had been started before the one that is known.",
    "nodes_full": "max_nodes: there are as many nodes as may be.",
    # of second information
    "groups_full": "max_groups: there are as many groups as may be.",
    "node_groups_full": "max_groups_per_node: a node is in as many groups as it may.",
    "group_devices_full": "max_devices_per_group: a group has as many devices as it may.",
    "not_a_group": "A key that is no multicast group.",
    "bad_networks": "Networks of a group that no networks can be, or too many.",
    "not_a_device": "Second information of a replication point.",
    # of the rest
    "refused_by_node": "A node refused an entry that it was told: its own bounds forbid it.",
    "unknown_point": "The state of a point that no point has the address of.",
    "late": "A message or a result for a session that had ended.",
    "second_hello": "A node said hello twice in one session.",
}
"""What is refused, by name: the sentence that explains it."""


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

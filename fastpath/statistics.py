"""What the data path counted, as values. Every snapshot holds: received = replicated + punted + dropped."""

from __future__ import annotations

from dataclasses import dataclass

from fastpath.model import Egress, GroupKey
from fastpath.reasons import Reason, Unit


@dataclass(frozen=True, slots=True)
class DropCount:
    """How often one reason struck, in the unit of the reason."""

    reason: Reason
    count: int


@dataclass(frozen=True, slots=True)
class EgressCount:
    """What left, and did not leave, by one egress."""

    egress: Egress
    copies: int
    bytes: int
    dropped: int


@dataclass(frozen=True, slots=True)
class ListCount:
    """Frames that were replicated by one list."""

    key: GroupKey
    frames: int


@dataclass(frozen=True, slots=True)
class PortCount:
    """Frames that came in by a port and copies that left by it."""

    name: str
    received: int
    copies_out: int


@dataclass(frozen=True, slots=True)
class StageTime:
    """Time spent in one stage of the burst, over all frames."""

    stage: str
    ns: int


@dataclass(frozen=True, slots=True)
class WorkerCount:
    """What one worker did, and how long it took in each stage of its bursts. `cpu` None: not pinned."""

    worker: int
    cpu: int | None
    received: int
    copies_out: int
    trains: int
    train_copies: int
    bursts: int
    stages: tuple[StageTime, ...]


@dataclass(frozen=True, slots=True)
class Statistics:
    """A consistent snapshot: each worker's part is taken between two of its bursts."""

    received: int
    replicated: int
    punted: int
    dropped: int
    copies_out: int
    trains: int
    train_copies: int
    bursts: int
    drops: tuple[DropCount, ...]
    """Only reasons that struck, in the order of `fastpath.reasons`."""
    ports: tuple[PortCount, ...]
    egresses: tuple[EgressCount, ...]
    """Only egresses that were used, or should have been."""
    lists: tuple[ListCount, ...]
    """All lists that were published one by one, unused ones included; those filled from columns are not
    counted singly."""
    stages: tuple[StageTime, ...]
    """Of all workers together."""
    workers: tuple[WorkerCount, ...]
    unknown_unicast: int = 0
    """Of the replicated: frames of our own NVE to a MAC that is not known, and so to the whole list."""

    @property
    def copies_dropped(self) -> int:
        """Copies wanted but not sent: copies wanted = copies out + this."""
        return sum(row.count for row in self.drops if row.reason.unit is Unit.COPY)

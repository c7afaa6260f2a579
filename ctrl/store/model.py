"""The one interface of the stores: keys with values and revisions, after etcd's model.

1. Every commit that changes something gives the store its next revision; an item's revision is that of its
   last change. Comparisons are by it, 0 for a key that is not there: so two managers never undo each other.
2. What a manager knows comes by `changes` alone, its own writes too, in the order of revisions.
3. A leased key lives as long as who wrote it: gone soon after its process is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

LEASE_S = 10
"""How long leased keys outlive who wrote them, and how long a store may be away before it counts as such."""
MAX_WRITE_KEYS = 100
MAX_WRITE_BYTES = 1 << 20
"""Of keys and values of one Write: etcd takes 128 operations and 1.5 MiB at once."""


class Item(NamedTuple):
    """A key and its value from `revision` on; None: it is gone."""

    key: str
    value: bytes | None
    revision: int


@dataclass(frozen=True, slots=True)
class Write:
    """What is written together or not at all. `when`: the revision that each of these keys must have."""

    puts: Mapping[str, bytes | None]
    """None removes the key."""
    when: Mapping[str, int] = field(default_factory=dict)
    is_leased: bool = False


def check_write(write: Write) -> None:
    """ValueError for a Write that etcd would not take: it is to be made in parts."""
    size = sum(len(key) + len(value or b"") for key, value in write.puts.items())
    if len(write.puts) > MAX_WRITE_KEYS or len(write.when) > MAX_WRITE_KEYS or size > MAX_WRITE_BYTES:
        first = next(iter(write.puts), "")
        raise ValueError(
            f"a write of {len(write.puts)} keys ({first} ...), {len(write.when)} comparisons, {size} bytes:"
            f" at most {MAX_WRITE_KEYS} and {MAX_WRITE_BYTES}"
        )


@dataclass(frozen=True, slots=True)
class Changes:
    """Items that changed, up to and including `revision`. `is_all`: these are all there are; what was known
    before is to be forgotten (the start, and after changes were missed to a compaction)."""

    revision: int
    items: Sequence[Item]
    is_all: bool = False


class StoreError(Exception):
    """The store cannot be used: a sentence with its address, and what it said."""


class Store(Protocol):
    """A store that is open. For one loop."""

    @property
    def id(self) -> str:
        """Which store it is: another one after it was emptied, the same after a restart."""

    @property
    def age_s(self) -> float:
        """How long ago it was made, by the wall clock."""

    @property
    def is_reachable(self) -> bool:
        """False once nothing was read or written for longer than a lease lives: who is served by this manager
        had better go to another one."""

    def changes(self) -> AsyncIterator[Changes]:
        """All there is, and then every change; what comes at once may come together. A server that is away is
        waited for. StoreError: the store was emptied or restored under us, or it lets us in no more; then
        whoever reads is to start anew. For one reader."""

    async def commit(self, writes: Sequence[Write]) -> list[bool]:
        """Write each of these; False where a comparison failed. Waits while the store is away. Those with a
        key in common are done in this order, others in any. ValueError (`check_write`), StoreError."""

    async def close(self) -> None:
        """Give it back, and its leased keys with it."""

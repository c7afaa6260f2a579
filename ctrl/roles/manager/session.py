"""What a manager knows of a node that it serves: what it said and what of it is not in the store yet, what it
was told and what of it is in force."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ctrl.rpc.messages import Hello
from ctrl.topology.entry import Key, Node
from ctrl.topology.records import Networks

Said = tuple[dict[Key, Networks], dict[Key, Networks]]
"""By `is_tenant`: groups, and what tenants want, each up to the same bound."""


@dataclass(frozen=True, slots=True)
class Flight:
    """A batch of instructions that waits for its acknowledgement."""

    number: int
    revision: int
    keys: set[Key] | None
    """None for all there are."""
    with_vnis: bool
    cause_s: float | None
    sent_s: float


@dataclass(slots=True, eq=False)
class Session:
    """One node, for as long as its stream."""

    number: int
    hello: Hello
    keepalive_s: float
    since_s: float
    last_s: float
    """When it was heard."""
    is_open: bool = True

    # --- its live key
    known: int = -1
    """The revision of the node's live key when ours was written; -1 before."""
    is_claimed: bool = False
    """Ours came back by the store, be it gone by now."""
    live: int = 0
    """That of ours, once it came back by the store; 0 before."""
    claim_puts: dict[str, bytes | None] = field(default_factory=dict)
    claim_when: dict[str, int] = field(default_factory=dict)
    """Who it is, as far as the store does not know it, and what that write compares."""

    # --- second information
    revision: int | None = None
    """Of what it said, None before its full state came."""
    parts: Said = field(default_factory=lambda: ({}, {}))
    parts_revision: int = -1
    """A full state that came in part, and its revision."""
    full: Said | None = None
    """A full state that could not be compared with the store yet."""
    is_compared: bool = False
    pending: dict[Key, Networks | None] = field(default_factory=dict)
    """What it said, of keys where the store may know otherwise; None: it left."""
    shards: dict[int, None] = field(default_factory=dict)
    """Those of `pending` that are to be written."""
    first_shards: set[int] = field(default_factory=set)
    """Those of its first full state that are not in the store yet."""
    joins: set[Key] = field(default_factory=set)
    """Of `pending`, those that count as joined and are not in the store."""
    n_keys: Counter[bool] = field(default_factory=Counter)
    """How many it is in: groups (False), and what tenants want (True)."""
    is_resend_asked: bool = False
    unaware: str = ""
    """By what it was refused something that tenants want, "" for nothing: until it says its full state again,
    it does not count as aware."""
    heard_s: float | None = None
    """When the oldest of `pending` was heard that is not being written."""

    # --- the write on its way, of which there is one at most
    is_writing: bool = False
    writing_heard_s: float | None = None
    writing_shards: set[int] = field(default_factory=set)
    unseen: dict[str, bytes | None] = field(default_factory=dict)
    """What of it did not come back by the store yet."""

    # --- instructions
    is_ready: bool = False
    """Its full state is in the store: from now on it is told."""
    dirty: set[Key] = field(default_factory=set)
    is_full_due: bool = False
    is_vnis_due: bool = False
    is_scheduled: bool = False
    cause_s: float | None = None
    """When the oldest second information was heard that made something of `dirty` so."""
    flight: Flight | None = None
    n_batches: int = 0
    told: int = 0
    """The revision of the last batch."""
    told_at_s: float = 0
    """When that was made."""
    in_force: int = 0
    """All that concerns it up to this revision is in force there."""
    refused: set[Key] = field(default_factory=set)
    """Keys of which it refused what it was told last."""
    patience_s: float = 0

    # --- points
    down: set[str] = field(default_factory=set)
    """Points that its probes do not reach."""

    @property
    def node(self) -> Node:
        """Who it is."""
        return self.hello.node

    @property
    def is_due(self) -> bool:
        """There is something that it is to be told."""
        return bool(self.dirty) or self.is_full_due or self.is_vnis_due

    @property
    def is_current(self) -> bool:
        """It was told all there is, and acknowledged it."""
        return self.is_ready and self.flight is None and not self.is_due

"""What a node (a device, a replication point) and a manager say to each other, as plain values.

1. State, not events: what is said may be said again, and the newest word about a key counts. So a message
   that was lost is made good by the next full state, and none is worse for coming twice.
2. A session is one stream: the node's `Hello` first, then a full `Groups`, then differences; the manager's
   `Welcome` first, then `Instructions`. Each side numbers what the other must not miss, and says the last
   number it has in its `Keepalive`, so that a gap shows.
3. Groups and addresses are packed: 4 or 16 bytes; `topology.entry.tenant_key` says what is wanted behind a
   group. `fabric.proto` says the same on the wire.

After US 9,838,462 steps 703 and 704: `Groups` is the second information, `Instructions` fill the unicast
tunnel interface.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ctrl.topology.entry import Entry, Key, Node


class Group(NamedTuple):
    """A group that a node is in, and the networks that it knows it to carry: VNIs, and VSIDs of NVGRE."""

    key: Key
    vnis: tuple[int, ...] = ()
    vsids: tuple[int, ...] = ()


# --- of a node ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello:
    """Who speaks. `store` and `revision`: of the instructions that it holds, "" and 0 for none."""

    node: Node
    store: str = ""
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Groups:
    """Second information: which groups the node is in.

    `is_full`: part of the whole state, of which more parts follow where `more`; else what differs since
    revision `base`, with `gone` the groups that it left. `revision`: of the state that results.
    """

    revision: int
    added: tuple[Group, ...] = ()
    gone: tuple[Key, ...] = ()
    base: int = 0
    is_full: bool = False
    more: bool = False


@dataclass(frozen=True, slots=True)
class Ack:
    """Instructions up to this number are in force. `refused`: (key, why) of those that are not."""

    number: int
    refused: tuple[tuple[Key, str], ...] = ()


@dataclass(frozen=True, slots=True)
class PointState:
    """Whether the node's probes reach a replication point (RFC 5880)."""

    address: bytes
    is_up: bool


# --- of a manager -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Welcome:
    """Who answers, by the state of which store, and how often both sides say that they are there."""

    manager: str
    store: str
    keepalive_s: float


@dataclass(frozen=True, slots=True)
class Instructions:
    """Tunnels to set and to remove. All of one number count at once, when its last part (not `more`) is in.

    `revision`: that of the store they were made from; older than what a node holds of the same store, they
    are not for it. `is_full`: what a node holds of other keys ends with the last part; `merge`: nothing ends,
    peers are added to those that it holds (a manager that knows not yet who is there, CONFORMANCE M10).
    `vnis`: the ranges a point has to serve alone, None for no change, () for all.
    """

    number: int
    revision: int
    entries: tuple[Entry, ...] = ()
    removed: tuple[Key, ...] = ()
    is_full: bool = False
    merge: bool = False
    more: bool = False
    vnis: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """Groups of the node's that do not count, with the reason by its name (a bound that was hit)."""

    groups: tuple[tuple[Key, str], ...]


@dataclass(frozen=True, slots=True)
class Resend:
    """Say your full state again: some of it did not come."""


@dataclass(frozen=True, slots=True)
class Moved:
    """VMs moved to or from these NVEs: ask those of them that are yours (CONFORMANCE D19)."""

    nves: tuple[bytes, ...]


# --- of both ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Keepalive:
    """I am here. `number`: of a node the revision of its second information; of a manager the number of its
    last instructions."""

    number: int


FromNode = Hello | Groups | Ack | PointState | Keepalive
FromManager = Welcome | Instructions | Refused | Resend | Moved | Keepalive

"""Instructions of one number, gathered from their parts until the last is in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from ctrl.rpc.messages import Instructions
from ctrl.topology.entry import MESH, Address, Entry, Key, is_tenant

Words = dict[Key, Entry | None]
"""What is said of each key, None to remove it."""


@dataclass(slots=True)
class Batch:
    """What came so far; the last word about a key counts."""

    number: int
    revision: int
    words: Words = field(default_factory=dict)
    is_full: bool = False
    merge: bool = False
    vnis: tuple[tuple[int, int], ...] | None = None
    n_entries: Counter[bool] = field(default_factory=Counter)
    """Of groups, and apart (True) of what tenants want; those that were removed by a later word count too."""
    n_over: Counter[bool] = field(default_factory=Counter)
    """Entries for which there was no room, in the same way."""

    def add(self, part: Instructions, most: int, *known: Container[Key]) -> None:
        """Add a part, up to so many entries of each kind; what is not known need not be removed."""
        words = self.words
        for entry in part.entries:
            if entry.key not in words:
                of_tenants = is_tenant(entry.key)
                if self.n_entries[of_tenants] >= most:
                    self.n_over[of_tenants] += 1
                    continue
                self.n_entries[of_tenants] += 1
            words[entry.key] = entry
        for key in part.removed:
            if key in words or any(key in some for some in known):
                words[key] = None
        self.is_full |= part.is_full
        self.merge |= part.merge
        if part.vnis is not None:
            self.vnis = part.vnis

    def merged(self, entries: Mapping[Key, Entry], is_device: bool) -> Words:
        """What was said, added to these entries, of which nothing ends (CONFORMANCE M10)."""
        return {
            key: _sum(entries[key], word, is_device) if word is not None and key in entries else word
            for key, word in self.words.items()
            if word is not None or key not in entries
        }


def _sum(old: Entry, new: Entry, is_device: bool) -> Entry:
    """Both. Between a point and a mesh, or two points, there is no sum for a device: it would send two
    copies, so it sends as it did, and takes packets from all."""
    if not old.peers:
        return new
    is_sum = not is_device or old.via == new.via == MESH
    return old._replace(
        peers=_union(old.peers, new.peers) if is_sum else old.peers,
        accept=_union(old.accept, new.accept, *(() if is_sum else (new.peers, new.backup))),
        onward=_union(old.onward, new.onward),
        vnis=tuple(sorted({*old.vnis, *new.vnis})),
        vsids=tuple(sorted({*old.vsids, *new.vsids})),
    )


def _union(*those: tuple[Address, ...]) -> tuple[Address, ...]:
    """All of them, each once, in the order of numbers."""
    return tuple(sorted(set().union(*those)))

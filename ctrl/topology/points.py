"""Which points serve a group: by the operator's word, else by rendezvous hashing (CONFORMANCE M7, M13).

1. Rendezvous hashing: each point draws a number by its name and the group, the highest wins. So the death of
   a point moves the groups that it had and no other, and all managers say the same with no word between them.
2. A packet of a group goes to all points of the group, and each serves its own VNIs alone (R7). So points
   serve a group only where each of its VNIs is served by exactly one of them; otherwise the group is meshed.
3. Points that nobody gave VNIs or groups are free: they take what is not allocated, and stand in for each
   other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

from ctrl.topology.entry import Address, Key, Node
from ctrl.topology.records import MAX_NETWORK, Points

Ranges = tuple[tuple[int, int], ...]
"""First and last number of each."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """What the operator gave to the point with this address: all groups with these VNIs (VSIDs), and these
    groups whatever they carry."""

    address: Address
    vnis: Ranges = ()
    groups: tuple[Key, ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """How groups are to be served. `auto`: by a point from `threshold` devices on, meshed at `hysteresis`
    below that. No VNI and no group stands in two allocations."""

    mode: str = "auto"
    """mesh, point or auto"""
    threshold: int = 16
    hysteresis: int = 4
    points: tuple[Allocation, ...] = ()
    max_devices_per_group: int = 1024
    """In larger groups a mesh does not stand in for points."""
    tree: bool = False
    """All free points serve each group together, each its own devices."""

    def __post_init__(self) -> None:
        if self.mode not in {"mesh", "point", "auto"}:
            raise ValueError(f"mode {self.mode!r}; expected mesh, point or auto")
        if not 0 <= self.hysteresis < self.threshold or self.threshold < 2:
            raise ValueError(
                f"threshold {self.threshold}, hysteresis {self.hysteresis}; expected a threshold of 2 "
                "or more and a hysteresis below it"
            )


class Point(NamedTuple):
    """A point as others must know it. `replicate`: where it takes what is to be copied on; its copies come
    from `address`."""

    name: str
    address: Address
    replicate: Address


@lru_cache(maxsize=1 << 16)
def ranking(names: Points, key: bytes) -> Points:
    """Order points by how much they want what is called `key`: a group, or of a tree a device."""
    return tuple(sorted(names, key=lambda name: (_draw(name, key), name), reverse=True))


def _draw(name: str, key: bytes) -> bytes:
    return blake2b(key, digest_size=8, key=_seed(name)).digest()


@lru_cache(maxsize=4096)
def _seed(name: str) -> bytes:
    return blake2b(name.encode(), digest_size=16).digest()


class Candidates:
    """The points there are, and who of them has to serve what."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._allocated = {allocation.address: allocation for allocation in settings.points}
        self._by_group = {key: a.address for a in settings.points for key in a.groups}
        self._leftover = _complement(limits for a in settings.points for limits in a.vnis)
        self._nodes: Mapping[str, Node] = {}
        self.points: dict[str, Point] = {}
        """All that are known, dead ones too: groups may still be theirs."""
        self.free: Points = ()
        """Those alive that nothing is allocated to, in order."""
        self._given: dict[str, Ranges] = {}
        """Those alive that serve these VNIs alone."""
        self._by_address: dict[Address, str] = {}

    def update(self, nodes: Iterable[Node], dead: Collection[str]) -> None:
        """Take all points that are known, and those of them that are no candidates."""
        known = sorted(nodes, key=lambda node: node.name)
        self._nodes = {node.name: node for node in known}
        self.points = {
            node.name: Point(node.name, node.address, node.replicate or node.address) for node in known
        }
        alive = [node for node in known if node.name not in dead]
        self._by_address = {address: node.name for node in alive for address in _addresses(node)}
        self.free = tuple(node.name for node in alive if self._is_free(node)) if self._leftover else ()
        self._given = {node.name: given for node in alive if (given := self._ranges_given(node))}

    def vnis_of(self, node: Node) -> Ranges:
        """List the ranges that a point serves alone, () for all."""
        if not self._is_free(node):
            return self._ranges_given(node)
        return () if self._leftover == ((0, MAX_NETWORK),) else self._leftover

    def is_free(self, name: str) -> bool:
        """Say whether nothing is allocated to a point that is known, be it dead."""
        return name in self._nodes and self._is_free(self._nodes[name])

    def choose(self, key: Key, networks: frozenset[int] | None) -> Points:
        """Say who is to serve a group with these networks, None where a device does not know them; () where
        no points can, so that it must be meshed."""
        if owner := self._by_group.get(key):
            name = self._by_address.get(owner)
            given = self._given.get(name, ()) if name else ()
            serves = not given or (networks is not None and all(_has(given, n) for n in networks))
            return (name,) if name and serves else ()
        chosen = self._all_there_is(key) if networks is None else self._those_for(key, networks)
        is_free = bool(chosen) and all(self.is_free(name) for name in chosen)
        return (self._tree() or chosen) if is_free else chosen

    def _those_for(self, key: Key, networks: frozenset[int]) -> Points:
        if not self._given and self._leftover == ((0, MAX_NETWORK),):
            return ranking(self.free, key)[:1]
        chosen: list[str] = []
        missing = set(networks)
        for name in ranking(tuple(sorted(self._given)), key):
            served = {number for number in networks if _has(self._given[name], number)}
            if served & missing:
                if not served <= missing:
                    return ()
                chosen.append(name)
                missing -= served
        if missing:
            if not all(_has(self._leftover, number) for number in missing) or not self.free:
                return ()
            if any(_has(self._leftover, number) for number in networks - missing):
                return ()
            chosen.append(ranking(self.free, key)[0])
        return tuple(sorted(chosen))

    def _all_there_is(self, key: Key) -> Points:
        """Say who together serves every VNI."""
        chosen = []
        for allocation in self._settings.points:
            if allocation.vnis:
                name = self._by_address.get(allocation.address)
                if name is None:
                    return ()
                chosen.append(name)
        if self._leftover:
            if not self.free:
                return ()
            chosen.append(ranking(self.free, key)[0])
        return tuple(sorted(chosen))

    def _tree(self) -> Points:
        """The points of the tree: what is to be copied on must be told from what was (RFC 9574, IR-IP and
        AR-IP). One alone makes none."""
        if not self._settings.tree:
            return ()
        names = tuple(name for name in self.free if (point := self.points[name]).replicate != point.address)
        return names if len(names) > 1 else ()

    def _allocation(self, node: Node) -> Allocation | None:
        found = (self._allocated.get(address) for address in _addresses(node))
        return next((allocation for allocation in found if allocation), None)

    def _is_free(self, node: Node) -> bool:
        return not node.vnis and self._allocation(node) is None

    def _ranges_given(self, node: Node) -> Ranges:
        allocation = self._allocation(node)
        return tuple(sorted(node.vnis if allocation is None else allocation.vnis))


def _addresses(node: Node) -> list[Address]:
    return [node.address, node.replicate] if node.replicate else [node.address]


def _has(ranges: Ranges, number: int) -> bool:
    return any(first <= number <= last for first, last in ranges)


def _complement(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """List the numbers that are in none of these."""
    found, start = [], 0
    for first, last in sorted(ranges):
        if first > start:
            found.append((start, first - 1))
        start = max(start, last + 1)
    if start <= MAX_NETWORK:
        found.append((start, MAX_NETWORK))
    return tuple(found)

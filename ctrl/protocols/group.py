"""One host's state of one group, by the table of RFC 9776 section 6.4 (RFC 9777 section 7.4).

1. A `Listener` is the RFC's whole state, INCLUDE (A) or EXCLUDE (X, Y), for one host: tracked explicitly, not
   per interface. With one host at a port the two are the same.
2. X and Y, or A, are one dict of source timers, absolute seconds; Y has 0.0. The dict is never changed in
   place, so that all who name no source share one.
3. Hosts of version 1 and 2 keep silent when another of theirs reports the group. So a report of one of them
   speaks for all whose own last word was such a report: `Group.older_s` is the group timer that they share,
   and hearing such a report costs the same however many they are. Who left speaks for himself again.
4. An older host's filter is EXCLUDE {}: it cannot name sources (RFC 9776 section 7.3.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from types import MappingProxyType
from typing import Final

from ctrl.protocols.messages import Kind
from ctrl.protocols.state import ALL, Filter, Host

NO_SOURCES: Final[Mapping[int, float]] = MappingProxyType({})
NONE: Final = Filter(is_exclude=False)
BLOCKED = 0.0
"""The timer of a source in Y."""

Key = int | None
"""What a specific query asks for: a source, or the group itself."""


class Timed:
    """Something that the router looks at when it is time."""

    __slots__ = ("wakes_s",)

    wakes_s: float
    """Of its live entry in the router's heap; inf: none."""

    def __lt__(self, other: Timed) -> bool:
        """Let things that wake at the same moment stand in the heap in any order."""
        return False


class Group:
    """A group at a port, and who is in it."""

    __slots__ = ("address", "inquiry", "listeners", "older_s", "told_s", "v1_s")

    def __init__(self, address: int) -> None:
        self.address = address
        self.listeners: dict[Host, Listener] = {}
        self.inquiry: Timed | None = None
        """The specific queries that are under way."""
        self.older_s = 0.0
        """Until when reports of version 1 and 2 keep those who send such (law 3)."""
        self.v1_s = 0.0
        """Until when leaves are not believed, for the sake of a host of version 1."""
        self.told_s = -inf
        """When the elected querier last had us lower timers."""

    def settle(self) -> None:
        """Give each older host its own timer again, before any of them is lowered."""
        for listener in self.listeners.values():
            listener.settle()
        self.older_s = 0.0


class Listener(Timed):
    """A host in a group."""

    __slots__ = ("group", "host", "is_exclude", "reports", "sources", "timer_s", "v1_s", "v2_s")

    def __init__(self, host: Host, group: Group) -> None:
        self.wakes_s = inf
        self.host = host
        self.group = group
        self.is_exclude = False
        self.timer_s = 0.0
        """The group timer, of EXCLUDE alone."""
        self.sources = NO_SOURCES
        self.reports = 3
        """The version of its last word, if that was a report; a leave counts as 3: nobody speaks for it."""
        self.v1_s = 0.0
        self.v2_s = 0.0
        """The older-host-present timers."""

    @property
    def ends_s(self) -> float:
        """When the group timer runs out."""
        return self.timer_s if self.reports == 3 else max(self.timer_s, self.group.older_s)

    def version(self, now_s: float) -> int:
        """In which version the host takes part in this group."""
        if self.reports == 1 or self.v1_s > now_s:
            return 1
        return 2 if self.reports == 2 or self.v2_s > now_s else 3

    def wants(self) -> Filter:
        """What is to be forwarded to it (RFC 9776 section 6.2.1)."""
        if not self.sources:
            return ALL if self.is_exclude else NONE
        if not self.is_exclude:
            return Filter(is_exclude=False, sources=frozenset(self.sources))
        blocked = frozenset(source for source, timer_s in self.sources.items() if timer_s == BLOCKED)
        return Filter(is_exclude=True, sources=blocked) if blocked else ALL

    def deadline_s(self) -> float:
        """When the next of its timers runs out."""
        if not self.sources:
            return self.ends_s if self.is_exclude else inf
        first = min((timer_s for timer_s in self.sources.values() if timer_s != BLOCKED), default=inf)
        return min(first, self.ends_s) if self.is_exclude else first

    def settle(self) -> None:
        """Make what others said for it its own (law 3)."""
        self.timer_s = self.ends_s

    def speak(self, version: int, ends_s: float) -> None:
        """Note a report of this version, in force until `ends_s`; of a leave, version 3."""
        self.settle()
        self.reports = version
        if version == 1:
            self.v1_s = ends_s
        elif version == 2:
            self.v2_s = ends_s

    def hear(self, kind: Kind, named: Iterable[int], ends_s: float, most: int) -> tuple[list[Key], int]:
        """Apply a record: timers that it starts run until `ends_s`, and there are at most `most` sources.

        Returns what the table wants asked, and how many sources found no room.
        """
        if kind in (Kind.IS_EX, Kind.TO_EX):
            return self._exclude(kind, named, ends_s, most)
        sources, named, starts_s = dict(self.sources), dict.fromkeys(named), ends_s
        added: Iterable[int] = named
        if kind is Kind.BLOCK:
            added = [source for source in named if source not in sources] if self.is_exclude else ()
            starts_s = self.timer_s
        n_refused = 0
        for source in added:
            if source in sources or len(sources) < most:
                sources[source] = starts_s
            else:
                n_refused += 1
        asked: list[Key] = []
        if kind is Kind.BLOCK:
            asked += [source for source in named if sources.get(source, BLOCKED) != BLOCKED]
        elif kind is Kind.TO_IN:
            asked += [s for s, timer_s in sources.items() if timer_s != BLOCKED and s not in named]
            asked += [None] if self.is_exclude else []
        self.sources = sources or NO_SOURCES
        return asked, n_refused

    def _exclude(self, kind: Kind, named: Iterable[int], ends_s: float, most: int) -> tuple[list[Key], int]:
        """Become EXCLUDE of the sources named: those known keep their timers, all others are forgotten."""
        starts_s = BLOCKED
        if self.is_exclude:
            starts_s = ends_s if kind is Kind.IS_EX else self.timer_s
        kept: dict[int, float] = {}
        n_refused = 0
        for source in named:
            if len(kept) < most:
                kept[source] = self.sources.get(source, starts_s)
            elif source not in kept:
                n_refused += 1
        self.is_exclude, self.timer_s, self.sources = True, ends_s, kept or NO_SOURCES
        if kind is Kind.IS_EX:
            return [], n_refused
        return [source for source, timer_s in kept.items() if timer_s != BLOCKED], n_refused

    def lower(self, keys: Iterable[Key], ends_s: float) -> None:
        """Have the timers of these run out at `ends_s` at the latest."""
        sources: dict[int, float] | None = None
        for key in keys:
            if key is None:
                self.timer_s = min(self.timer_s, ends_s)
            elif self.sources.get(key, BLOCKED) > ends_s:
                sources = dict(self.sources) if sources is None else sources
                sources[key] = ends_s
        self.sources = self.sources if sources is None else sources

    def stale(self, since_s: float) -> list[Key]:
        """What would have to be asked for to see it go: it runs out before `since_s`."""
        if self.is_exclude and self.ends_s >= since_s:
            return []
        sources: list[Key] = [s for s, timer_s in self.sources.items() if BLOCKED < timer_s < since_s]
        return [None, *sources] if self.is_exclude else sources

    def left_s(self, key: Key) -> float:
        """When the timer of this runs out; 0.0 if it does not run."""
        if key is not None:
            return self.sources.get(key, BLOCKED)
        return self.ends_s if self.is_exclude else 0.0

    def expire(self, now_s: float) -> bool:
        """Drop what has run out; False: nothing is left (RFC 9776 sections 6.3, 6.5)."""
        if self.is_exclude:
            self.settle()
            if self.timer_s > now_s:
                if any(BLOCKED < timer_s <= now_s for timer_s in self.sources.values()):
                    self._block_what_ran_out(now_s)
                return True
            self.is_exclude = False
        running = {source: timer_s for source, timer_s in self.sources.items() if timer_s > now_s}
        self.sources = running or NO_SOURCES
        return bool(running)

    def _block_what_ran_out(self, now_s: float) -> None:
        kept = {s: timer_s if timer_s > now_s else BLOCKED for s, timer_s in self.sources.items()}
        if self.version(now_s) < 3:
            kept = {s: timer_s for s, timer_s in kept.items() if timer_s != BLOCKED}
        self.sources = kept or NO_SOURCES

"""The values that pass between a router side (`ctrl.protocols.router`) and whoever drives it.

1. A host is known by its MAC and its report's source together (CONFORMANCE W8): each is tracked by itself.
2. What a host wants of a group is a `Filter`; a `Change` says that it differs from what was said before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

Host = tuple[bytes, int]
"""The MAC and the IP source of a host's reports."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which sources of a group a host wants: all but `sources` (`is_exclude`), or these alone.

    For RFC 9776 section 6.2.1: INCLUDE (A) has A, EXCLUDE (X, Y) has Y, whose timers are not running.
    """

    is_exclude: bool
    sources: frozenset[int] = frozenset()


ALL = Filter(is_exclude=True)


@dataclass(frozen=True, slots=True)
class Change:
    """A host joined a group, left it (`wants` None), or wants other sources of it."""

    host: Host
    group: int
    wants: Filter | None


@dataclass(frozen=True, slots=True)
class Member:
    """A host in a group at a moment, for whoever shows it. `included` has the sources whose timers run."""

    host: Host
    group: int
    wants: Filter
    included: frozenset[int]
    version: int
    """1 or 2: the host reports so, and its source lists do not count (RFC 9776 section 7.3.2)."""
    expires_s: float
    """Seconds from the moment; of an INCLUDE host, those of its longest-lived source."""


@dataclass(frozen=True, slots=True)
class Timers:
    """The names and defaults of RFC 9776 section 8 and RFC 9777 section 9; seconds."""

    robustness: int = 2
    query_interval_s: float = 125.0
    query_response_interval_s: float = 10.0
    startup_response_interval_s: float = 1.0
    last_member_query_interval_s: float = 1.0
    fast_leave: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much one port may hold. Sources count per host and group, so that nobody uses up another's."""

    max_groups_per_port: int = 4096
    max_members_per_group: int = 4096
    max_members_per_port: int = 65_536
    max_sources_per_group: int = 64


@dataclass(slots=True)
class Room:
    """How many groups all ports of a box may be in, IGMP's and MLD's together; their routers share it."""

    max_groups: int = 100_000
    _ports_of: dict[int, dict[int, int]] = field(default_factory=lambda: {32: {}, 128: {}})
    """Ports by address bits and group."""

    @property
    def n_groups(self) -> int:
        """Groups that someone is in."""
        return sum(map(len, self._ports_of.values()))

    def take(self, bits: int, group: int) -> bool:
        """Have a port enter a group; False: it is a new one, and there are as many as may be."""
        ports_of = self._ports_of[bits]
        n = ports_of.get(group, 0)
        if n == 0 and self.n_groups >= self.max_groups:
            return False
        ports_of[group] = n + 1
        return True

    def give(self, bits: int, group: int) -> None:
        """Have a port leave a group that it took."""
        ports_of = self._ports_of[bits]
        ports_of[group] -= 1
        if not ports_of[group]:
            del ports_of[group]


Refuse = Callable[[str, Host, int], None]
"""Told of each record, or source of one, that a bound kept out: the bound's name, whose it was, the group."""

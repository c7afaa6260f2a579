"""Who wants which group: one table with one door, whoever says so (IGMP, MLD, the config, later the manager).

1. `apply` is the door. What it changes is collected by group, so that a burst of changes becomes one FIB. A
   group counts as changed where its copies may differ: not when an NVE joins or leaves behind a port where
   another one wants the same, unless it had a copy of its own by the config.
2. First information (US 9,838,462 claim 1) is the table itself; second information is the set of groups that
   have a member here, with a revision that moves on first join and last leave and never otherwise
   (CONFORMANCE D3).
3. Static members are in here by their own origin: a leave of an NVE never removes what the config says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from fastpath.model import IPAddress


class Origin(StrEnum):
    """Who says that somebody is a member."""

    STATIC = "static"
    IGMP = "igmp"
    MLD = "mld"
    STORED = "stored"
    """The box itself, which was in the group when it ended, and starts anew."""


class Who(NamedTuple):
    """A member: at which port (its place), by whose word, and which NVE.

    A member that joined has the MAC and the source of its reports (CONFORMANCE W8). A static one has neither,
    or as `address` the NVE that is served by unicast.
    """

    port: int
    origin: Origin
    mac: bytes = b""
    address: IPAddress | None = None

    @property
    def unicast(self) -> IPAddress | None:
        """The NVE, if it gets copies of its own; None: it shares those of its port."""
        return None if self.mac else self.address


@dataclass(frozen=True, slots=True)
class Wants:
    """Which sources a member wants: all but `sources`, or these alone."""

    is_exclude: bool = True
    sources: frozenset[IPAddress] = frozenset()


ALL = Wants()


class Event(NamedTuple):
    """What became of a member: `was` None: it joined; `wants` None: it left."""

    group: IPAddress
    who: Who
    was: Wants | None
    wants: Wants | None
    is_first: bool = False
    """The box is in the group from now on."""
    is_last: bool = False
    """The box is in the group no longer."""
    revision: int = 0
    """Of the second information, then."""


@dataclass(frozen=True, slots=True)
class SecondInformation:
    """The groups that a device is in (US 9,838,462 step 703)."""

    revision: int
    groups: frozenset[IPAddress]


class Membership:
    """The table. For one thread."""

    def __init__(self) -> None:
        self._members: dict[IPAddress, dict[Who, Wants]] = {}
        self._changed: dict[IPAddress, None] = {}
        self.revision = 0
        """Of the second information."""

    def apply(self, group: IPAddress, who: Who, wants: Wants | None) -> Event | None:
        """Note what a member wants of a group from now on, None for nothing; None where that is no news."""
        members = self._members.get(group, {})
        was = members.get(who) if members else None
        if was == wants:
            return None
        is_first = not members
        if wants is None:
            del members[who]
        if not members or (was and wants) or not _has_twin(members, who, was or wants):
            self._changed[group] = None
        if wants is not None:
            members[who] = wants
        is_last = not members
        if is_first:
            self._members[group] = members
        elif is_last:
            del self._members[group]
        self.revision += is_first or is_last
        return Event(group, who, was, wants, is_first, is_last, self.revision)

    def take_changed(self) -> list[IPAddress]:
        """The groups whose copies may differ since the last call, each once, in order."""
        changed, self._changed = list(self._changed), {}
        return changed

    def of(self, group: IPAddress) -> dict[Who, Wants]:
        """The members of a group, in the order in which they joined."""
        return self._members.get(group, {})

    @property
    def n_groups(self) -> int:
        """Groups that have a member."""
        return len(self._members)

    def groups(self) -> Iterator[IPAddress]:
        """Every group that has a member."""
        return iter(self._members)

    def of_origin(self, origin: Origin) -> list[tuple[IPAddress, Who]]:
        """All that one origin said."""
        return [(g, who) for g, members in self._members.items() for who in members if who.origin is origin]

    def second_information(self) -> SecondInformation:
        """The groups that the device is in, as a value."""
        return SecondInformation(self.revision, frozenset(self._members))


def _has_twin(members: Mapping[Who, Wants], who: Who, wants: Wants | None) -> bool:
    """Say whether one of these wants the same and shares its copies with `who`, who is not among them.

    Not where the config has it served by unicast besides, which ends when it joins.
    """
    if who.mac and Who(who.port, Origin.STATIC, address=who.address) in members:
        return False
    port, unicast = who.port, who.unicast
    for other, theirs in members.items():
        if other.port == port and (theirs is wants or theirs == wants) and other.unicast == unicast:
            return True
    return False

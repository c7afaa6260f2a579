"""What the roles that speak IGMP and MLD have in common, be it to NVEs (`device`) or as one (`nve.joins`).

1. There is a machine of the protocols for each port and family. What a frame says is for that of its port.
2. What is to be sent waits as messages, each of which fits its port; they become frames when they are taken.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from types import ModuleType
from typing import Any, Generic, Protocol, TypeVar

from ctrl import punt
from ctrl.config.schema import MembershipTable
from ctrl.membership import Origin
from ctrl.protocols import igmp, mld
from ctrl.protocols.messages import Query, Report
from ctrl.protocols.state import Timers
from ctrl.refusals import Refused
from ctrl.roles.attachment import Attachment

DEFAULT_MTU = 1500
"""Of a port without a limit: what is said there is split to it."""


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """A family of addresses, and what speaks of its groups."""

    bits: int
    codec: ModuleType
    origin: Origin
    address: type[IPv4Address | IPv6Address]
    all_hosts: int

    def is_multicast(self, address: int) -> bool:
        """Say whether it is a group's."""
        return address >> 28 == 0xE if self.bits == 32 else address >> 120 == 0xFF

    def is_group(self, address: int) -> bool:
        """Say whether it is multicast beyond the link: neither 224.0.0.0/24 nor an IPv6 scope up to the
        link's."""
        if self.bits == 32:
            return 0xE00000FF < address <= 0xEFFFFFFF
        return address >> 120 == 0xFF and address >> 112 & 15 > 2

    def is_source(self, address: int) -> bool:
        """Say whether it can be one station's."""
        return 0 < address < (1 << self.bits) - 1 and not self.is_multicast(address)


FAMILIES = {
    one.bits: one
    for one in (
        Family(32, igmp, Origin.IGMP, IPv4Address, igmp.ALL_HOSTS),
        Family(128, mld, Origin.MLD, IPv6Address, mld.ALL_NODES),
    )
}
"""By address bits."""


class Machine(Protocol):
    """A side of the protocols at one port: `Router`, or `HostSide`."""

    @property
    def deadline_s(self) -> float | None: ...
    def poll(self, now_s: float) -> None: ...


M = TypeVar("M", bound=Machine)


class Side(Generic[M]):
    """One family at one port."""

    __slots__ = ("attachment", "family", "machine", "port")

    def __init__(self, port: int, family: Family, attachment: Attachment, machine: M) -> None:
        self.port, self.family, self.attachment, self.machine = port, family, attachment, machine

    @property
    def source(self) -> int:
        """The address that we speak from."""
        return self.attachment.source(self.family.bits)

    @property
    def mtu(self) -> int:
        """What the packets that are sent there must fit."""
        return self.attachment.mtu or DEFAULT_MTU


S = TypeVar("S", bound=Side[Any])
T = TypeVar("T", Query, Report)


class Sides(ABC, Generic[S, T]):
    """The sides of a role, all of which send messages of one kind."""

    def __init__(self, refused: Refused, settings: MembershipTable) -> None:
        self._refused = refused
        self._settings = settings
        self._sides: dict[tuple[int, int], S] = {}
        """By port and address bits."""
        self._unsent: deque[tuple[S, T]] = deque()

    def hear(self, port: int, frame: bytes, now_s: float) -> None:
        """Take one punted frame; `port` is the place of the port where it came in."""
        heard = punt.read(frame, strict_headers=self._settings.strict_headers)
        if isinstance(heard, str):
            self._refused.count(heard)
        else:
            self.take(port, heard, now_s)

    def take(self, port: int, heard: punt.Heard, now_s: float) -> None:
        """Take what such a frame said."""
        side = self._sides.get((port, heard.bits))
        if side is None:
            self._refused.count("not_an_nve_port")
        else:
            self._take(side, heard, now_s)

    def poll(self, now_s: float) -> None:
        """Do what is due."""
        for side in self._sides.values():
            deadline_s = side.machine.deadline_s
            if deadline_s is not None and deadline_s <= now_s:
                side.machine.poll(now_s)
                self._settle(side)

    @property
    def deadline_s(self) -> float | None:
        """When `poll` is due next."""
        due = (side.machine.deadline_s for side in self._sides.values())
        return min((one for one in due if one is not None), default=None)

    @property
    def n_frames(self) -> int:
        """How many are to be sent."""
        return len(self._unsent)

    def take_frames(self, most: int | None = None) -> list[tuple[int, bytes]]:
        """(place of the port, frame) of what is to be sent, in order; at most so many, or all."""
        n = len(self._unsent) if most is None else min(most, len(self._unsent))
        taken = [self._unsent.popleft() for _ in range(n)]
        return [(side.port, self._frame(side, message)) for side, message in taken]

    @abstractmethod
    def _take(self, side: S, heard: punt.Heard, now_s: float) -> None:
        """Have the machine of a side hear it."""

    @abstractmethod
    def _settle(self, side: S) -> None:
        """Carry over what a machine came to."""

    @abstractmethod
    def _frame(self, side: S, message: T) -> bytes:
        """Write a message as it is sent."""


def timers(settings: MembershipTable) -> Timers:
    """What the config says of times, as the machines have it."""
    return Timers(
        robustness=settings.robustness,
        query_interval_s=settings.query_interval_s,
        query_response_interval_s=settings.query_response_interval_s,
        startup_response_interval_s=settings.startup_response_interval_s,
        last_member_query_interval_s=settings.last_member_query_interval_s,
        fast_leave=settings.fast_leave,
    )

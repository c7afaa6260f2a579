"""Which groups an NVE is in, and what it says of them at its uplinks.

1. Pure: punted frames, what networks need and time in; frames to send and the next deadline out.
2. It is in a group as long as one network needs it, which is as long as a VM port of the network is up
   (CONFORMANCE N3-N5): the first need is one join, those of others are none, the last to go is one leave.
   Needs that come and go between two polls were never there: a group that passes from one network to another
   is neither left nor joined.
3. It answers queries for what it is in and for nothing else (N6, N7). Reports on an uplink are those of other
   hosts: they concern their device alone (D18).
4. An uplink without its link says nothing, and joins anew as soon as it has one; so does one with another
   address, for its device knows hosts by it (W8). What is needed there outlives even the port.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from types import ModuleType

from ctrl import punt
from ctrl.config.schema import MembershipTable
from ctrl.protocols import igmp, mld
from ctrl.protocols.host import HostSide
from ctrl.protocols.messages import Report
from ctrl.protocols.state import ALL, Timers
from ctrl.refusals import Refused
from ctrl.roles.attachment import Attachment
from fastpath.model import IPAddress

DEFAULT_MTU = 1500
"""Of an uplink without a limit: reports are split to it."""

Place = tuple[int, IPAddress]
"""The place of an uplink, and a group."""


@dataclass(frozen=True, slots=True, eq=False)
class _Family:
    bits: int
    codec: ModuleType
    all_hosts: int
    address: type[IPv4Address | IPv6Address]


_FAMILIES = {
    4: _Family(32, igmp, igmp.ALL_HOSTS, IPv4Address),
    6: _Family(128, mld, mld.ALL_NODES, IPv6Address),
}


@dataclass(frozen=True, slots=True)
class Joined:
    """A group that an NVE is in, for whoever shows it. `version` is that of the querier, as `messages` tells
    it; `is_said`: the uplink has a link to say it on."""

    uplink: int
    group: IPAddress
    networks: tuple[str, ...]
    version: int
    is_said: bool


class _Side:
    """One family at one uplink."""

    __slots__ = ("attachment", "family", "host", "port")

    def __init__(self, port: int, family: _Family, attachment: Attachment, host: HostSide) -> None:
        self.port, self.family, self.attachment, self.host = port, family, attachment, host

    @property
    def source(self) -> int:
        """The address that our reports are from."""
        return self.attachment.address if self.family.bits == 32 else self.attachment.link_local

    @property
    def whose(self) -> tuple[bytes, int]:
        """As whom the device knows us."""
        return self.attachment.mac, self.source


class Joins:
    """The groups of an NVE. `random` gives numbers in [0, 1)."""

    def __init__(self, refused: Refused, settings: MembershipTable, random: Callable[[], float]) -> None:
        self._refused = refused
        self._settings = settings
        self._random = random
        self._sides: dict[tuple[int, int], _Side] = {}
        """By uplink and address bits."""
        self._needs: dict[str, dict[Place, None]] = {}
        """By network, in order."""
        self._networks: dict[Place, dict[str, None]] = {}
        """Who needs a group, in order."""
        self._reports: deque[tuple[_Side, Report]] = deque()
        """Those to be sent, each of which fits its uplink; made frames when they are taken."""
        self.reports_sent = 0

    # --- what it is told ------------------------------------------------------------------------------------

    def configure(self, settings: MembershipTable) -> None:
        """Go on by other settings."""
        self._settings = settings
        for side in self._sides.values():
            side.host.timers = _timers(settings)

    def attach(self, uplinks: Mapping[int, Attachment], now_s: float) -> None:
        """These are the uplinks, by their places."""
        for place, side in list(self._sides.items()):
            if side.port not in uplinks:
                del self._sides[place]
        self._reports = deque(entry for entry in self._reports if entry[0].port in uplinks)
        for port, attachment in uplinks.items():
            for family in _FAMILIES.values():
                self._attach(port, family, attachment, now_s)

    def _attach(self, port: int, family: _Family, attachment: Attachment, now_s: float) -> None:
        side = self._sides.get((port, family.bits))
        if side is None:
            host = HostSide(_timers(self._settings), self._random)
            side = self._sides[port, family.bits] = _Side(port, family, attachment, host)
            if not attachment.is_up:
                host.close()
            for uplink, group in self._networks:
                if uplink == port and family is _FAMILIES[group.version]:
                    host.want(int(group), ALL, now_s)
            return
        before, whose = side.attachment, side.whose
        side.attachment = attachment
        if not attachment.is_up:
            side.host.close()
            self._reports = deque(entry for entry in self._reports if entry[0] is not side)
        elif not before.is_up or side.whose != whose:
            side.host.restart(now_s)

    def need(self, network: str, places: Iterable[Place], now_s: float) -> None:
        """Have this network need these groups at these uplinks from now on: none, if no VM port of it is up
        or it sends to no group."""
        needed = dict.fromkeys(places)
        before = self._needs.pop(network, {})
        if needed:
            self._needs[network] = needed
        for place in needed:
            self._networks.setdefault(place, {})[network] = None
            self._want(place, now_s, is_wanted=True)
        for place in before:
            if place in needed:
                continue
            networks = self._networks[place]
            del networks[network]
            if not networks:
                del self._networks[place]
                self._want(place, now_s, is_wanted=False)

    def _want(self, place: Place, now_s: float, *, is_wanted: bool) -> None:
        uplink, group = place
        side = self._sides.get((uplink, _FAMILIES[group.version].bits))
        if side is not None:
            side.host.want(int(group), ALL if is_wanted else None, now_s)

    def hear(self, port: int, frame: bytes, now_s: float) -> None:
        """Take one punted frame; `port` is the place of the uplink where it came in."""
        heard = punt.read(frame, strict_headers=self._settings.strict_headers)
        if isinstance(heard, str):
            self._refused.count(heard)
            return
        side = self._sides.get((port, heard.bits))
        if side is None:
            self._refused.count("not_an_nve_port")
        elif isinstance(heard.message, Report):
            self._refused.count("report_of_a_host")
        elif heard.message.group == 0 and _is_stray(heard.destination, side.family):
            self._refused.count("query_astray")
        else:
            side.host.hear(heard.message, now_s)
            self._settle(side)

    def poll(self, now_s: float) -> None:
        """Do what is due."""
        for side in self._sides.values():
            deadline_s = side.host.deadline_s
            if deadline_s is not None and deadline_s <= now_s:
                side.host.poll(now_s)
                self._settle(side)

    # --- and what comes of it -------------------------------------------------------------------------------

    @property
    def deadline_s(self) -> float | None:
        """When `poll` is due next; at once after `attach` and `need`."""
        due = (side.host.deadline_s for side in self._sides.values())
        return min((one for one in due if one is not None), default=None)

    @property
    def n_frames(self) -> int:
        """How many are to be sent."""
        return len(self._reports)

    def take_frames(self, most: int | None = None) -> list[tuple[int, bytes]]:
        """(place of the uplink, frame) of what is to be sent, in order; at most so many, or all."""
        n = len(self._reports) if most is None else min(most, len(self._reports))
        self.reports_sent += n
        return [self._frame(*self._reports.popleft()) for _ in range(n)]

    def rows(self, now_s: float) -> Iterator[Joined]:
        """The groups that networks need, each with those."""
        for (uplink, group), networks in self._networks.items():
            side = self._sides.get((uplink, _FAMILIES[group.version].bits))
            is_said = side is not None and side.attachment.is_up
            version = 3 if side is None else side.host.version(now_s)
            yield Joined(uplink, group, tuple(networks), version, is_said)

    def _settle(self, side: _Side) -> None:
        """Put what a host side has to say among what is to be sent."""
        for report in side.host.take_reports():
            for part in side.family.codec.split_report(report, side.attachment.mtu or DEFAULT_MTU):
                self._reports.append((side, part))

    @staticmethod
    def _frame(side: _Side, report: Report) -> tuple[int, bytes]:
        frame: bytes = side.family.codec.report_frame(report, side.attachment.mac, side.source)
        return side.port, frame


def _is_stray(destination: int, family: _Family) -> bool:
    """Say whether a general query is for others: for a group that is not all hosts' (RFC 9776 section 9)."""
    return destination != family.all_hosts and family.address(destination).is_multicast


def _timers(settings: MembershipTable) -> Timers:
    return Timers(robustness=settings.robustness, query_interval_s=settings.query_interval_s)

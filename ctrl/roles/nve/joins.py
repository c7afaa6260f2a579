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

from ctrl import punt
from ctrl.config.schema import MembershipTable
from ctrl.protocols.host import HostSide
from ctrl.protocols.messages import Report
from ctrl.protocols.state import ALL
from ctrl.refusals import Refused
from ctrl.roles.attachment import Attachment
from ctrl.roles.sides import FAMILIES, Family, Side, Sides, timers
from fastpath.model import IPAddress

Place = tuple[int, IPAddress]
"""The place of an uplink, and a group."""
_Side = Side[HostSide]


@dataclass(frozen=True, slots=True)
class Joined:
    """A group that an NVE is in, for whoever shows it. `version` is that of the querier, as `messages` tells
    it; `is_said`: the uplink has a link to say it on."""

    uplink: int
    group: IPAddress
    networks: tuple[str, ...]
    version: int
    is_said: bool


class Joins(Sides[_Side, Report]):
    """The groups of an NVE. `random` gives numbers in [0, 1)."""

    def __init__(self, refused: Refused, settings: MembershipTable, random: Callable[[], float]) -> None:
        super().__init__(refused, settings)
        self._random = random
        self._needs: dict[str, dict[Place, None]] = {}
        """By network, in order."""
        self._networks: dict[Place, dict[str, None]] = {}
        """Who needs a group, in order."""
        self.reports_sent = 0

    # --- what it is told ------------------------------------------------------------------------------------

    def configure(self, settings: MembershipTable) -> None:
        """Go on by other settings."""
        self._settings = settings
        for side in self._sides.values():
            side.machine.timers = timers(settings)

    def attach(self, uplinks: Mapping[int, Attachment], now_s: float) -> None:
        """These are the uplinks, by their places."""
        for place, side in list(self._sides.items()):
            if side.port not in uplinks:
                del self._sides[place]
        self._unsent = deque(entry for entry in self._unsent if entry[0].port in uplinks)
        for port, attachment in uplinks.items():
            for family in FAMILIES.values():
                self._attach(port, family, attachment, now_s)

    def _attach(self, port: int, family: Family, attachment: Attachment, now_s: float) -> None:
        side = self._sides.get((port, family.bits))
        if side is None:
            host = HostSide(timers(self._settings), self._random)
            self._sides[port, family.bits] = Side(port, family, attachment, host)
            if not attachment.is_up:
                host.close()
            for uplink, group in self._networks:
                if uplink == port and family.bits == group.max_prefixlen:
                    host.want(int(group), ALL, now_s)
            return
        before, whose = side.attachment, _whose(side)
        side.attachment = attachment
        if not attachment.is_up:
            side.machine.close()
            self._unsent = deque(entry for entry in self._unsent if entry[0] is not side)
        elif not before.is_up or _whose(side) != whose:
            side.machine.restart(now_s)

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
        side = self._sides.get((uplink, group.max_prefixlen))
        if side is not None:
            side.machine.want(int(group), ALL if is_wanted else None, now_s)

    def _take(self, side: _Side, heard: punt.Heard, now_s: float) -> None:
        if isinstance(heard.message, Report):
            self._refused.count("report_of_a_host")
        elif heard.message.group == 0 and _is_stray(heard.destination, side.family):
            self._refused.count("query_astray")
        else:
            side.machine.hear(heard.message, now_s)
            self._settle(side)

    # --- and what comes of it -------------------------------------------------------------------------------

    def take_frames(self, most: int | None = None) -> list[tuple[int, bytes]]:
        """(place of the uplink, frame) of what is to be sent, in order; at most so many, or all."""
        frames = super().take_frames(most)
        self.reports_sent += len(frames)
        return frames

    def rows(self, now_s: float) -> Iterator[Joined]:
        """The groups that networks need, each with those."""
        for (uplink, group), networks in self._networks.items():
            side = self._sides.get((uplink, group.max_prefixlen))
            is_said = side is not None and side.attachment.is_up
            version = 3 if side is None else side.machine.version(now_s)
            yield Joined(uplink, group, tuple(networks), version, is_said)

    def _settle(self, side: _Side) -> None:
        """Put what a host side has to say among what is to be sent."""
        for report in side.machine.take_reports():
            self._unsent += ((side, part) for part in side.family.codec.split_report(report, side.mtu))

    def _frame(self, side: _Side, message: Report) -> bytes:
        frame: bytes = side.family.codec.report_frame(message, side.attachment.mac, side.source)
        return frame


def _whose(side: _Side) -> tuple[bytes, int]:
    """As whom the device knows us."""
    return side.attachment.mac, side.source


def _is_stray(destination: int, family: Family) -> bool:
    """Say whether a general query is for others: for a group that is not all hosts' (RFC 9776 section 9)."""
    return destination != family.all_hosts and family.is_multicast(destination)

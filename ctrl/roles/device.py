"""The device role towards its NVEs: a querier on every port that faces them, and what they say becomes
membership.

1. Pure: punted frames and time in; frames to send, events and the next deadline out. The daemon drives it by
   the monotonic clock, replay by that of the capture.
2. Protocols are blind to scope: here reports of link-local groups and of what is no group end (CONFORMANCE
   D17), each counted.
3. Nobody's report is shown to anybody else (D18): what is punted goes no further than here.
4. A port that loses its carrier keeps its members until their timers run out, so that a link that flaps costs
   nothing; once it is back it is asked at once. Without its interface it has none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache

from ctrl import punt
from ctrl.config.schema import MembershipTable
from ctrl.membership import ALL, Event, Membership, Origin, Wants, Who
from ctrl.protocols.messages import Query, Record, Report
from ctrl.protocols.router import Router
from ctrl.protocols.state import ALL as EVERYTHING
from ctrl.protocols.state import Bounds, Filter, Host, Member, Room
from ctrl.refusals import Refused
from ctrl.roles.attachment import Attachment
from ctrl.roles.sides import FAMILIES, Family, Side, Sides, timers
from fastpath.model import IPAddress


class _Side(Side[Router]):
    __slots__ = ("queries_sent",)

    def __init__(self, port: int, family: Family, attachment: Attachment, router: Router) -> None:
        super().__init__(port, family, attachment, router)
        self.queries_sent = 0

    @property
    def router(self) -> Router:
        """What asks there."""
        return self.machine


class Device(Sides[_Side, Query]):
    """What the NVEs of a box say, and what they are asked. `room`: what it shares with others, if it does."""

    def __init__(
        self, membership: Membership, refused: Refused, settings: MembershipTable, room: Room | None = None
    ) -> None:
        super().__init__(refused, settings)
        self._membership = membership
        self._room = room or Room(settings.max_groups)
        self._events: list[Event] = []

    # --- what it is told ------------------------------------------------------------------------------------

    def configure(self, settings: MembershipTable) -> None:
        """Go on by other settings; what is there already stays, over a new bound too."""
        self._settings = settings
        self._room.max_groups = settings.max_groups
        for side in self._sides.values():
            side.router.timers, side.router.bounds = timers(settings), _bounds(settings)

    def attach(self, attachments: Mapping[int, Attachment], now_s: float) -> None:
        """These are the ports with NVEs, by their places. Who was at another one is a member no longer."""
        for (port, bits), side in list(self._sides.items()):
            if port not in attachments:
                side.router.close()
                self._settle(side)
                del self._sides[port, bits]
        for port, attachment in attachments.items():
            for family in FAMILIES.values():
                self._attach(port, family, attachment, now_s)

    def _attach(self, port: int, family: Family, attachment: Attachment, now_s: float) -> None:
        side = self._sides.get((port, family.bits))
        if side is None:
            router = Router(
                family.bits,
                attachment.source(family.bits),
                timers(self._settings),
                _bounds(self._settings),
                self._room,
                self._refuse,
                now_s,
            )
            side = self._sides[port, family.bits] = _Side(port, family, attachment, router)
        elif side.attachment != attachment:
            is_back = attachment.is_up and not side.attachment.is_up
            side.attachment = attachment
            side.router.readdress(side.source, now_s)
            if is_back:
                side.router.restart(now_s)
        side.router.poll(now_s)  # who has just begun asks at once
        self._settle(side)

    def _take(self, side: _Side, heard: punt.Heard, now_s: float) -> None:
        message = heard.message
        if isinstance(message, Report):
            message = self._screened(message, side.family)
        side.router.hear(message, (heard.mac, heard.source), now_s)
        self._settle(side)

    def _screened(self, report: Report, family: Family) -> Report:
        """Leave out what can be nobody's membership."""
        if report.unknown:
            self._refused.count("unknown_record", report.unknown)
        records = report.records
        kept = [one for one in records if family.is_group(one.group)]
        if len(kept) < len(records):
            n_local = sum(family.is_multicast(one.group) for one in records) - len(kept)
            self._refused.count("link_local_group", n_local)
            self._refused.count("not_a_group", len(records) - len(kept) - n_local)
        if any(one.sources for one in kept):
            kept = [self._sources_screened(one, family) for one in kept]
        elif len(kept) == len(records):
            return report
        return replace(report, records=tuple(kept))

    def _sources_screened(self, record: Record, family: Family) -> Record:
        sources = tuple(source for source in record.sources if family.is_source(source))
        if len(sources) == len(record.sources):
            return record
        self._refused.count("not_a_source", len(record.sources) - len(sources))
        return record._replace(sources=sources)

    def _refuse(self, name: str, host: Host, group: int) -> None:
        self._refused.count(name)

    def moved(self, nves: Collection[IPAddress], now_s: float) -> int:
        """Ask the NVEs that report from these addresses, and nobody else, whether they are still members of
        their groups (CONFORMANCE D19); the number of those that are known."""
        known: set[IPAddress] = set()
        for side in self._sides.values():
            wanted = {int(nve) for nve in nves if isinstance(nve, side.family.address)}
            hosts = {member.host for member in side.router.members(now_s) if member.host[1] in wanted}
            if hosts:
                side.router.ask(hosts, now_s)
                self._settle(side)
                known |= {side.family.address(address) for _, address in hosts}
        return len(known)

    # --- and what comes of it -------------------------------------------------------------------------------

    def take_events(self) -> list[Event]:
        """What became of the members since the last call, in order."""
        events, self._events = self._events, []
        return events

    def members(self, now_s: float) -> Iterator[tuple[int, Origin, IPAddress, IPAddress, Member]]:
        """Everyone who joined: (port, origin, group, source of its reports, all else)."""
        for side in list(self._sides.values()):
            address = side.family.address
            for member in side.router.members(now_s):
                yield side.port, side.family.origin, address(member.group), address(member.host[1]), member

    def sides(self) -> Iterable[_Side]:
        """The ports and families that are listened to."""
        return self._sides.values()

    def _settle(self, side: _Side) -> None:
        """Carry over what a router came to."""
        family = side.family
        for change in side.router.take_changes():
            who = _who(side.port, family, change.host)
            event = self._membership.apply(family.address(change.group), who, _wants(change.wants, family))
            if event is not None:
                self._events.append(event)
        for query in side.router.take_queries():
            self._ask(side, query)

    def _ask(self, side: _Side, query: Query) -> None:
        for part in side.family.codec.split(query, side.mtu):
            self._unsent.append((side, part))
            side.queries_sent += 1

    def _frame(self, side: _Side, message: Query) -> bytes:
        frame: bytes = side.family.codec.query_frame(message, side.attachment.mac, side.source)
        return frame


@lru_cache(4096)
def _who(port: int, family: Family, host: Host) -> Who:
    """One object for all groups that a host is in, as long as it speaks now and then."""
    mac, source = host
    return Who(port, family.origin, mac, family.address(source))


def _wants(heard: Filter | None, family: Family) -> Wants | None:
    if heard is None:
        return None
    if heard is EVERYTHING:
        return ALL
    return Wants(heard.is_exclude, frozenset(map(family.address, heard.sources)))


def _bounds(settings: MembershipTable) -> Bounds:
    return Bounds(
        max_groups_per_port=settings.max_groups_per_port,
        max_members_per_group=settings.max_members_per_group,
        max_members_per_port=settings.max_members_per_port,
        max_sources_per_group=settings.max_sources_per_group,
    )

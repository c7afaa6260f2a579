"""Tenant groups: who behind an NVE, a device or a point wants which groups of its network (CONFORMANCE N13,
framework 3.2, RFC 4541).

1. Pure, and the device's own code in another place: each network that snoops is a `Device` whose ports are
   its places, with a `Membership` of its own. So bounds, leaves, silence and older versions are a device's.
   A place is a number: a VM port of an NVE, or whoever gets copies of the network from a device or a point.
2. We ask at each place as long as no tenant does, as nobody (from 0.0.0.0, and from the last link-local
   address there is), so that whoever asks in the network wins the election, be it from elsewhere.
3. Who asks as somebody is a multicast router, or stands for one: for as long as a querier counts as present
   its place, or the overlay, gets all groups of the network and the reports of others. Nobody else gets
   reports (D18); what asks as nobody is another snooper and is shown to nobody. IGMP that is neither (of
   a traceroute, DVMRP or router discovery) is for the whole network, as if nobody snooped (RFC 4541 2.1.1).
4. An NVE is one host in the overlay that wants what its VMs want together (RFC 4605 section 4.1): a device
   needs to know where a group is wanted, not by how many. A device or a point (`has_host` False) says nothing
   for others: reports go on into the overlay, for routers there; and a snooper that asks there as nobody, a
   point, is handed on as well, to be answered.
5. A place that is new did not have the time to say what it wants, and wants everything (`takers`) until then.
6. What came from the overlay never goes back into it.
7. Link-local groups are never members (`Device`): their frames go to the whole network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ctrl import punt
from ctrl.config.schema import MembershipTable
from ctrl.membership import Event, Membership, Wants
from ctrl.protocols.host import HostSide
from ctrl.protocols.messages import Query
from ctrl.protocols.state import Filter, Room
from ctrl.refusals import Refused
from ctrl.roles.attachment import Attachment
from ctrl.roles.device import Device
from ctrl.roles.sides import FAMILIES, timers
from fastpath.model import IPAddress

OVERLAY = -1
"""Where a frame comes from, or goes, that is no place: the others in the network, by tunnels."""
ASTRAY = -2
"""Where a frame comes from that is neither: it gets no copies of the network, and so wants none."""
OVERLAY_MTU = 1280
"""Of tenant reports and queries in the overlay: what fits any tenant network that IPv6 does."""
GRACE_S = 1.0
"""What a place that is new has beyond the response times of the first queries to say what it wants."""
NOBODY = {32: 0, 128: (0xFE80 << 112) + (1 << 64) - 1}
"""Whose address loses every election, by address bits."""


@dataclass(frozen=True, slots=True)
class _Anonymous(Attachment):
    """A place, where we are nobody."""

    @property
    def link_local(self) -> int:
        return NOBODY[128]


class Sent(NamedTuple):
    """A tenant's Ethernet frame, untagged, that is to go to a place or into the overlay."""

    network: str
    port: int
    frame: bytes
    is_report: bool = False
    """Of what goes into the overlay: it is for routers there alone."""


class _Network:
    __slots__ = ("device", "due_s", "fresh", "hosts", "membership", "ports", "routers")

    def __init__(self, device: Device, membership: Membership, hosts: dict[int, HostSide]) -> None:
        self.device, self.membership, self.hosts = device, membership, hosts
        self.ports: dict[int, None] = {}
        self.routers: dict[int, float] = {}
        """Until when which place counts as a router's."""
        self.fresh: dict[int, float] = {}
        """Until when which place may not have said what it wants."""
        self.due_s = math.inf
        """When something is due next; kept, as there are many places."""


class Tenants:
    """The tenant groups of an NVE; or, if it is not `has_host`, of a device or a point. `mac` is ours in what
    VMs are asked, from the next `attach` on; `random` gives numbers in [0, 1)."""

    def __init__(
        self,
        refused: Refused,
        settings: MembershipTable,
        mac: bytes,
        random: Callable[[], float],
        *,
        has_host: bool = True,
    ) -> None:
        self._refused = refused
        self._settings = settings
        self.mac = mac
        self._random = random
        self._has_host = has_host
        self._room = Room(settings.max_groups)
        self._networks: dict[str, _Network] = {}
        self._changed: dict[tuple[str, IPAddress | None], None] = {}
        self._sent: list[Sent] = []
        self._events: list[tuple[str, Event]] = []
        self._retaken: dict[str, None] = {}

    # --- what it is told ------------------------------------------------------------------------------------

    def configure(self, settings: MembershipTable) -> None:
        """Go on by other settings."""
        self._settings = settings
        self._room.max_groups = settings.max_groups
        for one in self._networks.values():
            one.device.configure(settings)
            for host in one.hosts.values():
                host.timers = timers(settings)

    def attach(self, network: str, ports: Mapping[int, int], now_s: float) -> None:
        """These are the places of a network that are up, and their MTUs (0: no limit). Who was at another one
        is a member no longer."""
        one = self._networks.get(network)
        if one is None:
            membership = Membership()
            device = Device(membership, self._refused, self._settings, self._room)
            bits_of_hosts = FAMILIES if self._has_host else ()
            hosts = {bits: HostSide(timers(self._settings), self._random) for bits in bits_of_hosts}
            one = self._networks[network] = _Network(device, membership, hosts)
        fresh = [place for place in ports if place not in one.ports]
        one.ports = dict.fromkeys(ports)
        for timed in (one.routers, one.fresh):
            for place in [place for place in timed if place not in ports and place != OVERLAY]:
                self._take_less(network, timed, place)
        for place in fresh:
            settings = self._settings
            answered_s = settings.robustness * settings.startup_response_interval_s + GRACE_S
            self._take_more(network, one.fresh, place, now_s + answered_s)
        one.device.attach({port: _Anonymous(self.mac, mtu=mtu) for port, mtu in ports.items()}, now_s)
        self._settle(network, one, now_s)

    def forget(self, network: str) -> None:
        """This network is no more, or does not snoop any longer."""
        one = self._networks.pop(network, None)
        if one is not None:
            one.device.attach({}, 0.0)
            self._settle_members(network, one)
            self._changed[network, None] = None
            self._retaken[network] = None

    def hear(self, network: str, port: int, frame: bytes, now_s: float) -> None:
        """Take a punted frame of a tenant, without its outer headers, from a place, the OVERLAY or ASTRAY."""
        one = self._networks.get(network)
        if one is None or (port >= 0 and port not in one.ports):
            self._refused.count("not_an_nve_port")
            return
        heard = punt.read(frame, strict_headers=self._settings.strict_headers)
        if heard == "unknown_control":
            self._pass_on(network, port, frame, (*one.ports, OVERLAY))
        elif isinstance(heard, str):
            self._refused.count(heard)
        elif isinstance(heard.message, Query):
            self._hear_query(network, one, port, frame, heard, heard.message, now_s)
        else:
            if port >= 0:
                one.device.take(port, heard, now_s)
            self._pass_on(network, port, frame, (place for place in one.routers if place != OVERLAY))
            if not self._has_host and port != OVERLAY:
                self._sent.append(Sent(network, OVERLAY, frame, is_report=True))
        self._settle(network, one, now_s)

    def _hear_query(
        self,
        network: str,
        one: _Network,
        port: int,
        frame: bytes,
        heard: punt.Heard,
        query: Query,
        now_s: float,
    ) -> None:
        if port == OVERLAY and self._has_host:
            one.hosts[heard.bits].hear(query, now_s)
        if heard.source == NOBODY[heard.bits] and (self._has_host or port != OVERLAY):
            if port != OVERLAY:
                self._refused.count("query_of_nobody")
            return
        settings = self._settings
        interval_s = query.interval_s or settings.query_interval_s
        present_s = settings.robustness * interval_s + settings.query_response_interval_s
        if port != ASTRAY:
            self._take_more(network, one.routers, port, now_s + present_s)
        for place in one.ports:
            one.device.take(place, heard, now_s)
        self._pass_on(network, port, frame, (*one.ports, OVERLAY))

    def _pass_on(self, network: str, port: int, frame: bytes, to: Iterable[int]) -> None:
        """Hand a tenant's frame to these places, but not back to its own."""
        self._sent += [Sent(network, place, frame) for place in to if place != port]

    def _take_more(self, network: str, timed: dict[int, float], place: int, until_s: float) -> None:
        """Have a place take everything until then, for one of its reasons."""
        if place not in timed:
            self._changed[network, None] = None
            self._retaken[network] = None
        timed[place] = max(timed.get(place, until_s), until_s)

    def _take_less(self, network: str, timed: dict[int, float], place: int) -> None:
        """That reason is gone."""
        del timed[place]
        self._changed[network, None] = None
        self._retaken[network] = None

    def moved(self, hosts: Collection[IPAddress], now_s: float) -> int:
        """Ask the VMs that report from these addresses, and nobody else, whether they are still members of
        their groups (CONFORMANCE D19); the number of those that are known, in each network."""
        n = 0
        for network, one in self._networks.items():
            known = one.device.moved(hosts, now_s)
            if known:
                self._settle(network, one, now_s)
                n += known
        return n

    def poll(self, now_s: float) -> None:
        """Do what is due."""
        for network, one in self._networks.items():
            if one.due_s <= now_s:
                for timed in (one.routers, one.fresh):
                    for place in [place for place, until_s in timed.items() if until_s <= now_s]:
                        self._take_less(network, timed, place)
                one.device.poll(now_s)
                self._settle(network, one, now_s)

    # --- and what comes of it -------------------------------------------------------------------------------

    @property
    def deadline_s(self) -> float | None:
        """When `poll` is due next."""
        due_s = min((one.due_s for one in self._networks.values()), default=math.inf)
        return None if due_s == math.inf else due_s

    def take_frames(self) -> list[Sent]:
        """What is to be sent since the last call, in order."""
        sent, self._sent = self._sent, []
        return sent

    def take_events(self) -> list[tuple[str, Event]]:
        """What became of the members of each network since the last call, in order."""
        events, self._events = self._events, []
        return events

    def take_changed(self) -> list[tuple[str, IPAddress | None]]:
        """The groups of which `listeners` may differ since the last call, each once, in order; None for all
        groups of a network, whose `routers` or `takers` differ."""
        changed, self._changed = list(self._changed), {}
        return changed

    def take_retaken(self) -> list[str]:
        """The networks whose `takers` may differ since the last call."""
        retaken, self._retaken = list(self._retaken), {}
        return retaken

    def groups(self, network: str) -> list[IPAddress]:
        """The groups that somebody at a place of the network is in."""
        one = self._networks.get(network)
        return [] if one is None else list(one.membership.groups())

    def listeners(self, network: str, group: IPAddress) -> dict[int, Wants]:
        """The places that want a group, and which sources of it; routers' are not among them."""
        one = self._networks.get(network)
        by_port: dict[int, list[Wants]] = {}
        for who, wants in () if one is None else one.membership.of(group).items():
            by_port.setdefault(who.port, []).append(wants)
        return {port: union(several) for port, several in by_port.items()}

    def routers(self, network: str) -> frozenset[int]:
        """Where multicast routers are, which get every group of the network: places, and the OVERLAY."""
        one = self._networks.get(network)
        return frozenset() if one is None else frozenset(one.routers)

    def takers(self, network: str) -> frozenset[int]:
        """The places that want everything: those of routers, and those that are new."""
        one = self._networks.get(network)
        return frozenset() if one is None else frozenset((*one.routers, *one.fresh)) - {OVERLAY}

    def devices(self) -> Iterator[tuple[str, Device]]:
        """What hears the VMs of each network, for who shows its members. Networks may come and go while it is
        walked."""
        for network, one in list(self._networks.items()):
            yield network, one.device

    def _settle_members(self, network: str, one: _Network) -> list[IPAddress]:
        """Carry over who joined or left, and in which groups."""
        self._events += [(network, event) for event in one.device.take_events()]
        changed = one.membership.take_changed()
        self._changed.update(dict.fromkeys((network, group) for group in changed))
        return changed

    def _settle(self, network: str, one: _Network, now_s: float) -> None:
        """Carry over what a network came to, upwards and to its places."""
        for group in self._settle_members(network, one):
            members = one.membership.of(group)
            wants = union(members.values()) if members else None
            if self._has_host:
                host = one.hosts[group.max_prefixlen]
                host.want(int(group), None if wants is None else _filter(wants), now_s)
        self._sent += [Sent(network, port, frame) for port, frame in one.device.take_frames()]
        for bits, host in one.hosts.items():
            codec = FAMILIES[bits].codec
            host.poll(now_s)
            for report in host.take_reports():
                for part in codec.split_report(report, OVERLAY_MTU):
                    frame = codec.report_frame(part, self.mac, NOBODY[bits])
                    self._sent.append(Sent(network, OVERLAY, frame))
        one.due_s = _due_s(one)


def union(several: Iterable[Wants]) -> Wants:
    """What all of these want together (RFC 4605 section 4.1)."""
    included: set[IPAddress] = set()
    excluded: frozenset[IPAddress] | None = None
    for wants in several:
        if wants.is_exclude:
            excluded = wants.sources if excluded is None else excluded & wants.sources
        else:
            included |= wants.sources
    return Wants(False, frozenset(included)) if excluded is None else Wants(True, excluded - included)


def _filter(wants: Wants) -> Filter:
    return Filter(wants.is_exclude, frozenset(map(int, wants.sources)))


def _due_s(one: _Network) -> float:
    sides: list[Device | HostSide] = [one.device, *one.hosts.values()]
    due = [deadline_s for side in sides if (deadline_s := side.deadline_s) is not None]
    return min((*due, *one.routers.values(), *one.fresh.values()), default=math.inf)

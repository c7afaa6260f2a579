"""Tenant groups: which VM ports of an NVE want which groups of their network (CONFORMANCE N13, RFC 4541).

1. Pure, and the device's own code in another place: each network that snoops is a `Device` whose ports are
   its VM ports, with a `Membership` of its own. So bounds, leaves, silence and older versions are a device's.
2. We ask on each VM port as long as no tenant does, as nobody (from 0.0.0.0, and from the last link-local
   address there is), so that whoever asks in the network wins the election, be it from another NVE.
3. Who asks as somebody is a multicast router, or stands for one: for as long as a querier counts as present
   its place, a VM port or the overlay, gets all groups of the network and the reports of others. Nobody else
   gets reports (D18); what asks as nobody is another snooper and is shown to nobody. IGMP that is neither (of
   a traceroute, DVMRP or router discovery) is for the whole network, as if nobody snooped (RFC 4541 2.1.1).
4. Upwards, inside the overlay, the NVE is one host that wants what its VMs want together (RFC 4605 section
   4.1): a device needs to know where a group is wanted, not by how many.
5. Link-local groups are never members (`Device`): their frames go to the whole network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
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
"""Where a frame comes from, or goes, that is no VM port: the other NVEs of the network."""
OVERLAY_MTU = 1280
"""Of tenant reports in the overlay: what fits any tenant network that IPv6 does."""
NOBODY = {32: 0, 128: (0xFE80 << 112) + (1 << 64) - 1}
"""Whose address loses every election, by address bits."""


@dataclass(frozen=True, slots=True)
class _Anonymous(Attachment):
    """A VM port, where we are nobody."""

    @property
    def link_local(self) -> int:
        return NOBODY[128]


class Sent(NamedTuple):
    """A tenant's Ethernet frame, untagged, that is to go to a VM port or into the overlay."""

    network: str
    port: int
    frame: bytes


class _Network:
    __slots__ = ("device", "hosts", "membership", "ports", "routers")

    def __init__(self, device: Device, membership: Membership, hosts: dict[int, HostSide]) -> None:
        self.device, self.membership, self.hosts = device, membership, hosts
        self.ports: dict[int, None] = {}
        self.routers: dict[int, float] = {}
        """Until when which place counts as a router's."""


class Tenants:
    """The tenant groups of an NVE. `mac` is ours in frames to VMs; `random` gives numbers in [0, 1)."""

    def __init__(
        self, refused: Refused, settings: MembershipTable, mac: bytes, random: Callable[[], float]
    ) -> None:
        self._refused = refused
        self._settings = settings
        self._mac = mac
        self._random = random
        self._room = Room(settings.max_groups)
        self._networks: dict[str, _Network] = {}
        self._changed: dict[tuple[str, IPAddress | None], None] = {}
        self._sent: list[Sent] = []
        self._events: list[tuple[str, Event]] = []

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
        """These are the VM ports of a network that are up, by their places, and their MTUs (0: no limit).
        Who was at another one is a member no longer."""
        one = self._networks.get(network)
        if one is None:
            membership = Membership()
            device = Device(membership, self._refused, self._settings, self._room)
            hosts = {bits: HostSide(timers(self._settings), self._random) for bits in FAMILIES}
            one = self._networks[network] = _Network(device, membership, hosts)
        one.ports = dict.fromkeys(ports)
        for place in [place for place in one.routers if place not in ports and place != OVERLAY]:
            del one.routers[place]
            self._changed[network, None] = None
        one.device.attach({port: _Anonymous(self._mac, mtu=mtu) for port, mtu in ports.items()}, now_s)
        self._settle(network, one, now_s)

    def forget(self, network: str) -> None:
        """This network is no more, or does not snoop any longer."""
        one = self._networks.pop(network, None)
        if one is not None:
            one.device.attach({}, 0.0)
            self._settle_members(network, one)
            self._changed[network, None] = None

    def hear(self, network: str, port: int, frame: bytes, now_s: float) -> None:
        """Take a punted frame of a tenant, without its outer headers, from a VM port or the OVERLAY."""
        one = self._networks.get(network)
        if one is None or (port != OVERLAY and port not in one.ports):
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
            if port != OVERLAY:
                one.device.take(port, heard, now_s)
            self._pass_on(network, port, frame, (place for place in one.routers if place != OVERLAY))
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
        if port == OVERLAY:
            one.hosts[heard.bits].hear(query, now_s)
        if heard.source == NOBODY[heard.bits]:
            if port != OVERLAY:
                self._refused.count("query_of_nobody")
            return
        settings = self._settings
        interval_s = query.interval_s or settings.query_interval_s
        present_s = settings.robustness * interval_s + settings.query_response_interval_s
        if port not in one.routers:
            self._changed[network, None] = None
        one.routers[port] = max(one.routers.get(port, now_s), now_s + present_s)
        for place in one.ports:
            one.device.take(place, heard, now_s)
        self._pass_on(network, port, frame, (*one.ports, OVERLAY))

    def _pass_on(self, network: str, port: int, frame: bytes, to: Iterable[int]) -> None:
        """Hand a tenant's frame to these places, but not back to its own."""
        self._sent += [Sent(network, place, frame) for place in to if place != port]

    def poll(self, now_s: float) -> None:
        """Do what is due."""
        for network, one in self._networks.items():
            if any(deadline_s <= now_s for deadline_s in _deadlines(one)):
                for place in [place for place, until_s in one.routers.items() if until_s <= now_s]:
                    del one.routers[place]
                    self._changed[network, None] = None
                one.device.poll(now_s)
                self._settle(network, one, now_s)

    # --- and what comes of it -------------------------------------------------------------------------------

    @property
    def deadline_s(self) -> float | None:
        """When `poll` is due next."""
        return min((s for one in self._networks.values() for s in _deadlines(one)), default=None)

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
        groups of a network, whose `routers` differ."""
        changed, self._changed = list(self._changed), {}
        return changed

    def groups(self, network: str) -> list[IPAddress]:
        """The groups that somebody at a VM port of the network is in."""
        one = self._networks.get(network)
        return [] if one is None else list(one.membership.groups())

    def listeners(self, network: str, group: IPAddress) -> dict[int, Wants]:
        """The VM ports that want a group, and which sources of it; routers' are not among them."""
        one = self._networks.get(network)
        by_port: dict[int, list[Wants]] = {}
        for who, wants in () if one is None else one.membership.of(group).items():
            by_port.setdefault(who.port, []).append(wants)
        return {port: union(several) for port, several in by_port.items()}

    def routers(self, network: str) -> frozenset[int]:
        """The places that get every group of the network: VM ports, and the OVERLAY."""
        one = self._networks.get(network)
        return frozenset() if one is None else frozenset(one.routers)

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
        """Carry over what a network came to, upwards and to its VM ports."""
        for group in self._settle_members(network, one):
            members = one.membership.of(group)
            wants = union(members.values()) if members else None
            host = one.hosts[group.max_prefixlen]
            host.want(int(group), None if wants is None else _filter(wants), now_s)
        self._sent += [Sent(network, port, frame) for port, frame in one.device.take_frames()]
        for bits, host in one.hosts.items():
            codec = FAMILIES[bits].codec
            host.poll(now_s)
            for report in host.take_reports():
                for part in codec.split_report(report, OVERLAY_MTU):
                    frame = codec.report_frame(part, self._mac, NOBODY[bits])
                    self._sent.append(Sent(network, OVERLAY, frame))


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


def _deadlines(one: _Network) -> list[float]:
    sides: list[Device | HostSide] = [one.device, *one.hosts.values()]
    due = [deadline_s for side in sides if (deadline_s := side.deadline_s) is not None]
    return [*due, *one.routers.values()]

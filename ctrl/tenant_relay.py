"""The tenants' groups of a device or a point between their role and the data path: whose a punted frame is,
who gets it and what control says itself, as copies (framework 3.2, CONFORMANCE N13).

1. A place is whoever gets local copies of a network: a port with NVEs, or an NVE served by unicast, of a
   device; the receivers of its list in the config, of a point. Places come and go with these lists.
2. What is handed on goes to those, of whom the role says so, that would have got a copy of it, were it data.
3. A point whose lists are a manager's listens to nobody: tenants' IGMP and MLD goes on there as data does.
   Who wants what the devices say themselves.
4. What is behind an internal port is this box's own NVE, which takes no packet of our address (law 2.1): it
   hears what we say there without one (`near`).
5. Reports go into the overlay only where a router is: one was heard from there, or a manager says so.

Drives nothing and has no clock: for live boxes and replay.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ctrl import planner
from ctrl.config import Config
from ctrl.membership import Event, Wants
from ctrl.refusals import Refused
from ctrl.roles.device import Device
from ctrl.roles.tenants import ASTRAY, OVERLAY, OVERLAY_MTU, Sent, Tenants
from ctrl.static import tenant_mac
from ctrl.tenant_side import NOWHERE
from ctrl.tenants_told import Audience, TenantsTold
from fastpath import Punted
from fastpath.compiler import NextHops
from fastpath.model import (
    Egress,
    Encap,
    GroupKey,
    IPAddress,
    Layout,
    Network,
    Owner,
    ReplicationList,
    Scope,
    group_key,
    vni_key,
)

if TYPE_CHECKING:
    from ctrl.tenant_copies import Came, TenantCopies

EVERYBODY = -3
"""Where a frame goes of a network whose tenants nobody listens to here."""


@dataclass(slots=True)
class _Network:
    """A network that snoops."""

    network: Network
    bases: Sequence[GroupKey]
    """The lists that its frames take."""
    is_heard: bool
    places: dict[int, dict[GroupKey, Egress]] = field(default_factory=dict)
    """And the copies of each, by the list that has them."""


class _Queued(NamedTuple):
    sent: Sent
    handed: tuple[Came, tuple[Egress, ...]] | None
    """What is handed on, and the copies to make of it; None: it is our own."""


class TenantRelay:
    """What hears the tenants of a scope, DEVICE or REPLICATOR. Places of its `Tenants` are those of owners;
    those of its punted frames have a turn each: a port and a network."""

    def __init__(
        self, scope: Scope, config: Config, tenants: Tenants, told: TenantsTold, refused: Refused
    ) -> None:
        self.scope = scope
        self.near: Callable[[int, str, bytes], bool] = lambda port, network, frame: False
        """Has our own NVE hear a frame in a network, if the port leads to it."""
        self._tenants = tenants
        self._told = told
        self._refused = refused
        self._lists: Mapping[GroupKey, ReplicationList] = {}
        self._fixed: Collection[GroupKey] = ()
        self._layout = Layout(())
        self._hops: NextHops = {}
        self._copies: TenantCopies | None = None
        self._counted: Counter[Egress] = Counter()
        self._networks: dict[str, _Network] = {}
        self._by_base: dict[GroupKey, list[str]] = {}
        self._attached: dict[str, tuple[bytes, frozenset[int]]] = {}
        """Our MAC and the places that were told last of each network: many differ in neither."""
        self._of_number: dict[tuple[Encap, int], str] = {}
        self._place_of: dict[Owner, int] = {}
        """Of every owner that ever was a place, and back:"""
        self._owners: list[Owner] = []
        self._ports: list[int] = []
        """The port of each place."""
        self._turns: dict[tuple[int, str], int] = {}
        self._speaking: list[tuple[int, str]] = []
        self._queued: deque[_Queued] = deque()
        self.configure(config)

    # --- what it is told ------------------------------------------------------------------------------------

    def configure(self, config: Config) -> None:
        """Go on by another config, from the next `attach` on."""
        role = config.device if self.scope is Scope.DEVICE else config.replicator
        self._address = None if role is None else role.address
        self._tenants.configure(config.membership)
        if role is not None:
            self._tenants.mac = tenant_mac(role)

    def attach(
        self,
        lists: Mapping[GroupKey, ReplicationList],
        layout: Layout,
        hops: NextHops,
        fixed: Collection[GroupKey],
        now_s: float,
    ) -> None:
        """The data path forwards by these lists, which may change (`touched`); `fixed`: those of a point's
        config."""
        self._lists, self._layout, self._hops, self._fixed = lists, layout, hops, fixed
        self._copies = None
        old, self._networks = self._networks, {}
        self._by_base, self._of_number = {}, {}
        for network in layout.networks if self._address is not None else ():
            if network.snoop:
                self._add(network, now_s)
        for name in old:
            if name not in self._networks:
                self._forget(name)
        self._settle(None)

    def _add(self, network: Network, now_s: float) -> None:
        numbers = list(planner.numbers(network))
        bases = [group_key(self.scope, group) for group in _outer(network)]
        if self.scope is Scope.REPLICATOR:
            by_number = [vni_key(self.scope, *number) for number in numbers]
            bases = [key for key in by_number if key in self._fixed] or [k for k in bases if k in self._fixed]
        is_heard = bool(bases) or self.scope is Scope.DEVICE
        one = self._networks[network.name] = _Network(network, bases, is_heard)
        for number in numbers:
            self._of_number.setdefault(number, network.name)
        for key in bases:
            self._by_base.setdefault(key, []).append(network.name)
        self._find_places(one, now_s)

    def touched(self, keys: Iterable[GroupKey], now_s: float) -> bool:
        """These lists are others than before, or gone; True where they are those of a network that snoops."""
        if not self._by_base:
            return False
        names = dict.fromkeys(name for key in keys for name in self._by_base.get(key, ()))
        for name in names:
            self._find_places(self._networks[name], now_s)
        if names:
            self._settle(None)
        return bool(names)

    def _find_places(self, one: _Network, now_s: float) -> None:
        name, one.places = one.network.name, {}
        for key in one.bases:
            found = self._lists.get(key)
            for egress in () if found is None else self._local(found):
                one.places.setdefault(self._place(egress), {})[key] = egress
        attached = self._tenants.mac, frozenset(one.places)
        if not one.is_heard:
            self._forget(name)
        elif self._attached.get(name) != attached:
            self._attached[name] = attached
            self._tenants.attach(name, dict.fromkeys(one.places, OVERLAY_MTU), now_s)

    def _forget(self, name: str) -> None:
        self._attached.pop(name, None)
        self._tenants.forget(name)

    def _local(self, found: ReplicationList) -> Iterable[Egress]:
        """The copies to places. Those of a point in one list of its config are all to such."""
        return found.local if self.scope is Scope.DEVICE else (*found.local, *found.remote)

    def _place(self, egress: Egress) -> int:
        owner = egress.owner
        if owner not in self._place_of:
            self._place_of[owner] = len(self._owners)
            self._owners.append(owner)
            self._ports.append(egress.out_port if owner.port is None else owner.port)
        return self._place_of[owner]

    def whose(self, punted: Punted) -> tuple[int, bytes]:
        """Whose turn it is to be heard, and the frame as it came."""
        inner = punted.inner
        name = None if inner is None else self._of_number.get((inner.encap, inner.number))
        if name is None:
            return NOWHERE, punted.frame
        turn = self._turns.setdefault((punted.in_port, name), len(self._speaking))
        if turn == len(self._speaking):
            self._speaking.append((punted.in_port, name))
        return turn, punted.frame

    def hear(self, turn: int, frame: bytes, now_s: float) -> None:
        """Take one tenant's frame, with all that carries it."""
        from fastpath.reference.wire import Drop  # noqa: PLC0415  as below

        in_port, name = (0, "") if turn < 0 else self._speaking[turn]
        one = self._networks.get(name)
        if one is None:
            self._refused.count("not_an_nve_port")
            return
        try:
            came = self._made().came(in_port, frame)
        except Drop:
            self._refused.count("tenant_not_heard")
            return
        inner = came.inner
        if one.is_heard:
            self._tenants.hear(name, self._origin(one, came), inner, now_s)
            self._settle((came, inner))
        else:
            self._hand_on(one, Sent(name, EVERYBODY, inner), came)

    def _origin(self, one: _Network, came: Came) -> int:
        """The place that a frame is from: that of the NVE alone, rather than of its port."""
        if came.is_remote:
            return OVERLAY
        here = [owner for owner in came.owners if self._place_of.get(owner) in one.places]
        here.sort(key=lambda owner: owner.address is None)
        return self._place_of[here[0]] if here else ASTRAY

    def moved(self, hosts: Collection[IPAddress], now_s: float) -> int:
        """Ask these VMs, and nobody else, whether they are still members; the number of those known."""
        known = self._tenants.moved(hosts, now_s)
        self._settle(None)
        return known

    def poll(self, now_s: float) -> None:
        """Do what is due."""
        self._tenants.poll(now_s)
        self._settle(None)

    def _settle(self, heard: tuple[Came, bytes] | None) -> None:
        """Take what is to be sent; what was just `heard` is handed on as it came."""
        came, inner = heard or (None, None)
        for sent in self._tenants.take_frames():
            if came is not None and sent.frame is inner:
                self._hand_on(self._networks[sent.network], sent, came)
            else:
                self._queued.append(_Queued(sent, None))

    def _hand_on(self, one: _Network, sent: Sent, came: Came) -> None:
        egresses = tuple(self._egresses(one, sent, came))
        if egresses:
            self._queued.append(_Queued(sent, (came, egresses)))

    def _made(self) -> TenantCopies:
        # what takes long to import comes when the first tenant speaks
        from ctrl.tenant_copies import TenantCopies  # noqa: PLC0415

        if self._copies is None:
            by = self._lists, self._layout, self._hops
            self._copies = TenantCopies(self.scope, self._address, *by, self._counted)
        return self._copies

    # --- and what comes of it -------------------------------------------------------------------------------

    @property
    def deadline_s(self) -> float | None:
        """When `poll` is due next."""
        return self._tenants.deadline_s

    @property
    def n_frames(self) -> int:
        """How many are to be sent."""
        return len(self._queued)

    def take_frames(self, most: int | None = None) -> list[tuple[int, bytes]]:
        """(place of the port, frame) of what is to be sent, in order; at most so many of the role's frames,
        or all."""
        n = len(self._queued) if most is None else min(most, len(self._queued))
        return [out for _ in range(n) for out in self._out(*self._queued.popleft())]

    def _out(self, sent: Sent, handed: tuple[Came, tuple[Egress, ...]] | None) -> Iterator[tuple[int, bytes]]:
        from fastpath.reference.wire import CopyDrop  # noqa: PLC0415  as in `_made`

        copies, one = self._made(), self._networks.get(sent.network)
        try:
            if handed is not None:
                frame, egresses = handed[0].frame, handed[1]
            elif self.near(self._ports[sent.port], sent.network, sent.frame):
                return
            elif one is not None and sent.port in one.places:
                frame, egress = copies.own(one.network, sent.frame, one.places[sent.port])
                egresses = (egress,)
            else:  # who was asked is there no longer
                return
        except CopyDrop:
            self._refused.count("tenant_not_sent")
            return
        for egress in egresses:
            try:
                yield egress.out_port, copies.copy(frame, egress)
            except CopyDrop:
                self._refused.count("tenant_not_sent")

    def _egresses(self, one: _Network, sent: Sent, came: Came) -> Iterator[Egress]:
        """The copies of a frame that is handed on."""
        if sent.port == EVERYBODY:
            yield from (*came.local.values(), *came.remote)
        elif sent.port != OVERLAY:
            owner = self._owners[sent.port]
            if owner in came.local:
                yield came.local[owner]
        elif sent.is_report:
            yield from self._to_routers(one, came)
        else:
            yield from came.remote

    def _to_routers(self, one: _Network, came: Came) -> Iterator[Egress]:
        """The copies of a report into the overlay."""
        audience = None if came.outer is None else Audience(came.outer, one.network.vni)
        is_wanted = OVERLAY in self._tenants.routers(one.network.name)
        spared: frozenset[IPAddress] = frozenset()
        if audience is not None:
            is_wanted = is_wanted or bool(self._told.wants_any(audience))
            spared = self._told.spared(audience, None)
        if is_wanted:
            yield from (e for e in came.remote if e.address not in spared)

    def take_events(self) -> list[tuple[str, Event]]:
        """What became of the members of each network since the last call, in order, at their ports."""
        return [
            (network, event._replace(who=event.who._replace(port=self._ports[event.who.port])))
            for network, event in self._tenants.take_events()
        ]

    def take_retaken(self) -> list[str]:
        """The networks whose `takers` may differ since the last call."""
        return self._tenants.take_retaken()

    def devices(self) -> Iterator[tuple[str, Device]]:
        """What hears the tenants of each network; `port_of` says where its places are."""
        return self._tenants.devices()

    def port_of(self, place: int) -> int:
        """The port of a place of `devices`."""
        return self._ports[place]

    # --- and who wants what, by owners: `ctrl.refined_lists.Heard` ------------------------------------------

    def take_changed(self) -> list[tuple[str, IPAddress | None]]:
        """The groups of which `listeners` may differ; None: `takers` or `places` of a network may."""
        return self._tenants.take_changed()

    def groups(self, network: str) -> list[IPAddress]:
        """The tenants' groups that somebody at a place is in."""
        return self._tenants.groups(network)

    def places(self, network: str) -> frozenset[Owner]:
        """Who is listened to."""
        one = self._networks.get(network)
        return frozenset(self._owners[place] for place in one.places) if one else frozenset()

    def listeners(self, network: str, group: IPAddress) -> dict[Owner, Wants]:
        """Who wants a group, and which sources of it."""
        found = self._tenants.listeners(network, group)
        return {self._owners[place]: wants for place, wants in found.items()}

    def routers(self, network: str) -> frozenset[Owner | None]:
        """Where multicast routers are; None: in the overlay."""
        found = self._tenants.routers(network)
        return frozenset(None if place == OVERLAY else self._owners[place] for place in found)

    def takers(self, network: str) -> frozenset[Owner]:
        """Who wants everything."""
        return frozenset(self._owners[place] for place in self._tenants.takers(network))


def relays_of(
    config: Config, told: Mapping[Scope, TenantsTold], refused: Refused, random: Callable[[], float]
) -> tuple[TenantRelay, ...]:
    """Make those of a box: of its device, and of its point. The config may not have these roles yet."""
    return tuple(
        TenantRelay(
            scope,
            config,
            Tenants(refused, config.membership, bytes(6), random, has_host=False),
            told[scope],
            refused,
        )
        for scope in (Scope.DEVICE, Scope.REPLICATOR)
    )


def _outer(network: Network) -> list[IPAddress]:
    """The groups that carry it, its own first."""
    return [group for group in dict.fromkeys((network.group, *(m.group for m in network.maps))) if group]

"""The tenants of a running box, at its NVE, its device and its point: what hears them, what managers said of
them, and the lists that come of it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterator, Sequence

from ctrl.config import Config
from ctrl.daemon.reach import Reach
from ctrl.members import relayed_views, router_places, tenant_views
from ctrl.publisher import Publisher
from ctrl.refined_lists import RefinedLists
from ctrl.refusals import Refused
from ctrl.roles.device import Device
from ctrl.roles.tenants import Tenants
from ctrl.static import tenant_mac
from ctrl.tenant_lists import TenantLists
from ctrl.tenant_relay import relays_of
from ctrl.tenant_side import TenantSide
from ctrl.tenants_said import Heard
from ctrl.tenants_told import TenantsTold
from ctrl.view import MemberView
from ctrl.ways import uplink
from fastpath.model import IPAddress, Scope


class Tenancy:
    """All of it; what of it a config has no role for is not there."""

    def __init__(self, config: Config, refused: Refused) -> None:
        self.told = {scope: TenantsTold() for scope in Scope}
        self.tenants: Tenants | None = None
        self.side: TenantSide | None = None
        if config.nve is not None:
            mac = tenant_mac(config.nve)
            self.tenants = Tenants(refused, config.membership, mac, random.random)
            self.side = TenantSide(self.tenants, refused)
        self.relays = relays_of(config, self.told, refused, random.random)
        self._inside: frozenset[int] = frozenset()
        """The ports whose other end is the uplink of our NVE."""
        for relay in self.relays:
            relay.near = self._near
        self.configure(config)

    def _near(self, port: int, network: str, frame: bytes) -> bool:
        if self.side is None or port not in self._inside:
            return False
        self.side.hear(self.side.overlay(network), frame, time.monotonic())
        return True

    def lists(self) -> TenantLists | None:
        """What the NVE forwards by."""
        return None if self.tenants is None else TenantLists(self.tenants, self.told[Scope.NVE])

    def refined(self) -> list[RefinedLists]:
        """What device and point forward by besides."""
        return [RefinedLists(one.scope, one, self.told[one.scope]) for one in self.relays]

    def heard(self) -> dict[Scope, Heard]:
        """What is heard, by role."""
        found: dict[Scope, Heard] = {one.scope: one for one in self.relays}
        if self.tenants is not None:
            found[Scope.NVE] = self.tenants
        return found

    def configure(self, config: Config) -> None:
        """Go on by another config."""
        if self.tenants is not None:
            self.tenants.configure(config.membership)
        for relay in self.relays:
            relay.configure(config)
        by, ports = uplink(config), config.ports
        peer = None if by is None else ports[by].peer
        self._inside = frozenset(i for i, port in enumerate(ports) if port.name == peer)

    def attach(self, reach: Reach, publisher: Publisher, now_s: float) -> None:
        """The data path forwards by these lists, on this layout."""
        basis, fixed = reach.basis, {one.key for one in reach.basis.fixed}
        if self.side is not None:
            self.side.attach(basis.snooped, basis.agnostic, reach.layout, reach.hops, now_s)
        for relay in self.relays:
            relay.attach(publisher.lists, reach.layout, reach.hops, fixed, now_s)

    def moved(self, hosts: Collection[IPAddress], now_s: float) -> int:
        """Ask these VMs, and nobody else, whether they are still members; the number of those known."""
        heard = [one for one in (self.tenants, *self.relays) if one is not None]
        return sum(one.moved(hosts, now_s) for one in heard)

    def devices(self) -> Iterator[tuple[Device, Callable[[int], int] | None]]:
        """What hears the tenants of each network, and which port each of its places is at."""
        if self.tenants is not None:
            yield from ((device, None) for _, device in self.tenants.devices())
        for relay in self.relays:
            yield from ((device, relay.port_of) for _, device in relay.devices())

    def members(self, names: Sequence[str], now_s: float) -> Iterator[MemberView]:
        """The VMs that are in groups; `names` are those of the ports."""
        if self.tenants is not None:
            yield from tenant_views(names, self.tenants, now_s)
        for relay in self.relays:
            yield from relayed_views(names, relay, now_s)

    def routers(self, config: Config) -> dict[str, tuple[str, ...]]:
        """Where multicast routers are, by network; those without are left out."""
        names = [port.name for port in config.ports]
        found = {
            one.name: router_places(names, self.tenants, self.relays, one.name) for one in config.networks
        }
        return {network: places for network, places in found.items() if places}

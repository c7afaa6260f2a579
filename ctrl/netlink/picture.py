"""What is known of the links, routes and neighbours that matter, and what has to be asked again. Pure: values
in, values out; no socket, no clock.

1. The kernel decides: an event says *that* something may have changed, and the address is looked up again in
   the kernel's own FIB. Nothing here matches routes, ranks metrics or hashes multipath.
2. A route event concerns the wanted addresses below its prefix and no others, so the churn of a full
   BGP table costs a comparison each. Links, addresses, rules and nexthop objects concern all.
3. Only neighbours that a wanted address needs are held; news of all others end at one look into a dict.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from ipaddress import ip_address
from types import MappingProxyType

from ctrl.netlink.model import NO_ROUTE, IPInterface, Link, NextHop, View
from ctrl.netlink.news import (
    OUR_PROTOCOL,
    AddressNews,
    LinkNews,
    Neighbour,
    News,
    Route,
    RouteKind,
    RouteNews,
    Target,
)
from fastpath.model import IPAddress


class Picture:
    """All that is known now. The attributes named `*_to_ask` are emptied by whoever asks."""

    def __init__(self) -> None:
        self.links_to_ask = True
        """The links are not known, or no longer surely known: list them all."""
        self.routes_to_ask: set[IPAddress] = set()
        self.neighbours_to_ask: set[Target] = set()
        self.restless: set[Target] = set()
        """Neighbours that somebody has to ask for: not resolved, or not kept so by the kernel."""
        self.abandoned: set[Target] = set()
        """Neighbours that no wanted address needs any more."""
        self.changed_devices: set[str] = set()
        self.changed_addresses: set[IPAddress] = set()
        self._devices: frozenset[str] = frozenset()
        self._drivers: dict[int, str | None] = {}
        self._links: dict[int, LinkNews] = {}
        self._addresses: dict[int, dict[IPInterface, None]] = {}
        self._are_addresses_other = False
        """Whether they are no longer those of `_view`."""
        self._routes: dict[IPAddress, Route | None] = {}
        self._sorted: dict[int, tuple[list[int], list[IPAddress]]] = {4: ([], []), 16: ([], [])}
        self._behind: dict[Target, set[IPAddress]] = {}
        self._neighbours: dict[Target, Neighbour] = {}
        self._hops: dict[IPAddress, NextHop] = {}
        self._view = View()
        self._groups: set[IPAddress] = set()  # the multicast addresses among the wanted

    # --- what is wanted

    def want(self, devices: Iterable[str], addresses: Iterable[IPAddress]) -> None:
        """Replace what is asked for; what stays is not asked again."""
        devices, wanted = frozenset(devices), set(addresses)
        self.changed_devices |= devices ^ self._devices
        self._devices = devices
        for address in self._routes.keys() - wanted:
            self._leave(address, self._routes.pop(address))
            self._hops.pop(address, None)
            self.routes_to_ask.discard(address)
            self._groups.discard(address)
            self.changed_addresses.add(address)
        for address in wanted - self._routes.keys():
            self._routes[address] = None
            if address.is_multicast:
                self._groups.add(address)
            self.routes_to_ask.add(address)
            self.changed_addresses.add(address)
        for size in (4, 16):
            ordered = sorted((int(a), a) for a in wanted if len(a.packed) == size)
            self._sorted[size] = ([number for number, _ in ordered], [a for _, a in ordered])
        for target in self._behind:
            self._judge(target)
            link = self._links.get(target.ifindex)
            if link is not None and link.name not in devices:
                self.abandoned.add(target)
            else:
                self.abandoned.discard(target)

    def devices_without_driver(self) -> list[tuple[int, str]]:
        """List the wanted devices, by index and name, whose driver is not known."""
        links = self._links.values()
        return [
            (n.ifindex, n.name) for n in links if n.name in self._devices and n.ifindex not in self._drivers
        ]

    def driver_is(self, index: int, driver: str | None) -> None:
        self._drivers[index] = driver
        self.changed_devices.add(self._links[index].name)

    def wanted_indexes(self) -> list[int]:
        return [link.ifindex for link in self._links.values() if link.name in self._devices]

    def targets(self) -> list[Target]:
        """List the neighbours that wanted addresses need."""
        return list(self._behind)

    # --- what the kernel answered

    def links_are(self, links: Iterable[LinkNews], addresses: Iterable[AddressNews]) -> None:
        """Replace all that is known of links; all else is asked again."""
        old, self.links_to_ask = self._links, False
        self._links = {link.ifindex: link for link in links}
        self._addresses = {}
        self._are_addresses_other = True
        for news in addresses:
            self._addresses.setdefault(news.ifindex, {})[news.address] = None
        for index in old.keys() - self._links.keys():
            self._drivers.pop(index, None)
        self.changed_devices |= self._devices
        self.routes_to_ask |= self._routes.keys()
        self.neighbours_to_ask |= self._behind.keys()
        for target in self._behind:
            self._judge(target)

    def route_is(self, address: IPAddress, route: Route | None) -> None:
        """Take the answer for an address; one that is no longer wanted is ignored."""
        if address not in self._routes:
            return
        old = self._routes[address]
        if old != route:
            self._leave(address, old)
            self._routes[address] = route
            target = self._target(address, route)
            if target is not None:
                if target not in self._behind:
                    self._behind[target] = set()
                    self.abandoned.discard(target)
                    self.neighbours_to_ask.add(target)
                    self._judge(target)
                self._behind[target].add(address)
        self.changed_addresses.add(address)

    def neighbour_is(self, neighbour: Neighbour) -> None:
        """Take the kernel's word on a neighbour, asked for or not."""
        target = neighbour.target
        behind = self._behind.get(target)
        if behind is None:
            return
        old = self._neighbours.get(target)
        self._neighbours[target] = neighbour
        if old is None or (old.usable, old.mac) != (neighbour.usable, neighbour.mac):
            self.changed_addresses |= behind
        self._judge(target)

    def _leave(self, address: IPAddress, route: Route | None) -> None:
        target = self._target(address, route)
        if target is None:
            return
        behind = self._behind[target]
        behind.discard(address)
        if not behind:
            del self._behind[target]
            self._neighbours.pop(target, None)
            self.neighbours_to_ask.discard(target)
            self.restless.discard(target)
            self.abandoned.add(target)

    # --- what happened

    def hear(self, news: News) -> bool:
        """Take an event; say whether it changes anything, or may."""
        if isinstance(news, Neighbour):
            if news.target not in self._behind:
                return False
            before = self._neighbours.get(news.target)
            self.neighbour_is(news)
            return before != news
        if isinstance(news, RouteNews):
            concerned = self._below(news)
            self.routes_to_ask.update(concerned)
            return bool(concerned)
        if isinstance(news, LinkNews):
            return self._hear_link(news)
        known = self._addresses.setdefault(news.ifindex, {})
        if news.gone != (news.address in known):
            return False  # told before: lifetimes renewed
        self._are_addresses_other = True
        if news.gone:
            del known[news.address]
        else:
            known[news.address] = None
        link = self._links.get(news.ifindex)
        if link is not None:
            self.changed_devices.add(link.name)
        # The kernel says nothing of routes that go with their address.
        self.routes_to_ask |= self._routes.keys()
        return True

    def lost(self) -> None:
        """Doubt all that is known: events were lost."""
        self.links_to_ask = True

    def _hear_link(self, news: LinkNews) -> bool:
        old = self._links.get(news.ifindex)
        if old == news or (old is None and news.gone):
            return False
        if news.gone:
            del self._links[news.ifindex]
            self._addresses.pop(news.ifindex, None)
            self._are_addresses_other = True
            self._drivers.pop(news.ifindex, None)
        else:
            self._links[news.ifindex] = news
        self.changed_devices |= {news.name, old.name if old else news.name}
        # Nor of IPv4 routes that go with their device; and a renamed device renames hops.
        self.routes_to_ask |= self._routes.keys()
        for target in self._behind:
            if target.ifindex == news.ifindex:
                self.neighbours_to_ask.add(target)
                self._judge(target)
        return True

    def _below(self, news: RouteNews) -> Iterable[IPAddress]:
        if news.prefix is None:
            return self._routes.keys()
        numbers, addresses = self._sorted[len(news.prefix)]
        span = 8 * len(news.prefix) - news.bits
        low = int.from_bytes(news.prefix, "big") >> span << span
        return addresses[bisect_left(numbers, low) : bisect_right(numbers, low + (1 << span) - 1)]

    # --- what follows from it

    def view(self) -> View:
        """Draw what is known now; the same View as before if that looks the same."""
        hops: dict[IPAddress, NextHop] = {}
        drawn: dict[Route | None, NextHop] = {}
        for address in self.changed_addresses & self._routes.keys():
            route = self._routes[address]
            hop = drawn.get(route)
            if hop is None:
                hop = self._hop(address, route)
                if route is None or (route.gateway and address not in self._groups):
                    drawn[route] = hop  # one object for the thousands behind it
            if self._hops.get(address) != hop:
                hops[address] = hop
        gone = self._view.hops.keys() - self._routes.keys() if self.changed_addresses else ()
        links = self._wanted_links() if self.changed_devices else self._view.links
        addresses = self._all_addresses() if self._are_addresses_other else self._view.addresses
        if hops or gone or links != self._view.links or addresses != self._view.addresses:
            self._hops.update(hops)
            self._view = View(MappingProxyType(dict(links)), MappingProxyType(dict(self._hops)), addresses)
        self._are_addresses_other = False
        self.changed_devices, self.changed_addresses = set(), set()
        return self._view

    def _wanted_links(self) -> dict[str, Link]:
        return {
            link.name: Link(
                *(link.name, link.ifindex, link.mac, link.mtu, link.is_up, self._drivers.get(link.ifindex)),
                tuple(self._addresses.get(link.ifindex, ())),
            )
            for link in self._links.values()
            if link.name in self._devices
        }

    def _all_addresses(self) -> frozenset[IPAddress]:
        return frozenset(one.ip for of_link in self._addresses.values() for one in of_link)

    def _hop(self, address: IPAddress, route: Route | None) -> NextHop:
        if route is None:
            return NO_ROUTE
        if route.kind in {RouteKind.LOCAL, RouteKind.ANYCAST}:
            return NextHop("lo")
        link = self._links.get(route.ifindex)
        if link is None:
            return NO_ROUTE  # the device went away since; the event is on its way
        gateway = ip_address(route.gateway) if route.gateway else None
        return NextHop(link.name, self._mac(address, route, link), gateway)

    def _mac(self, address: IPAddress, route: Route, link: LinkNews) -> bytes | None:
        if address in self._groups and link.resolves:
            packed = address.packed
            if len(packed) == 16:
                return b"\x33\x33" + packed[-4:]
            return b"\x01\x00\x5e" + bytes([packed[1] & 0x7F]) + packed[2:]
        target = self._target(address, route)
        neighbour = self._neighbours.get(target) if target is not None else None
        if not link.resolves:
            fixed = neighbour is not None and neighbour.permanent and neighbour.usable
            return neighbour.mac if neighbour is not None and fixed else bytes(6)
        return neighbour.mac if neighbour is not None and neighbour.usable else None

    def _target(self, address: IPAddress, route: Route | None) -> Target | None:
        if route is None or route.kind != RouteKind.UNICAST or address in self._groups:
            return None
        return Target(route.ifindex, route.gateway or address.packed)

    def _judge(self, target: Target) -> None:
        """Decide whether somebody has to ask for a neighbour. Only on devices that are wanted and up."""
        link = self._links.get(target.ifindex)
        known = self._neighbours.get(target)
        at_rest = (
            link is None
            or not link.is_up
            or not link.resolves
            or link.name not in self._devices
            or (known is not None and self._is_kept(known))
        )
        if at_rest:
            self.restless.discard(target)
        else:
            self.restless.add(target)

    @staticmethod
    def _is_kept(known: Neighbour) -> bool:
        answered_for = known.learned or known.permanent
        return answered_for or (known.managed and known.usable)

    def wish(self, target: Target) -> Neighbour:
        """Say how to have a neighbour resolved: kept so by the kernel and marked ours, if not another's."""
        known = self._neighbours.get(target, Neighbour(target))
        if known.ours or (not known.managed and not known.protocol):
            return Neighbour(target, managed=True, protocol=OUR_PROTOCOL)
        return Neighbour(target, managed=known.managed)

    def is_resolved(self, target: Target) -> bool:
        known = self._neighbours.get(target)
        return known is not None and known.usable

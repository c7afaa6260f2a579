"""What a node says of its tenants: the keys of its second information that are about them (framework 3.2).

1. In each outer group of a network that it is in it says that it reads what tenants say (`AWARE`), which of
   their groups somebody here is in, and whether somebody takes all of them (`ANY`).
2. What it wants comes before that it reads what is wanted: nobody leaves out what was not said yet.

Pure: news in, keys out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from ipaddress import ip_address
from typing import NamedTuple, Protocol

from ctrl import planner
from ctrl.topology.entry import ANY, AWARE, Address, Key, split_tenant, tenant_key
from fastpath.model import IPAddress, Network


class Heard(Protocol):
    """What the tenants said: `ctrl.roles.tenants`, `ctrl.tenant_relay`."""

    def groups(self, network: str) -> Collection[IPAddress]: ...
    def listeners(self, network: str, group: IPAddress) -> Collection[object]: ...
    def takers(self, network: str) -> Collection[object]: ...
    def take_retaken(self) -> list[str]: ...


class Numbers(NamedTuple):
    """What the network of a key is called on the wire."""

    vnis: tuple[int, ...]
    vsids: tuple[int, ...]


class TenantsSaid:
    """The keys of one node, of which `take` gives what is new. `is_in`: whether it is in an outer group."""

    def __init__(self, heard: Heard, is_in: Callable[[IPAddress], bool]) -> None:
        self._heard = heard
        self._is_in = is_in
        self._networks: dict[str, Network] = {}
        self._said: dict[str, dict[Key, Numbers]] = {}
        self._due: dict[tuple[str, Address], None] = {}
        """Groups, `ANY` or, for all of a network, `AWARE`."""

    def rebase(self, networks: Iterable[Network]) -> None:
        """These are the networks that snoop from now on."""
        old, self._networks = self._networks, {one.name: one for one in networks}
        for name in {**old, **self._networks}:
            if old.get(name) != self._networks.get(name):
                self._due[name, AWARE] = None

    def change_outer(self, group: IPAddress) -> None:
        """The node came into an outer group, or left it."""
        for name, network in self._networks.items():
            if group in network.groups():
                self._due[name, AWARE] = None

    def change(self, network: str, group: IPAddress) -> None:
        """Somebody here came into a tenants' group, or the last one left it."""
        self._due[network, group.packed] = None

    def take(self) -> Iterator[tuple[Key, Numbers | None]]:
        """The keys that differ from what was said last, in the order in which they are to be said; None: not
        any more."""
        self._due |= dict.fromkeys((name, ANY) for name in self._heard.take_retaken())
        due, self._due = self._due, {}
        news: dict[Key, Numbers | None] = {}
        for name, about in due:
            said = self._said.setdefault(name, {})
            wanted = dict(self._wanted(name, about))
            covered = said if about == AWARE else self._keys(name, about)
            gone = [key for key in covered if key in said and key not in wanted]
            fresh = {key: numbers for key, numbers in wanted.items() if said.get(key) != numbers}
            for key in gone:
                del said[key]
            said |= fresh
            news |= dict.fromkeys(gone) | fresh
        yield from sorted(news.items(), key=_rank)

    def _keys(self, name: str, about: Address) -> list[Key]:
        """Those that may be about a group, or `ANY`."""
        network = self._networks.get(name)
        if network is None:
            return []
        return [tenant_key(outer.packed, network.vni, about) for outer in network.groups()]

    def _wanted(self, name: str, about: Address) -> Iterator[tuple[Key, Numbers]]:
        """The keys that there are to be, of one kind or, with `AWARE`, of all."""
        network, heard = self._networks.get(name), self._heard
        if network is None:
            return
        outer = [group for group in network.groups() if self._is_in(group)]
        numbers = Numbers((network.vni,), () if network.vsid is None else (network.vsid,))

        def key(group: IPAddress, inner: Address) -> tuple[Key, Numbers]:
            return tenant_key(group.packed, network.vni, inner), numbers

        groups = heard.groups(name) if about == AWARE else ()
        if about not in (ANY, AWARE):
            groups = [group for group in (ip_address(about),) if heard.listeners(name, group)]
        for group in groups:
            carrier = planner.outer_group(network, group)
            if carrier in outer:
                yield key(carrier, group.packed)
        if about in (ANY, AWARE) and heard.takers(name):
            yield from (key(group, ANY) for group in outer)
        if about == AWARE:
            yield from (key(group, AWARE) for group in outer)


def _rank(news: tuple[Key, Numbers | None]) -> int:
    """What is wanted, then that all is, then that this is known; and the other way round where it ends."""
    key, numbers = news
    place = (AWARE, ANY).index(inner) + 1 if (inner := split_tenant(key).inner) in (AWARE, ANY) else 3
    return place if numbers is None else -place

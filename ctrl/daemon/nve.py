"""The NVE role of a running box: what frames taught becomes entries of the table, VM ports become joins.

1. The role is pure (`ctrl.roles.nve`); here are its clock, its descriptors, and what it needs of the kernel.
   `Snooping` carries its messages, as it does the device's.
2. Lessons are taken in turns: whoever floods with new MACs keeps neither joins nor other ports waiting.
3. A VTEP that was heard is asked of netlink like a peer (`wanted`), and its MACs are in force when its next
   hop is known (`apply`).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Collection, Iterator, Mapping

from ctrl.config import Config
from ctrl.daemon.reach import Reach
from ctrl.daemon.reached import Reached
from ctrl.events import Bus, mac_event
from ctrl.refusals import Refused
from ctrl.roles.attachment import Attachment
from ctrl.roles.nve.joins import Joins
from ctrl.roles.nve.macs import Macs
from ctrl.roles.nve.places import Vtep
from ctrl.static import needs
from ctrl.stations import Stations, encaps, limits, mac_views, place_of, statics, vm_vnis
from ctrl.view import JoinedView, MacView, NveView
from fastpath import Forwarder
from fastpath.model import IPAddress

LOG = logging.getLogger("fastpath.nve")
TURN_S = 0.005
LOOK_MACS = 256
"""Lessons that are taken in one go."""


class Nve:
    """The NVE of a box, on the running loop."""

    def __init__(
        self, config: Config, reach: Reach, forwarder: Forwarder, refused: Refused, bus: Bus
    ) -> None:
        self._config = config
        self._forwarder = forwarder
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        self._next: asyncio.Handle | None = None
        """The turn that comes next, where there is more to take already."""
        self.joins = Joins(refused, config.membership, random.random)
        self._reach = reach
        limit = limits(config)
        self._reached = Reached(limit.max_vteps)
        self._uplinks: Mapping[int, Attachment] = {}
        self._needs: Mapping[str, object] = {}
        self.stations = Stations(forwarder, config, reach.basis.ways)
        self._macs = Macs(
            forwarder.macs,
            self.stations,
            refused,
            limit,
            lambda: bus.wanted("macs"),
            lambda vtep: _is_reached(vtep, self._reach),
        )
        self.wanted = asyncio.Event()
        """Set where `vteps` are others than before."""
        self.configure(config)

    # --- when it begins, and ends ---------------------------------------------------------------------------

    def start(self) -> None:
        """Learn from now on."""
        for fd in self._forwarder.learn_fds:
            self._loop.add_reader(fd, self._woken)

    def stop(self) -> None:
        """Learn no more."""
        for fd in self._forwarder.learn_fds:
            self._loop.remove_reader(fd)
        if self._next is not None:
            self._next.cancel()
            self._next = None

    # --- what happens ---------------------------------------------------------------------------------------

    def configure(self, config: Config) -> None:
        """Go on by another config; what was learned stays."""
        self._config = config
        self.joins.configure(config.membership)
        self.stations.configure(config)
        self._macs.configure(limits(config), statics(config), encaps(config), self._forwarder.mac_now())
        self._settle()

    def apply(
        self, reach: Reach, uplinks: Mapping[int, Attachment], addresses: Collection[IPAddress]
    ) -> None:
        """Go on by another picture of the kernel, by which the box forwards already. `addresses` are those
        of the box."""
        now_s, layout = time.monotonic(), reach.layout
        self._reach, self._uplinks = reach, uplinks
        self.joins.attach(uplinks, now_s)
        needed = needs(self._config, layout.ports)
        for network in [name for name in self._needs if name not in needed]:
            self.joins.need(network, frozenset(), now_s)
        for network, places in needed.items():
            self.joins.need(network, places, now_s)
        self._needs = needed
        self._macs.attach(vm_vnis(layout))
        self.stations.reroute(reach.basis.ways)
        self._macs.reached([vtep for vtep in self._macs.waiting if _is_reached(vtep, reach)])
        self._settle()
        if self._config.nve is not None:
            self._reached.own(self._config.nve.address, addresses)

    def is_uplink(self, place: int) -> bool:
        """Say whether the NVE is in its groups by this port."""
        return place in self._uplinks

    def tick(self) -> None:
        """A second is over."""
        self._reached.vteps({address: _state(address, self._reach) for address in self.vteps})
        self._macs.expire(self._forwarder.mac_now())
        self._settle()

    def _woken(self) -> None:
        if self._next is None:
            self._turn()

    def _turn(self) -> None:
        """Take what was taught, for as long as a turn lasts."""
        self._next = None
        now, end_s = self._forwarder.mac_now(), time.monotonic() + TURN_S
        while lessons := self._forwarder.read_learned(LOOK_MACS):
            for one in lessons:
                self._macs.learn(one.vni, one.mac, place_of(one), now)
            if time.monotonic() >= end_s:
                self._next = self._loop.call_soon(self._turn)
                break
        self._settle()

    def _settle(self) -> None:
        """Tell what became of MACs, and whom netlink is to be asked of."""
        changes = self._macs.take_changes()
        if changes:
            names = self._names()
            for change in changes:
                self._bus.publish("macs", mac_event(change, names.get(change.vni), self._port_name))
        if self._macs.is_other:
            self._macs.is_other = False
            self.wanted.set()

    # --- what can be seen -----------------------------------------------------------------------------------

    @property
    def vteps(self) -> frozenset[IPAddress]:
        """The VTEPs that MACs are behind, and those that wait for a next hop."""
        return frozenset(vtep.address for vtep in self._macs.vteps)

    def view(self) -> NveView:
        """The picture of this moment, without the MACs."""
        macs = self._macs
        counts, here = macs.by_network, {port.network for port in self._config.ports if "vm" in port.faces}
        return NveView(
            macs={n.name: counts.get(n.vni, 0) for n in self._config.networks if n.name in here},
            learned=macs.learned,
            moved=macs.moved,
            aged=macs.aged,
            vteps=tuple(
                (vtep.address, self.stations.out_port(vtep))
                for vtep in macs.vteps
                if macs.station(vtep) is not None
            ),
            waiting=tuple(dict.fromkeys(vtep.address for vtep in macs.waiting)),
            joined=tuple(JoinedView(one.group, one.networks) for one in self.joins.rows(time.monotonic())),
        )

    def macs(self) -> Iterator[MacView]:
        """All stations, one after the other; they may come and go while it is walked."""
        return mac_views(self._macs.known(), self._config, self._forwarder.mac_now)

    def _names(self) -> dict[int, str]:
        return {network.vni: network.name for network in self._config.networks}

    def _port_name(self, place: int) -> str:
        return self._config.ports[place].name


def _state(address: IPAddress, reach: Reach) -> str:
    """How a VTEP is reached, in a word; an empty one where netlink was not asked yet."""
    if address in reach.states:
        return reach.states[address]
    out_port = reach.basis.ways.out_port(address)
    if out_port is None:
        return "no_route"
    return "" if reach.layout.ports[out_port].next_hop_mac is None else "up"


def _is_reached(vtep: Vtep, reach: Reach) -> bool:
    """Say whether the next hop of a VTEP is known."""
    return _state(vtep.address, reach) == "up"

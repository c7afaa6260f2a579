"""What the daemon answers to whoever asks it: `ctrl.control.box.Box`, of its parts."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from ctrl.config import Config
from ctrl.daemon import reach as r
from ctrl.daemon import shown, shown_fabric
from ctrl.daemon.fabric import Fabric
from ctrl.daemon.nve import Nve
from ctrl.daemon.portset import PortSet
from ctrl.daemon.snooping import Snooping
from ctrl.daemon.tenancy import Tenancy
from ctrl.members import member_views
from ctrl.membership import Membership
from ctrl.netlink import View as Kernel
from ctrl.netlink import Watch
from ctrl.publisher import Publisher
from ctrl.refusals import Refused
from ctrl.roles.device import Device
from ctrl.stations import Stations
from ctrl.view import DeviceView, GroupView, MacView, MemberView, Rates, SessionView, View
from fastpath import Forwarder
from fastpath.model import IPAddress

if TYPE_CHECKING:
    from ctrl.daemon.managing import Managing


class Answering:
    """The parts are the daemon's, who makes them."""

    _config: Config
    _forwarder: Forwarder
    _watch: Watch
    _reach: r.Reach
    _ports: PortSet
    _started_s: float
    _publisher: Publisher
    _rates: Rates
    _refused: Refused
    _device: Device
    _membership: Membership
    _snooping: Snooping
    _fabric: Fabric
    _managing: Managing | None
    _nve: Nve | None
    _tenancy: Tenancy

    @property
    def _kernel(self) -> Kernel:
        """The kernel's picture of this moment, with what only our ports tell."""
        return self._ports.seen(self._watch.view)

    def view(self) -> View:
        """The picture of this moment."""
        config, reach, kernel, sides = self._config, self._reach, self._kernel, self._fabric.sides
        statistics, refused = self._forwarder.statistics(), self._all_refused()
        failed = {place for _, place, _ in self._forwarder.failures()}
        real = [(place, table) for place, table in enumerate(config.ports) if table.faces]
        return View(
            pid=os.getpid(),
            config=config.model_copy(update={"ports": tuple(table for _, table in real)}),
            started_s=self._started_s,
            now_s=time.monotonic(),
            revision=self._forwarder.revision,
            layout=reach.layout,
            lists=dict(self._publisher.lists),
            statistics=statistics,
            ports=tuple(
                shown.port_view(
                    self._ports[table.name],
                    kernel,
                    reach.layout.ports[place],
                    statistics.ports[place],
                    has_failed=place in failed,
                )
                for place, table in real
            ),
            hops=reach.states,
            recent=self._rates.recent(statistics, refused),
            next_hops=reach.hops,
            refused=refused,
            told=shown_fabric.told(sides),
            points=tuple(shown_fabric.points(sides)),
            own_sessions=tuple(shown_fabric.own_sessions(sides)),
            manager=shown_fabric.manager_view(self._managing) if self._managing else None,
            nve=self._nve.view() if self._nve else None,
            snooping=tuple(shown.snooping(config, [(self._device, None), *self._tenancy.devices()])),
            n_groups=self._membership.n_groups,
            second_revision=self._membership.revision,
            clones=self._ports.cloned,
            routers=self._tenancy.routers(config),
        )

    def members(self) -> Iterable[MemberView]:
        """Everyone who is a member now."""
        names = [table.name for table in self._config.ports]
        now_s = time.monotonic()
        here = member_views(names, self._device, self._membership, now_s)
        return chain(here, self._tenancy.members(names, now_s))

    def macs(self) -> Iterable[MacView]:
        """The stations that the NVE of this box knows."""
        return self._nve.macs() if self._nve else ()

    def stations(self) -> Stations | None:
        """Where the NVE of this box sends what is for one MAC."""
        return self._nve.stations if self._nve else None

    def devices(self) -> Iterable[DeviceView]:
        """The nodes that the manager of this box knows."""
        return shown_fabric.devices(self._managing) if self._managing else ()

    def groups(self) -> Iterable[GroupView]:
        """The groups that the manager of this box knows."""
        return shown_fabric.groups(self._managing) if self._managing else ()

    def sessions(self) -> Iterable[SessionView]:
        """The sessions that the manager of this box serves."""
        return shown_fabric.served(self._managing, self._config.node) if self._managing else ()

    def tell_moved(self, nves: Sequence[IPAddress]) -> int | None:
        """Have all devices of the manager of this box ask NVEs; how many devices are told."""
        return self._managing.moved(nves) if self._managing else None

    def _all_refused(self) -> dict[str, int]:
        return {**self._refused, **shown_fabric.refused(self._fabric.sides, self._managing)}

    def moved(self, nves: Sequence[IPAddress]) -> int:
        """Ask NVEs and VMs, and no others, whether they are still here; how many of them are known."""
        now_s = time.monotonic()
        known = self._device.moved(nves, now_s) + self._tenancy.moved(nves, now_s)
        self._snooping.settle()
        return known

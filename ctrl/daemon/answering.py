"""What the daemon answers to whoever asks it: `ctrl.control.box.Box`, of its parts."""

from __future__ import annotations

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
from ctrl.members import member_views, tenant_views
from ctrl.membership import Membership
from ctrl.netlink import View as Kernel
from ctrl.publisher import Publisher
from ctrl.refusals import Refused
from ctrl.roles.device import Device
from ctrl.roles.nve.tenants import Tenants
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
    _tenants: Tenants | None

    @property
    def _kernel(self) -> Kernel:
        raise NotImplementedError

    def view(self) -> View:
        """The picture of this moment."""
        failed = {place for _, place, _ in self._forwarder.failures()}
        return shown.view_of(
            self._config,
            self._forwarder,
            self._reach,
            self._ports,
            self._kernel,
            failed,
            started_s=self._started_s,
            lists=dict(self._publisher.lists),
            rates=self._rates,
            refused=self._all_refused(),
            device=self._device,
            membership=self._membership,
            sides=self._fabric.sides,
            managing=self._managing,
            nve=self._nve.view() if self._nve else None,
            tenants=[device for _, device in self._tenants.devices()] if self._tenants else (),
        )

    def members(self) -> Iterable[MemberView]:
        """Everyone who is a member now."""
        names = [table.name for table in self._config.ports]
        now_s = time.monotonic()
        here = member_views(names, self._device, self._membership, now_s)
        return here if self._tenants is None else chain(here, tenant_views(names, self._tenants, now_s))

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
        """Ask NVEs, and no others, whether they are still here; the number of those that are known."""
        known = self._device.moved(nves, time.monotonic())
        self._snooping.settle()
        return known

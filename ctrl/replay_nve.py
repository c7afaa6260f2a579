"""The NVE of a replay: what frames teach, its groups and those of its tenants, by the capture's clock.

Lessons and queries take effect with the next frame, as all that control hears. VTEPs need no next hop here,
answers come after half of the time that they may take, and what has aged is gone with the first frame a
second after it was looked for last: a replay is the same each time.
"""

from __future__ import annotations

from collections.abc import Iterator

from ctrl.config import Config
from ctrl.publisher import Basis
from ctrl.refusals import Refused
from ctrl.roles.nve.joins import Joins
from ctrl.roles.nve.macs import CLOCK, TICKS, Macs
from ctrl.roles.tenants import Tenants
from ctrl.static import needs, uplinks
from ctrl.stations import Stations, encaps, limits, mac_views, place_of, statics, vm_vnis
from ctrl.tenant_side import TenantSide
from ctrl.view import MacView
from fastpath import Forwarder, Punted
from fastpath.model import Layout

_NS = 1_000_000_000
AGEING_NS = _NS
"""Between two looks for what has aged."""


class ReplayedNve:
    """The NVE of a config, on a stepwise forwarder."""

    def __init__(
        self,
        config: Config,
        layout: Layout,
        forwarder: Forwarder,
        refused: Refused,
        found: Basis,
        tenants: Tenants,
    ) -> None:
        self._uplinks = uplinks(config, layout.ports)
        self.joins = Joins(refused, config.membership, lambda: 0.5)
        stations = Stations(forwarder, config, found.ways)
        self.macs = Macs(forwarder.macs, stations, refused, limits(config), is_reached=lambda _: True)
        self.tenants = TenantSide(tenants, refused)
        self._tenants_of = found.snooped, found.agnostic
        self._config = config
        self._layout = layout
        self._forwarder = forwarder
        self._age_ns: int | None = None
        self.n_of_tenants = 0
        """Frames that were taken to be sent to VMs, or into the overlay."""

    def attach(self) -> None:
        """Begin: join, and take the static stations."""
        self.macs.attach(vm_vnis(self._layout))
        self.macs.configure(
            limits(self._config), statics(self._config), encaps(self._config), self._forwarder.mac_now()
        )
        self.joins.attach(self._uplinks, 0.0)
        for network, places in needs(self._config, self._layout.ports).items():
            self.joins.need(network, places, 0.0)
        self.tenants.attach(*self._tenants_of, self._layout, {}, 0.0)

    def hear(self, punted: Punted, now_s: float) -> bool:
        """Take a frame, if it is for the NVE."""
        if punted.inner is not None:
            self.tenants.hear(*self.tenants.whose(punted), now_s)
        elif punted.in_port in self._uplinks:
            self.joins.hear(punted.in_port, punted.frame, now_s)
        else:
            return False
        return True

    def poll(self, now_s: float) -> None:
        """Do what is due."""
        self.joins.poll(now_s)
        self.tenants.poll(now_s)

    @property
    def deadlines_s(self) -> list[float | None]:
        """When `poll` is due next: the least of these."""
        return [self.joins.deadline_s, self.tenants.deadline_s]

    def take_frames(self) -> list[tuple[int, bytes]]:
        """(place of the port, frame) of what is to be sent, in order."""
        of_tenants = self.tenants.take_frames()
        self.n_of_tenants += len(of_tenants)
        return self.joins.take_frames() + of_tenants

    def age(self, next_ns: int) -> int:
        """Forget what is too old when the next frame comes; the time up to which frames may come then."""
        if self._age_ns is None or next_ns >= self._age_ns:
            self.macs.expire(next_ns * TICKS // _NS % CLOCK)
            self._age_ns = next_ns + AGEING_NS
        return self._age_ns

    def learn(self) -> None:
        """Take what the frames of a burst taught."""
        now = self._forwarder.mac_now()
        for one in self._forwarder.read_learned():
            self.macs.learn(one.vni, one.mac, place_of(one), now)

    def known(self) -> Iterator[MacView]:
        """All stations, static ones among them."""
        return mac_views(self.macs.known(), self._config, self._forwarder.mac_now)

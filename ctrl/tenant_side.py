"""The tenant groups of an NVE between their role and the data path: whose a punted frame is, and how a frame
of the role's gets to a VM or into the overlay.

Drives nothing and has no clock: for live boxes and replay. A frame into the overlay leaves as those of its
network do that are for several stations, in the same bytes (`fastpath.reference`); no VM here gets it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ctrl import planner
from ctrl.agnostic import hand_on
from ctrl.membership import Event
from ctrl.refusals import Refused
from ctrl.roles.tenants import OVERLAY, Sent, Tenants
from fastpath import Punted
from fastpath.compiler import NextHops
from fastpath.model import Encap, Layout, Network

if TYPE_CHECKING:
    from fastpath.reference.copies import Copier

NOWHERE = -1
"""Where a frame is from whose network does not snoop (any more)."""


class TenantSide:
    """What hears the tenants of a box. Places are those of VM ports; each network's overlay has one, too,
    below 0."""

    def __init__(self, tenants: Tenants, refused: Refused) -> None:
        self._tenants = tenants
        self._refused = refused
        self._layout = Layout(())
        self._hops: NextHops = {}
        self._copier: Copier | None = None
        self._snooped: dict[str, planner.Snooped] = {}
        self._agnostic: dict[str, planner.Agnostic] = {}
        self._overlays: dict[str, int] = {}
        """The place of the overlay of each network that was ever heard: -2, -3 and so on."""
        self._at: dict[int, str] = {}
        """The network of each place: of VM ports that are up, and of overlays."""
        self._of_number: dict[tuple[Encap, int], int] = {}
        """The place of each network's overlay."""
        self._sent: deque[Sent] = deque()

    # --- what it is told ------------------------------------------------------------------------------------

    def attach(
        self,
        snooped: Iterable[planner.Snooped],
        agnostic: Iterable[planner.Agnostic],
        layout: Layout,
        hops: NextHops,
        now_s: float,
    ) -> None:
        """These are the networks that snoop, and those whose IGMP and MLD is but handed on; the data path
        forwards by these already."""
        old, self._snooped = self._snooped, {one.network.name: one for one in snooped}
        self._agnostic = {one.network.name: one for one in agnostic}
        self._layout, self._hops, self._copier = layout, hops, None
        self._at, self._of_number = {}, {}
        networks: dict[str, planner.Snooped | planner.Agnostic] = {**self._snooped, **self._agnostic}
        for name, heard in networks.items():
            place = self._overlays.setdefault(name, NOWHERE - 1 - len(self._overlays))
            self._at |= dict.fromkeys((*heard.vm_ports, place), name)
            self._of_number |= dict.fromkeys(planner.numbers(heard.network), place)
        for name, one in self._snooped.items():
            self._tenants.attach(name, {port: layout.ports[port].mtu for port in one.vm_ports}, now_s)
        for name in old:
            if name not in self._snooped:
                self._tenants.forget(name)
        self._settle()

    def whose(self, punted: Punted) -> tuple[int, bytes]:
        """The place that a tenant's frame is from, and the frame alone."""
        inner = punted.inner
        if inner is None or inner.encap is Encap.RAW:
            return punted.in_port, punted.inner_frame
        return self._of_number.get((inner.encap, inner.number), NOWHERE), punted.inner_frame

    def overlay(self, network: str) -> int:
        """The place of the overlay of a network."""
        return self._overlays.get(network, NOWHERE)

    def hear(self, place: int, frame: bytes, now_s: float) -> None:
        """Take one tenant's frame."""
        name, port = self._at.get(place, ""), OVERLAY if place < 0 else place
        if name in self._agnostic:
            self._sent += hand_on(self._agnostic[name], port, frame)
            return
        self._tenants.hear(name, port, frame, now_s)
        self._settle()

    def poll(self, now_s: float) -> None:
        """Do what is due."""
        self._tenants.poll(now_s)
        self._settle()

    def _settle(self) -> None:
        self._sent += self._tenants.take_frames()

    # --- and what comes of it -------------------------------------------------------------------------------

    def take_events(self) -> list[tuple[str, Event]]:
        """What became of the members of each network since the last call, in order."""
        return self._tenants.take_events()

    @property
    def deadline_s(self) -> float | None:
        """When `poll` is due next."""
        return self._tenants.deadline_s

    @property
    def n_frames(self) -> int:
        """How many are to be sent."""
        return len(self._sent)

    def take_frames(self, most: int | None = None) -> list[tuple[int, bytes]]:
        """(place of the port, frame) of what is to be sent, in order; at most so many of the role's frames,
        or all."""
        n = len(self._sent) if most is None else min(most, len(self._sent))
        taken = [self._sent.popleft() for _ in range(n)]
        return [out for one in taken for out in self._out(one)]

    def _out(self, sent: Sent) -> Iterator[tuple[int, bytes]]:
        if sent.port != OVERLAY:
            yield sent.port, sent.frame
        elif sent.network in self._snooped:
            snooped = self._snooped[sent.network]
            yield from self._into_overlay(snooped.network, snooped.overlay, sent.frame)
        elif sent.network in self._agnostic:
            agnostic = self._agnostic[sent.network]
            yield from self._into_overlay(agnostic.network, agnostic.overlay, sent.frame, agnostic.services)

    def _into_overlay(
        self, network: Network, overlay: planner.Overlay, frame: bytes, besides: Sequence[planner.Remote] = ()
    ) -> Iterator[tuple[int, bytes]]:
        # what takes long to import comes when the first tenant speaks
        from fastpath.reference.copies import Copier  # noqa: PLC0415
        from fastpath.reference.parse import raw_frame  # noqa: PLC0415
        from fastpath.reference.wire import CopyDrop  # noqa: PLC0415

        if self._copier is None:
            self._copier = Copier(self._layout, self._hops)
        port = replace(self._layout.ports[overlay.uplink], network=network.name)
        parsed = raw_frame(frame, port, self._layout)
        packet = parsed.inner_packet
        outer = network.group if packet is None else planner.outer_group(network, packet.destination)
        for egress in planner.overlay_egresses(network, overlay, outer, besides):
            try:
                yield egress.out_port, self._copier.copy(parsed, egress)
            except CopyDrop:
                self._refused.count("tenant_not_sent")

"""What a running box looks like at a moment: what `show`, `explain` and the metrics are made of."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ctrl.config import Config
from ctrl.daemon import reach as r
from ctrl.daemon import shown_fabric
from ctrl.daemon.instructing import Instructing
from ctrl.daemon.portset import PortSet
from ctrl.membership import Membership
from ctrl.netlink import View as Kernel
from ctrl.roles.device import Device
from ctrl.view import NveView, PortView, Rates, SnoopingView, View
from fastpath import Forwarder
from fastpath.model import GroupKey, Layout, ReplicationList
from fastpath.statistics import PortCount

if TYPE_CHECKING:
    from ctrl.daemon.managing import Managing


def view_of(
    config: Config,
    forwarder: Forwarder,
    reach: r.Reach,
    ports: PortSet,
    kernel: Kernel,
    failed: Collection[int],
    *,
    started_s: float,
    lists: Mapping[GroupKey, ReplicationList],
    rates: Rates,
    refused: Mapping[str, int],
    device: Device,
    membership: Membership,
    sides: Sequence[Instructing],
    managing: Managing | None,
    nve: NveView | None,
    tenants: Sequence[Device],
) -> View:
    """The picture of this moment. `failed`: the places of ports that receive no more; `tenants` hear VMs."""
    statistics = forwarder.statistics()
    real = [(place, table) for place, table in enumerate(config.ports) if table.faces]
    return View(
        config=config.model_copy(update={"ports": tuple(table for _, table in real)}),
        started_s=started_s,
        now_s=time.monotonic(),
        revision=forwarder.revision,
        layout=reach.layout,
        lists=lists,
        statistics=statistics,
        ports=tuple(
            _port_view(
                ports, kernel, reach.layout, place, table.name, statistics.ports[place], place in failed
            )
            for place, table in real
        ),
        hops=reach.states,
        recent=rates.recent(statistics, refused),
        next_hops=reach.hops,
        refused=refused,
        told=shown_fabric.told(sides),
        points=tuple(shown_fabric.points(sides)),
        own_sessions=tuple(shown_fabric.own_sessions(sides)),
        manager=shown_fabric.manager_view(managing) if managing else None,
        nve=nve,
        snooping=tuple(one for side in (device, *tenants) for one in _snooping(config, side)),
        n_groups=membership.n_groups,
        second_revision=membership.revision,
    )


def _port_view(
    ports: PortSet,
    kernel: Kernel,
    layout: Layout,
    place: int,
    name: str,
    count: PortCount,
    has_failed: bool,
) -> PortView:
    port = ports[name]
    device = r.device_of(port.table)
    link = kernel.links.get(device)
    state = "absent" if port.is_absent or link is None else "up" if link.is_up else "down"
    return PortView(
        name=port.table.name,
        device=None if port.table.kind == "internal" else device,
        kind=port.table.kind,
        faces=port.table.faces,
        state="error" if has_failed else state,
        mtu=layout.ports[place].mtu,
        transmit=port.transmit,
        why=port.why,
        received=count.received,
        copies_out=count.copies_out,
        ring_lost=sum(carrier.ring_lost for carrier in port.carriers),
    )


def _snooping(config: Config, device: Device) -> Iterator[SnoopingView]:
    for side in device.sides():
        router = side.router
        querier = side.family.address(router.querier) if router.querier else None
        yield SnoopingView(
            port=config.ports[side.port].name,
            family=side.family.origin.value,
            querier=None if querier is None else str(querier),
            is_querier=router.is_querier,
            n_groups=router.n_groups,
            n_members=router.n_members,
            queries_sent=side.queries_sent,
        )

"""What the ports of a running box look like at a moment, and what is heard there: parts of its `View`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ctrl.config import Config
from ctrl.daemon.ports import Opened
from ctrl.daemon.reach import device_of
from ctrl.netlink import View as Kernel
from ctrl.roles.device import Device
from ctrl.roles.sides import Family
from ctrl.view import PortView, SnoopingView
from fastpath.model import Port
from fastpath.statistics import PortCount


def port_view(opened: Opened, kernel: Kernel, port: Port, count: PortCount, *, has_failed: bool) -> PortView:
    """A port that has a face. `has_failed`: a worker receives no more there."""
    table = opened.table
    device = device_of(table)
    link = kernel.links.get(device)
    state = "absent" if opened.is_absent or link is None else "up" if link.is_up else "down"
    return PortView(
        name=table.name,
        device=None if table.kind == "internal" else device,
        kind=table.kind,
        faces=table.faces,
        state="error" if has_failed else state,
        mtu=port.mtu,
        transmit=opened.transmit,
        why=opened.why,
        received=count.received,
        copies_out=count.copies_out,
        ring_lost=sum(carrier.ring_lost for carrier in opened.carriers),
    )


def snooping(
    config: Config, devices: Iterable[tuple[Device, Callable[[int], int] | None]]
) -> Iterator[SnoopingView]:
    """What is heard and asked at each port in each family, of NVEs and of tenants in any network together,
    and whether it is we who ask the NVEs. With each device: the port of its places, if these are others."""
    found: dict[tuple[int, Family], SnoopingView] = {}
    for device, port_of in devices:
        for side in device.sides():
            router, place = side.router, side.port if port_of is None else port_of(side.port)
            before = found.get((place, side.family))
            found[place, side.family] = SnoopingView(
                port=config.ports[place].name,
                family=side.family.origin.value,
                is_querier=router.is_querier if before is None else before.is_querier,
                n_groups=router.n_groups + (before.n_groups if before else 0),
                n_members=router.n_members + (before.n_members if before else 0),
                queries_sent=side.queries_sent + (before.queries_sent if before else 0),
            )
    yield from found.values()

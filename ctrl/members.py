"""Everyone who is a member, as values to show: those of the config, and those who joined; and those who get
every group, multicast routers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from ctrl.membership import Membership, Origin
from ctrl.roles.device import Device
from ctrl.roles.tenants import OVERLAY, Tenants
from ctrl.tenant_relay import TenantRelay
from ctrl.view import MemberView
from fastpath.model import Owner


def member_views(
    ports: Sequence[str], device: Device, membership: Membership, now_s: float
) -> Iterator[MemberView]:
    """All members at a moment of the device's clock, one after the other; `ports` are the names by their
    places. Members may come and go while it is walked."""
    for group, who in membership.of_origin(Origin.STATIC):
        yield MemberView(
            port=ports[who.port],
            group=group,
            nve=who.address,
            mac=None,
            is_exclude=True,
            sources=(),
            blocked=(),
            origin=who.origin.value,
            expires_s=None,
        )
    yield from _joined(ports, device, now_s)


def tenant_views(ports: Sequence[str], tenants: Tenants, now_s: float) -> Iterator[MemberView]:
    """The VMs of our NVE that are in groups of their networks, like `member_views`."""
    for network, device in tenants.devices():
        yield from _joined(ports, device, now_s, network)


def relayed_views(ports: Sequence[str], relay: TenantRelay, now_s: float) -> Iterator[MemberView]:
    """The VMs behind other NVEs that are in groups of their networks, at the ports by which these are."""
    for network, device in relay.devices():
        yield from _joined(ports, device, now_s, network, relay.port_of)


def router_places(
    ports: Sequence[str], tenants: Tenants | None, relays: Iterable[TenantRelay], network: str
) -> tuple[str, ...]:
    """Where multicast routers of a network were heard: a port, PORT/NVE, the receiver of a point's list, or
    overlay."""
    places = tenants.routers(network) if tenants else ()
    found = {"overlay" if place == OVERLAY else ports[place] for place in places}
    owners = (owner for relay in relays for owner in relay.routers(network))
    return tuple(sorted(found | {"overlay" if owner is None else _named(ports, owner) for owner in owners}))


def _named(ports: Sequence[str], owner: Owner) -> str:
    parts = (None if owner.port is None else ports[owner.port], owner.address)
    return "/".join(str(part) for part in parts if part is not None)


def _joined(
    ports: Sequence[str],
    device: Device,
    now_s: float,
    network: str | None = None,
    port_of: Callable[[int], int] = lambda place: place,
) -> Iterator[MemberView]:
    for port, origin, group, nve, member in device.members(now_s):
        address = type(group)
        wants = member.wants
        yield MemberView(
            port=ports[port_of(port)],
            group=group,
            nve=nve,
            mac=member.host[0],
            is_exclude=wants.is_exclude,
            sources=tuple(map(address, sorted(member.included))),
            blocked=tuple(map(address, sorted(wants.sources))) if wants.is_exclude else (),
            origin=origin.value,
            expires_s=member.expires_s,
            network=network,
        )

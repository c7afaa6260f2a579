"""Tenants' IGMP and MLD at an NVE that does not read it (CONFORMANCE N12, framework 5.1): where it goes.

It goes where the data path sends what is for several stations: from a VM to the other VMs of its network and
into the overlay, from the overlay to VMs alone. What goes into the overlay goes to the service nodes besides
(`planner.Agnostic`), so routers and listeners there get theirs all the same.
"""

from __future__ import annotations

from collections.abc import Iterator

from ctrl import planner
from ctrl.roles.tenants import OVERLAY, Sent


def hand_on(agnostic: planner.Agnostic, port: int, frame: bytes) -> Iterator[Sent]:
    """Give the copies of a tenant's frame that came from a VM port, or from the OVERLAY."""
    name = agnostic.network.name
    for place in sorted(agnostic.vm_ports - {port}):
        yield Sent(name, place, frame)
    if port != OVERLAY:
        yield Sent(name, OVERLAY, frame)

"""Whom it concerns that tenants want something else: all who send to the outer group.

1. These are its devices, whether they want it or not, and the points that have its list, as long as none of
   the devices rewrites packets: a rewritten one does not say which group it is of.
2. A key that nobody wants any more is remembered for a while (`ended`).
"""

from __future__ import annotations

from ctrl.topology.ended import Ended
from ctrl.topology.entries import Group, Tenants, TenantsGroup
from ctrl.topology.entry import Key
from ctrl.topology.picture import MEMBERS, Picture

Dirty = dict[str, set[Key]]


def settle(
    picture: Picture, group: TenantsGroup, what: int, ended: Ended, revision: int, dirty: Dirty
) -> None:
    """Say whose entries change as others want this, or do not any more; forget what nobody wants."""
    outer = group.outer
    if what & MEMBERS:
        group.forget_addresses()
    if what:
        group.forget_networks()
        group.changed = max(group.changed, group.touched)
        is_nested = outer.tenants is not None and outer.tenants.is_nested
        devices = [known.name for known in outer.members]
        for name in (*devices, *(outer.listed if is_nested else ())):
            dirty.setdefault(name, set()).add(group.key)
    if not group.members:
        ended.add(group.key, revision)
        picture.drop_tenants(group)


def tell_points(group: Group, tenants: Tenants, was_listed: tuple[str, ...], dirty: Dirty) -> None:
    """Say which points may be told of all of its tenants' keys, and could not before, or the other way."""
    is_nested = group.is_nested
    names = {*was_listed}.symmetric_difference(group.listed)
    if is_nested != tenants.is_nested:
        tenants.is_nested = is_nested
        names.update(group.listed)
    for name in names:
        dirty.setdefault(name, set()).update(tenants.keys)

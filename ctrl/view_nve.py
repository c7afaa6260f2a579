"""What an NVE shows: stations and where they are, and the groups that it is in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ctrl.rows import in_order
from ctrl.table import Row
from ctrl.view import JoinedView, MacView, View


def mac_rows(view: View) -> Iterator[Row]:
    """One row a station, by network and MAC."""
    return each_mac(view.macs)


def each_mac(macs: Sequence[MacView]) -> Iterator[Row]:
    """The same of these stations."""
    for one in in_order(macs, _place):
        yield {
            "vni": one.vni,
            "network": one.network,
            "mac": one.mac.hex(":"),
            "port": one.port,
            "vtep": None if one.vtep is None else str(one.vtep),
            "origin": "static" if one.is_static else "learned",
            "age_s": None if one.is_static else round(max(0.0, one.age_s), 3),
        }


def _place(one: MacView) -> tuple[int, bytes]:
    return one.vni, one.mac


def joined_rows(view: View) -> Iterator[Row]:
    """One row a group that the NVE is in: whose VMs want it, and nobody that a copy goes to."""
    for one in sorted(view.nve.joined, key=_group) if view.nve else ():
        yield {
            "role": "nve",
            "group": str(one.group),
            "vni": [str(n.vni) for n in view.config.networks if n.name in one.networks],
            "tenants": None,
            "local": [p.name for p in view.layout.ports if p.network in one.networks and p.is_up],
            "remote": [],
            "via": "joined",
            "revision": view.revision,
            "frames": None,
        }


def _group(one: JoinedView) -> tuple[int, int]:
    return one.group.version, int(one.group)

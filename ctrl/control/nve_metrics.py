"""Metrics of an NVE. A box without that role has none of them.

No row a station or VTEP: there may be very many. `fastpath show macs` has them all; what was refused is among
the drops, by name.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric

from ctrl.control.families import counter, gauge
from ctrl.view import View


def nve_metrics(view: View) -> Iterator[Metric]:
    """All of them."""
    nve = view.nve
    if nve is None:
        return
    yield gauge(
        "fastpath_macs",
        "Stations that are known: static ones, and those that were learned.",
        ("network",),
        [((name,), n) for name, n in nve.macs.items()],
    )
    yield gauge("fastpath_vteps", "VTEPs that stations are behind.", (), [((), len(nve.vteps))])
    yield counter(
        "fastpath_unknown_unicast_frames",
        "Frames to a station that is not known, and so to its whole network; of the replicated ones.",
        (),
        [((), view.statistics.unknown_unicast)],
    )
    yield gauge("fastpath_nve_joined_groups", "Groups that the NVE is in.", (), [((), len(nve.joined))])
    for name, meaning, value in (
        ("learned", "Stations that were new.", nve.learned),
        ("moved", "Stations that were heard elsewhere from then on.", nve.moved),
        ("aged", "Stations that nobody heard of for ageing_s.", nve.aged),
    ):
        yield counter(f"fastpath_macs_{name}", meaning, (), [((), value)])

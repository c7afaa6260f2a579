"""What is lost on its way in or out, or refused by control, in the log: when it begins, once a minute
meanwhile, when it ends."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from fastpath.reasons import Reason, Unit
from fastpath.statistics import Statistics

LOG = logging.getLogger("fastpath")
TRAFFIC = frozenset({"link_local_group", "query_of_nobody", "report_of_a_host"})
"""Refused all the time, and nobody's fault: Linux reports the link-local groups of its own, too, a bridge of
tenants that snoops asks as nobody, and who does not snoop shows an NVE the reports of others."""
REPEAT = 60
"""Looks between two lines about a loss that goes on."""


class Losses:
    """Compares one look with the next; to be called once a second. Dropped frames are traffic, not losses,
    but for those that control did not get."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._looks: dict[str, int] = {}

    def log(self, now: Statistics, refused: Mapping[str, int]) -> None:
        """Look, and log what has to be said; every number is the total since the start."""
        counts = {row.reason.name: row.count for row in now.drops if _is_loss(row.reason)}
        counts |= {name: n for name, n in refused.items() if name not in TRAFFIC}
        said, over = [], []
        for name, count in counts.items():
            if count > self._counts.get(name, 0):
                looks = self._looks.get(name, 0)
                self._looks[name] = looks + 1
                if looks % REPEAT == 0:
                    said.append(f"{name}={count}")
            elif self._looks.pop(name, 0):
                over.append(f"{name}={count}")
        self._counts = counts
        if said:
            LOG.warning("drops %s", " ".join(said))
        if over:
            LOG.info("drops over %s", " ".join(over))


def _is_loss(reason: Reason) -> bool:
    return reason.unit is not Unit.FRAME or reason.stage == "punt"

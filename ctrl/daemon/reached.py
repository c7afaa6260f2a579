"""Whether an NVE and its VTEPs reach one another, in the log.

1. A line when it begins and one when it ends, whatever is sent meanwhile. A VTEP that waits is forgotten and
   heard anew again and again; it stays told.
2. Whoever makes up VTEPs gets so many lines a look, and a number for the rest; of no more than `most` it is
   remembered that they were told.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from fastpath.model import IPAddress

LOG = logging.getLogger("fastpath.nve")
LINES = 5
"""A look, of each kind."""
UNREACHED = frozenset({"no_route", "no_neighbour"})


class Reached:
    """Compares one look with the next."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._is_here = True
        self._seen: frozenset[IPAddress] = frozenset()
        """Unreached in the last look: the first one may be while netlink still asks."""
        self._told: dict[IPAddress, None] = {}

    def own(self, address: IPAddress, addresses: Collection[IPAddress]) -> None:
        """See whether our address is one of the box's."""
        is_here = address in addresses
        if self._is_here and not is_here:
            LOG.warning(
                "nve address on no interface address=%s: no VTEP gets an ARP answer for it, and what they "
                "send there is lost",
                address,
            )
        elif is_here and not self._is_here:
            LOG.info("nve address found address=%s", address)
        self._is_here = is_here

    def vteps(self, states: Mapping[IPAddress, str]) -> None:
        """See how the VTEPs that are known are reached now."""
        unreached = frozenset(one for one, state in states.items() if state in UNREACHED)
        lasting = unreached & self._seen
        begun = [one for one in states if one in lasting and one not in self._told]
        over = [one for one in self._told if states.get(one) == "up"]
        self._seen = unreached
        for one in over:
            del self._told[one]
        for one in begun:
            if len(self._told) >= self._most:
                del self._told[next(iter(self._told))]
            self._told[one] = None
        for one in begun[:LINES]:
            LOG.warning("vtep unreached vtep=%s why=%s", one, states[one])
        if len(begun) > LINES:
            LOG.warning("vteps unreached besides=%d", len(begun) - LINES)
        for one in over[:LINES]:
            LOG.info("vtep reached vtep=%s", one)
        if len(over) > LINES:
            LOG.info("vteps reached besides=%d", len(over) - LINES)

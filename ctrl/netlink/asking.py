"""When to ask for which neighbour. Pure: the time comes in.

1. Each neighbour is asked for at once, then after 1, 2, 4, .. 30 s for as long as it does not answer.
2. One that answered but that the kernel does not keep resolved by itself (before Linux 5.16) is asked for
   every 30 s: our copies pass the kernel by, so nobody else would notice a new MAC, or that it is gone.
3. What the kernel refuses comes round as if it had not answered. Only EPERM ends asking: it will not pass.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from ipaddress import ip_address

from ctrl.netlink.model import LOG
from ctrl.netlink.news import Target

_LONGEST_S = 30.0
_SILENT_AFTER = 3  # times asked before the log says so: seven seconds


@dataclass(slots=True)
class _Turn:
    asked: int = 0
    at: float = 0.0


class Asking:
    """Whose turn it is."""

    def __init__(self) -> None:
        self.asked = 0
        """Times that the kernel took a request to resolve a neighbour."""
        self.refused = 0
        """Times that it did not."""
        self.is_forbidden = False
        """CAP_NET_ADMIN is missing: neighbours are followed, but not asked for."""
        self._turns: dict[Target, _Turn] = {}
        self._in_vain: set[Target] = set()

    def due(self, now: float, restless: AbstractSet[Target]) -> list[Target]:
        """List whom to ask now; whoever is no longer restless starts anew the next time."""
        if self.is_forbidden:
            return []
        for target in self._turns.keys() - restless:
            del self._turns[target]
            self._in_vain.discard(target)
        for target in restless - self._turns.keys():
            self._turns[target] = _Turn(at=now)
        return [target for target, turn in self._turns.items() if turn.at <= now]

    def next_at(self) -> float | None:
        """Say when somebody's turn comes next."""
        return min((turn.at for turn in self._turns.values()), default=None)

    def were_asked(
        self,
        now: float,
        targets: Sequence[Target],
        errors: Sequence[int],
        is_resolved: Callable[[Target], bool],
    ) -> None:
        """Take note of how asking went (an errno each, 0 for done)."""
        silent = []
        none_in_vain = not self._in_vain
        for target, error in zip(targets, errors, strict=True):
            turn = self._turns[target]
            turn.asked += 1
            turn.at = now + (_LONGEST_S if is_resolved(target) else min(2.0 ** (turn.asked - 1), _LONGEST_S))
            if error:
                self.refused += 1
                self._in_vain.add(target)
            else:
                self.asked += 1
                self._in_vain.discard(target)
                if turn.asked == _SILENT_AFTER and not is_resolved(target):
                    silent.append(target)
        if silent:
            first = silent[0]
            LOG.warning(
                "neighbours silent count=%d first=%s ifindex=%d asked=%d",
                *(len(silent), ip_address(first.address), first.ifindex, _SILENT_AFTER),
            )
        if none_in_vain:  # else it was said already
            self._complain(set(errors) - {0}, len(self._in_vain))

    def _complain(self, errors: set[int], count: int) -> None:
        for error in sorted(errors):
            if error == errno.EPERM:
                self.is_forbidden = True
                self._turns.clear()
                hint = "CAP_NET_ADMIN is missing: neighbours are followed but not asked for"
            elif error == errno.ENOBUFS:
                hint = "the neighbour table is full: raise net.ipv4.neigh.default.gc_thresh3 and net.ipv6's"
            else:
                hint = "asked again later"
            LOG.warning("neighbours refused count=%d error=%r hint=%r", count, os.strerror(error), hint)

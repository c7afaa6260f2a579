"""The specific queries of one group that are under way (RFC 9776 section 6.6.3).

1. What is asked for, the group or a source, is asked for `robustness` times in all, and these are
   last_member_query_interval apart. Who wants the same meanwhile shares what is still to come.
2. What falls due together goes out together, sources in one query or two: those that somebody answered for
   bear the S flag, so that other routers keep their timers. What has run out is asked for no more.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from ctrl.protocols.group import Group, Key, Timed
from ctrl.protocols.state import Host


class _Ask:
    __slots__ = ("due_s", "hosts", "n_left")

    def __init__(self, due_s: float, n_left: int) -> None:
        self.due_s = due_s
        self.n_left = n_left
        self.hosts: dict[Host, None] = {}
        """Whose timers were lowered."""


class Inquiry(Timed):
    """What is asked for in a group."""

    __slots__ = ("_asks", "_fresh", "group")

    def __init__(self, group: Group) -> None:
        self.wakes_s = inf
        self.group = group
        self._asks: dict[Key, _Ask] = {}
        """In order of time: an ask is put last whenever its time is set."""
        self._fresh: dict[Key, _Ask] = {}

    @property
    def due_s(self) -> float | None:
        """When `send` has something to send next."""
        asks = self._fresh or self._asks
        return next((ask.due_s for ask in asks.values()), None)

    def want(self, key: Key, host: Host, robustness: int, now_s: float) -> None:
        """Have the router ask for this because of a host."""
        ask = self._asks.get(key) or self._fresh.get(key)
        if ask is None:
            ask = self._fresh[key] = _Ask(now_s, robustness)
        else:
            ask.n_left = max(ask.n_left, robustness - 1)
        ask.hosts[host] = None

    def send(self, now_s: float, again_s: float, late_s: float) -> Iterator[tuple[tuple[int, ...], bool]]:
        """Take what is due as (sources, S flag), no sources for the group itself, and set it for `again_s`.

        The flag is for what runs on beyond `late_s`.
        """
        due, self._fresh = self._fresh, {}
        for key, ask in self._asks.items():
            if ask.due_s > now_s:
                break
            due[key] = ask
        by_flag: tuple[list[int], list[int]] = ([], [])
        for key, ask in due.items():
            self._asks.pop(key, None)
            runs_out_s = self._runs_out_s(key, ask)
            if runs_out_s is None:
                continue
            ask.n_left -= 1
            if ask.n_left:
                ask.due_s = again_s
                self._asks[key] = ask
            if key is None:
                yield (), runs_out_s > late_s
            else:
                by_flag[runs_out_s > late_s].append(key)
        for is_suppressed, sources in enumerate(by_flag):
            if sources:
                yield tuple(sources), bool(is_suppressed)

    def _runs_out_s(self, key: Key, ask: _Ask) -> float | None:
        """When the first of the timers asked about runs out; None: none of them runs."""
        found = (self.group.listeners.get(host) for host in ask.hosts)
        timers = (listener.left_s(key) for listener in found if listener is not None)
        return min((timer_s for timer_s in timers if timer_s > 0.0), default=None)

"""Who asks on a link, and when: the querier's election and its general queries (RFC 9776 section 6.6.2).

1. The lowest source wins; who has none (0) never wins, neither we nor another.
2. Whoever is not the querier sends nothing and goes by the querier's timers (sections 4.1.6, 4.1.7), within
   floors and caps: a packet never makes state live shorter than our own response interval, nor for weeks.
3. A start, and the silence of another querier, are startups: the first query leaves at once and asks for an
   answer soon.
"""

from __future__ import annotations

from ctrl.protocols.messages import Query
from ctrl.protocols.state import Timers

MAX_INTERVAL_S = 31744.0
"""The largest query interval that a query can say."""


class Querier:
    """Our side of the election at one port."""

    def __init__(self, bits: int, address: int, timers: Timers, now_s: float) -> None:
        self._nobody = 1 << bits
        self.address = address
        self._timers = timers
        self.rival = 0
        """The querier if we are not."""
        self.next_s = now_s
        """When we ask next; or, if we are not the querier, when we give up waiting for the one that is."""
        self.restart(now_s)

    @property
    def timers(self) -> Timers:
        """Our own settings."""
        return self._timers

    @timers.setter
    def timers(self, timers: Timers) -> None:
        self._timers = timers
        if not self.rival:
            self._go_by_our_own()

    @property
    def is_starting(self) -> bool:
        """Whether there are startup queries to come."""
        return self._n_startup > 0

    @property
    def group_membership_s(self) -> float:
        """How long a report is good for, and for how long an older host counts as present."""
        return self.robustness * self.interval_s + self.response_s

    @property
    def last_member_s(self) -> float:
        """Within which a host must object to its leave."""
        return self._timers.robustness * self._timers.last_member_query_interval_s

    def restart(self, now_s: float) -> None:
        """Be the querier, and begin with the startup queries."""
        self.rival = 0
        self._go_by_our_own()
        self._n_startup = self._timers.robustness
        self.next_s = now_s

    def readdress(self, address: int, now_s: float) -> None:
        """Stand for election under another address; what the old one lost is held anew."""
        if address != self.address and self.rival:
            self.restart(now_s)
        self.address = address

    def _go_by_our_own(self) -> None:
        self.robustness = self._timers.robustness
        self.interval_s = self._timers.query_interval_s
        self.response_s = self._timers.query_response_interval_s

    def ask(self, now_s: float) -> Query:
        """Make the general query that is due, as the querier that we are from now on."""
        if self.rival:
            self.restart(now_s)
        wait_s, response_s = self.interval_s, self.response_s
        if self._n_startup:
            self._n_startup -= 1
            response_s = self._timers.startup_response_interval_s
            if self._n_startup:
                wait_s /= 4
        self.next_s = now_s + wait_s
        return self.query(0, (), response_s)

    def query(self, group: int, sources: tuple[int, ...], response_s: float, suppress: bool = False) -> Query:
        """Make a query of ours."""
        return Query(3, group, sources, response_s, suppress, self.robustness, self.interval_s)

    def hear(self, query: Query, source: int, now_s: float) -> bool:
        """Take another's query; True if it is the word of the elected querier, who is not we."""
        if not 0 < source < (self.address or self._nobody) or source > (self.rival or self._nobody):
            return False
        self.rival = source
        if not query.group:
            own = self._timers
            self.robustness = min(query.robustness or own.robustness, 7)
            said_s = query.interval_s or own.query_interval_s
            self.interval_s = min(max(said_s, own.query_response_interval_s), MAX_INTERVAL_S)
            self.response_s = min(max(query.response_s, own.query_response_interval_s), MAX_INTERVAL_S)
        self.next_s = now_s + self.robustness * self.interval_s + self.response_s / 2
        return True

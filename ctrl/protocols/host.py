"""The host side of IGMP and MLD at one interface: what is wanted, queries and time in; reports out.

1. Pure, and one code for both families, as `router` is. Randomness is given: a callable of numbers in [0, 1).
2. A change is said at once and as often as the querier's robustness asks, at random within a second of each
   other (RFC 9776 section 5.1). What was wanted and is not any more before it was said has never been.
3. A query is answered once, at random within its response time (section 5.2). Queries meanwhile share the
   answer that is to come, if it comes soon enough for them; so a flood of queries costs two answers per
   response time on the average, and none of these counts as shorter than SHORTEST_S.
4. Version 3 answers a general query with all groups at once, in as few reports as hold them (CONFORMANCE N7);
   older ones with a report for each, spread evenly over the response time, the one first that is silent for
   longest: so another query never has the others wait.
5. The querier's version is ours, until it was silent for as long as the last version 3 query lets queriers be
   (section 7.2.1); such a query cuts a longer time that another one set.
6. Reports of others are not listened to: there is no suppression in any version. RFC 2236 allows it, but a
   device that snoops has to know each of its NVEs, and a foreign bridge may show us the reports of one whose
   port it would then take for the only one with members (CONFORMANCE D18, RFC 4541 section 2.1.1).
7. What a querier says costs at most as much memory as the groups that we are in.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heappush
from math import inf

from ctrl.protocols.host_state import NOTHING, Asked, Saying, current
from ctrl.protocols.messages import Kind, Query, Record, Report
from ctrl.protocols.state import ALL, Filter, Timers

UNSOLICITED_S = 1.0
"""The Unsolicited Report Interval, in every version: older ones recommend ten seconds, in which a lost join
would not be said again."""
SHORTEST_S = 0.1
"""A querier that leaves less time gets its answer within this."""
_SWEEP_FROM = 64


class HostSide:
    """One family at one interface. Of `timers` those count that a querier may leave unsaid."""

    def __init__(self, timers: Timers, random: Callable[[], float]) -> None:
        self.timers = timers
        self._random = random
        self._groups: OrderedDict[int, Filter] = OrderedDict()
        """What is wanted; with an older querier the one first that was reported longest ago."""
        self._is_closed = False
        self._reports: list[Report] = []
        self._begin()

    def _begin(self) -> None:
        self._robustness = self.timers.robustness
        self._interval_s = self.timers.query_interval_s
        self._version = 3
        self._older_s = {1: -inf, 2: -inf}
        """Until when a querier of that version counts as present."""
        self._fresh: dict[int, Filter | None] = {}
        """What was wanted of the groups whose change is not said yet."""
        self._fresh_s = inf
        self._forget()

    def _forget(self) -> None:
        """Have nothing to answer and nothing to repeat."""
        self._sayings: dict[int, Saying] = {}
        self._again_s = inf
        self._answer_s = inf
        """When the general query is answered, or the next group of it."""
        self._n_owed, self._step_s = 0, 0.0
        """Groups still to be reported to an older querier, from the first on, and the time between two."""
        self._asked: dict[int, Asked] = {}
        self._heap: list[tuple[float, int]] = []
        """When which group is to be answered for; an entry that its `Asked` does not agree with is stale."""

    # --- what can be seen -----------------------------------------------------------------------------------

    def version(self, now_s: float) -> int:
        """Which version is spoken (RFC 9776 section 7.2.1)."""
        return next((version for version, until_s in self._older_s.items() if until_s > now_s), 3)

    @property
    def deadline_s(self) -> float | None:
        """When `poll` must be called next; None: never. It is at once after `want`."""
        next_s = inf if self._is_closed else self._next_s()
        return None if next_s == inf else next_s

    def take_reports(self) -> list[Report]:
        """What is to be sent since the last call, in order; of any length, others split it."""
        reports, self._reports = self._reports, []
        return reports

    # --- what it is told ------------------------------------------------------------------------------------

    def want(self, group: int, wants: Filter | None, now_s: float) -> None:
        """Want this of a group from now on; None: be in it no longer."""
        if wants == NOTHING:
            wants = None
        before = self._groups.get(group)
        if wants == before:
            return
        if wants is None:
            del self._groups[group]
            self._asked.pop(group, None)
        else:
            self._groups[group] = wants
        if self._is_closed:
            return
        self._fresh.setdefault(group, before)
        self._fresh_s = min(self._fresh_s, now_s)

    def close(self) -> None:
        """Say nothing more until `restart`: the link is gone."""
        self._is_closed = True
        self._begin()
        self._reports.clear()

    def restart(self, now_s: float) -> None:
        """Join anew all that is wanted: the link is back, or we have another address on it."""
        if self._is_closed:
            self._is_closed = False
            self._begin()
        else:
            self._forget()
        self._fresh = dict.fromkeys(self._groups)
        self._fresh_s = now_s if self._fresh else inf

    def hear(self, query: Query, now_s: float) -> None:
        """Take a query."""
        if self._is_closed:
            return
        self.poll(now_s)
        self._note_querier(query, now_s)
        self._settle_version(now_s)
        response_s = max(query.response_s, SHORTEST_S)
        if query.group:
            self._hear_specific(query, response_s, now_s)
        else:
            self._hear_general(response_s, now_s)

    def poll(self, now_s: float) -> None:
        """Do what is due. Who is late says each thing once."""
        if self._is_closed or self._next_s() > now_s:
            return
        self._settle_version(now_s)
        if self._fresh_s <= now_s:
            self._say_fresh(now_s)
        if self._again_s <= now_s:
            self._say(list(self._sayings), now_s)
        if self._answer_s <= now_s:
            self._answer(now_s)
        self._report(list(self._answers(now_s)))

    # --- changes --------------------------------------------------------------------------------------------

    def _say_fresh(self, now_s: float) -> None:
        fresh, self._fresh, self._fresh_s = self._fresh, {}, inf
        for group, before in fresh.items():
            saying = self._sayings.setdefault(group, Saying())
            after = self._groups.get(group)
            saying.change(self._sayable(before), self._sayable(after), self._robustness)
        self._say(fresh, now_s)

    def _say(self, groups: Iterable[int], now_s: float) -> None:
        """Report the changes of these groups, and set the time to do so again."""
        records: list[Record] = []
        for group in groups:
            saying = self._sayings[group]
            records += saying.say(group, self._sayable(self._groups.get(group)))
            if not saying:
                del self._sayings[group]
        self._report(records)
        if not self._sayings:
            self._again_s = inf
        elif not now_s < self._again_s < inf:
            self._again_s = now_s + (1.0 - self._random()) * UNSOLICITED_S

    # --- queries --------------------------------------------------------------------------------------------

    def _note_querier(self, query: Query, now_s: float) -> None:
        if query.version == 3:
            self._robustness = query.robustness or self.timers.robustness
            self._interval_s = query.interval_s or self.timers.query_interval_s
        if query.group:
            return
        until_s = now_s + self._robustness * self._interval_s + query.response_s
        for version in (1, 2):
            if query.version == version:
                self._older_s[version] = until_s
            elif query.version == 3:
                self._older_s[version] = min(self._older_s[version], until_s)

    def _settle_version(self, now_s: float) -> None:
        version = self.version(now_s)
        if version != self._version:
            self._version = version
            self._forget()

    def _hear_general(self, response_s: float, now_s: float) -> None:
        if not self._groups:
            return
        until_s = now_s + response_s
        if self._version == 3:
            if self._answer_s > until_s:
                self._answer_s = now_s + self._random() * response_s
            return
        step_s = response_s / len(self._groups)
        if self._n_owed:
            self._step_s = min(self._step_s, step_s)
            self._answer_s = min(self._answer_s, now_s + step_s)
        else:
            self._step_s = step_s
            self._answer_s = now_s + self._random() * step_s
        self._n_owed = len(self._groups)

    def _hear_specific(self, query: Query, response_s: float, now_s: float) -> None:
        group, until_s = query.group, now_s + response_s
        if group not in self._groups or (self._version == 3 and self._answer_s <= until_s):
            return
        sources = query.sources if self._version == 3 else ()
        asked = self._asked.get(group)
        due_s = now_s + self._random() * response_s
        if asked is None:
            asked = self._asked[group] = Asked(due_s, sources)
        else:
            asked.ask(sources)
            if asked.due_s <= until_s:
                return
            asked.due_s = due_s
        heappush(self._heap, (due_s, group))
        if len(self._heap) > 2 * len(self._asked) + _SWEEP_FROM:
            self._heap = [(one.due_s, group) for group, one in self._asked.items()]
            heapify(self._heap)

    def _answer(self, now_s: float) -> None:
        """Answer the general query: all at once, or group by group as an older querier has it."""
        if self._version == 3:
            self._answer_s = inf
            self._asked.clear()
            self._report([current(group, wants) for group, wants in self._groups.items()])
            return
        records = []
        self._n_owed = min(self._n_owed, len(self._groups))  # some may have been left
        while self._n_owed and self._answer_s <= now_s:
            group = next(iter(self._groups))
            self._groups.move_to_end(group)
            self._asked.pop(group, None)
            records.append(Record(Kind.IS_EX, group))
            self._n_owed -= 1
            self._answer_s += self._step_s
        if not self._n_owed:
            self._answer_s = inf
        self._report(records)

    def _answers(self, now_s: float) -> Iterator[Record]:
        """Take the answers to queries of groups that are due."""
        while self._next_asked_s() <= now_s:
            _, group = heappop(self._heap)
            record = self._asked.pop(group).answer(group, self._groups[group])
            if record is not None:
                yield record

    def _next_asked_s(self) -> float:
        heap = self._heap
        while heap and ((asked := self._asked.get(heap[0][1])) is None or asked.due_s != heap[0][0]):
            heappop(heap)
        return heap[0][0] if heap else inf

    # --- reports --------------------------------------------------------------------------------------------

    def _next_s(self) -> float:
        return min(self._fresh_s, self._again_s, self._answer_s, self._next_asked_s())

    def _sayable(self, wants: Filter | None) -> Filter:
        """What the version spoken can say of this: older ones know no sources."""
        if wants is None:
            return NOTHING
        return wants if self._version == 3 else ALL

    def _report(self, records: list[Record]) -> None:
        """Say this in the querier's version."""
        version = self._version
        if not records:
            return
        if version == 3:
            self._reports.append(Report(3, tuple(records)))
            return
        for kind, group, _ in records:
            if kind is not Kind.TO_IN:
                self._reports.append(Report(version, (Record(Kind.IS_EX, group),)))
            elif version == 2:  # version 1 has no leave
                self._reports.append(Report(2, (Record(Kind.TO_IN, group),)))

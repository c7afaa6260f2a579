"""The router side of IGMP and MLD at one port: reports and time in; changes, queries and a deadline out.

1. Pure, and one code for both families: addresses are ints, `bits` says how many. Blind to scope and place.
2. Tracking is explicit: each host, which is (MAC, report source) (CONFORMANCE W8), has its own state of each
   of its groups (see `group`). A `Change` says that a host's filter differs, never that it was refreshed.
   What a port wants is the union over its hosts, which others make.
3. Nobody leaves unasked: a leave lowers that host's timers and asks (D5, see `inquiry`), unless `fast_leave`.
   A host of version 1 or 2 is asked about even then: another one could have kept silent for its sake, and may
   never have been heard (D18).
4. Silence is asked about as well: who is not refreshed by the end of a general query's response time, and a
   margin for the wire, gets a specific query, one a group; only silence to that removes it (D6), long before
   its timer would (D7). Only the querier does so; else the timers stand. Of the startup queries only the
   last counts: a link that comes back may lose the first.
5. A host of version 1 cannot be asked to hurry: it answers in ten seconds, whatever a query says. So its
   timers are never lowered, and while it is in a group, leaves of the group are not believed.
6. Timers are never lowered below our own last member query time, whatever a foreign query says.
7. Bounds strike the record that goes beyond them, before anything is stored, at a constant cost. Each is
   told to `refuse` by name.
8. Nothing is stored per timer. What has to be looked at is in one heap, once: a refresh moves a number, and
   an entry that comes up too early is put back. An entry whose thing wakes at another time by now is stale;
   when half of them are, they are swept out.
9. What is due happens before what is heard. Who is late with `poll` gets each query once, not in a burst.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from heapq import heapify, heappop, heappush
from math import inf

from ctrl.protocols.group import BLOCKED, Group, Key, Listener, Timed
from ctrl.protocols.inquiry import Inquiry
from ctrl.protocols.messages import Kind, Query, Record, Report
from ctrl.protocols.querier import Querier
from ctrl.protocols.state import ALL, Bounds, Change, Filter, Host, Member, Refuse, Room, Timers

MARGIN_S = 0.5
"""For the wire, after the response time of a general query."""
_SWEEP_FROM = 64


class Router:
    """One family at one port. `address` is our source in queries there, 0 for none."""

    def __init__(
        self,
        bits: int,
        address: int,
        timers: Timers,
        bounds: Bounds,
        room: Room,
        refuse: Refuse,
        now_s: float,
    ) -> None:
        self.bits = bits
        self.bounds = bounds
        self._room = room
        self._refuse = refuse
        self._querier = Querier(bits, address, timers, now_s)
        self._groups: dict[int, Group] = {}
        self._heap: list[tuple[float, Timed]] = []
        self._n_stale = 0
        self._n_members = 0
        self._asked_s = -inf
        """When the general query went out that is being answered."""
        self._silence_s = inf
        """When all must have answered it."""
        self._longest_s = self._querier.group_membership_s
        """The longest that a report was good for since timers were cut to that time."""
        self._is_closed = False
        self._changes: list[Change] = []
        self._queries: list[Query] = []

    # --- what can be seen -----------------------------------------------------------------------------------

    @property
    def timers(self) -> Timers:
        """Our settings; new ones hold from the next message on."""
        return self._querier.timers

    @timers.setter
    def timers(self, timers: Timers) -> None:
        self._querier.timers = timers
        self._note_longest()

    @property
    def is_querier(self) -> bool:
        """Whether it is we who ask on this link."""
        return not self._querier.rival

    @property
    def querier(self) -> int:
        """The source of the one who asks, 0 for us without an address."""
        return self._querier.rival or self._querier.address

    @property
    def n_groups(self) -> int:
        """Groups that someone at the port is in."""
        return len(self._groups)

    @property
    def n_members(self) -> int:
        """Hosts in groups, each as often as it is in one."""
        return self._n_members

    @property
    def deadline_s(self) -> float | None:
        """When `poll` must be called next; None: never."""
        return None if self._is_closed else self._next_s()

    def members(self, now_s: float) -> Iterator[Member]:
        """Who is in which group. Members may come and go while it is walked; such may be in it or not."""
        for group in list(self._groups.values()):
            for host, listener in list(group.listeners.items()):
                if not listener.is_exclude and not listener.sources:
                    continue  # gone meanwhile
                included = {s: timer_s for s, timer_s in listener.sources.items() if timer_s != BLOCKED}
                ends_s = listener.ends_s if listener.is_exclude else max(included.values())
                yield Member(
                    host,
                    group.address,
                    listener.wants(),
                    frozenset(included),
                    listener.version(now_s),
                    max(ends_s - now_s, 0.0),
                )

    def take_changes(self) -> list[Change]:
        """What changed since the last call, in order."""
        changes, self._changes = self._changes, []
        return changes

    def take_queries(self) -> list[Query]:
        """What is to be sent since the last call, in order; of any length, others split it."""
        queries, self._queries = self._queries, []
        return queries

    # --- what it is told ------------------------------------------------------------------------------------

    def readdress(self, address: int, now_s: float) -> None:
        """Go on under another address; an election that the old one lost is held anew."""
        self._querier.readdress(address, now_s)

    def restart(self, now_s: float) -> None:
        """Be the querier and ask at once, as after a start: the link is back."""
        self._is_closed = False
        self._querier.restart(now_s)

    def close(self) -> None:
        """Have all members gone at once, and do nothing more until `restart`."""
        self._is_closed = True
        for group in list(self._groups.values()):
            for listener in list(group.listeners.values()):
                self._remove(listener)
        self._heap.clear()
        self._n_stale = 0
        self._silence_s = inf
        self._queries.clear()

    def hear(self, message: Query | Report, host: Host, now_s: float) -> None:
        """Take a message of another on the link."""
        if self._is_closed:
            return
        self.poll(now_s)
        if isinstance(message, Query):
            self._hear_query(message, host[1], now_s)
        else:
            self._hear_report(message, host, now_s)

    def ask(self, hosts: Collection[Host], now_s: float) -> None:
        """Ask these hosts, and nobody else, for what they are in (CONFORMANCE D19), if we are the querier."""
        self.poll(now_s)
        for group in list(self._groups.values()):
            found = (group.listeners.get(host) for host in hosts)
            self._ask(group, [(one, one.stale(inf)) for one in found if one is not None], now_s)

    def poll(self, now_s: float) -> None:
        """Do what is due, in order of time."""
        while not self._is_closed and (next_s := self._next_s()) <= now_s:
            if self._heap and self._heap[0][0] == next_s:
                self._wake(heappop(self._heap)[1], now_s)
            elif self._silence_s == next_s:
                self._ask_the_silent(now_s)
            else:
                self._ask_all(now_s)

    # --- reports --------------------------------------------------------------------------------------------

    def _hear_report(self, report: Report, host: Host, now_s: float) -> None:
        ends_s = now_s + self._querier.group_membership_s
        version = report.version
        for record in report.records:
            group = self._groups.get(record.group)
            if version < 3 and record.kind is Kind.IS_EX and group is not None:
                self._hear_older(group, version, ends_s)
            listener = None if group is None else group.listeners.get(host)
            if listener is None:
                self._meet(group, record, host, version, now_s, ends_s)
            elif (
                record.kind is Kind.IS_EX
                and version == 3
                and listener.is_exclude
                and not listener.sources
                and not record.sources
            ):  # by far the most of all records: nothing but a refresh
                listener.reports = 3
                listener.timer_s = ends_s
                if ends_s < listener.wakes_s:
                    self._wake_at(listener, ends_s)
            else:
                self._update(listener, record, version, now_s, ends_s)

    @staticmethod
    def _hear_older(group: Group, version: int, ends_s: float) -> None:
        """Have a report of version 1 or 2 speak for all who keep silent because of it."""
        group.older_s = ends_s
        if version == 1:
            group.v1_s = ends_s

    def _meet(
        self, group: Group | None, record: Record, host: Host, version: int, now_s: float, ends_s: float
    ) -> None:
        """Take the first record that a host says of a group, if it is a join and there is room."""
        kind = record.kind
        if kind not in (Kind.IS_EX, Kind.TO_EX) and (kind is Kind.BLOCK or not record.sources):
            return None
        if self._n_members >= self.bounds.max_members_per_port:
            return self._refuse("port_members_full", host, record.group)
        if group is None:
            if len(self._groups) >= self.bounds.max_groups_per_port:
                return self._refuse("port_groups_full", host, record.group)
            if not self._room.take(self.bits, record.group):
                return self._refuse("groups_full", host, record.group)
            group = self._groups[record.group] = Group(record.group)
            if version < 3:
                self._hear_older(group, version, ends_s)
        elif len(group.listeners) >= self.bounds.max_members_per_group:
            return self._refuse("members_full", host, record.group)
        listener = group.listeners[host] = Listener(host, group)
        self._n_members += 1
        if record.sources or version < 3:
            return self._update(listener, record, version, now_s, ends_s, is_new=True)
        listener.is_exclude, listener.timer_s = True, ends_s  # by far the most of all joins
        self._changes.append(Change(host, group.address, ALL))
        return self._wake_at(listener, ends_s)

    def _update(
        self,
        listener: Listener,
        record: Record,
        version: int,
        now_s: float,
        ends_s: float,
        *,
        is_new: bool = False,
    ) -> None:
        kind, sources, group = record.kind, record.sources, listener.group
        is_older = listener.version(now_s) < 3
        if kind is Kind.TO_IN and group.v1_s > now_s and (is_older or not sources):
            return
        before = None if is_new else listener.wants()
        if version < 3 and kind is Kind.IS_EX:
            listener.speak(version, ends_s)
        else:
            listener.speak(3, ends_s)
            if is_older and kind is Kind.BLOCK:
                return
            if is_older and kind in (Kind.IS_EX, Kind.TO_EX):
                kind, sources = Kind.IS_EX, ()
        asked, n_refused = listener.hear(kind, sources, ends_s, self.bounds.max_sources_per_group)
        for _ in range(n_refused):
            self._refuse("sources_full", listener.host, group.address)
        if asked and self._believes(listener, now_s):
            listener.lower(asked, now_s)
            listener.expire(now_s)
        elif asked:
            self._ask(group, [(listener, asked)], now_s)
        self._settle(listener, before)

    def _believes(self, listener: Listener, now_s: float) -> bool:
        """Say whether what a host leaves is gone unasked (law 3)."""
        return self.timers.fast_leave and listener.version(now_s) == 3

    def _settle(self, listener: Listener, before: Filter | None) -> None:
        """Tell what became of a host's filter, and look at the host when its next timer runs out."""
        if not listener.is_exclude and not listener.sources:
            return self._remove(listener)
        wants = listener.wants()
        if wants != before:
            self._changes.append(Change(listener.host, listener.group.address, wants))
        deadline_s = listener.deadline_s()
        if deadline_s < listener.wakes_s:
            self._wake_at(listener, deadline_s)
        return None

    def _remove(self, listener: Listener) -> None:
        group = listener.group
        self._changes.append(Change(listener.host, group.address, None))
        self._sleep(listener)
        self._n_members -= 1
        del group.listeners[listener.host]
        if not group.listeners:
            del self._groups[group.address]
            self._room.give(self.bits, group.address)

    # --- queries --------------------------------------------------------------------------------------------

    def _hear_query(self, query: Query, source: int, now_s: float) -> None:
        if not self._querier.hear(query, source, now_s):
            return
        self._note_longest()
        group = self._groups.get(query.group)
        if group is None or query.suppress:
            return
        if not query.sources:
            if now_s < group.told_s + self.timers.last_member_query_interval_s / 2:
                return  # a querier that asks without pause does not have us go through the hosts each time
            group.told_s = now_s
            group.settle()
        ends_s = now_s + max(self._querier.last_member_s, self._querier.robustness * query.response_s)
        for listener in group.listeners.values():
            if not query.sources and listener.version(now_s) > 1:
                self._lower(listener, (None,), ends_s)
            elif query.sources and listener.sources:
                self._lower(listener, query.sources, ends_s)

    def _ask_all(self, now_s: float) -> None:
        """Send a general query, and set the time when silence is asked about."""
        query = self._querier.ask(now_s)
        self._queries.append(query)
        if self._querier.group_membership_s < self._longest_s:
            self._shorten(now_s)
        if self._silence_s == inf and not self._querier.is_starting:
            self._asked_s = now_s
            self._silence_s = now_s + query.response_s + MARGIN_S

    def _note_longest(self) -> None:
        self._longest_s = max(self._longest_s, self._querier.group_membership_s)

    def _shorten(self, now_s: float) -> None:
        """Have no timer run as long as that of a report from now on: another querier, or other settings, had
        them be longer, and who is not heard again is to count as silent."""
        self._longest_s = self._querier.group_membership_s
        ends_s = now_s + self._longest_s - MARGIN_S
        for group in self._groups.values():
            group.settle()
            group.v1_s = min(group.v1_s, ends_s)
            for listener in group.listeners.values():
                listener.v1_s, listener.v2_s = min(listener.v1_s, ends_s), min(listener.v2_s, ends_s)
                self._lower(listener, (None, *listener.sources), ends_s)

    def _ask_the_silent(self, now_s: float) -> None:
        self._silence_s = inf
        fresh_s = self._asked_s + self._querier.group_membership_s
        for group in self._groups.values():
            silent = [(one, keys) for one in group.listeners.values() if (keys := one.stale(fresh_s))]
            if silent:
                self._ask(group, silent, now_s)

    def _ask(self, group: Group, wanted: list[tuple[Listener, list[Key]]], now_s: float) -> None:
        """Ask for what these are to lose, and lower their timers to the last member query time."""
        wanted = [(listener, keys) for listener, keys in wanted if listener.version(now_s) > 1]
        if not wanted or not self.is_querier:
            return
        if any(listener.reports < 3 for listener, _ in wanted):
            group.settle()
        inquiry = group.inquiry
        if not isinstance(inquiry, Inquiry):
            inquiry = group.inquiry = Inquiry(group)
        for listener, keys in wanted:
            self._lower(listener, keys, now_s + self._querier.last_member_s)
            for key in keys:
                inquiry.want(key, listener.host, self.timers.robustness, now_s)
        self._send(inquiry, now_s)

    def _send(self, inquiry: Inquiry, now_s: float) -> None:
        interval_s = self.timers.last_member_query_interval_s
        late_s = now_s + self._querier.last_member_s
        group = inquiry.group
        for sources, suppress in inquiry.send(now_s, now_s + interval_s, late_s):
            self._queries.append(self._querier.query(group.address, sources, interval_s, suppress))
        due_s = inquiry.due_s
        if due_s is None:
            self._sleep(inquiry)
            group.inquiry = None
        elif due_s != inquiry.wakes_s:
            self._wake_at(inquiry, due_s)

    def _lower(self, listener: Listener, keys: Collection[Key], ends_s: float) -> None:
        listener.lower(keys, ends_s)
        if ends_s < listener.wakes_s and (deadline_s := listener.deadline_s()) < listener.wakes_s:
            self._wake_at(listener, deadline_s)

    # --- time -----------------------------------------------------------------------------------------------

    def _next_s(self) -> float:
        heap = self._heap
        while heap and heap[0][0] != heap[0][1].wakes_s:
            heappop(heap)
            self._n_stale -= 1
        first_s = heap[0][0] if heap else inf
        return min(first_s, self._silence_s, self._querier.next_s)

    def _wake(self, timed: Timed, now_s: float) -> None:
        timed.wakes_s = inf
        if isinstance(timed, Listener):
            if (deadline_s := timed.deadline_s()) > now_s:
                return self._wake_at(timed, deadline_s)
            before = timed.wants()
            timed.expire(now_s)
            return self._settle(timed, before)
        if isinstance(timed, Inquiry):
            if self.is_querier:
                return self._send(timed, now_s)
            timed.group.inquiry = None
        return None

    def _wake_at(self, timed: Timed, when_s: float) -> None:
        self._sleep(timed)
        timed.wakes_s = when_s
        heappush(self._heap, (when_s, timed))

    def _sleep(self, timed: Timed) -> None:
        if timed.wakes_s == inf:
            return
        timed.wakes_s = inf
        self._n_stale += 1
        if self._n_stale > _SWEEP_FROM and 2 * self._n_stale > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[0] == entry[1].wakes_s]
            heapify(self._heap)
            self._n_stale = 0

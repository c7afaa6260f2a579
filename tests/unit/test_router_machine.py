"""Anything that hosts and queriers can say, in any order, at any time: what always holds."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ctrl.protocols.messages import Kind, Query, Record, Report
from ctrl.protocols.state import Bounds, Room, Timers
from tests.unit.routed import HIGH, LOW, LOWER, OURS, A, B, C, Port, host

hosts = st.sampled_from([A, B, C, host(4)])
groups = st.integers(1, 5)
sources = st.lists(st.integers(1, 6), max_size=5).map(tuple)
kinds = st.sampled_from(list(Kind))
seconds = st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, 9.0, 31.25, 125.0, 300.0, 1e5])


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.room = Room(max_groups=4)
        self.port = Port(
            room=self.room,
            bounds=Bounds(max_groups_per_port=4, max_members_per_group=3, max_sources_per_group=4),
        )
        self.is_open = True

    @rule(whose=hosts, records=st.lists(st.builds(Record, kinds, groups, sources), max_size=4))
    def report(self, whose: tuple[bytes, int], records: list[Record]) -> None:
        self.port.hear(Report(3, tuple(records)), whose)

    @rule(
        whose=hosts,
        group=groups,
        kind=st.sampled_from([Kind.IS_EX, Kind.TO_IN]),
        version=st.sampled_from([1, 2]),
    )
    def report_in_an_older_version(
        self, whose: tuple[bytes, int], group: int, kind: Kind, version: int
    ) -> None:
        self.port.say(kind, whose=whose, group=group, version=version)

    @rule(
        whose=st.sampled_from([HIGH, LOW, LOWER, (LOW[0], 0), (LOW[0], OURS)]),
        query=st.builds(
            Query,
            st.sampled_from([1, 2, 3]),
            st.integers(0, 5),
            sources,
            st.sampled_from([0.0, 0.1, 1.0, 10.0, 8387.584]),
            st.booleans(),
            st.integers(0, 7),
            st.sampled_from([0.0, 1.0, 125.0, 31744.0]),
        ),
    )
    def query(self, whose: tuple[bytes, int], query: Query) -> None:
        self.port.hear(query, whose)

    @rule(for_s=seconds)
    def wait(self, for_s: float) -> None:
        self.port.run(for_s)

    @rule(for_s=seconds)
    def poll_late(self, for_s: float) -> None:
        self.port.at_s += for_s
        self.port.router.poll(self.port.at_s)
        self.port.settle()

    @rule(whose=st.lists(hosts, max_size=2))
    def ask(self, whose: list[tuple[bytes, int]]) -> None:
        self.port.router.ask(whose, self.port.at_s)
        self.port.settle()

    @rule(address=st.sampled_from([0, OURS, LOW[1] - 5, HIGH[1] + 5]))
    def readdress(self, address: int) -> None:
        self.port.router.readdress(address, self.port.at_s)

    @rule(
        timers=st.builds(
            Timers,
            robustness=st.integers(1, 4),
            query_interval_s=st.sampled_from([5.0, 125.0, 3000.0]),
            query_response_interval_s=st.sampled_from([1.0, 4.9]),
            fast_leave=st.booleans(),
        )
    )
    def configure(self, timers: Timers) -> None:
        self.port.router.timers = timers

    @precondition(lambda self: self.is_open)
    @rule()
    def close(self) -> None:
        self.port.router.close()
        self.port.settle()
        assert not self.port.wants
        self.is_open = False

    @precondition(lambda self: not self.is_open)
    @rule()
    def restart(self) -> None:
        self.port.router.restart(self.port.at_s)
        self.is_open = True

    @invariant()
    def what_was_told_is_what_is_there(self) -> None:
        """That no change equals the one before is `Port.settle`'s."""
        members = self.port.members()
        assert {key: member.wants for key, member in members.items()} == self.port.wants
        assert self.port.router.n_members == len(members)
        assert self.port.router.n_groups == len({group for _, group in members}) == self.room.n_groups

    @invariant()
    def the_bounds_hold(self) -> None:
        groups = self.port.router._groups.values()
        assert len(groups) <= 4
        for group in groups:
            assert 1 <= len(group.listeners) <= 3
            assert all(len(listener.sources) <= 4 for listener in group.listeners.values())

    @invariant()
    def an_older_host_wants_all(self) -> None:
        for member in self.port.members().values():
            if member.version < 3 and member.wants.is_exclude:
                assert not member.wants.sources

    @invariant()
    def each_member_is_looked_at_in_time_and_the_heap_is_bounded(self) -> None:
        router = self.port.router
        live = {id(timed) for when_s, timed in router._heap if timed.wakes_s == when_s}
        listeners = [one for group in router._groups.values() for one in group.listeners.values()]
        for listener in listeners:
            assert id(listener) in live
            assert listener.wakes_s <= listener.deadline_s()
        inquiries = [group.inquiry for group in router._groups.values() if group.inquiry is not None]
        assert all(id(one) in live for one in inquiries)
        assert len(router._heap) <= 2 * (len(listeners) + len(inquiries)) + 2 * 64

    @invariant()
    def only_the_querier_asks(self) -> None:
        queries, self.port.queries = self.port.queries, []
        for _, query in queries:
            assert query.version == 3
            assert not query.sources or query.group

    def teardown(self) -> None:
        """All timers run out, and what was taken is given back."""
        if self.is_open:
            self.port.configure(fast_leave=False, query_interval_s=3000.0)  # few queries in so long a time
            for _ in range(3):
                self.port.run(31744.0 * 7 + 9000.0)
            assert not self.port.wants
            assert self.room.n_groups == 0
            assert all(timed.wakes_s != when_s for when_s, timed in self.port.router._heap)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)

"""A host side on a fake clock, and what it said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ctrl.protocols.host import HostSide
from ctrl.protocols.messages import Kind, Query, Record, Report
from ctrl.protocols.state import ALL, Filter, Timers

G, H = 0xEF0A0A0A, 0xEF0A0A0B
IS_IN, IS_EX, TO_IN, TO_EX, ALLOW, BLOCK = Kind
HALF = 0.5


def including(*sources: int) -> Filter:
    return Filter(is_exclude=False, sources=frozenset(sources))


def excluding(*sources: int) -> Filter:
    return Filter(is_exclude=True, sources=frozenset(sources))


@dataclass
class Interface:
    """`at_s` is the time; whatever is wanted or heard is so then. Random numbers are one half."""

    timers: Timers = field(default_factory=Timers)
    random: Callable[[], float] = lambda: HALF
    at_s: float = 0.0
    reports: list[tuple[float, Report]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.host = HostSide(self.timers, self.random)

    def want(self, *groups: int, wants: Filter | None = ALL) -> None:
        for group in groups:
            self.host.want(group, wants, self.at_s)
        self.run()

    def hear(self, query: Query) -> None:
        self.host.hear(query, self.at_s)
        self.settle()

    def ask(self, group: int = 0, *sources: int, version: int = 3, response_s: float = 10.0) -> None:
        """Hear a query of a querier with the default timers."""
        query = Query(version, group, sources, response_s)
        self.hear(replace(query, robustness=2, interval_s=125.0) if version == 3 else query)

    def run(self, for_s: float = 0.0) -> None:
        """Let the time go on, each deadline on time."""
        until_s = self.at_s + for_s
        while (deadline_s := self.host.deadline_s) is not None and deadline_s <= until_s:
            self.at_s = max(self.at_s, deadline_s)
            self.host.poll(self.at_s)
            self.settle()
            assert self.host.deadline_s is None or self.host.deadline_s > self.at_s
        self.at_s = until_s

    def settle(self) -> None:
        self.reports += [(self.at_s, report) for report in self.host.take_reports()]

    def said(self, for_s: float = 0.0) -> list[tuple[float, int, Kind, int, set[int]]]:
        """Let the time go on; what was said since the last call: seconds before now, version, record."""
        self.run(for_s)
        reports, self.reports = self.reports, []
        return [
            (round(self.at_s - at_s, 6), report.version, one.kind, one.group, {*one.sources})
            for at_s, report in reports
            for one in report.records
        ]

    def records(self, for_s: float = 0.0) -> list[Record]:
        """Let the time go on; the records that were said since the last call."""
        self.run(for_s)
        reports, self.reports = self.reports, []
        return [record for _, report in reports for record in report.records]

"""How the benchmarks measure: one core, rounds in turn with the rival, figures gathered into one table.

The time is that which the thread spent on its core, so neighbours cost it cache and clock but no slices of
time. BENCH_FULL=1 gives every figure ten times the rounds.
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy comes in with anything below

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.figures import Figure, Sample, Target, keep, table

FULL = os.environ.get("BENCH_FULL") == "1"
ROUND_NS = 1_500_000
"""A round is at least this long, so that neither the clock nor the call counts."""
FIGURES = pytest.StashKey[list[Figure]]()

Action = Callable[[], object]
now_ns = time.thread_time_ns


def pytest_configure(config: pytest.Config) -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    config.stash[FIGURES] = []
    config.option.benchmark_quiet = True  # one table: ours
    config.option.benchmark_disable_gc = True


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    figures = config.stash[FIGURES]
    if not figures:
        return
    terminalreporter.section("figures")
    for line in table(figures):
        terminalreporter.write_line(line)
    judged = [one for one in figures if one.met is not None]
    terminalreporter.write_line("")
    terminalreporter.write_line(
        f"{sum(bool(one.met) for one in judged)} of {len(judged)} targets met; medians of rounds in turn "
        f"with what they race, ± median distance, minima in brackets; load {os.getloadavg()[0]:.1f}"
    )
    if not config.option.benchmark_disable:
        keep(figures)


@dataclass(frozen=True, slots=True)
class Rounds:
    """What the rounds of a race took, in ns per piece."""

    ours: Sample
    rival: Sample | None
    read: Sample | None


@dataclass(slots=True)
class Race:
    """Runs our side and the rival in turn, and books figures."""

    benchmark: BenchmarkFixture
    figures: list[Figure]
    booked: list[Figure] = field(default_factory=list)

    def __call__(
        self,
        ours: Action,
        rival: Action | None = None,
        *,
        per: int,
        reading: Callable[[], int] | None = None,
        budget_s: float = 0.4,
        least: int = 5,
        between: Action | None = None,
    ) -> Rounds:
        """Time rounds of `ours` and of `rival`, each `per` pieces, and what the clock `reading` made of ours.

        Each side goes once before its time is taken, to find its caches as it left them. Not with `between`:
        that clears up before each turn, so that all is fresh, and each side goes exactly once a round.
        """
        rival_ns: list[float] = []
        ours_ns: list[float] = []
        read_ns: list[float] = []
        loops, rounds = (1, least) if between else self._plan(ours, rival, budget_s, least)

        def prepare() -> None:
            if rival is not None:
                (between or rival)()
                begin = now_ns()
                for _ in range(loops):
                    rival()
                rival_ns.append((now_ns() - begin) / loops / per)
            (between or ours)()

        def run() -> None:
            read = 0 if reading is None else reading()
            begin = now_ns()
            for _ in range(loops):
                ours()
            ours_ns.append((now_ns() - begin) / loops / per)
            if reading is not None:
                read_ns.append((reading() - read) / loops / per)

        self.benchmark.pedantic(run, setup=prepare, rounds=rounds)
        return Rounds(
            Sample.of(ours_ns),
            Sample.of(rival_ns) if rival_ns else None,
            Sample.of(read_ns) if read_ns else None,
        )

    def _plan(self, ours: Action, rival: Action | None, budget_s: float, least: int) -> tuple[int, int]:
        """How often each side goes in a round, and how many rounds the budget allows."""
        if not self.benchmark.enabled:
            return 1, 1
        spent = []
        for action in (ours, rival):
            if action is not None:
                action()
                begin = now_ns()
                action()
                spent.append(now_ns() - begin + 1)
        loops = 1 + ROUND_NS // max(spent[0], 1)
        if rival is not None:
            loops = 1 + ROUND_NS // max(spent)
        budget_ns = budget_s * 1e9 * (10 if FULL else 1)
        return loops, min(1000, max(least, int(budget_ns / ((loops + 1) * sum(spent)))))

    def book(
        self,
        name: str,
        parameters: Mapping[str, object],
        ours: Sample,
        *,
        unit: str = "ns/copy",
        target: Target | None = None,
        **rivals: Sample | None,
    ) -> None:
        """Put a figure into the table."""
        raced = {rival: sample for rival, sample in rivals.items() if sample is not None}
        figure = Figure(name, parameters, unit, ours, raced, target)
        self.figures.append(figure)
        self.booked.append(figure)
        self.benchmark.extra_info.setdefault("figures", []).append(figure.as_json())


@pytest.fixture
def all_cpus() -> Iterator[None]:
    """A worker beside control's thread: each on a core of its own, if there are two."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    yield
    os.sched_setaffinity(0, own)


@pytest.fixture
def race(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Iterator[Race]:
    """Race against a rival, in turn; see `Race`."""
    one = Race(benchmark, request.config.stash[FIGURES])
    yield one
    assert one.booked, "a benchmark that booked no figure"


def timed(action: Action, per: int, rounds: int = 3) -> Sample:
    """Time a slow rival by itself, ns per piece."""
    values = []
    for _ in range(rounds):
        begin = now_ns()
        action()
        values.append((now_ns() - begin) / per)
    return Sample.of(values)

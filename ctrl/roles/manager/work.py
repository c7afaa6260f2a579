"""What a manager has to do and has not done yet: messages, writes, endings, news for the log and timers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from itertools import count

from ctrl.refusals import REFUSALS
from ctrl.rpc.messages import FromManager
from ctrl.store.model import Write

News = tuple[str, dict[str, object]]
Result = Callable[[bool, float], None]
"""Hears whether a write was done, and when."""
Timer = Callable[[float], int]
"""Does what is due; returns how much work that was, in keys."""


class Work:
    """For one manager. What is taken is out of it."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, FromManager]] = []
        self.writes: list[Write] = []
        self.endings: list[tuple[int, str]] = []
        self.news: list[News] = []
        self.refused: Counter[str] = Counter()
        self._results: dict[int, tuple[Write, Result]] = {}
        """By the identity of the write, which is kept so that no other one gets it."""
        self._offered: dict[str, int] = {}
        """The revision that a key had when a write to it was offered, of those whose outcome was not seen."""
        self._timers: list[tuple[float, int, Timer]] = []
        self._n_timers = count()

    def refuse(self, name: str, n: int = 1) -> None:
        """Count a refusal of `ctrl.refusals`, without its `manager_`; KeyError for another name."""
        REFUSALS[f"manager_{name}"]
        if n:
            self.refused[name] += n

    def tell(self, event: str, **values: object) -> None:
        """Have it said in the log."""
        self.news.append((event, values))

    def write(self, write: Write, result: Result | None = None) -> None:
        """Have it committed."""
        self.writes.append(write)
        if result is not None:
            self._results[id(write)] = (write, result)

    def written(self, write: Write, done: bool, now_s: float) -> None:
        """Pass on what became of it."""
        _, result = self._results.pop(id(write), (None, None))
        if result is not None:
            result(done, now_s)

    def offer(self, write: Write) -> None:
        """Have it committed where any manager may do so and one is enough: not again while the keys that it
        compares are as they were."""
        if all(self._offered.get(key) == revision for key, revision in write.when.items()):
            return
        self._offered.update(write.when)
        self.write(write, lambda done, _: None if done else self.seen(write.when))

    def seen(self, keys: Iterable[str]) -> None:
        """These keys changed, or a write that compared them failed."""
        for key in keys:
            self._offered.pop(key, None)

    def at(self, due_s: float, timer: Timer) -> None:
        """Have it called then."""
        heappush(self._timers, (due_s, next(self._n_timers), timer))

    @property
    def deadline_s(self) -> float | None:
        return self._timers[0][0] if self._timers else None

    def poll(self, now_s: float, most: int) -> None:
        """Call what is due, until that was `most` work."""
        while self._timers and self._timers[0][0] <= now_s and most > 0:
            most -= heappop(self._timers)[2](now_s)

"""What a host side has still to say of one group: a change that is repeated, and what it was asked for.

1. A change of the mode is said as a whole, TO_IN or TO_EX with all sources; a change of sources alone as
   ALLOW and BLOCK of those that changed, each as often as a change is to be said (RFC 9776 section 5.1).
2. Sources that come and go without end are not kept one by one: beyond MOST_SOURCES the whole is said.
3. Asked for more than MOST_SOURCES sources, a host says all that it wants of the group; what it was asked
   for (section 5.2) is in that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ctrl.protocols.messages import Kind, Record
from ctrl.protocols.state import Filter

NOTHING = Filter(is_exclude=False)
"""What who is not in a group wants of it."""
MOST_SOURCES = 256


class Saying:
    """A change of a group that is being said."""

    __slots__ = ("_n_whole", "_sources")

    def __init__(self) -> None:
        self._n_whole = 0
        """How often the whole is still to be said."""
        self._sources: dict[int, int] = {}
        """How often each source is."""

    def __bool__(self) -> bool:
        return bool(self._n_whole or self._sources)

    def change(self, before: Filter, after: Filter, robustness: int) -> None:
        """Have this change be said, with what is left to say of those before."""
        if before.is_exclude != after.is_exclude:
            self._whole(robustness)
            return
        self._sources.update(dict.fromkeys(before.sources ^ after.sources, robustness))
        if len(self._sources) > MOST_SOURCES:
            self._whole(robustness)

    def _whole(self, robustness: int) -> None:
        self._n_whole = robustness
        self._sources = {}

    def say(self, group: int, wants: Filter) -> Iterator[Record]:
        """Take the records of one report."""
        if self._n_whole:
            self._n_whole -= 1
            yield Record(Kind.TO_EX if wants.is_exclude else Kind.TO_IN, group, _in_order(wants.sources))
            return
        said, self._sources = self._sources, {one: n - 1 for one, n in self._sources.items() if n > 1}
        allowed = {one for one in said if (one in wants.sources) != wants.is_exclude}
        if allowed:
            yield Record(Kind.ALLOW, group, _in_order(allowed))
        if len(allowed) < len(said):
            yield Record(Kind.BLOCK, group, _in_order(said.keys() - allowed))


class Asked:
    """A query of a group, or of sources of it, that is not answered yet."""

    __slots__ = ("_sources", "due_s")

    def __init__(self, due_s: float, sources: Iterable[int]) -> None:
        self.due_s = due_s
        self._sources: set[int] = set()
        """None: the group as a whole."""
        self.ask(sources, is_new=True)

    def ask(self, sources: Iterable[int], *, is_new: bool = False) -> None:
        """Have the answer be one to these sources too; to none: to the whole group."""
        if not is_new and not self._sources:
            return
        self._sources.update(sources)
        if not sources or len(self._sources) > MOST_SOURCES:
            self._sources = set()

    def answer(self, group: int, wants: Filter) -> Record | None:
        """Say what is wanted of what was asked for; None: nothing."""
        if not self._sources:
            return current(group, wants)
        found = self._sources - wants.sources if wants.is_exclude else self._sources & wants.sources
        return Record(Kind.IS_IN, group, _in_order(found)) if found else None


def current(group: int, wants: Filter) -> Record:
    """Say all that is wanted of a group."""
    return Record(Kind.IS_EX if wants.is_exclude else Kind.IS_IN, group, _in_order(wants.sources))


def _in_order(sources: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(sources))

"""What happens in a box, told to whoever watches at that moment; `ctrl.topics` says what the rows hold.

1. Nobody who publishes waits: a queue that is full loses its oldest event, and its reader is told how many.
2. Where nobody watches an event costs nothing: who would have to make many rows asks `wanted` first.
3. For the loop's thread. No task and no callback an event: a reader that waits is woken once, and takes all.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import cast

from ctrl.membership import Event, Wants
from ctrl.roles.nve.macs import Change
from ctrl.roles.nve.places import Place, Vtep
from ctrl.rpc.messages import Instructions
from ctrl.table import Row
from ctrl.topics import EVENTS
from ctrl.topology.entry import Entry, Key
from ctrl.topology.words import is_shown, key_words
from fastpath.model import IPAddress

QUEUE_SIZE = 1024
"""Events that wait for one reader."""


class Subscription:
    """The events of some topics since it was made."""

    def __init__(self, topics: Iterable[str], now: Callable[[], str]) -> None:
        self.topics = frozenset(topics)
        self.is_open = True
        self._now = now
        self._queue: deque[Row] = deque()
        self._missed: Counter[str] = Counter()
        self._ready = asyncio.Event()

    async def read(self, timeout_s: float | None = None) -> list[Row]:
        """Wait for events, and take all there are; none if the time is up or the subscription closed.

        Those that were lost were the oldest: a `missed` event a topic comes first.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._ready.wait()
        missed = [
            {"time": self._now(), "topic": topic, "event": "missed", "missed": n}
            for topic, n in self._missed.items()
        ]
        rows = [*missed, *self._queue]
        self._missed.clear()
        self._queue.clear()
        if self.is_open:
            self._ready.clear()
        return rows

    def put(self, row: Row) -> None:
        """Queue an event."""
        if len(self._queue) == QUEUE_SIZE:
            self._missed[self._queue.popleft()["topic"]] += 1
        self._queue.append(row)
        self._ready.set()

    def close(self) -> None:
        """End it: whoever reads gets what there is, and nothing more."""
        self.is_open = False
        self._ready.set()


class Bus:
    """Where events are published, and read by those who subscribe. `wall` is Unix time, seconds."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._readers: dict[str, list[Subscription]] = {topic: [] for topic in EVENTS}

    def wanted(self, topic: str) -> bool:
        """Say whether anybody watches a topic."""
        return bool(self._readers[topic])

    def publish(self, topic: str, row: Row) -> None:
        """Tell those who watch the topic. `row` has the keys of the topic but `time` and `topic`."""
        readers = self._readers[topic]
        if readers:
            stamped = {"time": self._now(), "topic": topic, **row}
            for reader in readers:
                reader.put(stamped)

    @contextmanager
    def subscribe(self, topics: Iterable[str]) -> Iterator[Subscription]:
        """Watch some topics for as long as the context lasts; KeyError for one that there is not."""
        reader = Subscription(topics, self._now)
        lists = [self._readers[topic] for topic in reader.topics]
        for readers in lists:
            readers.append(reader)
        try:
            yield reader
        finally:
            for readers in lists:
                readers.remove(reader)

    def _now(self) -> str:
        time = datetime.fromtimestamp(self._wall(), UTC).replace(tzinfo=None)
        return f"{time.isoformat(timespec='milliseconds')}Z"


def member_event(event: Event, port: str, network: str | None = None) -> Row:
    """The row of topic members for a change of the membership table, at the port of this name; `network` is
    that of a tenant.

    A member that left is shown with what it wanted until then.
    """
    wants = cast("Wants", event.wants or event.was)  # one of them is there
    who, sources = event.who, [str(source) for source in sorted(wants.sources, key=int)]
    return {
        "event": "left" if event.wants is None else "joined" if event.was is None else "changed",
        "port": port,
        "nve": None if who.address is None else str(who.address),
        "mac": who.mac.hex(":") or None,
        "network": network,
        "group": str(event.group),
        "mode": "exclude" if wants.is_exclude else "include",
        "sources": [] if wants.is_exclude else sources,
        "blocked": sources if wants.is_exclude else [],
        "origin": who.origin.value,
    }


def group_event(group: IPAddress, revision: int, *, joined: bool) -> Row:
    """The row of topic groups for a change of the second information, and its revision from then on."""
    return {"event": "joined" if joined else "left", "group": str(group), "revision": revision}


def mac_event(change: Change, network: str | None, name_of: Callable[[int], str]) -> Row:
    """The row of topic macs for a station of the network of this name; `name_of` gives that of a port."""

    def names(place: Place | None) -> tuple[str | None, str | None]:
        """Port and VTEP."""
        if isinstance(place, Vtep):
            return None, str(place.address)
        return None if place is None else name_of(place), None

    port, vtep = names(change.was if change.place is None else change.place)
    return {
        "event": change.event,
        "vni": change.vni,
        "network": network,
        "mac": change.mac.hex(":"),
        "port": port,
        "vtep": vtep,
        "was": next(filter(None, names(change.was)), None) if change.place is not None else None,
    }


def told_events(node: str, message: Instructions) -> Iterator[Row]:
    """The rows of topic instructions for what a manager tells a node; without who is aware of its tenants."""
    for entry in message.entries:
        if is_shown(entry.key):
            yield _instruction("told", node, entry.key, entry, message.revision, None)
    for key in message.removed:
        if is_shown(key):
            yield _instruction("withdrawn", node, key, None, message.revision, None)


def applied_event(node: str, key: Key, entry: Entry | None, revision: int, refused: str | None = None) -> Row:
    """The row of topic instructions for what became of a group's tunnels at their node: `entry` is in force
    from now on, None: they ended. `refused`: why the last word is not in force, by its name."""
    event = "refused" if refused else "ended" if entry is None else "applied"
    return _instruction(event, node, key, entry, revision, refused)


def _instruction(event: str, node: str, key: Key, entry: Entry | None, revision: int, why: str | None) -> Row:
    group, vni, tenants = key_words(key)
    return {
        "event": event,
        "node": node,
        "group": group,
        "vni": vni,
        "tenants": tenants,
        "via": None if entry is None else entry.via,
        "peers": [] if entry is None else [str(ip_address(peer)) for peer in entry.peers],
        "revision": revision,
        "why": why,
    }


def session_event(
    event: str, node: str | None, role: str | None, manager: str | None, why: str | None = None
) -> Row:
    """The row of topic sessions: `event` is came, went or refused."""
    return {"event": event, "node": node, "role": role, "manager": manager, "why": why}


def tunnel_event(peer: IPAddress, state: str) -> Row:
    """The row of topic tunnels for a peer that is in another state from now on, that of `show tunnels`."""
    return {"event": state, "peer": str(peer)}

"""A manager role at work on a store in memory, and what its nodes see of it."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Self, TypeVar, cast

import pytest

from ctrl.config import Config, parse
from ctrl.daemon import managing as m
from ctrl.daemon.managing import Managing
from ctrl.events import Bus
from ctrl.rpc.messages import FromManager, Group, Groups, Hello
from ctrl.rpc.server import Handlers, Limits
from ctrl.store.model import Store
from ctrl.topology.entry import Key, Node
from tests.unit.driven import going, until
from tests.unit.store_memory import Shared

G = ip_address("239.1.1.100").packed
A, B, P = (ip_address(f"10.0.0.{n}").packed for n in (1, 2, 110))
TOR1, TOR2 = Node("tor1", "device", A, 1), Node("tor2", "device", B, 1)
POINT = Node("tor1.point", "replicator", P, 1)

T = TypeVar("T")


class Server:
    """ctrl.rpc.server.Server, without a network: who is ended is gone a moment later, as there."""

    def __init__(self, listen: str, handlers: Handlers, tls: object, limits: Limits) -> None:
        self.listen, self.tls, self.limits = listen, tls, limits
        self.counts: Counter[str] = Counter()
        self.sent: list[tuple[int, FromManager]] = []
        self.ended: list[tuple[int, str]] = []
        self.started: list[int] = []
        self._handlers = handlers

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def send(self, session: int, message: FromManager) -> None:
        self.sent.append((session, message))

    def begun(self, session: int) -> None:
        self.started.append(session)

    def end(self, session: int, why: str) -> None:
        if session not in dict(self.ended):
            self.ended.append((session, why))
            asyncio.get_running_loop().call_soon(self._handlers.closed, session)


class Far:
    """A manager, seen by its nodes and by the store."""

    def __init__(self, managing: Managing, shared: Shared, events: Bus) -> None:
        self.managing, self.shared, self.events = managing, shared, events
        self.server = cast("Server", managing._server)

    def open(self, session: int, node: Node, identity: str | None = None) -> str:
        """Say who is there; why it is refused, "" where it is not."""
        return self.managing.opened(session, Hello(node), identity) or ""

    def come(self, session: int, node: Node, *groups: Key) -> None:
        """Begin a session with all of a node's groups."""
        assert self.open(session, node) == ""
        self.managing.heard(session, Groups(1, tuple(map(Group, groups)), is_full=True))

    def told(self, session: int, kind: type[T]) -> list[T]:
        """The messages of one kind that a session was sent."""
        return [one for to, one in self.server.sent if to == session and isinstance(one, kind)]

    def keys(self, kind: str) -> set[str]:
        """The keys of one kind in the store."""
        return {key for key in self.shared.items if key.startswith(f"{kind}/")}

    async def begun(self, *sessions: int) -> None:
        """Wait until all that these said at first is in the store."""
        await until(lambda: set(sessions) <= set(self.server.started))


def config_of(text: str = "", node: str = "m1") -> Config:
    """The config of a box that is a manager and nothing else."""
    reading = parse(f'node = "{node}"\n[manager]\n{text}')
    assert reading.config is not None, reading.findings
    return reading.config


@asynccontextmanager
async def managed(shared: Shared | None = None, config: Config | None = None) -> AsyncIterator[Far]:
    """Have a manager at work, on a store that is an hour old."""
    store = shared or Shared()
    store.age_s = 3600.0

    async def opened(url: str, tls: object) -> Store:
        return store.open()

    events = Bus(lambda: 0.0)
    thresholds = gc.get_threshold()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(m, "open_store", opened)
        patch.setattr(m, "Server", Server)
        try:
            managing = Managing(config or config_of(), Path("/nowhere"), events)
            async with managing, going(managing.run()):
                yield Far(managing, store, events)
        finally:  # a manager has its own way with garbage
            gc.set_threshold(*thresholds)
            gc.unfreeze()

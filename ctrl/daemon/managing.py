"""Drives the manager role of a box: sessions and the store in; messages and writes out.

1. Writes are committed in the order in which they were made, all that wait at once: while one commit is under
   way the next ones gather. What they change comes back by the store's changes, as other managers' writes do.
2. A manager that cannot reach its store serves nobody: its nodes do better with another one, and forward by
   what they hold if there is none.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from ctrl.config import Config
from ctrl.config.schema_roles import ManagerTable
from ctrl.daemon.sessions import tls_files
from ctrl.events import Bus, session_event, told_events
from ctrl.roles.manager import Manager, ManagerSettings
from ctrl.rpc.messages import FromNode, Hello, Instructions
from ctrl.rpc.server import Limits, Server
from ctrl.store.model import Store, Write
from ctrl.store.opening import open_store
from ctrl.topology.entry import Node
from ctrl.topology.points import Allocation, Settings
from ctrl.topology.topology import Topology
from fastpath.model import IPAddress

LOG = logging.getLogger("fastpath.manager")
GC_THRESHOLDS = 200_000, 50, 1000
"""Millions of objects that stay: looking through them all now and then was a third of the work."""
LOOK_S = 1.0
AWAY = "the manager does not reach its store"


class Managing:
    """The manager of a config, while the context lasts; StoreError or OSError where it cannot begin.
    `folder`: where the paths of [tls] begin."""

    def __init__(self, config: Config, folder: Path, events: Bus) -> None:
        if config.manager is None:
            raise ValueError("a config without [manager]")
        self._config, self._table = config, config.manager
        self._folder = folder
        self._events = events
        self._stack = AsyncExitStack()
        self._nodes: dict[int, Node] = {}
        """Who is served, by session."""
        self._warned: list[str] = []
        self._waiting: list[Write] = []
        self._has_writes = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        self._next: asyncio.Handle | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._begin()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def _begin(self) -> None:
        table = self._table
        tls = tls_files(self._config.tls, self._folder)
        self._store: Store = await open_store(table.store.url, tls)
        self._stack.push_async_callback(self._store.close)
        self.topology = Topology(_topology(table))
        self.manager = Manager(
            self._config.node,
            self._store.id,
            _settings(table),
            self.topology,
            time.monotonic(),
            settling_s=max(0.0, table.hold_s - self._store.age_s),
        )
        own = tls_files(self._config.tls_of(table), self._folder)
        self._server = Server(str(table.listen), self, own, Limits(max_sessions=table.max_nodes))
        await self._stack.enter_async_context(self._server)
        LOG.info("manager listens address=%s store=%s", table.listen, table.store)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in (self._alarm, self._next):
            if handle is not None:
                handle.cancel()
        await self._stack.aclose()

    async def run(self) -> None:
        """Serve nodes for as long as the box runs."""
        gc.set_threshold(*GC_THRESHOLDS)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(), name="follow the store")
            tasks.create_task(self._commit(), name="write to the store")
            tasks.create_task(self._look(), name="look after all")

    @property
    def is_store_reachable(self) -> bool:
        """False: nobody is served until it is."""
        return self._store.is_reachable

    @property
    def refused(self) -> Mapping[str, int]:
        """What the role and the sessions' server refused, by name."""
        return self.manager.refused + self._server.counts

    # --- what happens ---------------------------------------------------------------------------------------

    def opened(self, session: int, hello: Hello, identity: str | None) -> str | None:
        """A node says who it is; a sentence why it is not served."""
        node = hello.node
        if self.is_store_reachable:
            why = self.manager.open(session, hello, identity, time.monotonic())
        else:
            why = AWAY
        if why is None:
            self._nodes[session] = node
        self._tell("refused" if why else "came", node, why)
        self._soon()
        return why

    def heard(self, session: int, message: FromNode) -> None:
        """A node said something."""
        self.manager.hear(session, message, time.monotonic())
        self._soon()

    def closed(self, session: int) -> None:
        """A session ended."""
        self.manager.closed(session, time.monotonic())
        self._tell("went", self._nodes.pop(session), None)
        self._soon()

    def moved(self, nves: Sequence[IPAddress]) -> int:
        """Have devices ask these NVEs; the number of devices that are told."""
        n_told = self.manager.moved([nve.packed for nve in nves], time.monotonic())
        self._soon()
        return n_told

    async def _follow(self) -> None:
        async for changes in self._store.changes():
            self.manager.follow(changes, time.monotonic())
            self._settle()
            if changes.is_all:
                gc.freeze()

    def _warn(self) -> None:
        warned, self._warned = self._warned, self.topology.warnings()
        for sentence in self._warned:
            if sentence not in warned:
                LOG.warning("%s", sentence)

    async def _commit(self) -> None:
        while True:
            await self._has_writes.wait()
            self._has_writes.clear()
            writes, self._waiting = self._waiting, []
            done = await self._store.commit(writes)
            for write, is_done in zip(writes, done, strict=True):
                self.manager.written(write, is_done, time.monotonic())
            self._settle()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self._warn()
            if not self.is_store_reachable:
                for session in list(self._nodes):
                    self._server.end(session, AWAY)

    def _tell(self, event: str, node: Node, why: str | None) -> None:
        row = session_event(event, node.name, node.shown_role, self._config.node, why)
        self._events.publish("sessions", row)

    # --- and what comes of it -------------------------------------------------------------------------------

    def _soon(self) -> None:
        """What many sessions say in one round of the loop is one step."""
        if self._next is None:
            self._next = asyncio.get_running_loop().call_soon(self._settle)

    def _settle(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
        manager = self.manager
        is_watched = self._events.wanted("instructions")
        for session, message in manager.take_messages():
            node = self._nodes.get(session)
            if is_watched and node is not None and isinstance(message, Instructions):
                for row in told_events(node.name, message):
                    self._events.publish("instructions", row)
            self._server.send(session, message)
        for session in manager.take_ready():
            self._server.begun(session)
        for session, why in manager.take_endings():
            self._server.end(session, why)
        for event, values in manager.take_news():
            LOG.info("%s %s", event, " ".join(f"{key}={value}" for key, value in values.items()))
        writes = manager.take_writes()
        if writes:
            self._waiting += writes
            self._has_writes.set()
        deadline_s = manager.deadline_s
        if self._alarm is not None:
            self._alarm.cancel()
        loop = asyncio.get_running_loop()
        # the loop's clock is the monotonic one
        self._alarm = None if deadline_s is None else loop.call_at(deadline_s, self._due)

    def _due(self) -> None:
        self._alarm = None
        self.manager.poll(time.monotonic())
        self._settle()


def _settings(table: ManagerTable) -> ManagerSettings:
    return ManagerSettings(
        hold_s=table.hold_s,
        max_nodes=table.max_nodes,
        max_groups=table.max_groups,
        max_groups_per_node=table.max_groups_per_node,
        max_devices_per_group=table.max_devices_per_group,
    )


def _topology(table: ManagerTable) -> Settings:
    return Settings(
        mode=table.mode,
        threshold=table.threshold,
        hysteresis=table.hysteresis,
        points=tuple(
            Allocation(point.address.packed, point.vnis, tuple(group.packed for group in point.groups))
            for point in table.points
        ),
        max_devices_per_group=table.max_devices_per_group,
        tree=table.tree,
    )

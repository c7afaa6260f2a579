"""The manager's role by itself, for how far transport and store are from it: the same devices and messages,
no gRPC, a store in memory, time that is only counted. What it takes is the thread's time in the role (with
the topology) and in the codec.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from bench.conftest import now_ns
from bench.fabric_devices import Device, Truth, World
from bench.fabric_http2 import Connection
from ctrl.roles.manager import Manager, ManagerSettings
from ctrl.rpc.messages import FromManager, Hello
from ctrl.rpc.reading import Malformed, decode_from_node
from ctrl.rpc.writing import encode_from_manager
from ctrl.store.model import Changes, Item, Write
from ctrl.topology.points import Settings
from ctrl.topology.topology import Topology

T = TypeVar("T")
HOLD_S = 36_000.0


class Wire:
    """The device's end of no connection at all."""

    def __init__(self, session: int, inbox: deque[tuple[int, bytes]]) -> None:
        self._session = session
        self._inbox = inbox

    def send(self, data: bytes) -> None:
        self._inbox.append((self._session, data))


class Pure:
    """A manager, its store and the devices of a world, without an event loop."""

    def __init__(self, world: World, name: str = "m1") -> None:
        n = len(world.devices)
        self.role_ns = self.codec_ns = 0
        self.world = world
        self.now_s = 0.0
        settings = ManagerSettings(hold_s=HOLD_S, max_nodes=n, max_groups=len(world.truth))
        self._manager = Manager(name, "store", settings, Topology(Settings("mesh")), self.now_s)
        self._items: dict[str, Item] = {}
        self._revision = 0
        self._inbox: deque[tuple[int, bytes]] = deque()
        self._follow(Changes(0, (), is_all=True))

    def load(self) -> None:
        """Have all devices come at once, until each is told."""
        for session, device in enumerate(self.world.devices):
            device.attach(cast(Connection, Wire(session, self._inbox)))
        self.run_until(self.now_s + 5)
        assert self.world.n_right == len(self.world.truth)

    def take(self) -> tuple[float, float]:
        """Seconds in the role, and in the codec, since this was asked last."""
        took = self.role_ns / 1e9, self.codec_ns / 1e9
        self.role_ns = self.codec_ns = 0
        return took

    def join(self, joins: Sequence[tuple[Device, Truth]], per_s: float) -> None:
        """Have them come at that rate, until each is told."""
        for device, truth in joins:
            device.join(truth)
            self.run_until(self.now_s + 1 / per_s)
        self.run_until(self.now_s + 5)
        assert self.world.n_right == len(self.world.truth)

    def run_until(self, end_s: float) -> None:
        """Do all that is due until then."""
        while True:
            while self._inbox or self._step():
                self._hear()
            deadline_s = self._manager.deadline_s
            if deadline_s is None or deadline_s > end_s:
                break
            self.now_s = max(self.now_s, deadline_s)
            self._timed(lambda: self._manager.poll(self.now_s))
        self.now_s = end_s

    def _hear(self) -> None:
        manager, inbox = self._manager, self._inbox
        while inbox:
            session, data = inbox.popleft()
            begin = now_ns()
            message = decode_from_node(data)
            read = now_ns()
            assert not isinstance(message, Malformed)
            if isinstance(message, Hello):
                refusal = manager.open(session, message, None, self.now_s)
                assert refusal is None, refusal
            else:
                manager.hear(session, message, self.now_s)
            self.codec_ns += read - begin
            self.role_ns += now_ns() - read

    def _step(self) -> bool:
        """Pass on what the manager wants done; False if it wants nothing."""
        manager = self._manager
        writes, messages = manager.take_writes(), manager.take_messages()
        assert not manager.take_endings()
        manager.take_news()
        for session, message in messages:
            self._send(session, message)
        if writes:
            done, items = self._commit(writes)
            self._timed(lambda: self._written(done))
            if items:
                self._follow(Changes(self._revision, items))
        return bool(writes or messages)

    def _written(self, done: Sequence[tuple[Write, bool]]) -> None:
        for write, is_done in done:
            self._manager.written(write, is_done, self.now_s)

    def _send(self, session: int, message: FromManager) -> None:
        begin = now_ns()
        parts = list(encode_from_manager(message))
        self.codec_ns += now_ns() - begin
        for data in parts:
            self.world.devices[session].hear(data)

    def _follow(self, changes: Changes) -> None:
        self._timed(lambda: self._manager.follow(changes, self.now_s))

    def _commit(self, writes: Sequence[Write]) -> tuple[list[tuple[Write, bool]], list[Item]]:
        done, changed = [], []
        for write in writes:
            is_done = all(self._at(key) == revision for key, revision in write.when.items())
            done.append((write, is_done))
            if not is_done:
                continue
            self._revision += 1
            for key, value in write.puts.items():
                item = Item(key, value, self._revision)
                changed.append(item)
                if value is None:
                    self._items.pop(key, None)
                else:
                    self._items[key] = item
        return done, changed

    def _at(self, key: str) -> int:
        return self._items[key].revision if key in self._items else 0

    def _timed(self, action: Callable[[], T]) -> T:
        begin = now_ns()
        result = action()
        self.role_ns += now_ns() - begin
        return result

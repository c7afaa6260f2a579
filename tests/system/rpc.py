"""Managers and nodes of no brain at the two ends of a session: they note what they are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from ctrl.rpc.client import Client, Patience
from ctrl.rpc.messages import FromManager, FromNode, Group, Groups, Hello, Instructions, Welcome
from ctrl.rpc.server import Limits, Server
from ctrl.rpc.tls import TlsFiles
from ctrl.rpc.transport import PATH, grpc
from ctrl.rpc.writing import encode_from_node
from ctrl.topology.entry import Entry, Node

KEY = b"\xef\x01\x01\x01"
HASTE = Patience(first_pause_s=0.02, last_pause_s=0.1)


class Manager:
    """Welcomes, and answers Groups with Instructions of their keys."""

    def __init__(self, refusal: str | None = None, keepalive_s: float = 60) -> None:
        self.refusal = refusal
        self.keepalive_s = keepalive_s
        self.is_dumb = False
        self.opened_by: list[tuple[int, Hello, str | None]] = []
        self.said: list[tuple[int, FromNode]] = []
        self.over: list[int] = []
        self.server: Server

    def opened(self, session: int, hello: Hello, identity: str | None) -> str | None:
        self.opened_by.append((session, hello, identity))
        if self.refusal is None and not self.is_dumb:
            self.server.send(session, Welcome("m1", "store", self.keepalive_s))
        return self.refusal

    def heard(self, session: int, message: FromNode) -> None:
        self.said.append((session, message))
        if isinstance(message, Groups) and not self.is_dumb:
            entries = tuple(Entry(group.key, "mesh") for group in message.added)
            self.server.send(session, Instructions(message.revision, 1, entries))

    def closed(self, session: int) -> None:
        self.over.append(session)


@asynccontextmanager
async def serving(
    manager: Manager | None = None,
    tls: TlsFiles | None = None,
    *,
    listen: str = "127.0.0.1:0",
    limits: Limits | None = None,
) -> AsyncIterator[Manager]:
    manager = manager or Manager()
    async with Server(listen, manager, tls, limits) as manager.server:
        yield manager


def at(manager: Manager, host: str = "127.0.0.1") -> str:
    return f"{host}:{manager.server.port}"


class Device:
    """Says Hello, and one group; times the answer."""

    def __init__(self, name: str = "tor1") -> None:
        self.hello = hello(name)
        self.told: list[FromManager] = []
        self.addresses: list[str] = []
        self.n_ended = 0
        self.client: Client

    def connected(self, address: str) -> None:
        self.addresses.append(address)
        self.client.send(self.hello)
        self.say(1)

    def say(self, revision: int) -> None:
        self.client.send(Groups(revision, (Group(KEY),), is_full=True))

    def heard(self, message: FromManager) -> None:
        self.told.append(message)

    def disconnected(self) -> None:
        self.n_ended += 1

    async def round_trip(self, revision: int) -> float:
        """Say it, wait until it is answered, return how long that took (s)."""
        loop = asyncio.get_running_loop()
        since = loop.time()
        self.say(revision)
        await until(
            lambda: any(isinstance(told, Instructions) and told.number == revision for told in self.told)
        )
        return loop.time() - since


def hello(name: str = "tor1") -> Hello:
    return Hello(Node(name, "device", b"\x0a\0\0\x01", 1))


@asynccontextmanager
async def running(
    *addresses: str, device: Device | None = None, tls: TlsFiles | None = None, patience: Patience = HASTE
) -> AsyncIterator[Device]:
    device = device or Device()
    device.client = Client(addresses, device, tls, patience)
    task = asyncio.create_task(device.client.run())
    try:
        yield device
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(is_so: Callable[[], object], timeout_s: float = 10) -> None:
    async with asyncio.timeout(timeout_s):
        while not is_so():  # noqa: ASYNC110  what is waited for is told by no event
            await asyncio.sleep(0.005)


@asynccontextmanager
async def calling(
    manager: Manager, tls: TlsFiles | None = None, *, host: str = "127.0.0.1"
) -> AsyncIterator[grpc.aio.StreamStreamCall]:
    """Call without a client of ours, so that anything may be said; `tls` is not looked at before."""
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0))
    if tls is None:
        channel = grpc.aio.insecure_channel(at(manager, host), options)
    else:
        files = (path.read_bytes() if path.exists() else None for path in (tls.ca, tls.key, tls.cert))
        channel = grpc.aio.secure_channel(at(manager, host), grpc.ssl_channel_credentials(*files), options)
    async with channel:
        call = channel.stream_stream(PATH)()
        try:
            yield call
        finally:
            call.cancel()


async def say(call: grpc.aio.StreamStreamCall, *messages: FromNode) -> None:
    for message in messages:
        for data in encode_from_node(message):
            await call.write(data)


async def ending(call: grpc.aio.StreamStreamCall) -> tuple[grpc.StatusCode, str]:
    """Read until the session ends, return why."""
    async with asyncio.timeout(10):
        with suppress(grpc.aio.AioRpcError):
            while await call.read() is not grpc.aio.EOF:
                pass
        return await call.code(), await call.details()

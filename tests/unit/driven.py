"""What stands in for the rest of a box where the daemon's fabric is tested: a session's end that notes what
is said, a disk that can be full, and waiting without sleeping."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from ctrl.daemon.probing import Prober
from ctrl.rpc.messages import FromNode
from ctrl.store.held import Update
from ctrl.topology.entry import Address

PATIENCE_S = 60.0
T = TypeVar("T")


async def until(condition: Callable[[], object]) -> None:
    """Let the loop go on until it is so."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  of anything that may come to be so
            await asyncio.sleep(0.001)


async def rounds(n: int = 20) -> None:
    """Let all that is due in the loop happen, and what that has happen."""
    for _ in range(n):
        await asyncio.sleep(0)


@asynccontextmanager
async def going(job: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """Have a job done meanwhile. That it fails shows where the context ends."""
    task = asyncio.create_task(job)
    await rounds()
    try:
        yield task
    finally:
        if not task.done():
            task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class Client:
    """ctrl.rpc.client.Client, with nobody at the other end."""

    def __init__(self) -> None:
        self.manager = "10.0.0.100:9470"
        self.problems: dict[str, str] = {}
        self.sent: list[FromNode] = []
        self.ended: list[str] = []

    async def run(self) -> None:
        await asyncio.Event().wait()

    def send(self, message: FromNode) -> None:
        self.sent.append(message)

    def end(self, why: str) -> None:
        self.ended.append(why)

    def said(self, kind: type[T]) -> list[T]:
        """The messages of one kind so far."""
        return [one for one in self.sent if isinstance(one, kind)]


class Probes(Prober):
    """A prober without a socket."""

    def __init__(self) -> None:
        self.wanted: set[Address] = set()
        self.counted: dict[str, int] = {}

    @property
    def counts(self) -> Mapping[str, int]:
        return self.counted

    def want(self, addresses: AbstractSet[Address]) -> None:
        self.wanted = set(addresses)


class Disk:
    """ctrl.store.held.HeldStore, with nothing below; it fails while `is_full`."""

    def __init__(self) -> None:
        self.is_full = False
        self.tried = 0
        self.written: list[Update] = []

    def write(self, update: Update) -> None:
        self.tried += 1
        if self.is_full:
            raise OSError("no space is left")
        self.written.append(update)

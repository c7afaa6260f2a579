"""The lease of our leased keys: kept alive, and another one after it was lost.

A lease is lost when nothing was heard of us for as long as it lives. Its keys are gone then, which comes by
`changes` as everything does. They are not written again here: another manager may serve their nodes by now.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from ctrl.store.etcd_http import Away, Gateway
from ctrl.store.etcd_wire import NOT_FOUND, Json, Refused, number, understood
from ctrl.store.model import StoreError

LOG = logging.getLogger("fastpath.store")
BEATS = 5
"""Times that it is kept alive in its life."""


class Lease:
    """`check` is awaited after each new lease: who was away so long may have come back to another store."""

    def __init__(self, gateway: Gateway, ttl_s: int, check: Callable[[], Awaitable[None]]) -> None:
        self._gateway = gateway
        self._ttl_s = ttl_s
        self._check = check
        self._id = ""
        self._kept_at_s = 0.0
        self._has_one = asyncio.Event()
        self._is_lost = asyncio.Event()

    @property
    def is_alive(self) -> bool:
        return bool(self._id) and time.monotonic() - self._kept_at_s < self._ttl_s

    async def held(self) -> str:
        """Wait for the lease, where it was just lost."""
        await self._has_one.wait()
        return self._id

    def lost(self, lease: str) -> None:
        """Have another one in the place of this one."""
        if lease == self._id:
            LOG.warning("store=%s lease=%s state=lost", self._gateway, lease)
            self._id = ""
            self._has_one.clear()
            self._is_lost.set()

    async def grant(self) -> None:
        answer, asked_at_s = await self._ask("lease/grant", {"TTL": str(self._ttl_s)})
        await self._check()
        with understood():
            self._id, self._kept_at_s = str(answer["ID"]), asked_at_s
        self._is_lost.clear()
        self._has_one.set()

    async def keep(self) -> None:
        """Keep it alive for good. What is wrong with the store for good is left as the gateway's failure."""
        try:
            while True:
                await self._beat()
        except StoreError as error:
            self._gateway.fail(error)
        except Refused as refused:
            self._gateway.fail(StoreError(f"{self._gateway}: {refused}"))
        finally:
            self._has_one.set()  # who waits for it hears of the failure then

    async def _beat(self) -> None:
        try:
            async with asyncio.timeout(self._ttl_s / BEATS):
                await self._is_lost.wait()
        except TimeoutError:
            lease = self._id
            answer, asked_at_s = await self._ask("lease/keepalive", {"ID": lease})
            with understood():
                is_alive = number(answer, "TTL") > 0
            if is_alive:
                self._kept_at_s = asked_at_s
            else:
                self.lost(lease)
        else:
            await self.grant()

    async def _ask(self, path: str, body: Json) -> tuple[Json, float]:
        """Ask until there is an answer, and say when that was asked for: its life began after that."""
        while True:
            asked_at_s = time.monotonic()
            with contextlib.suppress(Away):
                return await self._gateway.post(path, body), asked_at_s

    async def revoke(self) -> None:
        """Give it back, and so remove its keys; one that is gone is well."""
        if self._id:
            try:
                await self._gateway.ask("lease/revoke", {"ID": self._id})
            except Refused as refused:
                if refused.code != NOT_FOUND:
                    raise

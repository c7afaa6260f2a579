"""The store of several managers: an etcd cluster, by its JSON gateway (etcd 3.4 and newer).

1. What was read is as of one revision, and the watch goes on from the next: nothing is missed. Where etcd has
   compacted what comes next, all is read anew.
2. What is away is waited for, whoever asks. While nothing was heard of for as long as a lease lives,
   `is_reachable` is False.
3. A store that was emptied or restored under us is another one: reading and writing end with StoreError, and
   the manager is to start anew.
4. Nothing is compacted here: that concerns all who use the etcd. It is to run with
   --auto-compaction-mode=periodic --auto-compaction-retention=10m, or its history fills its disk.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Sequence

from ctrl.rpc.tls import TlsFiles
from ctrl.store.etcd_http import Away, Gateway
from ctrl.store.etcd_lease import Lease
from ctrl.store.etcd_wire import DENIED, Json, Names, Refused, b64, found, number, understood
from ctrl.store.etcd_writing import Writer
from ctrl.store.model import LEASE_S, Changes, Item, StoreError, Write, check_write
from ctrl.store.opening import EtcdUrl

OPEN_S = 10.0
CLOSE_S = 3.0
PAGE_KEYS = 2000
PAGE_S = 10.0


class EtcdStore:
    """ctrl.store.model.Store over a cluster. `lease_s`: for tests."""

    def __init__(self, url: EtcdUrl, tls: TlsFiles | None, lease_s: int = LEASE_S) -> None:
        self._gateway = Gateway(url, tls)
        self._names = Names(url.prefix)
        self._lease = Lease(self._gateway, lease_s, self._check)
        self._writer = Writer(self._gateway, self._names, self._lease)
        self._keeping: asyncio.Task[None] | None = None
        self._lease_s = lease_s
        self._made = 0.0
        self._is_closed = False
        self.id = ""

    @classmethod
    async def open(cls, url: EtcdUrl, tls: TlsFiles | None = None, lease_s: int = LEASE_S) -> EtcdStore:
        """Reach the cluster, and be sure that we may write there; StoreError says why not."""
        store = cls(url, tls, lease_s)
        try:
            async with asyncio.timeout(OPEN_S):
                store.id, store._made = await store._identify()
                await store._lease.grant()
                await store._writer.clean()
        except TimeoutError:
            await store._gateway.close()
            raise StoreError(f"{url}: not reached in {OPEN_S:g} s: {store._gateway.why}") from None
        except Refused as refused:
            await store._gateway.close()
            raise StoreError(f"{url}: {refused}") from None
        except BaseException:
            await store._gateway.close()
            raise
        store._keeping = asyncio.create_task(store._lease.keep(), name="store-lease")
        return store

    @property
    def age_s(self) -> float:
        return max(0.0, time.time() - self._made)

    @property
    def is_reachable(self) -> bool:
        since_s = self._writer.failing_since_s
        return self._lease.is_alive and (since_s is None or time.monotonic() - since_s < self._lease_s)

    async def changes(self) -> AsyncIterator[Changes]:
        told: Changes | None = None
        was_denied = False
        while True:
            try:
                if told is None:
                    told = await self._list()
                    yield told
                async for changes in self._watch(told.revision + 1):
                    told, was_denied = changes, False
                    if changes.items:
                        yield changes
                told = None  # compacted
            except Away:
                continue
            except Refused as refused:
                # so a watch is told, too, that its endpoint has forgotten our token: that is mended once
                if refused.code != DENIED or was_denied:
                    raise StoreError(f"{self._gateway}: {refused}") from None
                was_denied = True
                self._gateway.forget_login()

    async def commit(self, writes: Sequence[Write]) -> list[bool]:
        for write in writes:
            check_write(write)
        if self._is_closed:
            raise StoreError(f"{self._gateway}: closed")
        return await self._writer.commit(writes)

    async def close(self) -> None:
        if self._is_closed or self._keeping is None:
            return
        self._is_closed = True
        self._keeping.cancel()
        await asyncio.gather(self._keeping, return_exceptions=True)
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._lease.revoke()
                await self._writer.close()
        except (TimeoutError, StoreError, Refused):
            pass  # what it held goes by itself
        finally:
            self._gateway.fail(StoreError(f"{self._gateway}: closed"))
            await self._gateway.close()

    async def _identify(self) -> tuple[str, float]:
        key = self._names.key(".store")
        new = json.dumps({"id": secrets.token_hex(8), "made": int(time.time())}).encode()
        making = {
            "compare": [{"target": "MOD", "result": "EQUAL", "key": key, "mod_revision": "0"}],
            "success": [{"request_put": {"key": key, "value": b64(new)}}, {"request_range": {"key": key}}],
            "failure": [{"request_range": {"key": key}}],
        }
        answer = await self._gateway.ask("kv/txn", making)
        with understood():
            (kv,) = found(answer)
        try:
            record = json.loads(b64decode(kv["value"]))
            return str(record["id"]), float(record["made"])
        except (ValueError, KeyError, TypeError):
            raise StoreError(
                f"{self._gateway}: its key .store is none of ours: name another prefix"
            ) from None

    async def _check(self) -> None:
        name, _ = await self._identify()
        if name != self.id:
            raise StoreError(
                f"{self._gateway}: it was emptied or restored: it is store {name}, was {self.id}"
            )

    async def _list(self) -> Changes:
        """Read all, page by page, as of the revision of the first page."""
        items: list[Item] = []
        page: dict[str, object] = {**self._names.all, "limit": str(PAGE_KEYS)}
        revision = 0
        while True:
            try:
                answer = await self._gateway.ask("kv/range", page, PAGE_S)
            except Refused as refused:
                if not revision or refused.code == DENIED:
                    raise
                return await self._list()  # compacted while we read
            kvs: Sequence[Json] = answer.get("kvs", ())
            with understood():
                revision = revision or int(answer["header"]["revision"])
                items += map(self._names.item, kvs)
            if not answer.get("more"):
                items.sort(key=lambda item: item.revision)
                return Changes(revision, items, is_all=True)
            page |= {"key": self._names.after(kvs[-1]["key"]), "revision": str(revision)}

    async def _watch(self, start: int) -> AsyncIterator[Changes]:
        """Give what changes from a revision on; end where that is compacted. Away, Refused."""
        create = {**self._names.all, "start_revision": str(start), "progress_notify": True, "fragment": True}
        items: list[Item] = []
        async for message in self._gateway.follow("watch", {"create_request": create}):
            if message.get("canceled"):
                if number(message, "compact_revision"):
                    return
                raise Refused(DENIED, str(message.get("cancel_reason", "the watch was cancelled")))
            with understood():
                items += self._names.items(message.get("events", ()))
                revision = int(message["header"]["revision"])
            if message.get("fragment"):
                continue
            if items:
                yield Changes(items[-1].revision, items)
                items = []
            elif not message.get("created"):  # of progress: all up to here was told
                yield Changes(revision, ())

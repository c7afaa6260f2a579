"""Writes on their way to etcd: packed, several transactions at once, each done once or not at all.

1. Writes that have no key in common, but for keys that they only compare, may go at once: in one transaction
   or in several. Others go in the order in which they were asked for.
2. A transaction that fails says what each compared key's revision is: the writes that fail by it have failed,
   the rest go again. So one loser in a pack costs one round, not one for each.
3. An answer that is lost leaves in doubt whether the transaction was done, or is yet to be. So each changes a
   mark, a key of this writer's alone, and wants the mark as the transaction before it left it: of several
   attempts one at most is done, and a repeat reads in the mark that an earlier one was. A repeat that finds
   the mark as it was and another comparison failed changes the mark, too: it voids the attempts before it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from ctrl.store import etcd_wire as wire
from ctrl.store.etcd_http import Away, Gateway
from ctrl.store.etcd_lease import Lease
from ctrl.store.model import MAX_WRITE_KEYS, StoreError, Write

LANES = 4
"""Transactions under way at once."""
PACK_BYTES = 256 << 10
STALE_S = 86400
"""Marks of writers that were killed are removed when they are older than this."""


@dataclass(slots=True, eq=False)
class _Pending:
    write: Write
    done: asyncio.Future[bool]


class Writer:
    """For one loop. `failing_since_s`: since when (time.monotonic) nothing could be written; None: it can."""

    def __init__(self, gateway: Gateway, names: wire.Names, lease: Lease) -> None:
        self._gateway = gateway
        self._names = names
        self._lease = lease
        self._waiting: deque[_Pending] = deque()
        self._putting: set[str] = set()
        self._comparing: Counter[str] = Counter()
        name = secrets.token_hex(4)
        self._lanes = [wire.Mark(names.key(f".writer/{name}/{lane}"), 0) for lane in range(LANES)]
        self._marks = [mark.key for mark in self._lanes]
        self._tasks: set[asyncio.Task[None]] = set()
        self.failing_since_s: float | None = None

    async def commit(self, writes: Sequence[Write]) -> list[bool]:
        loop = asyncio.get_running_loop()
        pending = [_Pending(write, loop.create_future()) for write in writes]
        self._waiting.extend(pending)
        self._pump()
        return await asyncio.gather(*(one.done for one in pending))

    async def clean(self) -> None:
        """Remove the marks that writers left who were killed."""
        answer = await self._gateway.ask("kv/range", self._names.range(".writer/"))
        oldest_s = time.time() - STALE_S
        for mark in answer.get("kvs", ()):
            if wire.written_at_s(mark) < oldest_s:
                await self._gateway.ask("kv/deleterange", {"key": mark["key"]})

    async def close(self) -> None:
        """Give up what is under way, and remove our marks."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for one in self._waiting:
            one.done.cancel()
        removals = [{"request_delete_range": {"key": mark}} for mark in self._marks]
        await self._gateway.ask("kv/txn", {"success": removals})

    def _pump(self) -> None:
        while self._lanes and (pack := self._take()):
            task = asyncio.create_task(self._send(self._lanes.pop(), pack), name="store-write")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _take(self) -> list[_Pending]:
        pack = list[_Pending]()
        n_puts = size = 0
        compared = set[str]()
        while self._waiting:
            write = self._waiting[0].write
            n_puts += len(write.puts)
            compared |= write.when.keys()
            size += sum(len(value) for value in write.puts.values() if value)
            is_full = n_puts > MAX_WRITE_KEYS or len(compared) > MAX_WRITE_KEYS or size > PACK_BYTES
            if (is_full and pack) or self._is_barred(write):
                break
            self._putting |= write.puts.keys()
            self._comparing.update(write.when.keys())
            pack.append(self._waiting.popleft())
        return pack

    def _is_barred(self, write: Write) -> bool:
        putting = self._putting
        if not putting.isdisjoint(write.puts.keys()) or not putting.isdisjoint(write.when.keys()):
            return True
        return any(self._comparing[key] for key in write.puts)

    async def _send(self, mark: wire.Mark, pack: list[_Pending]) -> None:
        rest = pack
        try:
            while rest:
                mark, rest = await self._attempt(mark, rest)
        except Exception as error:  # noqa: BLE001  # whoever wrote is to hear of it
            told = StoreError(f"{self._gateway}: {error}") if isinstance(error, wire.Refused) else error
            for one in rest:
                if not one.done.done():
                    one.done.set_exception(told)
        except asyncio.CancelledError:
            for one in rest:
                one.done.cancel()
            raise
        finally:
            for one in pack:
                self._putting -= one.write.puts.keys()
                self._comparing.subtract(one.write.when.keys())
            self._comparing = +self._comparing
            self._lanes.append(mark)
        self._pump()

    async def _attempt(self, mark: wire.Mark, pack: list[_Pending]) -> tuple[wire.Mark, list[_Pending]]:
        """Do one transaction, however often it is asked for; give the mark after it and who must go again."""
        writes = [one.write for one in pack]
        is_repeat = False
        while True:
            lease = await self._lease.held() if any(write.is_leased for write in writes) else ""
            body = self._names.transaction(mark, writes, lease, int(time.time()), is_repeat=is_repeat)
            try:
                answer = await self._gateway.post("kv/txn", body)
            except Away as away:
                is_repeat = is_repeat or away.is_doubtful
                if self.failing_since_s is None:
                    self.failing_since_s = time.monotonic()
            except wire.Refused as refused:
                if refused.code != wire.NOT_FOUND or not lease:
                    raise
                self._lease.lost(lease)
            else:
                self.failing_since_s = None
                with wire.understood():
                    return self._settle(mark, pack, answer, is_repeat=is_repeat)

    def _settle(
        self, mark: wire.Mark, pack: list[_Pending], answer: wire.Json, *, is_repeat: bool
    ) -> tuple[wire.Mark, list[_Pending]]:
        revision = int(answer["header"]["revision"])
        if answer.get("succeeded"):
            return wire.Mark(mark.key, revision), _settled(pack, is_done=True)
        there, *kvs = wire.found(answer)
        was = wire.number(there, "mod_revision")
        after = wire.Mark(mark.key, revision if is_repeat and was == mark.revision else was)
        if was != mark.revision:
            if is_repeat and wire.is_done(there):
                return after, _settled(pack, is_done=True)
            # an earlier repeat voided it; or it was cleaned away: in doubt for a day, it counts as not done
            return after, _settled(pack, is_done=False) if is_repeat and not was else pack
        keys = wire.compared([one.write for one in pack])
        revisions = {key: wire.number(kv, "mod_revision") for key, kv in zip(keys, kvs, strict=True)}
        lost = [
            one for one in pack if any(revisions[key] != wanted for key, wanted in one.write.when.items())
        ]
        _settled(lost, is_done=False)
        return after, [one for one in pack if one not in lost]


def _settled(pack: list[_Pending], *, is_done: bool) -> list[_Pending]:
    for one in pack:
        if not one.done.done():  # whoever wrote may have gone
            one.done.set_result(is_done)
    return []

"""The store of a single manager: one file, by the standard library's SQLite.

1. All that touches the file runs in one thread of its own, in the order in which it was asked for.
2. What comes by one `commit` is one transaction, synced to the disk before anyone is told of it: a revision
   that was told is never given again, neither after kill -9 nor after the power failed.
3. Leased keys live in memory alone: a manager that starts finds none. Their revisions are kept all the same.
4. One process has the file, by SQLite's own lock: it ends with the process, however that ends.
5. A disk that is full or gone is waited for, as a server would be.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from ctrl.store.feed import Feed
from ctrl.store.model import LEASE_S, Changes, Item, StoreError, Write, check_write

LOG = logging.getLogger("fastpath.store")
T = TypeVar("T")

APPLICATION = 0x66706D31
"""In the file's header (PRAGMA application_id): ours, and not another program's."""
VERSION = 1
RETRY_S = 0.5
SCHEMA = """
create table item (key text primary key, value blob not null, revision integer not null) without rowid;
create table store (id text not null, made real not null, revision integer not null);
"""


class SqliteStore:
    """ctrl.store.model.Store over one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fastpath-store")
        self._leased: dict[str, Item] = {}
        self._feed = Feed()
        self._failing_since_s: float | None = None
        self._revision = 0
        self._is_closed = False
        self.id = ""
        self._made = 0.0

    @classmethod
    async def open(cls, path: Path) -> SqliteStore:
        """Open the file, or make it; StoreError says why not."""
        store = cls(path)
        try:
            await store._run(store._open)
        except BaseException:
            store._thread.shutdown(wait=False)
            raise
        return store

    @property
    def age_s(self) -> float:
        return max(0.0, time.time() - self._made)

    @property
    def is_reachable(self) -> bool:
        since_s = self._failing_since_s
        return since_s is None or time.monotonic() - since_s < LEASE_S

    async def changes(self) -> AsyncIterator[Changes]:
        self._feed.relist()
        while True:
            if await self._feed.is_behind():
                self._feed.begin()
                everything = await self._insist(self._list)
                self._feed.began(everything.revision)
                yield everything
            elif changes := self._feed.take():
                yield changes

    async def commit(self, writes: Sequence[Write]) -> list[bool]:
        for write in writes:
            check_write(write)
        if self._is_closed:
            raise StoreError(f"{self._path}: closed")
        done, items = await self._insist(lambda: self._commit(writes))
        if items:
            self._feed.tell(items)
        return done

    async def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            await self._run(self._base.close)
            self._thread.shutdown()

    async def _run(self, act: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, act)

    async def _insist(self, act: Callable[[], T]) -> T:
        while True:
            try:
                result = await self._run(act)
            except sqlite3.ProgrammingError:  # misused by us
                raise
            except sqlite3.Error as error:
                if self._failing_since_s is None:
                    self._failing_since_s = time.monotonic()
                    LOG.warning("store=%s state=failing why=%s", self._path, error)
                await asyncio.sleep(RETRY_S)
            else:
                if self._failing_since_s is not None:
                    self._failing_since_s = None
                    LOG.warning("store=%s state=works", self._path)
                return result

    # in the thread

    def _open(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(self._path, isolation_level=None, timeout=0, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"{self._path}: cannot be opened: {error}") from None
        try:
            self._claim()
        except sqlite3.Error as error:
            self._base.close()
            raise StoreError(f"{self._path}: {_why_not(error)}") from None
        except StoreError:
            self._base.close()
            raise

    def _claim(self) -> None:
        base = self._base
        # before the first look at the file: a lock that is taken then is kept until the file is closed
        base.execute("pragma locking_mode = exclusive")
        base.execute("pragma synchronous = full")
        base.execute("begin exclusive")
        (whose,) = base.execute("pragma application_id").fetchone()
        (version,) = base.execute("pragma user_version").fetchone()
        (tables,) = base.execute("select count(*) from sqlite_master").fetchone()
        base.execute("commit")
        if (tables or whose) and whose != APPLICATION:
            raise StoreError(f"{self._path}: is another program's SQLite file: name a file of its own")
        if tables and version != VERSION:
            raise StoreError(
                f"{self._path}: was written by another version ({version}, this one has {VERSION})"
            )
        base.execute("pragma journal_mode = wal")
        if not tables:
            self._make()
        elif (found := base.execute("pragma quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(found)
        rows = base.execute("select id, made, revision from store").fetchall()
        if len(rows) != 1:
            raise sqlite3.DatabaseError("it does not say which store it is")
        self.id, self._made, self._revision = rows[0]

    def _make(self) -> None:
        base = self._base
        base.execute("begin exclusive")
        for statement in SCHEMA.strip().splitlines():
            base.execute(statement)
        base.execute("insert into store values (?, ?, 0)", (secrets.token_hex(8), time.time()))
        base.execute(f"pragma application_id = {APPLICATION}")
        base.execute(f"pragma user_version = {VERSION}")
        base.execute("commit")

    def _list(self) -> Changes:
        rows = self._base.execute("select key, value, revision from item order by revision").fetchall()
        items = [Item._make(row) for row in rows]
        if self._leased:
            items += self._leased.values()
            items.sort(key=lambda item: item.revision)
        return Changes(self._revision, items, is_all=True)

    def _commit(self, writes: Sequence[Write]) -> tuple[list[bool], list[Item]]:
        leased, revision = self._leased.copy(), self._revision
        done, changed = [], list[Item]()
        self._base.execute("begin")
        try:
            for write in writes:
                fits = all(self._revision_of(key, leased) == wanted for key, wanted in write.when.items())
                done.append(fits)
                if fits and (items := self._put(write, revision + 1, leased)):
                    revision += 1
                    changed += items
            if changed:
                self._base.execute("update store set revision = ?", (revision,))
            self._base.execute("commit")
        except BaseException:
            if self._base.in_transaction:
                self._base.execute("rollback")
            raise
        self._leased, self._revision = leased, revision
        return done, changed

    def _revision_of(self, key: str, leased: dict[str, Item]) -> int:
        if (item := leased.get(key)) is not None:
            return item.revision
        row = self._base.execute("select revision from item where key = ?", (key,)).fetchone()
        return row[0] if row else 0

    def _put(self, write: Write, revision: int, leased: dict[str, Item]) -> list[Item]:
        items = []
        for key, value in write.puts.items():
            was_leased = leased.pop(key, None) is not None
            if value is None or write.is_leased:
                was_there = self._base.execute("delete from item where key = ?", (key,)).rowcount > 0
            else:
                was_there = True
                self._base.execute("insert or replace into item values (?, ?, ?)", (key, value, revision))
            if value is None and not (was_there or was_leased):
                continue
            items.append(Item(key, value, revision))
            if value is not None and write.is_leased:
                leased[key] = items[-1]
        return items


def _why_not(error: sqlite3.Error) -> str:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
        return "another process has it open: one manager has one file (several managers share an etcd)"
    if (
        isinstance(error, sqlite3.OperationalError)
        and error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CORRUPT
    ):
        return f"cannot be used: {error}"
    return f"is damaged or no SQLite file ({error}): move it away, and the devices tell again what was in it"

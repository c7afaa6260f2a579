"""What a node was told and what it said, on its own disk: so that it forwards before it has a manager again.

1. One SQLite file a node, for it alone: an update is one transaction in WAL mode, so a process killed at any
   moment leaves the state before it or the one after it.
2. A file that is damaged, even by one bit, is set aside, never half believed: each row has a sum, and the one
   row that says whose the file is has the sum of all. Started without it, the node is told everything again.
3. Values are JSON, for people; sqlite3 is imported with the first use.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

from ctrl.rpc.messages import Group
from ctrl.topology.entry import Entry, Key

if TYPE_CHECKING:
    import sqlite3

LOG = logging.getLogger("fastpath.held")
FORMAT = 1
META, ENTRY, GROUP = 0, 1, 2
"""What a row is."""
_ADDRESSES = ("peers", "backup", "accept", "onward")
_NUMBERS = ("vnis", "vsids")
_TABLE = (
    "CREATE TABLE IF NOT EXISTS held"
    " (kind INTEGER, key BLOB, value BLOB, sum INTEGER, PRIMARY KEY (kind, key)) WITHOUT ROWID"
)


@dataclass(frozen=True, slots=True)
class Held:
    """What was on disk. `store` and `revision`: of the instructions, "" and 0 where they are not whole;
    `groups`: second information; `vnis`: what a point serves alone, () for all."""

    store: str = ""
    revision: int = 0
    entries: Mapping[Key, Entry] = field(default_factory=dict)
    groups: Mapping[Key, Group] = field(default_factory=dict)
    vnis: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Update:
    """What differs from what was written, None for what is gone; `is_all`: all there is."""

    store: str
    revision: int
    vnis: tuple[tuple[int, int], ...]
    entries: Mapping[Key, Entry | None]
    groups: Mapping[Key, Group | None]
    is_all: bool = False


class _DamagedError(Exception):
    """The file is not what was written."""


class HeldStore:
    """The file of one node. Plain blocking calls, one at a time, from any thread."""

    def __init__(self, path: Path, node: str, role: str) -> None:
        self._path, self._node, self._role = path, node, role
        self._connection: sqlite3.Connection | None = None
        self._digest = 0

    def load(self) -> Held:
        """Open it and read all. What is damaged is set aside as PATH.damaged, with a warning, and what is of
        another node is forgotten; nothing is held then. OSError: a sentence, where nothing can be kept."""
        try:
            return self._open()
        except _DamagedError as error:
            aside = self._set_aside()
            LOG.warning("held file=%s damaged=%r set_aside=%s", self._path, str(error), aside)
            try:
                return self._open()
            except _DamagedError as again:
                raise OSError(f"{self._path}: nothing can be kept there: {again}") from again

    def write(self, update: Update) -> None:
        """Write it in one transaction. OSError: a sentence; the next update has to be `is_all` then."""
        import sqlite3  # noqa: PLC0415 (see 3.)

        if self._connection is None and update.is_all:
            self.load()
        if self._connection is None:
            raise OSError(f"{self._path}: it is not open; all that the node holds has to be written again")
        try:
            with self._connection as connection:
                connection.execute("BEGIN IMMEDIATE")
                self._write(connection, update)
        except sqlite3.Error as error:
            self.close()
            raise OSError(f"{self._path}: what the node holds cannot be written: {error}") from error

    def close(self) -> None:
        """Give it back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # --- the file -------------------------------------------------------------------------------------------

    def _open(self) -> Held:
        import sqlite3  # noqa: PLC0415

        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"{self._path}: its directory cannot be made: {error.strerror}") from error
        try:
            self._connection = sqlite3.connect(
                self._path, timeout=0.5, isolation_level=None, check_same_thread=False
            )
            for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=NORMAL"):
                self._connection.execute(f"PRAGMA {pragma}").fetchall()
            with self._connection as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(_TABLE)
                return self._read(connection)
        except sqlite3.Error as error:
            self.close()
            if self._is_refused(error):
                raise OSError(f"{self._path}: what the node holds cannot be kept there: {error}") from error
            raise _DamagedError(str(error)) from error
        except _DamagedError:
            self.close()
            raise

    def _is_refused(self, error: sqlite3.Error) -> bool:
        """Say whether the system does not let us, rather than that the file is wrong."""
        import sqlite3  # noqa: PLC0415

        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_READONLY:  # also where the file claims a version that is unknown
            return not (os.access(self._path, os.W_OK) and os.access(self._path.parent, os.W_OK))
        return code in {
            sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_BUSY,
            sqlite3.SQLITE_LOCKED,
            sqlite3.SQLITE_PERM,
            sqlite3.SQLITE_FULL,
        }

    def _set_aside(self) -> Path:
        aside = self._path.with_name(self._path.name + ".damaged")
        for end in ("-wal", "-shm", ""):  # the log first: never would it be played onto a new file
            source, target = (Path(f"{path}{end}") for path in (self._path, aside))
            try:
                source.replace(target)
            except FileNotFoundError:
                target.unlink(missing_ok=True)
        return aside

    # --- rows -----------------------------------------------------------------------------------------------

    def _read(self, connection: sqlite3.Connection) -> Held:
        try:
            meta, entries, groups = self._rows(connection)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise _DamagedError(f"a row that is not ours: {error!r}") from error
        if meta is None:
            return Held()
        if (meta["node"], meta["role"]) != (self._node, self._role):
            whose = f"{meta['role']} {meta['node']}"
            LOG.warning("held file=%s of=%r is_not=%r forgotten", self._path, whose, self._node)
            connection.execute("DELETE FROM held")
            self._digest = 0
            return Held()
        vnis = tuple([(first, last) for first, last in meta["vnis"]])
        return Held(meta["store"], meta["revision"], entries, groups, vnis)

    def _rows(
        self, connection: sqlite3.Connection
    ) -> tuple[dict[str, Any] | None, dict[Key, Entry], dict[Key, Group]]:
        meta: dict[str, Any] | None = None
        entries: dict[Key, Entry] = {}
        groups: dict[Key, Group] = {}
        digest = 0
        for kind, key, value, total in connection.execute("SELECT kind, key, value, sum FROM held"):
            if total != _sum(kind, key, value):
                raise ValueError(f"the sum of key {key.hex()} is not {total}")
            if kind == META:
                meta = json.loads(value)
                continue
            digest ^= total
            if kind == ENTRY:
                entries[key] = _entry(key, json.loads(value))
            else:
                said = json.loads(value)
                groups[key] = Group(key, tuple(said.get("vnis", ())), tuple(said.get("vsids", ())))
        if meta is None and not entries and not groups:
            self._digest = 0
            return None, {}, {}
        if meta is None or (meta["format"], meta["digest"]) != (FORMAT, digest):
            raise ValueError("rows are missing, or of another format")
        self._digest = digest
        return meta, entries, groups

    def _write(self, connection: sqlite3.Connection, update: Update) -> None:
        digest = self._digest
        if update.is_all:
            connection.execute("DELETE FROM held")
            digest = 0
        for kind, values in ((ENTRY, update.entries), (GROUP, update.groups)):
            if not update.is_all:
                digest ^= _xor(
                    row[0]
                    for key in values
                    for row in connection.execute(
                        "SELECT sum FROM held WHERE kind = ? AND key = ?", (kind, key)
                    )
                )
            gone = [(kind, key) for key, value in values.items() if value is None]
            connection.executemany("DELETE FROM held WHERE kind = ? AND key = ?", gone)
            rows = [_row(kind, key, _plain(value)) for key, value in values.items() if value is not None]
            connection.executemany("INSERT OR REPLACE INTO held VALUES (?, ?, ?, ?)", rows)
            digest ^= _xor(row[3] for row in rows)
        meta = {
            "format": FORMAT,
            "node": self._node,
            "role": self._role,
            "store": update.store,
            "revision": update.revision,
            "vnis": update.vnis,
            "digest": digest,
        }
        connection.execute("INSERT OR REPLACE INTO held VALUES (?, ?, ?, ?)", _row(META, b"", meta))
        self._digest = digest


def _row(kind: int, key: bytes, said: object) -> tuple[int, bytes, bytes, int]:
    value = json.dumps(said, separators=(",", ":")).encode()
    return kind, key, value, _sum(kind, key, value)


def _sum(kind: int, key: bytes, value: bytes) -> int:
    return crc32(value, crc32(key, crc32(bytes((kind, len(key))))))


def _xor(sums: Iterable[int]) -> int:
    total = 0
    for one in sums:
        total ^= one
    return total


def _plain(said: Entry | Group) -> dict[str, object]:
    """As JSON has it: addresses in hex, and only what is not empty."""
    plain: dict[str, object] = {}
    if isinstance(said, Entry):
        plain["via"] = said.via
        plain |= {name: [one.hex() for one in getattr(said, name)] for name in _ADDRESSES}
    plain |= {name: getattr(said, name) for name in _NUMBERS}
    return {name: value for name, value in plain.items() if value}


def _entry(key: Key, said: Mapping[str, Any]) -> Entry:
    peers, backup, accept, onward = (tuple(map(_address, said.get(name, ()))) for name in _ADDRESSES)
    vnis, vsids = (tuple(said.get(name, ())) for name in _NUMBERS)
    return Entry(key, said["via"], peers, backup, accept, onward, vnis, vsids)


@lru_cache(16384)
def _address(text: str) -> bytes:
    """One object for each, however many groups it is in."""
    return bytes.fromhex(text)

"""The store of a single manager: what it keeps, and what it says of files that are not its own."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import pytest_asyncio

from ctrl.store import feed
from ctrl.store.model import StoreError, Write
from ctrl.store.opening import open_store
from ctrl.store.sqlite import SqliteStore
from tests.house.tree import ROOT
from tests.unit.store_laws import *  # noqa: F403
from tests.unit.store_laws import follow


@pytest.fixture
def several() -> bool:
    return False


@pytest_asyncio.fixture
async def opened(tmp_path):
    stores = []

    async def open_one():
        stores.append(await open_store(f"sqlite://{tmp_path}/new/manager.db"))
        return stores[-1]

    yield open_one
    for store in stores:
        await store.close()


def damage(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\x5a" * 3000)


@pytest.mark.asyncio
async def test_a_second_process_is_refused_in_a_sentence(tmp_path):
    store = await SqliteStore.open(tmp_path / "x.db")
    opening = (
        "import asyncio; from ctrl.store.opening import open_store\n"
        f"asyncio.run(open_store('sqlite://{tmp_path}/x.db'))"
    )
    second = await asyncio.create_subprocess_exec(
        sys.executable, "-c", opening, cwd=ROOT, stderr=subprocess.PIPE
    )
    _, said = await second.communicate()
    assert second.returncode == 1
    assert b"x.db: another process has it open: one manager has one file" in said
    with pytest.raises(StoreError, match="another process"):
        await SqliteStore.open(tmp_path / "x.db")
    await store.close()
    await (await SqliteStore.open(tmp_path / "x.db")).close()


WRITER = """
import asyncio, sys
from ctrl.store.model import Write
from ctrl.store.opening import open_store
async def main():
    store = await open_store(sys.argv[1])
    reader = store.changes()
    await anext(reader)
    for number in range(10**6):
        leased = Write({"live/a": b"%d" % number}, is_leased=True)
        kept = Write({f"node/{number}": b"x", "last": b"%d" % number})
        done = asyncio.create_task(store.commit([kept, leased]))
        changes = await anext(reader)
        print(number, changes.revision, flush=True)
        await done
asyncio.run(main())
"""


@pytest.mark.asyncio
async def test_what_was_told_is_there_after_kill_9_and_revisions_go_on(tmp_path):
    url = f"sqlite://{tmp_path}/x.db"
    writer = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, url, cwd=ROOT, stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    line = b""
    for _ in range(50):
        line = await writer.stdout.readline()
    writer.send_signal(signal.SIGKILL)
    rest = await writer.stdout.read()  # its last line may be half of one
    await writer.wait()
    *_, line = (line + rest[: rest.rfind(b"\n") + 1]).splitlines()
    number, revision = map(int, line.split())
    store = await open_store(url)
    reader = await follow(store)
    last = int(reader.items["last"].value or b"")
    assert last >= number
    assert sum(key.startswith("node/") for key in reader.items) == last + 1
    assert "live/a" not in reader.items
    assert reader.revision >= revision  # that of a leased key, too
    await store.commit([Write({"node/new": b"x"})])
    await reader.step()
    assert reader.items["node/new"].revision > revision
    await store.close()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.write_bytes(b"no base at all" * 500), "is damaged or no SQLite file"),
        (
            lambda path: sqlite3.connect(path).execute("create table other (x)"),
            "another program's SQLite file",
        ),
        (lambda path: path.mkdir(), "cannot be opened"),
    ],
)
async def test_a_foreign_file_is_refused_with_its_name_and_left_as_it_is(tmp_path, make, says):
    path = tmp_path / "x.db"
    make(path)
    before = path.is_file() and path.read_bytes()
    with pytest.raises(StoreError, match=rf"x\.db: .*{says}"):
        await SqliteStore.open(path)
    assert (path.is_file() and path.read_bytes()) == before


@pytest.mark.asyncio
@pytest.mark.parametrize("at", [60, 4096, 3 * 4096])
async def test_a_damaged_file_is_refused_with_what_to_do(tmp_path, at):
    path = tmp_path / "x.db"
    store = await SqliteStore.open(path)
    await store.commit([Write({f"node/{number}": b"x" * 100}) for number in range(1000)])
    await store.close()
    damage(path, at)
    with pytest.raises(StoreError, match=r"x\.db: (is damaged|was written|is another)"):
        await SqliteStore.open(path)


@pytest.mark.asyncio
async def test_a_file_of_another_version_is_refused(tmp_path):
    path = tmp_path / "x.db"
    await (await SqliteStore.open(path)).close()
    base = sqlite3.connect(path)
    base.execute("pragma user_version = 9")
    base.close()
    with pytest.raises(StoreError, match=r"another version \(9, this one has 1\)"):
        await SqliteStore.open(path)


@pytest.mark.asyncio
async def test_a_store_that_was_emptied_is_another(tmp_path):
    path = tmp_path / "x.db"
    first = await SqliteStore.open(path)
    await first.close()
    path.unlink()
    second = await SqliteStore.open(path)
    assert second.id != first.id
    await second.close()


@pytest.mark.asyncio
async def test_a_full_disk_is_waited_for_and_nothing_is_told_of_what_was_not_kept(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("ctrl.store.sqlite.RETRY_S", 0.001)
    monkeypatch.setattr("ctrl.store.sqlite.LEASE_S", -1)
    store = await SqliteStore.open(tmp_path / "x.db")
    reader = await follow(store)
    await store._run(lambda: store._base.execute("pragma max_page_count = 4"))
    big = Write({"live/a": b"1"}, is_leased=True), Write({"node/a": b"x" * 100_000})
    writing = asyncio.create_task(store.commit(big))
    while not caplog.records:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert not store.is_reachable
    await store._run(lambda: store._base.execute("pragma max_page_count = 10000"))
    assert await writing == [True, True]
    assert store.is_reachable
    await reader.step()
    assert [item.revision for item in reader.log] == [1, 2]
    assert [record.message.split("state=")[1][:7] for record in caplog.records] == ["failing", "works"]
    await store.close()


@pytest.mark.asyncio
async def test_a_batch_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    store = await SqliteStore.open(tmp_path / "x.db")
    reader = await follow(store)
    leased = Write({"live/a": b"1"}, is_leased=True)
    misused = Write({"node/b": Sized()})  # type: ignore[dict-item]
    with pytest.raises(sqlite3.ProgrammingError):
        await store.commit([leased, Write({"node/a": b"1"}), misused])
    assert await store.commit([Write({"node/c": b"1"}, when={"node/a": 0, "live/a": 0})]) == [True]
    await reader.step()
    assert [item.key for item in reader.log] == ["node/c"]
    await store.close()


class Sized:
    def __len__(self):
        return 1


@pytest.mark.asyncio
async def test_a_reader_that_lags_gets_all_there_is_instead(tmp_path, monkeypatch):
    monkeypatch.setattr(feed, "MAX_WAITING", 10)
    store = await SqliteStore.open(tmp_path / "x.db")
    reader = await follow(store)
    for number in range(12):
        await store.commit([Write({"node/a": b"%d" % number})])
    await reader.step()
    assert (reader.lists, reader.log, reader.values()) == (2, [], {"node/a": b"11"})
    await store.commit([Write({"node/a": None})])
    await reader.step()
    assert [item.value for item in reader.log] == [None]
    await store.close()

"""The store over one real etcd: the laws of every store, and what only a server can do to it."""

import asyncio
import itertools
import signal
import subprocess
import sys

import pytest
import pytest_asyncio

from ctrl.store import etcd
from ctrl.store.etcd import EtcdStore
from ctrl.store.model import StoreError, Write
from ctrl.store.opening import EtcdUrl, open_store
from tests.house.tree import ROOT
from tests.system.etcds import Relay, cluster, needs_etcd
from tests.unit.store_laws import *  # noqa: F403
from tests.unit.store_laws import follow

pytestmark = needs_etcd
PREFIXES = itertools.count()


@pytest.fixture(scope="module")
def server():
    with cluster() as one:
        one.start()
        yield one


@pytest.fixture
def place(server):
    """A store of its own for each test: another prefix, next to a neighbour whose keys begin alike."""
    place = EtcdUrl((("127.0.0.1", server.clients[0]),), f"t{next(PREFIXES)}x", is_tls=False)
    server.ctl("put", f"{place.prefix}0/node/neighbour", "x")
    return place


@pytest.fixture
def several() -> bool:
    return True


@pytest_asyncio.fixture
async def opened(place):
    stores = []

    async def open_one(lease_s=2):
        stores.append(await EtcdStore.open(place, lease_s=lease_s))
        return stores[-1]

    yield open_one
    for store in stores:
        await store.close()


def through(place: EtcdUrl, *relays: Relay) -> EtcdUrl:
    return EtcdUrl(tuple(("127.0.0.1", relay.port) for relay in relays), place.prefix, is_tls=False)


@pytest.mark.asyncio
async def test_many_keys_are_read_page_by_page_as_of_one_revision(opened, monkeypatch):
    monkeypatch.setattr(etcd, "PAGE_KEYS", 7)
    store = await opened()
    keys = [f"groups/n{number}/00" for number in range(50)]
    await store.commit([Write({key: b"x" * 20_000}) for key in keys])
    assert sorted((await follow(await opened())).items) == sorted(keys)


@pytest.mark.asyncio
async def test_a_page_of_more_than_4_mb_is_read_at_once(opened):
    store = await opened()
    await store.commit([Write({f"groups/n{number}/00": b"x" * 1_000_000}) for number in range(6)])
    assert len((await follow(store)).items) == 6


@pytest.mark.asyncio
async def test_what_was_compacted_during_a_watch_is_read_anew(server, place, opened):
    writer = await opened()
    async with Relay(server.clients[0]) as relay:
        watcher = await EtcdStore.open(through(place, relay), lease_s=2)
        reader = await follow(watcher)
        await writer.commit([Write({"node/a": b"1"}), Write({"node/b": b"1"})])
        await reader.until(lambda: len(reader.items) == 2)
        relay.questions = "hold"  # the watch that comes after this one
        relay.only = b"create_request"
        watcher._gateway._drop_streams(None)
        stepping = asyncio.create_task(reader.step())
        await writer.commit([Write({"node/a": None}), Write({"node/b": b"2"})])
        other = await follow(writer)
        await writer.commit([Write({"node/c": b"3"})])
        await other.step()
        server.ctl("compaction", str(other.revision))
        relay.release()
        changes = await stepping
        while not changes.is_all:
            changes = await reader.step()
        assert reader.lists == 2
        assert reader.values() == {"node/b": b"2", "node/c": b"3"}
        await watcher.close()


@pytest.mark.asyncio
async def test_a_write_whose_answer_is_lost_is_done_once_and_told_as_done(server, place, opened):
    async with Relay(server.clients[0]) as relay:
        store = await EtcdStore.open(through(place, relay))
        reader = await follow(await opened())
        relay.only = b"kv/txn"
        losing = asyncio.create_task(relay.lose(3))
        await asyncio.sleep(0)
        writes = [Write({f"node/{number}": b"x"}, when={f"node/{number}": 0}) for number in range(5)]
        alone = asyncio.create_task(store.commit([Write({"node/alone": b"x"})]))  # each repeat could do it
        writing = asyncio.create_task(store.commit(writes))
        await reader.until(lambda: len(reader.items) == 6)
        await losing
        assert await alone + await writing == [True] * 6
        assert await store.commit([Write({"node/last": b""})]) == [True]
        await reader.until(lambda: "node/last" in reader.items)
        assert len(reader.log) == 7
        await store.close()


@pytest.mark.asyncio
async def test_a_write_that_failed_in_doubt_is_told_as_failed(server, place, opened):
    async with Relay(server.clients[0]) as relay:
        store = await EtcdStore.open(through(place, relay))
        other = await opened()
        reader = await follow(other)
        await other.commit([Write({"node/a": b"1"})])
        relay.only = b"kv/txn"
        losing = asyncio.create_task(relay.lose(4))
        await asyncio.sleep(0)
        writing = asyncio.create_task(
            store.commit([Write({"node/a": b"2"}, when={"node/a": 0}), Write({"node/b": b"2"})])
        )
        await losing
        assert await writing == [False, True]
        await reader.until(lambda: "node/b" in reader.items)
        assert [item.key for item in reader.log] == ["node/a", "node/b"]
        await store.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("is_lost_meanwhile", [False, True])
async def test_a_write_that_arrives_late_is_not_done_after_its_repeat(
    server, place, opened, is_lost_meanwhile
):
    other = await opened()
    reader = await follow(other)
    async with Relay(server.clients[0]) as slow, Relay(server.clients[0]) as quick:
        store = await EtcdStore.open(through(place, slow, quick))
        if is_lost_meanwhile:
            await other.commit([Write({"mode/ef": b"0"})])
        slow.only, slow.questions = b"kv/txn", "hold"
        # held, repeated by the other way, and answered there
        late = Write({"mode/ef": b"late"}, when={"mode/ef": 0})
        assert await store.commit([late]) == [not is_lost_meanwhile]
        assert slow.n_held
        await other.commit([Write({"mode/ef": None})])  # now its comparison would hold
        slow.release()
        await slow.arrived.wait()
        assert await store.commit([Write({"node/last": b""})]) == [True]
        await reader.until(lambda: "node/last" in reader.items)
        assert [item.value for item in reader.log] == [b"0" if is_lost_meanwhile else b"late", None, b""]
        await store.close()


@pytest.mark.asyncio
async def test_leased_keys_of_who_was_killed_go_and_others_stay(place, opened):
    program = (
        "import asyncio, sys; from ctrl.store.etcd import EtcdStore; from ctrl.store.model import Write\n"
        "from ctrl.store.opening import parse_store\n"
        "async def main():\n"
        "    store = await EtcdStore.open(parse_store(sys.argv[1]), lease_s=2)\n"
        "    await store.commit([Write({'live/a': b'1'}, is_leased=True), Write({'node/a': b'1'})])\n"
        "    print('done', flush=True); await asyncio.sleep(60)\n"
        "asyncio.run(main())"
    )
    writer = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(place), cwd=ROOT, stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    assert await writer.stdout.readline() == b"done\n"
    reader = await follow(await opened())
    assert set(reader.items) == {"live/a", "node/a"}
    writer.send_signal(signal.SIGKILL)
    await writer.wait()
    await reader.until(lambda: "live/a" not in reader.items)
    assert set(reader.items) == {"node/a"}


@pytest.mark.asyncio
async def test_a_lost_lease_is_seen_by_changes_and_followed_by_another(opened):
    store = await opened()
    reader = await follow(store)
    await store.commit([Write({"live/a": b"1"}, is_leased=True), Write({"node/a": b"1"})])
    await reader.until(lambda: len(reader.items) == 2)
    await store._gateway.ask("lease/revoke", {"ID": store._lease._id})
    await reader.until(lambda: "live/a" not in reader.items)
    assert await store.commit([Write({"live/a": b"2"}, is_leased=True)]) == [True]
    await reader.until(lambda: "live/a" in reader.items)
    await asyncio.sleep(2.5)  # more than a lease's life
    await store.commit([Write({"node/b": b"1"})])
    await reader.until(lambda: "node/b" in reader.items)
    assert reader.items["live/a"].value == b"2"
    assert store.is_reachable
    lost = store._lease._id
    await store._gateway.ask("lease/revoke", {"ID": lost})
    async with asyncio.timeout(5):  # and nobody writes
        while store._lease._id in {"", lost}:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.mark.asyncio
async def test_marks_of_killed_writers_are_cleaned_away_when_they_are_old(server, place, opened, monkeypatch):
    store = await opened()
    await store.commit([Write({"node/a": b"1"})])
    old, new = (f"{place.prefix}/.writer/gone/{number}" for number in range(2))
    server.ctl("put", old, "done 1000")
    server.ctl("put", new, "done 99999999999")
    second = await opened()
    marks = server.ctl("get", "--prefix", "--keys-only", f"{place.prefix}/.writer/").stdout.split()
    assert old not in marks
    assert new in marks
    assert len(marks) == 2  # and that of the first
    # a writer whose own mark went writes on
    server.ctl("del", "--prefix", f"{place.prefix}/.writer/")
    writes = [Write({f"node/{number}": b"2"}, when={f"node/{number}": 0}) for number in range(20)]
    assert all(await store.commit(writes))
    await store.close()
    await second.close()
    assert not server.ctl("get", "--prefix", "--keys-only", f"{place.prefix}/.writer/").stdout.split()


@pytest.mark.asyncio
async def test_a_prefix_that_is_anothers_is_refused(server, place):
    server.ctl("put", f"{place.prefix}/.store", "something else")
    with pytest.raises(StoreError, match=r"\.store is none of ours"):
        await EtcdStore.open(place)


@pytest.mark.asyncio
async def test_a_cluster_that_cannot_be_reached_is_named_with_what_is_wrong(monkeypatch):
    monkeypatch.setattr(etcd, "OPEN_S", 0.5)
    with pytest.raises(
        StoreError, match=r"etcd://127\.0\.0\.1:1/fastpath: not reached in 0\.5 s: .*127\.0\.0\.1:1"
    ):
        await open_store("etcd://me:hidden@127.0.0.1:1")


def test_a_server_that_speaks_no_etcd_is_named_as_such(tmp_path, monkeypatch):
    monkeypatch.setattr(etcd, "OPEN_S", 0.5)

    async def open_it():
        async def serve(reader, writer):
            await reader.read(100)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\n<p>hi</p>")
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            await open_store(f"etcd://127.0.0.1:{server.sockets[0].getsockname()[1]}")

    with pytest.raises(StoreError, match=r"not reached in 0\.5 s"):
        asyncio.run(open_it())

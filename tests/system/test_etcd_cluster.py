"""The store over three real etcd members, of which some are killed, stopped, emptied or away for a while."""

import asyncio
import itertools
import json
import signal
import time

import pytest

from ctrl.store.etcd import EtcdStore
from ctrl.store.model import Store, StoreError, Write
from tests.system.etcds import Cluster, cluster, needs_etcd
from tests.system.lab import wait_for
from tests.unit.store_laws import Reader, follow

pytestmark = needs_etcd


@pytest.fixture(scope="module")
def running():
    with cluster(3) as three:
        three.start()
        yield three


@pytest.fixture
def three(running):
    """All members up, whatever the test before did, and nothing in them."""
    running.kill(by=signal.SIGCONT)
    running.start()
    is_emptied = lambda: running.ctl("del", "--prefix", "fabric/", check=False).returncode == 0  # noqa: E731
    wait_for(is_emptied, "a leader, and nothing in it")
    return running


async def write_numbers(store: Store, name: str, count: int, done_at: list[float]) -> None:
    """Count in a key, each step comparing with the one before: a step lost or doubled ends it."""
    reader = await follow(store)
    revision = 0
    for number in range(count):
        counter = f"count/{name}"
        (done,) = await store.commit([Write({counter: b"%d" % number}, when={counter: revision})])
        assert done, f"{counter} at {number}"
        done_at.append(time.monotonic())
        while counter not in reader.items or reader.items[counter].revision <= revision:
            await reader.step()
        revision = reader.items[counter].revision


async def write_through(three: Cluster, happens, count: int) -> tuple[float, Reader]:
    """Two writers and a watcher, of which each loses no number and sees none twice while something happens.
    Give the longest time (s) in which nothing was written."""
    stores = [await three.open(lease_s=10) for _ in range(3)]
    watcher = await follow(stores[2])
    done_at: list[float] = [time.monotonic()]
    writers = [asyncio.create_task(write_numbers(stores[i], f"w{i}", count, done_at)) for i in range(2)]
    while len(done_at) < count // 2:
        await watcher.step()
    await asyncio.to_thread(happens)
    await watcher.until(lambda: sum(item.value == b"%d" % (count - 1) for item in watcher.log) == 2)
    await asyncio.gather(*writers)
    for name in ("w0", "w1"):
        seen = [int(item.value or b"") for item in watcher.log if item.key == f"count/{name}"]
        assert seen == list(range(count))
    assert watcher.lists == 1
    for store in stores:
        await store.close()
    done_at.sort()
    return max(after - before for before, after in itertools.pairwise(done_at)), watcher


@pytest.mark.asyncio
async def test_a_killed_leader_loses_no_write_and_doubles_none(three: Cluster, record_property):
    gap_s, _ = await write_through(three, lambda: three.kill(three.leader()), 500)
    record_property("gap_s", round(gap_s, 2))
    print(f"leader killed: nothing written for {gap_s:.2f} s")


@pytest.mark.asyncio
async def test_a_member_that_hangs_is_left_by_writers_and_watchers(three: Cluster, record_property):
    gap_s, _ = await write_through(three, lambda: three.kill(0, by=signal.SIGSTOP), 200)
    record_property("gap_s", round(gap_s, 2))
    print(f"member stopped: nothing written for {gap_s:.2f} s")


@pytest.mark.asyncio
async def test_a_watcher_that_only_reads_leaves_a_member_without_a_leader(three: Cluster):
    watcher, writer = await three.open(), await three.open()
    reader = await follow(watcher)
    leader = three.leader()
    others = [member for member in range(3) if member != 0]
    # member 0 stays alone: its watch would wait for good
    three.kill(*others, by=signal.SIGSTOP)
    writing = asyncio.create_task(writer.commit([Write({"node/a": b"1"})]))
    await asyncio.sleep(1)
    assert not writing.done(), f"written without a majority (leader {leader})"
    three.kill(*others, by=signal.SIGCONT)
    three.kill(0, by=signal.SIGSTOP)
    assert await writing == [True]
    await reader.until(lambda: "node/a" in reader.items)
    assert [item.value for item in reader.log] == [b"1"]
    three.kill(0, by=signal.SIGCONT)
    await watcher.close()
    await writer.close()


@pytest.mark.asyncio
async def test_all_away_and_back_is_waited_for_and_said_meanwhile(three: Cluster):
    store = await three.open(lease_s=2)
    reader = await follow(store)
    await store.commit([Write({"live/a": b"1"}, is_leased=True), Write({"node/a": b"1"})])
    await reader.until(lambda: len(reader.items) == 2)
    three.kill()
    await asyncio.sleep(2.2)
    assert not store.is_reachable
    writing = asyncio.create_task(store.commit([Write({"node/b": b"1"}, when={"node/b": 0})]))
    stepping = asyncio.create_task(reader.until(lambda: {"node/b"} <= reader.items.keys()))
    await asyncio.sleep(0.2)
    assert not writing.done()
    await asyncio.to_thread(three.start)
    assert await writing == [True]
    await stepping
    assert await store.commit([Write({"live/b": b"1"}, is_leased=True)]) == [True]
    await reader.until(lambda: "live/b" in reader.items)
    async with asyncio.timeout(5):
        while not store.is_reachable:  # from its next beat on  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert [item.key for item in reader.log if item.key.startswith("node/")] == ["node/a", "node/b"]
    await store.close()


@pytest.mark.asyncio
async def test_a_cluster_that_was_emptied_is_another_store_and_said_to_be(three: Cluster):
    store = await three.open(lease_s=2)
    reader = await follow(store)
    await store.commit([Write({"node/a": b"1"})])
    await reader.step()
    stepping = asyncio.create_task(reader.step())
    three.wipe()
    await asyncio.to_thread(three.start)
    with pytest.raises(StoreError, match="emptied or restored"):
        await stepping
    with pytest.raises(StoreError, match="emptied or restored"):
        await store.commit([Write({"node/a": b"2"})])
    again = await three.open()
    assert again.id != store.id
    assert (await follow(again)).items == {}
    await again.close()
    await store.close()


@pytest.mark.asyncio
async def test_an_endpoint_of_another_cluster_is_never_read(three: Cluster):
    with cluster() as foreign:
        foreign.start()
        clients = list(three.clients)
        three.clients.insert(1, foreign.clients[0])
        try:
            store = await three.open()
        finally:
            three.clients[:] = clients
        assert isinstance(store, EtcdStore)
        reader = await follow(store)
        three.kill(0)
        assert await store.commit([Write({"node/a": b"1"})]) == [True]
        await reader.step()
        assert reader.items.keys() == {"node/a"}
        assert json.loads(foreign.ctl("get", "--prefix", "fabric/", "-w", "json").stdout).get("count", 0) == 0
        await store.close()

"""The store that other tests use keeps the laws of the real ones."""

import asyncio

import pytest

from ctrl.store.feed import Feed
from ctrl.store.model import Changes, Item, StoreError, Write
from tests.unit.store_laws import *  # noqa: F403
from tests.unit.store_laws import follow
from tests.unit.store_memory import Shared


@pytest.fixture
def several() -> bool:
    return True


@pytest.fixture
def opened():
    shared = Shared()

    async def open_one():
        return shared.open()

    return open_one


def test_what_was_read_with_all_there_was_is_not_told_again():
    feed = Feed()
    feed.begin()
    feed.tell([Item("node/a", b"1", 1), Item("node/b", b"1", 2)])
    feed.began(1)
    assert feed.take() == Changes(2, [Item("node/b", b"1", 2)])
    feed.relist()
    feed.begin()
    feed.tell([Item("node/c", b"1", 3)])
    feed.began(3)
    assert feed.take() is None


@pytest.mark.asyncio
async def test_a_commit_waits_while_the_store_is_away():
    shared = Shared()
    store = shared.open()
    shared.is_away = True
    assert not store.is_reachable
    writing = asyncio.create_task(store.commit([Write({"node/a": b"1"})]))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not writing.done()
    shared.is_away = False
    assert await writing == [True]


@pytest.mark.asyncio
async def test_after_a_compaction_all_is_told_once_more():
    shared = Shared()
    store = shared.open()
    reader = await follow(store)
    await store.commit([Write({"node/a": b"1"}), Write({"node/b": b"1"})])
    await store.commit([Write({"node/a": None})])
    shared.compact()
    await reader.step()
    assert (reader.lists, reader.log, list(reader.items)) == (2, [], ["node/b"])


@pytest.mark.asyncio
async def test_who_is_killed_loses_its_leased_keys_and_no_others():
    shared = Shared()
    one, two = shared.open(), shared.open()
    reader = await follow(two)
    await one.commit([Write({"live/a": b"1"}, is_leased=True), Write({"node/a": b"1"})])
    await two.commit([Write({"live/b": b"2"}, is_leased=True)])
    one.lose_lease()
    await reader.until(lambda: reader.revision == shared.revision)
    assert list(reader.items) == ["node/a", "live/b"]
    await one.close()
    with pytest.raises(StoreError):
        await one.commit([Write({"node/a": b"2"})])

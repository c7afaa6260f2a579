"""What every store keeps, as tests that a module takes by name with its own fixture `opened`.

`opened()` opens one more client of the same store; `several` says whether there may be more than one.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from ctrl.store.model import MAX_WRITE_BYTES, MAX_WRITE_KEYS, Changes, Item, Store, Write

Opened = Callable[[], Awaitable[Store]]
WAIT_S = 20


class Reader:
    """Follows a store's changes, as a manager does, and holds them against the model."""

    def __init__(self, store: Store) -> None:
        self._changes: AsyncIterator[Changes] = store.changes()
        self.revision = 0
        self.items: dict[str, Item] = {}
        self.log: list[Item] = []
        self.lists = 0

    async def step(self) -> Changes:
        changes = await asyncio.wait_for(anext(self._changes), WAIT_S)
        revisions = [item.revision for item in changes.items]
        assert revisions == sorted(revisions)
        assert not revisions or revisions[-1] <= changes.revision
        assert changes.revision >= self.revision
        if changes.is_all:
            self.items = {}
            self.lists += 1
        else:
            assert all(self.revision < revision for revision in revisions)
            self.log += changes.items
        self.revision = changes.revision
        for item in changes.items:
            if item.value is None:
                self.items.pop(item.key, None)
            else:
                self.items[item.key] = item
        return changes

    async def until(self, is_there: Callable[[], bool]) -> None:
        while not is_there():
            await self.step()

    def values(self) -> dict[str, bytes | None]:
        return {key: item.value for key, item in self.items.items()}


async def follow(store: Store) -> Reader:
    reader = Reader(store)
    assert (await reader.step()).is_all
    return reader


@pytest.mark.asyncio
async def test_a_reader_is_told_all_there_is_at_first(opened: Opened):
    store = await opened()
    assert await store.commit([Write({"node/a": b"1"}), Write({"node/b": b"2"}), Write({"node/a": b"3"})])
    reader = await follow(store)
    assert reader.values() == {"node/a": b"3", "node/b": b"2"}
    assert reader.revision >= reader.items["node/a"].revision > reader.items["node/b"].revision > 0


@pytest.mark.asyncio
async def test_an_empty_store_says_so_at_once(opened: Opened):
    reader = Reader(await opened())
    first = await reader.step()
    assert first.is_all
    assert not first.items


@pytest.mark.asyncio
async def test_own_writes_come_by_changes_in_the_order_of_revisions(opened: Opened):
    store = await opened()
    reader = await follow(store)
    assert await store.commit([Write({"node/a": b"1"}), Write({"node/a": b"2"})]) == [True, True]
    assert await store.commit([Write({"node/a": None, "node/b": b"3"})]) == [True]
    await reader.until(lambda: "node/b" in reader.items)
    assert [item.value for item in reader.log if item.key == "node/a"] == [b"1", b"2", None]
    assert reader.log[-1].revision == reader.log[-2].revision  # of one write
    assert reader.values() == {"node/b": b"3"}


@pytest.mark.asyncio
async def test_a_write_whose_comparison_fails_changes_nothing(opened: Opened):
    store = await opened()
    reader = await follow(store)
    assert await store.commit([Write({"address/0a000001": b"a"}, when={"address/0a000001": 0})]) == [True]
    await reader.step()
    revision = reader.items["address/0a000001"].revision
    wrong = Write({"address/0a000001": b"b", "node/b": b"x"}, when={"address/0a000001": 0})
    right = Write({"node/a": b"y"}, when={"address/0a000001": revision})
    also_wrong = Write({"node/c": b"z"}, when={"address/0a000001": revision, "live/c": 7})
    assert await store.commit([wrong, right, also_wrong]) == [False, True, False]
    await reader.until(lambda: "node/a" in reader.items)
    assert reader.values() == {"address/0a000001": b"a", "node/a": b"y"}


@pytest.mark.asyncio
async def test_a_key_that_was_removed_and_made_again_is_another(opened: Opened):
    store = await opened()
    reader = await follow(store)
    for value in (b"1", None, b"1"):
        assert await store.commit([Write({"mode/ef": value})]) == [True]
    await reader.until(lambda: len(reader.log) == 3)
    first, _, last = (item.revision for item in reader.log)
    again = [
        Write({"mode/ef": b"2"}, when={"mode/ef": first}),
        Write({"mode/ef": b"3"}, when={"mode/ef": last}),
    ]
    assert await store.commit(again) == [False, True]


@pytest.mark.asyncio
async def test_removing_what_is_not_there_is_done_and_no_change(opened: Opened):
    store = await opened()
    reader = await follow(store)
    before = reader.revision
    assert await store.commit([Write({"node/none": None}), Write({})]) == [True, True]
    assert await store.commit([Write({"node/a": b"1"})]) == [True]
    await reader.step()
    assert [item.key for item in reader.log] == ["node/a"]
    assert reader.revision > before


@pytest.mark.asyncio
async def test_writes_of_one_commit_that_build_on_each_other_keep_their_order(opened: Opened):
    store = await opened()
    chain = [Write({"node/a": b"%d" % number}) for number in range(20)]
    reader = await follow(store)
    assert await store.commit([*chain, Write({"node/b": b"x"}, when={"node/a": 0})]) == [True] * 20 + [False]
    await reader.until(lambda: len(reader.log) == 20)
    assert [int(item.value or b"") for item in reader.log] == list(range(20))


@pytest.mark.asyncio
async def test_any_bytes_and_a_full_sized_write_come_back_as_they_were(opened: Opened):
    store = await opened()
    reader = await follow(store)
    big = bytes(range(256)) * ((MAX_WRITE_BYTES - 1000) // 256)
    many = {f"groups/tor-\u00e9/{number:02x}": b"\x00\xff%d" % number for number in range(MAX_WRITE_KEYS - 1)}
    writes = [Write({"node/big": big}), Write({**many, "node/empty": b""}, when=dict.fromkeys(many, 0))]
    assert await store.commit(writes) == [True, True]
    await reader.until(lambda: {"node/big", "node/empty"} <= reader.items.keys())
    is_same = reader.values() == {"node/big": big, "node/empty": b"", **many}
    assert is_same  # by itself: a difference of megabytes is not for a terminal
    is_same = (await follow(store)).values() == reader.values()
    assert is_same


@pytest.mark.asyncio
async def test_a_write_too_large_for_one_is_refused_with_its_size(opened: Opened):
    store = await opened()
    with pytest.raises(ValueError, match=r"node/a \.\.\.\).*1048577 bytes"):
        await store.commit([Write({"node/a": bytes(MAX_WRITE_BYTES + 1 - len("node/a"))})])
    with pytest.raises(ValueError, match="101 keys"):
        await store.commit([Write({f"node/{number}": b"" for number in range(MAX_WRITE_KEYS + 1)})])


@pytest.mark.asyncio
async def test_leased_keys_are_gone_after_a_close_and_others_stay(opened: Opened):
    store = await opened()
    reader = await follow(store)
    writes = [Write({"node/a": b"1"}), Write({"live/a": b"m"}, is_leased=True)]
    assert await store.commit([*writes, Write({"live/b": b"m"}, is_leased=True)]) == [True] * 3
    await reader.until(lambda: reader.items.keys() >= {"node/a", "live/a", "live/b"})
    live = {key: reader.items[key].revision for key in ("live/a", "live/b")}
    # a leased key is compared and removed as any other, and is not leased for good
    assert await store.commit(
        [Write({"live/a": b"n"}, when=live), Write({"live/b": b"", "live/c": b""})]
    ) == [
        True,
        True,
    ]
    assert await store.commit([Write({"live/d": b"m"}, is_leased=True), Write({"live/c": None})]) == [
        True,
        True,
    ]
    revision = reader.revision
    await store.close()
    after = await follow(await opened())
    await after.until(lambda: "live/d" not in after.items)
    assert after.values() == {"node/a": b"1", "live/a": b"n", "live/b": b""}
    assert after.revision > revision


@pytest.mark.asyncio
async def test_a_leased_key_that_was_removed_is_free_for_the_next(opened: Opened):
    store = await opened()
    claim = Write({"live/a": b"1"}, when={"live/a": 0}, is_leased=True)
    assert await store.commit([claim, Write({"node/a": b"1"}), claim]) == [True, True, False]
    assert [item.key for item in (await follow(store)).items.values()] == [
        "live/a",
        "node/a",
    ]  # in their order
    assert await store.commit([Write({"live/a": None}), claim]) == [True, True]
    assert [item.key for item in (await follow(store)).items.values()] == ["node/a", "live/a"]


@pytest.mark.asyncio
async def test_which_store_it_is_stays_over_a_restart(opened: Opened):
    store = await opened()
    assert store.is_reachable
    assert 0 <= store.age_s < 100
    name = store.id
    await store.close()
    again = await opened()
    assert again.id == name != ""


@pytest.mark.asyncio
async def test_of_concurrent_writers_to_one_key_exactly_one_wins_each_round(opened: Opened, several: bool):
    stores = [await opened()]
    stores += [await opened() for _ in range(2 * several)]
    readers = [await follow(store) for store in stores]
    revision = 0
    for round_ in range(10):
        tries = [
            store.commit([Write({"mode/ef": b"%d/%d" % (round_, number)}, when={"mode/ef": revision})])
            for number, store in enumerate(stores * 2)
        ]
        assert sum(done for (done,) in await asyncio.gather(*tries)) == 1
        for reader in readers:
            while len(reader.log) <= round_:
                await reader.step()
        revision = readers[0].items["mode/ef"].revision
    assert all(reader.log == readers[0].log for reader in readers)


@pytest.mark.asyncio
async def test_counting_by_many_at_once_loses_and_doubles_nothing(opened: Opened, several: bool):
    stores = [await opened()]
    stores += [await opened() for _ in range(several)]
    reader = await follow(stores[0])
    writes = [[Write({f"groups/n{who}/{number:03}": b"x"}) for number in range(150)] for who in range(4)]
    done = await asyncio.gather(*(stores[who % len(stores)].commit(some) for who, some in enumerate(writes)))
    assert all(map(all, done))
    await reader.until(lambda: len(reader.items) == 600)
    assert len(reader.log) == 600

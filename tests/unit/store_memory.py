"""A store in memory for the tests of others: several clients of one, with all that may happen to a server.

shared = Shared()
one, two = shared.open(), shared.open()
await one.commit([Write({"node/a": b"1"}, when={"node/a": 0})])
shared.is_away = True      # commits wait, nothing is told, stores say is_reachable False
shared.compact()           # every reader gets all there is once more
one.lose_lease()           # as if its process had been killed: its leased keys go
"""

import asyncio
from collections.abc import AsyncIterator, Sequence

from ctrl.store.feed import Feed
from ctrl.store.model import Changes, Item, StoreError, Write, check_write


class Shared:
    """What an etcd cluster holds."""

    def __init__(self, name: str = "memory") -> None:
        self.id = name
        self.age_s = 0.0
        self.revision = 0
        self.items: dict[str, Item] = {}
        self._holders: dict[str, Stored] = {}
        self._clients: list[Stored] = []
        self._back = asyncio.Event()
        self._back.set()

    @property
    def is_away(self) -> bool:
        return not self._back.is_set()

    @is_away.setter
    def is_away(self, is_away: bool) -> None:
        if is_away:
            self._back.clear()
        else:
            self._back.set()

    async def wait(self) -> None:
        await self._back.wait()

    def open(self) -> "Stored":
        self._clients.append(Stored(self))
        return self._clients[-1]

    def compact(self) -> None:
        for client in self._clients:
            client.feed.relist()

    def write(self, write: Write, holder: "Stored | None" = None) -> bool:
        """Write at once, as any client might."""
        revisions = {key: item.revision for key, item in self.items.items()}
        if any(revisions.get(key, 0) != wanted for key, wanted in write.when.items()):
            return False
        puts = [(key, value) for key, value in write.puts.items() if value is not None or key in self.items]
        self.revision += bool(puts)
        changed = [Item(key, value, self.revision) for key, value in puts]
        for item in changed:
            self._holders.pop(item.key, None)
            if item.value is None:
                del self.items[item.key]
                continue
            self.items[item.key] = item
            if write.is_leased and holder is not None:
                self._holders[item.key] = holder
        for client in self._clients:
            client.feed.tell(changed)
        return True

    def expire(self, holder: "Stored") -> None:
        gone = sorted(key for key, whose in self._holders.items() if whose is holder)
        if gone:
            self.write(Write(dict.fromkeys(gone)))

    def leave(self, client: "Stored") -> None:
        self._clients.remove(client)
        self.expire(client)


class Stored:
    """One client of it: ctrl.store.model.Store."""

    def __init__(self, shared: Shared) -> None:
        self.feed = Feed()
        self._shared = shared
        self._is_closed = False

    @property
    def id(self) -> str:
        return self._shared.id

    @property
    def age_s(self) -> float:
        return self._shared.age_s

    @property
    def is_reachable(self) -> bool:
        return not self._shared.is_away

    async def changes(self) -> AsyncIterator[Changes]:
        self.feed.relist()
        while True:
            is_behind = await self.feed.is_behind()
            await self._shared.wait()
            if is_behind:
                self.feed.begin()
                revision = self._shared.revision
                self.feed.began(revision)
                items = sorted(self._shared.items.values(), key=lambda item: item.revision)
                yield Changes(revision, items, is_all=True)
            elif changes := self.feed.take():
                yield changes

    async def commit(self, writes: Sequence[Write]) -> list[bool]:
        for write in writes:
            check_write(write)
        await self._shared.wait()
        if self._is_closed:
            raise StoreError("memory: closed")
        return [self._shared.write(write, self) for write in writes]

    async def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._shared.leave(self)

    def lose_lease(self) -> None:
        self._shared.expire(self)

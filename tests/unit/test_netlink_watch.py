"""A Watch before a kernel that is made up: what it asks, when, and what comes out."""

import asyncio
import errno
import os
from collections.abc import Iterator, Sequence
from ipaddress import ip_address

import pytest

from ctrl.netlink import NextHop, Watch
from ctrl.netlink.kernel import Overrun
from ctrl.netlink.news import (
    OUR_PROTOCOL,
    AddressNews,
    LinkNews,
    Neighbour,
    News,
    Route,
    RouteKind,
    RouteNews,
    Target,
)

NEAR, OTHER = ip_address("10.7.0.2"), ip_address("10.7.0.3")
MAC = bytes.fromhex("02fad0000002")
P1 = LinkNews(3, "p1", bytes.fromhex("02fad0000001"), 1500, is_up=True, resolves=True)
AT_NEAR = Target(3, NEAR.packed)
DEADLINE_S = 10


class MadeUp:
    """A kernel of one link, whose neighbours answer when told to; it writes down what it is asked."""

    def __init__(self) -> None:
        self.link = P1
        self.way: Route | None = Route(3, None, RouteKind.UNICAST)
        self.table: dict[Target, Neighbour] = {}
        self.refuses = 0
        self.looked_up: list[bytes] = []
        self.listed = 0
        self.looked_for_events = 0
        self.resolving: list[Neighbour] = []
        self.forgotten: list[Target] = []
        self.has_asked_thrice = asyncio.Event()
        self.is_closed = False
        self._pending: list[News | Exception] = []
        self._readable, self._wake = os.pipe()

    def happen(self, *news: News | Exception) -> None:
        self._pending += news
        os.write(self._wake, b"!")

    def fileno(self) -> int:
        return self._readable

    def events(self, at_most: int) -> Iterator[News]:
        self.looked_for_events += 1
        if self._pending:
            os.read(self._readable, 4096)
        while self._pending:
            news = self._pending.pop(0)
            if isinstance(news, Exception):
                raise news
            yield news

    def links(self) -> tuple[list[LinkNews], list[AddressNews]]:
        self.listed += 1
        return [self.link], []

    def driver(self, device: str) -> str | None:
        return f"driver of {device}"

    def routes(self, addresses: Sequence[bytes]) -> list[Route | None]:
        self.looked_up += addresses
        return [self.way for _ in addresses]

    def neighbours(self, targets: Sequence[Target]) -> list[Neighbour]:
        return [self.table.get(target, Neighbour(target)) for target in targets]

    def left_behind(self, index: int) -> list[Neighbour]:
        return [neighbour for neighbour in self.table.values() if neighbour.ours]

    def resolve(self, wishes: Sequence[Neighbour]) -> list[int]:
        self.resolving += wishes
        if len(self.resolving) >= 3:
            self.has_asked_thrice.set()
        return [self.refuses for _ in wishes]

    def forget(self, targets: Sequence[Target]) -> None:
        self.forgotten += targets

    def close(self) -> None:
        if not self.is_closed:
            os.close(self._readable)
            os.close(self._wake)
        self.is_closed = True


@pytest.fixture
def kernel() -> Iterator[MadeUp]:
    made = MadeUp()
    yield made
    made.close()


def answered(target: Target = AT_NEAR) -> Neighbour:
    return Neighbour(target, 2, MAC, managed=True, protocol=OUR_PROTOCOL)


@pytest.mark.asyncio
async def test_a_watch_begins_with_a_full_view_and_asks_for_whom_nobody_knows(kernel) -> None:
    async with Watch(["p1"], [NEAR], kernel=lambda: kernel) as watch:
        assert watch.view.hops == {NEAR: NextHop("p1")}
        assert watch.view.links["p1"].driver == "driver of p1"
        assert kernel.resolving == [Neighbour(AT_NEAR, managed=True, protocol=OUR_PROTOCOL)]
        assert (watch.asked, watch.refused) == (1, 0)
    assert kernel.forgotten == [AT_NEAR]
    assert kernel.is_closed


@pytest.mark.asyncio
async def test_a_burst_of_events_is_one_view(kernel) -> None:
    async with asyncio.timeout(DEADLINE_S), Watch(["p1"], [NEAR], kernel=lambda: kernel) as watch:
        views = watch.changes()
        assert await anext(views) is watch.view
        kernel.table[AT_NEAR] = answered()
        kernel.happen(
            P1._replace(is_up=False), P1, *[P1._replace(mtu=n) for n in range(1300, 1400)], answered()
        )
        view = await anext(views)
        assert view.links["p1"].mtu == 1399
        assert view.hops[NEAR] == NextHop("p1", MAC)
        assert kernel.looked_up == [NEAR.packed] * 2


@pytest.mark.asyncio
async def test_when_nothing_happens_nothing_is_done(kernel) -> None:
    kernel.table[AT_NEAR] = answered()
    async with Watch(["p1"], [NEAR], kernel=lambda: kernel) as watch:
        views = watch.changes()
        await anext(views)
        kernel.happen(P1._replace(mtu=1400))
        await anext(views)
        rounds = kernel.looked_for_events
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await anext(views)
        assert kernel.looked_for_events <= rounds + 1


@pytest.mark.asyncio
async def test_a_storm_that_concerns_nobody_asks_nothing(kernel) -> None:
    async with asyncio.timeout(DEADLINE_S), Watch(["p1"], [NEAR], kernel=lambda: kernel) as watch:
        views = watch.changes()
        await anext(views)
        elsewhere = [RouteNews(bytes([10, 50, n, 0]), 24) for n in range(256)]
        kernel.happen(*elsewhere, *[answered(Target(3, bytes([10, 7, 9, n]))) for n in range(256)])
        kernel.happen(answered())
        assert (await anext(views)).hops[NEAR].mac == MAC
        assert kernel.looked_up == [NEAR.packed]
        assert kernel.listed == 1


@pytest.mark.asyncio
async def test_lost_events_are_counted_logged_and_answered_by_reading_all_again(kernel, caplog) -> None:
    async with asyncio.timeout(DEADLINE_S), Watch(["p1"], [NEAR], kernel=lambda: kernel) as watch:
        views = watch.changes()
        await anext(views)
        kernel.link = P1._replace(mtu=1300)
        kernel.table[AT_NEAR] = answered()
        kernel.happen(Overrun())
        view = await anext(views)
        assert view.links["p1"].mtu == 1300
        assert view.hops[NEAR].mac == MAC
        assert watch.overruns == 1
    assert "netlink events lost times=1" in caplog.text


@pytest.mark.asyncio
async def test_what_is_wanted_instead_is_in_the_view_at_once_and_comes_out_of_changes(kernel) -> None:
    kernel.table[AT_NEAR] = answered()
    async with asyncio.timeout(DEADLINE_S), Watch(["p1"], [NEAR], kernel=lambda: kernel) as watch:
        views = watch.changes()
        await anext(views)
        following = asyncio.ensure_future(anext(views))
        await watch.want(["p1"], [OTHER])
        assert watch.view.hops == {OTHER: NextHop("p1")}
        assert kernel.forgotten == [AT_NEAR]
        assert await following is watch.view


@pytest.mark.asyncio
async def test_who_stays_silent_is_asked_for_again_without_any_event(kernel) -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.25
        return now

    async with (
        asyncio.timeout(DEADLINE_S),
        Watch(["p1"], [NEAR], kernel=lambda: kernel, clock=clock) as watch,
    ):
        views = watch.changes()
        await anext(views)
        following = asyncio.ensure_future(anext(views))
        await kernel.has_asked_thrice.wait()
        kernel.happen(answered())
        assert (await following).hops[NEAR].mac == MAC


@pytest.mark.asyncio
async def test_a_socket_that_breaks_ends_changes_with_the_error(kernel) -> None:
    async with asyncio.timeout(DEADLINE_S), Watch(["p1"], [NEAR], kernel=lambda: kernel) as watch:
        views = watch.changes()
        await anext(views)
        kernel.happen(OSError(errno.EBADF, "gone"))
        with pytest.raises(OSError, match="gone"):
            await anext(views)


@pytest.mark.asyncio
async def test_a_kernel_that_cannot_be_asked_at_the_start_is_closed_again(kernel) -> None:
    def fail() -> tuple[list[LinkNews], list[AddressNews]]:
        raise OSError(errno.ENOMEM, "no memory")

    kernel.links = fail
    with pytest.raises(OSError, match="no memory"):
        async with Watch(["p1"], [NEAR], kernel=lambda: kernel):
            pass
    assert kernel.is_closed


@pytest.mark.asyncio
async def test_what_a_killed_instance_left_and_nobody_needs_is_removed(kernel) -> None:
    stray = Target(3, OTHER.packed)
    kernel.table = {AT_NEAR: answered(), stray: answered(stray)}
    async with Watch(["p1"], [NEAR], kernel=lambda: kernel):
        assert kernel.forgotten == [stray]

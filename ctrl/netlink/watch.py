"""Follow the links and next hops that were asked for, while the process runs.

1. Nothing runs behind the owner's back: the work is done in `changes()`, by whoever iterates over it (the one
   task that makes use of the views), and errors come out there.
2. After an event, quiet is waited for only briefly (`_SETTLE_S`); under a storm there is a view every
   `_COALESCE_S`, or more rarely, so that looking routes up takes a fifth of the time at most.
3. A lost event (ENOBUFS) is answered by reading everything again, a log line and a count.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from typing import Self, TypeVar

from ctrl.netlink.asking import Asking
from ctrl.netlink.kernel import CHUNK, Kernel, Netlink, Overrun
from ctrl.netlink.model import LOG, View, log_changes
from ctrl.netlink.picture import Picture
from fastpath.model import IPAddress

_T = TypeVar("_T")
_SETTLE_S = 0.002
_COALESCE_S = 0.02
_REST = 4  # times as long as a round took, until the next may begin
_EVENTS_AT_ONCE = 64  # until others may run


class Watch:
    """The links `devices` and the next hops of `addresses`, as they are now. One iterator at a time."""

    def __init__(
        self,
        devices: Iterable[str],
        addresses: Iterable[IPAddress],
        *,
        clock: Callable[[], float] = time.monotonic,
        kernel: Callable[[], Kernel] = Netlink,
        owns: bool = True,
    ) -> None:
        self._owns = owns
        self.view = View()
        self.overruns = 0
        """Times that events were lost and everything was read again."""
        self._asking = Asking()
        self._picture = Picture()
        self._picture.want(devices, addresses)
        self._clock = clock
        self._make_kernel = kernel
        self._woken = asyncio.Event()
        self._broken: OSError | None = None
        self._one_round = asyncio.Lock()

    @property
    def asked(self) -> int:
        """Times that the kernel took a request to resolve a neighbour."""
        return self._asking.asked

    @property
    def refused(self) -> int:
        """Times that the kernel refused one."""
        return self._asking.refused

    async def __aenter__(self) -> Self:
        self._kernel = self._make_kernel()
        try:
            await self._round()
            if self._owns:
                self.take_over()
        except BaseException:
            self._kernel.close()
            raise
        asyncio.get_running_loop().add_reader(self._kernel.fileno(), self._hear)
        return self

    def take_over(self) -> None:
        """From now on the neighbours that we made are ours to remove, and those that a killed instance left.

        Not before it is certain that no other instance is at work here: it may need the same ones.
        """
        self._owns = True
        self._forget_left_behind()

    async def __aexit__(self, *_: object) -> None:
        """Remove the neighbours that we made, if they are ours to remove, and close."""
        asyncio.get_running_loop().remove_reader(self._kernel.fileno())
        try:
            if self._owns:
                self._kernel.forget(self._picture.targets())
        except OSError as error:
            LOG.warning("neighbours left behind error=%s", error)
        finally:
            self._kernel.close()

    async def want(self, devices: Iterable[str], addresses: Iterable[IPAddress]) -> None:
        """Replace what is asked for; when this returns, `view` has it."""
        async with self._one_round:
            self._picture.want(devices, addresses)
        await self._round()
        self._woken.set()

    async def changes(self) -> AsyncIterator[View]:
        """Yield a new view whenever it differs from the one before, beginning with the one that is now.

        Raises OSError when the kernel can no longer be heard or asked.
        """
        seen = None
        free_at = self._clock()
        while True:
            if self.view is not seen:
                seen = self.view
                yield seen
            await self._wait()
            now = self._clock()
            await asyncio.sleep(max(_SETTLE_S, free_at - now))
            if self._broken is not None:
                raise self._broken
            self._woken.clear()  # before the round: what is heard during it makes another one
            began = self._clock()
            await self._round()
            ended = self._clock()
            free_at = ended + max(_COALESCE_S, _REST * (ended - began))

    async def _wait(self) -> None:
        """Wait for an event that matters, or until somebody has to be asked."""
        next_at = self._asking.next_at()
        try:
            async with asyncio.timeout(None if next_at is None else max(0.0, next_at - self._clock())):
                await self._woken.wait()
        except TimeoutError:
            pass

    def _hear(self) -> None:
        try:
            for news in self._kernel.events(_EVENTS_AT_ONCE):
                if self._picture.hear(news):
                    self._woken.set()
        except Overrun:
            self.overruns += 1
            LOG.warning("netlink events lost times=%d: everything is read again", self.overruns)
            self._picture.lost()
            self._woken.set()
        except OSError as error:
            asyncio.get_running_loop().remove_reader(self._kernel.fileno())
            self._broken = error
            self._woken.set()

    async def _round(self) -> None:
        """Ask all that has to be asked, and draw the view anew."""
        async with self._one_round:
            picture, kernel = self._picture, self._kernel
            if picture.links_to_ask:
                picture.links_are(*kernel.links())
            await self._ask_routes()
            await self._ask_neighbours()
            for index, name in picture.devices_without_driver():
                picture.driver_is(index, kernel.driver(name))
            devices, addresses = picture.changed_devices, picture.changed_addresses
            old, self.view = self.view, picture.view()
            if self.view is not old:
                log_changes(old, self.view, devices, addresses)
            await self._keep_resolved()

    # What is to be asked is struck off in one step with the asking: an event in between writes it down again.

    async def _ask_routes(self) -> None:
        picture = self._picture
        for chunk in _chunks(picture.routes_to_ask):
            picture.routes_to_ask.difference_update(chunk)
            answers = self._kernel.routes([address.packed for address in chunk])
            for address, route in zip(chunk, answers, strict=True):
                picture.route_is(address, route)
            await asyncio.sleep(0)

    async def _ask_neighbours(self) -> None:
        picture = self._picture
        for chunk in _chunks(picture.neighbours_to_ask):
            picture.neighbours_to_ask.difference_update(chunk)
            for neighbour in self._kernel.neighbours(chunk):
                picture.neighbour_is(neighbour)
            await asyncio.sleep(0)

    async def _keep_resolved(self) -> None:
        """Have the kernel resolve whom nobody else asks for, and no longer whom nobody needs."""
        picture = self._picture
        for chunk in _chunks(picture.abandoned):
            picture.abandoned.difference_update(chunk)
            self._kernel.forget(chunk)
            await asyncio.sleep(0)
        self._hear()  # so that none is asked for that somebody has just made permanent
        due = self._asking.due(self._clock(), picture.restless)
        errors: list[int] = []
        for chunk in _chunks(due):
            errors += self._kernel.resolve([picture.wish(target) for target in chunk])
            await asyncio.sleep(0)
        self._asking.were_asked(self._clock(), due, errors, picture.is_resolved)

    def _forget_left_behind(self) -> None:
        """Remove what an instance that was killed left on our devices and nobody needs now."""
        needed = set(self._picture.targets())
        for index in self._picture.wanted_indexes():
            left = [n.target for n in self._kernel.left_behind(index) if n.target not in needed]
            self._kernel.forget(left)


def _chunks(whole: Collection[_T]) -> Iterator[list[_T]]:
    listed = list(whole)
    return (listed[at : at + CHUNK] for at in range(0, len(listed), CHUNK))

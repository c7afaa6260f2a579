"""What devices go through with their managers, phase by phase, and what each phase took."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.fabric_devices import World
from bench.fabric_managers import ManagerProcess

LIMIT_S = 900.0
QUIET_S = 2.0
DOWN_S = 2.0


@dataclass(frozen=True, slots=True)
class Phase:
    """What a phase took: seconds until all was right, seconds of a core by manager (its loop's thread, all of
    it), messages and entries that the devices were told, sessions that were lost."""

    wall_s: float
    loop_s: tuple[float, ...]
    core_s: tuple[float, ...]
    n_messages: int
    n_entries: int
    n_lost: int


class Day:
    """A world of devices and its managers, which run already."""

    def __init__(self, world: World, managers: Sequence[ManagerProcess]) -> None:
        self.world = world
        self.managers = managers
        self._begin()

    async def load(self) -> Phase:
        """Have all devices come at once."""
        self._begin()
        await self.world.start()
        phase = self._ended(await self.world.settled(LIMIT_S))
        await self.quiet()
        return phase

    async def join_one_by_one(self, count: int) -> list[float]:
        """Each when the one before is told; ms to the last device told."""
        took = []
        for device, truth in self.world.joins(count):
            begin = time.perf_counter()
            device.join(truth)
            took.append(1e3 * (await self.world.settled(LIMIT_S) - begin))
            await asyncio.sleep(0.02)
        self._check()
        return took

    async def join_at(self, per_s: float, for_s: float) -> tuple[list[float], Phase]:
        """At that rate, whatever became of those before; ms of each."""
        joins, began = self.world.joins(round(per_s * for_s)), []
        self._begin()
        for number, (device, truth) in enumerate(joins):
            wait_s = self._begin_s + number / per_s - time.perf_counter()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            began.append(time.perf_counter())
            device.join(truth)
        phase = self._ended(await self.world.settled(LIMIT_S))
        self._check()
        return [1e3 * (truth.at_s - at) for (_, truth), at in zip(joins, began, strict=True)], phase

    async def kill_and_restart(self, n_missed: int) -> Phase:
        """Kill the managers, have devices join meanwhile, and start the managers on what they left."""
        for manager in self.managers:
            manager.kill()
        await asyncio.sleep(DOWN_S)
        for device, truth in self.world.joins(n_missed):
            device.join(truth)
        for manager in self.managers:
            manager.start()
        self._begin(is_new=True)
        phase = self._ended(await self.world.settled(LIMIT_S))
        await self.quiet()
        return phase

    async def quiet(self) -> None:
        """Wait until devices are told nothing more."""
        n_entries = -1
        while n_entries != self.world.n_entries:
            n_entries = self.world.n_entries
            await asyncio.sleep(QUIET_S)
        self._check()

    def _check(self) -> None:
        faults = self.world.check()
        assert not faults, (len(faults), faults[:5])
        assert not self.world.n_refused

    # --- taking the time ------------------------------------------------------------------------------------

    def _begin(self, *, is_new: bool = False) -> None:
        """`is_new`: of the managers, too."""
        world = self.world
        self._was = world.n_messages, world.n_entries, world.n_lost
        usages = [manager.usage for manager in self.managers]
        self._cores = [(0.0, 0.0) if is_new else (usage.loop_s, usage.all_s) for usage in usages]
        if not is_new:  # nothing listens to the signal yet
            for manager in self.managers:
                manager.mark()
        self._begin_s = time.perf_counter()

    def _ended(self, end_s: float) -> Phase:
        world = self.world
        usages = [manager.usage for manager in self.managers]
        for manager in self.managers:
            manager.mark()
        return Phase(
            end_s - self._begin_s,
            tuple(usage.loop_s - was[0] for usage, was in zip(usages, self._cores, strict=True)),
            tuple(usage.all_s - was[1] for usage, was in zip(usages, self._cores, strict=True)),
            world.n_messages - self._was[0],
            world.n_entries - self._was[1],
            world.n_lost - self._was[2],
        )

"""A manager's day: ten thousand devices at once, one more join, two hundred a second, and its own death.

The manager is a process of its own on a core of its own (`fastpath run`), with a store on disk; the devices
are in this process, on the other core, a connection each, by hand-made frames (`fabric_http2`). Figures are
the wall's time but for `core`, which is what the manager's process had of it: raced against the role by
itself, and the role with the codec (`fabric_pure`). What is between is transport and store.

BENCH_FABRIC_DEVICES: how many (1,000; 10,000 with BENCH_FULL=1; 200 run in seconds). Each is in 100 groups,
a group has 10 devices. BENCH_FABRIC_PROFILE: see `fabric_managers`.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.conftest import FULL, Race
from bench.fabric_day import Day, Phase
from bench.fabric_devices import World
from bench.fabric_managers import ManagerProcess
from bench.fabric_pure import Pure
from bench.figures import Sample, Target
from tests.system.crowd import quantile
from tests.system.etcds import cluster, needs_etcd

N_DEVICES = int(os.environ.get("BENCH_FABRIC_DEVICES", "10000" if FULL else "1000"))
PER_DEVICE, PER_GROUP = 100, 10
IS_LARGE = N_DEVICES >= 10_000
N_JOINS, JOINS_PER_S, JOINS_S = (200, 200, 10) if IS_LARGE else (50, 200, 3)
N_MISSED = 500
"""Joins while there is no manager."""
SIZE = {"devices": N_DEVICES, "groups": N_DEVICES * PER_DEVICE // PER_GROUP}
OWN_CPU = max(os.sched_getaffinity(0))
MANAGERS_CPU = min({*range(os.cpu_count() or 1)} - {OWN_CPU}, default=OWN_CPU)


def aim(limit: float) -> Target | None:
    """Issue 5's aims are for ten thousand."""
    return Target(limit) if IS_LARGE else None


@contextmanager
def managers(names: Sequence[str], store: Callable[[Path], str]) -> Iterator[list[ManagerProcess]]:
    """Have them run on one core, in a folder of their own."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="fastpath-bench-") as name:
        folder = Path(name)
        made = [
            ManagerProcess(folder, name, store(folder), MANAGERS_CPU, f"max_nodes = {max(N_DEVICES, 10_000)}")
            for name in names
        ]
        try:
            for one in made:
                one.start()
            for one in made:
                one.wait_until_it_listens()
            yield made
        except (AssertionError, TimeoutError):
            for one in made:
                print(one.log.read_text()[-2000:])
            raise
        finally:
            for one in made:
                one.kill()


def world(addresses: Sequence[str] = ()) -> World:
    made = World(N_DEVICES, PER_DEVICE, PER_GROUP, addresses)
    gc.collect()
    gc.freeze()  # the devices' collections are not what is measured
    return made


def book_joins(race: Race, name: str, took: Sequence[float], joins: object) -> None:
    for what, q in (("p50", 0.5), ("p99", 0.99)):
        value = Sample.of([quantile(list(took), q)])
        target = aim(500) if what == "p99" else None
        race.book(f"{name}, {what}", SIZE | {"joins": joins}, value, unit="ms", target=target)


def book_core(race: Race, name: str, phase: Phase, per: float, unit: str, **rivals: float) -> None:
    """What the managers had of their core, each for itself."""
    counts = {"messages": phase.n_messages, "entries": phase.n_entries, "lost": phase.n_lost}
    for at, core_s in enumerate(phase.core_s):
        parameters = SIZE | counts | {"manager": at + 1, "loop": f"{phase.loop_s[at] / core_s:.0%}"}
        raced: dict[str, Any] = {rival: Sample.of([value]) for rival, value in rivals.items()}
        race.book(name, parameters, Sample.of([core_s / per]), unit=unit, **raced)


async def day(race: Race, running: Sequence[ManagerProcess], name: str) -> None:
    """Go through all of it, and book what it took."""
    one = Day(world([manager.address for manager in running]), running)
    pure = Pure(world())
    pure.load()
    role_s, codec_s = pure.take()
    loaded = await one.load()
    race.book(f"{name}, load-in", SIZE, Sample.of([loaded.wall_s]), unit="s", target=aim(120))
    book_core(race, f"{name}, load-in, core", loaded, 1, "s", role=role_s, with_codec=role_s + codec_s)
    took = await one.join_one_by_one(N_JOINS)
    book_joins(race, f"{name}, join to the last told", took, N_JOINS)
    took, joined = await one.join_at(JOINS_PER_S, JOINS_S)
    book_joins(race, f"{name}, join to the last told", took, f"{JOINS_PER_S}/s")
    pure.join(pure.world.joins(len(took)), JOINS_PER_S)
    role_s, codec_s = pure.take()
    per_join = {"role": 1e3 * role_s / len(took), "with_codec": 1e3 * (role_s + codec_s) / len(took)}
    book_core(race, f"{name}, join, core", joined, len(took) / 1e3, "ms/join", **per_join)
    most = Sample.of([manager.usage.most_mib for manager in running])
    race.book(f"{name}, memory", SIZE, most, unit="MiB", target=aim(4096))
    restarted = await one.kill_and_restart(N_MISSED)
    parameters = SIZE | {"joins": N_MISSED}
    race.book(f"{name}, restart to converged", parameters, Sample.of([restarted.wall_s]), unit="s")
    book_core(race, f"{name}, restart, core", restarted, 1, "s")
    await one.world.stop()


def test_one_manager(race: Race) -> None:
    race.benchmark.pedantic(lambda: None)
    with managers(["m1"], lambda folder: f"sqlite://{folder}/m1.db") as running:
        asyncio.run(day(race, running, "manager"))


@needs_etcd
@pytest.mark.parametrize("count", [1, 2])
def test_managers_on_one_etcd(race: Race, count: int) -> None:
    """They share a core, and etcd has that of the devices: the wall's time is no measure of two boxes, but
    what each of them took of its core is."""
    race.benchmark.pedantic(lambda: None)
    with cluster() as etcd:
        etcd.start()
        with managers([f"m{number + 1}" for number in range(count)], lambda _: etcd.url) as running:
            asyncio.run(day(race, running, f"{count} on etcd"))

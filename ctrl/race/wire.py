"""The race itself: who runs, how copies are counted, and the rows that come of it.

Copies are counted at the sink, never by who claims to have sent them. Everybody runs thrice, with all others
in between, and the best of several slices counts: what else goes on, on the machine and on its host, comes
and goes, and only ever slows a row down.
"""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctrl.race import ours, rivals
from ctrl.race.latency import Latency
from ctrl.race.rivals import Step
from ctrl.race.track import Track
from ctrl.race.traffic import Load, longest_train
from fastpath.model import Encap

PATHS: dict[str, Callable[[Track, Load], AbstractContextManager[Step]]] = {
    "clones": ours.clones,
    "trains": ours.trains,
    "xdp": ours.xdp,
    "packet": ours.packet,
    "forward_clones": ours.forward_clones,
    "forward": ours.forward,
    "kernel": rivals.kernel,
    "kernel_trains": rivals.kernel_trains,
    "sendmmsg": rivals.sendmmsg,
    "limit_clones": rivals.limit_clones,
    "limit": rivals.limit,
    "limit_xdp": rivals.limit_xdp,
}
"""In the order of the table."""
ORDER = (
    *("clones", "limit_clones", "forward_clones", "trains", "limit", "forward", "xdp", "packet", "kernel"),
    *("limit_xdp", "sendmmsg", "kernel_trains"),
)
"""Who runs after whom: those that are compared soon after each other, for the same weather; between two who
use AF_XDP some others, for the kernel takes its time to give a queue back (LIMITS trap 9)."""
NVGRE_PATHS = ("clones", "xdp", "packet", "sendmmsg", "limit_clones", "limit_xdp")
"""Protocol 47 cannot ride (LIMITS), and the kernel has no device that replicates it."""
LIMIT_OF = {"clones": "limit_clones", "forward_clones": "limit_clones", "xdp": "limit_xdp"}
LIMIT_OF |= {limit: limit for limit in LIMIT_OF.values()}
"""What a path is held against; the others against `limit`, or, for NVGRE, against `limit_xdp`."""
LIVE = ("forward_clones", "forward", "kernel_trains")
FROM_MEMORY = ("clones", "trains", "xdp", "packet")
ONE_PORT = ("sendmmsg", "limit", "limit_xdp")
"""Those whose one socket sends by one interface."""

SIZES, EGRESSES = (64, 1400), (8, 50)
FULL_SIZES, FULL_EGRESSES = (64, 512, 1400), (1, 8, 50, 256)
PASSES, SLICES = 3, 4
WARM_UP_S = 0.02
STEP_S = 0.2
"""No step takes longer, for Ctrl-C waits for its end."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one path did with one load; `why` it did nothing, where it could not run."""

    path: str
    load: Load
    copies_per_s: float | None
    why: str | None = None


def loads(egresses: int | None, size: int | None, *, full: bool, ports: int = 1) -> list[Load]:
    """What is raced for: two sizes and two fan-outs; in full, all that the project makes claims about."""
    sizes = (size,) if size else FULL_SIZES if full else SIZES
    fan_outs = (egresses,) if egresses else FULL_EGRESSES if full else EGRESSES
    found = []
    for one in sizes:
        ways = [(longest_train(one), True)]
        if full:
            ways += [(1, True), (longest_train(one), False)]
        found += [
            Load(fan_out, one, train, segmentation=whole, ports=ports)
            for train, whole in ways
            for fan_out in fan_outs
        ]
        if full:
            found += [Load(fan_out, one, 1, Encap.NVGRE, ports=ports) for fan_out in fan_outs]
    return found


def fed(path: str, load: Load) -> str:
    """Say how a path comes by what it makes copies of: `memory`, frame by frame and for nothing; `frames` or
    `trains`, as who sends live hands them over; `prebuilt`, where the copies themselves stand ready."""
    if path in FROM_MEMORY:
        return "memory"
    if path == "kernel" or (path in LIVE and load.train == 1):
        return "frames"
    return "trains" if path in LIVE else "prebuilt"


def paths(load: Load) -> tuple[str, ...]:
    """Who runs for a load."""
    return NVGRE_PATHS if load.encap is Encap.NVGRE else tuple(PATHS)


def race(track: Track, load: Load, seconds: float) -> list[Row]:
    """Let everybody run for one load, `seconds` each, and not all at a stretch."""
    found: dict[str, Row] = {}
    with track.segmentation(load.segmentation):
        for _ in range(PASSES):
            for path in (one for one in ORDER if one in paths(load)):
                row = run(track, path, load, seconds / PASSES)
                best = found.get(path, row)
                found[path] = max(best, row, key=lambda one: one.copies_per_s or 0.0)
    return [found[path] for path in paths(load)]


def run(track: Track, path: str, load: Load, seconds: float) -> Row:
    """Let one path run; what the system refuses it becomes the row's `why`."""
    if load.ports > 1 and path in ONE_PORT:
        return Row(path, load, None, "sends by one port only")
    try:
        with PATHS[path](track, load) as step:
            step(min(WARM_UP_S, seconds))
            rate = max(_slice(track, path, load, step, seconds / SLICES) for _ in range(SLICES))
    except OSError as error:
        return Row(path, load, None, sentence(error))
    return Row(path, load, rate) if rate else Row(path, load, None, "no copy arrived")


def _slice(track: Track, path: str, load: Load, step: Step, seconds: float) -> float:
    before, start = track.sink.read(), time.monotonic()
    while (left := start + seconds - time.monotonic()) > 0:
        step(min(left, STEP_S))
    end, after = time.monotonic(), track.sink.read()
    inner_trains = path == "kernel_trains" and load.train > 1 and load.segmentation
    return track.sink.copies(load, before, after, inner_trains=inner_trains) / (end - start)


def sentence(error: OSError) -> str:
    """Say what the system refused."""
    what = error.strerror or str(error)
    return f"{error.filename}: {what}" if error.filename else what


def objects(rows: list[Row], latencies: list[Latency]) -> list[dict[str, Any]]:
    """Make the flat objects of `-j`, each with its ratios to others of the same load: the kernel, fed frames
    and fed trains, and its limit."""
    rates = {(row.load, row.path): row.copies_per_s for row in rows}
    waited = {(one.load, one.path): one for one in latencies}

    def ratio(row: Row, rival: str) -> float | None:
        other = rates.get((row.load, rival))
        return round(row.copies_per_s / other, 3) if row.copies_per_s and other else None

    found = []
    for row in rows:
        load, rate = row.load, row.copies_per_s
        held_against = LIMIT_OF.get(row.path, "limit_xdp" if load.encap is Encap.NVGRE else "limit")
        latency = waited.get((load, row.path))
        found.append(
            {
                "path": row.path,
                "egresses": load.egresses,
                "size": load.size,
                "train": load.train,
                "segmentation": load.segmentation,
                "encap": load.encap.name.lower(),
                "ports": load.ports,
                "fed": fed(row.path, load),
                "copies_per_s": None if rate is None else round(rate),
                "ns_per_copy": None if rate is None else round(1e9 / rate, 1),
                "ratio_to_kernel": ratio(row, "kernel"),
                "ratio_to_kernel_trains": ratio(row, "kernel_trains"),
                "ratio_to_limit": ratio(row, held_against),
                "latency_p50_us": latency and latency.p50_us,
                "latency_p99_us": latency and latency.p99_us,
                "why": row.why,
            }
        )
    return found


def machine() -> str:
    """Describe what the figures depend on besides the code."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    cpu = names[0] if names else platform.machine()
    return f"{cpu}, {os.cpu_count()} CPUs, Linux {platform.release()}, load {os.getloadavg()[0]:.1f}"


def peak_rss_mb() -> float:
    """The most memory that this process ever held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

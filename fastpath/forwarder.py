"""The forwarder: ports, a FIB and one engine a worker put together; what `fastpath run` and `replay` use."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fastpath._engine import Engine
from fastpath._fib import Fib
from fastpath._mac import MacTable
from fastpath._port import IoPort
from fastpath._punt import PuntRing
from fastpath.compiler import Compiler, NextHops
from fastpath.model import Egress, GroupKey, Layout, ReplicationList
from fastpath.punts import Punted, Punts, read_punted
from fastpath.reasons import REASONS, Unit
from fastpath.stations import Learned, Row, Stations, read_lessons
from fastpath.statistics import (
    DropCount,
    EgressCount,
    ListCount,
    PortCount,
    StageTime,
    Statistics,
    WorkerCount,
)

if TYPE_CHECKING:
    from fastpath.columns import Columns

LISTS_MAX = 1 << 20
"""As in `_frame.pxd`: later lists are not counted singly."""
STAGES = ("receive", "classify", "replicate")
_NS = 1_000_000_000


@dataclass(slots=True)
class _Worker:
    engine: Engine
    cpu: int | None = None
    thread: threading.Thread | None = None


class Forwarder:
    """Forwards frames between `ports` (one per port of the layout, in its order) by replication lists.

    `sources` are what it receives from where that is not the ports themselves: a capture stands in for all
    of them. `more_workers` are the ports of further workers, each with its own rings on the same interfaces.
    `batch` is the most frames that travel together, 1 to 256. With `trains`, ports that take super-frames get
    them. With `punts`, frames for control wait for `read_punted`; without, they are counted and that is all.
    With `max_macs`, our own NVE sends frames to known MACs only where they are: to a VM port, which is the
    station of its own place, or to one of `max_vteps` VTEPs. What its frames teach waits for `read_learned`.

    Either `run` it here and now, until nothing comes in any more; or `start` its workers, which forward until
    `stop`. `statistics` may be asked for from any thread meanwhile; the changes (`publish`, `resolve`,
    `relayout`, `set_ports`) from one thread at a time.
    """

    def __init__(
        self,
        layout: Layout,
        ports: Sequence[IoPort],
        lists: Iterable[ReplicationList] = (),
        *,
        sources: Sequence[IoPort] | None = None,
        more_workers: Sequence[Sequence[IoPort]] = (),
        batch: int = 256,
        trains: bool = True,
        punts: Punts | None = None,
        max_macs: int = 0,
        max_vteps: int = 0,
    ) -> None:
        if punts is not None and punts.stepwise and more_workers:
            raise ValueError("stepwise: expected one worker, for there is one clock")
        self._compiler = Compiler(layout)
        self._changing = threading.Lock()
        self._lost_before = 0
        _place((ports, *more_workers))
        self._punts = punts
        self._first_read = 0
        self._stations: Stations | None = None
        if max_macs:
            stepwise = punts is not None and punts.stepwise
            self._stations = Stations(self._compiler, max_macs, max_vteps, stepwise=stepwise)
        self._workers: list[_Worker] = []
        for own in (ports, *more_workers):
            from_ = sources if sources is not None and own is ports else own
            share = 1 + len(more_workers)
            ring = None if punts is None else _ring(punts, share)
            stepwise = punts is not None and punts.stepwise
            learner = None if self._stations is None else self._stations.learner(share)
            fib = self._compiler.fib
            engine = Engine(own, from_, fib, batch, trains, ring, stepwise, learner, share)
            self._workers.append(_Worker(engine))
        self.publish(lists)
        self._add_port_stations()

    @property
    def layout(self) -> Layout:
        """The layout of the newest FIB."""
        return self._compiler.layout

    def _publish(self, fib: Fib) -> None:
        if self._compiler.reused:
            for worker in self._workers:
                worker.engine.forget_lists(self._compiler.reused)
        for worker in self._workers:
            worker.engine.publish(fib)

    def _add_port_stations(self) -> None:
        """Give the VM ports that are new with the newest FIB their stations."""
        rows = self._stations.new_ports(self.layout) if self._stations is not None else {}
        if rows:
            self._publish(self._compiler.change(()))
            self._set_stations(rows)

    def _set_stations(self, rows: Mapping[int, Row], restarted: Sequence[int] = ()) -> None:
        for worker in self._workers:
            worker.engine.set_stations(rows, restarted)

    def publish(self, lists: Iterable[ReplicationList], removed: Iterable[GroupKey] = ()) -> None:
        """Set some replication lists and remove others; the next burst takes all of it or, before, none."""
        with self._changing:
            self._publish(self._compiler.change(lists, removed))

    def fill(self, columns: Columns) -> None:
        """Set the first lists, very many, from numpy columns."""
        with self._changing:
            self._publish(self._compiler.fill(columns))

    def resolve(self, next_hops: NextHops) -> None:
        """Tell the MACs of all next hops; None: not known (any more). Copies to addresses that are not among
        them go to their port's own `next_hop_mac`."""
        with self._changing:
            self._publish(self._compiler.resolve(next_hops))

    def relayout(
        self,
        layout: Layout,
        lists: Iterable[ReplicationList],
        removed: Iterable[GroupKey] = (),
        next_hops: NextHops | None = None,
    ) -> None:
        """Change the layout, lists and next hops in one step: no burst sees half of it. As
        `Compiler.relayout`; where there are more ports than before, `set_ports` comes first."""
        with self._changing:
            self._publish(self._compiler.relayout(layout, lists, removed, next_hops))
            self._add_port_stations()

    def set_ports(self, layout: Layout, workers: Sequence[Sequence[IoPort]]) -> None:
        """Exchange the ports of each worker, between two bursts; the layout may have more ports than before.

        What waits in the rings of ports that stay is forwarded. The old ports are the caller's to close.
        """
        if len(workers) != len(self._workers):
            raise ValueError(f"ports for {len(workers)} workers given; there are {len(self._workers)}")
        _place(workers)
        kept = {id(port) for ports in workers for port in ports}
        gone = [p for w in self._workers for p in w.engine.ports if id(p) not in kept]
        self._lost_before += sum(port.ring_lost for port in gone)
        with self._changing:
            fib = self._compiler.relayout(layout, ())
            for worker, ports in zip(self._workers, workers, strict=True):
                worker.engine.set_ports(ports, ports, fib)
            self._add_port_stations()

    @property
    def n_groups(self) -> int:
        """Number of replication lists."""
        return self._compiler.fib.n_groups

    @property
    def revision(self) -> int:
        """Number of the newest FIB; each change makes the next."""
        return self._compiler.fib.revision

    @property
    def fib_bytes(self) -> int:
        """Memory of the replication lists and their headers."""
        return self._compiler.fib.memory_bytes

    @property
    def fibs_alive(self) -> int:
        """Published snapshots not yet freed; 1 when nothing runs."""
        return max(worker.engine.fibs_alive for worker in self._workers)

    @property
    def _macs_here(self) -> Stations:
        if self._stations is None:
            raise ValueError("there is no MAC table: max_macs is 0")
        return self._stations

    @property
    def macs(self) -> MacTable:
        """What MACs are known, and their stations; ValueError where `max_macs` is 0.

        An entry is in force at once, for the next frame; a VM port of another network it never leads to.
        """
        return self._macs_here.macs

    def mac_now(self) -> int:
        """The clock that entries are seen by, in 1/16 s modulo 2^32; stepwise, that of the frames."""
        return self.macs.now()

    def vtep(self, egress: Egress) -> int:
        """The station of a VTEP, a REWRITE to an address in one encap: made, or reached this way from now on.

        ValueError where there are `max_vteps` others.
        """
        with self._changing:
            station = self._macs_here.find(egress)
            if station is None:
                station, row, restarted = self._macs_here.make(egress)
                self._give(station, row, restarted)
            return station

    def set_vtep(self, station: int, egress: Egress) -> None:
        """Let a station that there is be reached by another way; or be another VTEP, once no MAC leads there
        (`macs.clear_station`)."""
        with self._changing:
            self._give(station, *self._macs_here.give(station, egress))

    def _give(self, station: int, row: Row, restarted: Sequence[int]) -> None:
        self._publish(self._compiler.change(()))
        self._set_stations({station: row}, restarted)

    @property
    def learn_fds(self) -> tuple[int, ...]:
        """Descriptors that are readable while there is something for `read_learned`, one a worker."""
        return tuple(one.engine.learner.ring.fd for one in self._workers if one.engine.learner is not None)

    def read_learned(self, max_macs: int = 1024) -> list[Learned]:
        """Take what frames taught, at most so much; what control does not put into `macs` is told again.

        Of one worker the oldest comes first. From one thread at a time, while workers run or not.
        """
        out: list[Learned] = []
        for worker in self._in_turn():
            if worker.engine.learner is not None and len(out) < max_macs:
                out += read_lessons(worker.engine.learner.ring, max_macs - len(out))
        return out

    def _in_turn(self) -> Sequence[_Worker]:
        """All workers; another one first each time, so that none can keep the others' words waiting."""
        self._first_read = (self._first_read + 1) % len(self._workers)
        return (*self._workers[self._first_read :], *self._workers[: self._first_read])

    @property
    def punt_fds(self) -> tuple[int, ...]:
        """Descriptors that are readable while frames wait for `read_punted`, one a worker."""
        return tuple(one.engine.punts.fd for one in self._workers if one.engine.punts is not None)

    def read_punted(self, max_frames: int = 1024) -> list[Punted]:
        """Take frames for control, at most so many.

        Those of one worker come oldest first. From one thread at a time, while workers run or not.
        """
        out: list[Punted] = []
        for worker in self._in_turn():
            if worker.engine.punts is not None and len(out) < max_frames:
                out += read_punted(worker.engine.punts, max_frames - len(out))
        return out

    def set_punt_limits(self, rate_pps: int, burst: int) -> None:
        """Change how much each port may punt, between two bursts; ValueError where there are no `punts`."""
        if self._punts is None:
            raise ValueError("punts have no limits, for nobody reads them")
        self._punts = replace(self._punts, rate_pps=rate_pps, burst=burst)
        for worker in self._workers:
            worker.engine.set_punt_limits(*self._punts.share(len(self._workers)))

    def run(self, max_frames: int | None = None) -> int:
        """Forward until every source is idle, or until about `max_frames` came in; returns how many did.

        Stepwise, also until a frame came for control. The GIL is free meanwhile. OSError where a port failed
        for good.
        """
        return sum(worker.engine.run(-1 if max_frames is None else max_frames) for worker in self._workers)

    def start(self, cpus: Sequence[int] = ()) -> None:
        """Let each worker forward in a thread of its own, pinned to its CPU of `cpus` if there are any."""
        if any(worker.thread for worker in self._workers):
            raise RuntimeError("the workers are running already")
        if cpus and len(cpus) != len(self._workers):
            raise ValueError(f"{len(cpus)} CPUs for {len(self._workers)} workers: expected one each, or none")
        for place, worker in enumerate(self._workers):
            worker.cpu = cpus[place] if cpus else None
            # daemon: a program that fails elsewhere must end, not wait for its workers
            worker.thread = threading.Thread(
                target=_work, args=(worker,), name=f"fastpath-{place}", daemon=True
            )
            worker.thread.start()

    def stop(self, drain_s: float = 0.0) -> None:
        """Stop the workers once nothing comes in any more, at the latest after `drain_s` seconds each."""
        for worker in self._workers:
            if worker.thread is not None:
                worker.engine.stop(round(drain_s * _NS))
        for worker in self._workers:
            if worker.thread is not None:
                worker.thread.join()
                worker.thread = None

    def failures(self) -> list[tuple[int, int, int]]:
        """(worker, place of the source, errno) of each source that can never receive again."""
        return [
            (number, *one) for number, worker in enumerate(self._workers) for one in worker.engine.failures()
        ]

    def statistics(self) -> Statistics:
        """All counters since the start, as of the last burst that each worker finished.

        A list that was removed is gone, with its count, and one that comes back counts from 0.
        """
        with self._changing:
            return self._counted()

    def _counted(self) -> Statistics:
        egresses = self._compiler.egresses
        n_places = min(1 + self._compiler.n_places, LISTS_MAX)
        counted = [worker.engine.counters(len(egresses), n_places) for worker in self._workers]
        replicated, punted, dropped = _sums([one["verdicts"] for one in counted])
        drops = _sums([one["drops"] for one in counted])
        ports = {id(port): port for worker in self._workers for port in worker.engine.ports}
        lost = self._lost_before + sum(port.ring_lost for port in ports.values())
        rows = (
            (reason, lost if reason.unit is Unit.RING else n)
            for reason, n in zip(REASONS, drops, strict=True)
        )
        frames = _sums([one["lists"] for one in counted])
        states = zip(*(one["egresses"] for one in counted), strict=True)
        used = (
            EgressCount(egress, *_sums(rows))
            for egress, rows in zip(egresses, states, strict=True)
            if any(row[0] or row[2] for row in rows)
        )
        workers = tuple(
            WorkerCount(
                worker=place,
                cpu=self._workers[place].cpu,
                received=one["received"],
                copies_out=one["copies_out"],
                trains=one["trains"],
                train_copies=one["train_copies"],
                bursts=one["bursts"],
                stages=tuple(StageTime(*row) for row in zip(STAGES, one["stage_ns"], strict=True)),
            )
            for place, one in enumerate(counted)
        )
        return Statistics(
            received=sum(one.received for one in workers),
            replicated=replicated,
            punted=punted,
            dropped=dropped,
            copies_out=sum(one.copies_out for one in workers),
            trains=sum(one.trains for one in workers),
            train_copies=sum(one.train_copies for one in workers),
            bursts=sum(one.bursts for one in workers),
            unknown_unicast=sum(one["unknown_unicast"] for one in counted),
            drops=tuple(DropCount(reason, n) for reason, n in rows if n),
            ports=tuple(
                PortCount(port.name, received, copies)
                for port, received, copies in zip(
                    self.layout.ports,
                    _sums([one["port_received"] for one in counted]),
                    _sums([one["port_copies"] for one in counted]),
                    strict=True,
                )
            ),
            egresses=tuple(used),
            lists=tuple(
                ListCount(key, frames[place] if place < LISTS_MAX else 0)
                for key, place in self._compiler.list_places
            ),
            stages=tuple(
                StageTime(*row)
                for row in zip(STAGES, _sums([one["stage_ns"] for one in counted]), strict=True)
            ),
            workers=workers,
        )


def _sums(rows: Sequence[Sequence[int]]) -> list[int]:
    return [sum(column) for column in zip(*rows, strict=True)]


def _ring(punts: Punts, n_workers: int) -> PuntRing:
    return PuntRing(punts.ring_size, *punts.share(n_workers), punts.stepwise)


def _place(workers: Sequence[Sequence[IoPort]]) -> None:
    """Tell each port its place among the ports of the layout."""
    for ports in workers:
        for place, port in enumerate(ports):
            port.index = place


def _work(worker: _Worker) -> None:
    if worker.cpu is not None:
        os.sched_setaffinity(0, {worker.cpu})
    worker.engine.work()

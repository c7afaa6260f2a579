"""The forwarder: ports, a FIB and an engine put together; what programs and `fastpath replay` use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fastpath._engine import Engine
from fastpath._port import IoPort
from fastpath.compiler import Columns, Compiler
from fastpath.model import GroupKey, Layout, ReplicationList
from fastpath.reasons import REASONS
from fastpath.statistics import DropCount, EgressCount, ListCount, PortCount, StageTime, Statistics

STAGES = ("receive", "classify", "replicate")


class Forwarder:
    """Forwards frames between `ports` (one per port of the layout, in its order) by replication lists.

    `sources` are what it receives from where that is not the ports themselves: a capture stands in for all
    of them. `batch` is the
    most frames that travel together, 1 to 256. With `trains`, ports that take super-frames get them. Not
    thread-safe, but for `publish` and `statistics` beside a running `run`.
    """

    def __init__(
        self,
        layout: Layout,
        ports: Sequence[IoPort],
        lists: Iterable[ReplicationList] = (),
        *,
        sources: Sequence[IoPort] | None = None,
        batch: int = 256,
        trains: bool = True,
    ) -> None:
        for place, port in enumerate(ports):
            port.index = place
        self.layout = layout
        self._compiler = Compiler(layout)
        self._engine = Engine(ports, ports if sources is None else sources, self._compiler.fib, batch, trains)
        self.publish(lists)

    def publish(self, lists: Iterable[ReplicationList], removed: Iterable[GroupKey] = ()) -> None:
        """Set some replication lists and remove others; the next burst takes all of it or, before, none."""
        self._engine.publish(self._compiler.change(lists, removed))

    def fill(self, columns: Columns) -> None:
        """Set the first lists, very many, from numpy columns."""
        self._engine.publish(self._compiler.fill(columns))

    @property
    def n_groups(self) -> int:
        """Number of replication lists."""
        return self._compiler.fib.n_groups

    @property
    def fib_bytes(self) -> int:
        """Memory of the replication lists and their headers."""
        return self._compiler.fib.memory_bytes

    @property
    def fibs_alive(self) -> int:
        """Published snapshots not yet freed; 1 when nothing runs."""
        return self._engine.fibs_alive

    def run(self, max_frames: int | None = None) -> int:
        """Forward until every source is idle, or until about `max_frames` came in; returns how many did.

        The GIL is free meanwhile. OSError where a port failed for good.
        """
        return self._engine.run(-1 if max_frames is None else max_frames)

    def statistics(self) -> Statistics:
        """All counters since the start, as of the end of the last burst."""
        counted = self._engine.counters()
        replicated, punted, dropped = counted["verdicts"]
        egresses = (
            EgressCount(egress, *self._engine.egress_counters(place))
            for place, egress in enumerate(self._compiler.egresses)
        )
        return Statistics(
            received=counted["received"],
            replicated=replicated,
            punted=punted,
            dropped=dropped,
            copies_out=counted["copies_out"],
            trains=counted["trains"],
            train_copies=counted["train_copies"],
            bursts=counted["bursts"],
            drops=tuple(
                DropCount(reason, n) for reason, n in zip(REASONS, counted["drops"], strict=True) if n
            ),
            ports=tuple(
                PortCount(port.name, received, copies)
                for port, received, copies in zip(
                    self.layout.ports, counted["port_received"], counted["port_copies"], strict=True
                )
            ),
            egresses=tuple(row for row in egresses if row.copies or row.dropped),
            lists=tuple(
                ListCount(key, self._engine.list_frames(place))
                for key, place in self._compiler.list_ids.items()
            ),
            stages=tuple(StageTime(*row) for row in zip(STAGES, counted["stage_ns"], strict=True)),
        )

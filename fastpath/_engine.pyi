from collections.abc import Iterable, Mapping, Sequence
from typing import Self, TypedDict

from fastpath._fib import Fib
from fastpath._learn import Learner
from fastpath._port import IoPort
from fastpath._punt import PuntRing

class _Counters(TypedDict):
    bursts: int
    received: int
    verdicts: list[int]
    drops: list[int]
    copies_out: int
    trains: int
    train_copies: int
    unknown_unicast: int
    stage_ns: list[int]
    port_received: list[int]
    port_copies: list[int]
    egresses: list[tuple[int, int, int]]
    lists: list[int]

class Engine:
    @property
    def ports(self) -> tuple[IoPort, ...]: ...
    @property
    def sources(self) -> tuple[IoPort, ...]: ...
    @property
    def fib(self) -> Fib: ...
    @property
    def punts(self) -> PuntRing | None: ...
    @property
    def learner(self) -> Learner | None: ...
    @property
    def wake_fd(self) -> int: ...
    @property
    def fibs_alive(self) -> int: ...
    def __new__(
        cls,
        ports: Sequence[IoPort],
        sources: Sequence[IoPort],
        fib: Fib,
        batch: int,
        trains: bool,
        punts: PuntRing | None = None,
        stepwise: bool = False,
        learner: Learner | None = None,
        share: int = 1,
    ) -> Self: ...
    def set_ports(self, ports: Iterable[IoPort], sources: Iterable[IoPort], fib: Fib) -> None: ...
    def publish(self, fib: Fib) -> None: ...
    def run(self, max_frames: int = -1) -> int: ...
    def work(self) -> None: ...
    def stop(self, drain_ns: int = 0) -> None: ...
    def set_punt_limits(self, rate_pps: int, burst: int) -> None: ...
    def set_stations(
        self, rows: Mapping[int, tuple[tuple[int, int] | None, int, int]], restarted: Iterable[int] = ()
    ) -> None: ...
    def forget_lists(self, places: Iterable[int]) -> None: ...
    def failures(self) -> list[tuple[int, int]]: ...
    def counters(self, n_egresses: int = 0, n_lists: int = 0) -> _Counters: ...

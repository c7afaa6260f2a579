from collections.abc import Sequence
from typing import Self, TypedDict

from fastpath._fib import Fib
from fastpath._port import IoPort

class _Counters(TypedDict):
    bursts: int
    received: int
    verdicts: list[int]
    drops: list[int]
    copies_out: int
    trains: int
    train_copies: int
    stage_ns: list[int]
    port_received: list[int]
    port_copies: list[int]

class Engine:
    @property
    def ports(self) -> tuple[IoPort, ...]: ...
    @property
    def sources(self) -> tuple[IoPort, ...]: ...
    @property
    def fib(self) -> Fib: ...
    @property
    def fibs_alive(self) -> int: ...
    def __new__(
        cls, ports: Sequence[IoPort], sources: Sequence[IoPort], fib: Fib, batch: int, trains: bool
    ) -> Self: ...
    def publish(self, fib: Fib) -> None: ...
    def run(self, max_frames: int = -1) -> int: ...
    def counters(self) -> _Counters: ...
    def egress_counters(self, egress: int) -> tuple[int, int, int]: ...
    def list_frames(self, place: int) -> int: ...

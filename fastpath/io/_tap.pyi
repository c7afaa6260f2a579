from typing import Self

from fastpath._port import IoPort

class TapIo(IoPort):
    @property
    def device(self) -> str: ...
    @property
    def ifindex(self) -> int: ...
    @property
    def ring_lost(self) -> int: ...
    @property
    def transmits(self) -> str: ...
    @property
    def why(self) -> str: ...
    def __new__(
        cls,
        device: str,
        *,
        multi_queue: bool = ...,
        trains: bool = ...,
        counts_losses: bool = ...,
    ) -> Self: ...
    def close(self) -> None: ...

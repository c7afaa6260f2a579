from collections.abc import Sequence
from typing import Self

from fastpath._port import IoPort

class PacketIo(IoPort):
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
        ring_frames: int = ...,
        trains: bool = ...,
        all_multicast: bool = ...,
        vms: bool = ...,
        fanout: int | None = ...,
        program: Sequence[tuple[int, int, int, int]] | None = ...,
    ) -> Self: ...
    def attach_filter(self, program: Sequence[tuple[int, int, int, int]] | None) -> None: ...
    def send(self, frame: bytes) -> None: ...
    def close(self) -> None: ...

from collections.abc import Sequence

from fastpath._port import IoPort

class XdpIo(IoPort):
    @property
    def transmits(self) -> str: ...
    @property
    def receives(self) -> str: ...
    @property
    def why(self) -> str: ...
    @property
    def sockets(self) -> list[tuple[int, int]]: ...
    @property
    def ring_lost(self) -> int: ...
    def __init__(
        self,
        packet: IoPort,
        device: str,
        *,
        queues: Sequence[int] = ...,
        frames: int = ...,
        receive: bool = ...,
    ) -> None: ...
    def close(self) -> None: ...

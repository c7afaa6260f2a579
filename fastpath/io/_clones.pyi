from array import array
from mmap import mmap

from fastpath._port import IoPort

TURNS: int
RECORD_SIZE: int
IFINDEX_AT: int
OUTCOME_AT: int
HEAD_AT: int
HEAD_ROOM: int
HEAD_SIZE_MIN: int
MAGIC: int
UNTOLD: int

class ClonesIo(IoPort):
    segments: bool
    @property
    def transmits(self) -> str: ...
    @property
    def why(self) -> str: ...
    @property
    def ring_lost(self) -> int: ...
    def __init__(
        self,
        below: IoPort,
        fd: int,
        table: mmap | bytearray,
        counts: array[int],
        device: str,
        *,
        singles: bool = ...,
    ) -> None: ...
    def send(self, frame: bytes) -> None: ...
    def close(self) -> None: ...

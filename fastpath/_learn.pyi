from typing import Self

from fastpath._mac import MacTable
from fastpath._punt import PuntRing

class Learner:
    @property
    def macs(self) -> MacTable: ...
    @property
    def ring(self) -> PuntRing: ...
    def __new__(cls, macs: MacTable, ring: PuntRing) -> Self: ...

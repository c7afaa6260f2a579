from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fastpath._layout import LayoutTable

_Words: TypeAlias = tuple[int, int, int, int, int]
_Change: TypeAlias = tuple[_Words, None] | tuple[_Words, Sequence[int], Sequence[int], Sequence[int], int]

class Fib:
    @property
    def layout(self) -> LayoutTable: ...
    @property
    def revision(self) -> int: ...
    @property
    def n_groups(self) -> int: ...
    @property
    def n_egresses(self) -> int: ...
    @property
    def memory_bytes(self) -> int: ...
    @staticmethod
    def empty(layout: LayoutTable) -> Fib: ...
    def with_changes(
        self, layout: LayoutTable, egresses: Mapping[int, bytes], changes: Iterable[_Change]
    ) -> Fib: ...
    def with_columns(
        self,
        layout: LayoutTable,
        egresses: Mapping[int, bytes],
        keys: npt.NDArray[np.uint64],
        order: npt.NDArray[np.int64],
        offsets: npt.NDArray[np.uint32],
        n_local: npt.NDArray[np.uint32],
        ids: npt.NDArray[np.uint32],
        number_offsets: npt.NDArray[np.uint32],
        numbers: npt.NDArray[np.uint32],
    ) -> Fib: ...
    def find(self, words: _Words) -> tuple[list[int], list[int], list[int]] | None: ...

def hash_keys(keys: npt.NDArray[np.uint64], out: npt.NDArray[np.uint64]) -> None: ...

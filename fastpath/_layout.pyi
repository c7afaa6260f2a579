from collections.abc import Callable
from typing import Self

from fastpath.model import IPAddress, Layout

class LayoutTable:
    @property
    def model(self) -> Layout: ...
    def __new__(cls, model: Layout, owner_id: Callable[[int | None, IPAddress], int]) -> Self: ...

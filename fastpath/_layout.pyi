from collections.abc import Callable

from fastpath.model import IPAddress, Layout

class LayoutTable:
    @property
    def model(self) -> Layout: ...
    def __new__(cls, model: Layout, owner_id: Callable[[int | None, IPAddress], int]) -> LayoutTable: ...

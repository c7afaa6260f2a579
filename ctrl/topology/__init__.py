"""Who must tunnel what to whom: from all second information to the entries of each node. Pure."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ctrl.topology.topology import Allocation, Dirty, Settings, Topology

__all__ = ["Allocation", "Dirty", "Settings", "Topology"]


def __getattr__(name: str) -> object:
    """Load what managers alone need when it is asked for: nodes want `entry` at their start, and no more."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("ctrl.topology.topology"), name)

"""Userspace multicast replication for VXLAN and NVGRE overlays: the Python face of the compiled data path.

A `Forwarder` takes frames from ports, finds the replication list of each and sends the copies; `Layout`,
`ReplicationList` and `Egress` of `fastpath.model` say how. See the README for a runnable example.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastpath.columns import Columns
    from fastpath.compiler import Compiler
    from fastpath.errors import CaptureError, FormatError
    from fastpath.forwarder import Forwarder
    from fastpath.ports import MemoryPort, PcapSink, PcapSource
    from fastpath.punts import Inner, Punted, Punts
    from fastpath.stations import Learned
    from fastpath.statistics import Statistics

__all__ = [
    "CaptureError",
    "Columns",
    "Compiler",
    "FormatError",
    "Forwarder",
    "Inner",
    "Learned",
    "MemoryPort",
    "PcapSink",
    "PcapSource",
    "Punted",
    "Punts",
    "Statistics",
]

# Where each name lives. Imported when asked for: `fastpath.model` alone must not cost numpy and the
# compiled modules.
_HOMES = {
    "CaptureError": "fastpath.errors",
    "Columns": "fastpath.columns",
    "Compiler": "fastpath.compiler",
    "FormatError": "fastpath.errors",
    "Forwarder": "fastpath.forwarder",
    "Inner": "fastpath.punts",
    "Learned": "fastpath.stations",
    "MemoryPort": "fastpath.ports",
    "PcapSink": "fastpath.ports",
    "PcapSource": "fastpath.ports",
    "Punted": "fastpath.punts",
    "Punts": "fastpath.punts",
    "Statistics": "fastpath.statistics",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

"""The manager: from the second information of all nodes to the instructions of each. Pure.

After US 9,838,462 steps 703 and 704."""

from ctrl.roles.manager.manager import Manager
from ctrl.roles.manager.values import (
    BUCKETS_S,
    Convergence,
    DeviceRow,
    ManagerSettings,
    SessionRow,
)

__all__ = [
    "BUCKETS_S",
    "Convergence",
    "DeviceRow",
    "Manager",
    "ManagerSettings",
    "SessionRow",
]

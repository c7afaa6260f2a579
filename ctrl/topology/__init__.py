"""Who must tunnel what to whom: from all second information to the entries of each node. Pure."""

from ctrl.topology.points import Allocation, Settings
from ctrl.topology.topology import Dirty, Topology

__all__ = ["Allocation", "Dirty", "Settings", "Topology"]

"""Links and next hops, followed by netlink: which device, gateway and MAC an address is reached by now."""

from ctrl.netlink.model import Link, NextHop, View
from ctrl.netlink.watch import Watch

__all__ = ["Link", "NextHop", "View", "Watch"]

"""The forwarding process: live ports, the kernel's routes and neighbours, signals, and who may ask about it.

`daemon` composes, `ports` opens and closes what carries frames, `reach` works out (purely) what a config
means on this kernel at this moment.
"""

from ctrl.daemon.daemon import Daemon
from ctrl.daemon.refusing import StartError

__all__ = ["Daemon", "StartError"]

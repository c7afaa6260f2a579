"""The control socket: `fastpath show`, `monitor`, `notify`, `explain` and Prometheus reach a box through it.

Imported where it is served, as it brings aiohttp and prometheus_client.
"""

from ctrl.control.box import Box
from ctrl.control.listen import ControlError
from ctrl.control.server import serving

__all__ = ["Box", "ControlError", "serving"]

"""The control socket: `fastpath show` and Prometheus look at a running box through it.

Imported where it is served, as it brings aiohttp and prometheus_client.
"""

from ctrl.control.listen import ControlError
from ctrl.control.server import serving

__all__ = ["ControlError", "serving"]

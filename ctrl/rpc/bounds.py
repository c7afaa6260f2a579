"""What one message may hold at most, as `fabric.proto` publishes it; both sides keep to it, and check it.

How much there may be of all (groups of a node, peers of a group) is counted and refused key by key where it
is known, by managers and nodes.
"""

import re

MAX_MESSAGE = 1 << 20
"""Bytes."""
MAX_KEYS = 4096
"""In one message."""
MAX_NETWORKS = 4096
"""Of one key: VNIs, VSIDs, ranges."""
MAX_WHY = 256
"""Characters of a reason."""
PART = 1 << 18
"""Bytes after which a message is cut where it can be: no session waits long for another's."""

MAX_NUMBER = (1 << 63) - 1
MAX_NETWORK = 0xFFFFFF
MAX_KEEPALIVE_S = 3600
SIZES = frozenset((4, 16))
"""Bytes of an address, and of a group."""
TUNNELS = ("nested", "rewrite")
NAME = re.compile(r"[!-.0-~]{1,64}")
STORE = re.compile(r"[!-~]{0,128}")

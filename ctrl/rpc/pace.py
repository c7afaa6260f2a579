"""How fast one session may speak: an allowance that refills with time (a token bucket). Without a clock."""

from __future__ import annotations

BYTES_PER_UNIT = 2048


class Pace:
    """Units, of which a message costs one and one more for each 2,048 bytes; `burst` of them at most."""

    def __init__(self, rate: float, burst: float, now_s: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._since_s = now_s

    def charge(self, size: int, now_s: float) -> float:
        """Pay for a message of so many bytes, return for how long (s) no other is to be read."""
        self._left = min(self._burst, self._left + (now_s - self._since_s) * self._rate)
        self._since_s = now_s
        self._left -= 1 + size // BYTES_PER_UNIT
        return max(0.0, -self._left / self._rate)

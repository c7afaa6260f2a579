"""How a process is told to end, or to read its config anew; and how it ends when something broke."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable


def hear_signals(stopping: asyncio.Event, reloading: asyncio.Event) -> Callable[[], None]:
    """Set an event for each signal from now on: SIGTERM, SIGINT; SIGHUP. Gives what ends it."""
    loop = asyncio.get_running_loop()
    heard = {signal.SIGTERM: stopping, signal.SIGINT: stopping, signal.SIGHUP: reloading}
    for number, event in heard.items():
        loop.add_signal_handler(number, event.set)

    def end() -> None:
        for number in heard:
            loop.remove_signal_handler(number)

    return end


def leaf(group: ExceptionGroup[Exception]) -> Exception:
    """The first that broke."""
    first = group.exceptions[0]
    return leaf(first) if isinstance(first, ExceptionGroup) else first

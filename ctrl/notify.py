"""Tell the service manager how we are: sd_notify(3), which is a datagram to the socket it named for us.

Without NOTIFY_SOCKET in the environment all of this does nothing. Nothing here waits or raises: that the
manager cannot be told is logged, and stops nobody.
"""

from __future__ import annotations

import logging
import os
import socket
import time

__all__ = ["ready", "reloading", "status", "stopping", "watchdog"]

LOG = logging.getLogger("fastpath.notify")


def ready(text: str = "") -> None:
    """Say that we forward: after the start, and after each reload, whether it was accepted or refused."""
    _tell("READY=1", *_status(text))


def reloading() -> None:
    """Say that the configuration is read again; `ready` ends it. The time is for Type=notify-reload."""
    _tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping(text: str = "") -> None:
    """Say that we drain and end."""
    _tell("STOPPING=1", *_status(text))


def status(text: str) -> None:
    """Show a sentence in `systemctl status`."""
    _tell(*_status(text))


def watchdog() -> None:
    """Say that we are alive, if the manager watches this process; at least twice in WATCHDOG_USEC."""
    own = str(os.getpid())
    granted = os.environ.get("WATCHDOG_USEC", "")
    if granted.isdecimal() and int(granted) and os.environ.get("WATCHDOG_PID", own) == own:
        _tell("WATCHDOG=1")


def _status(text: str) -> list[str]:
    return [f"STATUS={' '.join(text.split())}"] if text else []


def _tell(*assignments: str) -> None:
    named = os.environ.get("NOTIFY_SOCKET", "")
    if not named or not assignments:
        return
    # A name in the abstract namespace begins with a zero byte, which no environment can hold.
    address = "\0" + named[1:] if named[0] == "@" else named
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.setblocking(False)
            manager.sendto("\n".join(assignments).encode(), address)
    except OSError as error:
        LOG.warning(
            "service manager not told what=%s socket=%s why=%s", assignments[0], named, error.strerror
        )

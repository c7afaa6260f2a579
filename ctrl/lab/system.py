"""The system calls of a lab that Python 3.11 has no names for. Imports the standard library alone."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1

P = ParamSpec("P")
T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


def become_root_of_own() -> None:
    """Move this process, which must have one thread, into a user namespace in which it is root.

    OSError where that is not allowed. Files are reached as before: to those outside we remain who we are.
    """
    user, group = os.geteuid(), os.getegid()
    _check(_libc.unshare(CLONE_NEWUSER), "a user namespace")
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")  # else gid_map is refused
    Path("/proc/self/uid_map").write_text(f"0 {user} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1", encoding="ascii")


def join_user_of(pid: int) -> None:
    """Join the user namespace of a process, if it is another; this process must have one thread."""
    theirs = f"/proc/{pid}/ns/user"
    if not Path(theirs).samefile("/proc/self/ns/user"):
        _join(theirs, CLONE_NEWUSER)


def join_net(path: str) -> None:
    """Move the calling thread, and all that it starts, into the network namespace behind a path."""
    _join(path, CLONE_NEWNET)


def run_in(path: str, function: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
    """Call a function in a network namespace; the sockets that it opens belong there, and work anywhere."""

    def call() -> T:
        join_net(path)
        return function(*args, **named)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result()


def die_with_parent() -> None:
    """Have this process told to end (SIGTERM) when the thread that started it is gone, killed or not."""
    _check(_libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0), "prctl")


def _join(path: str, kind: int) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(fd, kind), path)
    finally:
        os.close(fd)


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)

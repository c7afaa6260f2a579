"""Give up what the process does not need: all capabilities but CAP_NET_RAW and CAP_NET_ADMIN, for ever.

Call `drop` when files, sockets and programs are open that take more than these two, and *before any thread
starts*: capabilities and no_new_privs belong to a thread. One that starts later inherits them, one that runs
already keeps what it has, and no system call changes another's. So `drop` refuses while such a thread runs.
Mind numpy: on import, OpenBLAS starts threads, unless OPENBLAS_NUM_THREADS=1 is in the environment by then.

Started as root or by a service manager, in a user namespace or outside, it is the same: what is there is cut
down, what is not there is not asked for. `missing` then names what the process cannot do, and what follows.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pwd
import resource
import socket
import struct
import threading
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from fastpath import bpf

__all__ = ["KEPT", "Capability", "drop", "missing"]


class Capability(IntEnum):
    """Those that are spoken of here, as in linux/capability.h."""

    SETGID = 6
    SETUID = 7
    SETPCAP = 8
    NET_ADMIN = 12
    NET_RAW = 13
    IPC_LOCK = 14
    SYS_ADMIN = 21
    BPF = 39


KEPT = frozenset({Capability.NET_ADMIN, Capability.NET_RAW})
"""Links, nf_tables, TAPs; packet and XDP sockets."""

_KEEPCAPS, _CAPBSET_DROP, _NO_NEW_PRIVS, _AMBIENT = 8, 24, 38, 47  # linux/prctl.h
_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
_RCVBUFFORCE = 33
_INITIAL_USER_NAMESPACE = 0xEFFFFFFD  # linux/proc_ns.h
_RING_MEMORY = 64 << 20

_libc = ctypes.CDLL(None, use_errno=True)


class _Rights(NamedTuple):
    """What a thread holds: capabilities as bits, and whether it can get no more of them."""

    permitted: int
    effective: int
    no_new_privs: bool


def drop(user: str | None = None, *, also: Iterable[Capability] = ()) -> None:
    """Keep, of what the process holds, `KEPT` and `also`; become `user`, where one is named.

    Programs started from now on get no capabilities, or as root these. LookupError if there is no such user;
    PermissionError if the process may not become it; RuntimeError if a thread runs already that would keep
    more.
    """
    kept = sum(1 << number for number in KEPT | set(also))
    account = None if user is None else _account(user)
    _refuse_threads(kept)
    held = _rights("thread-self")
    if held.effective >> Capability.SETPCAP & 1:
        _narrow_bounds(kept)
    if account is not None and account.pw_uid != os.getuid():
        _become(account)
    _set_capabilities(held.permitted & kept)
    _prctl(_AMBIENT, _AMBIENT_CLEAR_ALL)
    _prctl(_NO_NEW_PRIVS, 1)


def missing() -> list[str]:
    """Name what the process cannot do now, one sentence each; by trying where that leaves nothing behind."""
    found = []
    held = _rights("thread-self").effective
    if not held >> Capability.NET_RAW & 1:
        found.append("no live ports: packet and XDP sockets take CAP_NET_RAW")
    if not held >> Capability.NET_ADMIN & 1:
        found.append("frames also reach the kernel's stack, and TAPs cannot be made: both take CAP_NET_ADMIN")
    if reason := bpf.available():
        found.append(f"no XDP filter and no in-kernel clones: {reason}")
    if reason := _no_tap():
        found.append(f"no TAP ports: {reason}")
    if not _can_force_buffers():
        found.append(
            "socket buffers end at net.core.rmem_max and wmem_max: more takes CAP_NET_ADMIN outside of user"
            " namespaces"
        )
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    outside = Path("/proc/self/ns/user").stat().st_ino == _INITIAL_USER_NAMESPACE
    unlimited = locked == resource.RLIM_INFINITY or (outside and held >> Capability.IPC_LOCK & 1)
    if not unlimited and locked < _RING_MEMORY:
        found.append(
            f"AF_XDP buffers end at {locked >> 10} KiB for all ports: raise RLIMIT_MEMLOCK (LimitMEMLOCK=)"
        )
    return found


def _account(user: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(user)
    except KeyError:
        raise LookupError(
            f"user {user!r} does not exist: make it with systemd-sysusers, or adduser"
        ) from None


def _refuse_threads(kept: int) -> None:
    own = str(threading.get_native_id())
    richer = []
    for task in Path("/proc/self/task").iterdir():
        if task.name == own:
            continue
        try:
            rights = _rights(f"self/task/{task.name}")
            name = (task / "comm").read_text(encoding="utf-8").strip()
        except FileNotFoundError:  # it has just ended
            continue
        if rights.permitted & ~kept or not rights.no_new_privs:
            richer.append(f"{name} ({task.name})")
    if richer:
        raise RuntimeError(
            f"privileges are dropped before threads start, and these run already: {', '.join(sorted(richer))}"
        )


def _rights(process: str) -> _Rights:
    lines = Path("/proc", process, "status").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return _Rights(int(fields["CapPrm"], 16), int(fields["CapEff"], 16), fields["NoNewPrivs"] == "1")


def _narrow_bounds(kept: int) -> None:
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text(encoding="utf-8"))
    for number in range(last + 1):
        if not kept >> number & 1:
            _prctl(_CAPBSET_DROP, number)


def _become(account: pwd.struct_passwd) -> None:
    _prctl(_KEEPCAPS, 1)  # the permitted ones survive; the effective ones are set again afterwards
    try:
        os.initgroups(account.pw_name, account.pw_gid)
        os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
        os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    except OSError as error:
        raise PermissionError(
            error.errno, f"cannot become user {account.pw_name} ({account.pw_uid}): {error.strerror}"
        ) from error
    _prctl(_KEEPCAPS, 0)


def _set_capabilities(kept: int) -> None:
    """Hold these, effective and permitted, and let nobody inherit any. In this thread."""
    low, high = kept & 0xFFFFFFFF, kept >> 32
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), 8)
    sets = ctypes.create_string_buffer(struct.pack("=6I", low, low, 0, high, high, 0), 24)
    if _libc.capset(header, sets) != 0:
        raise _failure("capset")


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, *(ctypes.c_ulong(value) for value in (argument, 0, 0, 0))) < 0:
        raise _failure(f"prctl {option}")


def _failure(what: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{what}: {os.strerror(code)}")


def _no_tap() -> str | None:
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"/dev/net/tun: {error.strerror}"
    return None


def _can_force_buffers() -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 1 << 16)
        except OSError as error:
            if error.errno != errno.EPERM:
                raise
            return False
    return True

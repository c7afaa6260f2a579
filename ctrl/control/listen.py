"""The sockets that are served: a file that appears once it answers, and a TCP port.

1. The file is bound under a name beside its own, given its mode and group, and renamed once it listens. So
   nobody ever finds it closed, too open, or half of it; rename replaces what a dead process left there.
2. Who holds the name is told by asking: a dead process's file refuses, a live one's does not.
3. At the end the file is removed only if it is still ours: a successor may have taken the name.
"""

from __future__ import annotations

import grp
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ctrl.config.values import HostPort

GROUP = "fastpath"
_ASK_S = 1.0


class ControlError(Exception):
    """The control socket, or the address of the metrics, cannot be had; the text says which and why.

    `is_allowed`: it is not a matter of permissions.
    """

    def __init__(self, sentence: str, *, is_allowed: bool = True) -> None:
        super().__init__(sentence)
        self.is_allowed = is_allowed


class SocketFile:
    """A unix socket on its way to its name: bound, then listening (the caller's part), then `publish`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made = path.with_name(f"{path.name}.{os.getpid()}")
        self._identity: tuple[int, int] | None = None
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._made.unlink(missing_ok=True)
            self.sock.bind(str(self._made))
            self._identity = _identity(self._made)
            with suppress(KeyError, PermissionError):  # not there, or not one of ours: the owner alone then
                os.chown(self._made, -1, grp.getgrnam(GROUP).gr_gid)
            self._made.chmod(0o660)
        except BaseException:
            self.close()
            raise

    def publish(self) -> None:
        """Take the name, now that the socket listens."""
        self._made.rename(self.path)

    def close(self) -> None:
        """Remove what of it is there, and is still ours."""
        self.sock.close()
        with suppress(OSError):
            self._made.unlink()
        with suppress(OSError):
            if _identity(self.path) == self._identity:
                self.path.unlink()


@dataclass(frozen=True, slots=True)
class Sockets:
    """What is bound and not answered yet: whoever takes the sockets listens, and publishes the file."""

    file: SocketFile | None
    tcp: socket.socket | None


@contextmanager
def sockets(path: str, http: HostPort | None) -> Iterator[Sockets]:
    """Bind both for as long as the context lasts; "" and None leave one out. ControlError if one cannot be
    had, or another process answers there."""
    with ExitStack() as stack:
        file = stack.enter_context(socket_file(Path(path))) if path else None
        tcp = stack.enter_context(bound(http)) if http else None
        yield Sockets(file, tcp)


@contextmanager
def socket_file(path: Path) -> Iterator[SocketFile]:
    """Bind a socket that is to be found at `path`; ControlError where it cannot be, or another answers."""
    try:
        _make_parent(path.parent)
        _refuse_taken(path)
        file = SocketFile(path)
    except OSError as error:
        is_allowed = not isinstance(error, PermissionError)
        sentence = f"{path}: the control socket cannot be made: {_why(error)}"
        raise ControlError(sentence, is_allowed=is_allowed) from None
    try:
        yield file
    finally:
        file.close()


def bound(http: HostPort) -> socket.socket:
    """Bind a TCP socket; ControlError where the address cannot be had."""
    sock = socket.socket(socket.AF_INET6 if http.is_ipv6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((str(http.host), http.port))
    except OSError as error:
        sock.close()
        raise ControlError(
            f"{http}: the metrics cannot be served there: {_why(error)}; give [control] another http, or "
            '"" for none'
        ) from None
    return sock


def _make_parent(parent: Path) -> None:
    if not parent.exists():
        parent.mkdir(parents=True)
        parent.chmod(0o755)  # whatever the umask: the group has to reach the socket


def _refuse_taken(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ControlError(f"{path}: is there already, and is no socket; the control socket needs the name")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
        asked.settimeout(_ASK_S)
        try:
            asked.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except (TimeoutError, BlockingIOError):
            pass  # a full queue: someone alive is behind it
    raise ControlError(f"{path}: another fastpath answers there; give one of them another node or socket")


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def _why(error: OSError) -> str:
    return error.strerror or str(error)

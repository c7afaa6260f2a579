"""How commands ask a running box: HTTP by hand over its control socket, and what is said where none answers.

Imports neither aiohttp nor numpy nor pydantic, nor anything that does: a command answers within 150 ms.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import click

NO, MISUSED, NO_DAEMON, NOT_ALLOWED = 1, 2, 3, 4
SOCKETS = Path("/run/fastpath")
WAIT_S = 10.0
SILENCE_S = 45.0
"""A box that says nothing for so long to who watches it is gone: it has three empty lines to say."""

socket_option = click.option(
    "-s",
    "--socket",
    "path",
    metavar="SOCKET",
    envvar="FASTPATH_SOCKET",
    type=click.Path(path_type=Path),
    help="The control socket; otherwise FASTPATH_SOCKET, or the only one in /run/fastpath.",
)


class NotAnswered(Exception):
    """Why there is no answer, and the exit code that says so."""

    def __init__(self, code: int, sentence: str) -> None:
        self.code = code
        super().__init__(sentence)


@contextmanager
def ending(command: str) -> Iterator[None]:
    """End the process as NotAnswered says, with its sentence."""
    try:
        yield
    except NotAnswered as why:
        fail(command, str(why), why.code)


def fail(command: str, sentence: str, code: int = MISUSED) -> NoReturn:
    """Say why, and end the process."""
    click.echo(f"fastpath {command}: {sentence}", err=True)
    raise SystemExit(code)


def hint(word: str, legal: Iterable[str]) -> str:
    """The nearest legal word, as the end of a sentence."""
    from difflib import get_close_matches  # noqa: PLC0415  only misuse needs it

    close = get_close_matches(word, list(legal), n=1)
    return f'; did you mean "{close[0]}"?' if close else ""


def socket_of(path: Path | None) -> Path:
    """The socket to ask: the one given, or the only one there is."""
    return path or only_socket(SOCKETS)


def only_socket(folder: Path) -> Path:
    """The socket to ask where none is given: of several, the only one behind which someone is."""
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix == ".sock")
    except FileNotFoundError:
        found = []
    except PermissionError:
        raise NotAnswered(NOT_ALLOWED, f"{folder}: may not be looked into; be root or in its group") from None
    if len(found) > 1:
        found = [path for path in found if _is_alive(path)]
    if not found:
        raise NotAnswered(NO_DAEMON, f"no daemon answers in {folder}; is `fastpath run` running?")
    if len(found) > 1:
        names = ", ".join(map(str, found))
        raise NotAnswered(MISUSED, f"several daemons are here: {names}; say which with -s")
    return found[0]


def get(path: Path, page: str) -> Any:
    """Get what a page holds; NotAnswered if that is not to be."""
    return _json(path, "GET", page)


def post(path: Path, page: str, body: bytes) -> Any:
    """Post a body, and get the answer; NotAnswered if that is not to be, with MISUSED if the body is why."""
    return _json(path, "POST", page, body)


def lines(path: Path, page: str) -> Iterator[str]:
    """Get the lines of a page that does not end, but for the empty ones; NotAnswered when it does."""
    with _asked(path, "GET", page, wait_s=SILENCE_S) as (status, answer):
        if status != 200:
            raise _refusal(path, status, answer.read())
        for line in answer:
            if not line.endswith(b"\n"):
                break
            if line.strip():
                yield line.decode().rstrip()
    raise NotAnswered(NO_DAEMON, f"{path}: the daemon has gone")


def _json(path: Path, method: str, page: str, body: bytes = b"") -> Any:
    with _asked(path, method, page, body) as (status, answer):
        text = answer.read()
        if status != 200:
            raise _refusal(path, status, text)
        return json.loads(text)


def _refusal(path: Path, status: int, text: bytes) -> NotAnswered:
    """What the box said to why not: a sentence, or nothing at all where it has no time for one."""
    if status == 503 and not text:
        return NotAnswered(NO_DAEMON, f"{path}: the daemon has too many askers; try again")
    code = {400: MISUSED, 413: MISUSED, 503: NO_DAEMON}.get(status, NO)
    return NotAnswered(code, f"{path}: {json.loads(text)['error']}")


@contextmanager
def _asked(
    path: Path, method: str, page: str, body: bytes = b"", wait_s: float | None = None
) -> Iterator[tuple[int, BinaryIO]]:
    """Ask for a page by HTTP/1.0, whose answers end where the connection does: status, and where to read on.

    By hand, because http.client takes a fifth of the time that the whole command has.
    """
    length = f"Content-Length: {len(body)}\r\n" if method == "POST" else ""
    try:
        with _connected(path) as connection, connection.makefile("rb") as answer:
            connection.sendall(f"{method} {page} HTTP/1.0\r\nHost: fastpath\r\n{length}\r\n".encode() + body)
            status = _status(answer)
            connection.settimeout(wait_s or WAIT_S)
            yield status, answer
    except PermissionError:
        raise NotAnswered(
            NOT_ALLOWED, f"{path}: you may not ask this daemon; be root or in group fastpath"
        ) from None
    except TimeoutError:
        raise NotAnswered(NO_DAEMON, f"{path}: no answer within {wait_s or WAIT_S:g} s") from None
    except OSError as error:
        raise NotAnswered(NO_DAEMON, f"{path}: no daemon answers: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError):
        raise NotAnswered(NO_DAEMON, f"{path}: what answers is no fastpath") from None


def _status(answer: BinaryIO) -> int:
    """Read the head of an answer; ValueError if it is no HTTP."""
    version, _, rest = answer.readline().partition(b" ")
    if not version.startswith(b"HTTP/"):
        raise ValueError
    while answer.readline().strip():
        pass
    return int(rest[:3])


def _connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(WAIT_S)
    try:
        connection.connect(str(path))
    except BaseException:
        connection.close()
        raise
    return connection


def _is_alive(path: Path) -> bool:
    try:
        _connected(path).close()
    except PermissionError:
        return True
    except OSError:
        return False
    return True

"""`fastpath show OBJECT [KEY VALUE]...`: look into a running box through its control socket.

Imports neither aiohttp nor numpy nor pydantic, nor anything that does: it answers within 150 ms.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlencode

import click

from ctrl.objects import OBJECTS, schema
from ctrl.table import Row, table

NO, MISUSED, NO_DAEMON, NOT_ALLOWED = 1, 2, 3, 4
SOCKETS = Path("/run/fastpath")
WAIT_S = 10.0
_CLEAR = "\x1b[H\x1b[2J"


class NotAnswered(Exception):
    """Why there is nothing to show, and the exit code that says so."""

    def __init__(self, code: int, sentence: str) -> None:
        self.code = code
        super().__init__(sentence)


@click.command("show")
@click.argument("object_", metavar="OBJECT", required=False)
@click.argument("pairs", metavar="[KEY VALUE]...", nargs=-1)
@click.option("-j", "--json", "as_json", is_flag=True, help="Print a JSON array of flat objects.")
@click.option(
    "-w",
    "--watch",
    "every_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0.1),
    help="Show it again and again, until Ctrl-C.",
)
@click.option(
    "-s",
    "--socket",
    "path",
    metavar="SOCKET",
    envvar="FASTPATH_SOCKET",
    type=click.Path(path_type=Path),
    help="The control socket; otherwise FASTPATH_SOCKET, or the only one in /run/fastpath.",
)
@click.option("--schema", "wants_schema", is_flag=True, help="Print the JSON schema of what -j prints.")
def show(
    object_: str | None,
    pairs: tuple[str, ...],
    as_json: bool,
    every_s: float | None,
    path: Path | None,
    wants_schema: bool,
) -> None:
    """Show an OBJECT of a running box, one line an entry: status, ports, networks, groups, tunnels, drops,
    runtime or config.

    KEY VALUE keeps the entries that have the value under the key, `-` for nothing: keys are those of -j, the
    headings in small letters. A list has a value if one of its items is that.

    Exits with 1 if KEY VALUE leaves no entry, with 3 if no daemon answers, with 4 if it may not be asked.
    """
    if wants_schema:
        click.echo(json.dumps(schema(), indent=2))
        return
    name, filters = _wanted(object_, pairs)
    try:
        socket_path = path or only_socket(SOCKETS)
        if every_s is None:
            rows = ask(socket_path, name, filters)
            click.echo(_printed(name, rows, as_json=as_json, indent=2))
            if filters and not rows:
                raise SystemExit(NO)
        else:
            _watch(socket_path, name, filters, every_s, as_json=as_json)
    except NotAnswered as why:
        _say(str(why))
        raise SystemExit(why.code) from None


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


def ask(path: Path, name: str, filters: list[tuple[str, str]]) -> list[Row]:
    """Get the rows of an object; NotAnswered if that is not to be."""
    try:
        status, body = _get(path, f"/v1/{name}{'?' if filters else ''}{urlencode(filters)}")
        answer: Any = {} if status == 503 else json.loads(body)
    except PermissionError:
        raise NotAnswered(
            NOT_ALLOWED, f"{path}: you may not ask this daemon; be root or in group fastpath"
        ) from None
    except TimeoutError:
        raise NotAnswered(NO_DAEMON, f"{path}: no answer within {WAIT_S:g} s") from None
    except OSError as error:
        raise NotAnswered(NO_DAEMON, f"{path}: no daemon answers: {error.strerror or error}") from None
    except ValueError:
        raise NotAnswered(NO_DAEMON, f"{path}: what answers is no fastpath") from None
    if status == 503:
        raise NotAnswered(NO_DAEMON, f"{path}: the daemon has too many askers; try again")
    if status != 200:
        raise NotAnswered(NO, f"{path}: {answer.get('error')}")
    rows: list[Row] = answer
    return rows


def _get(path: Path, page: str) -> tuple[int, bytes]:
    """Ask for a page by HTTP/1.0, whose answers end where the connection does: status and body.

    By hand, because http.client takes a fifth of the time that the whole command has. ValueError for an
    answer that is no HTTP.
    """
    with _connected(path) as connection:
        connection.sendall(f"GET {page} HTTP/1.0\r\nHost: fastpath\r\n\r\n".encode())
        answer = bytearray()
        while part := connection.recv(1 << 16):
            answer += part
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    version, _, rest = head.partition(b" ")
    if not version.startswith(b"HTTP/"):
        raise ValueError
    return int(rest[:3]), body


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


def _wanted(object_: str | None, pairs: tuple[str, ...]) -> tuple[str, list[tuple[str, str]]]:
    """The object and the filters, or an error that says what could have been meant."""
    if object_ is None:
        _fail(f"an object is missing; there are {', '.join(OBJECTS)}")
    if object_ not in OBJECTS:
        _fail(f"{object_}: no such object; there are {', '.join(OBJECTS)}{_hint(object_, OBJECTS)}")
    keys = OBJECTS[object_].keys
    if len(pairs) % 2:
        _fail(f"{pairs[-1]}: a key without a value; expected KEY VALUE, with {', '.join(keys)} for keys")
    for key in pairs[::2]:
        if key not in keys:
            _fail(f"{key}: {object_} has no such key; it has {', '.join(keys)}{_hint(key, keys)}")
    return object_, list(zip(pairs[::2], pairs[1::2], strict=True))


def _hint(word: str, legal: Any) -> str:
    from difflib import get_close_matches  # noqa: PLC0415  only misuse needs it

    close = get_close_matches(word, list(legal), n=1)
    return f'; did you mean "{close[0]}"?' if close else ""


def _watch(path: Path, name: str, filters: list[tuple[str, str]], every_s: float, *, as_json: bool) -> None:
    """Print until Ctrl-C: on a terminal always in the same place, elsewhere block after block."""
    is_terminal = sys.stdout.isatty() and not as_json
    try:
        while True:
            text = _printed(name, ask(path, name, filters), as_json=as_json, indent=None)
            click.echo(f"{_CLEAR if is_terminal else ''}{text}{'' if is_terminal or as_json else os.linesep}")
            time.sleep(every_s)
    except KeyboardInterrupt:
        if is_terminal:
            click.echo()


def _printed(name: str, rows: list[Row], *, as_json: bool, indent: int | None) -> str:
    if as_json:
        return json.dumps(rows, indent=indent)
    return "\n".join(table(rows, {key: key.upper() for key in OBJECTS[name].keys}, grouped=False))


def _say(sentence: str) -> None:
    click.echo(f"fastpath show: {sentence}", err=True)


def _fail(sentence: str) -> NoReturn:
    _say(sentence)
    raise SystemExit(MISUSED)

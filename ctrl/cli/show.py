"""`fastpath show OBJECT [KEY VALUE]...`: look into a running box through its control socket.

Imports neither aiohttp nor numpy nor pydantic, nor anything that does: it answers within 150 ms.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from urllib.parse import urlencode

import click

from ctrl.cli.asking import NO, ending, fail, get, hint, socket_of, socket_option
from ctrl.objects import OBJECTS, schema
from ctrl.table import Row, table

_CLEAR = "\x1b[H\x1b[2J"


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
@socket_option
@click.option("--schema", "wants_schema", is_flag=True, help="Print the JSON schema of what -j prints.")
def show(
    object_: str | None,
    pairs: tuple[str, ...],
    as_json: bool,
    every_s: float | None,
    path: Path | None,
    wants_schema: bool,
) -> None:
    """Show an OBJECT of a running box, one line an entry: status, ports, networks, groups, members, macs,
    tunnels, devices, sessions, drops, runtime or config.

    KEY VALUE keeps the entries that have the value under the key, `-` for nothing: keys are those of -j, the
    headings in small letters. A list has a value if one of its items is that.

    Exits with 1 if KEY VALUE leaves no entry, with 3 if no daemon answers, with 4 if it may not be asked.
    """
    if wants_schema:
        click.echo(json.dumps(schema(), indent=2))
        return
    name, filters = _wanted(object_, pairs)
    with ending("show"):
        path = socket_of(path)
        if every_s is not None:
            _watch(path, name, filters, every_s, as_json=as_json)
            return
        rows = ask(path, name, filters)
        click.echo(_printed(name, rows, as_json=as_json, indent=2))
        if filters and not rows:
            raise SystemExit(NO)


def ask(path: Path, name: str, filters: list[tuple[str, str]]) -> list[Row]:
    """Get the rows of an object; NotAnswered if that is not to be."""
    rows: list[Row] = get(path, f"/v1/{name}{'?' if filters else ''}{urlencode(filters)}")
    return rows


def _wanted(object_: str | None, pairs: tuple[str, ...]) -> tuple[str, list[tuple[str, str]]]:
    """The object and the filters, or an error that says what could have been meant."""
    if object_ is None:
        fail("show", f"an object is missing; there are {', '.join(OBJECTS)}")
    if object_ not in OBJECTS:
        fail("show", f"{object_}: no such object; there are {', '.join(OBJECTS)}{hint(object_, OBJECTS)}")
    keys = OBJECTS[object_].keys
    if len(pairs) % 2:
        fail("show", f"{pairs[-1]}: a key without a value; expected KEY VALUE, KEY one of {', '.join(keys)}")
    for key in pairs[::2]:
        if key not in keys:
            fail("show", f"{key}: {object_} has no such key; it has {', '.join(keys)}{hint(key, keys)}")
    return object_, list(zip(pairs[::2], pairs[1::2], strict=True))


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

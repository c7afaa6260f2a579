"""`fastpath explain FRAME`: one frame step by step, by a config or as a running box would take it.

Without -c it imports neither numpy nor pydantic nor aiohttp: the daemon works the answer out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

import click

from ctrl.cli.asking import ending, fail, post, socket_of, socket_option
from ctrl.explain import MAX_FRAME, schema
from ctrl.table import Row, table

DROPPED, MISUSED = 1, 2
_STEPS = {"step": "STEP", "rule": "RULE", "what": "WHAT", "detail": "DETAIL"}
_COPIES = {
    "port": "PORT",
    "receiver": "RECEIVER",
    "form": "FORM",
    "size": "SIZE",
    "reason": "DROPPED",
    "detail": "DETAIL",
}
_ENDS = {"replicate": "replicated", "punt": "punted", "drop": "dropped"}


class _Asked(NamedTuple):
    """A frame, and the interface on which its capture saw it."""

    frame: bytes
    interface: str | None = None


@click.command("explain")
@click.argument("frame", required=False)
@click.option("--in-port", metavar="NAME", help="Where the frame comes in.")
@click.option("--port", hidden=True)  # what it was called before replay and this had one name for it
@click.option(
    "-c", "--config", "config_file", type=click.Path(), help="The config to explain by; no daemon is asked."
)
@socket_option
@click.option("-j", "--json", "as_json", is_flag=True, help="Print a JSON array of flat objects.")
@click.option("--schema", "wants_schema", is_flag=True, help="Print the JSON schema of what -j prints.")
def explain(
    frame: str | None,
    in_port: str | None,
    port: str | None,
    config_file: str | None,
    path: Path | None,
    as_json: bool,
    wants_schema: bool,
) -> None:
    """Explain what becomes of a FRAME: each step of the rules, the list it finds, each copy, or the reason of
    its drop. Nothing is sent.

    FRAME is hex, spaces and colons allowed; `-` for hex on stdin; or CAPTURE:N for frame N, from 1, of a pcap
    or pcapng. It comes in on --in-port, else on the port that its interface in the pcapng is named for, else
    on the first port.

    With -c it is explained by a config as it stands, before anybody joins and with all next hops known; else
    a running box is asked. -j has the bytes of the copies, too.

    Exits with 0 if the frame is replicated or punted, with 1 if it is dropped, with 3 if no daemon answers,
    with 4 if it may not be asked.
    """
    if wants_schema:
        click.echo(json.dumps(schema(), indent=2))
        return
    asked = _asked(frame)
    name = next((one for one in (in_port, port, asked.interface) if one is not None), None)
    if config_file is not None:
        rows = _by_config(config_file, asked.frame, name)
    else:
        body = json.dumps({"frame": asked.frame.hex(), "port": name})
        with ending("explain"):
            rows = post(socket_of(path), "/v1/explain", body.encode())
    click.echo(json.dumps(rows, indent=2) if as_json else "\n".join(report(rows)))
    if rows[-1]["what"] == "drop":
        raise SystemExit(DROPPED)


def report(rows: list[Row]) -> Iterator[str]:
    """What a person wants to know of a frame: its steps, its copies, and how it ends."""
    *steps, verdict = rows
    copies = [row for row in steps if row["step"] == "copy"]
    yield from table([row for row in steps if row["step"] != "copy"], _STEPS, grouped=False)
    if copies:
        yield ""
        yield from table(copies, _COPIES)
    yield ""
    reason = f"{verdict['reason']}: " if verdict["reason"] else ""
    yield f"{_ENDS[verdict['what']]}: {reason}{verdict['detail']}"


def _by_config(file: str, frame: bytes, name: str | None) -> list[Row]:
    from ctrl.config import ConfigError, load  # noqa: PLC0415  the daemon's answer needs none of these
    from ctrl.explain.answer import BadQuestion, explain, place_of  # noqa: PLC0415
    from ctrl.static import plan  # noqa: PLC0415
    from ctrl.stations import static_egresses  # noqa: PLC0415
    from fastpath.model import Frame  # noqa: PLC0415

    try:
        config = load(file)
        planned = plan(config)
        in_port = place_of(name, planned.layout.ports)
    except ConfigError as error:
        for finding in error.findings:
            click.echo(str(finding), err=True)
        raise SystemExit(MISUSED) from None
    except BadQuestion as error:
        _fail(str(error))
    lists = {one.key: one for one in planned.lists}
    strict_headers = config.membership.strict_headers
    return explain(
        planned.layout,
        lists,
        {},
        Frame(frame),
        in_port,
        strict_headers=strict_headers,
        macs=static_egresses(config) if config.nve else None,
    )


def _asked(word: str | None) -> _Asked:
    """The frame that a word means."""
    if word is None:
        _fail("a frame is missing; expected hex, - for hex on stdin, or CAPTURE:N")
    if word == "-":
        return _Asked(_hex(sys.stdin.buffer.read().decode(errors="replace"), "stdin"))
    capture, colon, number = word.rpartition(":")
    looks_hex = not word.strip("0123456789abcdefABCDEF: \t\n")
    if colon and number.isdecimal() and (not looks_hex or _is_file(capture)):
        return _of_capture(Path(capture), int(number))
    if _is_file(word):
        _fail(f"{word}: say which of its frames: {word}:N, N from 1")
    if not looks_hex:
        _fail(f"{word}: expected hex, - for hex on stdin, or CAPTURE:N, N from 1")
    return _Asked(_hex(word, "frame"))


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except OSError:  # too long for a name: it was hex
        return False


def _hex(text: str, what: str) -> bytes:
    parts = text.replace(":", " ").split()
    for part in parts:
        try:
            bytes.fromhex(part)
        except ValueError:
            shown = part if len(part) <= 24 else f"{part[:21]}..."
            strange = part.strip("0123456789abcdefABCDEF")[:1]
            why = f'"{strange}" is no hex digit' if strange else f"an odd number of hex digits, {len(part)}"
            _fail(f"{what}: {shown}: {why}; expected pairs of hex digits")
    frame = bytes.fromhex("".join(parts))
    if not 0 < len(frame) <= MAX_FRAME:
        _fail(f"{what}: {len(frame):,} bytes; expected a frame, of 1 to {MAX_FRAME:,}")
    return frame


def _of_capture(path: Path, number: int) -> _Asked:
    from itertools import islice  # noqa: PLC0415  hex needs none of these

    from fastpath.captures import PcapSource  # noqa: PLC0415
    from fastpath.errors import CaptureError  # noqa: PLC0415

    try:
        with PcapSource(path, {}, in_port=0) as capture:
            if not 1 <= number <= capture.n_frames:
                there = f"it has frames 1 to {capture.n_frames:,}" if capture.n_frames else "it has no frame"
                behind = f" ({capture.damage})" if capture.damage else ""
                _fail(f"{path}: no frame {number:,}: {there}{behind}")
            interface, frame = next(islice(capture.frames(), number - 1, None))
            return _Asked(frame, capture.interfaces[interface])
    except CaptureError as error:
        _fail(str(error))


def _fail(sentence: str) -> NoReturn:
    fail("explain", sentence)

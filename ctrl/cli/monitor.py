"""`fastpath monitor [TOPIC]...`: what happens in a running box, a line an event, until Ctrl-C."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlencode

import click

from ctrl.cli.asking import ending, fail, hint, lines, socket_of, socket_option
from ctrl.topics import EVENTS, event_schema

_FIRST = ("time", "topic", "event")


@click.command("monitor")
@click.argument("topics", metavar="[members|groups|macs|tunnels|instructions|sessions]...", nargs=-1)
@click.option("-j", "--json", "as_json", is_flag=True, help="Print one flat JSON object an event.")
@socket_option
@click.option("--schema", "wants_schema", is_flag=True, help="Print the JSON schema of what -j prints.")
def monitor(topics: tuple[str, ...], as_json: bool, path: Path | None, wants_schema: bool) -> None:
    """Watch what happens in a running box from now on, one line an event, until Ctrl-C.

    members: an NVE joins or leaves a group, or wants other sources of it. groups: the box has its first
    member of a group, or none any more. macs: an NVE learned where a station is, or that it moved, or forgot
    it. tunnels: a peer can be reached, or not. instructions: what a manager told of the tunnels of a group,
    and what became of it. sessions: a node and a manager found each other, or parted. Without a topic, all of
    them.

    Events that come faster than they are read are lost, the oldest first, and counted: `missed`.

    Exits with 3 if no daemon answers or it ends, with 4 if it may not be asked.
    """
    if wants_schema:
        click.echo(json.dumps(event_schema(), indent=2))
        return
    for topic in topics:
        if topic not in EVENTS:
            fail("monitor", f"{topic}: no such topic; there are {', '.join(EVENTS)}{hint(topic, EVENTS)}")
    query = urlencode([("topic", topic) for topic in topics])
    with ending("monitor"):
        try:
            for line in lines(socket_of(path), f"/v1/monitor{'?' if query else ''}{query}"):
                click.echo(line if as_json else _in_words(line))
        except KeyboardInterrupt:
            pass


def _in_words(line: str) -> str:
    """When, the topic and the event, and then KEY=VALUE: for eyes and for grep."""
    row = json.loads(line)
    first = [row.pop(key) for key in _FIRST]
    return " ".join([*first, *(f"{key}={_value(value)}" for key, value in row.items())])


def _value(value: object) -> str:
    if isinstance(value, list):
        return ",".join(value) or "-"
    return "-" if value is None else str(value)

"""`fastpath lab`: small networks in namespaces, built from a lab file, to try things out in."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from ipaddress import IPv4Address
from pathlib import Path

import click

from ctrl.config.finding import ConfigError, given
from ctrl.lab import labfile, listening, running
from ctrl.lab.labfile import LabFile
from ctrl.lab.running import MISUSED, NOT_ALLOWED, NOT_DONE, Keeper, LabError, State
from ctrl.lab.system import join_net, join_user_of
from ctrl.table import table

NOT_FOUND, NOT_EXECUTABLE, INTERRUPTED = 127, 126, 130


@click.group("lab")
def lab() -> None:
    """Build small networks in namespaces, with or without root, and take them down again.

    NAME is a lab that comes with fastpath (`fastpath lab list`), or the path of a lab file of yours. Exits
    with 1 if it cannot be done, with 2 for a wrong name or file, with 4 if the system does not allow it.
    """


@lab.command("up")
@click.argument("name")
def up(name: str) -> None:
    """Build the lab NAME, and start fastpath in it. It stays until `fastpath lab down`."""
    with _told("up"):
        file, path = _read(name)
        with Keeper(file, path) as keeper:
            for line in introduction(file):
                click.echo(line)
            keeper.expect(running.BUILT)
            click.echo(built(file))
            for warning in file.warnings:
                click.echo(str(warning), err=True)
            for line in _advice(file, keeper.start()):
                click.echo(line)
            keeper.stay()  # last: until then a Ctrl-C takes it all back


@lab.command("down")
@click.argument("name", required=False)
def down(name: str | None) -> None:
    """Take a lab down: the one called NAME, or the only one."""
    with _told("down"):
        state = running.only(name)
        running.end(state)
        click.echo(f"{state.name} is down; nothing of it is left")


@lab.command("list")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print a JSON array, one object a lab.")
def list_(as_json: bool) -> None:
    """List the labs there are: those that run, and those that come with fastpath."""
    with _told("list"):
        rows = [asdict(state) for state in running.states()]
        names = {row["name"] for row in rows}
        for name, path in labfile.known().items():
            if name not in names:
                rows.append(asdict(State(name, labfile.read(path).table.about, 0, "down")) | {"pid": None})
        if as_json:
            click.echo(json.dumps(rows, indent=2))
        else:
            headings = {key: key.upper() for key in ("name", "state", "pid", "boxes", "about")}
            for line in table([row | {"boxes": list(row["boxes"])} for row in rows], headings, grouped=False):
                click.echo(line)


@lab.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("name")
@click.argument("box")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(name: str, box: str, command: tuple[str, ...]) -> None:
    """Run a COMMAND in a BOX of the lab NAME; in one that runs fastpath, `fastpath show` asks that one.

    Exits as the command does; with 127 if there is no such command.
    """
    with _told("exec"):
        state = running.only(name)
        namespace = state.namespace(box)
        try:
            join_user_of(state.pid)
            join_net(namespace)
        except PermissionError:
            raise LabError(NOT_ALLOWED, f"{name}: you may not enter it") from None
        except FileNotFoundError:
            raise LabError(NOT_DONE, f"{name} has just gone down") from None
        if box in state.sockets:
            os.environ.update(labfile.environment_of(box, Path(state.sockets[box]).parent))
        os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:{Path(sys.executable).parent}"
        try:
            os.execvp(command[0], command)  # noqa: S606  what it is for
        except OSError as error:
            code = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
            raise LabError(code, f"{command[0]}: {error.strerror}") from None


def _group(_context: click.Context, _argument: click.Parameter, word: str) -> str:
    with suppress(ValueError):
        if IPv4Address(word).is_multicast:
            return word
    raise click.BadParameter(f"{given(word)} is no IPv4 group; expected one like 239.77.0.1")


@lab.command("send")
@click.argument("group", callback=_group)
@click.option("--device", default="eth0", show_default=True, help="The interface that it leaves by.")
@click.option(
    "--rate", type=click.FloatRange(0.1, 100_000), default=10.0, show_default=True, help="A second."
)
@click.option("--count", type=click.IntRange(0), default=0, help="So many; else until Ctrl-C.")
def send(group: str, device: str, rate: float, count: int) -> None:
    """Send numbered datagrams to an IPv4 GROUP: what a VM of a lab does by `fastpath lab exec`."""
    with _said("send", device):
        for n_sent in listening.send(device, group, rate, count):
            click.echo(f"{n_sent} sent to {group}")


@lab.command("hear")
@click.argument("group", callback=_group)
@click.option("--device", default="eth0", show_default=True, help="The interface that joins.")
@click.option("--seconds", type=click.FloatRange(0), default=0, help="So long; else until Ctrl-C.")
def hear(group: str, device: str, seconds: float) -> None:
    """Join an IPv4 GROUP, and say what `fastpath lab send` has there: how much of it came, once or twice."""
    with _said("hear", device):
        for sentence in listening.hear(device, group, seconds):
            click.echo(sentence)


@lab.command("demo")
def demo() -> None:
    """Build the lab fabric, have its parts killed while VMs hear each other, and take it down again."""
    from ctrl.lab.demo import LAB, play  # noqa: PLC0415  takes pyroute2

    with _told("demo"):
        file, path = _read(LAB)
        with Keeper(file, path) as keeper:
            for line in introduction(file):
                click.echo(line)
            state = keeper.expect(running.BUILT)
            click.echo(built(file))
            play(keeper, state)
        click.echo("The lab is down; nothing of it is left.")


def introduction(file: LabFile) -> list[str]:
    """What is about to be built."""
    return [f"{file.name}: {file.table.about}", *file.table.picture.strip("\n").splitlines(), ""]


def built(file: LabFile) -> str:
    """What has been built, in numbers."""
    boxes = file.table.boxes.values()
    how = "as root" if os.geteuid() == 0 else "without root, in a user namespace"
    made = {
        "box": len(boxes),
        "wire": len(file.table.wires),
        "VXLAN device": sum(len(box.vxlan) for box in boxes),
        "bridge": sum(len(box.bridges) for box in boxes),
    }
    parts = [
        f"{n} {what}{'' if n == 1 else 'es' if what[-1] == 'x' else 's'}" for what, n in made.items() if n
    ]
    return f"built {how}: {', '.join(parts)}"


def _advice(file: LabFile, state: State) -> Iterator[str]:
    where = "".join(f"; logs and configs are in {Path(s).parent}" for s in list(state.sockets.values())[:1])
    yield f"\n{file.name} is up{where}. To look around, and to take it down:"
    others = [box for box in file.table.boxes if box not in state.sockets]
    for hint in file.table.hints or (
        *(f"{box} fastpath show groups" for box in state.sockets),
        *(f"{box} ip -d addr" for box in others[:1]),
    ):
        yield f"  fastpath lab exec {file.name} {hint}"
    yield f"  fastpath lab down {file.name}"


def _read(name: str) -> tuple[LabFile, Path]:
    try:
        path = labfile.find(name)
        return labfile.read(path), path
    except LookupError as error:
        raise LabError(MISUSED, str(error.args[0])) from None
    except ConfigError as error:
        for finding in error.findings:
            click.echo(str(finding), err=True)
        raise SystemExit(MISUSED) from None


@contextmanager
def _said(command: str, device: str) -> Iterator[None]:
    """Say what the system said, or end as Ctrl-C does, which is how one ends these."""
    try:
        yield
    except OSError as error:
        click.echo(f"fastpath lab {command}: {device}: {error.strerror or error}", err=True)
        raise SystemExit(NOT_ALLOWED if isinstance(error, PermissionError) else NOT_DONE) from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None


@contextmanager
def _told(command: str) -> Iterator[None]:
    """Say what went wrong, and exit with what it means; whatever builds a lab takes it down before."""
    try:
        yield
    except LabError as error:
        click.echo(f"fastpath lab {command}: {error}", err=True)
        raise SystemExit(error.code) from None
    except KeyboardInterrupt:
        kept = "" if command == "down" else "; nothing is left behind"
        click.echo(f"fastpath lab {command}: interrupted{kept}", err=True)
        raise SystemExit(INTERRUPTED) from None

"""`fastpath replay IN -c FILE -o OUT`: a capture through the compiled data path."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

import click

from ctrl.config import Config, ConfigError, load
from ctrl.membership import Origin
from ctrl.refusals import REFUSALS
from ctrl.replay import CHUNK_FRAMES, CutShort, Interrupted, Replayed, differences, open_any
from ctrl.replay import replay as run_replay
from ctrl.rows import group_rows, receiver_rows
from ctrl.table import Row, table
from fastpath.errors import CaptureError
from fastpath.reasons import Unit

MEMBERS_SHOWN = MACS_SHOWN = 20
FAILED, MISUSED, INTERRUPTED = 1, 2, 130


@click.command("replay")
@click.argument("in_file", metavar="IN", type=click.Path(path_type=Path))
@click.option(
    "-c", "--config", "config_file", required=True, type=click.Path(), help="The config to forward by."
)
@click.option(
    "-o", "--out", "out_file", required=True, type=click.Path(path_type=Path), help="OUT.pcap or OUT.pcapng."
)
@click.option(
    "--in-port", metavar="NAME", help="Where the frames of a pcap come in; the first port otherwise."
)
@click.option(
    "--expect", "expect_file", type=click.Path(path_type=Path), help="Compare the copies with this capture."
)
@click.option("-j", "--json", "as_json", is_flag=True, help="Print one JSON object.")
def replay(
    in_file: Path,
    config_file: str,
    out_file: Path,
    in_port: str | None,
    expect_file: Path | None,
    as_json: bool,
) -> None:
    """Forward the frames of the capture IN as a config says, and write all copies to OUT.

    Any config serves, that of a live box too: captures stand in for its ports. The interfaces of a pcapng
    are matched to ports by name.

    IGMP and MLD of the capture make members by its clock. What the NVEs are asked stands in OUT, among the
    copies; they do not hear it, and who says nothing more in the capture is soon a member no longer. The
    frames of an [nve] teach it where stations are; what it reports, and what it asks its VMs and hands on to
    them where their network snoops, stands in OUT, too.

    Exits with 1 if the copies are not those of --expect, if the capture is damaged, or if OUT could not be
    written to its end: OUT holds the copies up to there, as it does after Ctrl-C (130). Exits with 2 if
    something cannot be used; then nothing was forwarded.
    """
    config = _load(config_file)
    ports = [port.name for port in config.ports]
    if in_port is not None and in_port not in ports:
        _fail(f"--in-port {in_port}: no port is called that; the ports are {', '.join(ports) or 'none'}")
    if out_file.suffix not in {".pcap", ".pcapng"}:
        _fail(f"--out {out_file}: expected a name that ends in .pcap or .pcapng")
    read = {in_file: "the capture to read", Path(config_file): "the config"}
    if expect_file:
        read[expect_file] = "the capture to compare with"
    for path, what in read.items():
        if _are_one_file(out_file, path):
            _fail(f"--out {out_file}: is {what}, {path}; writing would empty it")
    try:
        if expect_file:
            open_any(expect_file).close()
        with _progress(as_json) as progress:
            done = run_replay(config, in_file, out_file, in_port, progress)
        found = list(differences(out_file, expect_file)) if expect_file else []
    except CutShort as error:
        _say(str(error))
        raise SystemExit(INTERRUPTED if isinstance(error, Interrupted) else FAILED) from None
    except CaptureError as error:
        _fail(str(error))
    except ValueError as error:  # what the data path has no room for
        _fail(f"{config_file}: {error}")
    except OSError as error:
        _fail(f"{error.filename or out_file}: {error.strerror or error}")
    if as_json:
        click.echo(json.dumps(done.as_object(), indent=2))
    else:
        for line in report(in_file, out_file, done):
            click.echo(_printable(line))
    faults = ([done.damage] if done.damage else []) + found
    for sentence in faults:
        _say(sentence)
    if faults:
        raise SystemExit(FAILED)


def report(in_file: Path, out_file: Path, done: Replayed) -> Iterator[str]:
    """What a person wants to know of a replay."""
    counted = done.statistics
    yield f"{in_file}: {counted.received:,} frames, {done.traffic_s:.3f} s of traffic"
    yield (
        f"received {counted.received:,} = replicated {counted.replicated:,}"
        f" + punted {counted.punted:,} (IGMP, MLD) + dropped {counted.dropped:,}"
    )
    joined = [row for row in done.members if row["origin"] != Origin.STATIC.value]
    if joined or done.joined or done.queries:
        n_groups = len({row["group"] for row in joined})
        yield (
            f"joined {done.joined:,}, left {done.left:,}; {len(joined):,} members in {n_groups:,} groups at "
            f"the end; {done.queries:,} queries sent"
        )
    if done.macs or done.reports:
        yield f"{len(done.macs):,} stations known at the end; {done.reports:,} reports sent"
    if done.of_tenants:
        yield f"{done.of_tenants:,} queries and reports of tenants sent or handed on"
    groups = group_rows(counted)
    gone = counted.replicated - sum(row["frames"] for row in groups)
    if gone:
        whose = ["left since"] * bool(done.left) + ["known stations"] * bool(done.macs or not done.left)
        groups.append({"scope": None, "group": ", ".join(whose), "frames": gone})
    sections: tuple[tuple[list[Row], dict[str, str]], ...] = (
        (
            [row | {"wants": _wants(row)} for row in joined[:MEMBERS_SHOWN]],
            {
                "port": "PORT",
                "nve": "NVE",
                "group": "GROUP",
                "wants": "WANTS",
                "expires_s": "EXPIRES_S",
            },
        ),
        (
            done.macs[:MACS_SHOWN],
            {
                "network": "NETWORK",
                "mac": "MAC",
                "port": "PORT",
                "vtep": "VTEP",
                "origin": "ORIGIN",
                "age_s": "AGE_S",
            },
        ),
        (groups, {"scope": "ROLE", "group": "GROUP", "frames": "FRAMES"}),
        (
            receiver_rows(counted, done.layout),
            {
                "port": "PORT",
                "receiver": "RECEIVER",
                "form": "FORM",
                "encap": "ENCAP",
                "copies": "COPIES",
                "bytes": "BYTES",
                "dropped": "DROPPED",
            },
        ),
        (
            list(_drops(done)),
            {"name": "DROP", "unit": "UNIT", "count": "COUNT", "why": "WHY"},
        ),
    )
    for rows, headings in sections:
        if rows:
            yield ""
            yield from table(rows, headings)
        for key, every in (("wants", joined), ("vtep", done.macs)):
            if key in headings and len(every) > len(rows):
                yield f"and {len(every) - len(rows):,} more: -j prints them all"
    yield ""
    rate = counted.copies_out / done.seconds if done.seconds else 0.0
    lost = sum(row.count for row in counted.drops if row.reason.unit is Unit.COPY)
    yield (
        f"{counted.copies_out:,} copies to {out_file}{f' ({lost:,} dropped)' if lost else ''}"
        f" in {done.seconds * 1e3:,.1f} ms: {rate / 1e6:.2f} million copies/s, writing included"
    )
    if counted.received:
        stages = ", ".join(f"{row.stage} {row.ns / counted.received:,.0f}" for row in counted.stages)
        yield f"ns a frame: {stages}"


def _wants(member: Row) -> str:
    """Say packets of which sources a member wants."""
    if member["mode"] == "include":
        return ",".join(member["sources"])
    return f"all but {','.join(member['blocked'])}" if member["blocked"] else "all"


def _drops(done: Replayed) -> Iterator[Row]:
    """One row a reason that struck, of the data path and of control, with its sentence."""
    for row in done.statistics.drops:
        reason = row.reason
        yield {"name": reason.name, "unit": reason.unit.value, "count": row.count, "why": reason.sentence}
    for name, refusal in REFUSALS.items():
        if name in done.refused:
            count = done.refused[name]
            yield {"name": name, "unit": refusal.unit, "count": count, "why": refusal.sentence}


def _load(path: str) -> Config:
    try:
        return load(path)
    except ConfigError as error:
        for finding in error.findings:
            click.echo(str(finding), err=True)
        raise SystemExit(MISUSED) from None


def _are_one_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them is not there; whoever opens it tells
        return False


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, once there is more than a moment's work and someone to see it."""
    with ExitStack() as stack:
        advance: Callable[[int], object] | None = None

        def progress(done: int, total: int) -> None:
            nonlocal advance
            if advance is None and total > CHUNK_FRAMES and not quiet and sys.stderr.isatty():
                advance = stack.enter_context(_bar(total))
            if advance is not None:
                advance(done)

        yield progress


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int], object]]:
    from rich.console import Console  # noqa: PLC0415  costs 30 ms, and few replays show a bar
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("replaying", total=total)
        yield lambda done: bar.update(task, completed=done)


def _printable(text: str) -> str:
    """A file's name is bytes, and may be no text: such bytes are shown, not choked on."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _say(sentence: str) -> None:
    click.echo(f"fastpath replay: {_printable(sentence)}", err=True)


def _fail(sentence: str) -> NoReturn:
    _say(sentence)
    raise SystemExit(MISUSED)

"""`fastpath bench wire`: how many copies a second this machine makes, by us and by everything else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NoReturn

import click

from ctrl.lab.namespaces import missing
from ctrl.race import latency, wire
from ctrl.race.latency import Latency
from ctrl.race.track import Track
from ctrl.race.traffic import Load
from ctrl.table import table
from fastpath.model import Encap

FAILED, NOT_ALLOWED, INTERRUPTED = 1, 4, 130

HEADINGS = {
    "path": "PATH",
    "copies_per_s": "COPIES/S",
    "ns_per_copy": "NS/COPY",
    "ratio_to_kernel": "X KERNEL",
    "ratio_to_kernel_trains": "X KERNEL_TRAINS",
    "ratio_to_limit": "X LIMIT",
    "fed": "FED",
    "what": "WHAT",
}
WHAT = {
    "clones": "fastpath: one send a frame or train, cloned in the kernel",
    "trains": "fastpath: super-frames by AF_PACKET",
    "xdp": "fastpath: single copies by AF_XDP",
    "packet": "fastpath: single copies by AF_PACKET",
    "forward_clones": "fastpath: received on a live port first, cloned out",
    "forward": "fastpath: received on a live port first, trains out",
    "kernel": "Linux VXLAN device with a remote each",
    "kernel_trains": "the same: its best case",
    "sendmmsg": "prebuilt copies by sendmmsg, a message each",
    "limit_clones": "the same sends and clones, prebuilt, no parsing",
    "limit": "prebuilt trains by sendmmsg, no parsing",
    "limit_xdp": "prebuilt copies by AF_XDP, no parsing",
}


@click.group("bench")
def bench() -> None:
    """Measure on this machine."""


@bench.command("wire")
@click.option("--egresses", type=click.IntRange(1, 1000), help="Receivers; 8 and 50 otherwise.")
@click.option(
    "--size", type=click.IntRange(64, 1500), help="Bytes of the frame inside; 64 and 1400 otherwise."
)
@click.option(
    "--ports",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Receivers are dealt out to so many ports, all in one list.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.01, 60),
    default=0.3,
    show_default=True,
    help="How long each row is measured.",
)
@click.option(
    "--full",
    is_flag=True,
    help="All sizes and fan-outs, also without trains and without segmentation; NVGRE.",
)
@click.option("-j", "--json", "as_json", is_flag=True, help="Print a JSON array, one object a row.")
def wire_command(
    egresses: int | None, size: int | None, ports: int, seconds: float, full: bool, as_json: bool
) -> None:
    """Race fastpath against the kernel's own replication and against what no program can beat.

    All send by one veth pair, or by `--ports` of them, from one CPU, into one sink that counts datagrams and
    drops them, in namespaces made for it. Needs root, or a user namespace (unshare -Urnm).

    `FED` says what a path makes its copies of: frames from memory, or frames or trains that come in live, or
    copies that are prebuilt. `X KERNEL` holds all against the kernel fed frame by frame, `X KERNEL_TRAINS`
    against the kernel fed trains. `X LIMIT` holds AF_XDP against prebuilt frames by AF_XDP, clones against
    prebuilt clones, all others against prebuilt trains of the same length.
    """
    why_not = missing()
    if why_not is not None:
        _fail(why_not, NOT_ALLOWED)
    loads = wire.loads(egresses, size, full=full, ports=ports)
    rows: list[wire.Row] = []
    try:
        with Track(ports) as track:
            _note(wire.machine(), as_json)
            _note(conditions(track), as_json)
            for load in loads:
                ran = wire.race(track, load, seconds)
                rows += ran
                if not as_json:
                    for line in report(load, wire.objects(ran, [])):
                        click.echo(line)
            latencies = latency.compare(track, loads, seconds)
        if as_json:
            click.echo(json.dumps(wire.objects(rows, latencies), indent=2))
        else:
            for line in latency_report(latencies):
                click.echo(line)
        _note(f"most memory ever held: {wire.peak_rss_mb():.0f} MB", as_json)
    except KeyboardInterrupt:
        _fail("interrupted; nothing is left behind", INTERRUPTED)
    except OSError as error:
        _fail(wire.sentence(error), FAILED)


def conditions(track: Track) -> str:
    """How it is measured here."""
    cpus = f"copies made on CPU {track.cpu}"
    cpus += (
        f", frames generated on CPU {track.other_cpu}" if track.other_cpu != track.cpu else ", as all else"
    )
    if track.sink.why_not_exact is None:
        return f"{cpus}; datagrams counted by a program at the sink"
    return f"{cpus}; counted by the sink's interface: {track.sink.why_not_exact}"


def report(load: Load, objects: list[dict[str, Any]]) -> Iterator[str]:
    """One table a load."""
    yield ""
    form = "NVGRE" if load.encap is Encap.NVGRE else "VXLAN"
    built = "" if load.segmentation else ", the device cannot segment: every datagram is built"
    yield f"{_receivers(load)}, {load.size} B in {form}, trains of {load.train}{built}"
    what = WHAT | ({"limit": WHAT["sendmmsg"]} if load.train == 1 else {})
    yield from table([one | {"what": one["why"] or what[one["path"]]} for one in objects], HEADINGS)


def latency_report(latencies: list[Latency]) -> Iterator[str]:
    """From the NVE to the last copy, when few frames come."""
    load = latencies[0].load
    yield ""
    yield f"latency at 1,000 frames/s, {_receivers(load)}, {load.size} B: from an NVE to the last copy"
    rows = [
        {
            "path": one.path,
            "p50_us": one.p50_us,
            "p99_us": one.p99_us,
            "frames": one.n_sent,
            "complete": one.n_whole,
            "note": one.note,
        }
        for one in latencies
    ]
    yield from table(rows, {key: key.upper().replace("_US", " US") for key in rows[0]})


def _receivers(load: Load) -> str:
    behind = f" behind {load.ports} ports" if load.ports > 1 else ""
    return f"{load.egresses} receiver{'s' if load.egresses > 1 else ''}{behind}"


def _note(sentence: str, as_json: bool) -> None:
    click.echo(sentence, err=as_json)


def _fail(sentence: str, code: int) -> NoReturn:
    click.echo(f"fastpath bench wire: {sentence}", err=True)
    raise SystemExit(code)

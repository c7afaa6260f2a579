"""`fastpath notify moved NVE...`: a box asks the NVEs that a VM has left or reached at once (RFC 8293 section
5.2)."""

from __future__ import annotations

import json
from ipaddress import ip_address
from pathlib import Path

import click

from ctrl.cli.asking import NO, ending, fail, post, socket_of, socket_option


@click.group("notify")
def notify() -> None:
    """Tell a running box what it would find out by itself, later."""


@notify.command("moved")
@click.argument("nves", metavar="NVE...", nargs=-1, required=True)
@socket_option
def moved(nves: tuple[str, ...], path: Path | None) -> None:
    """Say that a VM moved: the box asks these NVEs at once, and nobody else, which groups they want. A
    manager has its devices ask those of them that are theirs.

    An NVE is named by the address that its IGMP or MLD reports come from: NVE in `fastpath show members`.

    Exits with 1 if the box knows none of them and no device is told, with 3 if no daemon answers, with 4 if
    it may not be asked.
    """
    for nve in nves:
        try:
            ip_address(nve)
        except ValueError:
            fail("notify", f"{nve}: no IP address of an NVE; expected one like 10.1.1.2 or fe80::2")
    wanted = list(dict.fromkeys(nves))
    with ending("notify"):
        answer = post(socket_of(path), "/v1/notify", json.dumps({"moved": wanted}).encode())
    n_known, n_told = answer["queried"], answer["told"]
    if n_known or n_told is None:
        click.echo(f"{n_known} of {len(wanted)} NVEs known, and queried now")
    if n_told is not None:
        click.echo(f"{n_told} {'device' if n_told == 1 else 'devices'} told")
    if not (n_known or n_told):
        raise SystemExit(NO)

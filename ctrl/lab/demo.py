"""The story of the lab demo: pings without fastpath, who joins, pings with it, an NVE leaves.

What is printed comes from outside, as a user could get it: echo requests from the VMs' namespaces, and the
control sockets of the ToRs. Where it does not come out as told, it ends with an error.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from ipaddress import IPv4Address
from pathlib import Path
from typing import ParamSpec, TypeVar

import click
from pyroute2 import IPRoute

from ctrl.cli.asking import NotAnswered, get
from ctrl.lab.echo import Echo
from ctrl.lab.labfile import LabFile
from ctrl.lab.running import NOT_DONE, Keeper, LabError, State
from ctrl.lab.system import join_user_of, run_in
from ctrl.table import Row, table

ASK_S = 0.7
N_ASKED = 5
"""Requests until a VM that should answer counts as silent: a kernel that gives up an old ARP drops some."""
CHANGE_S = 15.0
"""How long joins and leaves may take: a leave is asked about twice, a second apart (RFC 9776 section 8.8)."""
SETTLED_S = 0.2
N_FRAMES = 10
DISCARD = 9  # RFC 863
LEAVER = "host4"
SHOWN = {
    "groups": ("group", "vni", "local", "remote"),
    "tunnels": ("peer", "groups", "tunnel", "state", "copies", "bytes"),
    "drops": ("reason", "unit", "stage", "frames"),
}

P = ParamSpec("P")
T = TypeVar("T")
Joined = dict[tuple[str, str], tuple[str, str]]
"""(NVE, group): the ToR and the port where that is."""


def play(keeper: Keeper, state: State) -> None:
    """Tell it, in the lab as it was built; LabError where it comes out differently."""
    story = _Story(keeper.file, state)

    _title("The hosts have joined their groups, but nobody listens: without fastpath no ARP gets through")
    story.ping("vm1", "vm2", "vm3", "vm4", answered=False)

    _title("fastpath starts on tor1 and tor2, and asks who is there")
    story.state = keeper.start()
    story.follow(story.wanted(), {})

    _title("Now VMs reach each other, behind one ToR and across the core")
    story.ping("vm1", "vm2", "vm3", "vm4", answered=True)
    story.ping("vm5", "vm6", answered=True)
    story.show("groups")
    story.show("tunnels")

    _title(f"A frame to everybody is copied for each member: {N_FRAMES} from vm1, {N_FRAMES} from vm5")
    story.broadcast("vm1", "vm5")

    _title(f"{LEAVER} sets its VXLAN devices down, which leaves their groups")
    joined = story.members()
    story.set_down(LEAVER)
    story.follow(story.wanted(but=LEAVER), joined)
    story.show("groups")

    _title("Its copies have stopped, the others get theirs; the same frames again")
    story.broadcast("vm1", "vm5", but=LEAVER)
    story.ping("vm3", "vm2", answered=True)
    story.ping("vm3", "vm4", answered=False)

    _title("What was not copied, and why")
    story.show("drops")
    click.echo("")


class _Story:
    """What can be done in the lab, and seen of it."""

    def __init__(self, file: LabFile, state: State) -> None:
        self._boxes = file.table.boxes
        self.state = state
        join_user_of(state.pid)
        ends = [pair for wire in file.table.wires for pair in (wire.ends, wire.ends[::-1])]
        self._far = {(near.box, near.device): far.box for near, far in ends}
        """What is at the other end of a device's wire."""

    def ping(self, asker: str, *vms: str, answered: bool) -> None:
        """Ask VMs from one of them whether they are there, and say how long the answer took."""
        with closing(self._within(asker, Echo)) as echo:
            for vm in vms:
                asked = (
                    echo.ask(self._address(vm, "eth0"), ASK_S) for _ in range(N_ASKED if answered else 1)
                )
                took_ms = next((took_ms for took_ms in asked if took_ms is not None), None)
                said = "no answer" if took_ms is None else f"{took_ms:.2f} ms"
                color = "yellow" if took_ms is None else "green"
                click.echo(
                    f"ping {self._address(vm, 'eth0')} ({vm}) from {asker}: {click.style(said, color)}"
                )
                if (took_ms is not None) != answered:
                    raise LabError(NOT_DONE, f"{vm} was to {'answer' if answered else 'be out of reach'}")

    def wanted(self, but: str = "") -> set[tuple[str, str]]:
        """Who is to have joined what, with all VXLAN devices up but those of one host."""
        return {
            (str(self._address(name, vxlan.under)), str(vxlan.group))
            for name, box in self._boxes.items()
            for vxlan in box.vxlan.values()
            if name != but
        }

    def members(self) -> Joined:
        """Who has joined what, and where, as the ToRs see it."""
        return {
            (row["nve"], row["group"]): (tor, row["port"])
            for tor in self.state.sockets
            for row in self._ask(tor, "members")
        }

    def follow(self, wanted: set[tuple[str, str]], joined: Joined) -> None:
        """Say who joins and who leaves, as it happens, until it is as wanted."""
        begin = time.monotonic()
        while joined.keys() != wanted:
            now = self.members()
            took_s = time.monotonic() - begin
            for one in sorted(now.keys() - joined.keys()):
                self._event(took_s, now[one], click.style("joined", "green"), *one)
            for one in sorted(joined.keys() - now.keys()):
                self._event(took_s, joined[one], click.style("left", "yellow"), *one)
            if took_s > CHANGE_S:
                raise LabError(NOT_DONE, f"after {CHANGE_S:g} s the members are not those that were to be")
            joined = now
            time.sleep(0.02)

    def set_down(self, host: str) -> None:
        """Set the VXLAN devices of a host down, as `ip link set DEVICE down` does."""
        for device in self._boxes[host].vxlan:
            self._within(host, _set_down, device)

    def broadcast(self, *vms: str, but: str = "") -> None:
        """Send frames to everybody, and show how many copies went out where: none to one host."""
        before = self._copies()
        for vm in vms:
            self._within(vm, _broadcast, str(self._boxes[vm].addresses["eth0"][0].network.broadcast_address))
        rows = [
            {"tor": tor, "port": port, "to": self._far[tor, port], "copies": n - before[tor, port]}
            for (tor, port), n in self._settled(before).items()
        ]
        _table(rows)
        if any(row["copies"] for row in rows if row["to"] == but):
            raise LabError(NOT_DONE, f"{but} was to get no copies")

    def show(self, name: str) -> None:
        """Show of both ToRs what `fastpath show NAME` does."""
        rows = [{"tor": tor} | row for tor in self.state.sockets for row in self._ask(tor, name)]
        click.echo("")
        if rows:
            _table([{key: row[key] for key in ("tor", *SHOWN[name])} for row in rows])
        else:
            click.echo(f"no {name}")

    # --- what these take ------------------------------------------------------------------------------------

    def _event(self, took_s: float, where: tuple[str, str], what: str, nve: str, group: str) -> None:
        click.echo(f"{took_s:5.2f} s  {' '.join(where)}: {self._far[where]} ({nve}) {what} {group}")

    def _within(self, box: str, function: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        return run_in(self.state.namespace(box), function, *args, **named)

    def _address(self, box: str, device: str) -> IPv4Address:
        address = self._boxes[box].addresses[device][0].ip
        assert isinstance(address, IPv4Address)  # noqa: S101  so it stands in demo.toml
        return address

    def _ask(self, tor: str, name: str) -> list[Row]:
        try:
            rows: list[Row] = get(Path(self.state.sockets[tor]), f"/v1/{name}")
        except NotAnswered as why:
            raise LabError(NOT_DONE, f"{tor}: {why}") from None
        return rows

    def _copies(self) -> dict[tuple[str, str], int]:
        return {
            (tor, row["name"]): row["copies_out"]
            for tor in self.state.sockets
            for row in self._ask(tor, "ports")
        }

    def _settled(self, before: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], int]:
        """The copies, once some have gone out and no more come."""
        last, since = dict(before), time.monotonic()
        while last == before or time.monotonic() - since < SETTLED_S:
            now = self._copies()
            if now != last:
                last, since = now, time.monotonic()
            if time.monotonic() - since > CHANGE_S:
                raise LabError(NOT_DONE, "no frame was copied")
            time.sleep(0.02)
        return last


def _set_down(device: str) -> None:
    with IPRoute() as route:
        route.link("set", index=socket.if_nametoindex(device), state="down")


def _broadcast(address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for i in range(N_FRAMES):
            sender.sendto(b"frame %d to everybody" % i, (address, DISCARD))


def _title(text: str) -> None:
    click.echo(f"\n{click.style(text, bold=True)}")


def _table(rows: list[Row]) -> None:
    for line in table(rows, {key: key.upper() for key in rows[0]}, grouped=False):
        click.echo(line)

"""The story of the lab demo: pings without fastpath and with it, a group that changes its way, and each part
killed under traffic.

What is printed comes from outside, as a user could get it: what VMs hear in their namespaces, and the control
sockets of the boxes. Where it does not come out as told, it ends with an error.
"""

from __future__ import annotations

import socket
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

import click
from pyroute2 import IPRoute

from ctrl.cli.asking import NotAnswered, get
from ctrl.lab.echo import Echo
from ctrl.lab.numbered import DISCARD, Numbered, hearing, sending
from ctrl.lab.running import NOT_DONE, Keeper, LabError, State, last_words
from ctrl.lab.system import join_user_of, run_in
from ctrl.table import Row, table

LAB = "fabric"
ASK_S = 0.7
N_ASKED = 5
"""Requests until a VM that should answer counts as silent: a kernel that gives up an old ARP drops some."""
CHANGE_S = 15.0
"""How long joins and leaves may take: a leave is asked about twice, a second apart (RFC 9776 section 8.8)."""
SETTLED_S = 0.2
WATCH_S = 0.5
"""How long traffic goes on when all is done."""
ALONE_S = 1.0
"""How long it goes on without a manager, before that."""
N_FRAMES = 10
RATE = 200.0
LEAVER = "host4"
BLUE = "239.1.1.100"
SHOWN = {
    "devices": ("node", "role", "address", "state", "groups"),
    "groups": ("group", "vni", "local", "remote", "via"),
}

P = ParamSpec("P")
T = TypeVar("T")
Joined = dict[tuple[str, str], tuple[str, str]]
"""(NVE, group): the ToR and the port where that is."""


def play(keeper: Keeper, state: State) -> None:
    """Tell it, in the lab as it was built; LabError where it comes out differently."""
    story = _Story(keeper, state)

    _title("Linux hosts have joined their groups, but nobody listens: without fastpath no ARP gets through")
    story.ping("vm1", "vm2", "vm3", answered=False)

    _title("fastpath starts: hosts join, ToRs ask who is there and tell the manager; no tunnel is configured")
    story.state = keeper.start()
    story.follow(story.wanted(), {})
    story.wait_for_ways()
    story.show("devices", story.manager)

    _title("VMs reach each other: blue, which has three ToRs, by a replication point; green from ToR to ToR")
    story.ping("vm1", "vm2", "vm3", "vm4", answered=True)
    story.ping("vm5", "vm6", answered=True)
    story.show("groups")

    _title(
        f"A ToR sends the point one copy, and that the rest: {N_FRAMES} frames from vm1, {N_FRAMES} from vm5"
    )
    story.broadcast("vm1", "vm5")

    _title(f"{LEAVER} leaves while vm1 sends to everybody: two ToRs are left in blue, and need no point")
    with story.traffic("vm1", "vm2", "vm3", whole=True):
        joined = story.members()
        story.set(LEAVER, "down")
        story.follow(story.wanted(but=LEAVER), joined)
        story.wait_for_ways()
    story.show("groups", *story.tors, group=BLUE)

    _title("It is back: three again, so the point again, once it has been told")
    with story.traffic("vm1", "vm2", "vm3", whole=True):
        joined = story.members()
        story.set(LEAVER, "up")
        story.follow(story.wanted(), joined)
        story.wait_for_ways()
    story.show("groups", *story.tors, group=BLUE)

    _title("kill -9 of the manager: traffic goes on without it")
    with story.traffic("vm1", "vm2", "vm3", "vm4", whole=True):
        keeper.kill(story.manager)
        time.sleep(ALONE_S)

    _title("kill -9 of tor1 as well: it starts again, and forwards by what it has stored")
    with story.traffic("vm1", "vm2", "vm3", "vm4"):
        keeper.kill("tor1")
        keeper.restart("tor1")
        story.follow(story.wanted(), story.members())

    _title("The manager starts again")
    with story.traffic("vm1", "vm2", "vm3", "vm4", whole=True):
        keeper.restart(story.manager)
        story.wait_for_devices()
    story.show("devices", story.manager)

    point = story.point_of(BLUE)
    _title(f"kill -9 of {point}, which copies blue: probes tell the ToRs, which have another way at hand")
    with story.traffic("vm1", "vm2", "vm3", "vm4"):
        keeper.kill(point)
        story.wait_for_ways(but=point)
    story.show("groups", *story.tors, group=BLUE)
    click.echo("")


class _Story:
    """What can be done in the lab, and seen of it."""

    def __init__(self, keeper: Keeper, state: State) -> None:
        file = keeper.file
        self._boxes = file.table.boxes
        self.state = state
        join_user_of(state.pid)
        ends = [pair for wire in file.table.wires for pair in (wire.ends, wire.ends[::-1])]
        self._far = {(near.box, near.device): far.box for near, far in ends}
        """What is at the other end of a device's wire."""
        configs = {name: tomllib.loads(text) for name, text in file.fastpaths.items()}
        self.tors, self.points, managers = (
            {name: config[role] for name, config in configs.items() if role in config}
            for role in ("device", "replicator", "manager")
        )
        self._joined = {
            (config["nve"]["address"], network["group"])
            for config in configs.values()
            for network in config.get("network", ())
            if "nve" in config
        }
        ((self.manager, settings),) = managers.items()
        self._threshold: int = settings["threshold"]

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
        """Who is to have joined what: NVEs of ours, and all VXLAN devices but those of one host."""
        return self._joined | {
            (self._address(name, vxlan.under), str(vxlan.group))
            for name, box in self._boxes.items()
            for vxlan in box.vxlan.values()
            if name != but
        }

    def members(self) -> Joined:
        """Who has joined what, and where, as the ToRs see it."""
        return {
            (row["nve"], row["group"]): (tor, row["port"])
            for tor in self.tors
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

    def set(self, host: str, state: str) -> None:
        """Set the VXLAN devices of a host up or down, as `ip link set DEVICE STATE` does."""
        for device in self._boxes[host].vxlan:
            self._within(host, _set, device, state)

    def broadcast(self, *vms: str) -> None:
        """Send frames to everybody, and show how many copies went out where."""
        before = self._copies()
        for vm in vms:
            self._within(vm, _broadcast, self._everybody(vm))
        _table([
            {"box": box, "port": port, "to": self._far[box, port], "copies": n - before[box, port]}
            for (box, port), n in self._settled(before).items()
        ])  # fmt: skip

    @contextmanager
    def traffic(self, sender: str, *hearers: str, whole: bool = False) -> Iterator[None]:
        """Send numbered frames to everybody meanwhile, and show who heard how many of them.

        Each is to hear the last one; and where it is to be `whole`, each of them once.
        """
        ears = {vm: self._within(vm, hearing, "eth0") for vm in hearers}
        with Numbered(self._within(sender, sending), self._everybody(sender), ears, RATE) as numbered:
            yield
            time.sleep(WATCH_S)
        _table([
            {
                "vm": vm,
                "sent": numbered.sent,
                "lost": numbered.sent - len(heard.numbers),
                "doubled": heard.doubled,
                "silent": f"{heard.silence_s:.2f} s",
            }
            for vm, heard in numbered.heard.items()
        ])  # fmt: skip
        for vm, heard in numbered.heard.items():
            n_lost = numbered.sent - len(heard.numbers)
            if numbered.sent - 1 not in heard.numbers or (whole and (n_lost or heard.doubled)):
                raise LabError(NOT_DONE, f"{vm} was to hear each frame once" if whole else f"{vm} is cut off")

    def wait_for_ways(self, but: str = "") -> None:
        """Wait until every ToR sends what the members of all ToRs call for, none of it to one point."""
        self._wait("the ToRs have not been told of each other", lambda: self._is_on_its_way(but))

    def wait_for_devices(self) -> None:
        """Wait until the manager has all ToRs and points back."""
        wanted = {*self.tors, *self.points}
        self._wait(
            f"{self.manager} does not have them all back",
            lambda: (
                {row["node"] for row in self._ask(self.manager, "devices") if row["state"] == "live"}
                >= wanted
            ),
        )

    def point_of(self, group: str) -> str:
        """Who copies a group."""
        (row,) = (row for row in self._ask(next(iter(self.tors)), "groups") if row["group"] == group)
        return next(name for name, role in self.points.items() if role["address"] in row["remote"])

    def show(self, name: str, *boxes: str, **filters: str) -> None:
        """Show of some boxes, else of all ToRs and points, what `fastpath show NAME` does."""
        keys = SHOWN[name] if len(boxes) == 1 else ("box", *SHOWN[name])
        rows = [
            {"box": box} | row
            for box in boxes or (*self.tors, *self.points)
            for row in self._ask(box, name)
            if filters.items() <= row.items()
        ]
        click.echo("")
        _table([{key: row[key] for key in keys} for row in rows])

    # --- what these take ------------------------------------------------------------------------------------

    def _event(self, took_s: float, where: tuple[str, str], what: str, nve: str, group: str) -> None:
        click.echo(f"{took_s:5.2f} s  {' '.join(where)}: {self._far[where]} ({nve}) {what} {group}")

    def _within(self, box: str, function: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        return run_in(self.state.namespace(box), function, *args, **named)

    def _address(self, box: str, device: str) -> str:
        return str(self._boxes[box].addresses[device][0].ip)

    def _everybody(self, vm: str) -> str:
        return str(self._boxes[vm].addresses["eth0"][0].network.broadcast_address)

    def _ask(self, box: str, name: str) -> list[Row]:
        try:
            rows: list[Row] = get(Path(self.state.sockets[box]), f"/v1/{name}")
        except NotAnswered as why:
            raise LabError(NOT_DONE, f"{box}: {why}; {self._last_words(box)}") from None
        return rows

    def _last_words(self, box: str) -> str:
        """What the `fastpath run` of a box said last: most likely why it ended."""
        try:
            return f"its log ends: {last_words(Path(self.state.sockets[box]).with_suffix('.log'))}"
        except OSError:
            return "the folder of the lab is gone, too"

    def _is_on_its_way(self, but: str) -> bool:
        """Whether each ToR's copies of each group go to the other ToRs that are in it, or to one point that
        has them all."""
        joined: dict[str, set[str]] = {}
        for (_, group), (tor, _) in self.members().items():
            joined.setdefault(group, set()).add(tor)
        ways = {
            (box, row["group"]): set(row["remote"])
            for box in (*self.tors, *(point for point in self.points if point != but))
            for row in self._ask(box, "groups")
        }
        for group, tors in joined.items():
            devices = {self.tors[tor]["address"] for tor in tors}
            by_points = [
                {role["address"]}
                for point, role in self.points.items()
                if ways.get((point, group)) == devices
            ]
            for tor in tors:
                way = ways.get((tor, group), set())
                if len(tors) < self._threshold:
                    if way != devices - {self.tors[tor]["address"]}:
                        return False
                elif way not in by_points:
                    return False
        return True

    def _wait(self, why_not: str, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + CHANGE_S
        while not condition():
            if time.monotonic() > end:
                raise LabError(NOT_DONE, f"after {CHANGE_S:g} s {why_not}")
            time.sleep(0.02)

    def _copies(self) -> dict[tuple[str, str], int]:
        return {
            (box, row["name"]): row["copies_out"]
            for box in (*self.tors, *self.points)
            for row in self._ask(box, "ports")
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


def _set(device: str, state: str) -> None:
    with IPRoute() as route:
        route.link("set", index=socket.if_nametoindex(device), state=state)


def _broadcast(address: str) -> None:
    with sending() as sender:
        for i in range(N_FRAMES):
            sender.sendto(b"frame %d to everybody" % i, (address, DISCARD))


def _title(text: str) -> None:
    click.echo(f"\n{click.style(text, bold=True)}")


def _table(rows: list[Row]) -> None:
    for line in table(rows, {key: key.upper() for key in rows[0]}, grouped=False):
        click.echo(line)

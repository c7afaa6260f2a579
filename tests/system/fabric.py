"""A fabric of real processes: ToRs with Linux hosts behind them, points and managers on a core, all unicast.

    host [up] ---- [p1] tor1 [core] ---+
    crowd [c1] --- [crowd]             |
                                       core, a bridge that floods no multicast
                      point1 [core] ---+
                     manager [core] ---+

Hosts are unmodified Linux NVEs; crowds are wires on which tests say IGMP by hand, for thousands of groups.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ctrl.lab.namespaces import Namespace, connect, missing
from ctrl.lab.numbered import Numbered, hearing, sending
from ctrl.protocols.messages import Kind, Record
from ctrl.store.sqlite import SqliteStore
from tests.system import crowd
from tests.system.fabric_account import account, backlog_drops
from tests.system.lab import MTU, Fastpath, Lab, has_carrier, plug, wait_for

PORT = 9470
RATE = 200.0
"""Numbered frames a second, of each sender."""
PER_REPORT = 50
MEMBERSHIP = {"query_interval_s": 31744, "max_groups_per_port": 20000, "fast_leave": True}
"""Crowds answer no query: after those of the start there is none for hours."""


def lacking(*tools: str) -> str:
    """Say what keeps a fabric, and a test that needs more tools, from being made here; "" if nothing does."""
    absent = [tool for tool in ("ip", "bridge", *tools) if shutil.which(tool) is None]
    return missing() or (f"{', '.join(absent)} missing: PEERS=1 scripts/setup-system.sh" if absent else "")


@dataclass(frozen=True, slots=True)
class Nve:
    """A VXLAN device of a host, joined to its group by its kernel, with an address of a VM's."""

    tor: str
    host: Namespace
    vni: int
    number: int

    @property
    def device(self) -> str:
        return f"vx{self.vni}"

    def everybody(self) -> str:
        return f"192.168.{self.vni}.255"


class Node:
    """A box on the core that runs `fastpath` with a config; started by `Fabric.start` or `start`."""

    def __init__(self, lab: Lab, name: str, core: Namespace, last: int, *, forwards: bool = False) -> None:
        self.lab, self.name = lab, name
        self.address = f"10.0.0.{last}"
        self.box = lab.box(name, forwards=forwards)
        attach(core, self.box, name, self.address)
        self.state = lab.directory / f"{name}.db"
        self.fastpath: Fastpath

    def is_up(self) -> bool:
        return self.fastpath.process.poll() is None

    def kill(self) -> None:
        """As `kill -9` does."""
        self.fastpath.process.kill()
        self.fastpath.process.wait()

    def start(self, *, waits: bool = True) -> None:
        """Start it anew, on what the one before left behind."""
        self.fastpath.start(waits=waits)


class Tor(Node):
    """A ToR with hosts behind p1, p2, ..., and a crowd."""

    def __init__(self, lab: Lab, core: Namespace, number: int) -> None:
        super().__init__(lab, f"tor{number}", core, number, forwards=True)
        self.number = number
        self.hosts: list[Namespace] = []
        connect(self.box, "crowd", core, f"crowd{number}", mtu=MTU)
        self._core = core

    def host(self) -> Namespace:
        """Put one more host behind a port of its own."""
        at = len(self.hosts) + 1
        made = self.lab.box(f"h{self.number}{at}")
        plug(self.box, f"p{at}", made, (f"10.{self.number}.{at}.1/24", f"10.{self.number}.{at}.2/24"))
        self.hosts.append(made)
        return made

    def nve(self, vni: int, host: int = 0) -> Nve:
        """Make a VXLAN device on a host, as `ip link` does; `group_of(vni)` is its group."""
        box, at = self.hosts[host], host + 1
        box.vxlan(f"vx{vni}", vni, local=f"10.{self.number}.{at}.2", under="up", group=group_of(vni))
        box.address(f"vx{vni}", f"192.168.{vni}.{10 * self.number + at}/24")
        return Nve(self.name, box, vni, 10 * self.number + at)

    def say(self, kind: Kind, groups: Iterable[int], reports_per_s: float = 100.0) -> subprocess.Popen[str]:
        """Have the crowd say something of groups, PER_REPORT a report; ends when all is said."""
        named = list(groups)
        frames = [
            crowd.report(self.number, (Record(kind, group) for group in named[at : at + PER_REPORT]))
            for at in range(0, len(named), PER_REPORT)
        ]
        return crowd.flood(self.lab, self._core, f"crowd{self.number}", frames, reports_per_s)

    def groups(self) -> set[str]:
        """What is joined here."""
        return {str(row["group"]) for row in self.fastpath.show("members")}


class Fabric:
    """ToRs, points and managers; `start` runs them all."""

    def __init__(self, lab: Lab, n_tors: int = 3, n_points: int = 0, n_managers: int = 1) -> None:
        self.lab = lab
        self.core = lab.box("core")
        self.core.add_link("core", "bridge")
        self.tors = {tor.name: tor for tor in (Tor(lab, self.core, n + 1) for n in range(n_tors))}
        self.points = {
            f"point{n}": Node(lab, f"point{n}", self.core, 109 + n) for n in range(1, n_points + 1)
        }
        self.managers = {
            f"manager{n}": Node(lab, f"manager{n}", self.core, 99 + n) for n in range(1, n_managers + 1)
        }
        for tor in self.tors.values():
            for other in self.tors.values():
                if other is not tor:
                    tor.box.route(f"10.{other.number}.0.0/16", "core", other.address)
        for node in self.nodes:
            wait_for(partial(has_carrier, node.box, "core"), "the core's carrier")

    @property
    def nodes(self) -> list[Node]:
        return [*self.managers.values(), *self.points.values(), *self.tors.values()]

    def __getitem__(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def start(
        self,
        manager: str = "",
        *,
        node: str = "",
        store: str = "",
        security: Mapping[str, str] | None = None,
        membership: Mapping[str, Any] = MEMBERSHIP,
    ) -> None:
        """Run all of them. `manager`: more lines of [manager]; `node`: of [device] and [replicator].

        `security`: the [tls] of each by its name; without, everything is plaintext. The store is not new:
        with a new one a manager takes no tunnel away before hold_s is over (CONFORMANCE M10).
        """
        order = [f'"{one.address}:{PORT}"' for one in self.managers.values()]
        plain = "plaintext = true\n" if security is None else ""

        def tls(name: str) -> str:
            return "" if security is None else f"[tls]\n{security[name]}"

        for name, one in self.managers.items():
            where = store or f"sqlite://{one.state}"
            if not store:
                asyncio.run(make_aged(one.state))
            role = f'[manager]\nlisten = "{one.address}:{PORT}"\nstore = "{where}"\n{plain}{manager}\n'
            one.fastpath = Fastpath(self.lab, one.box, f"{role}{tls(name)}", name=name, waits=False)
        core = '[[port]]\nname = "core"\nfaces = "core"\n'
        for name, one in self.points.items():
            role = f'[replicator]\naddress = "{one.address}"\n{_node(order, one.state)}{plain}{node}\n'
            one.fastpath = Fastpath(self.lab, one.box, f"{core}{role}{tls(name)}", name=name, waits=False)
        timers = "".join(f"{key} = {str(value).lower()}\n" for key, value in membership.items())
        for name, tor in self.tors.items():
            ports = "".join(
                f'[[port]]\nname = "{port}"\nfaces = "nve"\n'
                for port in ("crowd", *(f"p{n + 1}" for n in range(len(tor.hosts))))
            )
            role = f'[device]\naddress = "{tor.address}"\n{_node(order, tor.state)}{plain}{node}\n'
            order = order[1:] + order[:1]  # the next one prefers another manager
            text = f"{core}{ports}[membership]\n{timers}{role}{tls(name)}"
            tor.fastpath = Fastpath(self.lab, tor.box, text, name=name, waits=False)
        for one in self.nodes:
            one.fastpath.answers()

    def have_joined(self, nves: Iterable[Nve]) -> bool:
        """Say whether the ToRs of all of these know that they are in their groups."""
        return all(group_of(one.vni) in self.tors[one.tor].groups() for one in nves)

    def attach(self, name: str, address: str) -> Namespace:
        """Make one more box on the core, for something else than fastpath."""
        made = self.lab.box(name)
        attach(self.core, made, name, address)
        wait_for(partial(has_carrier, made, "core"), "the core's carrier")
        return made

    # --- data -----------------------------------------------------------------------------------------------

    @contextmanager
    def traffic(self, *nves: Nve, rate: float = RATE) -> Iterator[Traffic]:
        """Send from the first to the others, all of one VNI, while it is entered."""
        with Traffic(self, nves, rate) as numbered:
            yield numbered

    # --- partition ------------------------------------------------------------------------------------------

    @contextmanager
    def cut_off(self, name: str) -> Iterator[None]:
        """Have all between a node and managers lost on the node's side, both ways, and nothing told of it."""
        chains = "".join(
            f"add chain ip cut {way} {{ type filter hook {way} priority 0; }};"
            f"add rule ip cut {way} tcp {port} {PORT} drop;"
            for way, port in (("input", "sport"), ("output", "dport"))
        )
        box = self[name].box
        box.command("nft", f"add table ip cut; {chains}")
        try:
            yield
        finally:
            box.command("nft", "delete table ip cut")


class Traffic(Numbered):
    """Numbered frames from the first of some NVEs to the others; says where some may have got lost."""

    def __init__(self, fabric: Fabric, nves: Sequence[Nve], rate: float) -> None:
        self._fabric, self._nves = fabric, nves
        self._backlog_before = backlog_drops()
        sender, *hearers = nves
        ears = {f"{one.tor}/{one.number}": one.host.run(hearing, one.device) for one in hearers}
        super().__init__(sender.host.run(sending), sender.everybody(), ears, rate)

    def account(self) -> str:
        """For each hearer what it lost, and all that is known of how."""
        runs = {name: gaps(self, name) for name in self.heard}
        overrun = {name: one.overrun for name, one in self.heard.items()}
        nodes = self._fabric.nodes
        boxes = [self._fabric.core, *(one.box for one in nodes), *(one.host for one in self._nves)]
        told = account((one.fastpath for one in nodes), boxes, self._backlog_before)
        return f"lost of {self.sent}, as (first, how many): {runs}\nlost at the hearers: {overrun}\n{told}"


def attach(core: Namespace, box: Namespace, name: str, address: str) -> None:
    """Wire a box to the core, which hands it no multicast."""
    connect(core, f"to-{name}", box, "core", mtu=MTU)
    box.address("core", f"{address}/24")
    core.set_link(f"to-{name}", master=core.index("core"))
    core.command("bridge", "link", "set", "dev", f"to-{name}", "mcast_flood", "off")


def _node(managers: list[str], state: Path) -> str:
    return f'manager = [{", ".join(managers)}]\nstate = "{state}"\n'


async def make_aged(file: Path) -> None:
    """Make a store of long ago."""
    await (await SqliteStore.open(file)).close()
    with closing(sqlite3.connect(file)) as base, base:
        base.execute("update store set made = 0")


def group_of(vni: int) -> str:
    return f"239.1.1.{vni}"


def expect_whole(data: Traffic) -> None:
    """Assert that each hearer heard each number exactly once."""
    assert data.sent
    found = {name: (len(one.numbers), one.doubled) for name, one in data.heard.items()}
    assert found == dict.fromkeys(found, (data.sent, 0)), f"{found}; {data.account()}"


def gaps(numbered: Numbered, name: str) -> list[tuple[int, int]]:
    """The runs of numbers that one did not hear: the first, and how many."""
    found: list[tuple[int, int]] = []
    before = -1
    for number in [*sorted(numbered.heard[name].numbers), numbered.sent]:
        if number > before + 1:
            found.append((before + 1, number - before - 1))
        before = number
    return found


def expect_one_gap(data: Traffic) -> float:
    """Assert that nobody heard anything twice, and that whoever lost some lost them in one go; seconds of the
    longest silence."""
    doubled = {name: one.doubled for name, one in data.heard.items()}
    assert not any(doubled.values()), doubled
    runs = {name: gaps(data, name) for name in data.heard}
    assert all(len(some) <= 1 for some in runs.values()), data.account()
    assert all(first + n < data.sent for some in runs.values() for first, n in some), data.account()
    return max(one.silence_s for one in data.heard.values())

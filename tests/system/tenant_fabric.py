"""The lab `tenants` with tests in it: its twelve VMs join and send, and each uplink tells what came by it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from ctrl.lab import labfile
from ctrl.lab.build import build
from ctrl.lab.numbered import Numbered, hearing, sending
from tests.system.crowd import Ear
from tests.system.fabric import make_aged
from tests.system.joins import QUICK
from tests.system.lab import Fastpath, Lab, wait_for
from tests.system.nves import floods_to, joined
from tests.system.tenants import Tenant

OUTER = "239.1.1.100"
FIRST, BITS = 0xEF4D0000, 16
"""The groups of these tenants: 239.77.0.0/16."""
IN_VXLAN, IN_NESTED = 50, 82
"""Where a VM's frame begins in a packet to the group, and in one that is in a nested tunnel."""
TIMERS = {**QUICK, "startup_response_interval_s": 0.8}
"""Who starts again, and asks, and does not wait for the answers, would miss some."""
LAST_MEMBER_S = 2 * float(QUICK["last_member_query_interval_s"])
RATE = 200.0
PROBE = 99_999_999
"""A number that no stream has."""
GAP_S = 0.1
"""So long without any of a stream of that rate: it has stopped."""
PORTS = ("p1", "p2", "p3", "p4")


class TenantFabric:
    """The lab as its file has it, but for its timers. `daemons`: by their boxes."""

    def __init__(self, lab: Lab, timers: Mapping[str, float] = TIMERS) -> None:
        self.lab = lab
        self._timers = "".join(f"{key} = {value}\n" for key, value in timers.items())
        self.file = labfile.read(labfile.known()["tenants"])
        self.boxes = build(lab, self.file)
        asyncio.run(make_aged(lab.directory / "manager.db"))
        self.daemons: dict[str, Fastpath] = {
            name: Fastpath(lab, self.boxes[name], self.config(name), name=name, waits=False)
            for name in self.file.fastpaths
        }
        self.tors = {name: one for name, one in self.daemons.items() if name.startswith("tor")}
        self.vms = {
            f"vm{n}": Tenant(lab, self.boxes[f"vm{n}"], "eth0", n, f"192.168.100.{n}") for n in range(1, 13)
        }
        self.uplinks = {vm: self._ear(host_of(vm), "up", IN_VXLAN) for vm in self.vms}
        """What comes to the host of each VM."""
        self.cores = {tor: self._ear(tor, "core", IN_NESTED) for tor in self.tors}
        for one in self.daemons.values():
            one.answers()
        for name, one in self.daemons.items():
            if name.startswith("host"):
                floods_to(one, name.replace("host", "to-vm"))
        self.settles()

    def _ear(self, box: str, device: str, at: int) -> Ear:
        return Ear(self.lab.packet_socket(self.boxes[box], device, 1), FIRST, BITS, at)

    def config(self, name: str, *changes: tuple[str, str]) -> str:
        """That of a box, with words of it in the place of others."""
        text = self.file.fastpaths[name].replace(labfile.FOLDER, str(self.lab.directory))
        for old, new in (*changes, ("hold_s = 3", "hold_s = 30")):  # a start takes long where many start
            text = text.replace(old, new)
        return text if name == "manager" else f"{text}[membership]\n{self._timers}"

    def settles(self) -> None:
        """Return when each ToR knows its four hosts, and sends what they say to the other two ToRs."""
        for name, tor in self.tors.items():
            joined(tor, OUTER, *PORTS)
            self.sends_to(name, *(self.address(other) for other in self.tors if other != name))

    def address(self, tor: str) -> str:
        return tor.replace("tor", "10.0.0.")

    def sends_to(self, tor: str, *addresses: str) -> None:
        """Return when a ToR sends the group of the network just there."""
        one = self.tors[tor]
        wait_for(
            lambda: any(
                sorted(row["remote"]) == sorted(addresses) for row in one.show("groups", group=OUTER)
            ),
            lambda: f"{tor} sends to {addresses}: {one.show('groups')}",
        )

    def count(self) -> dict[str, int]:
        """What came by each uplink and each core since the last call, of all groups of tenants."""
        return {name: ear.news() for name, ear in (*self.uplinks.items(), *self.cores.items())}

    def narrows(self, sender: str, group: str, receivers: Collection[str], within_s: float = 10.0) -> None:
        """Return when a group comes by the uplinks of its receivers and the cores of their ToRs alone."""
        wanted = {*receivers, *(tor for vm in receivers if (tor := tor_of(vm)) != tor_of(sender))}
        found: set[str] = set()

        def is_so() -> bool:
            self.count()
            self.vms[sender].send(group, [PROBE])
            time.sleep(0.05)
            found.clear()
            found.update(name for name, n in self.count().items() if n)
            return found == wanted

        wait_for(is_so, lambda: f"{group} from {sender} comes to {wanted}, not {found}", within_s)

    @contextmanager
    def traffic(self, sender: str, group: str, *receivers: str) -> Iterator[Numbered]:
        """Have a VM send to a group, and others be in it, meanwhile."""
        ears = {vm: self.boxes[vm].run(hearing, "eth0", group) for vm in receivers}
        self.narrows(sender, group, receivers)
        with Numbered(self.boxes[sender].run(sending, "eth0"), group, ears, RATE) as numbered:
            yield numbered

    def books(self, *known: str) -> None:
        """Assert that each box accounts for all of its frames, and lost none but for what is known."""
        boxes = [one for name, one in self.daemons.items() if name != "manager"]
        before: list[dict[str, Any]] = []
        while before != (now := [one.status() | {"uptime_s": 0} for one in boxes]):
            before = now
            time.sleep(0.1)
        for one, n in zip(boxes, now, strict=True):
            assert n["received"] == n["replicated"] + n["punted"] + n["dropped"], one.name
            lost = one.lost()
            assert not lost.keys() - {"no_receiver", *known}, (one.name, lost, one.log)


def host_of(vm: str) -> str:
    return vm.replace("vm", "host")


def tor_of(vm: str) -> str:
    return f"tor{(int(vm.removeprefix('vm')) + 3) // 4}"


def is_ours(vm: str) -> bool:
    """Whether its host runs fastpath."""
    return int(re.sub(r"\D", "", vm)) % 4 in (1, 2)


def expect_whole(data: Numbered, *but: str) -> None:
    """Assert that each but some heard each number exactly once."""
    found = {name: (len(one.numbers), one.doubled) for name, one in data.heard.items() if name not in but}
    assert data.sent
    assert found == dict.fromkeys(found, (data.sent, 0)), f"{found} of {data.sent}"


def lost_in_one_go(data: Numbered, *names: str) -> Mapping[str, float]:
    """Assert that these heard nothing twice, and miss numbers in a row at most; seconds of each's silence."""
    for name in names:
        heard = data.heard[name]
        assert not heard.doubled, (name, heard.doubled)
        numbers = sorted(heard.numbers)
        gaps = [(one, other) for one, other in pairwise(numbers) if other > one + 1]
        assert len(gaps) <= 1, (name, gaps)
        assert numbers[-1] == data.sent - 1, (name, numbers[-1], data.sent)
    return {name: data.heard[name].silence_s for name in names}

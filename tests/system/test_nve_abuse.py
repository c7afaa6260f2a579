"""A VM does what it likes, as fast as it can: VMs of other networks lose nothing by it, its neighbours keep
their stations, and every frame is accounted for.

    a1 --           -- a2              -- a3      blue: a1 and t1 have storm control, t1 is a TAP
    b1 -- [n1] up -- p1 [tor] p2 -- up [n2]
    t1 --           -- b2    p3 -- up [n3]
    c1 --           -- c2              -- c3      green: those who are calm
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from ctrl.lab.numbered import Numbered, hearing, sending
from tests import taps
from tests.system.crowd import flood, sent
from tests.system.lab import BROADCAST, TEST_ETHERTYPE, Fastpath, Lab, plug, wait_for
from tests.system.nves import (
    Talker,
    colons,
    core_port,
    floods_to,
    joined,
    knows,
    macs,
    tap_vm,
    veth_vm,
    vm_port,
)

WHY = taps.why_not()
pytestmark = pytest.mark.skipif(WHY is not None, reason=str(WHY))
GROUPS = {"blue": "239.1.1.100", "green": "239.1.1.101"}
LIMIT, STORM = 4096, 1000
"""MACs of a port, by default; frames of a kind a second, where a port has storm control."""
MOVED = 4000
RATE, RATE_OF_FLOOD = 500.0, 100_000
"""Frames a second of those who are calm; and of a flood, about as much as its program can."""
VM_PORTS = {
    1: {"a1": "blue", "t1": "blue", "b1": "blue", "c1": "green"},
    2: {"a2": "blue", "b2": "blue", "c2": "green"},
    3: {"a3": "blue", "c3": "green"},
}
VM_PORTS_OF = {
    network: [name for ports in VM_PORTS.values() for name, its in ports.items() if its == network]
    for network in GROUPS
}
KINDS = ("broadcast", "multicast", "unknown")
LIMITED = "[port.storm]\n" + "".join(f"{kind}_pps = {STORM}\n" for kind in KINDS)


def config(number: int, *limited: str) -> str:
    networks = "".join(
        f'[[network]]\nname = "{name}"\nvni = {vni}\ngroup = "{GROUPS[name]}"\n'
        for name, vni in (("blue", 100), ("green", 200))
    )
    ports = "".join(
        vm_port(name, network, "tap" if name == "t1" else "packet", LIMITED if name in limited else "")
        for name, network in VM_PORTS[number].items()
    )
    return f'{core_port()}{ports}{networks}[nve]\naddress = "10.1.{number}.2"\n'


@dataclass
class Abused:
    lab: Lab
    tor: Fastpath
    nves: dict[int, Fastpath]
    vms: dict[str, Talker]
    stations: dict[str, str]
    """Where n1 has those who do nothing."""

    def flood(self, who: str, frames: list[bytes], rate: float, seconds: float = 0) -> int:
        """Have a VM send frames, and wait until it has; how many. 0 seconds: each once."""
        vm = self.vms[who]
        return sent(flood(self.lab, vm.box, vm.device, frames, rate, seconds))

    def packets(self, who: str, way: str) -> int:
        """Frames that a VM has sent or received so far."""
        vm = self.vms[who]
        return int(vm.box.link(vm.device).get_attr("IFLA_STATS64")[f"{way}_packets"])


@pytest.fixture(scope="module")
def abused() -> Iterator[Abused]:
    with Lab("nveabuse") as lab:
        tor_box = lab.box("tor", forwards=True)
        tor_box.address("lo", "10.9.0.1/32")
        hosts = {n: lab.box(f"n{n}") for n in VM_PORTS}
        ports = "".join(f'[[port]]\nname = "p{n}"\nfaces = "nve"\n' for n in hosts)
        for n, host in hosts.items():
            plug(tor_box, f"p{n}", host, (f"10.1.{n}.1/24", f"10.1.{n}.2/24"))
        tor = Fastpath(lab, tor_box, ports + '[device]\naddress = "10.9.0.1"\n', waits=False)
        nves = {n: Fastpath(lab, host, config(n, "a1", "t1"), waits=False) for n, host in hosts.items()}
        vms, number = {}, 0
        for n, names in VM_PORTS.items():
            for name in names:
                number += 1
                if name != "t1":
                    vms[name] = veth_vm(lab, hosts[n], name, number)
        for n in VM_PORTS:
            vms[f"c{n}"].box.address("eth0", f"192.168.200.{n}/24")
        for one in (tor, *nves.values()):
            one.answers()
        vms["t1"] = tap_vm(lab, hosts[1], "t1", number + 1)
        for group in GROUPS.values():
            joined(tor, group, "p1", "p2", "p3")
        for n, ports_of in VM_PORTS.items():
            for network in GROUPS:
                floods_to(nves[n], *(name for name, its in ports_of.items() if its == network))
        for vm in vms.values():
            vm.send(0)
        known = knows(nves[1], *vms.values())
        stations = {mac: known[mac] for mac in (colons(vms[name].mac) for name in ("a2", "c1", "c2", "c3"))}
        yield Abused(lab, tor, nves, vms, stations)


def kinds(n: int) -> list[bytes]:
    """Frames to everybody, to a group and to nobody that is known, each from a station of its own."""
    chance = random.Random(6)
    to = (BROADCAST, b"\1\0\x5e\1\2\3", b"\2\xdd\0\0\0\x63")
    ethertype = TEST_ETHERTYPE.to_bytes(2, "big")
    return [to[i % 3] + b"\2\xaa" + chance.randbytes(4) + ethertype + bytes(50) for i in range(n)]


Lost = list[tuple[int, int, int]]
"""Of each hearer: how many were sent, those that never came, and copies too many."""


def lost_by(streams: list[Numbered]) -> Lost:
    heard = [(stream.sent, one) for stream in streams for one in stream.heard.values()]
    assert not any(one.overrun for _, one in heard), "the hearer itself was too slow"
    return [(n, n - len(one.numbers), one.doubled) for n, one in heard]


@contextmanager
def others_speaking(abused: Abused) -> Iterator[list[Numbered]]:
    """Have VMs of the other network speak: one to all of it, and one to a station that is known."""
    boxes, streams = {n: abused.vms[f"c{n}"].box for n in VM_PORTS}, list[Numbered]()
    with ExitStack() as opened:
        for sender, to, hearers in ((1, "192.168.200.255", (2, 3)), (2, "192.168.200.1", (1,))):
            listeners = {f"c{n}": boxes[n].run(hearing, "eth0") for n in hearers}
            streams.append(opened.enter_context(Numbered(boxes[sender].run(sending), to, listeners, RATE)))
        time.sleep(0.1)
        yield streams
        time.sleep(0.1)


@dataclass
class Books:
    """What NVE 1 and those around it have counted of a network and one of its VMs."""

    sent: int
    heard: dict[str, int]
    counts: Counter[str]

    @classmethod
    def read(cls, abused: Abused, who: str) -> Books:
        n1 = abused.nves[1]
        for one in (n1, abused.tor, abused.nves[2], abused.nves[3]):  # in the order in which copies pass
            one.settled()
        now = n1.status()
        port = n1.port(who)
        (blue,) = (row for row in n1.show("groups", via="static") if row["group"] == "vxlan 100")
        counts = Counter(n1.drops())
        counts |= {key: now[key] for key in ("received", "replicated", "punted", "dropped", "copies_out")}
        counts |= {"came": port["received"], "ring_lost": port["ring_lost"], "flooded": blue["frames"]}
        heard = {name: abused.packets(name, "rx") for name in VM_PORTS_OF["blue"] if name != who}
        return cls(abused.packets(who, "tx"), heard, counts)

    def __sub__(self, before: Books) -> Books:
        heard = {name: n - before.heard[name] for name, n in self.heard.items()}
        return Books(self.sent - before.sent, heard, self.counts - before.counts)


def expect_balanced(abused: Abused) -> None:
    """Assert that each frame that any box received is accounted for; and nobody's station was lost by it."""
    boxes = (abused.tor, *abused.nves.values())
    for one in boxes:
        now = one.settled()
        assert now["received"] == now["replicated"] + now["punted"] + now["dropped"], one.name
        assert sum(int(str(row["copies_out"])) for row in one.show("ports")) == now["copies_out"], one.name
        assert sum(int(str(row["received"])) for row in one.show("ports")) == now["received"], one.name
    assert abused.stations.items() <= macs(abused.nves[1]).items()


def flooded(abused: Abused, who: str) -> tuple[Lost, Books, float]:
    """Have one VM flood while others speak: what became of theirs, what was counted, and how long it took."""
    before = Books.read(abused, who)
    with others_speaking(abused) as streams:
        begin = time.monotonic()
        n = abused.flood(who, kinds(30_000), RATE_OF_FLOOD, 1.0)
        took_s = time.monotonic() - begin
    books = Books.read(abused, who) - before
    print(f"{who}: {n} frames in {took_s:.2f} s; {books}; sent, lost, doubled of others: {lost_by(streams)}")
    assert books.sent == books.counts["came"] + books.counts["ring_lost"]
    expect_balanced(abused)
    return lost_by(streams), books, took_s


def announcements(first: int, n: int) -> list[bytes]:
    """Gratuitous ARPs of n stations."""
    found = []
    for number in range(first, first + n):
        mac, address = b"\2\xbb" + number.to_bytes(4, "big"), (0x0A4D0000 + number).to_bytes(4, "big")
        body = bytes.fromhex("0001080006040001") + mac + address + bytes(6) + address
        found.append((BROADCAST + mac + b"\x08\x06" + body).ljust(60, b"\0"))
    return found


def behind(nve: Fastpath, **where: str) -> set[str]:
    """The announced stations that an NVE has somewhere."""
    return {mac for row in nve.show("macs", **where) if (mac := str(row["mac"])).startswith("02:bb")}


def test_a_port_has_exactly_as_many_stations_as_its_limit_says_and_others_keep_theirs(abused: Abused) -> None:
    frames, n3 = announcements(0, 6000), abused.nves[3]
    refused = n3.drops().get("mac_port_full", 0)
    n_own = len(n3.show("macs", port="a3"))
    abused.flood("a3", frames, 50_000)
    n_refused = len(frames) - (LIMIT - n_own)
    wait_for(
        lambda: n3.drops().get("mac_port_full", 0) - refused >= n_refused,
        lambda: f"all have been learned or refused: {n3.drops()}",
    )
    expect_balanced(abused)
    assert len(n3.show("macs", port="a3")) == LIMIT
    assert behind(n3, port="a3") == {colons(frame[6:12]) for frame in frames[: LIMIT - n_own]}
    drops = n3.drops()
    assert drops["mac_port_full"] - refused == n_refused
    assert "learn_lost" not in drops


def test_four_thousand_stations_that_move_at_once_settle_everywhere(abused: Abused) -> None:
    """And nobody else loses a frame by it."""
    frames = announcements(10_000, MOVED)
    moving = {colons(frame[6:12]) for frame in frames}
    n1, n2, n3 = abused.nves.values()

    def are(*where: tuple[Fastpath, str, str]) -> bool:
        return all(moving <= behind(nve, **{what: name}) for nve, what, name in where)

    abused.flood("b1", frames, 50_000)
    wait_for(
        lambda: are((n1, "port", "b1"), (n2, "vtep", "10.1.1.2"), (n3, "vtep", "10.1.1.2")), "they are known"
    )
    with others_speaking(abused) as streams:
        mover = abused.lab.packet_socket(abused.vms["b2"].box, "eth0")
        begin = time.monotonic()
        for frame in frames:
            mover.send(frame)
        said_s = time.monotonic() - begin
        wait_for(
            lambda: are((n2, "port", "b2"), (n1, "vtep", "10.1.2.2"), (n3, "vtep", "10.1.2.2")),
            "they have moved",
        )
        settled_s = time.monotonic() - begin
    print(f"{MOVED} said so in {said_s:.3f} s, settled after {settled_s:.3f} s; others: {lost_by(streams)}")
    assert [lost[1:] for lost in lost_by(streams)] == [(0, 0)] * 3
    assert behind(n1, port="b1") == set()
    expect_balanced(abused)


@pytest.mark.parametrize("rogue", ["a1", "t1"], ids=["packet", "tap"])
def test_a_vm_that_floods_takes_nothing_from_another_vm_s_networks(abused: Abused, rogue: str) -> None:
    """What storm control lets through arrives, all else stands under its name."""
    lost, books, took_s = flooded(abused, rogue)
    assert [(missed, doubled) for _, missed, doubled in lost] == [(0, 0)] * 3
    assert min(n for n, _, _ in lost) > 100
    counts = books.counts
    dropped = {kind: counts[f"storm_{kind}"] for kind in KINDS}
    assert min(dropped.values()) > 0
    assert sum(dropped.values()) == counts["dropped"] == counts["came"] - counts["flooded"]
    assert counts["flooded"] <= 3 * STORM * (took_s + 1.5)
    assert books.heard == dict.fromkeys(books.heard, counts["flooded"])


@pytest.mark.slow
def test_a_flood_without_storm_control_is_lost_at_its_own_port_or_where_all_share_a_wire(
    abused: Abused,
) -> None:
    """What it costs others behind the uplink is printed; at the NVE itself it costs them nothing."""
    lost, books, _ = flooded(abused, "b1")
    assert all(doubled == 0 for _, _, doubled in lost)
    assert books.counts["flooded"] == books.counts["came"]
    assert books.counts["dropped"] == 0
    rings = {
        one.name: {str(row["name"]): int(str(row["ring_lost"])) for row in one.show("ports")}
        for one in (abused.tor, *abused.nves.values())
    }
    print("lost in rings:", rings)
    assert {name for name, n in rings["n1"].items() if n} <= {"a1", "t1", "b1"}

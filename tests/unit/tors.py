"""A device with managers, its NVEs agnostic, on a running loop without a kernel: frames and instructions in;
copies, what control sends and second information out."""

from __future__ import annotations

import time
from ipaddress import ip_address
from typing import cast

from ctrl.daemon import reach as r
from ctrl.daemon.fabric import Fabric
from ctrl.daemon.snooping import Snooping
from ctrl.daemon.telling import Teller
from ctrl.daemon.tenancy import Tenancy
from ctrl.events import Bus
from ctrl.membership import ALL, Event, Membership, Origin, Who
from ctrl.netlink import Link, NextHop, View
from ctrl.publisher import Publisher
from ctrl.refusals import Refused
from ctrl.roles.device import Device
from ctrl.rpc.client import Client as RpcClient
from ctrl.rpc.messages import Groups, Instructions, Welcome
from ctrl.topology.entry import Entry, Key, TenantKey, is_tenant, split_tenant
from fastpath import Forwarder, MemoryPort, Punts
from fastpath.model import IPAddress, Scope
from tests import frames as f
from tests.unit.driven import Client
from tests.unit.nves import read

CORE, P1, P2, P3 = range(4)
NAMES = ("core", "p1", "p2", "p3")
OWN, PEER, OTHER = (ip_address(f"10.0.0.{n}") for n in (1, 2, 3))
OUTER = ip_address("239.1.1.100")
PORTS = '[[port]]\nname = "core"\nfaces = "core"\n' + "".join(
    f'[[port]]\nname = "{name}"\nfaces = "nve"\n' for name in NAMES[1:]
)
DEVICE = '[device]\naddress = "10.0.0.1"\nmanager = ["127.0.0.1:9470"]\nstate = "{state}"\n'
BLUE = '[[network]]\nname = "blue"\nvni = 100\ngroup = "239.1.1.100"\nsnoop = true\n'
LINKS = {
    name: Link(name, place + 2, bytes((2, 0, 0, 0, 1, place)), 1500, is_up=True)
    for place, name in enumerate(NAMES)
}
HOPS = {peer: NextHop("core", bytes((2, 0, 0, 0, 9, int(peer) & 255))) for peer in (PEER, OTHER)}


def tunnelled(place: int, inner: bytes) -> bytes:
    """What the NVE behind a port sends to its network."""
    return f.wire(f.vxlan_packet(inner, f"10.1.{place}.2", str(OUTER), 100))


class Tor:
    """A device, of which NVEs at some ports are in the outer group from the beginning."""

    def __init__(self, *joins: int, more: str = "", state: str = "") -> None:
        self.config = read(PORTS + DEVICE.format(state=state) + BLUE + more)
        self.refused, self.bus, self.membership = Refused(), Bus(lambda: 0.0), Membership()
        self.tenancy = Tenancy(self.config, self.refused)
        self.device = Device(self.membership, self.refused, self.config.membership)
        self.publisher = Publisher(self.membership, refined=self.tenancy.refined())
        self.client = Client()
        self.fabric = Fabric(
            self.config,
            self.membership,
            self.publisher,
            self.device,
            self.tenancy,
            self.bus,
            tell=lambda event: None,
            apply=self.apply,
            settle=self.settle,
            resolved=self.resolved,
        )
        self.fabric.restore([P1, P2, P3])
        for place in joins:
            self.join(place)
        self.reach = r.work_out(self.config, View(LINKS, HOPS), self.fabric.told)
        self.publisher.rebase(self.reach.basis)
        self.ports = [MemoryPort() for _ in NAMES]
        lists = list(self.publisher.lists.values())
        self.forwarder = Forwarder(self.reach.layout, self.ports, lists, punts=Punts())
        self.teller = Teller(self.bus, self.membership, lambda place: NAMES[place])
        self.sent: list[tuple[int, bytes]] = []
        self.snooping = Snooping(
            self.forwarder,
            self.device,
            self.publisher,
            self.refused,
            lambda port, frame: self.sent.append((port, frame)),
            self.fabric.member,
            relays=self.tenancy.relays,
            tell_tenant=self.tenant,
            settled=self.fabric.say_tenants,
        )
        self.fabric.sides[0].client = cast("RpcClient", self.client)
        self.number = 0
        self.apply()

    def settle(self) -> None:
        self.snooping.settle()

    def tenant(self, scope: Scope, network: str, event: Event) -> None:
        self.teller.tenant(network, event)
        self.fabric.tenant(scope, network, event)

    async def resolved(self, fresh: frozenset[IPAddress]) -> None:
        """All next hops are known."""

    def apply(self) -> None:
        """Forward by what managers named."""
        self.reach = r.work_out(self.config, View(LINKS, HOPS), self.fabric.told)
        step = self.publisher.reroute(self.reach.basis)
        self.forwarder.relayout(self.reach.layout, step.lists, step.removed, self.reach.hops)
        self.tenancy.attach(self.reach, self.publisher, time.monotonic())
        self.fabric.listening(self.reach.basis)
        self.snooping.settle()

    def join(self, place: int, *, leaves: bool = False) -> None:
        """The NVE at a port joins the outer group, or leaves it."""
        who = Who(place, Origin.IGMP, bytes((2, 0, 0, 0, 7, place)), ip_address(f"10.1.{place}.2"))
        event = self.membership.apply(OUTER, who, None if leaves else ALL)
        assert event is not None
        self.fabric.member(event)

    def later(self) -> None:
        """All places had their time to answer."""
        for relay in self.tenancy.relays:
            relay.poll(time.monotonic() + 60.0)
        self.snooping.settle()

    def hear(self, place: int, *frames: bytes) -> set[str]:
        """Frames in; where copies of them leave. What they say is in force afterwards."""
        self.ports[place].receive(*frames)
        self.forwarder.run()
        self.snooping._turn()
        return {name for name, port in zip(NAMES, self.ports, strict=True) if port.take()}

    def begin(self) -> None:
        """A session with a manager."""
        self.fabric.sides[0].connected("127.0.0.1:9470")
        self.fabric.sides[0].heard(Welcome("m1", "s", 10.0))

    def tell(self, *entries: Entry, removed: tuple[Key, ...] = ()) -> None:
        """What a manager says."""
        self.number += 1
        self.fabric.sides[0].heard(Instructions(self.number, self.number, entries, removed))

    def said(self) -> list[tuple[bytes, bool]]:
        """What of tenants it said since it was last asked, in order: (inner, wanted)."""
        messages, self.client.sent[:] = self.client.said(Groups), []
        return [
            (split_tenant(key).inner, wanted)
            for one in messages
            for key, wanted in (
                *((group.key, True) for group in one.added),
                *((key, False) for key in one.gone),
            )
            if is_tenant(key)
        ]

    def keys(self) -> set[TenantKey]:
        """Its second information about tenants."""
        return {split_tenant(key) for key in self.fabric.sides[0].instructed.groups if is_tenant(key)}

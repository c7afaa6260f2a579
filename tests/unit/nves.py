"""The NVE of a running box without a kernel: what the daemon makes of a config, of news and of frames."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_interface

from ctrl.config import Config, parse
from ctrl.daemon import reach as r
from ctrl.daemon.nve import Nve
from ctrl.daemon.snooping import Snooping
from ctrl.daemon.telling import Teller
from ctrl.events import Bus
from ctrl.membership import Membership
from ctrl.netlink import Link, NextHop, View
from ctrl.publisher import Publisher
from ctrl.refusals import Refused
from ctrl.roles.device import Device
from ctrl.roles.tenants import Tenants
from ctrl.static import tenant_mac
from ctrl.tenant_lists import TenantLists
from ctrl.tenant_side import TenantSide
from ctrl.tenants_told import TenantsTold
from fastpath import Forwarder, MemoryPort, Punts
from fastpath.model import IPAddress
from tests import frames as f

UP, VM1, VM2, RED = range(4)
OWN, FAR = ip_address("10.0.0.1"), ip_address("10.0.0.2")
UPLINK = '[[port]]\nname = "up"\nfaces = "core"\n'
PORTS = UPLINK + "".join(
    f'[[port]]\nname = "{name}"\nfaces = "vm"\nnetwork = "{network}"\n'
    for name, network in (("vm1", "blue"), ("vm2", "blue"), ("vm3", "red"))
)
NAMES = ("up", "vm1", "vm2", "vm3")
MACS = {name: bytes((2, 0, 0, 0, 1, place)) for place, name in enumerate(NAMES)}
LINKS = {
    name: Link(
        name, place + 2, mac, 1500, is_up=True, addresses=(ip_interface("10.0.0.5/24"),) * (name == "up")
    )
    for place, (name, mac) in enumerate(MACS.items())
}


def down(*names: str) -> dict[str, Link]:
    """The links while these are down."""
    return {name: replace(link, is_up=name not in names) for name, link in LINKS.items()}


def read(text: str) -> Config:
    reading = parse(text)
    assert reading.config, reading.findings
    return reading.config


def tunnelled(inner: bytes, sender: IPAddress | str = FAR, to: str = "239.1.1.100", vni: int = 100) -> bytes:
    """What another VTEP sends."""
    return f.wire(f.vxlan_packet(inner, str(sender), to, vni))


class Host:
    """A box of PORTS, unless its config has others: `see` is news of the kernel, `hear` a frame."""

    def __init__(self, text: str, hops: Mapping[IPAddress, NextHop] | None = None) -> None:
        self.config = config = read(text)
        assert config.nve
        self.view, self.refused, self.bus = View(LINKS, hops or {}), Refused(), Bus(lambda: 0.0)
        self.reach = r.work_out(config, self.view)
        membership, mac = Membership(), tenant_mac(config.nve)
        self.ours = {mac, MACS["up"]}
        self.tenants = Tenants(self.refused, config.membership, mac, lambda: 0.5)
        self.side = TenantSide(self.tenants, self.refused)
        self.publisher = Publisher(membership, self.reach.basis, TenantLists(self.tenants, TenantsTold()))
        self.ports = [MemoryPort() for _ in config.ports]
        self.forwarder = Forwarder(
            self.reach.layout,
            self.ports,
            self.publisher.lists.values(),
            punts=Punts(),
            max_macs=config.nve.max_macs,
            max_vteps=config.nve.max_vteps,
        )
        self.nve = Nve(config, self.reach, self.forwarder, self.refused, self.bus)
        teller = Teller(self.bus, membership, lambda place: self.config.ports[place].name)
        self.told = r.Told()
        """What managers said."""
        self.sent: list[tuple[int, bytes]] = []
        self.addresses: Collection[IPAddress] = {OWN}
        self.snooping = Snooping(
            self.forwarder,
            Device(membership, self.refused, config.membership),
            self.publisher,
            self.refused,
            lambda port, frame: self.sent.append((port, frame)),
            teller.member,
            self.nve,
            self.side,
            tell_tenant=lambda scope, network, event: teller.tenant(network, event),
        )
        self.see()

    def see(
        self, links: Mapping[str, Link] | None = None, hops: Mapping[IPAddress, NextHop] | None = None
    ) -> None:
        """News of the kernel: other links, and by which of them addresses are reached."""
        self.view = View(links or self.view.links, {**self.view.hops, **(hops or {})})
        told = replace(self.told, vteps=self.nve.vteps)
        self.reach = now = r.work_out(self.config, self.view, told)
        step = self.publisher.reroute(now.basis)
        self.forwarder.relayout(now.layout, step.lists, step.removed, now.hops)
        self.nve.apply(now, r.uplinks(self.config, now.layout, self.view), self.addresses)
        self.side.attach(now.basis.snooped, now.basis.agnostic, now.layout, now.hops, 0.0)
        self.snooping.settle()

    def hear(self, place: int, *frames: bytes) -> dict[str, list[bytes]]:
        """Frames in; the copies that leave for them, by port. What they say is in force afterwards."""
        self.ports[place].receive(*frames)
        self.forwarder.run()
        self.nve._turn()
        self.snooping._turn()
        return {port.name: out.take() for port, out in zip(self.config.ports, self.ports, strict=True)}

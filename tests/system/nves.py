"""Hosts whose NVE is fastpath, and VMs behind them: on a veth, or with a TAP in their own namespace."""

from __future__ import annotations

from functools import partial

from ctrl.lab.namespaces import Namespace, connect
from tests.system.lab import Fastpath, Lab, Vm, has_carrier, numbered, wait_for

QUICK = """
[membership]
query_interval_s = 2
query_response_interval_s = 0.4
last_member_query_interval_s = 0.3
"""
"""Timers of a device for tests that wait for queries."""


class Talker(Vm):
    """A VM that also speaks to one other, or to a group."""

    def __init__(self, lab: Lab, box: Namespace, device: str, number: int) -> None:
        super().__init__(lab, box, device, number)
        self.box = box
        self.device = device

    def say(self, to: bytes, *numbers: int, size: int = 64) -> None:
        """Send numbered frames to one MAC."""
        for number in numbers:
            self._socket.send(to + numbered(number, self.mac, size)[6:])


def veth_vm(lab: Lab, host: Namespace, device: str, number: int, name: str = "") -> Talker:
    """A VM in a namespace of its own, on a veth of its host."""
    vm = lab.box(name or f"vm{number}")
    connect(host, device, vm, "eth0", mtu=1500)
    wait_for(partial(has_carrier, host, device), f"carrier of {device}")
    return Talker(lab, vm, "eth0", number)


def tap_vm(lab: Lab, host: Namespace, device: str, number: int) -> Talker:
    """A VM that gets the TAP which its host's NVE has made."""
    vm = lab.box(f"vm{number}")
    index = host.index(device)
    host.netlink(lambda ip: ip.link("set", index=index, net_ns_fd=vm.fd), f"move {device}")
    vm.set_link(device, state="up")
    return Talker(lab, vm, device, number)


def vm_port(name: str, network: str = "blue", kind: str = "packet", more: str = "") -> str:
    """A port with a VM behind it."""
    return f'[[port]]\nname = "{name}"\nkind = "{kind}"\nfaces = "vm"\nnetwork = "{network}"\n{more}'


def core_port(name: str = "up") -> str:
    return f'[[port]]\nname = "{name}"\nfaces = "core"\n'


def joined(tor: Fastpath, group: str, *ports: str) -> None:
    """Return when the device knows a member of a group at each of these ports, and no other."""
    wait_for(
        lambda: sorted({str(row["port"]) for row in tor.show("members", group=group)}) == sorted(ports),
        f"members of {group} at {ports}: {tor.show('members')}",
    )


def floods_to(nve: Fastpath, *ports: str) -> None:
    """Return when the NVE has just these VM ports in a network, and so in force."""
    wait_for(
        lambda: any(sorted(row["local"]) == sorted(ports) for row in nve.show("groups", via="static")),
        f"{ports} in the lists of {nve.name}: {nve.show('groups')}",
    )


def lost_by(one: Fastpath) -> dict[str, int]:
    """What a box lost. A unicast frame that its sender flooded reaches NVEs which know that its station is
    elsewhere: none of theirs wants it (`no_receiver`)."""
    return {reason: n for reason, n in one.lost().items() if reason != "no_receiver"}


def macs(nve: Fastpath) -> dict[str, str]:
    """Where the stations are that an NVE knows: a port or a VTEP, by MAC."""
    return {str(row["mac"]): str(row["port"] or row["vtep"]) for row in nve.show("macs")}


def colons(mac: bytes) -> str:
    return mac.hex(":")

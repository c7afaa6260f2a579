"""Hosts whose NVE is fastpath, and VMs behind them: on a veth, or with a TAP in their own namespace."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from ctrl.lab.namespaces import Namespace, connect
from tests.system.lab import Fastpath, Lab, Vm, expect_once, has_carrier, numbered, wait_for

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
    return Talker(lab, veth_box(lab, host, device, name or f"vm{number}"), "eth0", number)


def veth_box(lab: Lab, host: Namespace, device: str, name: str) -> Namespace:
    """A box whose `eth0` is the far end of a veth of its host."""
    made = lab.box(name)
    connect(host, device, made, "eth0", mtu=1500)
    wait_for(partial(has_carrier, host, device), f"carrier of {device}")
    return made


def tap_vm(lab: Lab, host: Namespace, device: str, number: int) -> Talker:
    """A VM that gets the TAP which its host's NVE has made."""
    vm = lab.box(f"vm{number}")
    move(device, host, vm)
    vm.set_link(device, state="up")
    return Talker(lab, vm, device, number)


def move(device: str, here: Namespace, there: Namespace) -> None:
    """Give an interface to another namespace, where it is down at first."""
    index = here.index(device)
    here.netlink(lambda ip: ip.link("set", index=index, net_ns_fd=there.fd), f"move {device}")


def vm_port(name: str, network: str = "blue", kind: str = "packet", more: str = "") -> str:
    """A port with a VM behind it."""
    return f'[[port]]\nname = "{name}"\nkind = "{kind}"\nfaces = "vm"\nnetwork = "{network}"\n{more}'


def core_port(name: str = "up") -> str:
    return f'[[port]]\nname = "{name}"\nfaces = "core"\n'


def joined(tor: Fastpath, group: str, *ports: str) -> None:
    """Return when the device knows a member of a group at each of these ports, and no other."""
    wait_for(
        lambda: sorted({str(row["port"]) for row in tor.show("members", group=group)}) == sorted(ports),
        lambda: f"members of {group} at {ports}: {tor.show('members')}",
    )


def floods_to(nve: Fastpath, *ports: str) -> None:
    """Return when the NVE has just these VM ports in a network, and so in force."""
    wait_for(
        lambda: any(sorted(row["local"]) == sorted(ports) for row in nve.show("groups", via="static")),
        lambda: f"{ports} in the lists of {nve.name}: {nve.show('groups')}",
    )


def lost_by(one: Fastpath) -> dict[str, int]:
    """What a box lost. A unicast frame that its sender flooded reaches NVEs which know that its station is
    elsewhere: none of theirs wants it (`no_receiver`)."""
    return {reason: n for reason, n in one.lost().items() if reason != "no_receiver"}


def macs(nve: Fastpath) -> dict[str, str]:
    """Where the stations are that an NVE knows: a port or a VTEP, by MAC."""
    return {str(row["mac"]): str(row["port"] or row["vtep"]) for row in nve.show("macs")}


def knows(nve: Fastpath, *vms: Vm) -> dict[str, str]:
    """Return when the NVE knows where these VMs are: where all stations are then."""
    wanted = {colons(vm.mac) for vm in vms}
    wait_for(lambda: wanted <= macs(nve).keys(), lambda: f"{wanted} known to {nve.name}: {macs(nve)}")
    return macs(nve)


def introduce(vms: Mapping[str, Vm], *nves: Fastpath) -> None:
    """Have each VM say something to everybody, which teaches all hosts, and these NVEs, where it is."""
    for vm in vms.values():
        vm.send(0)
    for vm in vms.values():
        vm.heard(len(vms) - 1, quiet_s=0)
    for nve in nves:
        knows(nve, *vms.values())


def expect_straight(vms: Mapping[str, Talker], numbers: list[int], *pairs: tuple[str, str]) -> None:
    """Assert that what each of some says to another one is heard by that one alone, once."""
    for sender, to in pairs:
        vms[sender].say(vms[to].mac, *numbers)
        expect_once(vms, numbers, but=tuple(name for name in vms if name != to))


def colons(mac: bytes) -> str:
    return mac.hex(":")

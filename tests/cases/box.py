"""The boxes that the cases run in, and their lists."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from fastpath.model import (
    Egress,
    Encap,
    Endpoint,
    Faces,
    Form,
    Layout,
    LocalNve,
    Network,
    Owner,
    Peer,
    Port,
    ReplicationList,
    Scope,
    group_key,
    vni_key,
)

DEVICE, REPLICATOR, NVE = Scope.DEVICE, Scope.REPLICATOR, Scope.NVE

VNI, VSID, OTHER_VNI, OTHER_VSID = 0x0A1B2C, 0x51D2E3, 0x9C8D7E, 0x6F4E3D
GROUP, GROUP_MAC = "239.1.1.100", "01:00:5e:01:01:64"
MAPPED, MAPPED_MAC = "239.129.7.8", "01:00:5e:01:07:08"
GROUP6, GROUP6_MAC = "ff15::1:7788:99aa", "33:33:77:88:99:aa"
OWN, OWN6, PEER, FAR_PEER, PEER6 = "10.0.0.1", "2001:db8::1", "10.0.0.2", "10.0.0.3", "2001:db8::2"
VTEP, VTEP6, UNICAST_NVE, STRANGER = "10.1.1.2", "2001:db8:1::2", "10.1.1.9", "203.0.113.66"
INNER_GROUP, INNER_SOURCE, INNER_GROUP6, INNER_SOURCE6 = (
    "239.77.1.3",
    "172.16.5.9",
    "ff15::7",
    "fd00:0:0:5::9",
)

P0, P1, CORE, MIX, SMALL, VM_BLUE, VM_GREEN, P7 = range(8)


def make_port(number: int, faces: Faces, **more: Any) -> Port:
    mac = bytes((0x02, 0xFA, 0x57, 0, 0x10, number))
    return Port(f"p{number}", faces, mac, bytes((0x02, 0xBE, 0xEF, number, 0x77, 0x31)), **more)


PORTS = (
    make_port(P0, Faces.NVE),
    make_port(P1, Faces.NVE),
    make_port(CORE, Faces.CORE),
    make_port(MIX, Faces.NVE | Faces.CORE),
    make_port(SMALL, Faces.CORE, mtu=301),
    make_port(VM_BLUE, Faces.VM, network="blue"),
    make_port(VM_GREEN, Faces.VM, network="green"),
    make_port(P7, Faces.NVE, encap=Encap.NVGRE),
)


def addr(text: str) -> Any:
    return ip_address(text)


BLUE = Network("blue", VNI, VSID, Encap.VXLAN, addr(GROUP))
GREEN = Network("green", OTHER_VNI, OTHER_VSID, Encap.NVGRE, addr("239.2.9.4"))

BARE = Layout(
    PORTS,
    endpoints=(Endpoint(addr(OWN), DEVICE), Endpoint(addr(OWN6), DEVICE)),
    peers=(Peer(DEVICE, addr(PEER)), Peer(DEVICE, addr(FAR_PEER)), Peer(DEVICE, addr(PEER6))),
    nves=(LocalNve(P1, addr(UNICAST_NVE)),),
)
"""A device without networks: any number may travel in any group."""

BOX = replace(BARE, networks=(BLUE, GREEN))
"""The same with two networks."""

POINT = replace(
    BOX,
    endpoints=(
        Endpoint(addr("10.0.0.110"), REPLICATOR),
        Endpoint(addr("10.0.0.111"), REPLICATOR, replicate=True),
    ),
    peers=(
        Peer(REPLICATOR, addr(PEER)),
        Peer(REPLICATOR, addr(FAR_PEER)),
        Peer(REPLICATOR, addr("10.0.0.4")),
    ),
    nves=(),
)
"""A replication point: IR-IP 10.0.0.110, AR-IP 10.0.0.111."""

EDGE = replace(BOX, endpoints=(Endpoint(addr(VTEP), NVE), Endpoint(addr(VTEP6), NVE)), peers=(), nves=())
"""An NVE of our own, with the VM ports of BLUE and GREEN."""


def at_port(port: int, group: str = GROUP, **more: Any) -> Egress:
    """A copy to the group on a port."""
    return Egress(port, Form.GROUP, Owner(port), version=addr(group).version, **more)


def at_nve(port: int, nve: str, **more: Any) -> Egress:
    """A copy to a local NVE by unicast."""
    return Egress(port, Form.REWRITE, Owner(port, addr(nve)), address=addr(nve), **more)


def at_peer(port: int, peer: str, form: Form = Form.NESTED, source: str | None = OWN, **more: Any) -> Egress:
    """A copy to a peer."""
    own = None if source is None else addr(source)
    return Egress(port, form, Owner(address=addr(peer)), address=addr(peer), source=own, **more)


def at_vm(port: int) -> Egress:
    """The tenant's frame alone."""
    return Egress(port, Form.DECAPSULATED, Owner(port))


def of_group(
    *local: Egress, remote: tuple[Egress, ...] = (), group: str = GROUP, **more: Any
) -> ReplicationList:
    """A list by outer group."""
    source = more.pop("source", None)
    scope = more.pop("scope", DEVICE)
    key = group_key(scope, addr(group), None if source is None else addr(source))
    return ReplicationList(key, local, remote)


def of_only(*egresses: Egress, group: str = GROUP) -> tuple[ReplicationList, ...]:
    """Just one list of one segment."""
    return (of_group(*egresses, group=group),)


def of_number(
    scope: Scope,
    number: int,
    *local: Egress,
    remote: tuple[Egress, ...] = (),
    encap: Encap = Encap.VXLAN,
    group: str | None = None,
    source: str | None = None,
) -> ReplicationList:
    """A list by VNI or VSID, of the whole network or of a tenant's group."""
    inner = None if group is None else addr(group)
    sender = None if source is None else addr(source)
    return ReplicationList(vni_key(scope, encap, number, inner, sender), local, remote)


LISTS = (
    of_group(
        at_port(P7),
        at_nve(P1, UNICAST_NVE),
        at_port(P1),
        at_port(P0),
        remote=(at_peer(MIX, FAR_PEER), at_peer(CORE, PEER)),
    ),
    of_group(at_port(P1, GROUP6), at_port(P0, GROUP6), group=GROUP6),
)

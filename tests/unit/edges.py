"""An NVE of our own with a MAC table, for the tests of unicast: two VM ports of BLUE, one of GREEN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastpath import Forwarder, MemoryPort, Punts
from fastpath._port import IoPort
from fastpath.model import Egress, Encap, Endpoint, Faces, Form, Frame, Layout, Owner, ReplicationList
from fastpath.stations import Learned
from tests import frames as f
from tests.cases import box as b
from tests.native._arrivals import Arrivals

UP, VM1, VM2, GREEN = range(4)
LAYOUT = replace(
    b.EDGE,
    ports=(
        b.make_port(UP, Faces.CORE),
        b.make_port(VM1, Faces.VM, network="blue"),
        b.make_port(VM2, Faces.VM, network="blue"),
        b.make_port(GREEN, Faces.VM, network="green"),
    ),
    endpoints=(Endpoint(b.addr(b.VTEP), b.NVE), Endpoint(b.addr(b.VTEP6), b.NVE)),
)
MAC_A, MAC_B, MAC_C = (bytes.fromhex(f"02aa0000000{i}") for i in "abc")
BROADCAST = b"\xff" * 6
NEAR, FAR = b.PEER, b.FAR_PEER
"""Two VTEPs beyond the uplink."""


def to_group(group: str = b.GROUP, encap: Encap = Encap.VXLAN) -> Egress:
    return Egress(UP, Form.REWRITE, Owner(UP), b.addr(group), b.addr(b.VTEP), encap)


def far(vtep: str, encap: Encap = Encap.VXLAN, **more: Any) -> Egress:
    """The way to a VTEP."""
    fields = {"source": b.addr(b.VTEP6 if ":" in vtep else b.VTEP), "encap": encap, **more}
    return Egress(UP, Form.REWRITE, Owner(address=b.addr(vtep)), b.addr(vtep), **fields)


BLUE = b.of_number(b.NVE, b.VNI, b.at_vm(VM1), b.at_vm(VM2), remote=(to_group(),))
BLUE_NVGRE = b.of_number(b.NVE, b.VSID, b.at_vm(VM1), b.at_vm(VM2), remote=(to_group(),), encap=Encap.NVGRE)
AT_GREEN = b.of_number(
    b.NVE, b.OTHER_VSID, b.at_vm(GREEN), remote=(to_group("239.2.9.4", Encap.NVGRE),), encap=Encap.NVGRE
)
LISTS = (BLUE, BLUE_NVGRE, AT_GREEN)


def memory_ports(n: int = len(LAYOUT.ports), **knobs: Any) -> list[MemoryPort]:
    return [MemoryPort(**{"capacity": 1 << 21, **knobs}) for _ in range(n)]


def to(dst: bytes, src: bytes, size: int = 46, ethertype: int = 0x88B5, fill: int = 0) -> bytes:
    """What a VM sends to a MAC."""
    return f.ethernet(bytes((fill,)) * size, ethertype, dst, src)


def tunnelled(inner: bytes, vtep: str = NEAR, dst: str = b.VTEP, vni: int = b.VNI) -> bytes:
    """What another VTEP sends to us, by VXLAN."""
    return f.wire(f.vxlan_packet(inner, vtep, dst, vni))


class Edge:
    """A forwarder with a MAC table, between memory ports."""

    def __init__(
        self,
        *,
        layout: Layout = LAYOUT,
        lists: Sequence[ReplicationList] = LISTS,
        sources: Sequence[IoPort] | None = None,
        stepwise: bool = False,
        max_macs: int = 1000,
        max_vteps: int = 4,
        more_workers: int = 0,
        overwrite: bool = False,
        **knobs: Any,
    ) -> None:
        n = len(layout.ports)
        self.ports = memory_ports(n, overwrite=overwrite)
        self.others = [memory_ports(n) for _ in range(more_workers)]
        self.arrivals = Arrivals()
        self.forwarder = Forwarder(
            layout,
            self.ports,
            lists,
            sources=[self.arrivals] if sources is None else sources,
            more_workers=self.others,
            punts=Punts(stepwise=True) if stepwise else None,
            max_macs=max_macs,
            max_vteps=max_vteps,
            **knobs,
        )

    def push(self, in_port: int, frame: Frame | bytes, time_ns: int = 0) -> None:
        data = frame if isinstance(frame, bytes) else frame.data
        self.arrivals.push(in_port, data, time_ns=time_ns)

    def send(self, in_port: int, *frames: bytes, time_ns: int = 0) -> list[int]:
        """Let frames in by a port; how many copies left by each port."""
        for frame in frames:
            self.push(in_port, frame, time_ns)
        while self.forwarder.run():
            pass
        return [len(copies) for copies in self.taken()]

    def taken(self) -> list[list[bytes]]:
        return [port.take() for port in self.ports]

    def learned(self) -> list[Learned]:
        return self.forwarder.read_learned(1 << 20)

    def drops(self) -> dict[str, int]:
        return {row.reason.name: row.count for row in self.forwarder.statistics().drops}


def known(**knobs: Any) -> Edge:
    """MAC_A is at VM1, MAC_B at VM2, MAC_C at the VTEP that is FAR."""
    edge = Edge(**knobs)
    for mac, station in (MAC_A, VM1), (MAC_B, VM2), (MAC_C, edge.forwarder.vtep(far(FAR))):
        assert edge.forwarder.macs.put(b.VNI, mac, station)
    return edge

"""Section 6 of `src_cython/fastpath/README.md`: where frames to a MAC go, and what frames teach about it.

The table is somebody else's, who changes it as he likes: (domain, MAC) -> the one egress of its station. What
is not modelled: that control is told a lesson once in a while, not with every frame.
"""

from __future__ import annotations

from collections.abc import Mapping

from fastpath.model import Egress, Encap, Faces, Form, IPAddress, Layout
from fastpath.reference.guards import may_be_source
from fastpath.reference.parse import network_behind, network_of
from fastpath.reference.trail import Lesson, Parsed

MacTable = Mapping[tuple[int, bytes], Egress]


class Stations:
    """The MAC table of our own NVE, if it has one."""

    def __init__(self, layout: Layout, table: MacTable | None) -> None:
        self.layout = layout
        self.table = table
        self.seen: dict[tuple[int, bytes], int] = {}
        """Rule 6.3: when a frame came from where its source's entry says, in 1/16 s."""
        self.now_ns = 0

    def domain(self, in_port: int, frame: Parsed) -> int | None:
        """Section 6, *domain*; None: the frame goes by section 2 alone."""
        if self.table is None:
            return None
        network = network_of(in_port, frame, self.layout)
        return None if network is None else network.vni

    def domain_of_port(self, place: int) -> int | None:
        """The domain of a VM port; None where there is no such port."""
        if place >= len(self.layout.ports) or Faces.VM not in self.layout.ports[place].faces:
            return None
        return network_behind(self.layout.ports[place], self.layout).vni

    def entry(self, domain: int, mac: bytes) -> Egress | None:
        """What the table has."""
        return None if self.table is None else self.table.get((domain, mac))

    def find(self, domain: int, mac: bytes) -> Egress | None:
        """Rule 6.1: the station of a MAC; what leads out of its network counts as none."""
        egress = self.entry(domain, mac)
        if egress is None or egress.form is not Form.DECAPSULATED:
            return egress
        return egress if self.domain_of_port(egress.out_port) == domain else None

    def hear(self, in_port: int, frame: Parsed, domain: int, now_ns: int) -> Lesson | None:
        """Rules 6.2 to 6.4 for a frame that teaches: its source has been seen, or is to be learned."""
        self.now_ns = max(self.now_ns, now_ns)
        mac = frame.inner_frame()[6:12]
        if not may_be_source(mac):
            return None
        sender = None if frame.tunnel is None else frame.tunnel.source
        known = self.entry(domain, mac)
        if known is not None and is_own(known, in_port, sender, frame.encap):
            self.seen[domain, mac] = self.now_ns * 16 // 1_000_000_000 % (1 << 32)
            return None
        return Lesson(domain, mac, in_port, sender, frame.encap)


def is_own(station: Egress, in_port: int, sender: IPAddress | None, encap: Encap) -> bool:
    """Rule 6.2: whether a frame comes from this very station."""
    if sender is None:
        return station.form is Form.DECAPSULATED and station.out_port == in_port
    return (station.form, station.address, station.encap) == (Form.REWRITE, sender, encap)

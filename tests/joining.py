"""Captures in which NVEs join: frames at seconds, on ports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from pathlib import Path

from ctrl.protocols import igmp, mld
from ctrl.protocols.messages import Kind, Record, Report
from tests import captures_io as c
from tests import frames as f

BEGIN_NS = 10**18
GROUP, GROUP6 = "239.1.1.100", "ff05::100"
IS_IN, IS_EX, TO_IN, TO_EX, ALLOW, BLOCK = Kind

BOX = """
node = "tor1"
[[port]]
name = "p1"
faces = "nve"
address = "10.1.1.1/24"
[[port]]
name = "p2"
faces = "nve"
address = "10.1.2.1/24"
[[port]]
name = "p3"
faces = "nve"
address = "10.1.3.1/24"
[[port]]
name = "core"
faces = "core"
address = "10.0.0.1/24"
[device]
address = "10.0.0.1"
"""
"""A device that nobody is a member of."""

At = tuple[float, str, bytes]
"""Seconds since the first frame, the port, the frame."""


def says(
    port: str, kind: Kind, *sources: str, group: str = GROUP, nve: str = "", version: int = 3, mac: int = 0
) -> bytes:
    """Make a report of one group by the NVE of a port."""
    n = int(port[1])
    nve = nve or (f"10.1.{n}.2" if "." in group else f"fe80::{n}")
    codec = igmp if "." in group else mld
    named = tuple(int(ip_address(one)) for one in sources)
    report = Report(version, (Record(kind, int(ip_address(group)), named),))
    frame: bytes = codec.report_frame(report, bytes((2, 0, 0, 0, mac, n)), int(ip_address(nve)))
    return frame


def data(source: str = "10.1.1.2", group: str = GROUP) -> bytes:
    """Make a frame that an NVE encapsulated to a group."""
    return f.wire(f.vxlan_packet(f.tenant(size=60), source, group, 100))


def capture(path: Path, frames: Iterable[At], names: Sequence[str] = ("p1", "p2", "p3", "core")) -> Path:
    """Write frames to a pcapng that has all ports of the box, or without names to a pcap."""
    if path.suffix == ".pcap":
        path.write_bytes(c.pcap(((_time(at_s), frame) for at_s, _, frame in frames), magic=c.NS))
        return path
    blocks = [c.section(), *(c.interface(name, resolution=9) for name in names)]
    blocks += [c.packet(frame, names.index(port), _time(at_s)) for at_s, port, frame in frames]
    path.write_bytes(b"".join(blocks))
    return path


def _time(at_s: float) -> int:
    return BEGIN_NS + round(at_s * 1e9)

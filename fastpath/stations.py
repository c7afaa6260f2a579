"""Where frames to single MACs go, as control names it: stations, and what their frames taught.

1. Stations 0 to 255 are the VM ports by their places; the others are VTEPs, each known by (address, encap).
   There is room for so many VTEPs, and a station whose VTEP is gone is given to another (`give`): by then no
   MAC may lead there, which is who removes them to see to.
2. The egress of a VTEP is one of the compiler's, as if it stood in a list: next hops, counters and a changed
   port are the same for both. When a station has another, the compiler gives the number of the old one to
   the new one, unless a list has it too: senders come and go for ever, numbers do not.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from fastpath._learn import Learner
from fastpath._mac import MacTable
from fastpath._punt import PuntRing
from fastpath.compiler import PORTS_MAX, Compiler, address_words
from fastpath.model import Egress, Encap, Faces, Form, IPAddress, Layout, Owner

LESSONS_PPS, LESSONS_BURST, LESSONS_RING = 20_000, 8_192, 1 << 20
"""What each port may teach: so many MACs a second and at once; what of it waits, in bytes for each worker."""
_LESSON = struct.Struct("=QQQII")
_IPV4 = 0xFFFF << 32

Row = tuple[tuple[int, int] | None, int, int]


class Learned(NamedTuple):
    """A frame came from a MAC by another way than the table has, or the table does not have it.

    `sender` is the VTEP that it came from; None where it came from the VM port `in_port`.
    """

    vni: int
    mac: bytes
    in_port: int
    sender: IPAddress | None
    encap: Encap
    time_ns: int


def read_lessons(ring: PuntRing, at_most: int) -> list[Learned]:
    """Take what a worker has to tell, oldest first."""
    out = []
    for in_port, time_ns, record, _ in ring.read(at_most):
        high, low, mac, vni, encap = _LESSON.unpack(record)
        out.append(Learned(vni, mac.to_bytes(6, "big"), in_port, _address(high, low), Encap(encap), time_ns))
    return out


def _address(high: int, low: int) -> IPAddress | None:
    if high == 0 and low >> 32 == _IPV4 >> 32:
        return IPv4Address(low & 0xFFFFFFFF)
    return IPv6Address(high << 64 | low) if high or low else None


class Stations:
    """The stations of one forwarder and its MAC table, for `max_macs` MACs and `max_vteps` VTEPs."""

    def __init__(self, compiler: Compiler, max_macs: int, max_vteps: int, *, stepwise: bool) -> None:
        if max_vteps < 0:
            raise ValueError(f"max_vteps {max_vteps}: expected 0 or more")
        # a replay is the same each time; elsewhere nobody can choose MACs that share their places
        seed = 0 if stepwise else secrets.randbits(64)
        self.macs = MacTable(max_macs, PORTS_MAX + max_vteps, seed, stepwise)
        self._compiler = compiler
        self._stepwise = stepwise
        self._numbers: dict[tuple[IPAddress, Encap], int] = {}
        self._vteps: dict[int, Egress] = {}
        self._ports: set[int] = set()

    def learner(self, n_workers: int) -> Learner:
        """What one worker of so many learns by."""
        share = max(1, LESSONS_PPS // n_workers), max(1, LESSONS_BURST // n_workers)
        return Learner(self.macs, PuntRing(LESSONS_RING, *share, self._stepwise))

    def new_ports(self, layout: Layout) -> Mapping[int, Row]:
        """The stations of VM ports that there were not yet; the next FIB has their egresses."""
        rows: dict[int, Row] = {}
        for place, port in enumerate(layout.ports):
            if Faces.VM in port.faces and place not in self._ports:
                egress = Egress(place, Form.DECAPSULATED, Owner(port=place))
                rows[place] = None, Encap.RAW, self._compiler.egress_id(egress)
                self._ports.add(place)
        return rows

    def find(self, egress: Egress) -> int | None:
        """The station of a VTEP, by this very egress."""
        station = self._numbers.get(_vtep(egress))
        return station if station is not None and self._vteps[station] == egress else None

    def make(self, egress: Egress) -> tuple[int, Row, Sequence[int]]:
        """The station of a VTEP that is new, or is reached by another way now; the rest as `give`.

        ValueError where there is room for no more.
        """
        vtep = _vtep(egress)
        station = self._numbers.get(vtep, PORTS_MAX + len(self._vteps))
        if station >= self.macs.n_stations:
            raise ValueError(f"{egress.address}: there are {len(self._vteps)} VTEPs, and room for no more")
        return station, *self._assign(station, vtep, egress)

    def give(self, station: int, egress: Egress) -> tuple[Row, Sequence[int]]:
        """Let a station be this VTEP, by this way; its row, and the egresses that are to count from 0.

        The next FIB has the egress. ValueError where another station is this VTEP, or there is no such one.
        """
        vtep = _vtep(egress)
        if self._numbers.get(vtep, station) != station:
            raise ValueError(f"{egress.address}: that is station {self._numbers[vtep]}, not {station}")
        if station not in self._vteps:
            raise ValueError(f"station {station}: there is no such VTEP")
        return self._assign(station, vtep, egress)

    def _assign(
        self, station: int, vtep: tuple[IPAddress, Encap], egress: Egress
    ) -> tuple[Row, Sequence[int]]:
        old = self._vteps.get(station)
        egress_id, is_reused = self._compiler.exchange(old, egress)
        if old is not None:
            del self._numbers[_vtep(old)]
        self._numbers[vtep] = station
        self._vteps[station] = egress
        return (address_words(vtep[0]), vtep[1], egress_id), (egress_id,) if is_reused else ()


def _vtep(egress: Egress) -> tuple[IPAddress, Encap]:
    if egress.form is not Form.REWRITE or egress.address is None or egress.encap is None:
        raise ValueError(f"{egress}: expected a REWRITE to an address, in one encap")
    return egress.address, egress.encap

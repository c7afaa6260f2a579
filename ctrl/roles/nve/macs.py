"""Which MAC is where: what VMs and other VTEPs send teaches it, within limits; the compiled table holds it.

1. Pure. What frames taught comes in, with the time; what is so from now on is written to the table that was
   handed in, and the table is the truth: no MAC is kept twice. Time is the table's clock, in TICKS a second.
2. A static entry stays where the config has it: frames that say otherwise are counted as static_mac_moved.
3. A MAC that is heard elsewhere is there from now on, and is counted there and no longer here. Where that
   would be over a limit it stays where it was.
4. Limits are exact, and each has a name: a VM port, a network, the table, the VTEPs. Static entries count,
   but no limit keeps them out, as the config says both. Who floods from one port takes from others no more
   than these limits give that port.
5. A VTEP that nobody has sent anything to needs a next hop first: until that is known its MACs wait, and
   frames to them are flooded as before. In the table they would be lost instead. Only a WAITING_PART of the
   VTEPs may be such at once: who makes up senders keeps others from being found, but not from being known.
6. A VTEP without a MAC is forgotten, and its station is the next one's: whoever comes and goes fills nothing.
7. A device may translate what a VTEP sends to a group, and keeps its address: so the encap of its network
   tells nothing of a VTEP that is known to speak the other one. Nobody translates to that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import NamedTuple

from ctrl.refusals import Refused
from ctrl.roles.nve.places import Place, Row, Stations, Table, Vtep
from fastpath.model import Encap

TICKS = 16
"""Of the table's clock, a second."""
CLOCK = 1 << 32
"""Where it begins anew."""
WAIT_TICKS = 10 * TICKS
"""How long a VTEP may be without a next hop before it is forgotten; the next frame from there asks anew."""

WAITING_PART = 4
"""One in so many of `max_vteps` may wait for its next hop; always one."""

SLICE = 512
"""Parts of the table that are looked at in one go: of a full one about a thousand entries, a millisecond."""

_BROADCAST = IPv4Address("255.255.255.255")


@dataclass(frozen=True, slots=True)
class Limits:
    """How many MACs there may be, and VTEPs; and how long a MAC is kept that nobody hears of."""

    max_macs: int
    max_per_network: int
    max_per_port: int
    max_vteps: int
    ageing_s: float


@dataclass(frozen=True, slots=True)
class Static:
    """An entry of the config."""

    vni: int
    mac: bytes
    place: Place


class Change(NamedTuple):
    """What became of a MAC: it was learned, has moved, has aged, or was cleared with its port or network.

    `was` and `place` are where it was and is; None: nowhere.
    """

    event: str
    vni: int
    mac: bytes
    was: Place | None
    place: Place | None


class Known(NamedTuple):
    """An entry, to be shown. `seen` is of the table's clock."""

    vni: int
    mac: bytes
    place: Place
    seen: int
    is_static: bool


@dataclass(slots=True, eq=False)
class _Remote:
    """A VTEP: without a station it has no next hop yet, and `waiting` are its MACs."""

    asked: int
    station: int | None = None
    waiting: dict[tuple[int, bytes], None] = field(default_factory=dict)


class Macs:
    """What is learned, of all networks of a box. `is_watched`: whether anybody wants to hear of changes;
    `is_reached`: whether the next hop of a VTEP is known that was not heard before."""

    def __init__(
        self,
        table: Table,
        stations: Stations,
        refused: Refused,
        limits: Limits,
        is_watched: Callable[[], bool] = lambda: False,
        is_reached: Callable[[Vtep], bool] = lambda _: False,
    ) -> None:
        self.limits = limits
        self.learned = self.moved = self.aged = 0
        """How often a MAC came, went elsewhere, and was heard no more."""
        self.is_other = False
        """Whether `vteps` are others than when somebody last set this to False."""
        self._table = table
        self._stations = stations
        self._refused = refused
        self._is_watched = is_watched
        self._is_reached = is_reached
        self._ports: dict[int, int] = {}
        """VM ports that are up: place -> VNI of their network."""
        self._networks: Mapping[int, Encap] = {}
        self._statics: dict[tuple[int, bytes], Place] = {}
        self._by_network: Counter[int] = Counter()
        self._by_station: Counter[int] = Counter()
        self._vteps: dict[Vtep, _Remote] = {}
        self._n_waiting = 0
        """MACs of VTEPs without a station."""
        self._at: dict[int, Vtep] = {}
        """Who has each station; VM ports are not in here."""
        self._free: dict[Vtep, int] = {}
        """Stations that nobody has any more, by who had them: he gets his own again, others the oldest."""
        self._opened: set[int] = set()
        """All stations of VTEPs, past ones too; the others are the places of VM ports."""
        self._changes: list[Change] = []

    # --- what it is told ------------------------------------------------------------------------------------

    def attach(self, ports: Mapping[int, int]) -> None:
        """These VM ports are up: place -> VNI. What was learned at any other one is forgotten at once."""
        gone = [place for place, vni in self._ports.items() if ports.get(place) != vni]
        self._ports = dict(ports)
        for place in gone:
            self._gone("cleared", [(*row, place) for row in self._table.clear_station(place)])

    def configure(
        self, limits: Limits, statics: Collection[Static], networks: Mapping[int, Encap], now: int
    ) -> None:
        """Go on by other limits and static entries; what was learned stays, but where its network is gone.

        `networks`: what each speaks, by VNI.
        """
        self.limits, self._networks = limits, networks
        wanted = {(one.vni, one.mac): one.place for one in statics}
        for key in [key for key, place in self._statics.items() if wanted.get(key) != place]:
            self._forget(*key)
        if self._by_network.keys() - networks.keys():
            for row in [row for row in self._table.rows() if row[0] not in networks]:
                self._forget(*row[:2])
        for key, place in wanted.items():
            if self._statics.get(key) != place:
                self._fix(*key, place, now)

    def learn(self, vni: int, mac: bytes, place: Place, now: int) -> None:
        """A frame from `place` had this source."""
        if isinstance(place, int):
            # what was told of a port before it went must not outlive it
            if self._ports.get(place) == vni:
                self._put(vni, mac, place)
            return
        remote = self._vteps.get(place)
        if remote is None:
            found = self._table.find(vni, mac)
            if found is not None and self._is_translated(vni, place, found[0]):
                return
            is_reached = self._is_reached(place)
            why = "static_mac_moved" if found is not None and found[2] else self._against(place, is_reached)
            if why is not None:
                self._refused.count(why)
                return
            remote = self._come(place, now)
            if is_reached:
                station = self._open(place, remote)
                self._put(vni, mac, station)
                self._leave(station)
                return
        if remote.station is not None:
            self._put(vni, mac, remote.station)
        elif (vni, mac) not in remote.waiting:
            self._wait(remote, vni, mac)

    @property
    def vteps(self) -> Collection[Vtep]:
        """Those with MACs, and those that wait for a next hop."""
        return self._vteps.keys()

    @property
    def waiting(self) -> list[Vtep]:
        """Those that wait for a next hop."""
        return [vtep for vtep, remote in self._vteps.items() if remote.station is None]

    def station(self, vtep: Vtep) -> int | None:
        """The station of a VTEP; None where it has none."""
        remote = self._vteps.get(vtep)
        return None if remote is None else remote.station

    def reached(self, vteps: Collection[Vtep]) -> None:
        """The next hops of these are known from now on: what waits for them is in force."""
        for vtep in vteps:
            remote = self._vteps.get(vtep)
            if remote is None or remote.station is not None:
                continue
            waiting = list(remote.waiting)
            station = self._open(vtep, remote)
            for vni, mac in waiting:
                self._put(vni, mac, station)
            self._leave(station)

    def expire(self, now: int) -> None:
        """Forget what nobody has heard of for `ageing_s`, and VTEPs that nobody can reach."""
        aged = self._table.expire((now - round(self.limits.ageing_s * TICKS)) % CLOCK)
        self.aged += len(aged)
        self._gone("aged", aged)
        for vtep in self.waiting:
            if (now - self._vteps[vtep].asked) % CLOCK >= WAIT_TICKS:
                self._n_waiting -= len(self._vteps.pop(vtep).waiting)
                self.is_other = True

    # --- and what comes of it -------------------------------------------------------------------------------

    def take_changes(self) -> list[Change]:
        """What became of MACs since the last call, in order: kept while somebody watches."""
        changes, self._changes = self._changes, []
        return changes

    @property
    def by_network(self) -> Mapping[int, int]:
        """How many there are in each network that has any, by VNI."""
        return self._by_network

    def known(self) -> Iterator[Known]:
        """All entries, in no order; some of them may come, go or change places while it is walked."""
        for first in range(0, self._table.n_buckets, SLICE):
            for vni, mac, station, seen, is_static in self._table.rows(first, SLICE):
                place = self._place(station)
                if place is not None:
                    yield Known(vni, mac, place, seen, is_static)

    def _wait(self, remote: _Remote, vni: int, mac: bytes) -> None:
        """Of those that wait, there are no more than there may be entries."""
        if self._n_waiting >= self.limits.max_macs:
            self._refused.count("mac_table_full")
            return
        remote.waiting[vni, mac] = None
        self._n_waiting += 1

    def _place(self, station: int) -> Place | None:
        return self._at.get(station) if station in self._opened else station

    def _put(self, vni: int, mac: bytes, station: int) -> None:
        found = self._table.find(vni, mac)
        if found is None:
            why = self._over(vni, station)
        elif found[0] == station:
            return
        elif found[2]:
            why = "static_mac_moved"
        elif self._is_translated(vni, self._at.get(station), found[0]):
            return
        else:
            why = self._over(None, station)
        if why is None and not self._table.put(vni, mac, station):
            why = "mac_table_full"
        if why is not None:
            self._refused.count(why)
            return
        self._by_station[station] += 1
        place = self._place(station)
        if found is None:
            self.learned += 1
            self._by_network[vni] += 1
            self._tell("learned", vni, mac, None, place)
        else:
            self.moved += 1
            self._tell("moved", vni, mac, self._place(found[0]), place)
            self._less(found[0])

    def _over(self, vni: int | None, station: int) -> str | None:
        """The limit that one more entry would be over; `vni` None: its network has it already."""
        limits = self.limits
        if station not in self._opened and self._by_station[station] >= limits.max_per_port:
            return "mac_port_full"
        if vni is None:
            return None
        if self._by_network[vni] >= limits.max_per_network:
            return "mac_network_full"
        return "mac_table_full" if len(self._table) >= limits.max_macs else None

    def _fix(self, vni: int, mac: bytes, place: Place, now: int) -> None:
        """Have a static entry, wherever its MAC was heard until now."""
        station = place if isinstance(place, int) else self._fixed(place, now)
        found = self._table.find(vni, mac)
        if station is None:
            self._refused.count("vteps_full")
            return
        if not self._table.put(vni, mac, station, static=True):
            self._refused.count("mac_table_full")
            self._leave(station)
            return
        self._statics[vni, mac] = place
        self._by_station[station] += 1
        if found is None:
            self._by_network[vni] += 1
        else:
            self._less(found[0])

    def _fixed(self, vtep: Vtep, now: int) -> int | None:
        remote = self._vteps.get(vtep)
        if remote is None:
            if len(self._vteps) >= self.limits.max_vteps:
                return None
            remote = self._come(vtep, now)
        return self._open(vtep, remote) if remote.station is None else remote.station

    def _is_translated(self, vni: int, vtep: Vtep | None, station: int) -> bool:
        """Say whether a frame only seems to be from another place than the station that is known."""
        known = self._at.get(station)
        if vtep is None or known is None or vtep == known:
            return False
        return vtep.address == known.address and vtep.encap == self._networks.get(vni)

    def _against(self, vtep: Vtep, is_reached: bool) -> str | None:
        """What speaks against a VTEP that is not known; None: nothing."""
        address = vtep.address
        if address.is_multicast or address.is_unspecified or address.is_loopback or address == _BROADCAST:
            return "not_a_vtep"
        most = self.limits.max_vteps
        if len(self._vteps) >= most:
            return "vteps_full"
        if not is_reached and len(self._vteps) - len(self._at) >= max(1, most // WAITING_PART):
            return "vteps_waiting"
        return None

    def _come(self, vtep: Vtep, now: int) -> _Remote:
        remote = self._vteps[vtep] = _Remote(asked=now)
        self.is_other = True
        return remote

    def _open(self, vtep: Vtep, remote: _Remote) -> int:
        last = vtep if vtep in self._free else next(iter(self._free), None)
        station = self._stations.open(vtep, None if last is None else self._free.pop(last))
        remote.station = station
        self._n_waiting -= len(remote.waiting)
        remote.waiting.clear()  # where a static entry opens it, these will be heard again
        self._at[station] = vtep
        self._opened.add(station)
        return station

    def _forget(self, vni: int, mac: bytes) -> None:
        """Remove an entry, a static one too."""
        found = self._table.find(vni, mac)
        self._statics.pop((vni, mac), None)
        if found is not None:
            self._table.remove(vni, mac)
            self._gone("cleared", [(vni, mac, found[0])])

    def _gone(self, event: str, rows: Sequence[Row]) -> None:
        """All of these are no longer; a hundred thousand may age at once."""
        if self._is_watched():
            for vni, mac, station in rows:
                self._tell(event, vni, mac, self._place(station), None)
        for vni, n in Counter(vni for vni, _, _ in rows).items():
            self._by_network[vni] -= n
            if not self._by_network[vni]:
                del self._by_network[vni]
        for station, n in Counter(station for _, _, station in rows).items():
            self._less(station, n)

    def _less(self, station: int, n: int = 1) -> None:
        self._by_station[station] -= n
        self._leave(station)

    def _leave(self, station: int) -> None:
        """A station without a MAC is a VTEP's no longer."""
        if self._by_station[station]:
            return
        self._by_station.pop(station, None)
        vtep = self._at.pop(station, None)
        if vtep is not None:
            del self._vteps[vtep]
            self._free[vtep] = station
            self.is_other = True

    def _tell(self, event: str, vni: int, mac: bytes, was: Place | None, place: Place | None) -> None:
        if self._is_watched():
            self._changes.append(Change(event, vni, mac, was, place))

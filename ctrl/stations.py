"""What a config says to the MAC table of an NVE, and how its VTEPs are reached: for live boxes and replay.

A VTEP is reached as any peer is (`static.out_port_to`): by a route of the kernel, or by a port of the config,
but by no internal one, as the device behind that copies groups and nothing else. Where no port reaches it,
frames leave as those to groups do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from ctrl.config import Config
from ctrl.planner import Ways, vm_egress
from ctrl.roles.nve.macs import CLOCK, TICKS, Known, Limits, Static
from ctrl.roles.nve.places import Place, Vtep
from ctrl.static import ENCAPS, port_place
from ctrl.view import MacView
from ctrl.ways import out_port_to, ways
from fastpath.model import Egress, Encap, Faces, Form, Layout, Owner

if TYPE_CHECKING:
    from fastpath import Forwarder, Learned


def limits(config: Config) -> Limits:
    """The bounds of what is learned."""
    nve = config.nve
    if nve is None:
        raise ValueError("a box without [nve] learns nothing")
    return Limits(
        max_macs=nve.max_macs,
        max_per_network=nve.max_macs_per_network,
        max_per_port=nve.max_macs_per_port,
        max_vteps=nve.max_vteps,
        ageing_s=nve.ageing_s,
    )


def encaps(config: Config) -> dict[int, Encap]:
    """What the networks speak, by VNI."""
    return {network.vni: ENCAPS[network.encap] for network in config.networks}


def statics(config: Config) -> list[Static]:
    """The static stations; a VTEP is spoken to as its network speaks, unless the config says how."""
    networks = {network.name: network for network in config.networks}
    found = []
    for one in config.nve.stations if config.nve else ():
        network = networks[one.network]
        if one.port is not None:
            found.append(Static(network.vni, one.mac, port_place(config, one.port)))
        elif one.vtep is not None:
            found.append(Static(network.vni, one.mac, Vtep(one.vtep, ENCAPS[one.encap or network.encap])))
    return found


def static_egresses(config: Config) -> dict[tuple[int, bytes], Egress]:
    """The static stations as the reference has them: (VNI, MAC) -> the copy that goes there."""
    found = ways(config)
    return {
        (one.vni, one.mac): _vtep_egress(config, found, one.place)
        if isinstance(one.place, Vtep)
        else vm_egress(one.place)
        for one in statics(config)
    }


def _vtep_egress(config: Config, found: Ways, vtep: Vtep) -> Egress:
    """The copy that goes to a VTEP."""
    out_port = out_port_to(config, found, vtep.address)
    source = config.nve.address if config.nve else None
    owner = Owner(address=vtep.address)
    return Egress(out_port, Form.REWRITE, owner, vtep.address, source, encap=vtep.encap)


def vm_vnis(layout: Layout) -> dict[int, int]:
    """The VM ports that are up: place -> VNI of their network."""
    vnis = {network.name: network.vni for network in layout.networks}
    return {
        place: vnis[port.network]
        for place, port in enumerate(layout.ports)
        if Faces.VM in port.faces and port.is_up and port.network in vnis
    }


def place_of(learned: Learned) -> Place:
    """Where a frame says that its source is."""
    return learned.in_port if learned.sender is None else Vtep(learned.sender, learned.encap)


def mac_views(known: Iterable[Known], config: Config, now: Callable[[], int]) -> Iterator[MacView]:
    """These stations, to be shown, one after the other; `now`: the table's clock."""
    names = {network.vni: network.name for network in config.networks}
    for one in known:
        now_ticks = now()  # not before the entry was read: it may be as new as that
        port, vtep = (None, one.place) if isinstance(one.place, Vtep) else (one.place, None)
        yield MacView(
            vni=one.vni,
            network=names.get(one.vni, ""),
            mac=one.mac,
            port=None if port is None else config.ports[port].name,
            vtep=None if vtep is None else vtep.address,
            is_static=one.is_static,
            age_s=(now_ticks - one.seen) % CLOCK / TICKS,
        )


class Stations(Mapping[tuple[int, bytes], Egress]):
    """The VTEPs of the data path, each with the way to it.

    Read as the reference reads its table, it is what frames to a MAC become just now: by VNI and MAC.
    """

    def __init__(self, forwarder: Forwarder, config: Config, found: Ways) -> None:
        self._forwarder = forwarder
        self._config = config
        self._ways = found
        self._egresses: dict[int, Egress] = {}

    def open(self, vtep: Vtep, free: int | None) -> int:
        """Let `free` be the station of a VTEP, or a new one."""
        egress = _vtep_egress(self._config, self._ways, vtep)
        if free is None:
            station = self._forwarder.vtep(egress)
        else:
            station = free
            self._forwarder.set_vtep(station, egress)
        self._egresses[station] = egress
        return station

    def configure(self, config: Config) -> None:
        """Go on by another config, from the next `reroute` on."""
        self._config = config

    def reroute(self, found: Ways) -> None:
        """Have all of them reached by these ways from now on."""
        self._ways = found
        for station, old in self._egresses.items():
            if old.address is None or old.encap is None:
                continue
            egress = _vtep_egress(self._config, found, Vtep(old.address, old.encap))
            if egress != old:
                self._egresses[station] = egress
                self._forwarder.set_vtep(station, egress)

    def __getitem__(self, key: tuple[int, bytes]) -> Egress:
        found = self._forwarder.macs.find(*key) if any(key[1]) else None
        if found is None:
            raise KeyError(key)
        return self._egresses.get(found[0]) or vm_egress(found[0])

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        return ((vni, mac) for vni, mac, *_ in self._forwarder.macs.rows())

    def __len__(self) -> int:
        return len(self._forwarder.macs)

    def out_port(self, vtep: Vtep) -> int:
        """The port by which it is reached."""
        return out_port_to(self._config, self._ways, vtep.address)

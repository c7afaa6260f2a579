"""The learning policy of an NVE on a table that is a dict, for tests."""

from ipaddress import ip_address

from ctrl.refusals import Refused
from ctrl.roles.nve.macs import CLOCK, Limits, Macs
from ctrl.roles.nve.places import Vtep
from fastpath.model import Encap

BLUE, RED = 100, 0x123456
FAR, FARTHER = (Vtep(ip_address(f"10.0.0.{i}"), Encap.VXLAN) for i in (2, 3))
SAME_BY_NVGRE = Vtep(FAR.address, Encap.NVGRE)
LIMITS = Limits(max_macs=64, max_per_network=32, max_per_port=4, max_vteps=8, ageing_s=300)
ENCAPS = {BLUE: Encap.VXLAN, RED: Encap.NVGRE}
PORTS = {0: BLUE, 1: BLUE, 2: RED}
VTEPS_FROM = 256


def mac(i):
    return (0x020000000000 + i).to_bytes(6, "big")


class Table:
    """The table of the data path as a dict, and who gives VTEPs their stations."""

    def __init__(self, room=1000):
        self.room = room
        self.entries = {}
        self.n_stations = VTEPS_FROM
        self.who = {}

    def put(self, vni, mac, station, static=False):
        if (vni, mac) not in self.entries and len(self.entries) >= self.room:
            return False
        self.entries[vni, mac] = [station, self.entries.get((vni, mac), [0, 0])[1], static]
        return True

    def remove(self, vni, mac):
        return self.entries.pop((vni, mac), None) is not None

    def find(self, vni, mac):
        found = self.entries.get((vni, mac))
        return found and tuple(found)

    def _take(self, is_gone):
        gone = [(*key, one[0]) for key, one in self.entries.items() if not one[2] and is_gone(*one[:2])]
        for vni, mac, _ in gone:
            del self.entries[vni, mac]
        return gone

    def expire(self, before):
        assert 0 <= before < CLOCK
        return self._take(lambda station, seen: (seen - before) % CLOCK >= CLOCK // 2)

    def clear_station(self, station):
        return [row[:2] for row in self._take(lambda one, seen: one == station)]

    n_buckets = 10_000
    """A MAC is in the one that it ends with, modulo."""

    def rows(self, first=0, n=n_buckets):
        here = range(first, first + n)
        return [
            (vni, mac, *one)
            for (vni, mac), one in self.entries.items()
            if int.from_bytes(mac[3:]) % self.n_buckets in here
        ]

    def __len__(self):
        return len(self.entries)

    def open(self, vtep, free):
        if free is None:
            free, self.n_stations = self.n_stations, self.n_stations + 1
        assert vtep not in self.who.values() or self.who[free] == vtep
        self.who[free] = vtep
        return free


class Learning:
    """A policy on a table, all VM ports up. `near`: VTEPs whose next hops are known before they are heard."""

    def __init__(self, limits=LIMITS, near=(), **table):
        self.table, self.refused = Table(**table), Refused()
        self.macs = Macs(self.table, self.table, self.refused, limits, lambda: True, near.__contains__)
        self.macs.attach(PORTS)
        self.fix()

    def hear(self, vni, i, place):
        self.macs.learn(vni, mac(i), place, 0)

    def reach(self, *vteps):
        self.macs.reached(vteps)

    def fix(self, *statics):
        self.macs.configure(self.macs.limits, statics, ENCAPS, 0)

    @property
    def known(self):
        return {(one.vni, int.from_bytes(one.mac[4:])): one.place for one in self.macs.known()}

"""Which MAC is where, against a dict that says so, whatever is heard in whatever order."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ctrl.roles.nve.macs import Limits, Static
from ctrl.roles.nve.places import Vtep
from tests.unit.learning import (
    BLUE,
    ENCAPS,
    FAR,
    FARTHER,
    PORTS,
    RED,
    SAME_BY_NVGRE,
    VTEPS_FROM,
    Learning,
    mac,
)

PLACES = st.sampled_from([0, 1, 2, FAR, FARTHER, SAME_BY_NVGRE])
VNIS = st.sampled_from([BLUE, RED])
NUMBERS = st.integers(0, 11)
SMALL = Limits(max_macs=9, max_per_network=6, max_per_port=3, max_vteps=2, ageing_s=0)


class Model(RuleBasedStateMachine):
    """Against a dict: what is where, what is static, and who waits."""

    def __init__(self):
        super().__init__()
        self.near: set[Vtep] = set()
        self.on = Learning(SMALL, self.near, room=10)
        self.known, self.static, self.waiting = {}, {}, {}
        self.ports = dict(PORTS)
        self.refused: Counter[str] = Counter()

    def vteps(self):
        return {place for place in self.known.values() if isinstance(place, Vtep)} | self.waiting.keys()

    def put(self, key, place):
        was = self.known.get(key)
        at = sum(one == place for one in self.known.values())
        if was == place or (key not in self.static and self.is_translated(key, place)):
            return
        if key in self.static:
            why = "static_mac_moved"
        elif isinstance(place, int) and at >= SMALL.max_per_port:
            why = "mac_port_full"
        elif was is None and sum(vni == key[0] for vni, _ in self.known) >= SMALL.max_per_network:
            why = "mac_network_full"
        elif was is None and len(self.known) >= SMALL.max_macs:
            why = "mac_table_full"
        else:
            self.known[key] = place
            return
        self.refused[why] += 1

    @rule(vni=VNIS, i=NUMBERS, place=PLACES)
    def hear(self, vni, i, place):
        self.on.hear(vni, i, place)
        if isinstance(place, int):
            if self.ports.get(place) == vni:
                self.put((vni, i), place)
        elif place in self.waiting:
            self.wait((vni, i), place)
        elif place in self.vteps():
            self.put((vni, i), place)
        elif self.is_translated((vni, i), place):
            pass
        elif (vni, i) in self.static:
            self.refused["static_mac_moved"] += 1
        elif len(self.vteps()) >= SMALL.max_vteps:
            self.refused["vteps_full"] += 1
        elif place in self.near:
            self.put((vni, i), place)
        elif self.waiting:
            self.refused["vteps_waiting"] += 1
        else:
            self.waiting[place] = {}
            self.wait((vni, i), place)

    def wait(self, key, place):
        if key in self.waiting[place]:
            return
        if sum(map(len, self.waiting.values())) >= SMALL.max_macs:
            self.refused["mac_table_full"] += 1
        else:
            self.waiting[place][key] = None

    def is_translated(self, key, place):
        known = self.known.get(key)
        other = {FAR: SAME_BY_NVGRE, SAME_BY_NVGRE: FAR}.get(place)
        return known is not None and known == other and place.encap == ENCAPS[key[0]]

    @rule(vteps=st.sets(st.sampled_from([FAR, FARTHER, SAME_BY_NVGRE])))
    def know(self, vteps):
        self.near.clear()
        self.near |= vteps

    @rule(vtep=st.sampled_from([FAR, FARTHER, SAME_BY_NVGRE]))
    def reach(self, vtep):
        self.on.reach(vtep)
        for key in self.waiting.pop(vtep, {}):
            self.put(key, vtep)

    @rule(places=st.sets(st.sampled_from([0, 1, 2])))
    def attach(self, places):
        self.ports = {place: PORTS[place] for place in places}
        self.on.macs.attach(self.ports)
        self._drop(lambda key, place: isinstance(place, int) and place not in self.ports)

    @rule(
        statics=st.dictionaries(
            st.tuples(VNIS, NUMBERS), PLACES.filter(lambda p: p in (0, 1, 2, FAR)), max_size=2
        )
    )
    def fix(self, statics):
        for key in [key for key, place in self.static.items() if statics.get(key) != place]:
            del self.static[key], self.known[key]
        for key, place in statics.items():
            if self.static.get(key) == place:
                continue
            if isinstance(place, Vtep) and place not in self.vteps() and len(self.vteps()) >= SMALL.max_vteps:
                self.refused["vteps_full"] += 1
                continue
            if key not in self.known and len(self.known) >= 10:
                self.refused["mac_table_full"] += 1
                continue
            self.known[key] = self.static[key] = place
            self.waiting.pop(place, None)
        self.on.fix(*(Static(vni, mac(i), place) for (vni, i), place in statics.items()))

    @rule(seen=st.sets(st.tuples(VNIS, NUMBERS)))
    def age(self, seen):
        for (vni, address), one in self.on.table.entries.items():
            one[1] = int((vni, address[5]) in seen)
        self.on.macs.expire(1)
        self._drop(lambda key, place: key not in seen)

    def _drop(self, is_gone):
        for key, place in list(self.known.items()):
            if key not in self.static and is_gone(key, place):
                del self.known[key]

    @invariant()
    def is_as_the_dict_says(self):
        assert self.on.known == self.known
        assert set(self.on.macs.vteps) == self.vteps()
        assert set(self.on.macs.waiting) == set(self.waiting)
        assert self.on.refused == self.refused
        assert self.on.table.n_stations - VTEPS_FROM <= SMALL.max_vteps


Model.TestCase.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)
TestMacsAreAsADictSays = Model.TestCase

"""Who is told what tenants want: all who send to the outer group, and nobody else (framework 3.2)."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ctrl.topology import ended, records
from ctrl.topology.entry import (
    ANY,
    AWARE,
    MESH,
    Entry,
    Node,
    aware_of,
    is_key,
    is_tenant,
    outer_of,
    split_tenant,
    tenant_key,
)
from ctrl.topology.points import Settings
from ctrl.topology.topology import Topology
from tests.unit.stored import AUTO, POINTS, A, B, C, D, Follower, G

VNI = 5001
ONE, TWO = bytes([239, 5, 5, 5]), bytes([239, 5, 5, 6])
K, L = tenant_key(G, VNI, ONE), tenant_key(G, VNI, TWO)
SIX = bytes([0xFF, 5, *13 * [0], 9])
P, P_AR = bytes([10, 0, 9, 1]), bytes([10, 0, 9, 2])


@pytest.mark.parametrize(
    ("outer", "inner", "size"),
    [
        (G, AWARE, 8),
        (G, ANY, 12),
        (G, ONE, 12),
        (G, SIX, 24),
        (SIX, AWARE, 20),
        (SIX, ANY, 24),
        (SIX, SIX, 36),
    ],
)
def test_a_tenants_key_is_as_long_as_no_group(outer, inner, size):
    key = tenant_key(outer, VNI, inner)
    assert (len(key), is_tenant(key), is_key(key)) == (size, True, True)
    assert split_tenant(key) == (outer, VNI, inner)
    assert outer_of(key) == outer
    assert split_tenant(aware_of(key)) == (outer, VNI, AWARE)
    assert (is_tenant(outer), is_key(outer), outer_of(outer)) == (False, True, outer)
    shard = records.encode_groups({key: records.Networks((VNI,)), outer: records.NO_NETWORKS})
    assert records.decode_groups(shard) == {key: ((VNI,), ()), outer: ((), ())}


@pytest.mark.parametrize("wrong", [b"", b"\4", K[:-1], K + b"x", b"\5" + K[1:], b"\x10" + K[1:], bytes(8)])
def test_what_is_no_key_is_damaged_where_it_is_read(wrong):
    assert not is_key(wrong)
    with pytest.raises(records.Damaged, match="expected 4 or 16 bytes in hex, or a key of tenants"):
        records.decode_groups(b'{"%s":[]}' % wrong.hex().encode())
    with pytest.raises(records.Damaged):
        records.decode_group(K.hex())


def test_all_devices_of_the_group_are_told_who_else_wants_it_and_nobody_else_is():
    fabric = Follower()
    for name in "abc":
        fabric.join(name, G, (VNI,))
    assert fabric.join("b", K, (VNI,)).keys == {"a": {K}, "b": {K}, "c": {K}}
    fabric.join("d", K, (7,))
    assert fabric.entry("a", K) == Entry(K, MESH, (B, D), vnis=(7, VNI))
    assert fabric.entry("b", K) == Entry(K, MESH, (D,), vnis=(7, VNI))
    assert fabric.topology.entry("d", K) is None
    assert list(fabric.topology.keys_of("a")) == [G, K]
    assert not list(fabric.topology.keys_of("d"))
    assert fabric.topology.n_told("a") == 1


def test_who_wants_it_alone_is_told_that_nobody_else_does_and_nobody_is_told_of_what_nobody_wants():
    fabric = Follower()
    fabric.join("a")
    fabric.join("b")
    fabric.join("a", K)
    assert fabric.entry("a", K) == Entry(K, MESH)
    assert fabric.leave("a", K).keys == {"a": {K}, "b": {K}}
    assert fabric.topology.entry("a", K) is None
    assert (fabric.topology.n_groups, fabric.topology.n_tenants) == (1, 0)


def test_who_joins_or_leaves_the_group_is_told_all_that_its_tenants_want_or_nothing_of_it():
    fabric = Follower()
    fabric.join("a")
    for key in (K, L):
        fabric.join("a", key)
    assert fabric.join("b").keys["b"] == {G, K, L}
    assert fabric.entry("b", K).peers == (A,)
    assert fabric.leave("b").keys["b"] == {G, K, L}
    assert fabric.topology.entry("b", K) is None


def test_who_wants_something_is_named_by_its_new_address_and_not_at_all_once_it_is_gone():
    fabric = Follower()
    for name in "ab":
        fabric.join(name)
    fabric.join("b", K)
    fabric.store.device("b", D)
    assert fabric.follow().keys["a"] >= {K}
    assert fabric.entry("a", K).peers == (D,)
    fabric.store.put(**{records.node_key("b"): None})
    assert fabric.follow().keys["a"] >= {K}
    assert fabric.topology.entry("a", K) is None


def test_other_numbers_of_its_network_are_told_as_well():
    fabric = Follower()
    for name in "ab":
        fabric.join(name)
    fabric.join("b", K, (5,))
    assert fabric.join("b", K, (6,)).keys == {"a": {K}, "b": {K}}
    assert fabric.entry("a", K).vnis == (6,)


def test_a_group_that_only_its_tenants_hold_is_none_and_goes_with_the_last_of_them():
    fabric = Follower()
    fabric.join("a", K)
    fabric.join("a", L)
    assert [one.key for one in fabric.topology.served()] == [K, L]
    assert fabric.topology.n_devices(G) == 0
    assert (fabric.topology.n_groups, fabric.topology.n_tenants) == (0, 2)
    fabric.join("b", K)
    fabric.join("b")
    assert (fabric.topology.n_groups, fabric.topology.n_tenants) == (1, 2)
    fabric.leave("b")
    fabric.leave("b", K)
    fabric.leave("a", K)
    fabric.leave("a", L)
    assert (fabric.topology.n_groups, fabric.topology.n_tenants, list(fabric.topology.served())) == (0, 0, [])


def test_a_mode_of_what_tenants_want_is_no_record():
    fabric = Follower(POINTS)
    fabric.store.put(**{f"mode/{K.hex()}": records.encode_mode(records.Mode("stable", ("p",), ("p",)))})
    fabric.follow()
    assert (fabric.topology.faults, fabric.topology.n_groups) == ({"mode": 1}, 0)


# --- points -------------------------------------------------------------------------------------------------


def by_a_point(topology=AUTO):
    fabric = Follower(topology)
    fabric.store.point("p", P, P_AR)
    for name in "ab":
        fabric.join(name)
    fabric.join("a", K, (VNI,))
    fabric.settle()
    return fabric


def test_a_point_is_told_while_it_has_the_list_and_no_step_waits_for_tenants():
    """M12: three devices and it is served by the point, at two it is not."""
    fabric = by_a_point()
    assert fabric.topology.entry("p", K) is None
    dirty = fabric.join("c")
    assert "p" not in dirty.keys
    assert not fabric.topology.state_of(K).now
    (write,) = fabric.topology.steps()
    fabric.store.commit(write)
    assert fabric.follow().keys["p"] == {G, K}, "it is prepared"
    assert fabric.entry("p", K) == Entry(K, MESH, (A,), vnis=(VNI,))
    assert sorted(fabric.topology.keys_of("p")) == sorted([G, K])
    awaited = dict(fabric.topology.awaited())
    assert fabric.join("b", L).keys == {name: {L} for name in "abcp"}
    assert fabric.topology.awaited() == awaited
    for name, revision in awaited.items():
        fabric.store.ack(name, revision)
    fabric.follow()
    fabric.settle()
    assert fabric.topology.state_of(G).now == ("p",)
    assert fabric.join("b", K).keys == {name: {K} for name in "abcp"}
    fabric.leave("c")
    fabric.settle()
    assert fabric.topology.entry("p", K) is None
    assert not list(fabric.topology.keys_of("p"))


def test_a_tenants_key_never_counts_for_the_threshold_nor_is_it_served_by_a_point():
    """M12: four want it, and two are in the group."""
    fabric = by_a_point()
    for name in "bcd":
        fabric.join(name, K)
    fabric.settle()
    assert fabric.topology.steps() == []
    assert not fabric.topology.state_of(G).now
    always = by_a_point(POINTS)
    for name in "bcd":
        always.join(name, K)
    always.store.put(**{records.dead_key("p"): b"1"})
    always.follow()
    always.store.put(**{records.dead_key("p"): None})
    always.follow()
    assert not any(f"mode/{K.hex()}" in write.puts for write in always.topology.steps())
    always.settle()
    assert always.topology.state_of(G).now == ("p",)
    assert not always.topology.state_of(K).now
    assert [one.points for one in always.topology.served()] == [("p",), ()]


def test_a_point_is_told_nothing_while_a_device_of_the_group_rewrites_packets():
    """A rewritten packet does not say of which group it is."""
    fabric = by_a_point(POINTS)
    assert fabric.entry("p", K).peers == (A,)
    fabric.store.node(Node("c", "device", C, 1, "rewrite"))
    fabric.follow()
    assert fabric.join("c").keys["p"] == {G, K}
    assert fabric.topology.entry("p", K) is None
    assert list(fabric.topology.keys_of("p")) == [G]
    assert fabric.entry("c", K).peers == (A,), "devices are told all the same"
    assert "p" not in fabric.join("b", K).keys
    fabric.store.node(Node("c", "device", C, 2, "nested"))
    assert fabric.follow().keys == {"p": {K}}
    assert fabric.entry("p", K).peers == (A, B)


def ended_since(fabric: Follower, revision: int) -> list[bytes]:
    keys = fabric.topology.ended(revision)
    assert keys is not None
    return list(keys)


# --- who comes back -----------------------------------------------------------------------------------------


def test_what_changed_for_a_node_is_never_older_than_when_it_came_into_the_group():
    fabric = Follower()
    fabric.join("a")
    fabric.join("a", K)
    fabric.join("a", L)
    at = fabric.topology.changed_at("a", K)
    fabric.join("b", bytes([239, 9, 9, 9]))
    assert fabric.topology.changed_at("a", K) == at
    fabric.join("b")
    assert fabric.topology.changed_at("b", K) == fabric.topology.revision


def test_what_nobody_wants_any_more_is_remembered_for_who_comes_back():
    fabric = Follower()
    fabric.join("a")
    fabric.join("a", K)
    then = fabric.topology.revision
    fabric.leave("a", K)
    fabric.join("a", L)
    later = fabric.topology.revision
    fabric.leave("a", L)
    assert ended_since(fabric, then) == [L, K]
    assert ended_since(fabric, later) == [L]
    assert ended_since(fabric, fabric.topology.revision) == []


def test_a_manager_that_did_not_follow_knows_of_nothing_that_ended():
    fabric = Follower()
    fabric.join("a", K)
    fabric.leave("a", K)
    then = fabric.topology.revision - 1
    assert ended_since(fabric, then) == [K]
    fabric.topology.apply(fabric.store.everything())
    assert fabric.topology.ended(then) is None
    assert ended_since(fabric, fabric.topology.revision) == []
    fresh = Topology(AUTO)
    fresh.apply(fabric.store.everything())
    assert fresh.ended(then) is None


def test_only_so_much_that_ended_is_remembered(monkeypatch):
    monkeypatch.setattr(ended, "MOST", 2)
    log = ended.Ended()
    for n in range(1, 5):
        log.add(bytes([n]), n)
    assert list(log.since(2) or ()) == [b"\4", b"\3"]
    assert log.since(1) is None


def test_a_store_that_was_put_back_leaves_nothing_newer_than_itself():
    fabric = Follower()
    fabric.join("a")
    fabric.join("a", K)
    old = fabric.store.everything()
    for _ in range(3):
        fabric.join("b", K)
        fabric.leave("b", K)
    fabric.topology.apply(old)
    assert fabric.topology.changed_at("a", K) <= old.revision
    assert ended_since(fabric, old.revision) == []


# --- any order ----------------------------------------------------------------------------------------------

KEYS = (K, L, tenant_key(G, VNI, ANY), tenant_key(G, VNI, AWARE))
NODES = {"a": A, "b": B, "c": C, "d": D}
some_node = st.sampled_from([*NODES])


class Told(RuleBasedStateMachine):
    """Whatever changes, at once or together: whose entry differs is dirty, and a node that goes by what is
    dirty, or comes back and goes by what changed since, holds what there is to hold."""

    def __init__(self) -> None:
        super().__init__()
        self.fabric = Follower(Settings("auto", threshold=3, hysteresis=1))
        self.fabric.store.point("p", P, P_AR)
        self.fabric.follow()
        self.held: dict[str, dict[bytes, Entry]] = {name: {} for name in (*NODES, "p")}
        self.away: dict[str, int] = {}

    @rule(name=some_node, key=st.sampled_from([G, G, *KEYS]), vni=st.sampled_from((5, 6)))
    def join(self, name: str, key: bytes, vni: int) -> None:
        self.fabric.store.join(name, key, (vni,))

    @rule(name=some_node, key=st.sampled_from([G, *KEYS]))
    def leave(self, name: str, key: bytes) -> None:
        self.fabric.store.leave(name, key)

    @rule(name=some_node, tunnel=st.sampled_from(("nested", "rewrite")), is_far=st.booleans())
    def start(self, name: str, tunnel: str, is_far: bool) -> None:
        address = NODES[name]
        self.fabric.store.node(Node(name, "device", bytes([10, 0, is_far, address[3]]), 1, tunnel))

    @rule(name=some_node)
    def end(self, name: str) -> None:
        shards = {records.groups_key(name, number): None for number in range(16)}
        self.fabric.store.put(**{records.node_key(name): None}, **shards)

    @rule(is_dead=st.booleans())
    def die(self, is_dead: bool) -> None:
        self.fabric.store.put(**{records.dead_key("p"): b"1" if is_dead else None})

    @rule(name=some_node)
    def go_away(self, name: str) -> None:
        self.follow()
        self.away.setdefault(name, self.fabric.topology.revision)

    @rule(name=some_node)
    def come_back(self, name: str) -> None:
        self.follow()
        if name not in self.away:
            return
        since, topology = self.away.pop(name), self.fabric.topology
        gone = topology.ended(since)
        held = self.held[name]
        if gone is None:
            held.clear()
            dirty = set(topology.keys_of(name))
        else:
            for key in [key for key in held if topology.entry(name, outer_of(key)) is None]:
                del held[key]
            newer = [key for key in topology.keys_of(name) if topology.changed_at(name, key) > since]
            dirty = {*gone, *newer}
        self._hear(name, dirty)

    @rule()
    def step(self) -> None:
        self.follow()
        for write in self.fabric.topology.steps():
            self.fabric.store.commit(write)
        self.follow()
        for name, revision in dict(self.fabric.topology.awaited()).items():
            self.fabric.store.ack(name, revision)

    @rule()
    def relist(self) -> None:
        self._spread(self.fabric.topology.apply(self.fabric.store.everything()).keys)

    @rule()
    def follow(self) -> None:
        self._spread(self.fabric.follow().keys)

    def _spread(self, dirty: dict[str, set[bytes]]) -> None:
        for name, keys in dirty.items():
            if name not in self.away:
                self._hear(name, keys)

    def _hear(self, name: str, keys: set[bytes]) -> None:
        for key in keys:
            entry = self.fabric.topology.entry(name, key)
            if entry is None:
                self.held[name].pop(key, None)
            else:
                self.held[name][key] = entry

    @invariant()
    def who_is_here_holds_what_there_is(self) -> None:
        topology = self.fabric.topology
        fresh = Topology(topology.settings)
        if topology.revision == self.fabric.store.revision:
            fresh.apply(self.fabric.store.everything())
            assert (topology.n_groups, topology.n_tenants) == (fresh.n_groups, fresh.n_tenants)
            kinds = Counter(is_tenant(one.key) for one in fresh.served() if fresh.n_devices(one.key))
            assert (topology.n_groups, topology.n_tenants) == (kinds[False], kinds[True])
        for name in self.held.keys() - self.away.keys():
            told = self._told(topology, name)
            assert self.held[name] == told
            assert {*topology.keys_of(name)} >= told.keys()
            if topology.revision == self.fabric.store.revision:
                assert self._told(fresh, name) == told

    @staticmethod
    def _told(topology: Topology, name: str) -> dict[bytes, Entry]:
        entries = {key: topology.entry(name, key) for key in (G, *KEYS)}
        return {key: entry for key, entry in entries.items() if entry is not None}


Told.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestTold = Told.TestCase

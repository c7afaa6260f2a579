"""Who is told what: CONFORMANCE M2 to M8, M11 and M13, and M12 as far as one topology shows it."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ctrl.store.model import Changes
from ctrl.topology import records
from ctrl.topology.entry import MESH, POINT, Entry, Key, Node
from ctrl.topology.points import Allocation, Settings
from ctrl.topology.topology import Topology
from tests.unit.stored import AUTO, MESHES, POINTS, A, B, C, D, Follower, G, Log

H = bytes([239, 1, 1, 2])
P, P_AR, Q, Q_AR = (bytes([10, 0, 9, n]) for n in (1, 2, 3, 4))


def test_each_device_of_a_mesh_is_told_all_others_and_no_one_else_is_told():
    """M2, M3"""
    fabric = Follower()
    for name in "abc":
        fabric.join(name)
    assert fabric.entry("a") == Entry(G, MESH, (B, C))
    assert fabric.entry("b") == Entry(G, MESH, (A, C))
    assert fabric.topology.entry("d", G) is None
    assert not list(fabric.topology.keys_of("d"))
    assert list(fabric.topology.keys_of("c")) == [G]


def test_a_join_concerns_the_devices_of_that_group_only():
    """M4: one device added to k others is k + 1 entries."""
    fabric = Follower()
    fabric.join("a")
    fabric.join("b")
    fabric.join("d", H)
    assert fabric.join("c").keys == {"a": {G}, "b": {G}, "c": {G}}


def test_what_is_joined_already_concerns_nobody():
    """M4"""
    fabric = Follower()
    for name in "ab":
        fabric.join(name)
    assert not fabric.join("a").keys
    assert not fabric.join("a", vnis=(5,)).keys


def test_the_last_device_left_has_no_tunnel_any_more():
    """M4, M5"""
    fabric = Follower()
    fabric.join("a")
    assert fabric.entry("a") == Entry(G, MESH)
    fabric.join("b")
    assert fabric.entry("a").peers == (B,)
    assert fabric.leave("b").keys == {"a": {G}, "b": {G}}
    assert fabric.entry("a") == Entry(G, MESH)
    assert fabric.topology.entry("b", G) is None


def test_a_device_whose_record_goes_leaves_all_groups():
    """M9: what the hold removes of a silent device."""
    fabric = Follower()
    for name in "abc":
        fabric.join(name)
    fabric.store.put(**{records.node_key("b"): None})
    assert fabric.follow().keys == {"a": {G}, "b": {G}, "c": {G}}
    assert fabric.entry("a").peers == (C,)
    assert fabric.topology.entry("b", G) is None


def test_a_device_that_moved_to_another_address_is_sent_to_there():
    fabric = Follower()
    for name in "ab":
        fabric.join(name)
    fabric.store.device("b", D)
    assert "a" in fabric.follow().keys
    assert fabric.entry("a").peers == (D,)


def test_the_point_has_all_devices_and_the_devices_have_the_point():
    """M6, M8: from second information alone."""
    fabric = Follower(POINTS)
    fabric.store.point("p", P, P_AR)
    for name in "abc":
        fabric.join(name, vnis=(5, 6) if name == "a" else (7,))
        fabric.settle()
    assert fabric.topology.state_of(G).now == ("p",)
    assert fabric.entry("p") == Entry(G, POINT, (A, B, C), vnis=(5, 6, 7))
    assert fabric.entry("a") == Entry(G, POINT, (P_AR,), backup=(B, C), accept=(P,))
    assert list(fabric.topology.keys_of("p")) == [G]


def test_a_second_point_stands_in_for_the_first_and_has_the_list_too():
    """M7"""
    fabric = Follower(POINTS)
    fabric.store.point("p", P, P_AR)
    fabric.store.point("q", Q, Q_AR)
    for name in "abc":
        fabric.join(name)
        fabric.settle()
    (serving,) = fabric.topology.state_of(G).now
    first, second = ((P, P_AR), (Q, Q_AR)) if serving == "p" else ((Q, Q_AR), (P, P_AR))
    want = Entry(G, POINT, (first[1],), backup=(second[1],), accept=tuple(sorted((first[0], second[0]))))
    assert fabric.entry("a") == want
    assert fabric.entry("p") == fabric.entry("q") == Entry(G, POINT, (A, B, C))


def test_a_join_at_a_point_with_a_backup_concerns_the_points_and_the_one_that_joins():
    """M4, M6"""
    fabric = Follower(POINTS)
    fabric.store.point("p", P, P_AR)
    fabric.store.point("q", Q, Q_AR)
    for name in "abc":
        fabric.join(name)
        fabric.settle()
    assert fabric.join("d").keys == {"d": {G}, "p": {G}, "q": {G}}


def test_auto_takes_a_point_at_the_threshold_and_the_mesh_below_the_hysteresis():
    """M12: 3 devices and more by a point, 2 and less by a mesh with threshold 3 and hysteresis 1."""
    fabric = Follower(Settings("auto", threshold=4, hysteresis=2))
    fabric.store.point("p", P)
    served = []
    for act, name in zip("jjjjllj", "abcddcc", strict=True):
        (fabric.join if act == "j" else fabric.leave)(name)
        fabric.settle()
        served.append(fabric.topology.state_of(G).now)
    assert served == [(), (), (), ("p",), ("p",), (), ()]


def test_without_hysteresis_a_group_goes_by_a_point_exactly_from_the_threshold_on():
    """M12"""
    fabric = Follower(Settings("auto", threshold=2, hysteresis=0))
    fabric.store.point("p", P)
    served = []
    for act, name in zip("jjlj", "abbb", strict=True):
        (fabric.join if act == "j" else fabric.leave)(name)
        fabric.settle()
        served.append(fabric.topology.state_of(G).now)
    assert served[1] == served[3] == ("p",)


def test_a_switch_waits_until_the_points_know_all_devices_and_devices_the_new_way():
    """M12: a join while it is prepared is one more thing for the point, not for the devices."""
    fabric = Follower(AUTO)
    fabric.store.point("p", P)
    for name in "abc":
        fabric.join(name)
    (write,) = fabric.topology.steps()
    assert fabric.store.commit(write)
    fabric.follow()
    prepared = fabric.store.revision
    assert fabric.topology.awaited() == dict.fromkeys("abcp", prepared)
    fabric.join("d")
    assert fabric.topology.awaited() == dict.fromkeys("abcd", prepared) | {"p": prepared + 1}
    for name in "abcdp":
        fabric.store.ack(name, prepared)
        fabric.follow()
        assert not fabric.topology.steps()
    assert fabric.topology.awaited() == {"p": prepared + 1}
    fabric.store.ack("p", prepared + 1)
    fabric.follow()
    assert fabric.topology.steps()


def test_a_switch_waits_for_the_point_that_stands_in_as_long_as_that_is_live():
    """M12"""
    fabric = Follower(AUTO)
    for name, address in (("p", P), ("q", Q)):
        fabric.store.point(name, address)
        fabric.store.put(**{records.live_key(name): records.encode_live(records.Live("m", "x", 1))})
    for name in "abc":
        fabric.join(name)
    assert fabric.store.commit(fabric.topology.steps()[0])
    fabric.follow()
    (first,) = fabric.topology.state_of(G).next
    second = {"p": "q", "q": "p"}[first]
    assert fabric.topology.awaited().keys() == {*"abcpq"}
    for name in ("a", "b", "c", first):
        fabric.store.ack(name, fabric.store.revision)
    fabric.follow()
    assert not fabric.topology.steps()
    fabric.store.put(**{records.live_key(second): None})
    fabric.follow()
    assert fabric.topology.steps()


def test_a_group_that_nobody_is_in_leaves_no_mode_behind():
    fabric = Follower(POINTS)
    fabric.store.point("p", P)
    fabric.join("a")
    fabric.settle()
    assert records.mode_key(G) in fabric.store.items
    fabric.leave("a")
    fabric.settle()
    assert records.mode_key(G) not in fabric.store.items
    assert fabric.topology.n_groups == 0
    assert not list(fabric.topology.keys_of("p"))


def test_a_dead_point_loses_its_groups_and_no_others_are_moved():
    """M7"""
    fabric = Follower(POINTS)
    for n, name in enumerate("pqr"):
        fabric.store.point(name, bytes([10, 0, 9, n]))
    keys = [bytes([239, 1, 2, n]) for n in range(60)]
    for key in keys:
        fabric.join("a", key)
    fabric.settle()
    before = {key: fabric.topology.state_of(key).now for key in keys}
    assert set(before.values()) == {("p",), ("q",), ("r",)}
    fabric.store.put(**{records.dead_key("q"): b"1"})
    fabric.follow()
    fabric.settle()
    after = {key: fabric.topology.state_of(key).now for key in keys}
    assert {key for key in keys if after[key] != before[key]} == {
        key for key in keys if before[key] == ("q",)
    }
    fabric.store.put(**{records.dead_key("q"): None})
    fabric.follow()
    fabric.settle()
    assert {key: fabric.topology.state_of(key).now for key in keys} == before


def test_a_group_whose_vnis_are_at_two_points_is_served_by_both():
    """M7, M13: one entry, the list on each of them; each is told which VNIs are its own (R7)."""
    low, high = Allocation(P, ((1, 99),)), Allocation(Q, ((100, 199),))
    fabric = Follower(Settings("point", points=(low, high)))
    fabric.store.point("p", P, P_AR)
    fabric.store.point("q", Q, Q_AR)
    for name in "abc":
        fabric.join(name, vnis=(50, 150))
        fabric.settle()
    assert fabric.entry("a") == Entry(G, POINT, (P_AR, Q_AR), backup=(B, C), accept=(P, Q))
    assert fabric.entry("p").peers == fabric.entry("q").peers == (A, B, C)
    assert fabric.topology.vnis_of("p") == ((1, 99),)
    assert fabric.topology.vnis_of("q") == ((100, 199),)


def test_points_whose_vnis_change_are_dirty():
    fabric = Follower(Settings("point", points=(Allocation(P, ((1, 99),)),)))
    fabric.store.point("p", P)
    assert fabric.follow().points == {"p"}
    fabric.store.node(Node("q", "replicator", Q, 1, vnis=((7, 8),)))
    assert fabric.follow().points == {"q"}
    assert fabric.topology.vnis_of("q") == ((7, 8),)


def test_the_devices_of_a_tree_are_dealt_to_its_points():
    """framework 3.5: each point has its own devices, and the others' addresses to send on to, once."""
    fabric = Follower(Settings("point", tree=True))
    fabric.store.point("p", P, P_AR)
    fabric.store.point("q", Q, Q_AR)
    for n in range(20):
        fabric.store.device(f"e{n}", bytes([10, 0, 5, n]))
        fabric.join(f"e{n}")
        fabric.settle()
    p, q = fabric.entry("p"), fabric.entry("q")
    assert sorted(p.peers + q.peers) == [bytes([10, 0, 5, n]) for n in range(20)]
    assert (p.onward, q.onward) == ((Q,), (P,))
    assert p.peers
    assert q.peers
    for n in range(20):
        entry = fabric.entry(f"e{n}")
        is_of_p = bytes([10, 0, 5, n]) in p.peers
        assert entry.peers == ((P_AR,) if is_of_p else (Q_AR,))
        assert set(entry.accept) | {*entry.backup} >= {P if is_of_p else Q}


def test_points_without_an_address_of_their_own_for_copying_make_no_tree():
    fabric = Follower(Settings("point", tree=True))
    fabric.store.point("p", P)
    fabric.store.point("q", Q, Q_AR)
    fabric.join("a")
    fabric.settle()
    assert len(fabric.topology.state_of(G).now) == 1


def test_a_point_that_is_not_known_any_more_is_not_sent_to():
    fabric = Follower(POINTS)
    fabric.store.point("p", P)
    for name in "abc":
        fabric.join(name)
        fabric.settle()
    fabric.store.put(**{records.node_key("p"): None})
    assert fabric.follow().keys.keys() == {"a", "b", "c", "p"}
    assert fabric.entry("a").peers == (B, C)
    assert not list(fabric.topology.keys_of("p"))


def test_more_points_than_devices_are_warned_of():
    """M7"""
    fabric = Follower(AUTO)
    assert not fabric.topology.warnings()
    for n in range(4):
        fabric.store.point(f"p{n}", bytes([10, 0, 9, n]))
    fabric.follow()
    assert "points=4 devices=4" in fabric.topology.warnings()[0]


KEYS = [bytes([239, 1, 1, n]) for n in range(3)]
ACTS = st.lists(
    st.tuples(
        st.sampled_from(["join", "leave", "node", "gone", "point", "dead", "mode"]),
        st.integers(0, 4),
        st.sampled_from(KEYS),
        st.sampled_from([(), (5,), (150,), (5, 150)]),
    ),
    max_size=40,
)
MODES = [
    records.Mode(stage, now, later)
    for stage in ("stable", "prepare", "switch")
    for now, later in (((), ("p1",)), (("p1",), ("p0",)), (("p0", "p1"), ()), (("gone",), ("p1",)))
]


def acted(acts: list[tuple[str, int, Key, tuple[int, ...]]]) -> Log:
    store = Log()
    for act, n, key, vnis in acts:
        if act == "join":
            store.join(f"n{n}", key, vnis)
        elif act == "leave":
            store.leave(f"n{n}", key)
        elif act in {"node", "gone"}:
            node = Node(f"n{n}", "device", bytes([10, 0, 0, n]), 1)
            store.put(**{records.node_key(node.name): records.encode_node(node) if act == "node" else None})
        elif act == "point":
            store.point(f"p{n}", bytes([10, 0, 1, n]), bytes([10, 0, 2, n]))
        elif act == "dead":
            store.put(**{records.dead_key(f"p{n}"): b"1"})
        else:
            store.put(**{records.mode_key(key): records.encode_mode(MODES[len(vnis) * 5 + n % 2])})
    return store


def picture(topology: Topology) -> dict[tuple[str, Key], Entry]:
    names = [*topology.nodes, *(f"n{n}" for n in range(5))]
    found = {(name, key): topology.entry(name, key) for name in names for key in KEYS}
    for name in topology.nodes:
        assert {key for key in KEYS if found[name, key]} == {*topology.keys_of(name)}
    return {where: entry for where, entry in found.items() if entry is not None}


@given(ACTS, st.randoms(use_true_random=False), st.sampled_from([MESHES, AUTO, POINTS]))
@settings(max_examples=60, deadline=None)
def test_the_same_items_make_the_same_entries_in_whatever_order_they_come(acts, random, how):
    """M11"""
    store = acted(acts)
    listed, shuffled, followed = Topology(how), Topology(how), Topology(how)
    listed.apply(store.everything())
    items = list(store.items.values())
    random.shuffle(items)
    while items:
        n = random.randint(1, len(items))
        shuffled.apply(Changes(store.revision, items[:n]))
        items = items[n:]
    for revision in range(store.revision):
        followed.apply(store.since(revision, revision + 1))
    relisted = Topology(how)
    relisted.apply(acted(acts[: len(acts) // 2]).everything())
    relisted.apply(store.everything())
    assert picture(listed) == picture(shuffled) == picture(followed) == picture(relisted)


@given(ACTS, st.sampled_from([MESHES, AUTO, POINTS]))
@settings(max_examples=60, deadline=None)
def test_each_entry_that_differs_is_dirty(acts, how):
    """M4: who goes by what is dirty alone misses nothing, and `changed_at` moves with it."""
    store = acted(acts)
    topology = Topology(how)
    before: dict[tuple[str, Key], Entry] = {}
    for revision in range(store.revision):
        dirty = topology.apply(store.since(revision, revision + 1))
        after = picture(topology)
        for name, key in before.keys() | after.keys():
            if before.get((name, key)) != after.get((name, key)):
                assert key in dirty.keys[name]
                assert topology.changed_at(name, key) in {0, revision + 1}
        before = after

"""The store's items and what a topology makes of them: CONFORMANCE M10, and what is damaged."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ctrl.store.model import Changes, Item
from ctrl.topology import records
from ctrl.topology.switching import MESHED
from ctrl.topology.topology import Dirty, Topology
from tests.unit.stored import AUTO, MESHES, A, B, C, Follower, G

H = bytes([239, 1, 1, 2])


def test_a_full_list_says_what_differs_and_nothing_else():
    fabric = Follower()
    for name in "ab":
        fabric.join(name)
        fabric.join(name, H)
    at = fabric.topology.changed_at("a", H)
    assert fabric.topology.apply(fabric.store.everything()) == Dirty()
    fabric.store.leave("b", G)
    dirty = fabric.topology.apply(fabric.store.everything())
    assert dirty.keys == {"a": {G}, "b": {G}}
    assert fabric.topology.changed_at("a", G) == fabric.store.revision
    assert fabric.topology.changed_at("a", H) == at


def test_what_a_new_manager_finds_counts_as_changed_when_it_came():
    """M10: it cannot know what was removed before."""
    fabric = Follower()
    for name in "abc":
        fabric.join(name)
    fabric.leave("c")
    fabric.join("d", H)
    fresh = Topology(MESHES)
    fresh.apply(fabric.store.everything())
    assert fresh.changed_at("a", G) == fabric.store.revision


def test_a_store_that_was_put_back_leaves_nothing_newer_than_itself():
    fabric = Follower()
    for name in "abc":
        fabric.join(name)
    old = fabric.store.everything()
    for _ in range(5):
        fabric.leave("c")
        fabric.join("c")
    fabric.topology.apply(old)
    assert fabric.topology.revision == old.revision
    assert fabric.topology.changed_at("a", G) <= old.revision
    assert fabric.entry("a").peers == (B, C)


def test_who_is_live_and_who_claims_an_address_is_known_with_revisions():
    fabric = Follower()
    live = records.live_key("a")
    revision = fabric.store.put(**{live: records.encode_live(records.Live("m1", "x", 7))})
    fabric.store.put(**{records.address_key(A): records.encode_name("a")})
    assert fabric.follow().nodes == {"a"}
    assert fabric.topology.live_of("a") == (("m1", "x", 7), revision)
    assert fabric.topology.claimant(A) == "a"
    assert fabric.topology.revision_of(live) == revision
    assert fabric.topology.revision_of(records.address_key(A)) == revision + 1
    fabric.store.put(**{live: None})
    fabric.follow()
    assert not fabric.topology.is_live("a")
    assert fabric.topology.revision_of(live) == 0


def test_second_information_is_given_back_as_it_was_stored():
    fabric = Follower()
    fabric.join("a", G, (7, 5))
    fabric.join("a", H)
    assert fabric.topology.groups_of("a") == {G: ((5, 7), ()), H: ((), ())}
    assert fabric.topology.groups_of("nobody") == {}


@given(st.lists(st.tuples(st.text(max_size=20), st.binary(max_size=40)), max_size=5))
@settings(max_examples=50, deadline=None)
def test_nothing_from_the_store_raises(items):
    topology = Topology(AUTO)
    prefixes = (
        "",
        "node/",
        "groups/",
        "groups/a/",
        "live/",
        "mode/",
        "acked/",
        "dead/",
        "address/",
        "moved/",
    )
    changes = [Item(p + key, value, n + 1) for n, (key, value) in enumerate(items) for p in prefixes]
    topology.apply(Changes(len(items), changes))
    topology.apply(Changes(len(items), changes, is_all=True))
    topology.apply(Changes(len(items) + 1, [Item(i.key, None, len(items) + 1) for i in changes]))
    topology.steps()
    assert not topology.n_groups


def test_what_cannot_be_read_is_skipped_and_counted():
    fabric = Follower()
    for name in "abc":
        fabric.join(name)
    shard = records.groups_key("b", records.shard_of(G))
    fabric.store.put(**{shard: b"{", "node/x": b"7", "else/x": b"", "mode/zz": b"{}", "live/a": b"[]"})
    fabric.follow()
    assert fabric.topology.faults == {"groups": 1, "node": 1, "foreign": 1, "mode": 1, "live": 1}
    assert fabric.entry("a").peers == (C,)
    assert fabric.topology.state_of(G) == MESHED

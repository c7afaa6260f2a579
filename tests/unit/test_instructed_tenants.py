"""What a node holds of what tenants want: told as tunnels are, and none of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctrl.roles.tunnels import Bounds
from ctrl.rpc.messages import Ack, Group, Groups, Hello, Instructions, Refused
from ctrl.store.held import Held
from ctrl.topology.entry import ANY, AWARE, POINT, Address, Entry, Key, tenant_key
from tests.unit.instructed import OURS, ROUTER, Side, connected, device, key, mesh, put


def tenants(n: int, inner: Address) -> Key:
    return tenant_key(key(n), 5001, inner)


def wanted(at: Key, *others: int) -> Entry:
    """Who else wants it."""
    return Entry(at, "mesh", tuple(map(device, others)), vnis=(5001,))


ONE, TWO = bytes([239, 5, 5, 5]), bytes([239, 5, 5, 6])
K, L = tenants(1, ONE), tenants(1, TWO)
ALL, AWARES = tenants(1, ANY), tenants(1, AWARE)


def keys(side: Side) -> set[Key]:
    return set(side.node.entries)


def restarted(side: Side, bounds: Bounds | None = None) -> Side:
    side.node.store_again()
    disk = put(Held(), side.node.take_stored())
    return Side(bounds=bounds, held=Held(disk.store, disk.revision, disk.entries, disk.groups))


def test_a_node_says_what_its_tenants_want_as_it_says_its_groups() -> None:
    side = connected(mesh(1, 2))
    side.node.joined(K, (5001,))
    assert side.said() == [Groups(3, (Group(K, (5001,)),), base=2)]
    side.node.left(K)
    assert side.said() == [Groups(4, gone=(K,), base=3)]
    side.node.joined(K, (5001,))
    side.said()
    again = restarted(side)
    (hello, full) = again.connect()
    assert isinstance(hello, Hello)
    assert isinstance(full, Groups)
    assert [group.key for group in full.added] == [key(1), K]
    again.node.joined(key(1))
    again.node.confirm()
    (left,) = again.said()
    assert isinstance(left, Groups)
    assert left.gone == (K,)


def test_who_wants_something_is_told_and_makes_nobody_a_sender() -> None:
    """D12: nor does it make anybody a point."""
    side = connected(mesh(1, 2))
    assert side.tell(wanted(K, 2, 3), revision=2) == Ack(2)
    assert side.node.entry(K) == wanted(K, 2, 3)
    assert side.node.peers(K) == (device(2), device(3))
    assert side.node.take_changes() == {K}
    assert (side.node.senders(), side.node.take_senders_changed()) == ({device(2)}, False)
    assert side.node.n_tenants == 1
    side.tell(wanted(K, 3), revision=3)
    assert side.node.take_changes() == {K}
    side.tell(removed=(K,), revision=4)
    assert (side.node.take_changes(), keys(side), side.node.n_tenants) == ({K}, {key(1)}, 0)
    assert side.node.senders() == {device(2)}


def test_what_tenants_want_is_kept_over_a_restart() -> None:
    """M10."""
    side = connected(mesh(1, 2), wanted(K, 2, 3))
    again = restarted(side)
    assert again.node.entries == {key(1): mesh(1, 2), K: wanted(K, 2, 3)}
    assert again.node.take_changes() == {key(1), K}
    assert again.node.senders() == {device(2)}


# --- it ends with its group ---------------------------------------------------------------------------------


def test_what_tenants_of_a_group_want_ends_with_the_group() -> None:
    side = connected(mesh(1, 2), mesh(2, 2), wanted(K, 2), wanted(tenants(2, ONE), 3))
    side.node.left(key(1))
    assert K in keys(side)
    side.tell(removed=(key(1),), revision=2)
    assert keys(side) == {key(2), tenants(2, ONE)}


def test_of_a_group_that_a_node_left_while_alone_nothing_is_kept() -> None:
    """M10: it is in no list that it gets now; it never wanted what is told for another group of its own."""
    side = connected(mesh(1, 2), mesh(2, 2))
    side.tell(wanted(K, 2), wanted(tenants(2, ONE), 3), revision=2)
    side.disconnect()
    side.node.left(key(1))
    hello = side.connect()[0]
    assert isinstance(hello, Hello)
    assert (hello.store, hello.revision) == ("s", 2)
    assert keys(side) == {key(2), tenants(2, ONE)}


def test_a_point_keeps_what_it_was_told_though_it_is_in_no_group() -> None:
    side = connected(Entry(key(1), POINT, (device(2),)), wanted(K, 2), node=ROUTER)
    side.disconnect()
    side.connect()
    assert keys(side) == {key(1), K}
    side.tell(removed=(key(1),), revision=2)
    assert keys(side) == set()


# --- the shrink hold-down -----------------------------------------------------------------------------------


def test_what_tenants_want_no_more_is_followed_at_once_and_never_held() -> None:
    """Twenty keys that lose all peers, of twenty-two."""
    many = [tenants(1, bytes([239, 5, 6, n])) for n in range(20)]
    side = connected(mesh(1, 2), mesh(2, 2), *(wanted(one, 2) for one in many))
    side.tell(removed=tuple(many), revision=2)
    assert (keys(side), side.node.held_down) == ({key(1), key(2)}, {})


def test_what_tenants_want_never_counts_as_tunnels_that_stay() -> None:
    """Of twelve groups all are lost: that they are most is not for what tenants want to say."""
    many = [tenants(1, bytes([239, 5, 6, n])) for n in range(40)]
    side = connected(*(mesh(n, 2) for n in range(1, 13)), *(wanted(one, 2) for one in many))
    side.tell(*(wanted(one, 2) for one in many), *(mesh(n) for n in range(1, 13)), revision=2)
    assert set(side.node.held_down) == {key(n) for n in range(1, 13)}


# --- refused is as if not told ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (wanted(K, *range(2, 6)), "peers_full"),
        (wanted(K, 1), "own_address_as_peer"),
        (wanted(K, 2, 2), "peer_twice"),
        (Entry(K, "mesh", (ONE,)), "not_a_peer"),
        (Entry(K, POINT, (device(2),)), "unknown_via"),
        (Entry(K, "mesh", (device(2),), backup=(device(3),)), "unknown_via"),
        (Entry(K, "mesh", (device(2),), accept=(device(3),)), "unknown_via"),
        (Entry(K, "mesh", (device(2),), onward=(device(3),)), "unknown_via"),
    ],
)
def test_what_is_refused_is_as_if_it_had_not_been_told(entry: Entry, why: str) -> None:
    """Not as it was before: whoever came to want it would be spared."""
    assert device(1) == OURS
    side = connected(mesh(1, 2), wanted(K, 2), bounds=Bounds(max_peers_per_group=3))
    assert side.tell(entry, revision=2) == Ack(2, ((K, why),))
    assert (keys(side), side.node.refused, side.node.refusals) == ({key(1)}, {K: why}, {why: 1})
    assert side.node.points() == set()
    side.tell(wanted(K, 3), revision=3)
    assert (keys(side), side.node.refused) == ({key(1), K}, {})


def test_beyond_the_most_keys_nothing_is_told_of_tenants() -> None:
    side = connected(mesh(1, 2), wanted(K, 2), bounds=Bounds(max_groups=1))
    assert side.tell(wanted(L, 2), revision=2) == Ack(2, ((L, "tunnels_full"),))
    assert keys(side) == {key(1), K}


@pytest.mark.parametrize("is_last", [True, False])
def test_nobody_is_aware_while_it_is_not_known_who_wants_all(is_last: bool) -> None:
    """Else who wants all groups would be spared each of them."""
    side = connected(mesh(1, 2), wanted(ALL, 2), wanted(AWARES, 2), bounds=Bounds(max_peers_per_group=2))
    words = [wanted(AWARES, 2, 3), wanted(ALL, 2, 3, 4)]
    ack = side.tell(*(words if is_last else reversed(words)), revision=2)
    assert ack is not None
    assert dict(ack.refused)[ALL] == "peers_full"
    assert keys(side) == {key(1)}
    ack = side.tell(wanted(ALL, 2), wanted(AWARES, 2), revision=3)
    assert ack == Ack(3, ((AWARES, "peers_full"),))
    assert keys(side) == {key(1), ALL}
    side.disconnect()
    hello = side.connect()[0]
    assert isinstance(hello, Hello)
    assert hello.revision == 0, "it has all told again"
    assert side.tell(mesh(1, 2), wanted(ALL, 2), wanted(AWARES, 2), revision=4, is_full=True) == Ack(1)
    assert keys(side) == {key(1), ALL, AWARES}
    side.disconnect()
    hello = side.connect()[0]
    assert isinstance(hello, Hello)
    assert hello.revision == 4


def test_who_is_aware_in_other_networks_is_told_again_as_well() -> None:
    """All that was refused is in force by now, but not what was dropped for it."""
    other = tenants(2, AWARE)
    side = connected(mesh(1, 2), mesh(2, 2), wanted(other, 2), bounds=Bounds(max_peers_per_group=1))
    side.tell(wanted(ALL, 2, 3), revision=2)
    side.tell(wanted(ALL, 2), revision=3)
    assert (keys(side), side.node.refused) == ({key(1), key(2), ALL}, {})
    side.disconnect()
    hello = side.connect()[0]
    assert isinstance(hello, Hello)
    assert hello.revision == 0


def test_who_was_not_told_for_want_of_room_may_be_somebody_who_wants_all() -> None:
    side = connected(mesh(1, 2), wanted(AWARES, 2), bounds=Bounds(max_groups=1))
    side.tell(mesh(1, 2), wanted(AWARES, 2), wanted(ALL, 3), revision=2)
    assert keys(side) == {key(1)}
    assert side.node.refusals["tunnels_full"] == 2, "that they are aware is refused by the same bound"


def test_where_there_is_no_room_for_a_group_who_is_aware_in_others_still_is() -> None:
    side = connected(mesh(1, 2), wanted(AWARES, 2), bounds=Bounds(max_groups=1))
    side.tell(mesh(1, 2), mesh(2, 2), wanted(AWARES, 2), revision=2)
    assert (keys(side), side.node.refusals) == ({key(1), AWARES}, {"tunnels_full": 1})
    side.disconnect()
    hello = side.connect()[0]
    assert isinstance(hello, Hello)
    assert hello.revision == 0, "it has all told again"


MANY = [tenants(1, bytes([239, 5, 6, n])) for n in range(10)]


@pytest.mark.parametrize("is_full", [True, False])
@pytest.mark.parametrize("n_parts", [1, 2])
def test_much_that_tenants_want_leaves_room_for_a_new_group(n_parts: int, is_full: bool) -> None:
    """Told with it, before it, or in a part before it."""
    side = connected(mesh(1, 2), *(wanted(one, 2) for one in MANY), bounds=Bounds(max_groups=3))
    assert side.node.n_tenants == 3
    others = [wanted(tenants(1, bytes([239, 5, 7, n])), 2) for n in range(10)]
    instructions = Instructions(2, 2, tuple(others), is_full=is_full)
    new = (mesh(1, 2), mesh(2, 2), mesh(3, 2))
    if n_parts == 1:
        side.hear(replace(instructions, entries=(*others, *new)))
    else:
        side.hear(replace(instructions, more=True))
        side.hear(replace(instructions, entries=new))
    assert all(side.node.entry(key(n)) == mesh(n, 2) for n in (1, 2, 3))
    assert (len(side.node.entries), side.node.n_tenants) == (6, 3)
    assert set(side.node.refusals) == {"tunnels_full"}


def test_groups_as_many_as_there_may_be_leave_room_for_who_wants_what() -> None:
    side = connected(mesh(1, 2), mesh(2, 2), bounds=Bounds(max_groups=2))
    assert side.tell(wanted(K, 2), wanted(AWARES, 2), revision=2) == Ack(2)
    assert keys(side) == {key(1), key(2), K, AWARES}


def test_a_group_that_is_refused_is_known_and_said_however_much_of_tenants_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """M12: a manager that did not hear of it would go on with the switch of the group."""
    monkeypatch.setattr("ctrl.roles.instructed.MOST_REFUSED", 2)
    side = connected(mesh(1, 2), bounds=Bounds(max_groups=3, max_peers_per_group=1))
    ack = side.tell(*(wanted(one, 2, 3) for one in MANY[:3]), mesh(1, 2, 3), revision=2)
    assert ack == Ack(2, ((key(1), "peers_full"), (MANY[0], "peers_full")))
    assert side.tell(*(wanted(one, 2, 3) for one in MANY), mesh(2, 2, 3), revision=3) == Ack(
        3, ((key(2), "peers_full"), (MANY[0], "peers_full"))
    )
    assert set(side.node.refused) == {key(1), key(2), *MANY[:3]}
    side.tell(*(wanted(one, 2) for one in MANY[:3]), mesh(1, 2), removed=(key(2),), revision=4)
    assert side.node.refused == {}
    for revision in (5, 6):
        entries = (*(wanted(one, 3, 4) for one in MANY[:3]), mesh(1, 2, 3))
        side.tell(*entries, revision=revision, is_full=revision > 5)
        assert set(side.node.refused) == {key(1), *MANY[:3]}


def test_what_the_manager_refuses_of_tenants_is_known_by_name_until_it_is_left() -> None:
    side = connected(mesh(1, 2))
    side.node.joined(K)
    side.hear(Refused(((K, "groups_full"), (L, "groups_full"))))
    assert side.node.groups_refused == {K: "groups_full"}
    side.node.left(K)
    assert side.node.groups_refused == {}


def test_a_manager_of_a_new_store_adds_to_who_wants_something() -> None:
    """M10."""
    side = connected(mesh(1, 2), wanted(K, 2), wanted(AWARES, 2))
    side.disconnect()
    side.connect(store="t")
    side.tell(mesh(1, 3), wanted(K, 3), wanted(L, 3), removed=(AWARES,), merge=True)
    assert side.node.entry(K) == wanted(K, 2, 3)
    assert keys(side) == {key(1), K, L, AWARES}


# --- any order ----------------------------------------------------------------------------------------------

others = st.sets(st.integers(2, 6), max_size=5).map(sorted)
words = st.tuples(st.sampled_from([ALL, AWARES, K, L, tenants(2, ANY), tenants(2, AWARE)]), others)


@settings(max_examples=150)
@given(st.lists(st.tuples(st.lists(words, max_size=4), st.booleans(), st.booleans()), max_size=8))
def test_whatever_is_refused_nobody_is_spared_who_may_want_it(
    batches: list[tuple[list[tuple[Key, list[int]]], bool, bool]],
) -> None:
    """A node keeps at most three peers, four groups and four keys of tenants; what the manager knows is all
    that was said last."""
    side = connected(mesh(1, 2), mesh(2, 2), bounds=Bounds(max_peers_per_group=3, max_groups=4))
    truth: dict[Key, list[int]] = {}
    for revision, (said, is_full, is_cut) in enumerate(batches, 2):
        if is_cut:
            side.disconnect()
            side.connect()
        hello_is_full = is_full or is_cut
        truth |= dict(said)
        told = truth if hello_is_full else dict(said)
        entries = [wanted(at, *these) for at, these in told.items()]
        side.tell(mesh(1, 2), mesh(2, 2), *entries, revision=revision, is_full=hello_is_full)
        for n in (1, 2):
            entry_of = side.node.entry
            aware, wants_all = entry_of(tenants(n, AWARE)), entry_of(tenants(n, ANY))
            for at in (K, L) if n == 1 else ():
                one = entry_of(at)
                spared = set(aware.peers if aware and one else ())
                spared -= {*(wants_all.peers if wants_all else ()), *(one.peers if one else ())}
                want = {*truth.get(at, []), *truth.get(ALL, [])}
                assert spared.isdisjoint(map(device, want))
                assert spared <= set(map(device, truth.get(AWARES, [])))
        assert side.node.senders() == {device(2)}
        assert {key(1), key(2)} <= keys(side)
        assert side.node.n_tenants == len(keys(side)) - 2 <= 4

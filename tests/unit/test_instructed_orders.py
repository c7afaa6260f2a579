"""Which word a node follows, of several stores, revisions and sessions; what it merges, what it stores."""

from __future__ import annotations

from ctrl.roles.tunnels import Bounds
from ctrl.rpc.messages import Ack, Group, Hello, Instructions
from ctrl.store.held import Held
from ctrl.topology.entry import POINT, Entry
from tests.unit.instructed import (
    P1,
    P2,
    ROUTER,
    TOR,
    Side,
    by_point,
    connected,
    device,
    key,
    mesh,
)


def hello(side: Side, store: str = "s") -> tuple[str, int]:
    """Begin another session; what the node says that it holds."""
    side.disconnect()
    first, *_ = side.connect(store)
    assert isinstance(first, Hello)
    return first.store, first.revision


# --- older and newer ----------------------------------------------------------------------------------------


def test_instructions_of_an_older_revision_of_the_same_store_never_win() -> None:
    """M9: not in full either; they are not acknowledged, so a manager that lags says them again."""
    side = connected(mesh(1, 2), revision=9)
    side.disconnect()
    side.connect()
    assert side.tell(mesh(1, 3), revision=8) is None
    assert side.tell(is_full=True, revision=8) is None
    assert side.node.entries == {key(1): mesh(1, 2)}
    assert side.node.refusals == {"older_instructions": 2}
    assert side.tell(mesh(1, 3), revision=9) == Ack(3)
    assert side.node.peers(key(1)) == (device(3),)


def test_an_older_number_of_a_session_never_wins() -> None:
    """M9: nor does its last part."""
    side = connected(mesh(1, 2))
    side.tell(mesh(1, 3), revision=2)
    side.hear(Instructions(1, 2, (mesh(1, 4),)))
    assert side.said() == []
    side.hear(Instructions(2, 2, (mesh(1, 4),)))
    assert side.said() == [Ack(2)]
    assert side.node.peers(key(1)) == (device(3),)


def test_another_store_counts_its_revisions_anew() -> None:
    """M10: whatever they were."""
    side = connected(mesh(1, 2), mesh(2, 2), revision=900)
    assert hello(side, "t") == ("s", 900)
    assert side.tell(mesh(1, 3), revision=3, is_full=True) == Ack(1)
    assert side.node.entries == {key(1): mesh(1, 3)}
    assert hello(side, "t") == ("t", 3)


def test_a_part_of_another_stores_truth_is_not_claimed_to_be_all_of_it() -> None:
    side = connected(mesh(1, 2), revision=900)
    hello(side, "t")
    side.tell(mesh(2, 3), revision=3)
    assert hello(side, "t") == ("", 0)


def test_a_full_batch_ends_what_it_does_not_name() -> None:
    side = connected(mesh(1, 2), mesh(2, 2), mesh(3, 2))
    side.tell(mesh(2, 2), is_full=True, revision=2)
    assert side.node.entries == {key(2): mesh(2, 2)}
    assert side.node.take_changes() == {key(1), key(3)}


def test_a_device_that_comes_back_keeps_nothing_of_groups_it_left() -> None:
    """M9: what was told of them meanwhile nobody remembers; their tunnels end as the session resumes."""
    side = connected(mesh(1, 2), mesh(2, 2), revision=5)
    side.disconnect()
    side.node.left(key(1))
    assert side.node.peers(key(1)) == (device(2),)
    side.connect()
    assert side.node.entries == {key(2): mesh(2, 2)}


def test_what_is_held_stays_while_another_store_has_not_spoken() -> None:
    """M10: a manager that lost its store ends nothing by being there."""
    side = connected(mesh(1, 2), mesh(2, 2), revision=5)
    side.disconnect()
    side.node.left(key(1))
    side.connect("t")
    assert set(side.node.entries) == {key(1), key(2)}


def test_all_that_is_held_stays_in_force_without_a_manager() -> None:
    """M9, M10: for as long as it takes."""
    side = connected(mesh(1, 2), by_point(2))
    side.disconnect()
    side.run(1e6)
    assert side.node.peers(key(1)) == (device(2),)
    assert side.node.peers(key(2)) == (P1,)


# --- a manager that does not know yet who is there ----------------------------------------------------------


def test_a_manager_that_settles_adds_peers_and_ends_none() -> None:
    """M10: no live tunnel is removed before every device reported."""
    side = connected(mesh(1, 2, 3), mesh(2, 2), revision=900)
    hello(side, "t")
    assert side.tell(mesh(1, 3, 4), mesh(3, 5), removed=(key(2),), is_full=True, merge=True) == Ack(1)
    assert side.node.entries == {key(1): mesh(1, 2, 3, 4), key(2): mesh(2, 2), key(3): mesh(3, 5)}


def test_what_was_merged_is_no_revision_and_ends_with_the_next_full_word() -> None:
    """M10."""
    side = connected(mesh(1, 2, 3), mesh(2, 2), revision=900)
    hello(side, "t")
    side.tell(mesh(1, 3), merge=True, revision=4)
    assert hello(side, "t") == ("", 0)
    assert side.node.peers(key(1)) == (device(2), device(3))
    side.tell(mesh(1, 3), is_full=True, revision=5)
    assert side.node.entries == {key(1): mesh(1, 3)}
    assert hello(side, "t") == ("t", 5)


def test_only_what_another_store_told_is_merged() -> None:
    """M10: this one's newer word replaces its older one, over sessions too."""
    side = connected(mesh(1, 2), revision=900)
    hello(side, "t")
    side.tell(mesh(1, 3), mesh(3, 5), mesh(4, 5), merge=True, revision=3)
    side.tell(mesh(3, 6), removed=(key(4),), merge=True, revision=4)
    assert side.node.entries == {key(1): mesh(1, 2, 3), key(3): mesh(3, 6)}
    hello(side, "t")
    side.tell(mesh(1, 4), mesh(3, 7), merge=True, revision=5)
    assert side.node.entries == {key(1): mesh(1, 2, 3, 4), key(3): mesh(3, 7)}


def test_a_mesh_is_not_added_to_a_point_or_receivers_would_get_two_copies() -> None:
    """M10, M12: it is sent as before, and taken from all."""
    side = connected(by_point(1), by_point(2, P1), mesh(3, 2))
    hello(side, "t")
    side.tell(mesh(1, 2, 3), by_point(2, P2), by_point(3), merge=True)
    assert [side.node.peers(key(n)) for n in (1, 2, 3)] == [(P1,), (P1,), (device(2),)]
    assert side.node.senders() == {P1, P2, device(2), device(3)}
    side.tell(mesh(1, 2, 3), by_point(2, P2), by_point(3), is_full=True)
    assert [side.node.peers(key(n)) for n in (1, 2, 3)] == [(device(2), device(3)), (P2,), (P1,)]


def test_the_list_of_a_point_grows_while_a_manager_settles() -> None:
    """M10."""
    old = Entry(key(1), POINT, (device(1), device(2)), vnis=(5000,))
    side = connected(old, node=ROUTER)
    hello(side, "t")
    side.tell(Entry(key(1), POINT, (device(3),), vnis=(5001,)), merge=True)
    assert side.node.entry(key(1)) == Entry(
        key(1), POINT, (device(1), device(2), device(3)), vnis=(5000, 5001)
    )


# --- what is stored -----------------------------------------------------------------------------------------


def test_only_what_differs_is_stored_and_nothing_twice() -> None:
    side = connected(mesh(1, 2), mesh(2, 2))
    assert side.node.take_stored() is None
    side.tell(mesh(1, 3), removed=(key(2),), revision=2)
    update = side.node.take_stored()
    assert update is not None
    assert update.entries == {key(1): mesh(1, 3), key(2): None}
    assert (update.store, update.revision, update.is_all) == ("s", 2, False)
    assert side.node.take_stored() is None
    side.tell(revision=3)
    update = side.node.take_stored()
    assert update is not None
    assert (update.revision, update.entries, update.groups) == (3, {}, {})


def test_second_information_is_stored_when_it_differs() -> None:
    """D3, D4: a join that is none costs no write."""
    side = connected(mesh(1, 2))
    side.node.joined(key(1))
    assert side.node.take_stored() is None
    side.node.joined(key(2), (5000,))
    side.node.left(key(1))
    update = side.node.take_stored()
    assert update is not None
    assert update.groups == {key(1): None, key(2): Group(key(2), (5000,))}
    assert update.entries == {}


def test_after_a_write_that_failed_all_is_stored_again() -> None:
    side = connected(mesh(1, 2), mesh(2, 2))
    side.node.store_again()
    update = side.node.take_stored()
    assert update is not None
    assert update.is_all
    assert set(update.entries) == {key(1), key(2)} == set(update.groups)


def test_stored_tunnels_are_in_force_from_the_start() -> None:
    """M9, M10: all of them are changes then; but those that the bounds of today refuse."""
    held = Held("s", 7, {key(1): mesh(1, 2), key(2): mesh(2, *range(2, 9))})
    side = Side(TOR, Bounds(max_peers_per_group=3), held)
    assert side.node.entries == {key(1): mesh(1, 2)}
    assert side.node.take_changes() == {key(1)}
    assert side.node.take_senders_changed()
    update = side.node.take_stored()
    assert update is not None
    assert (update.store, update.entries) == ("", {key(2): None})

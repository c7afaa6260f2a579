"""The shrink hold-down: most tunnels gone at once are not believed for a while."""

from __future__ import annotations

from ctrl.roles.holding import FEW
from ctrl.roles.tunnels import Bounds
from ctrl.rpc.messages import Ack
from ctrl.store.held import Held
from ctrl.topology.entry import POINT, Entry
from tests.unit.instructed import ROUTER, Side, connected, device, key, mesh, put

MANY = 2 * FEW
SHRINK = Bounds(shrink_hold_s=30.0)


def full(n: int = MANY) -> Side:
    return connected(*(mesh(one, 2) for one in range(n)), bounds=SHRINK)


def has_peers(side: Side) -> int:
    return sum(bool(entry.peers) for entry in side.node.entries.values())


def test_most_tunnels_gone_at_once_are_not_believed_for_a_while() -> None:
    """M10: nor is a full state that has none, and it is logged once."""
    side = full()
    assert side.tell(is_full=True, revision=2) == Ack(2)
    assert has_peers(side) == MANY
    assert len(side.node.held_down) == MANY
    assert side.node.take_notes() == [f"shrink held_down={MANY} of={MANY} for_s=30"]
    assert side.node.take_changes() == set()
    side.run(29.9)
    assert has_peers(side) == MANY
    side.run(0.2)
    assert has_peers(side) == 0
    assert side.node.take_changes() == {key(n) for n in range(MANY)}
    assert side.node.take_notes() == [f"shrink followed={MANY}"]


def test_tunnel_interfaces_that_get_empty_are_held_down_as_those_that_are_removed() -> None:
    side = full()
    side.tell(*(mesh(n) for n in range(MANY)), revision=2)
    assert has_peers(side) == MANY
    side.run(31)
    assert side.node.entry(key(1)) == mesh(1)


def test_half_of_the_tunnels_or_a_few_go_at_once() -> None:
    side = full()
    side.tell(removed=tuple(key(n) for n in range(MANY // 2)), revision=2)
    assert has_peers(side) == MANY // 2
    side.tell(is_full=True, revision=3)
    assert len(side.node.held_down) == MANY // 2
    few = full(FEW - 1)
    few.tell(is_full=True, revision=2)
    assert has_peers(few) == 0


def test_a_newer_word_takes_the_place_of_a_held_one() -> None:
    side = full()
    side.tell(is_full=True, revision=2)
    side.tell(mesh(1, 3), removed=(key(2),), revision=3)
    assert side.node.peers(key(1)) == (device(3),)
    assert side.node.peers(key(2)) == (device(2),)  # the same word again: its time goes on
    side.run(31)
    assert side.node.entries == {key(1): mesh(1, 3)}


def test_the_same_loss_said_again_and_again_is_followed_in_time() -> None:
    side = full()
    for revision in range(2, 12):
        side.tell(is_full=True, revision=revision)
        side.run(3.0)
    assert has_peers(side) == 0


def test_what_else_a_batch_says_counts_at_once() -> None:
    side = full()
    side.tell(mesh(1, 3), mesh(100, 4), is_full=True, revision=2)
    assert side.node.peers(key(1)) == (device(3),)
    assert side.node.peers(key(100)) == (device(4),)
    assert len(side.node.held_down) == MANY - 1


def test_who_leaves_its_groups_loses_their_tunnels_without_delay() -> None:
    side = full()
    for n in range(MANY):
        side.node.left(key(n))
    side.tell(removed=tuple(key(n) for n in range(MANY)), revision=2)
    assert side.node.entries == {}
    again = full()
    again.tell(is_full=True, revision=2)
    again.node.left(key(3))
    assert set(again.node.entries) == {key(n) for n in range(MANY) if n != 3}


def test_a_point_holds_down_the_loss_of_its_lists_too() -> None:
    lists = [Entry(key(n), POINT, (device(1), device(2))) for n in range(MANY)]
    side = connected(*lists, node=ROUTER, bounds=SHRINK)
    side.tell(is_full=True, revision=2)
    assert has_peers(side) == MANY


def test_what_is_held_down_is_asked_for_again_after_a_restart() -> None:
    """The file has what is in force, so it claims no revision."""
    side = full()
    disk = Held("s", 1, dict(side.node.entries), dict(side.node.groups))
    side.tell(is_full=True, revision=2)
    disk = put(disk, side.node.take_stored())
    assert (disk.store, disk.revision, len(disk.entries)) == ("", 0, MANY)
    side.run(31)
    disk = put(disk, side.node.take_stored())
    assert (disk.store, disk.revision, len(disk.entries)) == ("s", 2, 0)


def test_without_a_hold_a_loss_is_followed_at_once() -> None:
    side = connected(*(mesh(n, 2) for n in range(MANY)), bounds=Bounds(shrink_hold_s=0))
    side.tell(is_full=True, revision=2)
    assert side.node.entries == {}

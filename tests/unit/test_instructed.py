"""What a node says to its manager: who it is, its second information, and what it has of its instructions."""

from __future__ import annotations

import pytest

from ctrl.rpc.messages import (
    Ack,
    Group,
    Groups,
    Hello,
    Instructions,
    Keepalive,
    Moved,
    PointState,
    Refused,
    Resend,
    Welcome,
)
from ctrl.store.held import Held
from tests.unit.instructed import OURS, P1, TOR, Side, by_point, connected, device, key, mesh, put


def test_a_session_begins_with_who_we_are_and_all_our_groups() -> None:
    side = Side()
    side.node.joined(key(1), (5000, 5001))
    side.node.joined(key(2), (), (6000,))
    hello, groups = side.connect()
    assert hello == Hello(TOR)
    assert isinstance(groups, Groups)
    assert groups.is_full
    assert not groups.more
    assert set(groups.added) == {Group(key(1), (5000, 5001)), Group(key(2), (), (6000,))}


def test_a_node_without_groups_says_that_it_has_none() -> None:
    _, groups = Side().connect()
    assert groups == Groups(1, is_full=True)


def test_full_state_goes_in_parts_of_4096_groups() -> None:
    side = Side()
    for n in range(9000):
        side.node.joined(key(n))
    _, *parts = side.connect()
    assert all(isinstance(part, Groups) and part.is_full for part in parts)
    assert [(len(part.added), part.more) for part in parts if isinstance(part, Groups)] == [
        (4096, True),
        (4096, True),
        (808, False),
    ]
    assert len({part.revision for part in parts if isinstance(part, Groups)}) == 1


def test_the_first_nve_of_a_group_is_told_once_and_the_last_that_leaves_too() -> None:
    """D3, D4: by what differs from what was said last, on top of its revision."""
    side = connected()
    side.node.joined(key(1), (5000,))
    (first,) = side.said()
    assert first == Groups(2, (Group(key(1), (5000,)),), base=1)
    side.node.joined(key(1), (5000,))
    assert side.said() == []
    side.node.left(key(1))
    assert side.said() == [Groups(3, gone=(key(1),), base=2)]
    side.node.left(key(1))
    assert side.said() == []


def test_another_network_of_a_group_is_a_change_of_it() -> None:
    """M13: one entry of the second information, with all its VNIs."""
    side = connected()
    side.node.joined(key(1), (5000,))
    side.said()
    side.node.joined(key(1), (5000, 5001))
    assert side.said() == [Groups(3, (Group(key(1), (5000, 5001)),), base=2)]


def test_who_joins_and_leaves_between_two_messages_has_changed_nothing() -> None:
    """D3, D16."""
    side = connected(mesh(1, 2))
    side.node.joined(key(2))
    side.node.left(key(2))
    side.node.left(key(1))
    side.node.joined(key(1))
    assert side.said() == []


def test_a_large_difference_goes_in_parts_each_on_top_of_the_one_before() -> None:
    side = connected()
    for n in range(5000):
        side.node.joined(key(n))
    parts = [one for one in side.said() if isinstance(one, Groups)]
    assert [(part.base, part.revision, len(part.added)) for part in parts] == [(1, 2, 4096), (2, 3, 904)]


def test_all_is_said_again_when_the_manager_asks_and_once_only() -> None:
    """D16."""
    side = connected(mesh(1, 2))
    side.hear(Resend())
    side.hear(Resend())
    side.node.joined(key(2))
    (full,) = side.said()
    assert isinstance(full, Groups)
    assert full.is_full
    assert [group.key for group in full.added] == [key(1), key(2)]
    assert side.said() == []


def test_what_changed_while_no_manager_was_there_is_in_the_next_full_state() -> None:
    """D16: under a revision of its own."""
    side = connected(mesh(1, 2))
    side.disconnect()
    side.node.joined(key(2))
    side.node.left(key(1))
    assert side.said() == []
    _, full = side.connect()
    assert full == Groups(3, (Group(key(2)),), is_full=True)


def test_packets_time_and_the_same_instructions_again_say_nothing_but_keepalives() -> None:
    """D16: nothing is sent to the manager per packet."""
    side = connected(mesh(1, 2))
    side.node.peers(key(1))
    side.node.senders()
    said = []
    for _ in range(10):
        said += side.run(5.0)
        side.hear(Keepalive(1))
    assert said == [Keepalive(2)] * 5


def test_a_node_names_the_revision_of_what_it_said_last_as_often_as_it_was_asked_to() -> None:
    side = Side()
    side.connect(keepalive_s=3.0)
    side.node.joined(key(1))
    side.said()
    assert side.run(8.9) == [Keepalive(2), Keepalive(2)]


def test_a_manager_that_names_instructions_that_did_not_come_hears_which_did() -> None:
    side = connected(mesh(1, 2))
    side.hear(Keepalive(1))
    assert side.said() == []
    side.hear(Keepalive(2))
    assert side.said() == [Ack(1)]


def test_instructions_half_arrived_are_not_missing() -> None:
    side = connected(mesh(1, 2))
    side.hear(Instructions(2, 2, (mesh(2, 2),), more=True))
    side.hear(Keepalive(2))
    assert side.said() == []


def test_a_manager_that_says_nothing_is_left_after_three_keepalives() -> None:
    side = Side()
    side.connect(keepalive_s=2.0)
    side.run(5.9)
    assert side.node.take_ending() is None
    side.run(0.2)
    assert side.node.take_ending() == "the manager said nothing for 6 s"
    assert side.node.take_ending() is None


def test_a_manager_that_never_answers_is_left() -> None:
    side = Side()
    side.node.connected(side.at_s)
    side.run(31.0)
    assert side.node.take_ending() == "the manager said nothing for 30 s"


@pytest.mark.parametrize("message", [Instructions(1, 1, (mesh(1, 2),)), Resend(), Keepalive(4)])
def test_a_manager_that_does_not_say_who_it_is_is_not_listened_to(message: Instructions) -> None:
    side = Side()
    side.node.connected(side.at_s)
    side.hear(message)
    assert "before its Welcome" in (side.node.take_ending() or "")
    assert side.node.entry(key(1)) is None


@pytest.mark.parametrize("keepalive_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_keepalive_that_is_no_time_ends_the_session(keepalive_s: float) -> None:
    side = Side()
    side.node.connected(side.at_s)
    side.hear(Welcome("m1", "s", keepalive_s))
    assert "keepalive" in (side.node.take_ending() or "")


def test_what_is_said_without_a_session_is_nobodys() -> None:
    side = connected(mesh(1, 2))
    side.disconnect()
    side.hear(Instructions(2, 2, (mesh(1, 3),)))
    assert side.node.peers(key(1)) == (device(2),)
    assert side.said() == []
    assert side.node.take_ending() is None


def test_the_next_session_hears_what_is_held_and_which_points_are_down() -> None:
    side = connected(by_point(1), revision=44)
    side.node.set_point_state(P1, is_up=False, now_s=side.at_s)
    side.disconnect()
    hello, _, state = side.connect()
    assert hello == Hello(TOR, "s", 44)
    assert state == PointState(P1, is_up=False)


def test_groups_that_the_manager_refuses_are_known_until_they_are_left() -> None:
    side = connected(mesh(1, 2), mesh(2, 2))
    side.hear(Refused(((key(1), "groups_full"), (key(2), "devices_full"), (key(3), "groups_full"))))
    assert side.node.groups_refused == {key(1): "groups_full", key(2): "devices_full"}
    side.node.left(key(1))
    assert side.node.groups_refused == {key(2): "devices_full"}


def test_nves_that_moved_are_taken_once_however_often_they_are_named() -> None:
    """D19."""
    side = connected()
    side.hear(Moved((device(50), device(51))))
    side.hear(Moved((device(51),)))
    assert side.node.take_moved() == [device(50), device(51)]
    assert side.node.take_moved() == []


def test_the_groups_from_before_a_restart_count_until_the_first_queries_are_answered() -> None:
    """D16, M9: a restart takes the device out of no group that its NVEs are still in."""
    before = connected(mesh(1, 2), mesh(2, 2))
    before.node.store_again()
    held = put(Held(), before.node.take_stored())

    side = Side(held=held)
    hello, full = side.connect()
    assert hello == Hello(TOR, "s", 1)
    assert isinstance(full, Groups)
    assert {group.key for group in full.added} == {key(1), key(2)}
    side.node.joined(key(2))
    assert side.said() == []
    side.node.confirm()
    assert side.said() == [Groups(2, gone=(key(1),), base=1)]
    assert OURS not in side.node.senders()

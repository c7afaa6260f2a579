"""What a node holds of its instructions: the tunnels in force, its bounds, the points that do not answer."""

from __future__ import annotations

from ipaddress import ip_network
from random import Random

import pytest

from ctrl.roles.tunnels import REFUSALS, Bounds
from ctrl.rpc.messages import Ack, Instructions, Keepalive, PointState
from ctrl.topology.entry import MESH, POINT, Entry
from tests.unit.instructed import OURS, P1, P2, ROUTER, Side, address, by_point, connected, device, key, mesh


def test_an_instruction_sets_a_tunnel_replaces_it_and_removes_it() -> None:
    """D8: and the node says so, by number."""
    side = connected(mesh(9, 3))
    for revision, entry in enumerate((mesh(1, 2, 3), mesh(1, 3, 4)), start=2):
        assert side.tell(entry, revision=revision) == Ack(revision)
        assert side.node.entry(key(1)) == entry
        assert side.node.take_changes() == {key(1)}
    assert side.tell(removed=(key(1),), revision=4) == Ack(4)
    assert side.node.entry(key(1)) is None
    assert side.node.peers(key(1)) == ()
    assert side.node.take_changes() == {key(1)}
    assert side.node.peers(key(9)) == (device(3),)


def test_the_same_instruction_again_changes_nothing() -> None:
    """D8: set, replace and remove are idempotent."""
    side = connected(mesh(1, 2))
    assert side.tell(mesh(1, 2), removed=(key(7),)) == Ack(2)
    assert side.node.take_changes() == set()
    assert side.node.take_stored() is None
    assert not side.node.take_senders_changed()
    assert side.tell(mesh(1, 2), is_full=True) == Ack(3)
    assert side.node.take_changes() == set()


def test_a_group_of_one_device_has_an_entry_without_tunnels() -> None:
    """M4, M5: as the last but one leaves, the tunnel interface of the other is empty."""
    side = connected(mesh(1, 2))
    side.tell(mesh(1), revision=2)
    assert side.node.peers(key(1)) == ()
    assert side.node.take_changes() == {key(1)}


def test_a_mesh_sends_to_every_other_device_and_by_a_point_to_the_point_alone() -> None:
    """D11."""
    others = range(2, 40)
    side = connected(mesh(1, *others), by_point(2, backup=tuple(map(device, others))))
    assert side.node.peers(key(1)) == tuple(map(device, others))
    assert side.node.peers(key(2)) == (P1,)


def test_packets_are_taken_from_all_that_an_entry_names_and_from_nobody_else() -> None:
    """D12: peers, who stands in for them, the points of a switch, other points."""
    entry = Entry(key(1), MESH, (device(2),), (device(3),), (device(4),), (device(5),))
    side = connected(entry)
    assert side.node.senders() == {device(2), device(3), device(4), device(5)}
    side.tell(removed=(key(1),))
    assert side.node.senders() == set()
    assert side.node.take_senders_changed()


def test_a_sender_stays_one_until_the_last_entry_that_names_it_is_gone() -> None:
    """D12: whatever the order, it is what all entries together name."""
    random = Random(8)
    side = connected(bounds=Bounds(shrink_hold_s=0))
    for revision in range(2, 300):
        n = random.randrange(12)
        if random.random() < 0.3:
            side.tell(removed=(key(n),), revision=revision)
        else:
            a, b, c, d = (tuple(map(device, random.sample(range(2, 9), random.randrange(4)))) for _ in "four")
            side.tell(Entry(key(n), random.choice((MESH, POINT)), a, b, c, d), revision=revision)
        entries = side.node.entries.values()
        named = {one for e in entries for one in (*e.peers, *e.backup, *e.accept, *e.onward)}
        assert side.node.senders() == named
        assert side.node.points() == {one for e in entries if e.via == POINT for one in e.peers}


def test_who_is_a_sender_too_from_now_on_changes_no_copies() -> None:
    """M12: to take packets from a point before anyone sends by it costs no new list."""
    side = connected(mesh(1, 2))
    side.tell(mesh(1, 2)._replace(accept=(P1,)), revision=2)
    assert side.node.take_changes() == set()
    assert side.node.take_senders_changed()
    assert P1 in side.node.senders()


def test_parts_count_all_at_once_with_the_last() -> None:
    """R1: a replacement is atomic."""
    side = connected(mesh(1, 2), mesh(2, 2))
    side.hear(Instructions(2, 2, (mesh(1, 3),), is_full=True, more=True))
    assert side.said() == []
    assert side.node.peers(key(1)) == (device(2),)
    side.hear(Instructions(2, 2, (mesh(3, 3),), is_full=True))
    assert side.said() == [Ack(2)]
    assert side.node.entries == {key(1): mesh(1, 3), key(3): mesh(3, 3)}


def test_parts_of_a_batch_that_is_not_finished_end_with_the_session() -> None:
    side = connected(mesh(1, 2), mesh(2, 2))
    side.hear(Instructions(2, 2, (mesh(1, 3),), more=True))
    side.disconnect()
    side.connect()
    side.hear(Instructions(2, 2, (mesh(2, 4),)))
    assert side.node.entries == {key(1): mesh(1, 2), key(2): mesh(2, 4)}


# --- bounds -------------------------------------------------------------------------------------------------

INSIDE = Bounds(peers_from=(ip_network("10.1.0.0/16"), ip_network("2001:db8::/32")), max_peers_per_group=3)


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        (Entry(key(1), MESH, (device(2), OURS)), "own_address_as_peer"),
        (Entry(key(1), POINT, (P1,)), "peer_not_allowed"),
        (Entry(key(1), MESH, (device(2),), accept=(P1,)), "peer_not_allowed"),
        (Entry(key(1), MESH, (device(2),), backup=(P1,)), "peer_not_allowed"),
        (Entry(key(1), MESH, (device(2),), onward=(P1,)), "peer_not_allowed"),
        (mesh(1, 2, 3, 4, 5), "peers_full"),
        (mesh(1, 2)._replace(backup=tuple(map(device, range(3, 7)))), "peers_full"),
        (mesh(1, 2)._replace(accept=tuple(map(device, range(3, 10)))), "peers_full"),
        (mesh(1, 2, 3, 2), "peer_twice"),
        (Entry(key(1), MESH, (address("2001:db8::1"),)), "not_a_peer"),
        (Entry(key(1), MESH, (address("239.1.1.1"),)), "not_a_peer"),
        (Entry(key(1), MESH, (address("0.0.0.0"),)), "not_a_peer"),
        (Entry(key(1), MESH, (b"\x0a\x01\x02",)), "not_a_peer"),
        (Entry(key(1), "pigeon", (device(2),)), "unknown_via"),
    ],
)
def test_an_entry_out_of_bounds_is_refused_by_name_and_what_stood_stays(entry: Entry, name: str) -> None:
    side = connected(mesh(1, 7), mesh(2, 7), bounds=INSIDE)
    ack = side.tell(entry, mesh(2, 8), revision=2)
    assert ack == Ack(2, ((key(1), name),))
    assert side.node.peers(key(1)) == (device(7),)
    assert side.node.peers(key(2)) == (device(8),)
    assert side.node.refusals == {name: 1}
    assert side.node.refused == {key(1): name}
    assert side.node.take_notes() == [f"instructions refused={name}"]
    assert REFUSALS[name].endswith(".")


def test_a_refusal_is_said_again_with_the_same_instructions() -> None:
    """M12: or a switch would count on what is not in force."""
    side = connected(mesh(1, 7), bounds=INSIDE)
    refused = side.tell(by_point(1), revision=2)
    side.hear(Instructions(2, 2, (by_point(1),)))
    side.hear(Keepalive(3))
    assert refused == Ack(2, ((key(1), "peer_not_allowed"),))
    assert side.said() == [refused, refused]


def test_a_refusal_is_over_with_the_next_word_that_is_in_bounds() -> None:
    side = connected(mesh(1, 7), bounds=INSIDE)
    side.tell(by_point(1), revision=2)
    side.tell(mesh(1, 6), revision=3)
    assert side.node.refused == {}
    assert side.node.peers(key(1)) == (device(6),)
    side.tell(by_point(5), revision=4)
    assert side.node.refused == {key(5): "peer_not_allowed"}
    side.tell(removed=(key(5),), revision=5)
    assert side.node.refused == {}
    side.tell(by_point(5), revision=6)
    side.tell(mesh(2, 6), revision=7, is_full=True)
    assert side.node.refused == {}
    assert side.node.take_notes() == ["instructions refused=peer_not_allowed"]  # the first time alone


def test_what_was_refused_is_asked_for_again_with_the_next_session() -> None:
    """So that wider bounds after a restart let it in."""
    side = connected(mesh(1, 7), bounds=INSIDE, revision=5)
    side.tell(by_point(1), revision=6)
    side.disconnect()
    hello, *_ = side.connect()
    assert (hello.store, hello.revision) == ("", 0)  # type: ignore[union-attr]


def test_more_groups_than_the_bound_are_refused_and_counted() -> None:
    side = connected(mesh(1, 2), bounds=Bounds(max_groups=3))
    ack = side.tell(mesh(2, 2), mesh(3, 2), mesh(4, 2), revision=2)
    assert ack == Ack(2, ((key(4), "tunnels_full"),))
    assert len(side.node.entries) == 3
    ack = side.tell(mesh(4, 2), removed=(key(1),), revision=3)
    assert ack == Ack(3)
    assert len(side.node.entries) == 3


def test_endless_parts_cost_no_more_than_the_bound() -> None:
    side = connected(bounds=Bounds(max_groups=3))
    for n in range(0, 100, 10):
        entries = tuple(mesh(one, 2) for one in range(n, n + 10))
        side.hear(Instructions(2, 2, entries, is_full=True, more=n < 90))
    assert len(side.node.entries) == 3
    assert side.node.refusals == {"tunnels_full": 97}
    assert side.node.refused == {}
    side.disconnect()
    hello, *_ = side.connect()
    assert hello.store == ""  # type: ignore[union-attr]


def test_an_own_address_of_a_point_is_neither_of_its_two() -> None:
    """W7: AR-IP and IR-IP."""
    side = connected(node=ROUTER)
    assert side.tell(Entry(key(1), POINT, (P1,))) == Ack(2, ((key(1), "own_address_as_peer"),))
    assert side.tell(Entry(key(1), POINT, (ROUTER.replicate,))) == Ack(3, ((key(1), "own_address_as_peer"),))


# --- points -------------------------------------------------------------------------------------------------


def test_a_point_that_does_not_answer_is_passed_by_at_once_and_told_of() -> None:
    """R9, framework 3.4: to the next point, or to all devices; and back as it answers."""
    side = connected(by_point(1, backup=(P2,)), by_point(2, backup=(device(2),)), by_point(3, P2), mesh(4, 2))
    assert side.node.points() == {P1, P2}
    side.node.set_point_state(P1, is_up=False, now_s=side.at_s)
    assert [side.node.peers(key(n)) for n in (1, 2, 3, 4)] == [(P2,), (device(2),), (P2,), (device(2),)]
    assert side.node.take_changes() == {key(1), key(2)}
    assert side.said() == [PointState(P1, is_up=False)]
    assert side.node.down == {P1}
    side.node.set_point_state(P1, is_up=True, now_s=side.at_s)
    assert side.node.peers(key(1)) == (P1,)
    assert side.node.take_changes() == {key(1), key(2)}
    assert side.said() == [PointState(P1, is_up=True)]


def test_the_state_of_a_point_is_news_once() -> None:
    side = connected(by_point(1, backup=(P2,)))
    side.node.set_point_state(P1, is_up=True, now_s=side.at_s)
    assert side.said() == []
    for _ in range(3):
        side.node.set_point_state(P1, is_up=False, now_s=side.at_s)
    assert len(side.said()) == 1


def test_a_point_without_a_stand_in_is_sent_to_all_the_same() -> None:
    side = connected(by_point(1))
    side.node.set_point_state(P1, is_up=False, now_s=side.at_s)
    assert side.node.peers(key(1)) == (P1,)


def test_a_point_that_serves_us_no_more_is_not_remembered_as_down() -> None:
    side = connected(by_point(1, backup=(P2,)))
    side.node.set_point_state(P1, is_up=False, now_s=side.at_s)
    side.tell(by_point(1, P2, backup=(device(2),)), revision=2)
    assert side.node.points() == {P2}
    side.tell(by_point(1, P1, backup=(device(2),)), revision=3)
    assert side.node.peers(key(1)) == (P1,)
    side.node.set_point_state(P2, is_up=False, now_s=side.at_s)
    assert side.node.down == set()


def test_a_point_sends_to_its_list_and_probes_nobody() -> None:
    """M6, R1."""
    entry = Entry(key(1), POINT, (device(1), device(2)), vnis=(5000,), vsids=(6000,))
    side = connected(entry, node=ROUTER)
    assert side.node.peers(key(1)) == (device(1), device(2))
    assert side.node.points() == set()
    assert side.node.senders() == {device(1), device(2)}


def test_another_network_of_a_list_is_a_change_of_it() -> None:
    """R2, D14: by it a point finds the list of a packet that was rewritten."""
    entry = Entry(key(1), POINT, (device(1), device(2)), vnis=(5000,))
    side = connected(entry, node=ROUTER)
    side.tell(entry._replace(vnis=(5000, 5001)), revision=2)
    assert side.node.take_changes() == {key(1)}


def test_the_ranges_that_a_point_serves_alone_are_kept_until_others_are_said() -> None:
    """R7, M7."""
    side = connected(node=ROUTER)
    side.tell(vnis=((5000, 5999),), revision=2)
    assert list(side.node.vnis) == [(5000, 5999)]
    assert side.node.take_vnis_changed()
    side.tell(mesh(1, 2), revision=3)
    assert list(side.node.vnis) == [(5000, 5999)]
    assert not side.node.take_vnis_changed()
    side.tell(vnis=(), revision=4)
    assert list(side.node.vnis) == []
    assert side.node.take_vnis_changed()


def test_peers_that_many_groups_share_are_one_object() -> None:
    side = Side()
    side.connect()
    side.tell(*(Entry(key(n), MESH, tuple(bytes(bytearray(device(2))) for _ in range(1))) for n in range(50)))
    assert len({id(entry.peers) for entry in side.node.entries.values()}) == 1

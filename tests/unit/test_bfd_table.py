"""Many BFD sessions of one address: who may have one, bounds, pace, agenda; pairs of tables under loss."""

from __future__ import annotations

import random
from math import inf
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctrl.protocols import bfd
from ctrl.protocols.bfd import Packet, State
from ctrl.protocols.bfd_table import FORGOTTEN_AFTER_S, LATE_S, MIN_TTL, SWEPT_EVERY_S, Settings, Table

DELAY_S = 0.001
ASKS = Packet(State.DOWN, 99)


def table(is_allowed=None, seed=1, **named):
    return Table(Settings(**named), random.Random(seed).random, is_allowed, 0.0)


def hear(one, packet, peer="p", now_s=0.0, ttl=255):
    one.hear(bfd.write(packet), peer, ttl, now_s)


def answers(one):
    return [(peer, bfd.read(data)) for peer, data in one.take_packets()]


class Pair:
    """A device and a point with a wire between them: `passes(now_s, sender)` says which packets arrive."""

    def __init__(self, passes=lambda now_s, sender: True, seed=1, **named):
        self.device = table(None, seed, **named)
        self.point = table(lambda peer: True, seed + 1, **named)
        self.passes = passes
        self.now_s = 0.0
        self.changes: list[tuple[float, bool]] = []
        self.dead: set[str] = set()
        self.heard_s = {"device": 0.0, "point": 0.0}
        self.watch = lambda: None
        """Called after each event."""
        self._wire: list[tuple[float, str, bytes]] = []
        self.device.want({"point"}, 0.0)

    def run(self, until_s):
        tables = {"device": self.device, "point": self.point}
        while True:
            living = [one for name, one in tables.items() if name not in self.dead]
            due_s = min([one.deadline_s for one in living] + [one[0] for one in self._wire])
            if due_s > until_s:
                self.now_s = until_s
                return
            self.now_s = max(due_s, self.now_s)
            arriving = [one for one in self._wire if one[0] <= self.now_s]
            self._wire = [one for one in self._wire if one[0] > self.now_s]
            for _, sender, data in arriving:
                receiver = "point" if sender == "device" else "device"
                if receiver not in self.dead:
                    self.heard_s[receiver] = self.now_s
                    tables[receiver].hear(data, sender, 255, self.now_s)
            for name, one in tables.items():
                if name in self.dead:
                    continue
                one.poll(self.now_s)
                self._wire += [
                    (self.now_s + DELAY_S, name, data)
                    for _, data in one.take_packets()
                    if self.passes(self.now_s, name)
                ]
            self.changes += [(self.now_s, is_up) for _, is_up in self.device.take_changes()]
            self.watch()

    def states(self):
        return [row.state for one in (self.device, self.point) for row in one.rows(self.now_s)]


def test_a_device_and_a_point_are_up_within_a_few_packets_and_stay_so():
    pair = Pair()
    pair.run(60)
    [(up_s, is_up)] = pair.changes
    assert is_up
    assert up_s < 5 * DELAY_S
    assert pair.states() == ["up", "up"]
    [row] = pair.device.rows(60)
    assert (row.send_s, row.receive_s, row.detection_s, row.n_downs) == (0.3, 0.3, pytest.approx(0.9), 0)
    assert row.since_s == pytest.approx(60 - up_s)


def test_a_point_that_dies_is_down_within_the_detection_time_and_up_again_when_it_is_back():
    pair = Pair()
    pair.run(10)
    pair.dead = {"point"}
    pair.run(20)
    down_s, is_up = pair.changes[-1]
    assert not is_up
    assert 10 + 0.6 - DELAY_S <= down_s <= 10 + 0.9 + DELAY_S
    pair.point = table(lambda peer: True, 77)  # it knows nothing of before
    pair.dead = set()
    pair.run(25)
    assert pair.changes[-1][1]
    assert pair.changes[-1][0] < 20 + 1 + 5 * DELAY_S


def test_a_point_that_closes_is_down_at_once():
    pair = Pair()
    pair.run(10)
    pair.point.close(10)
    for _, data in pair.point.take_packets():
        pair.device.hear(data, "point", 255, 10.0)
    assert pair.device.take_changes() == [("point", False)]
    assert len(pair.point) == 0


def test_a_point_that_still_hears_a_device_that_does_not_hear_it_is_told():
    pair = Pair()
    pair.run(10)
    pair.passes = lambda now_s, sender: sender == "device"
    pair.run(11.5)
    assert "up" not in pair.states()


LOSSES = st.lists(st.tuples(st.floats(0.05, 3), st.floats(0, 1)), max_size=8)


@settings(max_examples=60, deadline=None)
@given(losses=LOSSES, seed=st.integers(0, 1000))
def test_whatever_is_lost_a_session_falls_only_by_silence_or_word_and_is_up_after_it(losses, seed):
    """Loss by phases of a length and a share; what arrived last, and its word, explain each fall."""
    draw = random.Random(seed).random
    falls = {"device": 0, "point": 0}
    ends, end_s = [], 1.0
    for length_s, share in losses:
        ends.append((end_s, end_s + length_s, share))
        end_s += length_s

    def passes(now_s, sender):
        share = next((share for start, stop, share in ends if start <= now_s < stop), 0)
        return draw() >= share

    def watch():
        for name, one in (("device", pair.device), ("point", pair.point)):
            for row in one.rows(pair.now_s):
                if row.n_downs > falls[name]:
                    falls[name] += 1
                    silent_s = pair.now_s - pair.heard_s[name]
                    assert row.diag == bfd.Diag.PEER_DOWN or silent_s >= 0.9 - 1e-6

    pair = Pair(passes, seed)
    pair.run(1.0)
    assert pair.states() == ["up", "up"]
    pair.watch = watch
    pair.run(end_s + 4)
    assert pair.states() == ["up", "up"], "a second and a handshake after the loss"


@given(packets=st.lists(st.tuples(st.binary(max_size=40), st.sampled_from("pqr"), st.integers(0, 255))))
def test_any_bytes_from_anybody_leave_a_table_in_order(packets):
    one = table(lambda peer: peer != "r", max_sessions=2)
    for n, (data, peer, ttl) in enumerate(packets):
        one.hear(data, peer, ttl, n / 10)
        one.poll(n / 10)
    assert len(one) <= 2
    assert one.deadline_s > (len(packets) - 1) / 10


def test_an_agenda_whose_entries_are_no_more_valid_is_made_anew():
    """A peer that asks now for one packet an hour, now for many, leaves an entry behind each time."""
    one = table(lambda peer: True)
    hear(one, ASKS)
    up = ASKS._replace(state=State.UP, yours=answers(one)[0][1].mine, tx_us=2**32 - 1)
    now_s = 0.0
    for n in range(600):
        now_s += 0.31
        hear(one, up._replace(rx_us=(1, 2**32 - 1)[n % 2]), now_s=now_s)
        one.poll(now_s)
    assert len(one._agenda) <= 4 + 64
    assert one.deadline_s <= min(place.session.deadline_s for place in one._places.values())
    one.take_packets()
    hear(one, up._replace(rx_us=1), now_s=now_s)
    one.poll(now_s + 0.3)
    assert len(answers(one)) == 1, "what is valid is still there"


class Word(NamedTuple):
    after_s: float
    peer: str
    packet: Packet


WORDS = st.builds(
    Word,
    st.sampled_from([0.0, 0.01, 0.3, 2.0]),
    st.sampled_from("pqr"),
    st.builds(
        Packet,
        state=st.sampled_from(State),
        mine=st.integers(1, 3),
        yours=st.sampled_from([0, 0, 1]),  # 1 stands for the session's own
        tx_us=st.sampled_from([0, 1, 300_000, 2**32 - 1]),
        rx_us=st.sampled_from([0, 1, 300_000, 2**32 - 1]),
        multiplier=st.sampled_from([1, 3, 255]),
        poll=st.booleans(),
        final=st.booleans(),
        demand=st.booleans(),
        diag=st.integers(0, 31),
    ),
)


@settings(max_examples=150, deadline=None)
@given(words=st.lists(WORDS, max_size=60), wanted=st.sets(st.sampled_from("pq")))
def test_whatever_peers_say_the_agenda_ends_is_short_and_has_every_session_in_time(words, wanted):
    one = table(lambda peer: peer != "q")
    one.want(wanted, 0.0)
    now_s, n_sent = 0.0, 0
    for word in words:
        now_s += word.after_s
        place = one._places.get(word.peer)
        own = place.session.discriminator if place and word.packet.yours else word.packet.yours
        hear(one, word.packet._replace(yours=own), word.peer, now_s)
        one.poll(now_s)
        n_sent += len(one.take_packets())
        assert one.deadline_s > now_s
        for held in one._places.values():
            assert held.due_s <= held.session.deadline_s
    assert len(one._agenda) <= 4 * len(one) + 64
    assert n_sent <= 2 * len(words) + 3 * (1 + now_s / 0.2), "answers, changes, and the periodic ones"


def test_a_session_is_made_for_a_peer_that_is_allowed_and_asks():
    one = table(lambda peer: peer == "p")
    hear(one, ASKS, "q")
    hear(one, ASKS._replace(state=State.ADMIN_DOWN))
    hear(one, ASKS._replace(state=State.UP, yours=5))
    assert one.refused == {"not_allowed": 1, "unknown_session": 2}
    assert len(one) == 0
    hear(one, ASKS)
    [(peer, packet)] = answers(one)
    assert (peer, packet.state, packet.yours) == ("p", State.INIT, 99)


def test_what_is_wrong_with_a_packet_is_counted_by_its_name():
    one = table(lambda peer: True)
    hear(one, ASKS, ttl=MIN_TTL - 1)
    one.hear(b"", "p", 255, 0.0)
    assert one.refused == {"too_far": 1, "short": 1}
    hear(one, ASKS, ttl=MIN_TTL)
    hear(one, ASKS._replace(yours=1))
    assert one.refused["unknown_session"] == 1


def test_a_point_has_as_many_sessions_as_it_may_and_counts_the_rest():
    one = table(lambda peer: True, max_sessions=3)
    for n in range(5):
        hear(one, ASKS, f"p{n}")
    assert (len(one), one.refused) == (3, {"too_many_sessions": 2})


def test_the_discriminator_of_one_peer_is_of_no_use_to_another():
    one = table(lambda peer: True)
    hear(one, ASKS, "p")
    [(_, packet)] = answers(one)
    hear(one, ASKS, "q")
    hear(one, ASKS._replace(yours=packet.mine, state=State.UP), "q")
    assert one.refused == {"unknown_session": 1}
    assert {row.peer: row.state for row in one.rows(0)} == {"p": "init", "q": "init"}


def test_a_session_whose_peer_is_gone_for_a_while_is_forgotten():
    one = table(lambda peer: True)
    hear(one, ASKS)
    now_s = 0.0
    while len(one):
        now_s = one.deadline_s
        one.poll(now_s)
        assert now_s < 100
    assert FORGOTTEN_AFTER_S <= now_s <= FORGOTTEN_AFTER_S + 3 + SWEPT_EVERY_S
    assert one.deadline_s == inf
    hear(one, ASKS, now_s=now_s)
    assert len(one) == 1


def test_a_peer_that_is_allowed_no_more_is_told_and_its_session_closed():
    allowed = {"p"}
    one = table(allowed.__contains__)
    hear(one, ASKS)
    one.take_packets()
    allowed.clear()
    one.poll(SWEPT_EVERY_S)
    assert len(one) == 0
    assert answers(one)[-1][1].state == State.ADMIN_DOWN


def test_a_peer_that_is_wanted_no_more_is_told_unless_it_may_probe_us():
    one = table(lambda peer: peer == "p")
    one.want({"p", "q"}, 0.0)
    for peer in "pq":
        hear(one, ASKS, peer)
    one.take_packets()
    one.want(set(), 1.0)
    assert [(peer, packet.state) for peer, packet in answers(one)] == [("q", State.ADMIN_DOWN)]
    assert [(row.peer, row.is_wanted) for row in one.rows(0)] == [("p", False)]
    one.want({"p"}, 2.0)
    assert [(row.peer, row.is_wanted) for row in one.rows(0)] == [("p", True)]


def test_wanting_the_same_again_changes_nothing():
    one = table()
    one.want({"p"}, 0.0)
    hear(one, ASKS)
    before = one.rows(0)
    one.want({"p"}, 0.0)
    assert one.rows(0) == before


def test_a_wanted_peer_that_is_up_already_is_told_as_up():
    pair = Pair()
    pair.run(5)
    assert pair.point.take_changes() == []
    pair.point.want({"device"}, 5.0)
    assert pair.point.take_changes() == [("device", True)]


def test_the_more_sessions_the_slower_they_are_asked_to_be():
    one = table(lambda peer: True)
    for n in range(3000):
        hear(one, ASKS, f"p{n}")
        assert len(one) / (0.875 * one.hear_s) < 2001
        assert len(one) / (0.875 * one.send_s) < 8001
    assert one.hear_s <= 1.25 * 3000 / (2000 * 0.875)
    assert one.send_s <= 1.25 * 3000 / (8000 * 0.875) < 0.6
    one.poll(0.0)
    packet = answers(one)[-1][1]
    assert packet.rx_us == round(one.hear_s * 1e6)
    one.poll(60.0)
    one.poll(60.0 + 2 * SWEPT_EVERY_S)
    one.poll(120.0)
    assert len(one) == 0
    assert (one.send_s, one.hear_s) == (0.3, 0.3)


def test_each_step_of_the_pace_is_told_to_sessions_that_are_up():
    pair = Pair(heard_per_s=20)
    pair.run(1)
    for n in range(9):
        hear(pair.point, ASKS, f"other{n}", 1.0)
    assert pair.point.hear_s > 0.3
    pair.run(3)
    [row] = pair.device.rows(3)
    assert (row.state, row.send_s) == ("up", pytest.approx(pair.point.hear_s))
    assert row.receive_s == 0.3, "what tells the device of a dead point stays as it is"
    assert row.n_downs == 0


def test_a_late_turn_takes_nobody_for_dead_and_the_next_in_time_does():
    pair = Pair()
    pair.run(5)
    late_s = 5 + 0.9 + LATE_S + 0.3
    pair.device.poll(late_s)
    assert pair.device.take_changes() == []
    pair.device.poll(pair.device.deadline_s)
    pair.device.poll(late_s + 0.3)
    assert pair.device.take_changes() == [("point", False)]


def test_what_was_not_read_yet_keeps_its_sender_alive():
    pair = Pair()
    pair.run(5)
    while (due_s := pair.device.deadline_s) < 5.85:
        pair.device.poll(due_s)
    pair.device.poll(5.92, is_behind=True)
    assert pair.device.take_changes() == []

"""One BFD session: the state table of RFC 5880 section 6.8.6, detection, polls, what is sent and when."""

from __future__ import annotations

from math import inf

import pytest

from ctrl.protocols import bfd
from ctrl.protocols.bfd import Diag, Packet, State
from ctrl.protocols.bfd_session import Session

OURS, THEIRS = 7, 9
SEND_US, HEAR_US = 300_000, 200_000
ADMIN, DOWN, INIT, UP = State
PEER = Packet(DOWN, THEIRS, OURS, 100_000, 100_000, 3)
TABLE = {
    (DOWN, ADMIN): DOWN, (DOWN, DOWN): INIT, (DOWN, INIT): UP, (DOWN, UP): DOWN,
    (INIT, ADMIN): DOWN, (INIT, DOWN): INIT, (INIT, INIT): UP, (INIT, UP): UP,
    (UP, ADMIN): DOWN, (UP, DOWN): DOWN, (UP, INIT): UP, (UP, UP): UP,
    (ADMIN, ADMIN): ADMIN, (ADMIN, DOWN): ADMIN, (ADMIN, INIT): ADMIN, (ADMIN, UP): ADMIN,
}  # fmt: skip
WAYS: dict[State, tuple[State, ...]] = {ADMIN: (), DOWN: (), INIT: (DOWN,), UP: (DOWN, INIT)}


def make(is_active=True, multiplier=3):
    return Session(OURS, SEND_US, HEAR_US, multiplier, 0.0, is_active=is_active)


def hear(session, packet, now_s):
    session.hear(packet, bfd.write(packet), now_s)


def said(session, now_s, draw=1.0, *, is_behind=False):
    data = session.take(now_s, draw, is_behind=is_behind)
    return None if data is None else bfd.read(data)


def up(is_active=True, multiplier=3, peer=PEER):
    """A session that is up since 1.0, its Poll Sequence over, and what it says told at 1.0."""
    session = make(is_active, multiplier)
    hear(session, peer._replace(state=DOWN), 0.5)
    said(session, 0.5)
    hear(session, peer._replace(state=UP), 1.0)
    assert said(session, 1.0).poll
    hear(session, peer._replace(state=UP, final=True), 1.0)
    return session


@pytest.mark.parametrize(("ours", "theirs"), TABLE)
def test_a_packet_moves_the_session_as_section_6_8_6_has_it(ours, theirs):
    session = make()
    for state in WAYS[ours]:
        hear(session, PEER._replace(state=state), 1.0)
    if ours == ADMIN:
        session.close(1.0)
    assert session.state == ours
    hear(session, PEER._replace(state=theirs), 2.0)
    assert session.state == TABLE[ours, theirs]
    assert session.since_s == (2.0 if ours != TABLE[ours, theirs] else 0.0 if ours == DOWN else 1.0)
    if ours >= INIT and session.state == DOWN:
        assert session.diag == Diag.PEER_DOWN


def test_an_active_session_speaks_first_and_a_passive_one_answers():
    assert said(make(), 0.0) == Packet(DOWN, OURS, 0, 1_000_000, HEAR_US, 3)
    passive = make(is_active=False)
    assert (passive.deadline_s, said(passive, 100.0)) == (inf, None)
    hear(passive, PEER._replace(yours=0), 100.0)
    assert said(passive, 100.0) == Packet(INIT, OURS, THEIRS, 1_000_000, HEAR_US, 3)


def test_while_it_is_not_up_it_sends_once_a_second_at_most():
    session = make()
    said(session, 0.0)
    assert session.deadline_s == 1.0
    assert said(session, 0.999) is None
    hear(session, PEER, 0.5)
    said(session, 0.5)
    assert (session.state, session.send_s) == (INIT, 1.0)
    assert session.deadline_s == 0.5 + 0.6, "what comes first is the peer's silence: three of our 200 ms"


@pytest.mark.parametrize(
    ("multiplier", "draw", "part"), [(3, 0.0, 0.75), (3, 1.0, 1.0), (1, 0.0, 0.75), (1, 1.0, 0.9)]
)
def test_each_interval_is_shortened_by_up_to_a_quarter(multiplier, draw, part):
    """RFC 5880 section 6.8.7; with a multiplier of 1 by a tenth at least."""
    session = up(multiplier=multiplier)
    while said(session, 1.2, draw):
        pass
    said(session, 1.4, draw)
    assert session._next_s == pytest.approx(1.4 + 0.3 * part)


def test_the_slower_of_our_wish_to_send_and_the_peer_s_to_hear_is_the_interval():
    assert up(peer=PEER._replace(rx_us=100_000)).send_s == 0.3
    assert up(peer=PEER._replace(rx_us=900_000)).send_s == 0.9


def test_detection_is_by_the_peer_s_multiplier_and_the_slower_of_its_and_our_interval():
    """Section 6.8.4."""
    assert up(peer=PEER._replace(multiplier=5)).detection_s == pytest.approx(5 * 0.2)
    assert up(peer=PEER._replace(tx_us=400_000)).detection_s == pytest.approx(3 * 0.4)


def test_silence_takes_it_down_tells_the_peer_and_forgets_it():
    session = up()
    assert said(session, 1.59).state == UP
    last = said(session, 1.6)
    assert (last.state, last.diag, last.yours) == (DOWN, Diag.EXPIRED, THEIRS)
    assert (session.is_up, session.n_downs, session.since_s) == (False, 1, 1.6)
    assert said(session, 2.5) is None
    assert said(session, 2.6) == Packet(DOWN, OURS, 0, 1_000_000, HEAR_US, 3, diag=Diag.EXPIRED)


def test_a_passive_session_says_no_more_to_one_it_has_lost():
    """Section 6.8.7: with RemoteDiscr 0 a passive system sends nothing."""
    session = up(is_active=False)
    assert said(session, 1.6).state == DOWN
    assert session.is_idle
    assert session.deadline_s == inf
    assert said(session, 100.0) is None


def test_it_is_up_again_once_the_peer_is_back():
    session = up()
    said(session, 1.6)
    hear(session, PEER._replace(mine=99, yours=0), 5.0)
    assert said(session, 5.0) == Packet(INIT, OURS, 99, 1_000_000, HEAR_US, 3, diag=Diag.EXPIRED)
    hear(session, PEER._replace(mine=99, state=UP), 5.1)
    assert (session.is_up, session.diag, session.n_downs) == (True, Diag.NONE, 1)


def test_nobody_there_is_known_after_a_second_for_each_of_the_multiplier():
    session = make()
    said(session, 2.99)
    assert session.is_up is None
    said(session, 3.0)
    assert session.is_up is False
    assert session.deadline_s == pytest.approx(2.99 + 1.0), "it goes on asking"


def test_a_peer_that_is_administratively_down_is_down_at_once():
    session = up()
    hear(session, PEER._replace(state=ADMIN), 1.1)
    assert (session.state, session.is_up, session.diag) == (DOWN, False, Diag.PEER_DOWN)
    asked = make()
    hear(asked, PEER._replace(state=ADMIN), 1.1)
    assert asked.is_up is False


def test_closing_tells_a_peer_that_is_there_and_nobody_else():
    assert bfd.read(up().close(2.0) or b"") == Packet(
        ADMIN, OURS, THEIRS, 1_000_000, HEAR_US, 3, diag=Diag.ADMIN_DOWN
    )
    assert make().close(2.0) is None


def test_a_poll_is_answered_at_once_and_out_of_turn():
    session = up()
    hear(session, PEER._replace(state=UP, poll=True), 1.25)
    assert session.deadline_s == -inf
    answer = said(session, 1.25)
    assert (answer.final, answer.poll) == (True, False)
    assert said(session, 1.25) is None
    assert session._next_s == pytest.approx(1.0 + 0.3), "the periodic packets do not mind"


def test_changed_intervals_are_polled_until_the_peer_has_answered():
    """Section 6.8.3: slower sending and quicker hearing wait for the Final."""
    session = up()
    said(session, 1.3)
    hear(session, PEER._replace(state=UP), 1.3)
    session.set_pace(400_000, 150_000, 1.3)
    assert (session.send_s, session.receive_s) == (0.3, 0.2)
    for now_s in (1.61, 1.92):
        polled = said(session, now_s)
        assert (polled.poll, polled.tx_us, polled.rx_us) == (True, 400_000, 150_000)
        hear(session, PEER._replace(state=UP), now_s)
    hear(session, PEER._replace(state=UP, final=True), 1.95)
    assert (session.send_s, session.receive_s) == (0.4, 0.15)
    assert not said(session, 2.23).poll


def test_quicker_sending_and_slower_hearing_are_in_force_at_once():
    session = up()
    session.set_pace(100_000, 500_000, 1.1)
    assert (session.send_s, session.receive_s) == (0.1, 0.5)


def test_a_change_during_a_poll_is_polled_after_it():
    session = up()
    session.set_pace(400_000, 300_000, 1.1)
    session.set_pace(600_000, 600_000, 1.1)
    first = said(session, 1.3)
    assert (first.poll, first.tx_us, first.rx_us) == (True, 400_000, 300_000)
    hear(session, PEER._replace(state=UP, final=True), 1.35)
    second = said(session, 1.7)
    assert (second.poll, second.tx_us, second.rx_us) == (True, 600_000, 600_000)
    hear(session, PEER._replace(state=UP, final=True), 1.75)
    assert not said(session, 2.35).poll


def test_a_peer_that_began_anew_is_spoken_to_by_its_new_discriminator():
    session = make()
    hear(session, PEER, 0.5)
    assert said(session, 0.5).yours == THEIRS
    hear(session, PEER._replace(mine=99), 0.8)
    assert (session.state, said(session, 1.5, is_behind=True).yours) == (INIT, 99)


def test_a_peer_in_demand_mode_is_polled_until_it_answers():
    session = up(peer=PEER._replace(demand=True))
    session.set_pace(SEND_US, 500_000, 1.1)
    hear(session, PEER._replace(state=UP, demand=True), 1.2)
    assert session.send_s == 0.3
    assert said(session, 1.31).poll
    hear(session, PEER._replace(state=UP, demand=True, final=True), 1.32)
    assert session.send_s == inf


def test_a_peer_that_wants_more_of_it_gets_more_at_once():
    session = up(peer=PEER._replace(rx_us=5_000_000))
    assert session._next_s == 1.0 + 5.0
    hear(session, PEER._replace(state=UP, rx_us=400_000), 1.1)
    assert session._next_s == pytest.approx(1.4)


@pytest.mark.parametrize("wish", [{"rx_us": 0}, {"demand": True}])
def test_a_peer_that_wants_no_packets_gets_answers_only(wish):
    session = up(peer=PEER._replace(**wish))
    assert session.send_s == inf
    hear(session, PEER._replace(state=UP, poll=True, **wish), 1.1)
    assert said(session, 1.1).final
    assert said(session, 1.2) is None


def test_a_turn_that_is_behind_gives_a_silent_peer_one_more_interval_and_no_more():
    session = up()
    assert said(session, 5.0, is_behind=True).state == UP
    assert session.state == UP
    assert said(session, 5.19, is_behind=True) is None
    assert said(session, 5.2, is_behind=True).state == DOWN
    heard = up()
    said(heard, 5.0, is_behind=True)
    hear(heard, PEER._replace(state=UP), 5.1)
    said(heard, 5.6)
    assert heard.state == UP
    said(heard, 5.7)
    assert heard.state == DOWN


def test_the_same_packet_again_is_known_at_rest_only():
    session = up()
    again = PEER._replace(state=UP)
    assert not session.knows(bfd.write(again), 1.1)
    hear(session, again, 1.1)
    assert session.knows(bfd.write(again), 1.5)
    said(session, 2.09)
    assert session.state == UP
    hear(session, PEER._replace(state=DOWN), 2.1)
    assert not session.knows(bfd.write(PEER._replace(state=DOWN)), 2.1)
    assert not make().knows(b"", 0.0)

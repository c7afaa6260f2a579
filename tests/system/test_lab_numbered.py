"""Numbered frames: what the reader says of lost and doubled ones, and of silence, is so."""

import shutil
import socket
import time
from collections.abc import Iterator
from functools import partial

import pytest

from ctrl.lab.namespaces import Namespace, connect, missing
from ctrl.lab.numbered import DISCARD, Heard, Numbered, hearing, sending
from tests.system.lab import Lab, has_carrier, roomy, wait_for

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
NEEDS_NFT = pytest.mark.skipif(
    shutil.which("nft") is None, reason="nft missing: PEERS=1 scripts/setup-system.sh"
)
EVERYBODY = "192.168.9.255"


@pytest.fixture
def boxes() -> Iterator[list[Namespace]]:
    """Two boxes and a wire."""
    with Lab("numbered") as lab:
        made = [lab.box("left"), lab.box("right")]
        connect(made[0], "eth0", made[1], "eth0")
        for n, box in enumerate(made):
            box.address("eth0", f"192.168.9.{n + 1}/24")
            wait_for(partial(has_carrier, box, "eth0"), "the wire")
        yield made


def numbered(left: Namespace, right: Namespace) -> Numbered:
    return Numbered(left.run(sending), EVERYBODY, {"right": right.run(hearing, "eth0")}, 500.0)


def flows(*streams: Numbered) -> None:
    """Return when each has sent some more."""
    for stream in streams:
        before = stream.sent
        wait_for(lambda: stream.sent > before + 40, "more are sent")  # noqa: B023


def test_all_is_heard_once_while_nothing_happens_and_what_others_send_is_not_counted(boxes: list[Namespace]):
    with numbered(*boxes) as one, numbered(*boxes) as other:
        flows(one, other)
    for stream in (one, other):
        assert sorted(stream.heard["right"].numbers) == list(range(stream.sent))
        assert stream.heard["right"].doubled == 0
        assert stream.heard["right"].silence_s < 1.0


@NEEDS_NFT
def test_what_is_lost_is_missing_and_a_silence_is_as_long_as_it_was(boxes: list[Namespace]):
    left, right = boxes
    with numbered(left, right) as stream:
        flows(stream)
        right.command("nft", "add table netdev cut; add chain netdev cut drops "
                      "{ type filter hook ingress device eth0 priority 0; policy drop; }")  # fmt: skip
        time.sleep(0.3)
        flows(stream)
        right.command("nft", "delete table netdev cut")
        flows(stream)
    heard = stream.heard["right"]
    n_lost = stream.sent - len(heard.numbers)
    assert n_lost > 30
    assert {0, stream.sent - 1} <= heard.numbers.keys()
    assert 0.25 < heard.silence_s < 0.3 + n_lost / 100


def test_what_comes_twice_is_counted_as_doubled(boxes: list[Namespace]):
    """The kernel of the right box hands each frame to all who listen; here one is sent by hand again."""
    left, right = boxes
    with numbered(left, right) as stream:
        time.sleep(0.1)
        ear = right.run(hearing, "eth0")
        again = ear.recv(64)
        ear.close()
        with left.run(sending) as hand:
            hand.sendto(again, (EVERYBODY, DISCARD))
    assert stream.heard["right"].doubled == 1
    assert len(stream.heard["right"].numbers) == stream.sent


def test_the_longest_silence_counts_be_it_before_the_first_or_later():
    for begin_s, silence_s in ((4.5, 1.5), (3.0, 2.0)):
        heard = Heard(begin_s)
        for number, at_s in enumerate((5.0, 5.5, 7.0, 7.1)):
            heard.take(number, at_s)
        assert heard.silence_s == silence_s


def test_it_ends_and_gives_its_sockets_back_when_who_entered_it_fails(boxes: list[Namespace]):
    left, right = boxes
    sender, ear = left.run(sending), right.run(hearing, "eth0")
    with pytest.raises(ZeroDivisionError), Numbered(sender, EVERYBODY, {"right": ear}, 500.0):
        raise ZeroDivisionError
    assert [one.fileno() for one in (sender, ear)] == [-1, -1]


def test_what_comes_while_nobody_reads_is_kept_and_what_found_no_room_is_told(boxes: list[Namespace]):
    """A thread of a busy machine stands still for a second now and then."""
    left, right = boxes
    with left.run(sending) as hand:
        roomy(hand)
        if hand.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < 1 << 20:
            pytest.skip("larger receive buffers need root, or more net.core.rmem_max")
        ear = right.run(hearing, "eth0")
        for _ in range(1000):
            hand.sendto(bytes(12), (EVERYBODY, DISCARD))
        with Numbered(left.run(sending), EVERYBODY, {"right": ear}, 500.0) as stream:
            pass
        assert stream.heard["right"].overrun == 0
        narrow = right.run(hearing, "eth0")
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        for _ in range(100):
            hand.sendto(bytes(12), (EVERYBODY, DISCARD))
        with Numbered(left.run(sending), EVERYBODY, {"right": narrow}, 500.0) as stream:
            pass
        assert stream.heard["right"].overrun > 50

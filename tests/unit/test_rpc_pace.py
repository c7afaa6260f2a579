"""How fast a session may speak, and what waits to be said."""

import asyncio

import pytest

from ctrl.rpc.outbox import Outbox
from ctrl.rpc.pace import Pace
from ctrl.rpc.writing import TooLarge


def test_a_burst_passes_and_what_exceeds_it_waits_for_the_rate():
    pace = Pace(rate=10, burst=5, now_s=0)
    assert [pace.charge(0, 0) for _ in range(7)] == [0, 0, 0, 0, 0, pytest.approx(0.1), pytest.approx(0.2)]


def test_a_message_costs_by_its_size():
    assert Pace(rate=10, burst=1, now_s=0).charge(20 * 2048, 0) == pytest.approx(2)


def test_an_allowance_comes_back_with_time_up_to_the_burst():
    pace = Pace(rate=10, burst=2, now_s=0)
    assert pace.charge(2048, 0) == 0
    assert pace.charge(0, 0.1) == 0
    assert pace.charge(2048, 100) == 0
    assert pace.charge(0, 100) == pytest.approx(0.1)


class Peer:
    """Reads what is written while it may; `encode` cuts a text into letters."""

    def __init__(self, *, max_queued=3, stall_s=60.0):
        self.read: list[bytes] = []
        self.stuck: list[str] = []
        self.may_read = asyncio.Event()
        self.box = Outbox(self.encode, self.write, self.stuck.append, max_queued=max_queued, stall_s=stall_s)

    @staticmethod
    def encode(message):
        for letter in message:
            if letter == "!":
                raise TooLarge("too loud")
            yield letter.encode()

    async def write(self, data):
        await self.may_read.wait()
        self.read.append(data)

    async def settle(self):
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_messages_are_written_in_order_part_by_part():
    peer = Peer()
    peer.may_read.set()
    for message in ("ab", "c"):
        peer.box.put(message)
    await peer.settle()
    peer.box.put("d")
    await peer.settle()
    assert peer.read == [b"a", b"b", b"c", b"d"]
    assert peer.stuck == []


@pytest.mark.asyncio
async def test_a_peer_that_does_not_read_is_given_up_when_the_queue_is_full():
    peer = Peer(max_queued=3)
    for message in "abcdefg":
        peer.box.put(message)
        await peer.settle()
    assert peer.stuck == ["it does not read: 3 messages wait"]
    assert not peer.box._queue
    peer.may_read.set()
    await peer.settle()
    assert peer.read == []


@pytest.mark.asyncio
async def test_a_peer_that_reads_too_slowly_is_given_up():
    peer = Peer(stall_s=0)
    peer.box.put("ab")
    await peer.settle()
    assert peer.stuck == ["it does not read: a message waited for 0 s"]


@pytest.mark.asyncio
async def test_a_message_that_cannot_be_said_gives_up_the_session():
    peer = Peer()
    peer.may_read.set()
    peer.box.put("a!b")
    await peer.settle()
    assert peer.stuck == ["too loud"]
    assert peer.read == [b"a"]


@pytest.mark.asyncio
async def test_nothing_is_said_after_the_end():
    peer = Peer()
    peer.box.put("abc")
    peer.box.close()
    peer.box.put("d")
    peer.may_read.set()
    await peer.settle()
    assert peer.read == []
    assert peer.stuck == []

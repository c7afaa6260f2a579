"""What a hostile or broken peer costs the manager: little memory, a named reason, and nobody else's time."""

import asyncio
import os
import socket
import struct
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from ctrl.rpc import fabric_pb2 as pb
from ctrl.rpc.bounds import MAX_KEYS, MAX_MESSAGE
from ctrl.rpc.messages import Ack, Groups, Keepalive, Moved
from ctrl.rpc.server import Limits
from ctrl.rpc.transport import grpc
from tests.system.rpc import Manager, at, calling, ending, hello, running, say, serving, until

pytestmark = pytest.mark.asyncio
Code = grpc.StatusCode
PAGE = os.sysconf("SC_PAGE_SIZE")
GENEROUS_S = 5
"""Within this a round trip of somebody else has to be done on the busiest machine."""


def rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ([b"\xff" * 10], "10 bytes that are no message of fabric.proto"),
        ([b""], "a message of no known kind; expected one of hello, groups, ack, point_state, keepalive"),
        ([pb.FromNode(ack=pb.Ack()).SerializeToString()], "the first message is no Hello"),
        (
            [pb.FromNode(groups=pb.Groups(gone=[b"1234"] * (MAX_KEYS + 1))).SerializeToString()],
            "groups.added: 4097 keys given; expected up to 4096 in one message",
        ),
    ],
)
async def test_what_is_no_message_ends_its_session_with_the_reason(said, why, caplog):
    async with serving() as manager, calling(manager) as call:
        for data in said:
            await call.write(data)
        assert await ending(call) == (Code.INVALID_ARGUMENT, why)
        assert manager.opened_by == []
        assert manager.over == []
        assert manager.server.counts == {"malformed": 1}
        assert f'node=unknown why="{why}"' in caplog.text


async def test_a_second_hello_ends_the_session():
    async with serving() as manager, calling(manager) as call:
        await say(call, hello(), Keepalive(1), hello("tor2"))
        assert await ending(call) == (Code.INVALID_ARGUMENT, "a second Hello")
        await until(lambda: manager.over == [1])
        assert [message for _, message in manager.said] == [Keepalive(1)]


async def test_a_message_over_the_bound_is_not_taken_in():
    async with serving() as manager, calling(manager) as call:
        await say(call, hello())
        await call.write(bytes(MAX_MESSAGE + 1))
        code, why = await ending(call)
        assert code is Code.RESOURCE_EXHAUSTED
        assert "1048577 vs. 1048576" in why
        await until(lambda: manager.over == [1])


async def test_a_session_without_a_hello_is_ended():
    async with serving(limits=Limits(hello_s=0.2)) as manager, calling(manager) as call:
        assert await ending(call) == (Code.DEADLINE_EXCEEDED, "no Hello within 0.2 s")
        assert manager.server.counts == {"silent": 1}


async def test_a_manager_takes_as_many_sessions_as_it_has_room_for_and_no_more():
    async with serving(limits=Limits(max_sessions=2)) as manager, AsyncExitStack() as calls:
        for name in ("tor1", "tor2"):
            await say(await calls.enter_async_context(calling(manager)), hello(name))
        await until(lambda: len(manager.opened_by) == 2)
        async with calling(manager) as third:
            assert await ending(third) == (Code.RESOURCE_EXHAUSTED, "this manager has 2 sessions, its limit")
        assert manager.server.counts == {"full": 1}
        await calls.aclose()
        await until(lambda: len(manager.over) == 2)
        async with calling(manager) as third:
            await say(third, hello("tor3"))
            await until(lambda: len(manager.opened_by) == 3)


@pytest.mark.parametrize(
    ("limits", "n_told", "why"),
    [
        (Limits(max_queued=1000), 1001, "it does not read: 1000 messages wait"),
        (Limits(stall_s=0.2), 200, "it does not read: a message waited for 0.2 s"),
    ],
    ids=["queue", "time"],
)
async def test_a_node_that_does_not_read_is_ended_before_it_costs_memory(limits, n_told, why, caplog):
    manager = Manager()
    manager.is_dumb = True
    moved = Moved(tuple(bytes((10, *n.to_bytes(3, "big"))) for n in range(MAX_KEYS)))
    async with serving(manager, limits=limits) as manager:
        async with calling(manager) as call:
            await say(call, hello())
            await until(lambda: manager.opened_by)
            for _ in range(n_told):
                manager.server.send(1, moved)
            await until(lambda: manager.over == [1])
            assert manager.server.counts == {"slow": 1}
            manager.server.send(1, moved)
        await until(lambda: manager.server._n_streams == 0)
    assert [line.partition(" why=")[2] for line in caplog.messages] == [f'"{why}"'], "and no traceback"


async def _flood(call, message) -> None:
    while True:
        await say(call, message)


async def test_endless_messages_are_held_up_cost_bounded_memory_and_delay_nobody(record_property):
    keys = tuple(bytes((239, *n.to_bytes(3, "big"))) for n in range(MAX_KEYS))
    async with (
        serving(limits=Limits(rate=500, burst=1000)) as manager,
        running(at(manager)) as device,
        asyncio.TaskGroup() as floods,
        AsyncExitStack() as calls,
    ):
        await until(lambda: device.told)
        before = rss()
        tasks = []
        for n, message in enumerate([Ack(1), Ack(1), Groups(1, gone=keys)]):
            call = await calls.enter_async_context(calling(manager))
            await say(call, hello(f"bad{n}"))
            tasks.append(floods.create_task(_flood(call, message)))
        await until(lambda: manager.server.counts["paced"] > 10)
        n_before = len(manager.said)
        since = asyncio.get_running_loop().time()
        times = [await device.round_trip(revision) for revision in range(2, 30)]
        n_per_s = (len(manager.said) - n_before) / (asyncio.get_running_loop().time() - since)
        grown = rss() - before
        for task in tasks:
            task.cancel()
        record_property("round trip, ms: worst", round(max(times) * 1000))
        print(f"worst round trip {max(times) * 1000:.0f} ms, {n_per_s:.0f} messages/s, +{grown >> 20} MiB")
        assert max(times) < GENEROUS_S
        assert grown < 100 << 20
        manager.said.clear()


async def test_no_session_is_heard_faster_than_its_pace():
    loop = asyncio.get_running_loop()
    since = loop.time()
    async with serving(limits=Limits(rate=100, burst=50)) as manager, calling(manager) as call:
        await say(call, hello(), *[Keepalive(1)] * 500)
        await until(lambda: len(manager.said) > 100)
        assert len(manager.said) <= 50 + 100 * (loop.time() - since) + 1
        assert manager.server.counts["paced"] > 10


async def _throw(port: int, data: bytes, n: int) -> None:
    """Connect, say it n times, and see how it ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for _ in range(n):
            writer.write(data)
            await writer.drain()
        await asyncio.wait_for(reader.read(), 5)
    except (OSError, TimeoutError):
        pass
    finally:
        writer.transport.abort()


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = struct.pack("!I", 0)[1:] + b"\x04\x00" + bytes(4)
PING = (8).to_bytes(3, "big") + b"\x06\x00" + bytes(4) + bytes(8)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32),
        bytes(65536),
        PREFACE + SETTINGS + b"\xff" * 65536,
        PREFACE + SETTINGS + PING * 1000,
        PREFACE + SETTINGS + SETTINGS * 1000,
    ],
    ids=["http1", "tls", "zeros", "frames", "pings", "settings"],
)
async def test_bytes_that_are_no_session_cost_bounded_memory_and_delay_nobody(data):
    async with serving() as manager, running(at(manager)) as device:
        await until(lambda: device.told)
        before = rss()
        async with asyncio.TaskGroup() as throwing:
            for _ in range(20):
                throwing.create_task(_throw(manager.server.port, data, 20))
            times = [await device.round_trip(revision) for revision in range(2, 12)]
        print(f"worst round trip {max(times) * 1000:.0f} ms, +{rss() - before >> 20} MiB")
        assert max(times) < GENEROUS_S
        assert rss() - before < 50 << 20
        assert len(manager.opened_by) == 1
        assert device.n_ended == 0


@pytest.mark.parametrize("start", [b"", b"PRI * ", PREFACE, PREFACE + SETTINGS])
async def test_a_connection_that_comes_to_nothing_is_closed(start):
    async with serving(limits=Limits(hello_s=0.5)) as manager:
        with socket.create_connection(("127.0.0.1", manager.server.port)) as slow:
            slow.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(slow, start)
            async with asyncio.timeout(8):
                while await loop.sock_recv(slow, 65536):
                    pass


async def test_connections_are_bounded_and_those_that_are_there_live_on():
    async with (
        serving(limits=Limits(max_sessions=10)) as manager,
        running(at(manager)) as device,
        AsyncExitStack() as held,
    ):
        await until(lambda: device.told)
        n_refused = 0
        for _ in range(150):
            reader, writer = await asyncio.open_connection("127.0.0.1", manager.server.port)
            held.push(lambda *_, writer=writer: writer.transport.abort())
            writer.write(PREFACE + SETTINGS)
            try:
                n_refused += not await asyncio.wait_for(reader.read(9), GENEROUS_S)
            except ConnectionError:
                n_refused += 1
        assert n_refused >= 40
        await device.round_trip(2)

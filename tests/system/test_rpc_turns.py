"""Many come at once: a manager has them begin by turns, and a node is patient with one that is slow."""

import asyncio
import socket
import sys
from contextlib import AsyncExitStack

import pytest

from ctrl.rpc.client import Client, Patience
from ctrl.rpc.server import Limits
from tests.house.tree import ROOT, run
from tests.system.rpc import HASTE, Device, calling, ending, hello, say, serving, until

pytestmark = pytest.mark.asyncio


async def come(calls, manager, *names):
    """Have nodes call and say who they are; who came first is for the manager to say."""
    made = {}
    for name in names:
        made[name] = await calls.enter_async_context(calling(manager))
        await made[name].wait_for_connection()
        await say(made[name], hello(name))
    await until(lambda: manager.server._last == len(names))
    return made


def came(manager):
    return [hello.node.name for _, hello, _ in manager.opened_by]


async def test_a_session_begins_when_the_one_before_it_has_begun_and_each_gives_one_turn():
    limits = Limits(max_beginning=1, begin_s=1000)
    async with serving(limits=limits) as manager, AsyncExitStack() as calls:
        await come(calls, manager, "a", "b", "c")
        await until(lambda: len(came(manager)) == 1)
        first = manager.opened_by[0][0]
        manager.server.begun(first)
        manager.server.begun(first)
        await until(lambda: len(came(manager)) == 2)
        await asyncio.sleep(0.1)
        assert len(came(manager)) == 2
        manager.server.begun(manager.opened_by[1][0])
        await until(lambda: sorted(came(manager)) == ["a", "b", "c"])
        manager.server.begun(4711)


async def test_a_session_that_ends_or_takes_too_long_to_begin_lets_the_next_one_begin():
    limits = Limits(max_beginning=1, begin_s=1000)
    async with serving(limits=limits) as manager, AsyncExitStack() as calls:
        made = await come(calls, manager, "a", "b", "c")
        await until(lambda: len(came(manager)) == 1)
        made[came(manager)[0]].cancel()
        await until(lambda: len(came(manager)) == 2)
        manager.server.end(manager.opened_by[1][0], "enough")
        await until(lambda: sorted(came(manager)) == ["a", "b", "c"])
    async with serving(limits=Limits(max_beginning=1, begin_s=0.1)) as manager, AsyncExitStack() as calls:
        await come(calls, manager, "a", "b", "c")
        await until(lambda: sorted(came(manager)) == ["a", "b", "c"])


async def test_who_waits_for_a_turn_is_not_called_silent_and_may_leave():
    limits = Limits(max_beginning=1, begin_s=1000, hello_s=1)
    async with serving(limits=limits) as manager, AsyncExitStack() as calls:
        await come(calls, manager, "a")
        await until(lambda: manager.opened_by)
        async with calling(manager) as leaving:
            await leaving.wait_for_connection()
        mute = await calls.enter_async_context(calling(manager))
        await mute.wait_for_connection()
        await asyncio.sleep(1.5)
        assert manager.server.counts == {}
        manager.server.begun(1)
        assert (await ending(mute))[1] == "no Hello within 1 s"
        assert manager.server.counts == {"silent": 1}


async def no_answer(client, address):
    """Try it, and say how long that took (s)."""
    loop = asyncio.get_running_loop()
    since_s = loop.time()
    with pytest.raises(Exception, match="no answer in time"):
        await client._session(address)
    return loop.time() - since_s


async def test_an_address_that_answers_too_slowly_is_given_twice_as_long_each_time_up_to_a_bound():
    patience = Patience(connect_s=0.2, busy_s=0.3, busiest_s=0.75)  # in the first one the kernel is to answer
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # the kernel connects, and nobody says anything
        there = f"127.0.0.1:{deaf.getsockname()[1]}"
        client = Client([there], Device(), None, patience)
        for given_s, next_s in ((0.2, 0.3), (0.3, 0.6), (0.6, 0.75), (0.75, 0.75)):
            assert await no_answer(client, there) >= given_s * 0.99
            assert client._longer_s[there] == pytest.approx(next_s)


async def test_an_address_that_does_not_answer_any_more_is_waited_for_no_longer_than_a_new_one():
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        there = f"127.0.0.1:{full.getsockname()[1]}"
        client = Client([there], Device(), None, Patience(connect_s=0.1, busy_s=500, busiest_s=1000))
        with socket.create_connection(full.getsockname()):  # there is no room for another one
            for _ in range(3):
                async with asyncio.timeout(10):
                    await no_answer(client, there)
            assert client._longer_s == {there: 500}


async def test_a_welcome_ends_the_patience_with_an_address():
    async with serving() as manager:
        there = f"127.0.0.1:{manager.server.port}"
        device = Device()
        client = device.client = Client([there], device, None, HASTE)
        client._longer_s[there] = 5
        session = asyncio.create_task(client._session(there))
        await until(lambda: device.told)
        assert client._longer_s == {}
        session.cancel()
        await asyncio.wait([session])


ROUSED = """
import asyncio, os, socket
from ctrl.rpc import server, client
pairs, make = [], socket.socketpair
def noted(*args, **kwargs):
    pairs.append(make(*args, **kwargs))
    return pairs[-1]
async def main():
    socket.socketpair = noted
    async with STARTED:
        assert socket.socketpair is noted
        print([os.get_blocking(one.fileno()) for pair in pairs for one in pair])
asyncio.run(main())
"""


@pytest.mark.parametrize(
    "started",
    ["server.Server('127.0.0.1:0', None)", "client.Client([], None)._channel('127.0.0.1:1', None)"],
    ids=["server", "client"],
)
async def test_no_thread_of_grpc_waits_for_the_loop(started):
    """By the sockets over which it rouses the loop, of a process that has not used gRPC before."""
    said = run(sys.executable, "-c", ROUSED.replace("STARTED", started), cwd=ROOT)
    assert said == "[False, False]\n"

"""Sessions between our client and our server on loopback: they come, converse, end, and come back."""

import asyncio
import socket

import pytest

from ctrl.rpc.client import Patience
from ctrl.rpc.messages import Group, Groups, Instructions, Keepalive, Moved, Welcome
from ctrl.rpc.server import Server
from ctrl.rpc.transport import grpc
from ctrl.topology.entry import Entry
from tests.system.rpc import (
    KEY,
    Manager,
    at,
    calling,
    ending,
    hello,
    running,
    say,
    serving,
    until,
)

pytestmark = pytest.mark.asyncio


async def test_a_session_opens_with_a_hello_and_both_hear_what_the_other_says():
    async with serving() as manager, running(at(manager)) as device:
        await until(lambda: len(device.told) == 2)
        assert device.told == [Welcome("m1", "store", 60), Instructions(1, 1, (Entry(KEY, "mesh"),))]
        assert manager.opened_by == [(1, device.hello, None)]
        assert manager.said == [(1, Groups(1, (Group(KEY),), is_full=True))]
        assert device.client.manager == at(manager)
    assert manager.over == [1]
    assert device.n_ended == 1


async def test_a_state_of_many_parts_comes_whole_and_in_order():
    added = tuple(Group(bytes((239, *n.to_bytes(3, "big"))), (n,)) for n in range(20_000))
    async with serving() as manager, running(at(manager)) as device:
        await until(lambda: len(device.told) == 2)
        device.client.send(Groups(2, added, is_full=True))
        device.client.send(Keepalive(2))
        await until(lambda: manager.said[-1] == (1, Keepalive(2)))
        came = [message for _, message in manager.said[1:-1] if isinstance(message, Groups)]
        assert tuple(group for message in came for group in message.added) == added


async def test_a_session_that_the_manager_ends_tells_why_and_comes_back(caplog):
    async with serving() as manager, running(at(manager)) as device:
        await until(lambda: device.client.manager)
        await until(lambda: manager.opened_by)
        manager.server.end(1, "another session of this node is newer")
        await until(lambda: len(device.addresses) == 2)
        assert manager.over == [1]
        why = 'manager lost address=%s why="another session of this node is newer"'
        assert why % at(manager) in caplog.messages


async def test_a_refusal_is_told_and_logged_once_while_it_stays_the_same(caplog):
    manager = Manager(refusal="tor1: its address is already that of tor2")
    async with serving(manager), running(at(manager)) as device:
        await until(lambda: len(manager.opened_by) > 5)
        lost = [line for line in caplog.messages if "lost" in line]
        assert lost == [f'manager lost address={at(manager)} why="{manager.refusal}"']
        (refused,) = [line for line in caplog.messages if line.startswith("session refused")]
        assert refused.endswith(f'node=tor1 why="{manager.refusal}"')
        assert manager.server.counts["refused"] >= 5
        assert manager.said == []
        assert manager.over == []
        manager.refusal = "something else"
        await until(lambda: len([line for line in caplog.messages if "lost" in line]) == 2)
        manager.refusal = None
        await until(lambda: device.told)
        assert device.client.problems == {}


async def test_the_pause_between_tries_grows():
    manager = Manager(refusal="no")
    async with serving(manager), running(at(manager), patience=Patience(first_pause_s=0.1)):
        await until(lambda: len(manager.opened_by) >= 2)
        await asyncio.sleep(1.5)
        assert len(manager.opened_by) <= 7  # 0.05-0.1, 0.1-0.2, 0.2-0.4, 0.4-0.8 ...


async def test_managers_are_tried_in_their_order_and_the_next_serves_when_one_is_gone():
    async with (
        serving() as second,
        serving() as first,
        running("127.0.0.1:1", at(first), at(second)) as device,
    ):
        await until(lambda: device.told)
        assert device.addresses == [at(first)]
        assert list(device.client.problems) == ["127.0.0.1:1"]
        await first.server.__aexit__(None, None, None)
        await until(lambda: second.opened_by == [(1, device.hello, None)])
        assert device.addresses == [at(first), at(second)]


async def test_a_manager_that_says_nothing_is_given_up():
    manager = Manager(keepalive_s=0.1)
    async with serving(manager), running(at(manager)) as device:
        await until(lambda: device.client.problems == {at(manager): "it said nothing for 0.3 s"})
        await until(lambda: len(device.addresses) == 2)
    mute = Manager()
    mute.is_dumb = True
    patience = Patience(welcome_s=0.1)
    async with serving(mute), running(at(mute), patience=patience) as device:
        await until(lambda: device.client.problems == {at(mute): "it said nothing for 0.1 s"})


async def test_an_address_where_nobody_answers_is_left_after_its_deadline():
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # connects, and says nothing
        there = f"127.0.0.1:{deaf.getsockname()[1]}"
        patience = Patience(connect_s=0.2, busy_s=0.3)
        async with serving() as manager, running(there, at(manager), patience=patience) as device:
            await until(lambda: device.told, 2)
            assert device.client.problems == {there: "no answer in time"}


async def test_a_manager_that_stops_ends_its_sessions_and_frees_its_address(caplog):
    async with serving() as manager, calling(manager) as call:
        await say(call, hello())
        await until(lambda: manager.opened_by)
        await manager.server.__aexit__(None, None, None)
        assert await ending(call) == (grpc.StatusCode.ABORTED, "the manager stops")
    assert manager.over == [1]
    async with serving(listen=at(manager)):
        pass


async def test_an_address_in_use_is_an_error_that_names_it():
    async with serving() as manager:
        with pytest.raises(OSError, match=f"cannot listen on {at(manager)}"):
            await Server(at(manager), Manager()).__aenter__()


async def test_a_node_that_leaves_is_told_of_once():
    async with serving() as manager:
        async with calling(manager) as call:
            await say(call, hello())
            await until(lambda: manager.opened_by)
        await until(lambda: manager.over == [1])
        assert manager.server._sessions == {}
        manager.server.send(1, Moved(()))
        manager.server.end(1, "nothing to end")


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_both_families_are_listened_on_and_named(host, caplog):
    async with serving(listen=f"{host}:0") as manager, running(at(manager, host)) as device:
        await until(lambda: device.told)
        manager.server.end(1, "enough")
        assert f"session ended peer={host}:" in caplog.text


async def test_a_node_says_its_state_when_it_is_welcome_and_no_more_than_so_much_waits_for_that():
    mute = Manager()
    mute.is_dumb = True
    async with serving(mute), running(at(mute), patience=Patience(max_queued=2)) as device:
        await until(lambda: mute.opened_by)
        device.say(2)
        device.say(3)
        why = "no Welcome, and 2 messages wait for it"
        await until(lambda: device.client.problems == {at(mute): why})
        assert mute.said == []

"""GET /v1/monitor: events as they come, for as long as somebody reads them and the box lives."""

import asyncio
import json
from contextlib import asynccontextmanager
from ipaddress import ip_address

import pytest

from ctrl.config.values import HostPort
from ctrl.control import connections, streams
from ctrl.events import QUEUE_SIZE, group_event, tunnel_event
from tests.unit.served import serving
from tests.unit.unix_http import free_port, get
from tests.unit.viewed import GROUP, Box, view

pytestmark = pytest.mark.asyncio

UP = tunnel_event(ip_address("10.0.0.2"), "up")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tor1.sock"


@asynccontextmanager
async def box_at(path):
    box = Box()
    async with asyncio.timeout(60), serving(box, str(path), None):
        yield box


@asynccontextmanager
async def watching(path, query=""):
    """A reader that is heard: the empty line has come."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(f"GET /v1/monitor{query} HTTP/1.0\r\nHost: box\r\n\r\n".encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.0 200 OK")
        assert await reader.readline() == b"\n"
        yield reader
    finally:
        writer.close()


async def until(holds):
    """Wait for what the other end brings about."""
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_an_event_is_a_line_for_those_who_asked_for_its_topic(path):
    async with box_at(path) as box, watching(path, "?topic=tunnels") as some, watching(path) as all_of_them:
        box.events.publish("groups", group_event(GROUP, 7, joined=True))
        box.events.publish("tunnels", UP)
        first = {"time": "2025-12-22T04:58:02.900Z", "topic": "tunnels", "event": "up", "peer": "10.0.0.2"}
        assert json.loads(await some.readline()) == first
        assert [json.loads(await all_of_them.readline())["topic"] for _ in range(2)] == ["groups", "tunnels"]


async def test_several_topics_can_be_asked_for(path):
    async with box_at(path) as box, watching(path, "?topic=tunnels&topic=groups"):
        assert [box.events.wanted(topic) for topic in ("members", "groups", "tunnels")] == [False, True, True]


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        (
            "/v1/monitor?topic=stations",
            "stations: no such topic; there are members, groups, macs, tunnels, instructions, sessions",
        ),
        ("/v1/monitor?topics=members", "monitor has no key topics; it has topic"),
    ],
)
async def test_what_cannot_be_watched_is_refused_with_what_can(path, page, sentence):
    async with box_at(path):
        status, body = await get(path, page)
        assert (status, json.loads(body)) == (400, {"error": sentence})


async def test_it_is_not_watched_over_tcp(path):
    port = free_port()
    async with serving(Box(), str(path), HostPort(ip_address("127.0.0.1"), port)):
        assert (await get(port, "/v1/monitor"))[0] == 404


async def test_who_reads_slowly_is_told_what_it_missed(path):
    async with box_at(path) as box, watching(path) as reader:
        for revision in range(QUEUE_SIZE + 10):  # in one turn of the loop: nobody can keep up with that
            box.events.publish("groups", group_event(GROUP, revision, joined=True))
        missed, first = [json.loads(await reader.readline()) for _ in range(2)]
        assert (missed["event"], missed["missed"], first["revision"]) == ("missed", 10, 10)


async def test_a_box_where_nothing_happens_says_that_it_lives_and_is_not_cut(path, monkeypatch):
    monkeypatch.setattr(connections, "LIFE_S", 0.1)
    monkeypatch.setattr(streams, "ALIVE_S", 0.03)
    async with box_at(path) as box, watching(path) as reader:
        assert [await reader.readline() for _ in range(6)] == [b"\n"] * 6
        box.events.publish("tunnels", UP)
        while (line := await reader.readline()) == b"\n":
            pass
        assert json.loads(line)["event"] == "up"


async def test_a_reader_that_goes_is_forgotten_at_once(path):
    async with box_at(path) as box:
        async with watching(path):
            assert box.events.wanted("members")
        await until(lambda: not box.events.wanted("members"))


async def test_a_reader_that_takes_nothing_is_cut(path, monkeypatch):
    monkeypatch.setattr(streams, "STUCK_S", 0.1)
    async with box_at(path) as box, watching(path):
        async with asyncio.timeout(60):
            while box.events.wanted("tunnels"):  # what it does not read fills every buffer on the way
                box.events.publish("tunnels", UP | {"peer": "x" * 100_000})
                await asyncio.sleep(0.001)


async def test_so_many_readers_and_no_more_until_one_goes(path):
    async with box_at(path) as box:
        readers = [watching(path) for _ in range(streams.MAX_STREAMS)]
        for one in readers:
            await one.__aenter__()
        status, body = await get(path, "/v1/monitor")
        assert (status, json.loads(body)) == (
            503,
            {"error": "8 readers watch this box already; try again"},
        )
        assert (await get(path, "/healthz"))[0] == 200
        await readers.pop().__aexit__(None, None, None)
        await until(lambda: len(box.events._readers["members"]) < streams.MAX_STREAMS)
        async with watching(path):
            pass
        for one in readers:
            await one.__aexit__(None, None, None)


async def test_the_end_of_the_box_ends_the_stream_after_all_that_happened(path):
    async with box_at(path) as box:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"GET /v1/monitor HTTP/1.1\r\nHost: box\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n1\r\n\n\r\n")
        box.events.publish("tunnels", UP)
    rest = await reader.read()
    assert b'"peer": "10.0.0.2"' in rest
    assert rest.endswith(b"\r\n0\r\n\r\n")
    writer.close()
    assert not box.events.wanted("tunnels")


async def test_a_stream_holds_up_nobody(path):
    async with box_at(path), watching(path):
        for _ in range(3):
            assert json.loads((await get(path, "/v1/status"))[1])[0]["fib"] == view().revision

"""The control socket: what it answers, what it refuses, and how its file comes and goes."""

import asyncio
import gc
import grp
import json
import os
import socket
import stat
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from pathlib import Path

import pytest

from ctrl.config.values import HostPort
from ctrl.control import connections, listen
from ctrl.control.listen import ControlError
from ctrl.objects import OBJECTS
from ctrl.view import NOTHING_COUNTED
from ctrl.view_rows import ROWS
from tests.unit.served import serving
from tests.unit.unix_http import free_port, get
from tests.unit.viewed import DEVICES, GROUPS, MACS, MEMBERS, SERVED, Box, view

pytestmark = pytest.mark.asyncio


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "tor1.sock"


def on_tcp(port):
    return HostPort(ip_address("127.0.0.1"), port)


# --- what it answers ----------------------------------------------------------------------------------------


async def test_every_object_is_an_array_of_its_rows(path):
    async with serving(Box(), str(path), None):
        for name in OBJECTS:
            status, body = await get(path, f"/v1/{name}")
            assert (status, json.loads(body)) == (200, list(ROWS[name](view(devices=DEVICES, macs=MACS))))


@pytest.mark.parametrize("many", ["members", "macs"])
async def test_members_and_stations_are_asked_for_where_they_are_shown_alone(path, many):
    """There may be a million."""

    def ask():
        raise AssertionError

    box = Box()
    setattr(box, many, ask)
    async with serving(box, str(path), None):
        for page in ("/metrics", *(f"/v1/{name}" for name in OBJECTS)):
            status, _ = await get(path, page)
            assert status == (500 if page == f"/v1/{many}" else 200)


async def test_nodes_and_sessions_are_asked_for_where_they_are_shown_and_counted_alone(path):
    """A manager may have ten thousand."""
    asked = []

    class Manager(Box):
        def devices(self):
            asked.append("devices")
            return DEVICES

        def sessions(self):
            asked.append("sessions")
            return SERVED

    box = Manager(lambda: view(sessions=()))
    async with serving(box, str(path), None):
        for page in OBJECTS:
            _, body = await get(path, f"/v1/{page}")
            assert json.loads(body) == list(ROWS[page](view(devices=DEVICES, macs=MACS)))
        assert asked == ["devices", "devices", "sessions"], "for tunnels, too"
        await get(path, "/metrics")
        assert asked[3:] == ["devices", "sessions"]


async def test_a_manager_shows_whom_it_has_others_send_to(path):
    async with serving(Box(lambda: view(lists={}, statistics=NOTHING_COUNTED)), str(path), None):
        _, body = await get(path, "/v1/tunnels")
    assert [(row["peer"], row["told"], row["state"]) for row in json.loads(body)] == [
        ("10.0.0.110", 0, "live"),
        ("10.0.0.3", 7, "live"),
        ("2001:db8::9", 8, "held"),
    ]


async def test_a_manager_shows_its_groups_behind_the_lists_of_the_box(path):
    class Manager(Box):
        def groups(self):
            return GROUPS

    async with serving(Manager(), str(path), None):
        _, body = await get(path, "/v1/groups?role=manager")
    assert [(row["group"], row["via"], row["local"], row["remote"]) for row in json.loads(body)] == [
        ("239.1.1.7", "mesh", [], ["10.0.0.3"]),
        ("239.1.1.200", "point", ["point1"], ["10.0.0.3", "10.0.0.4"]),
    ]


async def test_the_loop_goes_on_while_many_members_are_handed_over(path):
    """An iterator is walked a slice at a time."""
    n_turns, seen, walked = 0, set(), asyncio.Event()

    class Crowded(Box):
        def members(self):
            for _ in range(5000):
                seen.add(n_turns)
                yield MEMBERS[2]
            walked.set()

    async def turn():
        nonlocal n_turns
        while not walked.is_set():
            n_turns += 1
            await asyncio.sleep(0)

    async with serving(Crowded(), str(path), None):
        asked = asyncio.create_task(get(path, "/v1/members?group=239.1.1.100"))
        await turn()
        assert len(seen) == 5
        assert len(json.loads((await asked)[1])) == 5000


async def test_a_query_keeps_the_rows_that_match(path):
    async with serving(Box(), str(path), None):
        _, body = await get(path, "/v1/tunnels?peer=10.0.0.3&tunnel=rewrite")
        assert [row["copies"] for row in json.loads(body)] == [603]
        assert await get(path, "/v1/tunnels?peer=10.9.9.9") == (200, b"[]")


@pytest.mark.parametrize(
    ("page", "status", "sentence"),
    [
        ("/v1/stations", 404, "there are /metrics, /healthz and /v1/ with status, ports, networks, groups"),
        ("/", 404, "/: no such page"),
        ("/v1/status/", 404, "no such page"),
        ("/v1/ports?nome=p1", 400, "ports has no key nome; it has name, device"),
    ],
)
async def test_what_is_not_there_is_refused_with_what_is(path, page, status, sentence):
    async with serving(Box(), str(path), None):
        answered, body = await get(path, page)
        assert answered == status
        assert sentence in json.loads(body)["error"]


async def test_nothing_but_get_is_answered(path):
    async with serving(Box(), str(path), None):
        for method in ("POST", "DELETE"):
            status, body = await get(path, "/v1/status", method)
            assert (status, json.loads(body)) == (405, {"error": f"{method} given; only GET is answered"})


async def test_each_answer_is_made_of_a_view_of_its_own(path):
    views = iter([view(revision=5), view(revision=6)])
    async with serving(Box(lambda: next(views)), str(path), None):
        for revision in (5, 6):
            _, body = await get(path, "/v1/status")
            assert json.loads(body)[0]["fib"] == revision


async def test_a_view_that_cannot_be_made_is_an_error_of_that_answer_alone(path, caplog):
    views = iter([view(statistics=None), view()])
    async with serving(Box(lambda: next(views)), str(path), None):
        status, body = await get(path, "/v1/status")
        assert status == 500
        assert "the log of the daemon says why" in json.loads(body)["error"]
        assert "no answer to /v1/status" in caplog.text
        assert (await get(path, "/v1/status"))[0] == 200


async def test_tcp_has_the_metrics_and_the_health_and_nothing_else(path):
    port = free_port()
    async with serving(Box(), str(path), on_tcp(port)):
        for where in (port, path):
            assert await get(where, "/healthz") == (200, b"ok\n")
            status, body = await get(where, "/metrics")
            assert status == 200
            assert b"fastpath_copies_out_total 12345.0" in body
        for page in ("/v1/status", "/v1/config"):
            status, body = await get(port, page)
            assert status == 404
            assert json.loads(body)["error"] == f"{page}: no such page; there are /metrics and /healthz"


async def test_either_socket_can_be_left_out(path):
    port = free_port()
    async with serving(Box(), "", on_tcp(port)):
        assert await get(port, "/healthz") == (200, b"ok\n")
    async with serving(Box(), str(path), None):
        with pytest.raises(ConnectionRefusedError):
            await get(port, "/healthz")
    async with serving(Box(), "", None):
        assert not path.exists()


# --- its bounds ---------------------------------------------------------------------------------------------


async def test_a_request_line_or_header_that_is_too_long_is_refused(path):
    async with serving(Box(), str(path), None):
        assert (await get(path, "/v1/status?node=" + "a" * connections.MAX_LINE_SIZE))[0] == 400
        long = {"X": "a" * (connections.MAX_LINE_SIZE + 1)}
        assert (await get(path, "/v1/status", headers=long))[0] == 400


async def test_connections_beyond_the_most_are_turned_away_until_one_goes(path):
    async with serving(Box(), str(path), None):
        held = [socket.socket(socket.AF_UNIX) for _ in range(connections.MAX_CONNECTIONS)]
        try:
            for one in held:
                await asyncio.to_thread(one.connect, str(path))
            status, _ = await get(path, "/healthz")
            assert status == 503
            held.pop().close()
            async with asyncio.timeout(60):
                while (await get(path, "/healthz"))[0] != 200:  # noqa: ASYNC110  the other end frees it
                    await asyncio.sleep(0.01)
        finally:
            for one in held:
                one.close()


async def test_a_connection_that_asks_nothing_is_cut(path, monkeypatch):
    monkeypatch.setattr(connections, "LIFE_S", 0.1)
    async with serving(Box(), str(path), None):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: ")
        async with asyncio.timeout(60):
            assert await reader.read() == b""
        writer.close()


async def test_a_connection_that_never_stops_asking_is_cut_too(path, monkeypatch):
    monkeypatch.setattr(connections, "LIFE_S", 0.2)
    async with serving(Box(), str(path), None), asyncio.timeout(60):
        reader, writer = await asyncio.open_unix_connection(str(path))
        n_answers = 0
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: box\r\n\r\n")
                await reader.readuntil(b"\r\n\r\nok\n")
                n_answers += 1
        assert n_answers
        writer.close()


# --- its file -----------------------------------------------------------------------------------------------


async def test_the_file_is_for_its_owner_and_group_and_its_folder_for_all_to_pass(path):
    before = os.umask(0o077)
    try:
        async with serving(Box(), str(path), None):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
            assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    finally:
        os.umask(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file to another group")
async def test_the_file_belongs_to_group_fastpath_where_there_is_one(path, monkeypatch):
    other = next(group for group in grp.getgrall() if group.gr_gid != os.getegid())
    monkeypatch.setattr(listen, "GROUP", other.gr_name)
    async with serving(Box(), str(path), None):
        assert path.stat().st_gid == other.gr_gid
    monkeypatch.setattr(listen, "GROUP", "no-such-group")
    async with serving(Box(), str(path), None):
        assert path.stat().st_gid == os.getegid()


async def test_the_file_appears_only_once_it_answers(path, monkeypatch):
    seen = []
    publish = listen.SocketFile.publish

    def published(self):
        assert not path.exists()
        probe = socket.socket(socket.AF_UNIX)
        probe.connect(self.sock.getsockname())  # it listens already
        probe.close()
        publish(self)
        seen.append(path.exists())

    monkeypatch.setattr(listen.SocketFile, "publish", published)
    async with serving(Box(), str(path), None):
        assert seen == [True]


async def test_the_file_goes_at_the_end_and_after_an_error(path):
    async with serving(Box(), str(path), None):
        assert path.exists()
    assert list(path.parent.iterdir()) == []
    with pytest.raises(RuntimeError):
        async with serving(Box(), str(path), None):
            raise RuntimeError
    assert list(path.parent.iterdir()) == []


async def test_what_a_dead_process_left_is_replaced(path):
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.exists()
    async with serving(Box(), str(path), None):
        assert (await get(path, "/healthz"))[0] == 200


async def test_a_living_one_is_refused_and_goes_on(path):
    async with serving(Box(), str(path), None):
        with pytest.raises(ControlError, match=f"{path}: another fastpath answers there; give one of them"):
            async with serving(Box(), str(path), None):
                pass
        assert (await get(path, "/healthz"))[0] == 200


async def test_a_living_one_with_a_full_queue_is_alive(path, monkeypatch):
    monkeypatch.setattr(listen, "_ASK_S", 0.05)
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as deaf, socket.socket(socket.AF_UNIX) as first:
        deaf.bind(str(path))
        deaf.listen(0)
        first.connect(str(path))
        with pytest.raises(ControlError, match="another fastpath answers there"):
            async with serving(Box(), str(path), None):
                pass


async def test_a_file_that_is_no_socket_is_left_alone(path):
    path.parent.mkdir()
    path.write_text("mine")
    with pytest.raises(ControlError, match="is there already, and is no socket"):
        async with serving(Box(), str(path), None):
            pass
    assert path.read_text() == "mine"


async def test_the_file_of_a_successor_is_left_alone(path):
    async with serving(Box(), str(path), None):
        path.unlink()
        async with serving(Box(), str(path), None):
            pass
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(path))
    assert path.exists()


async def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ControlError, match=r"tor1.sock: the control socket cannot be made: Not a directory"):
        async with serving(Box(), str(tmp_path / "file" / "tor1.sock"), None):
            pass


async def test_an_address_that_is_taken_is_told_with_the_way_out_and_leaves_no_file(path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ControlError, match=f"127.0.0.1:{port}: the metrics cannot be served there: Addr"):
            async with serving(Box(), str(path), on_tcp(port)):
                pass
    assert list(path.parent.iterdir()) == []


async def test_nothing_stays_open_after_a_hundred_starts(path):
    def opened():
        return len(list(Path("/proc/self/fd").iterdir()))

    @asynccontextmanager
    async def once():
        async with serving(Box(), str(path), on_tcp(port)):
            yield

    port = free_port()
    async with once():
        await get(path, "/v1/status")
    gc.collect()  # what other tests left
    before = opened()
    for _ in range(100):
        async with once():
            pass
    assert opened() == before

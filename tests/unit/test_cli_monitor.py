"""`fastpath monitor`: a line an event, and how it ends."""

import json
import signal
import socket
import subprocess
import sys
import threading
from ipaddress import ip_address
from pathlib import Path
from subprocess import PIPE

import pytest
from click.testing import CliRunner

from ctrl.cli import asking, main
from ctrl.control import streams
from ctrl.events import group_event, member_event, tunnel_event
from ctrl.membership import Event, Origin, Wants, Who
from ctrl.topics import EVENTS, event_schema
from tests.unit.served import served
from tests.unit.viewed import GROUP

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-c", "from ctrl.cli import main; main(prog_name='fastpath')", "monitor")
NVE = Who(0, Origin.IGMP, bytes.fromhex("0a0000000105"), ip_address("10.1.1.5"))
PICKY = Wants(is_exclude=False, sources=frozenset(ip_address(f"10.9.0.{n}") for n in (30, 4)))
JOINED = "members", member_event(Event(GROUP, NVE, None, PICKY), "p1")
IN_GROUP = "groups", group_event(GROUP, 7, joined=True)
UP = "tunnels", tunnel_event(ip_address("10.0.0.2"), "up")
STATIC = "members", member_event(Event(GROUP, Who(0, Origin.STATIC), None, Wants()), "p1")


@pytest.fixture
def path(tmp_path, monkeypatch):
    """Where a box may be found, and is looked for."""
    monkeypatch.setattr(asking, "SOCKETS", tmp_path)
    monkeypatch.delenv("FASTPATH_SOCKET", raising=False)
    return tmp_path / "tor1.sock"


def monitor(*words):
    return CliRunner().invoke(main, ["monitor", *words])


def fails(code, *words):
    """What it says on its way out."""
    done = monitor(*words)
    assert (done.exit_code, done.stdout) == (code, ""), done.output
    assert done.stderr.startswith("fastpath monitor: ")
    return done.stderr.removeprefix("fastpath monitor: ").strip()


# --- what it prints -----------------------------------------------------------------------------------------


def test_an_event_is_a_line_of_words_until_the_daemon_goes(path):
    with served(path, JOINED, IN_GROUP, UP, STATIC, ends_then=True):
        done = monitor()
    assert (
        done.stdout
        == """\
2025-12-22T04:58:02.900Z members joined port=p1 nve=10.1.1.5 mac=0a:00:00:00:01:05 network=- \
group=239.1.1.100 mode=include sources=10.9.0.4,10.9.0.30 blocked=- origin=igmp
2025-12-22T04:58:02.900Z groups joined group=239.1.1.100 revision=7
2025-12-22T04:58:02.900Z tunnels up peer=10.0.0.2
2025-12-22T04:58:02.900Z members joined port=p1 nve=- mac=- network=- group=239.1.1.100 \
mode=exclude sources=- blocked=- origin=static
"""
    )
    assert (done.exit_code, done.stderr) == (3, f"fastpath monitor: {path}: the daemon has gone\n")


def test_with_j_an_event_is_a_json_object_a_line_of_the_published_schema(path):
    with served(path, IN_GROUP, UP, ends_then=True):
        done = monitor("-j", "groups", "tunnels", "-s", str(path))
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [list(row) for row in rows] == [
        event_schema()["$defs"][topic]["required"] for topic in ("groups", "tunnels")
    ]


@pytest.mark.parametrize(
    ("words", "topics"),
    [([], list(EVENTS)), (["tunnels", "groups"], ["groups", "tunnels"])],
)
def test_the_topics_named_are_watched_or_all_of_them(path, words, topics):
    with served(path, UP, ends_then=True) as box:
        assert len(monitor(*words).stdout.splitlines()) == 1
    assert box.watched == topics


def test_the_schema_is_printed_without_a_daemon():
    done = monitor("--schema")
    assert (done.exit_code, json.loads(done.stdout)) == (0, event_schema())


# --- how it ends --------------------------------------------------------------------------------------------


def test_each_line_is_there_at_once_and_ctrl_c_ends_it_quietly(path):
    with served(path, UP), subprocess.Popen((*COMMAND, "-s", path), cwd=ROOT, stdout=PIPE, stderr=PIPE) as it:
        assert it.stdout
        assert it.stdout.readline().endswith(b"tunnels up peer=10.0.0.2\n")
        it.send_signal(signal.SIGINT)
        assert (it.communicate(timeout=60), it.returncode) == ((b"", b""), 0)


def test_where_nobody_is_there_is_no_daemon(path):
    assert "no daemon answers" in fails(3)
    assert fails(3, "-s", str(path)) == f"{path}: no daemon answers: No such file or directory"


def test_a_daemon_that_falls_silent_is_gone(path, monkeypatch):
    monkeypatch.setattr(asking, "SILENCE_S", 0.05)
    with served(path):
        assert fails(3) == f"{path}: no answer within 0.05 s"


def test_one_that_has_readers_enough_says_so(path, monkeypatch):
    monkeypatch.setattr(streams, "MAX_STREAMS", 0)
    with served(path):
        assert fails(3) == f"{path}: 0 readers watch this box already; try again"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\n\n{half a li", "the daemon has gone"),
        (b"HTTP/1.0 200 OK\r\n\r\n\xff\n", "what answers is no fastpath"),
        (b"SSH-2.0-x\r\n", "what answers is no fastpath"),
        (b"HTTP/1.0 500 No\r\n\r\n<html>", "what answers is no fastpath"),
    ],
)
def test_what_is_no_stream_of_lines_is_told(path, answer, told):
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()

        def serve():
            taken, _ = other.accept()
            with taken:
                taken.recv(4096)
                taken.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        assert fails(3, "-s", str(path)) == f"{path}: {told}"
        thread.join()


def test_a_topic_that_there_is_not_is_misuse():
    told = fails(2, "member")
    topics = ", ".join(EVENTS)
    assert told == f'member: no such topic; there are {topics}; did you mean "members"?'


# --- quick --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["monitor"], ["notify", "moved", "10.1.1.2"]])
def test_it_imports_nothing_that_takes_long(words):
    heavy = ["numpy", "aiohttp", "pydantic", "pyroute2", "fastpath", "rich", "asyncio", "ssl"]
    program = (
        "import sys, ctrl.cli\nfrom click.testing import CliRunner\n"
        f"done = CliRunner().invoke(ctrl.cli.main, {[*words, '-s', '/nowhere']})\n"
        f"assert done.exit_code == 3, done\nprint(sorted(set({heavy}) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"

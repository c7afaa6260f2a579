"""`fastpath show`: what it prints, whom it asks, and what it says when there is no answer."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import UnixStreamServer
from subprocess import PIPE
from urllib.parse import parse_qsl, urlsplit

import pytest
from click.testing import CliRunner

from ctrl.cli import asking, main
from ctrl.objects import OBJECTS, schema
from ctrl.view_rows import ROWS, matching
from tests.unit.viewed import view

ROOT = Path(__file__).parents[2]
NAMES = "status, ports, networks, groups, members, macs, tunnels, devices, sessions, drops, runtime, config"
KEYS = "reason, unit, stage, frames, rate_pps, last"
COMMAND = (sys.executable, "-c", "from ctrl.cli import main; main(prog_name='fastpath')", "show")


class Box(UnixStreamServer):
    """A daemon of a few lines: the rows of a view, and what it was asked."""

    def __init__(self, path):
        self.asked: list[str] = []
        self.answer: tuple[int, bytes] | None = None
        super().__init__(str(path), Asked)


class Asked(BaseHTTPRequestHandler):
    server: Box

    def do_GET(self):
        self.server.asked.append(self.path)
        parts = urlsplit(self.path)
        status, body = self.server.answer or (
            200,
            json.dumps(
                list(matching(ROWS[parts.path.removeprefix("/v1/")](view()), parse_qsl(parts.query)))
            ).encode(),
        )
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):  # noqa: A002
        pass


@contextmanager
def box(path):
    server = Box(path)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def tor1(tmp_path):
    with box(tmp_path / "tor1.sock") as server:
        yield server


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Sockets are looked for where a test may put some."""
    monkeypatch.setattr(asking, "SOCKETS", tmp_path)
    monkeypatch.delenv("FASTPATH_SOCKET", raising=False)
    return tmp_path


def show(*words, env=None):
    return CliRunner().invoke(main, ["show", *words], env=env)


def fails(code, *words):
    """What it says on its way out."""
    done = show(*words)
    assert done.exit_code == code, done.output
    assert done.stdout == ""
    assert done.stderr.startswith("fastpath show: ")
    return done.stderr.removeprefix("fastpath show: ").strip()


# --- what it prints -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(OBJECTS))
def test_an_object_is_a_line_an_entry_and_the_same_numbers_as_json(tor1, name):
    rows = list(ROWS[name](view()))
    done = show(name, "-j")
    assert (done.exit_code, json.loads(done.stdout)) == (0, rows)
    done = show(name)
    assert done.exit_code == 0
    heading, *lines = done.stdout.splitlines()
    assert heading.split() == [key.upper() for key in OBJECTS[name].keys]
    assert len(lines) == len(rows)
    for row, line in zip(rows, lines, strict=True):
        numbers = [str(value) for value in row.values() if type(value) is int]
        assert all(number in line.split() for number in numbers)


def test_tunnels_in_columns(tor1):
    assert (
        show("tunnels").stdout
        == """\
PEER      GROUPS  TOLD  TUNNEL   STATE         COPIES   BYTES  DROPPED  LAST_S
10.0.0.2       1     0  nested   up              4001  400111        3    2.25
10.0.0.3       2     0  nested   no_neighbour    5002  500222        4       -
10.0.0.3       2     0  rewrite  no_neighbour     603   60333        5       -
10.0.0.4       2     0  rewrite  down               0       0        0       -
"""
    )


def test_key_and_value_are_asked_for_and_may_be_several(tor1):
    done = show("tunnels", "peer", "10.0.0.3", "tunnel", "rewrite", "-j")
    assert [row["copies"] for row in json.loads(done.stdout)] == [603]
    assert tor1.asked == ["/v1/tunnels?peer=10.0.0.3&tunnel=rewrite"]
    show("groups", "group", "vxlan 100&x=#")
    assert parse_qsl(urlsplit(tor1.asked[1]).query) == [("group", "vxlan 100&x=#")]


def test_a_filter_that_leaves_nothing_is_a_no(tor1):
    done = show("tunnels", "peer", "10.9.9.9")
    assert (done.exit_code, len(done.stdout.splitlines())) == (1, 1)
    done = show("tunnels", "peer", "10.9.9.9", "-j")
    assert (done.exit_code, json.loads(done.stdout)) == (1, [])


def test_an_object_without_entries_is_none(tor1):
    tor1.answer = 200, b"[]"
    assert show("drops").exit_code == 0
    assert show("drops", "-j").stdout == "[]\n"


def test_the_schema_is_printed_without_a_daemon():
    done = show("--schema")
    assert (done.exit_code, json.loads(done.stdout)) == (0, schema())


# --- whom it asks -------------------------------------------------------------------------------------------


def test_the_only_socket_is_asked(elsewhere, tor1):
    (elsewhere / "tor1.pid").write_text("")
    assert show("status").exit_code == 0


def test_of_several_the_only_one_alive_is_asked(elsewhere, tor1):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(elsewhere / "a.sock"))
    assert show("status").exit_code == 0
    assert tor1.asked == ["/v1/status"]


def test_of_several_alive_one_has_to_be_named(elsewhere, tor1):
    with box(elsewhere / "tor2.sock") as tor2:
        told = fails(2, "status")
        assert told.endswith("tor1.sock, " + str(elsewhere / "tor2.sock") + "; say which with -s")
        assert show("status", "-s", str(elsewhere / "tor2.sock")).exit_code == 0
        assert show("status", env={"FASTPATH_SOCKET": str(elsewhere / "tor2.sock")}).exit_code == 0
        assert tor2.asked == ["/v1/status"] * 2


def test_where_nobody_is_there_is_no_daemon(elsewhere, monkeypatch):
    assert fails(3, "status") == f"no daemon answers in {elsewhere}; is `fastpath run` running?"
    monkeypatch.setattr(asking, "SOCKETS", elsewhere / "none")
    assert "no daemon answers" in fails(3, "status")


def test_a_socket_that_is_dead_or_missing_or_no_socket_is_no_daemon(elsewhere):
    path = elsewhere / "tor1.sock"
    assert fails(3, "status", "-s", str(path)) == f"{path}: no daemon answers: No such file or directory"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert fails(3, "status") == f"{path}: no daemon answers: Connection refused"
    assert "no daemon answers: AF_UNIX path too long" in fails(3, "status", "-s", "/" + "a" * 200)


def test_what_does_not_answer_in_time_is_no_daemon(elsewhere, monkeypatch):
    monkeypatch.setattr(asking, "WAIT_S", 0.05)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(elsewhere / "tor1.sock"))
        deaf.listen()
        assert "no answer within" in fails(3, "status")


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1\r\n\r\n[]", b"HTTP/1.1 no\r\n\r\n"])
def test_an_answer_that_is_no_http_is_told(elsewhere, answer):
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(elsewhere / "tor1.sock"))
        other.listen()

        def serve():
            taken, _ = other.accept()
            with taken:
                taken.recv(4096)
                taken.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        assert fails(3, "status").endswith("what answers is no fastpath")
        thread.join()


@pytest.mark.parametrize(
    ("answer", "code", "sentence"),
    [
        ((404, b'{"error": "/v1/status: no such page"}'), 1, "/v1/status: no such page"),
        ((500, b'{"error": "the answer could not be made"}'), 1, "the answer could not be made"),
        ((503, b""), 3, "the daemon has too many askers; try again"),
        ((200, b"<html>"), 3, "what answers is no fastpath"),
        ((200, b""), 3, "what answers is no fastpath"),
    ],
)
def test_an_answer_that_is_no_rows_is_told(tor1, answer, code, sentence):
    tor1.answer = answer
    assert fails(code, "status").endswith(sentence)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_who_may_not_ask_is_told_who_may(tmp_path, tor1):
    (tmp_path / "tor1.sock").chmod(0o660)
    for call in ("get({}, '/v1/status')", "post({}, '/v1/notify', b'')", "next(lines({}, '/v1/monitor'))"):
        told = as_nobody(tmp_path, call.format(f"Path('{tmp_path}/tor1.sock')"))
        assert told == f"4 {tmp_path}/tor1.sock: you may not ask this daemon; be root or in group fastpath"
    (tmp_path / "in").mkdir(mode=0o700)
    told = as_nobody(tmp_path, f"only_socket(Path('{tmp_path}/in'))")
    assert told == f"4 {tmp_path}/in: may not be looked into; be root or in its group"


def as_nobody(folder, call):
    """The exit code and the sentence of a call that fails for want of rights."""
    for path in (folder, folder.parent, folder.parent.parent):
        path.chmod(path.stat().st_mode | 0o011)
    program = (
        "import os\nfrom pathlib import Path\n"
        "from ctrl.cli.asking import NotAnswered, get, lines, only_socket, post\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        f"try:\n    {call}\nexcept NotAnswered as why:\n    print(why.code, why)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


# --- misuse -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), f"an object is missing; there are {NAMES}"),
        (("tunels",), f'tunels: no such object; there are {NAMES}; did you mean "tunnels"?'),
        (("ports", "name"), "name: a key without a value; expected KEY VALUE, KEY one of name, device, kind"),
        (("drops", "reson", "x"), "reson: drops has no such key; it has reason, unit, stage, frames"),
        (("drops", "stagge", "x"), f'stagge: drops has no such key; it has {KEYS}; did you mean "stage"?'),
    ],
)
def test_misuse_is_told_with_what_there_is(words, told):
    assert fails(2, *words).startswith(told)


def test_watching_more_than_ten_times_a_second_is_refused(tor1):
    assert show("status", "-w", "0").exit_code == 2
    assert tor1.asked == []


# --- watching -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "n_lines"), [((), 3), (("-j",), 1)])
def test_watching_prints_block_after_block_until_ctrl_c_and_ends_quietly(tmp_path, tor1, words, n_lines):
    command = (*COMMAND, "status", "-w", "0.1", "-s", str(tmp_path / "tor1.sock"), *words)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=PIPE, text=True) as shown:
        assert shown.stdout
        lines = [shown.stdout.readline() for _ in range(2 * n_lines)]
        shown.send_signal(signal.SIGINT)
        _, told = shown.communicate(timeout=60)
    assert lines[:n_lines] == lines[n_lines:]
    assert (shown.returncode, told) == (0, "")
    if words:
        assert json.loads(lines[0]) == ROWS["status"](view())
    else:
        assert lines[2] == "\n"
        assert lines[0].startswith("NODE ")


def test_on_a_terminal_it_is_drawn_in_the_same_place(tmp_path, tor1):
    ours, its = os.openpty()
    command = (*COMMAND, "status", "-w", "0.1", "-s", str(tmp_path / "tor1.sock"))
    with subprocess.Popen(command, cwd=ROOT, stdout=its, stderr=PIPE) as shown:
        os.close(its)
        seen = b""
        deadline = time.monotonic() + 60
        while seen.count(b"\x1b[2J") < 2 and time.monotonic() < deadline:
            seen += os.read(ours, 4096)
        shown.send_signal(signal.SIGINT)
        _, told = shown.communicate(timeout=60)
    os.close(ours)
    assert seen.count(b"\x1b[H\x1b[2JNODE ") >= 2
    assert (shown.returncode, told) == (0, b"")


def test_watching_ends_when_the_daemon_does(tmp_path, tor1):
    command = (*COMMAND, "status", "-w", "0.1", "-s", str(tmp_path / "tor1.sock"))
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=PIPE, text=True) as shown:
        assert shown.stdout
        shown.stdout.readline()
        (tmp_path / "tor1.sock").unlink()
        _, told = shown.communicate(timeout=60)
    assert shown.returncode == 3
    assert "no daemon answers" in told


# --- quick --------------------------------------------------------------------------------------------------


def test_it_imports_nothing_that_takes_long():
    heavy = ["numpy", "aiohttp", "pydantic", "pyroute2", "fastpath", "rich", "asyncio", "ssl"]
    program = (
        "import sys, ctrl.cli\nfrom click.testing import CliRunner\n"
        "done = CliRunner().invoke(ctrl.cli.main, ['show', 'status', '-s', '/nowhere'])\n"
        f"assert done.exit_code == 3, done\nprint(sorted(set({heavy}) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"

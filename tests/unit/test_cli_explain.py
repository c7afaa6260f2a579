"""`fastpath explain`: what it prints, what it takes for a frame, whom it asks, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import UnixStreamServer

import pytest
from click.testing import CliRunner, Result

from ctrl.cli.explain import explain
from ctrl.config import load
from ctrl.explain import EXPLAINED, schema
from ctrl.explain.answer import BadQuestion, answer
from ctrl.static import plan
from tests.captures_io import read_frames
from tests.command import TO_GROUP, pcap_of, pcapng_of
from tests.replaying import CAPTURES, EXAMPLES, ROOT

DEMO = str(EXAMPLES / "demo.toml")
MIXED = f"{CAPTURES / 'mixed_demo.pcapng'}"
NOISE = f"{CAPTURES / 'noise.pcap'}"


def run(*words: str, stdin: str | None = None) -> Result:
    done = CliRunner().invoke(explain, words, input=stdin, prog_name="fastpath explain")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    return done


def refused(*words: str, stdin: str | None = None) -> str:
    """What it says about what cannot be used: one sentence, and nothing else."""
    done = run(*words, stdin=stdin)
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert done.stderr.startswith("fastpath explain: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("fastpath explain: ").rstrip("\n")


# --- what it prints -----------------------------------------------------------------------------------------

REPLICATED = """\
STEP       RULE  WHAT                                   DETAIL
port       -     p2                                     faces nve; 114 bytes
ethernet   1.2   02:00:00:02:02:02 > 01:00:5e:01:01:c8  IPv4
outer      1.3   10.1.2.2 > 239.1.1.200                 IPv4, UDP 34521 > 4789, TTL 1, 100 bytes
overlay    1.7   vxlan 200                              header 08000000 0000c800
inner      1.9   02:d0:02:00:00:c8 > 01:00:5e:40:02:01  10.200.0.2 > 239.192.2.1, UDP 50779 > 30001, \
64 bytes, flow d374023a
role       2     device                                 to a group
class      2.2   local                                  gets the local and the remote segment of a list
sender     2.3   10.1.2.2                               an NVE that this port serves by unicast
key        2.5   (10.1.2.2, 239.1.1.200)                outer source and group: no list
key        2.5   239.1.1.200                            outer group: the list: 2 local, 3 remote
network    2.6   green                                  group 239.1.1.200
refined    8.2   vxlan 200 (10.200.0.2, 239.192.2.1)    inner source and group: no list
refined    8.2   vxlan 200 239.192.2.1                  inner group: no list
exclusion  2.9   p2                                     where the frame comes from: no copy

PORT  RECEIVER  FORM    SIZE  DROPPED  DETAIL
p1    group     group    114        -  10.1.2.2 > 239.1.1.200, IPv4, UDP 34521 > 4789, TTL 1
core  10.0.0.2  nested   146        -  10.0.0.1 > 10.0.0.2, IPv4, UDP 49722 > 4754, TTL 64
core  10.0.0.3  nested   146        -  10.0.0.1 > 10.0.0.3, IPv4, UDP 49722 > 4754, TTL 64
core  10.0.0.4  nested   146        -  10.0.0.1 > 10.0.0.4, IPv4, UDP 49722 > 4754, TTL 64

replicated: 4 copies
"""

PUNTED = """\
STEP      RULE  WHAT                                   DETAIL
port      -     p1                                     faces nve; 54 bytes
ethernet  1.2   02:00:00:01:01:02 > 01:00:5e:00:00:16  IPv4
outer     1.3   10.1.1.2 > 224.0.0.22                  IPv4, IGMP, TTL 1, 40 bytes
message   -     IGMPv3 report                          from 10.1.1.2 at 02:00:00:01:01:02
record    -     239.1.1.100                            TO_EX: joins

punted: IGMP and MLD go to control; no copy is made.
"""

DROPPED = """\
STEP      RULE  WHAT                                   DETAIL
port      -     p1                                     faces nve; 114 bytes
ethernet  1.2   02:00:00:01:01:02 > 01:00:5e:01:01:64  IPv4
outer     1.3   10.1.1.2 > 239.1.1.100                 IPv4, UDP 57133 > 4789, TTL 1, 100 bytes
overlay   1.7   vxlan                                  header 00000000 00006400

dropped: no_vni_flag: A VXLAN header without the I flag (RFC 7348 section 5).
"""


def test_a_frame_of_an_nve_is_told_to_its_last_copy():
    done = run(f"{MIXED}:17", "-c", DEMO)
    assert (done.exit_code, done.stdout, done.stderr) == (0, REPLICATED, "")


def test_a_join_is_told_in_words():
    done = run(f"{MIXED}:1", "-c", DEMO)
    assert (done.exit_code, done.stdout) == (0, PUNTED)


def test_a_drop_is_told_as_far_as_the_frame_came_and_is_a_no():
    done = run(f"{MIXED}:89", "-c", DEMO)
    assert (done.exit_code, done.stdout) == (1, DROPPED)


def test_json_has_the_keys_of_the_schema_and_the_bytes_of_the_copies():
    done = run(f"{MIXED}:17", "-c", DEMO, "-j")
    rows = json.loads(done.stdout)
    assert done.exit_code == 0
    assert all(tuple(row) == EXPLAINED.keys for row in rows)
    copies = [row for row in rows if row["step"] == "copy"]
    assert [(row["size"], len(row["frame"])) for row in copies] == [(114, 228)] + [(146, 292)] * 3
    assert json.loads(run("--schema").stdout) == schema()


@pytest.mark.parametrize("config", sorted(path.name for path in EXAMPLES.glob("*.toml")))
def test_whatever_frame_of_a_capture_by_whatever_example_is_explained(config: str):
    by = str(EXAMPLES / config)
    port = load(by).ports[0].name
    for capture in sorted(CAPTURES.glob("*.pcap*")):
        for number in range(1, len(read_frames(capture)) + 1, 7):
            done = run(f"{capture}:{number}", "-c", by, "--in-port", port)
            end = done.stdout.splitlines()[-1].split(":")[0]
            assert (done.exit_code, end) in {(0, "replicated"), (0, "punted"), (1, "dropped")}


# --- what it takes for a frame ------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", ["", " ", ":", "\n"])
def test_hex_may_stand_with_spaces_and_colons_and_on_stdin(separator: str):
    text = TO_GROUP.hex(separator) if separator else TO_GROUP.hex()
    wanted = run(TO_GROUP.hex(), "-c", DEMO)
    assert wanted.exit_code == 0
    assert wanted.stdout.splitlines()[1].split()[2] == "p1"
    assert run(text, "-c", DEMO).stdout == run("-", "-c", DEMO, stdin=text.upper()).stdout == wanted.stdout


def test_a_frame_of_a_pcapng_comes_in_where_its_interface_says_and_another_on_the_first_port(tmp_path: Path):
    ng = pcapng_of(tmp_path / "in.pcapng", ("p2", TO_GROUP), ("core", TO_GROUP))
    old = pcap_of(tmp_path / "in.pcap", TO_GROUP)
    ports = [
        run(word, "-c", DEMO, *more).stdout.splitlines()[1].split()[2]
        for word, more in [
            (f"{ng}:1", ()),
            (f"{ng}:2", ()),
            (f"{ng}:2", ("--in-port", "p3")),
            (f"{old}:1", ()),
        ]
    ]
    assert ports == ["p2", "core", "p3", "p1"]


def test_the_port_is_named_as_in_replay_and_by_its_old_name_too():
    wanted = run(TO_GROUP.hex(), "-c", DEMO, "--in-port", "p3").stdout
    assert wanted.splitlines()[1].split()[2] == "p3"
    assert run(TO_GROUP.hex(), "-c", DEMO, "--port", "p3").stdout == wanted
    said = run("--help").stdout
    assert "--in-port NAME" in said
    assert "--port " not in said


def test_a_capture_whose_name_reads_like_hex_is_a_capture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    pcap_of(tmp_path / "cafe", TO_GROUP)
    assert run("cafe:1", "-c", DEMO).stdout == run(TO_GROUP.hex(), "-c", DEMO).stdout
    assert (
        refused("cafe:01:0", "-c", DEMO)
        == "frame: 0: an odd number of hex digits, 1; expected pairs of hex digits"
    )


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "a frame is missing; expected hex, - for hex on stdin, or CAPTURE:N"),
        (("abc",), "frame: abc: an odd number of hex digits, 3; expected pairs of hex digits"),
        (("",), "frame: 0 bytes; expected a frame, of 1 to 131,072"),
        (("00" * 131073,), "frame: 131,073 bytes; expected a frame, of 1 to 131,072"),
        (("hello",), "hello: expected hex, - for hex on stdin, or CAPTURE:N, N from 1"),
        ((NOISE,), f"{NOISE}: say which of its frames: {NOISE}:N, N from 1"),
        ((f"{NOISE}:0",), f"{NOISE}: no frame 0: it has frames 1 to 39"),
        ((f"{NOISE}:40",), f"{NOISE}: no frame 40: it has frames 1 to 39"),
        (("/nowhere:1",), "/nowhere: cannot be read: No such file or directory"),
        ((f"{DEMO}:1",), f"{DEMO}: byte 0: "),
        (
            (TO_GROUP.hex(), "--in-port", "p11"),
            'p11: no port is called that; the ports are p1, p2, p3, core; did you mean "p1"?',
        ),
    ],
)
def test_what_cannot_be_explained_is_refused_in_a_sentence(words: tuple[str, ...], why: str):
    assert refused(*words, "-c", DEMO).startswith(why)


def test_what_is_no_hex_on_stdin_is_named():
    assert refused("-", "-c", DEMO, stdin="02fa 57xy").startswith('stdin: 57xy: "x" is no hex digit')
    assert refused("-", "-c", DEMO, stdin="").startswith("stdin: 0 bytes")


def test_an_interface_that_is_no_port_is_refused_with_the_nearest(tmp_path: Path):
    ng = pcapng_of(tmp_path / "in.pcapng", ("cores", TO_GROUP))
    assert refused(f"{ng}:1", "-c", DEMO) == (
        'cores: no port is called that; the ports are p1, p2, p3, core; did you mean "core"?'
    )


def test_a_config_that_is_none_is_told_as_check_tells_it(tmp_path: Path):
    (tmp_path / "box.toml").write_text("nodes = 1\n")
    done = run(TO_GROUP.hex(), "-c", str(tmp_path / "box.toml"))
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"{tmp_path / 'box.toml'}:1: " in done.stderr


# --- a running box ------------------------------------------------------------------------------------------


class Daemon(UnixStreamServer):
    """A daemon of a few lines, which answers as one with examples/demo.toml does."""

    asked: bytes = b""


class Asked(BaseHTTPRequestHandler):
    server: Daemon

    def do_POST(self) -> None:
        planned = plan(load(DEMO))
        self.server.asked = self.rfile.read(int(self.headers["Content-Length"]))
        lists = {one.key: one for one in planned.lists}
        try:
            status, told = 200, json.dumps(answer(self.server.asked, planned.layout, lists, {}))
        except BadQuestion as error:
            status, told = 400, json.dumps({"error": str(error)})
        self.send_response(status)
        self.end_headers()
        self.wfile.write(told.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[tuple[Daemon, str]]:
    path = str(tmp_path / "tor1.sock")
    server = Daemon(path, Asked)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server, path
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_running_box_is_asked_and_says_the_same(daemon: tuple[Daemon, str]):
    server, path = daemon
    done = run(f"{MIXED}:17", "-s", path)
    assert (done.exit_code, done.stdout) == (0, REPLICATED)
    assert json.loads(server.asked)["port"] == "p2"
    done = run("00", "-s", path)
    assert (done.exit_code, json.loads(server.asked)) == (1, {"frame": "00", "port": None})


def test_what_a_box_refuses_is_told_and_is_a_misuse(daemon: tuple[Daemon, str], tmp_path: Path):
    assert "p11: no port is called that; " in refused("00", "-s", daemon[1], "--in-port", "p11")
    done = run("00", "-s", str(tmp_path / "nobody.sock"))
    assert done.exit_code == 3
    assert "no daemon answers" in done.stderr


def test_asking_a_box_imports_nothing_that_takes_long():
    heavy = ["numpy", "aiohttp", "pydantic", "pyroute2", "dpkt", "rich", "asyncio", "ssl"]
    program = (
        "import sys\nfrom click.testing import CliRunner\nfrom ctrl.cli.explain import explain\n"
        f"done = CliRunner().invoke(explain, ['{MIXED}:17', '-s', '/nowhere'])\n"
        f"assert done.exit_code == 3, done\nprint(sorted(set({heavy}) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"

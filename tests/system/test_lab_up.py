"""`fastpath lab up | list | exec | down`, as root and without, and what an interrupted one leaves behind."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctrl.cli.asking import NotAnswered, get
from ctrl.lab import build, labfile
from ctrl.lab.namespaces import Lab, Namespace, missing
from ctrl.lab.running import BUILT, Keeper
from tests.system.lab import BEGUN, wait_for
from tests.system.labs import LAB, USER, Labs, no_user_namespace, short_folder
from tests.unit.test_lab_file import SMALL

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

DEVICES = (sys.executable, "-c", "import socket; print(*sorted(name for _, name in socket.if_nameindex()))")
KEEPS = SMALL.replace("[device]\n", '[manager]\n[device]\nmanager = ["127.0.0.1:9470"]\n', 1)
"""Both keep something, and the file does not say where."""
SHOW = (sys.executable, "-c", "from ctrl.cli import main; main()", "show", "-j")


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as made:
        yield made


@pytest.fixture
def labs(folder: Path) -> Labs:
    return Labs(folder)


def test_a_lab_goes_up_is_listed_and_entered_and_goes_down(labs: Labs):
    printed = labs.run("up", labs.small)
    assert "built as root: 3 boxes, 2 wires, 1 VXLAN device, 1 bridge\n" in printed
    assert "fastpath lab exec small tor fastpath show groups" in printed
    assert "fastpath lab exec small left" not in printed
    row = labs.listed()["small"]
    assert (row["state"], sorted(row["boxes"])) == ("up", ["left", "right", "tor"])

    assert labs.run("exec", "small", "left", *DEVICES) == "blue lo up vx7\n"
    (group,) = json.loads(labs.run("exec", "small", "tor", *SHOW, "groups"))
    assert (group["group"], "p2" in group["local"]) == ("239.1.1.7", True)
    (status,) = json.loads(labs.run("exec", "small", "tor", *SHOW, "status"))
    os.kill(status["pid"], signal.SIGHUP)
    log = labs.folder / "small/tor.log"
    wait_for(lambda: "reloaded file=" in log.read_text(), "its config is read again")
    assert "not told" not in log.read_text()
    assert labs.run("exec", "small", "tor", "printenv", "STATE_DIRECTORY") == f"{labs.folder}/small/tor\n"
    labs.run("exec", "small", "right", sys.executable, "-c", "raise SystemExit(7)", code=7)
    assert "No such file" in labs.run("exec", "small", "right", "no-such-command", code=127)
    assert '"rigt" is no box of it' in labs.run("exec", "small", "rigt", "true", code=2)

    assert "small is up already" in labs.run("up", labs.small, code=1)
    assert labs.run("down") == "small is down; nothing of it is left\n"
    labs.expect_nothing_left()
    assert "small is not up; none is" in labs.run("exec", "small", "left", "true", code=1)
    assert not labs.folder.exists()


def test_what_one_vm_sends_to_a_group_is_counted_by_those_that_hear_it(labs: Labs):
    """Two boxes of the lab and their wire stand for VMs."""
    labs.run("up", labs.small)
    here = ("exec", "small", "left", *LAB)
    ear = labs.start("exec", "small", "tor", *LAB, "hear", "239.5.5.5", "--device", "p1")
    try:
        assert ear.stdout is not None
        assert ear.stdout.readline() == "joined 239.5.5.5 on p1\n"
        sent = labs.run(*here, "send", "239.5.5.5", "--device", "up", "--rate", "100", "--count", "20")
        assert sent == "20 sent to 239.5.5.5\n"
        assert ear.stdout.readline().startswith("10.1.1.2: first heard after ")
        while (said := ear.stdout.readline()) != "10.1.1.2: 20 sent, 0 lost, 0 doubled\n":
            assert " 0 lost, 0 doubled" in said
    finally:
        ear.kill()
        ear.communicate()
    assert '"10.1.1.1" is no IPv4 group' in labs.run(*here, "send", "10.1.1.1", code=2)
    assert "eth9: no interface" in labs.run(*here, "send", "239.5.5.5", "--device", "eth9", code=1)


def test_without_root_it_is_the_same_in_a_user_namespace(folder: Path):
    """All in one user namespace: another one's could not reach in."""
    if why_not := no_user_namespace():
        pytest.skip(why_not)
    labs = Labs(folder)
    command = (
        'python=$1 small=$2; shift 2; lab() { "$python" -c "from ctrl.cli.lab import lab; lab()" "$@"; }; '
    )
    command += 'lab up "$small" && lab exec small left id -u && lab exec small tor "$@" && lab down'
    labs.inside = (*USER, "sh", "-euc", command, "sh", sys.executable, labs.small, *SHOW, "ports")
    done = subprocess.run(
        labs.inside, env=labs.environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    built, _, shown = done.stdout.partition("fastpath lab down small\n")
    assert "without root, in a user namespace" in built
    shown, _, ended = shown.rpartition("small is down")
    root, _, ports = shown.partition("\n")
    assert root == "0"
    assert [port["state"] for port in json.loads(ports)] == ["up", "up"]
    assert ended == "; nothing of it is left\n"
    labs.expect_nothing_left()


def test_what_is_not_allowed_is_said(folder: Path):
    """Somebody who is nobody in his user namespace may make no other."""
    labs = Labs(folder, "unshare", "-U")
    assert "neither root nor a user namespace" in labs.run("up", labs.small, code=4)
    labs.expect_nothing_left()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
@pytest.mark.parametrize("after", [0, 1], ids=["while it builds", "while fastpath starts"])
def test_who_is_interrupted_leaves_nothing_behind(labs: Labs, how: signal.Signals, after: int):
    process = labs.start("up", labs.small)
    assert process.stdout is not None
    while "small: A ToR" not in (line := process.stdout.readline()):
        assert line
    while after and "built as root" not in (line := process.stdout.readline()):
        assert line
    process.send_signal(how)
    _, complaint = process.communicate(timeout=30)
    if how is signal.SIGINT:
        assert process.returncode == 130
        assert complaint == "fastpath lab up: interrupted; nothing is left behind\n"
    labs.expect_nothing_left()


def test_what_a_killed_keeper_leaves_is_recognised_and_removed(labs: Labs):
    Path(labs.small).write_text(KEEPS)
    labs.run("up", labs.small)
    wait_for((labs.folder / "small/tor/manager.db").exists, "the manager keeps what it knows")
    labs.kill_keeper()
    assert (labs.folder / "small" / "state.json").exists()
    labs.run("up", labs.small)
    labs.kill_keeper()
    assert "small" not in labs.listed()
    labs.expect_nothing_left()


def test_the_fastpath_of_a_box_is_killed_and_starts_again_with_what_it_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    labs = Labs(folder)
    path = Path(labs.small)
    path.write_text(KEEPS)
    with Keeper(labfile.read(path), path) as keeper:
        keeper.expect(BUILT)
        ear = Path(keeper.start().sockets["tor"])
        assert get(ear, "/v1/status")
        keeper.kill("tor")
        with pytest.raises(NotAnswered):
            get(ear, "/v1/status")
        keeper.restart("tor")
        assert get(ear, "/v1/status")
        # it answers a moment before it says that it has begun
        wait_for(lambda: (keeper.folder / "tor.log").read_text().count(BEGUN) == 2, "both starts are told")
        kept = keeper.folder / "tor"
        wait_for(lambda: {f.name for f in kept.glob("*.db")} == {"manager.db", "tor.db"}, "each in its file")
    labs.expect_nothing_left()


def test_what_users_started_in_a_box_ends_with_the_lab_be_it_deaf(labs: Labs):
    """An interactive shell is: it ignores SIGTERM."""
    labs.run("up", labs.small)
    script = "import signal, time; {}print('there', flush=True); time.sleep(300)"
    strangers = [
        labs.start("exec", "small", "left", sys.executable, "-c", script.format(first))
        for first in ("", "signal.signal(signal.SIGTERM, signal.SIG_IGN); ")
    ]
    try:
        for stranger in strangers:
            assert stranger.stdout is not None
            assert stranger.stdout.readline() == "there\n"
        labs.run("down")
        assert [stranger.wait(10) for stranger in strangers] == [-signal.SIGTERM, -signal.SIGKILL]
    finally:
        for stranger in strangers:
            stranger.kill()
            stranger.communicate()
    labs.expect_nothing_left()


def test_a_fastpath_that_does_not_start_is_told_in_its_own_words(labs: Labs):
    Path(labs.small).write_text(SMALL.replace('name = "p2"\n', 'name = "p2"\nkind = "memory"\n', 1))
    complaint = labs.run("up", labs.small, code=1)
    assert complaint.startswith("fastpath lab up: tor: fastpath run ended with 2: fastpath run: ")
    assert "memory" in complaint
    labs.expect_nothing_left()


def test_a_wrong_name_and_a_wrong_file_are_misuse(labs: Labs):
    assert 'did you mean "demo"?' in labs.run("up", "demoo", code=2)
    Path(labs.small).write_text(SMALL.replace("vni = 7", "vni = -7"))
    assert f"{labs.small}:32: error: box.left.vxlan.vx7.vni: -7 given" in labs.run("up", labs.small, code=2)
    assert not labs.folder.exists()


def test_a_kernel_without_vxlan_is_named(labs: Labs, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(95, os.strerror(95))

    monkeypatch.setattr(Namespace, "vxlan", refuse)
    with Lab("no-vxlan") as lab, pytest.raises(RuntimeError, match="this kernel has no VXLAN devices"):
        build.build(lab, labfile.read(Path(labs.small)))

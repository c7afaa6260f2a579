"""The unit is one that systemd understands, tight, and loose enough for what the process does."""

import configparser
import ctypes
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import click
import pytest

from ctrl.cli import main
from ctrl.lab.namespaces import Lab, connect, missing
from tests.house.tree import ROOT
from tests.system.consuming import is_real_root

UNIT = ROOT / "systemd" / "fastpath.service"
EXPOSURE_BELOW = 3.0
NOBODY = 65534
SET_MDWE, REFUSE_EXEC_GAIN = 65, 1

needs_root = pytest.mark.skipif(not is_real_root(), reason="becomes another user: needs root")
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def settings(name):
    return [line.partition("=")[2] for line in UNIT.read_text().splitlines() if line.startswith(f"{name}=")]


@pytest.fixture
def unit(tmp_path):
    """The unit with a program that exists here."""
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/fastpath/bin/fastpath", sys.executable))
    return copy


@needs_systemd
def test_systemd_understands_every_line(unit):
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
def test_a_line_that_systemd_does_not_understand_would_be_seen(unit):
    unit.write_text(unit.read_text().replace("ProtectClock=yes", "ProtectKlock=yes"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert "ProtectKlock" in done.stderr


@needs_systemd
def test_the_exposure_is_below_three(unit):
    argv = ["systemd-analyze", "security", "--offline=true", unit]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze does not look at files (before 250)")
    (level,) = re.findall(r"Overall exposure level for fastpath.service: ([\d.]+)", done.stdout)
    assert float(level) < EXPOSURE_BELOW, done.stdout


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="needs systemd-sysusers")
def test_the_user_of_the_unit_is_made(tmp_path):
    (tmp_path / "usr/lib/sysusers.d").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    shutil.copy(ROOT / "systemd" / "sysusers.conf", tmp_path / "usr/lib/sysusers.d/fastpath.conf")
    subprocess.run(["systemd-sysusers", f"--root={tmp_path}"], check=True)
    (user,) = settings("User")
    assert f"\n{user}:" in "\n" + (tmp_path / "etc/passwd").read_text()
    assert f"\n{settings('Group')[0]}:" in "\n" + (tmp_path / "etc/group").read_text()
    assert "nologin" in (tmp_path / "etc/passwd").read_text()


def test_the_unit_gives_two_capabilities_and_no_more():
    two = {"CAP_NET_RAW", "CAP_NET_ADMIN"}
    assert [set(line.split()) for line in settings("AmbientCapabilities")] == [two]
    assert [set(line.split()) for line in settings("CapabilityBoundingSet")] == [two]


def test_the_unit_has_each_section_once_and_each_setting_where_it_belongs():
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read_string(UNIT.read_text())
    assert parser.sections() == ["Unit", "Service", "Install"]
    assert parser["Service"]["Type"] == "notify"
    assert parser["Service"]["ExecReload"] == "/bin/kill -HUP $MAINPID"


AS_THE_UNIT = """
import socket, sys
from ctrl import notify, privileges
from ctrl.consume import Consumer
from fastpath.claims import Claims
privileges.drop()
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x300) as packet:
    packet.bind(("eth0", 3))
socket.socket(44, socket.SOCK_RAW, 0).close()  # AF_XDP
consumer = Consumer("eth0", Claims((4789,)))
consumer.update(Claims((8472,)))
notify.ready()
status = open("/proc/self/status").read()
print([line for line in status.splitlines() if line.startswith(("Uid", "CapEff", "NoNewPrivs"))])
print("\\n".join(privileges.missing()))
"""


def as_the_unit(python, tree):
    """The words that start an interpreter as a user with the unit's capabilities, and nothing else."""
    (names,) = settings("AmbientCapabilities")
    capabilities = ",".join(["-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in names.split())])
    return [
        *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"),
        *(f"--{which}={capabilities}" for which in ("inh-caps", "ambient-caps", "bounding-set")),
        *("env", f"PYTHONPATH={tree}", "PYTHONDONTWRITEBYTECODE=1", python, "-c"),
    ]


@contextmanager
def tree_for_nobody():
    """A copy of the packages that any user may read: the tree itself may lie where only its owner looks."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        for package in ("ctrl", "fastpath"):
            shutil.copytree(ROOT / package, Path(folder, package), ignore=shutil.ignore_patterns("*.so"))
        yield folder


def python_for_nobody():
    """Find an interpreter like ours that other users may start: ours may lie in root's home."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for candidate in (sys.executable, shutil.which(name, path="/usr/bin:/usr/local/bin")):
        if candidate is not None:
            argv = [*as_the_unit(candidate, ROOT), "pass"]
            if subprocess.run(argv, capture_output=True, check=False).returncode == 0:
                return candidate
    return None


@needs_root
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_a_process_with_what_the_unit_gives_opens_all_it_needs():
    python = python_for_nobody()
    if python is None:
        pytest.skip("no interpreter that user nobody may start")
    with Lab("unit") as lab, tree_for_nobody() as tree:
        ours, far = lab.namespace("ours"), lab.namespace("far")
        connect(ours, "eth0", far, "eth0")
        printed = ours.command(*as_the_unit(python, tree), AS_THE_UNIT)
    first, *named = printed.splitlines()
    assert first.replace("\\t", " ") == (
        f"['Uid: {NOBODY} {NOBODY} {NOBODY} {NOBODY}', 'CapEff: 0000000000003000', 'NoNewPrivs: 1']"
    )
    assert not any(sentence.startswith(("no live ports", "frames also")) for sentence in named)


def test_the_daemon_can_be_imported_where_memory_is_never_writable_and_executable():
    assert settings("MemoryDenyWriteExecute") == ["yes"]
    libc = ctypes.CDLL(None, use_errno=True)

    def deny():
        if libc.prctl(SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0) != 0:
            os._exit(77)

    done = subprocess.run(
        [sys.executable, "-c", "import ctrl.cli.run, ctrl.daemon"],
        cwd=ROOT, preexec_fn=deny, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip("this kernel has no PR_SET_MDWE (before 6.3)")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_of_the_unit_is_one_that_we_have():
    (line,) = settings("ExecStart")
    program, command, *words = line.split()
    assert Path(program).name == "fastpath"
    context = click.Context(main)
    found = main.get_command(context, command)
    assert found is not None
    assert found.make_context(command, words, parent=context).params == {
        "config_file": "/etc/fastpath/fastpath.toml"
    }

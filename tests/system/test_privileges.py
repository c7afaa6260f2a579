"""After `drop` the process, its threads and its children hold what they need; `missing` tells the rest."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ctrl.privileges import missing
from tests.house.tree import ROOT
from tests.system.consuming import is_real_root

pytestmark = pytest.mark.skipif(not is_real_root(), reason="starts out as root, outside of user namespaces")

NET_ADMIN_AND_NET_RAW = 0x3000
NOBODY = 65534
BEGIN = """
import ctypes, json, os, socket, subprocess, sys, threading
from ctrl.privileges import Capability, drop, missing

libc = ctypes.CDLL(None, use_errno=True)

def status(where="thread-self"):
    return dict(line.split(":\\t", 1) for line in open(f"/proc/{where}/status").read().splitlines())

def unshare(flags):
    if libc.unshare(flags) != 0:
        sys.exit(77)
"""
NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000


def child(script, **environment):
    """Run a script that ends with print(json.dumps(...)) in a process of its own; return what that was."""
    argv = (sys.executable, "-c", BEGIN + textwrap.dedent(script))
    done = subprocess.run(
        argv, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | environment
    )
    if done.returncode == 77:
        pytest.skip("this system does not allow user namespaces")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def sets(status, *names):
    return [int(status[f"Cap{name}"], 16) for name in names]


def assert_only(status, kept):
    assert sets(status, "Prm", "Eff", "Bnd") == [kept, kept, kept]
    assert sets(status, "Inh", "Amb") == [0, 0]
    assert status["NoNewPrivs"] == "1"


def test_root_keeps_two_capabilities_and_can_get_no_others():
    status = child("drop(); print(json.dumps(status()))")
    assert_only(status, NET_ADMIN_AND_NET_RAW)
    assert status["Uid"].split() == ["0"] * 4


def test_root_becomes_another_user_and_still_opens_packet_sockets():
    status = child(
        """
        drop("nobody")
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        print(json.dumps(status()))
        """
    )
    assert_only(status, NET_ADMIN_AND_NET_RAW)
    assert status["Uid"].split() == status["Gid"].split() == [str(NOBODY)] * 4
    assert status["Groups"].split() == [str(NOBODY)]


def test_what_is_asked_for_besides_is_kept_too():
    status = child('drop("nobody", also=[Capability.BPF]); print(json.dumps(status()))')
    assert_only(status, NET_ADMIN_AND_NET_RAW | 1 << 39)


def test_threads_that_start_afterwards_hold_no_more():
    found = child(
        """
        drop()
        found = []
        thread = threading.Thread(target=lambda: found.append(status()))
        thread.start()
        thread.join()
        print(json.dumps(found))
        """
    )
    assert_only(found[0], NET_ADMIN_AND_NET_RAW)


@pytest.mark.parametrize("user", ["None", "'nobody'"])
def test_programs_that_are_started_afterwards_get_nothing_more(user):
    found = child(
        f"""
        drop({user})
        print(json.dumps(subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout))
        """
    )
    status = dict(line.split(":\t", 1) for line in found.splitlines())
    assert sets(status, "Eff", "Bnd") == [
        0 if user != "None" else NET_ADMIN_AND_NET_RAW,
        NET_ADMIN_AND_NET_RAW,
    ]
    assert sets(status, "Inh", "Amb") == [0, 0]
    assert status["NoNewPrivs"] == "1"


def test_a_thread_that_runs_already_would_keep_all_so_it_is_named_and_nothing_is_dropped():
    said, status = child(
        """
        done = threading.Event()
        thread = threading.Thread(target=done.wait)
        thread.start()
        try:
            drop("nobody")
        except RuntimeError as error:
            said = str(error)
        done.set()
        thread.join()
        print(json.dumps([said, status()]))
        """
    )
    assert said.startswith("privileges are dropped before threads start, and these run already: python")
    assert status["Uid"].split() == ["0"] * 4
    assert status["NoNewPrivs"] == "0"


def test_numpy_with_one_thread_is_not_in_the_way():
    status = child("import numpy; drop(); print(json.dumps(status()))", OPENBLAS_NUM_THREADS="1")
    assert_only(status, NET_ADMIN_AND_NET_RAW)


def test_a_user_with_the_two_capabilities_gets_no_new_ones_and_hands_none_on():
    status = child(
        """
        libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
        os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
        import struct
        libc.capset(struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", *[0x3000] * 3, 0, 0, 0))
        for number in (12, 13):
            assert libc.prctl(47, 2, number, 0, 0) == 0  # PR_CAP_AMBIENT_RAISE
        assert int(status()["CapAmb"], 16) == 0x3000
        drop()
        print(json.dumps(status()))
        """
    )
    assert sets(status, "Prm", "Eff", "Inh", "Amb") == [NET_ADMIN_AND_NET_RAW] * 2 + [0, 0]
    assert status["NoNewPrivs"] == "1"


def test_a_user_without_capabilities_gets_none_and_every_lack_is_named():
    status, named = child(
        """
        os.setresuid(65534, 65534, 65534)
        drop()
        print(json.dumps([status(), missing()]))
        """
    )
    assert sets(status, "Prm", "Eff") == [0, 0]
    assert status["NoNewPrivs"] == "1"
    starts = [
        "no live ports: ",
        "frames also reach the kernel's stack, ",
        "no XDP filter and no in-kernel clones: ",
        "socket buffers end at ",
    ]
    for start in starts:
        assert sum(sentence.startswith(start) for sentence in named) == 1, named


def test_in_an_unprivileged_user_namespace_it_works_and_names_what_is_missing_there():
    status, named = child(
        f"""
        os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
        unshare({NEW_USER | NEW_NETWORK})
        import resource
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (8 << 20, 8 << 20))
        drop()
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        print(json.dumps([status(), missing()]))
        """
    )
    assert_only(status, NET_ADMIN_AND_NET_RAW)
    text = "\n".join(named)
    assert "no live ports" not in text
    assert "the kernel's stack" not in text
    assert "no XDP filter and no in-kernel clones: bpf(2) is not permitted" in text
    assert "socket buffers end at net.core.rmem_max" in text
    assert "AF_XDP buffers end at 8192 KiB for all ports: raise RLIMIT_MEMLOCK" in text
    if not Path("/dev/net/tun").stat().st_mode & 0o002:
        assert "no TAP ports: /dev/net/tun: Permission denied" in text


@pytest.mark.parametrize(
    ("script", "error", "says"),
    [
        ("drop('fp-no-such')", "LookupError", "user 'fp-no-such' does not exist"),
        ("os.setresuid(1, 1, 1); drop('nobody')", "PermissionError", "cannot become user nobody (65534)"),
    ],
)
def test_a_user_that_cannot_be_had_is_named(script, error, says):
    name, text = child(
        f"""
        try:
            {script}
        except Exception as error:
            print(json.dumps([type(error).__name__, str(error)]))
        """
    )
    assert name == error
    assert says in text


def test_who_holds_everything_misses_nothing():
    status = Path("/proc/self/status").read_text()
    if not int(status.split("CapEff:\t")[1].split()[0], 16) >> 39 & 1:
        pytest.skip("not even root has CAP_BPF here")
    if not Path("/dev/net/tun").exists():
        pytest.skip("no /dev/net/tun here")
    assert missing() == []

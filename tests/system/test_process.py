"""The process itself: it ends without a trace however it ends, and refuses to start with a clear sentence."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ctrl.lab.namespaces import connect, missing
from fastpath import bpf
from tests.house.tree import ROOT
from tests.system.lab import COMMAND, DEADLINE_S, START_S, Fastpath, Lab, wait_for
from tests.system.load import Track, sent, start, whole

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
FAN_OUT = 4
PACKET_SOCKETS = Path("/proc/thread-self/net/packet")
NOT_DONE, MISUSED, NOT_ALLOWED = 1, 2, 4


@pytest.fixture
def lab():
    with Lab("process") as made:
        yield made


@pytest.fixture
def track(lab):
    return Track(lab, FAN_OUT)


def traces(track):
    """What of us the kernel holds: filters, packet sockets, neighbours, and modes of the interfaces."""
    box = track.box
    return {
        "filters": box.command("nft", "list", "ruleset"),
        "packet sockets": len(box.run(PACKET_SOCKETS.read_text).splitlines()) - 1,
        "neighbours": box.command("ip", "neighbour"),
        "interfaces": sorted(word for word in box.command("ip", "-o", "link").split() if "fpclones" in word),
        "modes": [
            (int(link.get_attr("IFLA_PROMISCUITY")), int(link.get_attr("IFLA_ALLMULTI") or 0))
            for link in map(box.link, ("p1", "out"))
        ],
    }


def works(lab, track, fastpath):
    """Assert that frames are forwarded, each once."""
    before = fastpath.settled()["received"]
    track.pass_through(lab, 50)
    assert fastpath.settled()["received"] == before + 50


def test_killed_it_leaves_nothing_and_the_next_start_finds_nothing_in_its_way(lab, track):
    before = traces(track)
    fastpath = start(lab, track)
    works(lab, track, fastpath)
    there = traces(track)
    assert "fastpath-p1" in there["filters"]
    clones = bpf.available() is None
    assert there["packet sockets"] == before["packet sockets"] + 2 + clones
    assert there["interfaces"] == ["fpclones0:"] * clones
    assert fastpath.end(signal.SIGKILL) == -signal.SIGKILL
    wait_for(lambda: traces(track) == before, lambda: f"nothing is left: {traces(track)}")
    assert fastpath.socket.exists()  # nobody could remove it; it does not stop the next one
    fastpath.start()
    works(lab, track, fastpath)
    assert fastpath.end() == 0
    assert traces(track) == before
    assert not fastpath.socket.exists()


def test_a_second_instance_on_the_same_interface_is_refused_and_the_first_goes_on(lab, track):
    first = start(lab, track)
    before = traces(track)
    second = Fastpath(lab, track.box, track.config(), name="second", waits=False)
    assert second.process.wait(START_S) == NOT_DONE
    said = second.log.splitlines()[-1]
    assert said == (
        f"fastpath run: p1: process {first.process.pid} already receives for fastpath on this interface"
    )
    assert not second.socket.exists()
    assert traces(track) == before
    works(lab, track, first)


def test_a_second_instance_with_the_same_control_socket_is_refused(lab, track):
    first = start(lab, track)
    box = lab.box("elsewhere")
    for device in ("p1", "out"):
        box.add_link(device, "veth", peer={"ifname": f"{device}-far"})
    second = Fastpath(lab, box, track.config(), name=first.name, waits=False)
    assert second.process.wait(START_S) == NOT_DONE
    assert str(first.socket) in second.log.splitlines()[-1]
    works(lab, track, first)


def test_what_waits_when_the_end_is_asked_for_is_still_forwarded(lab, track):
    fastpath = start(lab, track)
    reader = track.reader()
    with fastpath.standing_still():
        sent(track.sender(0, 500))
        fastpath.process.send_signal(signal.SIGTERM)
    assert fastpath.process.wait(DEADLINE_S) == 0
    assert whole(reader.report(500), 500 * FAN_OUT)
    assert (
        f"stopped received=500 replicated=500 punted=0 dropped=0 copies_out={500 * FAN_OUT}" in fastpath.log
    )


def test_ctrl_c_ends_it_as_sigterm_does(lab, track):
    before = traces(track)
    fastpath = start(lab, track)
    assert fastpath.end(signal.SIGINT) == 0
    assert "Traceback" not in fastpath.log
    assert traces(track) == before


@pytest.mark.slow
def test_a_dozen_starts_and_ends_leak_nothing(lab, track):
    """Four of each way to end; all is looked at after each, and test_leaks has the thousands."""
    before, files = traces(track), set(lab.directory.iterdir())
    fastpath = start(lab, track)
    for n in range(12):
        how = (signal.SIGTERM, signal.SIGKILL, signal.SIGINT)[n % 3]
        assert fastpath.end(how) == (-how if how == signal.SIGKILL else 0)
        wait_for(lambda: traces(track) == before, "nothing is left of it")
        fastpath.start()
    works(lab, track, fastpath)
    assert fastpath.end() == 0
    assert traces(track) == before
    assert {path.suffix for path in set(lab.directory.iterdir()) - files} == {".toml", ".log"}
    assert "Traceback" not in fastpath.log
    assert "ERROR" not in fastpath.log


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="missing: setpriv (util-linux)")
@pytest.mark.parametrize("lacking", ["net_raw", "net_admin"])
def test_without_a_capability_it_names_it_and_exits_with_4(lab, track, lacking):
    config = lab.directory / "bare.toml"
    config.write_text('[control]\nsocket = ""\nhttp = ""\n' + track.config())
    argv = ("setpriv", f"--bounding-set=-{lacking}", f"--inh-caps=-{lacking}")
    process = track.box.popen(
        *(*argv, *COMMAND, "run", "-c", config), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said = process.communicate(timeout=START_S)[0]
    assert process.returncode == NOT_ALLOWED, said
    assert f"CAP_{lacking.upper()}" in said.splitlines()[-1]
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ('[[port]]\nname = "p1"\nfaces = "nve"\nkind = "pcap"\n', 'kind = "pcap" is for replay'),
        ('[[port]]\nname = "p1"\nfases = "nve"\n', 'did you mean "faces"'),
    ],
    ids=["replay", "misspelled"],
)
def test_a_config_that_cannot_run_is_refused_with_exit_code_2(lab, track, config, complaint):
    fastpath = Fastpath(lab, track.box, config, waits=False)
    assert fastpath.process.wait(START_S) == MISUSED
    assert complaint in fastpath.log
    assert "Traceback" not in fastpath.log


USER_NAMESPACE = ("unshare", "-Urnm", "sh", "-c", 'mount -t tmpfs tmpfs /run && exec "$@"', "sh")


def user_namespaces():
    if shutil.which("unshare") is None:
        return False
    return not subprocess.run((*USER_NAMESPACE, "true"), capture_output=True, check=False).returncode


@pytest.mark.skipif(not user_namespaces(), reason="missing: unshare -Urnm (user namespaces)")
def test_in_an_unprivileged_user_namespace_it_forwards_and_names_what_is_missing():
    inside = f"{__file__}::test_inside_a_user_namespace"
    done = subprocess.run(
        (*USER_NAMESPACE, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", inside),
        cwd=ROOT, env=os.environ | {"FASTPATH_IN_USER_NAMESPACE": "1"}, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert "1 passed" in done.stdout, done.stdout[-3000:]


@pytest.mark.skipif("FASTPATH_IN_USER_NAMESPACE" not in os.environ, reason="run by the test before")
def test_inside_a_user_namespace(lab, track):
    fastpath = start(lab, track)
    works(lab, track, fastpath)
    for sentence in ("no XDP filter and no in-kernel clones:", "net.core.rmem_max"):
        assert sentence in fastpath.log
    assert fastpath.end() == 0


def test_an_instance_that_is_refused_takes_no_neighbour_from_the_one_that_runs(lab):
    """Both ask the kernel for the same peers; only who stays may tell it that they are not needed."""
    box, far = lab.box("box"), lab.box("far")
    for device in ("p1", "p2"):
        connect(box, device, far, device)
    box.address("p1", "10.1.1.1/24")
    far.address("p1", "10.1.1.2/24")
    config = (
        '[[port]]\nname = "{0}"\nfaces = ["nve", "core"]\n[device]\naddress = "10.1.1.1"\n'
        '[[device.peer]]\ngroup = "239.1.1.1"\naddresses = ["10.1.1.2"]\n'
    )
    first = Fastpath(lab, box, config.format("p1"), name="first")
    wait_for(lambda: first.show("tunnels", state="up"), "the peer's MAC is known")
    for port, socket in (("p1", lab.directory / "second.sock"), ("p2", first.socket)):
        file = lab.directory / "second.toml"
        file.write_text(f'[control]\nsocket = "{socket}"\nhttp = ""\n{config.format(port)}')
        second = box.popen(*COMMAND, "run", "-c", str(file), stderr=subprocess.DEVNULL)
        assert second.wait(START_S) == NOT_DONE
        assert "neighbour lost" not in first.log
        assert first.show("tunnels", state="up")


def test_a_tap_port_makes_its_device_and_keeps_it(lab):
    box = lab.box("box")
    config = (
        '[[port]]\nname = "t0"\nkind = "tap"\nfaces = "nve"\n[device]\naddress = "10.1.1.1"\n'
        '[[device.member]]\ngroup = "239.1.1.1"\nport = "t0"\n'
    )
    fastpath = Fastpath(lab, box, config)
    assert fastpath.port("t0")["state"] == "up"
    assert "port absent" not in fastpath.log
    assert box.index("t0")

"""Namespaces are made, wired and gone again, also where something fails; needs root or a user namespace."""

import gc
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ctrl.lab.namespaces import Lab, connect, missing

WHY_NOT = missing()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


@pytest.fixture
def pair():
    """Two namespaces, wired and addressed."""
    with Lab("test") as lab:
        left, right = lab.namespace("left"), lab.namespace("right")
        connect(left, "eth0", right, "eth9", mtu=1600)
        for namespace, device, n in ((left, "eth0", 1), (right, "eth9", 2)):
            namespace.address(device, f"10.77.0.{n}/24")
            namespace.address(device, f"fd77::{n}/64")
        yield left, right


def open_descriptors() -> set[str]:
    gc.collect()
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def udp_socket(family: socket.AddressFamily, address: str) -> socket.socket:
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.settimeout(5)
    made.bind((address, 7))
    return made


@pytest.mark.parametrize(
    ("family", "ends"),
    [(socket.AF_INET, ("10.77.0.1", "10.77.0.2")), (socket.AF_INET6, ("fd77::1", "fd77::2"))],
    ids=["ipv4", "ipv6"],
)
def test_a_datagram_crosses_from_one_namespace_to_the_other_at_once(pair, family, ends):
    left, right = pair
    with left.run(udp_socket, family, ends[0]) as sender, right.run(udp_socket, family, ends[1]) as receiver:
        sender.sendto(b"hello", (ends[1], 7))
        assert receiver.recvfrom(100) == (b"hello", sender.getsockname())


def test_the_caller_and_its_other_threads_stay_where_they_are(pair):
    own = Path("/proc/thread-self/ns/net")
    here = own.readlink()
    inside = [namespace.run(own.readlink) for namespace in pair]
    assert len({here, *inside}) == 3
    found: list[Path] = []
    thread = threading.Thread(target=lambda: found.append(own.readlink()))
    thread.start()
    thread.join()
    assert found == [here]


def test_nothing_of_it_is_seen_on_the_host(pair):
    names = {name for _, name in socket.if_nameindex()}
    assert "eth9" not in names
    _, right = pair
    assert {name for _, name in right.run(socket.if_nameindex)} >= {"lo", "eth9"}


def test_a_vxlan_device_replicates_to_the_remotes_it_was_given(pair):
    left, right = pair
    for n in (3, 4):
        left.neighbour("eth0", f"10.77.0.{n}", right.mac("eth9"))
        right.address("eth9", f"10.77.0.{n}/24")
    left.vxlan("vx", 100, local="10.77.0.1", under="eth0", mac="02:00:00:00:00:01")
    left.remotes("vx", "10.77.0.3", "10.77.0.4")

    def bound(address: str) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.settimeout(5)
        made.bind((address, 4789))
        return made

    def raw() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        made.bind(("vx", 0))
        return made

    frame = bytes.fromhex("ffffffffffff02000000000188b5") + bytes(50)
    with (
        left.run(raw) as sender,
        right.run(bound, "10.77.0.3") as three,
        right.run(bound, "10.77.0.4") as four,
    ):
        sender.send(frame)
        expected = bytes.fromhex("0800000000006400") + frame
        assert [three.recv(200), four.recv(200)] == [expected, expected]


def test_an_ipv6_underlay_and_a_multicast_group(pair):
    left, _ = pair
    left.vxlan("vx6", 101, local="fd77::1", under="eth0", group="ff05::1:1")
    told = left.link("vx6").get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA")
    assert told.get_attr("IFLA_VXLAN_GROUP6") == "ff05::1:1"
    assert told.get_attr("IFLA_VXLAN_LOCAL6") == "fd77::1"


def test_an_offload_is_switched_off_and_on_and_an_unknown_one_is_named(pair):
    from pyroute2.ethtool.ioctl import IoctlEthtool

    left, _ = pair

    def is_on() -> bool:
        ethtool = IoctlEthtool("eth0")
        try:
            return bool(ethtool.get_features()["tx-udp-segmentation"])
        finally:
            ethtool.close()

    assert left.run(is_on)
    left.feature("eth0", "tx-udp-segmentation", False)
    assert not left.run(is_on)
    left.feature("eth0", "tx-udp-segmentation", True)
    assert left.run(is_on)
    with pytest.raises(ValueError, match="eth0 has no offload of the name tx-magic"):
        left.feature("eth0", "tx-magic", True)


def test_a_knob_is_set_in_the_namespace_alone(pair):
    left, right = pair
    left.sysctl("net/ipv4/ip_forward", 1)

    knob = Path("/proc/sys/net/ipv4/ip_forward")
    assert [namespace.run(knob.read_text).strip() for namespace in (left, right)] == ["1", "0"]


def test_what_netlink_refuses_says_where_and_what(pair):
    left, _ = pair
    with pytest.raises(OSError, match=r"No such device: '.*-left: nowhere'"):
        left.index("nowhere")
    with pytest.raises(FileExistsError, match=r"-left: eth0 10.77.0.1/24"):
        left.address("eth0", "10.77.0.1/24")


def test_a_command_runs_inside_and_its_complaint_is_the_error(pair):
    _, right = pair
    script = "import socket; print([name for _, name in socket.if_nameindex()])"
    assert "eth9" in right.command(sys.executable, "-c", script)
    with pytest.raises(RuntimeError, match="sad news"):
        right.command(sys.executable, "-c", "raise SystemExit('sad news')")
    with pytest.raises(RuntimeError, match=r"no end after 0.2 s"):
        right.command(sys.executable, "-c", "import time; time.sleep(60)", timeout_s=0.2)


def test_programs_are_ended_and_descriptors_closed_also_after_an_error():
    before = open_descriptors()
    programs: list[subprocess.Popen[str]] = []

    def fail() -> None:
        with Lab("test") as lab:
            only = lab.namespace("only")
            programs.append(only.popen(sys.executable, "-c", "import time; time.sleep(60)"))
            programs.append(
                only.popen(
                    sys.executable,
                    "-c",
                    "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); "
                    "time.sleep(60)",
                    stdout=subprocess.PIPE,
                )
            )
            assert programs[1].stdout is not None
            assert programs[1].stdout.readline() == "deaf\n"
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert [program.returncode for program in programs] == [-15, -9]
    assert open_descriptors() <= before  # what tests before this one left may go meanwhile


def test_a_namespace_is_gone_when_its_lab_is(pair):
    """The far end of a veth pair goes with its namespace."""
    left, _ = pair
    with Lab("test") as lab:
        brief = lab.namespace("brief")
        connect(left, "to-brief", brief, "eth0")
        assert "to-brief" in {name for _, name in left.run(socket.if_nameindex)}
    deadline = time.monotonic() + 10
    while "to-brief" in {name for _, name in left.run(socket.if_nameindex)}:
        assert time.monotonic() < deadline, "still there"
        time.sleep(0.01)


@pytest.mark.skipif(
    os.geteuid() != 0, reason="starts a user namespace as another user would; needs root here"
)
def test_it_works_in_an_unprivileged_user_namespace():
    script = (
        "from ctrl.lab.namespaces import Lab, connect, missing\n"
        "assert missing() is None, missing()\n"
        "with Lab('test') as lab:\n"
        "    connect(lab.namespace('a'), 'eth0', lab.namespace('b'), 'eth0')\n"
        "    print('wired')\n"
    )
    argv = ["unshare", "-Urn", sys.executable, "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    if "unshare failed" in done.stderr:
        pytest.skip(f"user namespaces are not allowed here: {done.stderr.strip()}")
    assert done.stdout == "wired\n", done.stderr


def test_it_says_what_is_missing_where_namespaces_are_not_allowed():
    if os.geteuid() != 0:
        pytest.skip("needs root, to give rights up")
    script = "from ctrl.lab.namespaces import missing; print(missing())"
    argv = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert "needs root, or a user namespace: unshare -Urnm" in done.stdout, done.stderr

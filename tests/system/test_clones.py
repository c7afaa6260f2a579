"""Copies by in-kernel clones on veth pairs: who gets them, what the kernel refuses, what is left behind."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ctrl.lab.namespaces import missing
from ctrl.netlink.clones import attach_clones
from fastpath import bpf
from fastpath.clones import TURNS, ClonePort, Clones
from fastpath.model import Form
from tests import frames as f
from tests.system.consuming import wait_for
from tests.system.wires import FAR, GROUP, NVE, VNI, Box, Wire, took, tunnelled, wired

WHY_NOT = missing() or bpf.available()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
MANY = tuple(f"10.8.{n // 200}.{n % 200 + 1}" for n in range(TURNS + 44))
OPEN = (
    "from ctrl.netlink.clones import attach_clones; from fastpath.clones import Clones;"
    " made = Clones(attach_clones); print(made.device, flush=True); input()"
)


@pytest.fixture
def wire() -> Iterator[Wire]:
    with wired() as made:
        yield made


@pytest.fixture
def clones(wire: Wire) -> Clones:
    return wire.closing(wire.box.run(Clones, attach_clones))


def cloning(wire: Wire, clones: Clones, peers: Sequence[str] = FAR, **options: Any) -> tuple[Box, ClonePort]:
    box = Box(wire, peers, clones, **options)
    assert isinstance(box.core, ClonePort)
    return box, box.core


def everyone(wire: Wire, port: int) -> socket.socket:
    """A socket of the far box that hears what is for any address of MANY, and says for which."""
    wire.far.command("ip", "route", "add", "local", "10.8.0.0/16", "dev", "lo")
    made = wire.udp(wire.far, "", port)
    made.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)
    made.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO
    return made


def heard(receiver: socket.socket, n_datagrams: int) -> dict[str, list[bytes]]:
    out: dict[str, list[bytes]] = {}
    for _ in range(n_datagrams):
        data, extra, _, _ = receiver.recvmsg(1 << 16, 64)
        out.setdefault(socket.inet_ntoa(extra[0][2][8:12]), []).append(data)
    receiver.setblocking(False)
    with pytest.raises(BlockingIOError):
        receiver.recv(1)
    return out


@pytest.mark.parametrize("train", [True, False], ids=["trains", "singles"])
def test_what_a_vxlan_device_says_another_hears_once_for_each_of_its_addresses(
    wire: Wire, clones: Clones, train: bool
) -> None:
    """It checks the outer checksum, and the VM's socket the inner one."""
    wire.nve.vxlan("vx", VNI, local=NVE, under="up", group=GROUP)
    wire.far.vxlan("vx", VNI, local=FAR[0])
    wire.nve.address("vx", "172.16.5.9/24")
    wire.far.address("vx", "172.16.5.77/24")
    box, _ = cloning(wire, clones, trains=train)
    receiver = wire.udp(wire.far, "", 5004)
    sender = wire.udp(wire.nve, "172.16.5.9")
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    parts = [bytes((number,)) * 700 for number in range(40)]
    for part in parts:
        sender.sendto(part, ("172.16.5.255", 5004))
    counted = box.forward(40)
    assert (counted.copies_out, counted.train_copies > 0) == (120, train)
    assert sorted(took(receiver, 120)) == sorted(parts * 3)
    assert (clones.cloned, box.drops()) == (3 * clones.sends, {})


@pytest.mark.parametrize(
    ("segmentation", "n_peers", "n_frames"),
    [(True, len(MANY), 2), (False, 110, 10)],
    ids=["device", "kernel"],
)
def test_what_is_more_than_one_run_of_the_program_may_make_is_cloned_in_two(
    wire: Wire, clones: Clones, segmentation: bool, n_peers: int, n_frames: int
) -> None:
    """Or, where each datagram is built at once, more than a receiver has room for."""
    wire.box.feature("core", "tx-udp-segmentation", segmentation)
    receiver = everyone(wire, f.VXLAN_PORT)
    box, port = cloning(wire, clones, MANY[:n_peers])
    frames = [tunnelled(size=60) for _ in range(n_frames)]
    wire.send(*frames)
    counted = box.forward(n_frames)
    assert heard(receiver, n_frames * n_peers) == {
        one: [frame[42:] for frame in frames] for one in MANY[:n_peers]
    }
    assert (port.segments, clones.sends, clones.cloned, counted.trains) == (segmentation, 2, n_peers, n_peers)


def test_an_interface_that_is_down_or_gone_costs_only_what_is_sent_meanwhile(
    wire: Wire, clones: Clones
) -> None:
    box, port = cloning(wire, clones)
    receiver = wire.udp(wire.far, FAR[0], f.VXLAN_PORT)
    for state, lost in (("down", 30), ("up", 30)):
        wire.box.set_link("core", state=state)
        wire.send(*(tunnelled() for _ in range(9)), tunnelled(1))
        box.forward(10 if state == "down" else 20)
        assert box.drops() == {"link_down": lost}
    assert len(took(receiver, 10)) == 10
    wire.box.delete_link("core")
    wire.send(*(tunnelled() for _ in range(4)))
    box.forward(24)
    assert box.drops() == {"link_down": 30 + 12}
    assert port.transmits == "clones"


@pytest.mark.parametrize("train", [True, False], ids=["trains", "singles"])
def test_what_a_full_queue_refuses_is_counted(wire: Wire, clones: Clones, train: bool) -> None:
    limit = ("tbf", "rate", "100bit", "burst", "2000", "limit", "3000")
    wire.box.command("tc", "qdisc", "add", "dev", "core", "root", *limit)
    box, _ = cloning(wire, clones)
    wire.send(*(tunnelled(0 if train else number) for number in range(50)))
    counted = box.forward(50)
    assert counted.copies_dropped > 0
    assert box.drops() == {"port_refused": counted.copies_dropped}


@pytest.mark.parametrize("event", ["down", "gone"])
def test_when_something_happens_to_the_private_device_the_port_below_sends(
    wire: Wire, clones: Clones, event: str
) -> None:
    box, port = cloning(wire, clones)
    receiver = wire.udp(wire.far, FAR[2], f.VXLAN_PORT)
    if event == "down":
        wire.box.set_link(clones.device, state="down")
    else:
        wire.box.delete_link(clones.device)
    frames = [tunnelled(number // 9) for number in range(20)]
    wire.send(*frames)
    counted = box.forward(20)
    assert (counted.copies_out, counted.copies_dropped) == (60, 0)
    assert took(receiver, 20) == [frame[42:] for frame in frames]
    assert clones.cloned == 0
    assert port.transmits == "trains"
    error = errno.ENETDOWN if event == "down" else errno.ENXIO
    assert port.why == f"no clones any more: their device refused a frame: {os.strerror(error)}"


def test_a_frame_too_long_for_the_private_device_goes_by_the_port_below(wire: Wire, clones: Clones) -> None:
    wire.box.set_link(clones.device, mtu=500)
    box, _ = cloning(wire, clones)
    receiver = wire.udp(wire.far, FAR[1], f.VXLAN_PORT)
    frames = [tunnelled(1, size=900), tunnelled(2, size=60)]
    wire.send(*frames)
    box.forward(2)
    assert took(receiver, 2) == [frame[42:] for frame in frames]
    assert (clones.sends, clones.cloned, box.drops()) == (2, 3, {})


def test_what_the_device_does_not_take_in_the_middle_of_a_request_goes_by_the_port_below(
    wire: Wire, clones: Clones
) -> None:
    """Nested copies are longer than the others by their own outer headers."""
    frame = tunnelled(size=600)
    wire.box.set_link(clones.device, mtu=len(frame) - 14)
    forms = (Form.REWRITE, Form.REWRITE, Form.NESTED, Form.NESTED)
    box, port = cloning(wire, clones, MANY[:4], forms=forms)
    plain, nested = everyone(wire, f.VXLAN_PORT), wire.udp(wire.far, "", 4754)
    wire.send(frame)
    assert (box.forward(1).copies_out, clones.sends, clones.cloned) == (4, 2, 2)
    assert took(plain, 2) == [frame[42:]] * 2
    assert [data[4:] for data in took(nested, 2)] == [frame[14:]] * 2
    assert port.transmits == "clones"


def test_what_the_port_below_was_asked_for_leaves_before_what_is_cloned_behind_it(
    wire: Wire, clones: Clones
) -> None:
    """An XDP port hands over only when its ring has enough, or at the end of a burst."""
    alone = "239.1.1.101"
    box, _ = cloning(wire, clones, FAR[:2], alone=alone)
    receiver = wire.udp(wire.far, FAR[0], f.VXLAN_PORT)
    frames = [tunnelled(number, dst=alone if number % 2 else GROUP) for number in range(20)]
    wire.send(*frames)
    wait_for(lambda: (box.forwarder.run(), clones.sends)[1] == 10, "ten frames to clone")
    assert took(receiver, 20) == [frame[42:] for frame in frames]
    assert box.forwarder.statistics().copies_out == 30


def test_what_the_kernel_itself_sends_on_the_device_goes_nowhere(wire: Wire, clones: Clones) -> None:
    wire.box.address(clones.device, "10.77.0.1/24")
    wire.box.neighbour(clones.device, "10.77.0.2", "02:00:00:00:00:99")
    far = wire.raw(wire.far, "down", 0x0003)
    wire.udp(wire.box).sendto(b"stray", ("10.77.0.2", 7))
    far.settimeout(0.05)
    with pytest.raises(TimeoutError):
        far.recv(2000)
    queue = ("tc", "-s", "qdisc", "show", "dev", clones.device, "root")
    assert "Sent 0 bytes 0 pkt" in wire.box.command(*queue)


@pytest.mark.skipif(not Path("/proc/sys/net/ipv6").exists(), reason="the kernel has no IPv6")
def test_the_private_device_is_no_way_to_anywhere(wire: Wire) -> None:
    """Not even to ff00::/8, as every device is: the host's own frames to groups would end there."""
    for scope in ("all", "default"):
        wire.box.sysctl(f"net/ipv6/conf/{scope}/disable_ipv6", 0)
    clones = wire.closing(wire.box.run(Clones, attach_clones))
    net = Path("/proc/thread-self/net")
    assert re.search(r"(?m)^ff0{30} 08 .* core$", wire.box.run((net / "ipv6_route").read_text))
    for table in ("ipv6_route", "route", "if_inet6"):
        assert clones.device not in wire.box.run((net / table).read_text)


def test_two_instances_in_one_namespace_have_a_device_each(wire: Wire, clones: Clones) -> None:
    other = wire.closing(wire.box.run(Clones, attach_clones))
    assert other.device != clones.device
    wire.box.set_link(other.device, state="down")
    box, _ = cloning(wire, clones)
    wire.send(*(tunnelled() for _ in range(4)))
    assert (box.forward(4).copies_out, other.sends, clones.cloned > 0) == (12, 0, True)


@pytest.mark.parametrize(
    ("refused", "step"),
    [("index", "clsact: No such device"), ("program", "filter (cls_bpf): Invalid argument")],
)
def test_a_step_that_the_system_refuses_is_named_and_nothing_is_left(
    wire: Wire, refused: str, step: str
) -> None:
    programs: list[int] = []

    def attach(index: int, program: int) -> None:
        programs.append(program)
        attach_clones(index + 1000 * (refused == "index"), program if refused == "index" else 0)

    with pytest.raises(OSError, match=re.escape(f"the device's {step}")):
        wire.box.run(Clones, attach)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(programs[0])
    assert "fpclones" not in wire.box.command("ip", "-o", "link")


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (util-linux)")
def test_three_capabilities_are_enough(wire: Wire) -> None:
    """CAP_PERFMON is not among them: with it the verifier lets more pass."""
    caps = "-all,+bpf,+net_admin,+net_raw"
    command = ("setpriv", f"--bounding-set={caps}", f"--inh-caps={caps}", sys.executable, "-c", OPEN)
    made = wire.box.popen(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert made.communicate("\n")[0].startswith("fpclones")

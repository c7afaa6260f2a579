"""The device behind a TAP port: made and found, up and down, full, shared by queues, gone, refused."""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastpath.io._tap import TapIo
from tests import frames as f
from tests import taps as t
from tests.cases import box as b

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def lab() -> Iterator[t.TapLab]:
    if reason := t.why_not():
        pytest.skip(reason)
    with t.TapLab() as made:
        yield made


@pytest.mark.parametrize("trains", [False, True])
def test_while_it_is_down_copies_are_counted_and_afterwards_all_goes_on(lab: t.TapLab, trains: bool) -> None:
    namespace, port = lab.nve()
    forwarder, memory = t.device(port, trains=trains)
    # Its join is said twice (igmp_qrv); what it still had to say would be lost with the link, and counted.
    t.until(lambda: forwarder.statistics().punted == 2, forwarder)
    namespace.set_link("tap0", state="down")
    memory[b.P0].receive(*map(t.numbered, range(50)))
    forwarder.run()
    assert t.drops(forwarder) == {"link_down": 50}
    namespace.set_link("tap0", state="up")
    listening = lab.udp(namespace, t.FAR_VM, t.PORT)
    memory[b.P0].receive(*map(t.numbered, range(50, 90)))
    forwarder.run()
    assert t.numbers(listening, 40) == list(range(50, 90))
    namespace.route("224.0.0.0/4", "tap0")  # it went with the link
    before = t.replicated(forwarder)
    listening.sendto(b"again", (t.NOBODY, t.PORT))
    t.until(lambda: t.replicated(forwarder) > before, forwarder)
    rows = [row for row in forwarder.statistics().egresses if row.egress.out_port == b.P1]
    assert [(row.copies, row.dropped) for row in rows] == [(40, 50)]


def test_frames_that_find_the_queue_full_are_counted_exactly(lab: t.TapLab) -> None:
    namespace = lab.bare()
    port = lab.tap(namespace, address="10.1.1.2")
    forwarder, _ = t.device(port)
    sending, packet = lab.udp(namespace), f.vxlan_header(b.VNI) + f.tenant()
    for _ in range(3000):
        sending.sendto(packet, (b.GROUP, 4789))
    lost = port.ring_lost
    assert lost > 1000
    t.until(lambda: t.replicated(forwarder) == 3000 - lost, forwarder)
    assert t.drops(forwarder) == {"ring_full": lost}
    sending.sendto(packet, (b.GROUP, 4789))
    t.until(lambda: t.replicated(forwarder) == 3001 - lost, forwarder)
    port.close()
    assert port.ring_lost == lost


def test_what_was_lost_before_the_port_was_opened_is_not_its_loss(lab: t.TapLab) -> None:
    namespace = lab.bare()
    namespace.command("ip", "tuntap", "add", "dev", "tap0", "mode", "tap", "vnet_hdr")
    namespace.set_link("tap0", state="up")
    first = lab.tap(namespace, address="10.1.1.2")
    sending = lab.udp(namespace)
    for _ in range(3000):
        sending.sendto(b"flood", (b.GROUP, t.PORT))
    assert first.ring_lost > 0
    first.close()
    assert lab.tap(namespace).ring_lost == 0


def test_the_queues_of_one_device_share_its_flows_and_lose_nothing(lab: t.TapLab) -> None:
    namespace = lab.bare()
    one = lab.tap(namespace, address="10.1.1.2", multi_queue=True)
    other = lab.tap(namespace, multi_queue=True, counts_losses=False)
    assert one.ifindex == other.ifindex
    boxes = [t.device(port) for port in (one, other)]
    forwarders = [forwarder for forwarder, _ in boxes]
    flows = [lab.udp(namespace, "10.1.1.2", 50000 + i) for i in range(32)]
    for size in range(20):
        for flow in flows:
            flow.sendto(f.vxlan_header(b.VNI) + f.tenant(size=size), (b.GROUP, 4789))
    t.until(lambda: t.replicated(*forwarders) == 640, *forwarders)
    assert all(t.replicated(forwarder) >= 20 for forwarder in forwarders)
    copies = [copy for _, memory in boxes for copy in memory[b.P0].take()]
    for i in range(32):
        mine = [len(copy) for copy in copies if copy[34:36] == (50000 + i).to_bytes(2, "big")]
        assert mine == sorted(set(mine))
        assert len(mine) == 20
    for _ in range(200):
        for flow in flows:
            flow.sendto(b"flood", (b.GROUP, t.PORT))
    assert one.ring_lost > 0
    assert other.ring_lost == 0


def test_a_device_that_is_removed_ends_the_port_and_nothing_else(lab: t.TapLab) -> None:
    namespace, port = lab.nve()
    forwarder, memory = t.device(port)
    namespace.delete_link("tap0")
    memory[b.P0].receive(*map(t.numbered, range(3)))
    with pytest.raises(OSError, match="bad state"):
        forwarder.run()
    assert t.drops(forwarder) == {"link_down": 3}
    assert port.ring_lost == 0


def test_a_device_goes_with_its_port_and_one_that_was_there_stays_as_it_was(lab: t.TapLab) -> None:
    namespace = lab.bare()
    namespace.command("ip", "tuntap", "add", "dev", "tap7", "mode", "tap", "vnet_hdr")
    port, own = namespace.run(TapIo, "tap7"), namespace.run(TapIo, "tap0")
    assert "state DOWN" in namespace.command("ip", "link", "show", "tap7")
    assert (own.transmits, own.why) == ("trains", "")
    for one in (port, own):
        one.close()
        one.close()
    left = namespace.command("ip", "-br", "link").splitlines()
    assert [line.split()[0] for line in left] == ["lo", "tap7"]
    switched_off = lab.tap(namespace, "tap7", trains=False)
    assert (switched_off.trains, switched_off.transmits) == (False, "packet")
    assert switched_off.why == "trains are switched off"


@pytest.mark.parametrize("name", ["", "a" * 16, "a/b", "tap%d", "a b", ".", "..", "a:1"])
def test_what_cannot_be_a_device_s_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a TAP device: expected 1 to 15 bytes"):
        TapIo(name)


@pytest.mark.parametrize(
    ("name", "multi_queue", "says"),
    [
        ("tap0", False, "in use by another program"),
        ("tap0", True, "another number of queues"),
        ("lo", False, "is no TAP device"),
    ],
)
def test_what_the_system_refuses_is_told_with_its_cause(
    lab: t.TapLab, name: str, multi_queue: bool, says: str
) -> None:
    namespace = lab.bare()
    lab.tap(namespace)
    with pytest.raises(OSError, match=says) as raised:
        namespace.run(TapIo, name, multi_queue=multi_queue)
    assert raised.value.filename == name


def test_without_the_right_to_open_tun_the_error_says_so(lab: t.TapLab) -> None:
    """/dev/net/tun is 0600: whoever is root in a user namespace only has no TAP (LIMITS trap 17)."""
    code = "import os; from fastpath.io import _tap; os.setuid(65534); _tap.TapIo('tap0')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    if (Path("/dev/net/tun").stat().st_mode & 0o006) == 0o006:
        pytest.skip("/dev/net/tun is open to everybody here")
    assert "PermissionError: [Errno 13] no right to open /dev/net/tun" in done.stderr


def test_a_thousand_ports_leave_nothing_behind(lab: t.TapLab) -> None:
    namespace = lab.bare()
    namespace.command("ip", "tuntap", "add", "dev", "tap0", "mode", "tap", "vnet_hdr")

    def cycle(times: int) -> tuple[int, int]:
        for _ in range(times):
            namespace.run(TapIo, "tap0").close()
            namespace.run(TapIo, "tap0")
            with pytest.raises(OSError, match="no TAP device"):
                namespace.run(TapIo, "lo")
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir())), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    files, kilobytes = cycle(20)
    files_then, kilobytes_then = cycle(500)
    assert files_then <= files  # what tests before this one left may go meanwhile
    assert kilobytes_then - kilobytes < 4 << 10

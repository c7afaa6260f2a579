"""Every checksum of every copy is right in the eyes of tshark and tcpdump: outer, nested and the VM's own.

The VM speaks UDP on a Linux VXLAN device, so each frame comes in with its checksum unfinished (LIMITS trap
12). The device that copies leave by cuts trains and makes sums itself, as a cable would show them.
"""

import socket
import subprocess
from functools import partial

import pytest

from ctrl.lab import namespaces
from tests.system.lab import DEADLINE_S, Fastpath, Lab, finished, plug, wait_for

pytestmark = pytest.mark.skipif(namespaces.missing() is not None, reason=str(namespaces.missing()))
GOOD, NOT_PRESENT = "1", "3"
INNER_GROUP, PORT = "239.192.1.1", 5004
SIZES = [1, 22, 333, 1000, 1401]
TRAIN = [500] * 30 + [77]


@pytest.fixture
def lab():
    with Lab("sums") as made:
        yield made


def build(lab, six, roles):
    """One NVE that sends, one that gets the group's copies, one peer behind the core port."""
    box = lab.box("tor", six=six, forwards=True)
    far = {}
    for n in (1, 2, 3):
        far[n] = lab.box(f"n{n}", six=six)
        ends = (f"fd00:1:{n}::1/64", f"fd00:1:{n}::2/64") if six else (f"10.1.{n}.1/24", f"10.1.{n}.2/24")
        plug(box, f"p{n}", far[n], ends)
    for n in (2, 3):
        finished(box, f"p{n}")
    local, group = ("fd00:1:1::2", "ff05::100") if six else ("10.1.1.2", "239.1.1.100")
    far[1].vxlan("vx", 100, local=local, under="up", group=roles.get("send_to", group), vxlan_ttl=4)
    far[1].address("vx", "192.168.7.1/24")
    return box, far


def capture(lab, box, name):
    """Record what comes in at `up`; the process, and the file."""
    path = lab.directory / f"{name}.pcap"
    log = lab.directory / f"{name}.log"
    with log.open("w") as said:
        argv = (
            "tcpdump",
            "-i",
            "up",
            "-Q",
            "in",
            "-U",
            "-n",
            "--immediate-mode",
            "-Z",
            "root",
            "-w",
            str(path),
        )
        process = box.popen(*argv, "udp or proto gre", stdout=said, stderr=said)
    wait_for(lambda: "listening on" in log.read_text(), "tcpdump listens")
    return process, path


def sending(far):
    """A VM's UDP socket on the VXLAN device."""

    def make():
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("192.168.7.1", 0))
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("192.168.7.1"))
        return made

    return far.run(make)


def play(lab, fastpath, far, egresses):
    """Send singles and a train; the captures of all who got copies."""
    taken = {n: capture(lab, far[n], f"n{n}") for n in (2, 3)}
    with sending(far[1]) as vm:
        for number, size in enumerate(SIZES, 1):
            vm.sendto(bytes(size), (INNER_GROUP, PORT))
            wait_for(partial(are_out, fastpath, number * egresses), "the copies are out")
        with fastpath.standing_still():
            for size in TRAIN:
                vm.sendto(bytes(i & 0xFF for i in range(size)), (INNER_GROUP, PORT))
        total = len(SIZES) + len(TRAIN)
        wait_for(partial(are_out, fastpath, total * egresses), "the copies are out")
    for n, (_, path) in taken.items():
        wait_for(partial(has_all, path, total), f"tcpdump saw all that n{n} got")
    for process, _ in taken.values():
        process.terminate()
        process.wait(DEADLINE_S)
    return {n: path for n, (_, path) in taken.items()}


def are_out(fastpath, copies):
    return fastpath.status()["copies_out"] == copies


def has_all(path, total):
    return len(opinions(path)) == total


def opinions(path):
    """By frame: the states of all IP checksums and of all UDP checksums, outermost first."""
    fields = ("ip.checksum.status", "udp.checksum.status", "udp.length")
    preferences = ("ip.check_checksum:TRUE", "udp.check_checksum:TRUE")
    argv = ["tshark", "-n", "-r", str(path), "-T", "fields", "-E", "separator=;"]
    argv += [word for one in preferences for word in ("-o", one)]
    argv += [word for one in fields for word in ("-e", one)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    return [
        tuple(part.split(",") if part else [] for part in line.split(";"))
        for line in done.stdout.splitlines()
    ]


def complaints(path):
    done = subprocess.run(
        ["tcpdump", "-nvvr", str(path)], capture_output=True, text=True, check=True, timeout=30
    )
    return [line for line in done.stdout.splitlines() if "bad" in line or "wrong" in line.lower()]


def expect_right(path, *, n_udp, n_ip4, may_lack=frozenset()):
    """Assert that all sums are there and right; `may_lack` are the places of UDP sums that may be zero."""
    for number, (ip, udp, lengths) in enumerate(opinions(path), 1):
        what = f"{path.name} frame {number}: ip {ip} udp {udp}"
        assert len(ip) == n_ip4, what
        assert set(ip) <= {GOOD}, what
        assert len(udp) == n_udp, what
        for place, state in enumerate(udp):
            assert state == GOOD or (place in may_lack and state == NOT_PRESENT), what
        assert int(lengths[-1]) - 8 in {*SIZES, *TRAIN}, what
    assert complaints(path) == []


@pytest.mark.parametrize(
    ("six", "tunnel"),
    [
        pytest.param(False, "nested", id="nested-ipv4"),
        pytest.param(True, "nested", id="nested-ipv6"),
        pytest.param(False, "rewrite", id="rewrite-ipv4"),
        pytest.param(True, "rewrite", id="rewrite-ipv6", marks=pytest.mark.slow),
    ],
)
def test_all_sums_of_group_copies_and_tunnel_copies_are_right(lab, six, tunnel):
    box, far = build(lab, six, {})
    device, peer, group = (
        ("fd00:1:3::1", "fd00:1:3::2", "ff05::100") if six else ("10.1.3.1", "10.1.3.2", "239.1.1.100")
    )
    config = "".join(f'[[port]]\nname = "p{n}"\nfaces = "nve"\n' for n in (1, 2))
    config += '[[port]]\nname = "p3"\nfaces = "core"\n'
    config += f'[[network]]\nname = "blue"\nvni = 100\ngroup = "{group}"\n'
    config += f'[device]\naddress = "{device}"\ntunnel = "{tunnel}"\n'
    config += f'[[device.member]]\ngroup = "{group}"\nport = "p2"\n'
    config += f'[[device.peer]]\ngroup = "{group}"\naddresses = ["{peer}"]\n'
    fastpath = Fastpath(lab, box, config)
    taken = play(lab, fastpath, far, egresses=2)
    (worker, *_) = fastpath.show("runtime")
    assert worker["copies_per_train"] > 10
    outer_ip4 = 0 if six else 1
    expect_right(taken[2], n_udp=2, n_ip4=1 + outer_ip4)
    if tunnel == "nested":  # our own header over IPv4 has no sum, unless it heads a train
        may_lack = frozenset() if six else {0}
        expect_right(taken[3], n_udp=3, n_ip4=1 + 2 * outer_ip4, may_lack=may_lack)
        if not six:
            assert {udp[0] for _, udp, _ in opinions(taken[3])} == {GOOD, NOT_PRESENT}
    else:
        expect_right(taken[3], n_udp=2, n_ip4=1 + outer_ip4)


def test_all_sums_of_copies_to_vxlan_and_nvgre_receivers_are_right(lab):
    box, far = build(lab, six=False, roles={"send_to": "10.1.1.1"})
    config = "".join(f'[[port]]\nname = "p{n}"\nfaces = "core"\n' for n in (1, 2, 3))
    config += (
        '[replicator]\naddress = "10.1.1.1"\nallow_from = ["10.1.1.2"]\n[[replicator.list]]\nvni = 100\n'
    )
    config += 'addresses = ["10.1.2.2", { address = "10.1.3.2", encap = "nvgre", vni = 5000 }]\n'
    fastpath = Fastpath(lab, box, config)
    taken = play(lab, fastpath, far, egresses=2)
    expect_right(taken[2], n_udp=2, n_ip4=2)
    expect_right(taken[3], n_udp=1, n_ip4=2)

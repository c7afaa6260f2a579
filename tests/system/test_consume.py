"""What is ours never reaches the kernel's stack, everything else does, and the filter goes with its owner."""

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import closing
from ipaddress import ip_address

import pytest

from ctrl import nftables as nft
from ctrl.consume import ConsumeError, Consumer, ConsumeUnsupportedError
from ctrl.lab.namespaces import Lab, connect, missing
from fastpath.claims import Claims
from tests.frames import internet_checksum
from tests.house.tree import ROOT
from tests.system.consuming import (
    CLAIMS,
    DEADLINE_S,
    FAR4,
    FAR6,
    OURS4,
    OURS6,
    PORT,
    Boxes,
    Stack,
    is_real_root,
    raw_socket,
    readable,
    udp_socket,
    wait_for,
)

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
needs_root = pytest.mark.skipif(not is_real_root(), reason="becomes another user: needs root")
needs_nft = pytest.mark.skipif(shutil.which("nft") is None, reason="looks with nft: apt install nftables")
BOTH = pytest.mark.parametrize(("ours", "far"), [(OURS4, FAR4), (OURS6, FAR6)], ids=["ipv4", "ipv6"])

OTHER_PROCESS = """
import signal, sys
from ipaddress import ip_address
from ctrl.consume import Consumer
from fastpath.claims import Claims
consumer = Consumer("eth0", Claims((4789,), (ip_address("10.66.0.1"),)))
print("there", flush=True)
signal.pause()
"""


@pytest.fixture
def boxes():
    with Lab("consume") as lab:
        made = Boxes(lab)
        made.give_addresses()
        yield made


def other_process(boxes):
    """Start a process with a filter of its own on our interface, and wait until it has it."""
    process = boxes.ours.popen(sys.executable, "-c", OTHER_PROCESS, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout.readline() == "there\n"
    return process


def is_refused(boxes, ours, far, within_s=DEADLINE_S):
    """Say whether the kernel answers a datagram to our VXLAN port with ICMP port unreachable."""
    with udp_socket(boxes.far, far) as sender:
        sender.connect((ours, PORT))
        sender.send(b"\x08" + bytes(60))
        if not readable(sender, within_s):
            return False
        with pytest.raises(ConnectionRefusedError):
            sender.recv(1)
        return True


def is_taken_in_silence(boxes, ours, far):
    """Say that there is no answer in a time in which the kernel's would long be there."""
    return not is_refused(boxes, ours, far, 0.2)


def answers_an_echo(boxes, ours):
    """Ping once: the raw socket of the far box gets the reply with our bytes."""
    six = ":" in ours
    family, protocol = (
        (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
    )
    request, reply = (128, 129) if six else (8, 0)
    rest = bytes((0x66, 0x01, 0, 7)) + b"are you there"
    total = 0 if six else internet_checksum(bytes((request, 0, 0, 0)) + rest)  # IPv6: the kernel's business
    with boxes.far.run(socket.socket, family, socket.SOCK_RAW, protocol) as pinger:
        pinger.sendto(bytes((request, 0)) + total.to_bytes(2, "big") + rest, (ours, 0))
        while readable(pinger):
            message = pinger.recv(256)[0 if six else 20 :]
            if message[0] == reply and message[4:] == rest:
                return True
    return False


def serve_once(listener, size):
    with listener, listener.accept()[0] as connection:
        received = b""
        while len(received) < size:
            received += connection.recv(65536)
        connection.sendall(received)


@BOTH
def test_a_vxlan_packet_to_us_draws_no_port_unreachable_but_is_seen_by_packet_sockets(boxes, ours, far):
    assert is_refused(boxes, ours, far)
    with boxes.consumer() as consumer, raw_socket(boxes.ours, 3) as reader:
        assert is_taken_in_silence(boxes, ours, far)
        seen = [reader.recv(2048)]
        while not any(b"\x08" + bytes(60) in frame for frame in seen):
            assert readable(reader)
            seen.append(reader.recv(2048))
        assert consumer.dropped == 1
    assert is_refused(boxes, ours, far)


@BOTH
def test_neither_a_udp_socket_nor_a_vxlan_device_on_our_port_gets_anything(boxes, ours, far):
    boxes.ours.vxlan("vx0", 0x4D2, local=ours, group=far, under="eth0")
    packet = b"\x08\x00\x00\x00\x00\x04\xd2\x00" + bytes.fromhex("ffffffffffff 02de1f00ab42 88b5") + bytes(46)

    def decapsulated():
        return boxes.ours.link("vx0").get_attr("IFLA_STATS64")["rx_packets"]

    with udp_socket(boxes.far, far) as sender, udp_socket(boxes.ours, ours, PORT + 1) as listener:
        sender.sendto(packet, (ours, PORT))
        before = wait_for(decapsulated, "the VXLAN device hears us without the filter")
        with boxes.consumer(Claims((PORT, PORT + 1), CLAIMS.addresses)) as consumer:
            for _ in range(10):
                sender.sendto(packet, (ours, PORT))
                sender.sendto(packet, (ours, PORT + 1))
            wait_for(lambda: consumer.dropped == 20, "all twenty are consumed")
            assert decapsulated() == before
            assert not readable(listener, 0)


@BOTH
def test_a_train_is_consumed_whole(boxes, ours, far):
    udp_segment, size = 103, 100
    with (
        udp_socket(boxes.far, far) as sender,
        boxes.consumer() as consumer,
        raw_socket(boxes.ours, 3) as reader,
    ):
        sender.setsockopt(socket.SOL_UDP, udp_segment, size)
        sender.sendto(bytes(20 * size), (ours, PORT))
        wait_for(lambda: consumer.dropped, "it is consumed")
        while len(reader.recv(4096)) < 20 * size:  # one giant frame, among the neighbour discovery
            assert readable(reader)
        assert consumer.dropped == 1
        assert not readable(sender, 0)


@BOTH
def test_ping_tcp_and_other_udp_ports_go_on_as_before(boxes, ours, far):
    family = socket.AF_INET6 if ":" in ours else socket.AF_INET
    with boxes.consumer() as consumer:
        assert answers_an_echo(boxes, ours)
        with udp_socket(boxes.far, far) as sender, udp_socket(boxes.ours, ours, PORT + 1) as listener:
            sender.sendto(b"elsewhere", (ours, PORT + 1))
            assert readable(listener)
            assert listener.recv(64) == b"elsewhere"
        data = os.urandom(300_000)
        # the very number of our UDP port
        listener = boxes.ours.run(socket.create_server, (ours, PORT), family=family)
        server = threading.Thread(target=serve_once, args=(listener, len(data)))
        server.start()
        with boxes.far.run(socket.create_connection, (ours, PORT), DEADLINE_S) as client:
            client.sendall(data)
            received = b""
            while len(received) < len(data):
                received += client.recv(65536)
        server.join()
        assert received == data
        assert consumer.dropped == 0


@BOTH
def test_what_another_vtep_on_this_machine_is_sent_is_not_ours(boxes, ours, far):
    boxes.ours.address("eth0", "10.66.0.9/24")
    boxes.ours.address("eth0", "fd66::9/64")
    another = "fd66::9" if ":" in ours else "10.66.0.9"
    with boxes.consumer() as consumer, udp_socket(boxes.ours, another, PORT) as vtep:
        with udp_socket(boxes.far, far) as sender:
            sender.sendto(b"to the other", (another, PORT))
        assert readable(vtep)
        assert vtep.recv(64) == b"to the other"
        assert consumer.dropped == 0


def test_an_update_claims_the_new_addresses_and_gives_the_old_ones_back(boxes):
    with boxes.consumer(Claims((PORT,), (ip_address(OURS6),))) as consumer:
        assert is_refused(boxes, OURS4, FAR4)
        assert is_taken_in_silence(boxes, OURS6, FAR6)
        consumer.update(Claims((PORT,), (ip_address(OURS4),)))
        assert is_taken_in_silence(boxes, OURS4, FAR4)
        assert is_refused(boxes, OURS6, FAR6)
        assert consumer.dropped == 2


def test_nothing_leaks_while_a_hundred_updates_meet_traffic(boxes):
    to_our_port = nft.matches(nft.Base.NETWORK, 9, b"\x11"), nft.matches(nft.Base.TRANSPORT, 2, b"\x12\xb5")
    stop, sent = threading.Event(), [0]

    def flood():
        while not stop.is_set():
            sender.send(b"\x08" + bytes(60))
            sent[0] += 1

    others = [ip_address(f"10.66.7.{number}") for number in range(60)]
    with (
        udp_socket(boxes.far, FAR4) as sender,
        boxes.consumer() as consumer,
        closing(Stack(boxes.ours, nft.ethertype_is(0x0800), *to_our_port)) as stack,
    ):
        sender.connect((OURS4, PORT))
        flooding = threading.Thread(target=flood)
        flooding.start()
        try:
            for round_ in range(100):
                addresses = [*others[: round_ % 60], *CLAIMS.addresses]
                consumer.update(Claims((PORT, 8472 + round_), tuple(addresses)))
        finally:
            stop.set()
            flooding.join()
        wait_for(lambda: consumer.dropped + stack.seen >= sent[0], "every frame is somewhere")
        assert sent[0] > 100
        assert stack.seen == 0


@needs_nft
def test_the_filter_goes_when_its_process_is_killed(boxes):
    process = other_process(boxes)
    assert "flags owner" in boxes.ours.command("nft", "list", "table", "netdev", "fastpath-eth0")
    assert is_taken_in_silence(boxes, OURS4, FAR4)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: boxes.ours.command("nft", "list", "ruleset") == "", "the table is gone")
    assert is_refused(boxes, OURS4, FAR4)
    with boxes.consumer():
        assert is_taken_in_silence(boxes, OURS4, FAR4)


def test_a_second_instance_on_the_interface_is_refused_and_told_who_is_there(boxes):
    process = other_process(boxes)
    with pytest.raises(ConsumeError) as refused:
        boxes.ours.run(Consumer, "eth0", CLAIMS)
    assert str(refused.value) == (
        f"eth0: process {process.pid} already receives for fastpath on this interface"
    )
    assert refused.value.errno == errno.EBUSY
    assert is_taken_in_silence(boxes, OURS4, FAR4)  # the first one still works


def test_a_second_filter_of_this_process_is_refused_but_one_on_another_interface_is_not(boxes):
    connect(boxes.ours, "eth1", boxes.far, "eth1")
    with boxes.consumer():
        with pytest.raises(ConsumeError, match=r"^eth0: this process already receives"):
            boxes.ours.run(Consumer, "eth0", CLAIMS)
        boxes.ours.run(Consumer, "eth1", CLAIMS).close()


@needs_nft
def test_nobody_else_can_change_the_filter(boxes):
    with boxes.consumer():
        before = boxes.ours.command("nft", "list", "ruleset")
        boxes.ours.command("nft", "flush", "ruleset")
        for attempt in ("flush", "delete"):
            with pytest.raises(RuntimeError, match=r"not permitted|No such file"):
                boxes.ours.command("nft", attempt, "table", "netdev", "fastpath-eth0")
        assert boxes.ours.command("nft", "list", "ruleset") == before


@needs_nft
def test_a_table_of_our_name_without_an_owner_is_named_with_the_way_out(boxes):
    boxes.ours.command("nft", "add", "table", "netdev", "fastpath-eth0")
    with pytest.raises(ConsumeError, match="nft delete table netdev fastpath-eth0"):
        boxes.ours.run(Consumer, "eth0", CLAIMS)


def test_an_interface_that_vanished_and_came_back_gets_a_new_filter(boxes):
    consumer = boxes.ours.run(Consumer, "eth0", CLAIMS)
    boxes.ours.delete_link("eth0")
    with pytest.raises(ConsumeError, match="eth0: there is no such interface"):
        boxes.ours.run(Consumer, "eth0", CLAIMS)
    consumer.close()
    connect(boxes.ours, "eth0", boxes.far, "eth0")
    boxes.give_addresses()
    assert is_refused(boxes, OURS4, FAR4)
    with boxes.consumer():
        assert is_taken_in_silence(boxes, OURS4, FAR4)


def test_an_update_of_a_filter_that_went_with_its_interface_says_so(boxes):
    delete_chain = 5  # on Linux 6.18 an interface does not take its chain along: do it ourselves
    with boxes.consumer() as consumer:
        consumer._socket.commit(
            [
                nft.no_rules("fastpath-eth0", "ingress"),
                nft.new_chain("fastpath-eth0", "ingress")._replace(kind=delete_chain, flags=0),
            ]
        )
        with pytest.raises(ConsumeError, match="eth0: the interface vanished"):
            consumer.update(CLAIMS)


@pytest.mark.parametrize(
    ("calls", "answer"),
    [("socket", errno.EPROTONOSUPPORT), ("ask", errno.EINVAL), ("commit", errno.EOPNOTSUPP)],
    ids=["no_netfilter", "no_nf_tables", "no_owners"],
)
def test_a_kernel_without_nf_tables_is_told_apart(boxes, monkeypatch, calls, answer):
    def refuse(*_):
        raise OSError(answer, os.strerror(answer))

    if calls == "socket":
        monkeypatch.setattr(nft.NftSocket, "__init__", refuse)
    else:
        monkeypatch.setattr(nft.NftSocket, calls, refuse)
    if calls == "commit":
        monkeypatch.setattr(Consumer, "_refuse_another", lambda consumer: None)
    with pytest.raises(ConsumeUnsupportedError, match="eth0: no nf_tables with netdev ingress and owners"):
        boxes.ours.run(Consumer, "eth0", CLAIMS)


WITHOUT_ROOT = """
import ctypes, os, subprocess, sys
from ctrl.consume import Consumer
from fastpath.claims import Claims
libc = ctypes.CDLL(None, use_errno=True)
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
if sys.argv[1] == "namespace":
    if libc.unshare(0x10000000 | 0x40000000) != 0:  # CLONE_NEWUSER, CLONE_NEWNET
        sys.exit(77)
    libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: /proc/self is ours again
    open("/proc/self/uid_map", "w").write("0 65534 1")
    subprocess.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1"], check=True)
consumer = Consumer(sys.argv[2], Claims((4789,)))
consumer.update(Claims((4789, 8472)))
print(consumer.dropped)
"""


def without_root(where, device):
    argv = (sys.executable, "-c", WITHOUT_ROOT, where, device)
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)


@needs_root
def test_it_works_in_an_unprivileged_user_namespace():
    done = without_root("namespace", "eth0")
    if done.returncode == 77:
        pytest.skip("this system does not allow user namespaces")
    assert (done.stdout, done.stderr) == ("0\n", "")


@needs_root
def test_without_cap_net_admin_it_is_named():
    done = without_root("here", "lo")
    assert done.returncode == 1
    assert done.stderr.endswith("lo: a filter takes CAP_NET_ADMIN, which this process lacks\n")

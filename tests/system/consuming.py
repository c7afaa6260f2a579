"""Two boxes and a wire for the tests of ctrl.consume: ours, with the filter on its `eth0`, and a far one."""

import os
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import ip_address
from pathlib import Path

from ctrl import nftables as nft
from ctrl.consume import Consumer
from ctrl.lab.namespaces import Lab, Namespace, connect
from fastpath.claims import Claims

OURS4, OURS6, FAR4, FAR6 = "10.66.0.1", "fd66::1", "10.66.0.2", "fd66::2"
GROUP4, GROUP6 = "239.66.1.7", "ff05::66:7"
PORT = 4789
CLAIMS = Claims((PORT,), (ip_address(OURS4), ip_address(OURS6)))
DEADLINE_S = 5.0


def is_real_root() -> bool:
    """Say whether this is root outside of user namespaces: only that one can become anybody else."""
    everybody = ["0", "0", str(0xFFFFFFFF)]
    return os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split() == everybody


class Boxes:
    """`ours` and `far`, wired by their `eth0`."""

    def __init__(self, lab: Lab) -> None:
        self.ours, self.far = lab.namespace("ours"), lab.namespace("far")
        connect(self.ours, "eth0", self.far, "eth0")
        for box in (self.ours, self.far):  # a moment in which what is sent is lost
            wait_for(partial(is_up, box), f"{box} has its carrier")

    def give_addresses(self) -> None:
        """Address both ends, that know each other already, and answer however often they are asked."""
        ends = ((self.ours, OURS4, OURS6), (self.far, FAR4, FAR6))
        for (box, four, six), (other, *others) in zip(ends, reversed(ends), strict=True):
            box.address("eth0", f"{four}/24")
            box.address("eth0", f"{six}/64")
            for address in others:
                box.neighbour("eth0", address, other.mac("eth0"))
            wait_for(partial(is_local6, box, six), f"{box} takes {six} for its own")
            box.sysctl("net/ipv4/icmp_ratelimit", 0)
            box.sysctl("net/ipv6/icmp/ratelimit", 0)

    def go_silent(self) -> None:
        """Send nothing unasked: what is counted is what a test sent."""
        for box in (self.ours, self.far):
            box.sysctl("net/ipv6/conf/all/disable_ipv6", 1)

    @contextmanager
    def consumer(self, claims: Claims = CLAIMS) -> Iterator[Consumer]:
        consumer = self.ours.run(Consumer, "eth0", claims)
        try:
            yield consumer
        finally:
            consumer.close()


class Stack:
    """Counts, behind the filter, the frames on `eth0` that go on to the kernel's stack.

    Only those that match `expressions`, if any are given.
    """

    def __init__(self, box: Namespace, *expressions: bytes) -> None:
        self._socket = box.run(nft.NftSocket)
        table, chain = "behind", "ingress"
        self._question = nft.get_rules(table, chain)
        self._socket.commit(
            [
                nft.new_table(table),
                nft.new_ingress_chain(table, chain, "eth0", -400),
                nft.new_rule(table, chain, *expressions, nft.count()),
            ]
        )

    @property
    def seen(self) -> int:
        return nft.packets(self._socket.ask(self._question))

    def close(self) -> None:
        self._socket.close()


def wait_for(condition, what: str):
    """Poll until it is true; return what it gave."""
    end = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(0.001)
    return found


def is_up(box: Namespace) -> bool:
    return bool(box.link("eth0").get_attr("IFLA_OPERSTATE") == "UP")


def is_local6(box: Namespace, address: str) -> bool:
    """Say whether an address is delivered here: the kernel adds that route a moment after the address."""
    routes = box.run(Path("/proc/thread-self/net/ipv6_route").read_text).splitlines()
    return any(line.startswith(f"{ip_address(address).packed.hex()} 80 ") for line in routes)


def raw_socket(box: Namespace, protocol: int = 0) -> socket.socket:
    """An AF_PACKET socket on `eth0`: sends, and receives if `protocol` is 3 (all)."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        made.bind(("eth0", protocol))
        return made

    return box.run(make)


def udp_socket(box: Namespace, address: str, port: int = 0) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def make() -> socket.socket:
        made = socket.socket(family, socket.SOCK_DGRAM)
        made.bind((address, port))
        return made

    return box.run(make)


def readable(receiver: socket.socket, within_s: float = DEADLINE_S) -> bool:
    return bool(select.select([receiver], [], [], within_s)[0])

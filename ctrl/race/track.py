"""The track: a sender's namespace, a sink behind veth pairs, and, for what receives first, an NVE before it.

    nve [up] ---- [nve] box [out0] ---- [in0] sink
                            [out1] ---- [in1]       and so on, where receivers are to be behind several ports

All receivers behind a port have one next hop, a permanent neighbour. A veth's receiving softirq runs on the
sender's core and is part of what a copy costs, for all who race (LIMITS).
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Network
from pathlib import Path
from typing import Self

from ctrl.lab.namespaces import CLONE_NEWNET, Lab, connect
from ctrl.race.sink import Sink
from ctrl.race.traffic import NVE_MAC, OUR_MAC, OURS, SINK_MAC, VNI, Load, behind

MTU = 1600
SOL_PACKET, PACKET_VNET_HDR = 263, 15
BUFFER = 32 << 20
SO_SNDBUFFORCE = 32
CLONE_NEWNS = 0x00020000
MS_REC_PRIVATE = 0x4000 | 0x40000


def mac(address: bytes) -> str:
    return address.hex(":")


class Track:
    """Namespaces, devices and the sink of one race, and the two CPUs that it runs on. `n_ports` out of the
    box: what is raced for is spread over as many."""

    def __init__(self, n_ports: int = 1) -> None:
        cpus = sorted(os.sched_getaffinity(0))
        self.cpu, self.other_cpu = cpus[-1], cpus[0]
        """Where all copies are made; where frames are generated for those who receive them first."""
        with ExitStack() as opened:
            opened.callback(os.sched_setaffinity, 0, cpus)
            lab = opened.enter_context(Lab("race"))
            self.box, self.far, self.nve = (lab.namespace(name) for name in ("box", "sink", "nve"))
            for namespace in (self.box, self.far, self.nve):  # nothing but the race is on the wire
                for scope in ("all", "default"):
                    if Path("/proc/sys/net/ipv6").exists():
                        namespace.sysctl(f"net/ipv6/conf/{scope}/disable_ipv6", 1)
            connect(self.nve, "up", self.box, "nve", mtu=MTU)
            self.nve.set_link("up", address=mac(NVE_MAC))
            self.outs = tuple(f"out{port}" for port in range(n_ports))
            """Where copies leave the box."""
            ins = [f"in{port}" for port in range(n_ports)]
            for port, (near, far) in enumerate(zip(self.outs, ins, strict=True)):
                connect(self.box, near, self.far, far, mtu=MTU)
                self.box.set_link(near, address=mac(OUR_MAC))
                self.far.set_link(far, address=mac(SINK_MAC))
                network = IPv4Network((int(OURS) & ~0xFF | port << 8, 24))
                self.box.address(near, f"{network[1]}/24")
                self.box.neighbour(near, str(network[254]), mac(SINK_MAC))
                self.box.route(str(behind(port)), near, str(network[254]))
            self.sink = opened.enter_context(Sink(self.far, ins))
            os.sched_setaffinity(0, {self.cpu})
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    @contextmanager
    def vxlan(self, load: Load) -> Iterator[str]:
        """Lend a VXLAN device that replicates all that it is to send, and routes to each receiver."""
        self.box.vxlan("vx", VNI, local=str(OURS))
        try:
            self.box.remotes("vx", *map(str, load.receivers))
            yield "vx"
        finally:
            self.box.delete_link("vx")

    @contextmanager
    def packet_socket(self, device: str, *, vnet_hdr: bool = False, box: bool = True) -> Iterator[int]:
        """Lend an AF_PACKET socket that only sends, by a device of the box or of the NVE."""

        def opened() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            made.bind((device, 0))
            return made

        with (self.box if box else self.nve).run(opened) as packet:
            if vnet_hdr:
                packet.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            self.enlarge(packet, SO_SNDBUFFORCE, socket.SO_SNDBUF)
            yield packet.fileno()

    @staticmethod
    def enlarge(made: socket.socket, forced: int, asked: int) -> None:
        """Give a socket a large buffer; in a user namespace the host's limit holds."""
        try:
            made.setsockopt(socket.SOL_SOCKET, forced, BUFFER)
        except PermissionError:
            made.setsockopt(socket.SOL_SOCKET, asked, BUFFER)

    @contextmanager
    def segmentation(self, on: bool) -> Iterator[None]:
        """Switch the offload that leaves trains whole on the wire; it is on outside of this."""

        def switch(on: bool) -> None:
            for out in self.outs:
                self.box.feature(out, "tx-udp-segmentation", on)

        switch(on)
        try:
            yield
        finally:
            switch(True)

    def steer(self, device: str, cpu: int | None) -> None:
        """Have frames that come in at a device of the box handled on a CPU (receive packet steering), or, as
        at first, where they come in.

        /sys shows the namespace that it was mounted in, so it is mounted anew on a thread of its own.
        """
        self.box.run(_steer, device, cpu)


def _steer(device: str, cpu: int | None) -> None:
    """Write the mask of CPUs, most significant word first."""
    words = [0] * (1 + (cpu or 0) // 32)
    words[0] = 0 if cpu is None else 1 << cpu % 32
    mask = ",".join(f"{word:08x}" for word in words)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(_write_sys, home, f"class/net/{device}/queues/rx-0/rps_cpus", mask).result()
    finally:
        os.close(home)


def _write_sys(namespace: int, path: str, value: str) -> None:
    """Write below a /sys of a network namespace. The calling thread stays there, and must end."""
    libc = ctypes.CDLL(None, use_errno=True)

    def check(result: int) -> None:
        if result:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), f"/sys/{path}")

    check(libc.setns(namespace, CLONE_NEWNET))
    check(libc.unshare(CLONE_NEWNS))
    check(libc.mount(None, b"/", None, MS_REC_PRIVATE, None))
    check(libc.mount(b"sysfs", b"/sys", b"sysfs", 0, None))
    Path("/sys", path).write_text(value, encoding="ascii")

"""What the tests of `fastpath run` share: the process in a namespace, boxes around it, VMs that count.

Everything that is made here hangs on a `Lab` and is gone with it: namespaces, programs and sockets.
"""

from __future__ import annotations

import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from ipaddress import ip_interface
from pathlib import Path
from typing import Any, TypeVar

from ctrl.cli.asking import NotAnswered
from ctrl.cli.show import ask
from ctrl.lab import namespaces
from ctrl.lab.namespaces import Namespace, connect
from ctrl.table import Row
from tests.house.tree import ROOT

DEADLINE_S = 10.0
START_S = 60.0
"""How long a process may take to start: where a whole fabric starts beside it, it waits for all of them."""
QUIET_S = 0.15
"""How long nothing more must come, where a copy too many would show."""
MTU = 1650
TEST_ETHERTYPE = 0x88B5  # IEEE 802: local experiments
ETH_P_ALL = 3
SO_RCVBUFFORCE = 33
Name = TypeVar("Name", int, str)
BROADCAST = b"\xff" * 6
COMMAND = (sys.executable, "-c", "from ctrl.cli import main; main()")
BEGUN = "forwarding node="
"""What the log says once a start."""


def wait_for(
    condition: Callable[[], Any], what: str | Callable[[], str], within_s: float = DEADLINE_S
) -> Any:
    """Poll until it is true; return what it gave. `what` is a function where it tells how things are then."""
    end = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {within_s:g} s: {what() if callable(what) else what}"
        time.sleep(0.01)
    return found


def in_proportion(seconds: float) -> float:
    """A time that holds where Python takes up to half a second to import what a start needs; longer where it
    takes longer, here and now."""
    return seconds * max(1.0, 2 * min(_imported_s(), _imported_s()))


def _imported_s() -> float:
    begin = time.monotonic()
    subprocess.run((sys.executable, "-c", "import ctrl.daemon"), cwd=ROOT, check=True)
    return time.monotonic() - begin


class Lab(namespaces.Lab):
    """Boxes that say nothing by themselves, and a directory for what their programs write."""

    def __init__(self, name: str) -> None:
        super().__init__(f"S-{name}")
        self.directory = Path(tempfile.mkdtemp(prefix="fpS-"))  # short: socket paths end at 107 bytes
        self.sockets: list[socket.socket] = []
        self.daemons: list[Fastpath] = []

    def box(self, name: str, *, six: bool = False, forwards: bool = False) -> Namespace:
        """Make a namespace without reverse path filters; IPv6 is off unless it is wanted."""
        made = self.namespace(name)
        for scope in ("all", "default"):
            made.sysctl(f"net/ipv4/conf/{scope}/rp_filter", 0)
            # devices have IPv6 only where `plug` gives them an address: MLD of others would be in the books
            made.sysctl(f"net/ipv6/conf/{scope}/disable_ipv6", int(not six or scope == "default"))
        if forwards:
            made.sysctl("net/ipv4/ip_forward", 1)
            made.sysctl("net/ipv6/conf/all/forwarding", int(six))
        return made

    def packet_socket(self, box: Namespace, device: str, ethertype: int = 0) -> socket.socket:
        """Open an AF_PACKET socket on a device: it sends, and receives one ethertype's frames."""

        def make() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            made.bind((device, ethertype))
            return made

        self.sockets.append(box.run(make))
        return self.sockets[-1]

    def __exit__(self, *why: object) -> None:
        for daemon in self.daemons:
            daemon.process.terminate()
        for one in self.sockets:
            one.close()
        super().__exit__(*why)
        shutil.rmtree(self.directory, ignore_errors=True)


class Fastpath:
    """`fastpath run` in a box: started when made, until its lab ends at the latest."""

    def __init__(
        self,
        lab: Lab,
        box: Namespace,
        config: str,
        *,
        name: str = "",
        waits: bool = True,
        under: tuple[str, ...] = (),
    ) -> None:
        """`under`: the command that runs it, with less than we may do."""
        self.box, self._under = box, under
        self.name = name or box.name.rsplit("-", 1)[-1]
        self.directory = lab.directory
        self.socket = lab.directory / f"{self.name}.sock"
        self.file = lab.directory / f"{self.name}.toml"
        self.log_file = lab.directory / f"{self.name}.log"
        self.configure(config)
        lab.daemons.append(self)
        self.start(waits=waits)

    def configure(self, config: str) -> None:
        """Write the config file anew; who it is and where it answers is added."""
        head = f'node = "{self.name}"\n[control]\nsocket = "{self.socket}"\nhttp = ""\n'
        self.file.write_text(head + config)

    def start(self, *, waits: bool = True) -> None:
        """Start the process, in a log that goes on, and wait until it answers and receives."""
        with self.log_file.open("a") as log:
            self._n_begun = self.log.count(BEGUN)
            self.process = self.box.popen(
                *(*self._under, *COMMAND, "run", "-c", str(self.file)), cwd=ROOT, stdout=log, stderr=log
            )
        if waits:
            self.answers()

    def answers(self) -> Fastpath:
        """Return when it answers and receives."""
        wait_for(self._is_there, lambda: f"{self.name} answers: {self.log}", START_S)
        return self

    def _is_there(self) -> bool:
        assert self.process.poll() is None, f"{self.name} ended with {self.process.returncode}: {self.log}"
        with suppress(NotAnswered):
            return bool(self.show("status")) and self.log.count(BEGUN) > self._n_begun
        return False

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def show(self, name: str, /, **filters: str) -> list[Row]:
        """The rows of an object, as `fastpath show -j` has them."""
        return ask(self.socket, name, list(filters.items()))

    def drops(self) -> dict[str, int]:
        """How often each reason struck."""
        return {str(row["reason"]): int(str(row["frames"])) for row in self.show("drops")}

    def lost(self) -> dict[str, int]:
        """How often each reason struck a frame or a copy; not what control refused of IGMP and MLD, which
        IPv6 hosts keep saying."""
        rows = [row for row in self.show("drops") if row["unit"] in {"frame", "copy", "ring"}]
        return {str(row["reason"]): int(str(row["frames"])) for row in rows}

    def status(self) -> dict[str, Any]:
        return dict(self.show("status")[0])

    def port(self, name: str) -> dict[str, Any]:
        return dict(self.show("ports", name=name)[0])

    def settled(self) -> dict[str, Any]:
        """The status once it no longer changes."""
        before: dict[str, Any] = {}
        while True:
            now = self.status() | {"uptime_s": 0}
            if now == before:
                return now
            before = now
            time.sleep(0.1)

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Stop the process: what comes meanwhile waits in the rings, and is one batch afterwards."""
        self.process.send_signal(signal.SIGSTOP)
        wait_for(partial(stands_still, self.process.pid), "it stands still")
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def reload(self, config: str | None = None) -> str:
        """Give it another config, and return what the log says of it."""
        if config is not None:
            self.configure(config)
        before = len(self.log)
        self.process.send_signal(signal.SIGHUP)
        said = lambda: any(word in self.log[before:] for word in ("reloaded", "reload refused"))  # noqa: E731
        wait_for(said, lambda: f"a word about the reload: {self.log[before:]}")
        return self.log[before:]

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it by a signal; the exit code."""
        self.process.send_signal(how)
        return self.process.wait(DEADLINE_S)


def stands_still(pid: int) -> bool:
    """Say whether a process that was sent SIGSTOP has stopped: its threads go on until each has its turn."""
    with suppress(FileNotFoundError, ProcessLookupError):  # a thread may end before that
        stats = [stat.read_text() for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
        return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)
    return False


class Vm:
    """A VM behind a device: sends numbered frames to everybody, and counts those that it gets."""

    def __init__(self, lab: Lab, box: Namespace, device: str, number: int) -> None:
        self.mac = bytes((2, 0xD0, 0, 0, 0, number))
        self._socket = lab.packet_socket(box, device, TEST_ETHERTYPE)
        roomy(self._socket)

    def send(self, *numbers: int, size: int = 64) -> None:
        for number in numbers:
            self._socket.send(numbered(number, self.mac, size))

    def heard(self, n: int, within_s: float = DEADLINE_S, quiet_s: float = QUIET_S) -> list[int]:
        """The numbers that came, in their order: at least n if that many come, and all that still follow."""
        found: list[int] = []
        end = time.monotonic() + within_s
        while True:
            wait_s = quiet_s if len(found) >= n else max(0.0, end - time.monotonic())
            if not select.select([self._socket], [], [], wait_s)[0]:
                return found
            found.append(struct.unpack_from(">I", self._socket.recv(65536), 14)[0])


def roomy(receiver: socket.socket) -> None:
    """Have a socket hold many frames, where we may."""
    with suppress(PermissionError):  # in a user namespace
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)


def numbered(number: int, source: bytes, size: int = 64) -> bytes:
    """A broadcast frame of a VM with a number in it."""
    head = BROADCAST + source + struct.pack(">HI", TEST_ETHERTYPE, number)
    return head + bytes(i & 0xFF for i in range(size - len(head)))


def expect_once(hearers: Mapping[Name, Vm], numbers: list[int], but: tuple[Name, ...] = ()) -> None:
    """Assert that each VM but some got each number exactly once and in order, those nothing."""
    heard = {name: vm.heard(0 if name in but else len(numbers), quiet_s=0) for name, vm in hearers.items()}
    time.sleep(QUIET_S)
    for name, vm in hearers.items():
        heard[name] += vm.heard(0, quiet_s=0)
    wanted = {name: [] if name in but else numbers for name in hearers}
    doubled = {name: sum(k - 1 for k in Counter(got).values()) for name, got in heard.items()}
    assert heard == wanted, f"heard { ({name: len(got) for name, got in heard.items()}) }, doubled {doubled}"


def plug(box: Namespace, device: str, far: Namespace, *addresses: tuple[str, str], mtu: int = MTU) -> None:
    """Wire `device` of a box to `up` of another one, each with an address of a pair."""
    connect(box, device, far, "up", mtu=mtu)
    for near, distant in addresses:
        for end, end_device, address in ((box, device, near), (far, "up", distant)):
            if ":" in address:
                end.sysctl(f"net/ipv6/conf/{end_device}/disable_ipv6", 0)
            end.address(end_device, address)
    gateways = [str(ip_interface(near).ip) for near, _ in addresses]
    for gateway in gateways:
        far.route("::/0" if ":" in gateway else "0.0.0.0/0", "up", gateway)
    wait_for(partial(has_carrier, box, device), f"carrier of {device}")
    wait_for(partial(has_carrier, far, "up"), "carrier of its far end")


def has_carrier(box: Namespace, device: str) -> bool:
    return bool(box.link(device).get_attr("IFLA_OPERSTATE") == "UP")


def finished(box: Namespace, device: str) -> None:
    """Have a device hand over frames as they go on a cable: trains cut, all sums made (LIMITS trap 4)."""
    box.command(
        "ethtool", "-K", device, "tx", "off", "tx-udp-segmentation", "off", "tso", "off", "gso", "off"
    )

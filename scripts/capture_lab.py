"""Namespaces, real VXLAN devices, a real Open vSwitch and tcpdump: what a recording is made with.

Everything lives in namespaces named after our process id and in one temporary directory, and is taken down
in reverse order however the recording ends; nothing of the host is touched. Offloads are off at every
sender, because a checksum left for the network card to finish would be stored in the capture as a wrong
one.
"""

import ctypes
import importlib.util
import os
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self

from capture_file import Frame, read_capture

CLONE_NEWNET = 0x40000000
OVS_SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
READY_S = 10.0


@dataclass(frozen=True, slots=True)
class Wire:
    """One veth: a port of the ToR and the machine at its other end, with fixed MACs and addresses."""

    port: str
    tor_mac: str
    far_mac: str
    tor_addresses: tuple[str, ...]
    far_addresses: tuple[str, ...]


@dataclass(slots=True)
class Recorder:
    """The running tcpdump of each port, with the file that each writes to."""

    processes: dict[str, subprocess.Popen[bytes]]
    files: dict[str, Path]
    frames: list[Frame] = field(default_factory=list)

    def stop(self) -> list[Frame]:
        """End the recording and return the frames of all ports in time order."""
        time.sleep(0.2)  # what is on its way still counts
        for process in self.processes.values():
            _end(process, signal.SIGINT)
        for port, path in self.files.items():
            self.frames += read_capture(path, port)
        return sorted(self.frames, key=lambda frame: frame.time_ns)


def require(*tools: str) -> None:
    """Raise RuntimeError naming all commands and modules that are missing, before anything is set up."""
    missing = [
        tool for tool in tools if shutil.which(tool) is None and importlib.util.find_spec(tool) is None
    ]
    if missing:
        raise RuntimeError(f"missing: {', '.join(missing)}")
    if os.geteuid() != 0:
        raise RuntimeError("missing: root (network namespaces)")
    if subprocess.run(["unshare", "--net", "true"], check=False, capture_output=True).returncode:
        raise RuntimeError("missing: the right to make network namespaces")


def run(command: str, env: Mapping[str, str] | None = None) -> str:
    """Run a command and return its output; a failure names the command and repeats what it said."""
    done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Move this thread into a namespace: sockets opened here stay there, and /proc/sys/net is its own."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if libc.setns(descriptor, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"setns {path}")
        finally:
            os.close(descriptor)

    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        enter(f"/run/netns/{namespace}")
        yield
    finally:
        enter(f"/proc/thread-self/fd/{home}")
        os.close(home)


def set_sysctl(namespace: str, **values: int) -> None:
    """Set net.* values of a namespace; `__` stands for the dot (ipv4__ip_forward=0)."""
    with inside(namespace):
        for name, value in values.items():
            Path("/proc/sys/net", *name.split("__")).write_text(f"{value}\n")


class Lab:
    """The ToR and the machines on its ports; leaving the context removes all of it."""

    def __init__(self) -> None:
        self.tor = f"fpcap{os.getpid()}-tor"
        self._stack = ExitStack()
        self._far: dict[str, str] = {}

    def __enter__(self) -> Self:
        try:
            self.directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="fpcap-")))
            self._add_namespace(self.tor)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def far(self, port: str) -> str:
        """Return the namespace of the machine on a port."""
        return self._far[port]

    def connect(self, wire: Wire) -> str:
        """Lay one veth between the ToR and a new machine, its end named `uplink`; return its namespace."""
        namespace = f"fpcap{os.getpid()}-{wire.port}"
        self._add_namespace(namespace)
        self._far[wire.port] = namespace
        run(
            f"ip -n {self.tor} link add name {wire.port} address {wire.tor_mac} type veth "
            f"peer name uplink address {wire.far_mac} netns {namespace}"
        )
        ends = ((self.tor, wire.port, wire.tor_addresses), (namespace, "uplink", wire.far_addresses))
        for owner, device, addresses in ends:
            finish_checksums(owner, device)
            if any(":" in address for address in addresses):
                set_sysctl(owner, **{f"ipv6__conf__{device}__{key}": 0 for key in QUIET_IPV6})
            for address in addresses:
                run(f"ip -n {owner} address add {address} dev {device}")
        for owner, device, _ in ends:
            run(f"ip -n {owner} link set dev {device} up")
        for owner, device, _ in ends:
            wait_until(f"carrier of {device} in {owner}", partial(_has_carrier, owner, device))
            settle(owner, device)
        return namespace

    def vm_link(self, port: str, name: str, mac: str, address: str) -> str:
        """Give the machine on `port` a VM: the VM's end carries mac and address, the machine's is `name`."""
        host, guest = self._far[port], f"fpcap{os.getpid()}-{name}"
        self._add_namespace(guest)
        run(f"ip -n {host} link add name {name} type veth peer name eth0 address {mac} netns {guest}")
        finish_checksums(guest, "eth0")
        ask_once(guest, "eth0")
        run(f"ip -n {guest} address add {address} dev eth0")
        run(f"ip -n {guest} link set dev eth0 up")
        run(f"ip -n {host} link set dev {name} up")
        return guest

    def record(self, *ports: str) -> Recorder:
        """Start tcpdump on ports of the ToR, arriving frames only, and return when all of them listen."""
        processes: dict[str, subprocess.Popen[bytes]] = {}
        files = {port: self.directory / f"{port}.pcap" for port in ports}
        for port, path in files.items():
            command = (
                f"tcpdump -i {port} -Q in -U -n --immediate-mode --time-stamp-precision=nano -Z root -w -"
            )
            with path.open("wb") as output, path.with_suffix(".log").open("wb") as log:
                processes[port] = self.spawn(self.tor, command, output.fileno(), log.fileno())
        for path in files.values():
            wait_for(f"tcpdump on {path.stem}", path.with_suffix(".log"), "listening on")
        return Recorder(processes, files)

    def spawn(
        self, namespace: str, command: str, output: int = subprocess.DEVNULL, log: int = subprocess.DEVNULL
    ) -> "subprocess.Popen[bytes]":
        """Start a process of our own in a namespace; it is ended with the lab at the latest."""
        process = subprocess.Popen(
            shlex.split(f"ip netns exec {namespace} {command}"),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=log,
            start_new_session=True,  # a Ctrl-C reaches us alone: we end our children ourselves
        )
        self._stack.callback(_end, process, signal.SIGTERM)
        return process

    def start_ovs(self, port: str, bridge_mac: str, address: str) -> "OpenVSwitch":
        """Run Open vSwitch in userspace on the machine of a port; br-phy holds the underlay's address."""
        host, directory = self._far[port], self.directory
        database = directory / "conf.db"
        run(f"ovsdb-tool create {database} {OVS_SCHEMA}")
        remote = f"unix:{directory}/db.sock"
        self.spawn(host, f"ovsdb-server {database} --remote=p{remote} --unixctl={directory}/db.ctl")
        wait_for("ovsdb-server", directory / "db.sock")
        switch = OpenVSwitch(directory, remote)
        switch.vsctl("--no-wait init")
        environment = f"env OVS_RUNDIR={directory} OVS_LOGDIR={directory}"
        self.spawn(host, f"{environment} ovs-vswitchd {remote} --unixctl={directory}/switch.ctl")
        wait_for("ovs-vswitchd", directory / "switch.ctl")
        options = f"datapath_type=netdev 'other-config:hwaddr=\"{bridge_mac}\"'"
        switch.vsctl(f"add-br br-phy -- set bridge br-phy {options} -- add-port br-phy uplink")
        switch.vsctl("add-br br-int -- set bridge br-int datapath_type=netdev")
        run(f"ip -n {host} address add {address} dev br-phy")
        run(f"ip -n {host} link set dev br-phy up")
        return switch

    def udp(self, namespace: str, device: str, family: int = socket.AF_INET) -> socket.socket:
        """Open a UDP socket that sends by one device, multicast with hop limit 16, and hears nothing."""
        level = socket.IPPROTO_IPV6 if family == socket.AF_INET6 else socket.IPPROTO_IP
        opened = self.open_socket(namespace, device, family, socket.SOCK_DGRAM)
        with inside(namespace):
            index = socket.if_nametoindex(device)
        if family == socket.AF_INET6:
            opened.setsockopt(level, socket.IPV6_MULTICAST_IF, index)
            opened.setsockopt(level, socket.IPV6_MULTICAST_HOPS, 16)
            opened.setsockopt(level, socket.IPV6_MULTICAST_LOOP, 0)
        else:
            opened.setsockopt(level, socket.IP_MULTICAST_IF, struct.pack("=4s4si", b"", b"", index))
            opened.setsockopt(level, socket.IP_MULTICAST_TTL, 16)
            opened.setsockopt(level, socket.IP_MULTICAST_LOOP, 0)
        return opened

    def open_socket(
        self, namespace: str, device: str, family: int, kind: int, protocol: int = 0
    ) -> socket.socket:
        """Open any socket in a namespace, tied to a device; it is closed with the lab."""
        with inside(namespace):
            opened = self._stack.enter_context(socket.socket(family, kind, protocol))
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode() + b"\0")
        return opened

    def _add_namespace(self, name: str) -> None:
        run(f"ip netns add {name}")
        self._stack.callback(run, f"ip netns del {name}")
        set_sysctl(
            name,
            ipv6__conf__all__disable_ipv6=1,
            ipv6__conf__default__disable_ipv6=1,
            ipv4__conf__all__arp_ignore=1,
            ipv4__conf__all__rp_filter=0,
            ipv4__conf__default__rp_filter=0,
        )
        run(f"ip -n {name} link set dev lo up")


QUIET_IPV6 = ("router_solicitations", "dad_transmits", "accept_ra", "disable_ipv6")


@dataclass(frozen=True, slots=True)
class OpenVSwitch:
    """A running Open vSwitch: where its sockets are, and its three commands."""

    directory: Path
    database: str

    def vsctl(self, words: str) -> str:
        """Change the configuration, and wait until the switch has taken it on."""
        return run(f"ovs-vsctl --timeout=10 --db={self.database} {words}")

    def ofctl(self, words: str) -> str:
        """Talk OpenFlow to a bridge."""
        return run(f"ovs-ofctl {words}", env=os.environ | {"OVS_RUNDIR": str(self.directory)})

    def appctl(self, words: str) -> str:
        """Talk to the daemon itself."""
        return run(f"ovs-appctl --target={self.directory}/switch.ctl {words}")


def finish_checksums(namespace: str, device: str) -> None:
    """Have a device hand over frames as they would be on a cable: sums finished, nothing merged."""
    run(f"ip netns exec {namespace} ethtool -K {device} tx off tso off gso off gro off")


def add_vxlan(
    namespace: str, vni: int, group: str, mac: str, addresses: Sequence[str], options: str = "dstport 4789"
) -> str:
    """Make a Linux VXLAN device in multicast mode that is its own VM, and return its name (vx<VNI>).

    With an IPv6 address among its own it also shows neighbour discovery and MLD inside the overlay.
    """
    name = f"vx{vni}"
    run(
        f"ip -n {namespace} link add name {name} address {mac} type vxlan id {vni} group {group} "
        f"dev uplink {options}"
    )
    finish_checksums(namespace, name)
    ask_once(namespace, name)
    if any(":" in address for address in addresses):
        conf = f"ipv6__conf__{name}"
        set_sysctl(namespace, **{f"{conf}__router_solicitations": 1, f"{conf}__disable_ipv6": 0})
    for address in addresses:
        run(f"ip -n {namespace} address add {address} dev {name}")
    run(f"ip -n {namespace} link set dev {name} up")
    return name


def ask_once(namespace: str, device: str) -> None:
    """Have neighbours asked for once instead of three times: the number of ARPs is then ours to say."""
    set_sysctl(namespace, **{f"{family}__neigh__{device}__mcast_solicit": 1 for family in ("ipv4", "ipv6")})


def wait_for(what: str, path: Path, text: str = "") -> None:
    """Return when a file exists and holds a text; RuntimeError after READY_S."""
    wait_until(what, lambda: path.exists() and (not text or text in path.read_text(errors="replace")))


def wait_until(what: str, ready: Callable[[], bool]) -> None:
    """Return when something is ready; RuntimeError after READY_S."""
    deadline = time.monotonic() + READY_S
    while not ready():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} was not ready within {READY_S:.0f} s")
        time.sleep(0.02)


def settle(namespace: str, device: str) -> None:
    """Return when no address of a device is in doubt: before, nothing can be sent from it (up to 2 s)."""
    shown = f"ip -n {namespace} -o address show dev {device}"
    wait_until(f"the addresses of {device} in {namespace}", lambda: "tentative" not in run(shown))


def _has_carrier(namespace: str, device: str) -> bool:
    """Tell whether the kernel has noticed both ends of a veth: before, an IPv6 underlay loses frames."""
    return "state UP" in run(f"ip -n {namespace} -o link show dev {device}")


def _end(process: "subprocess.Popen[bytes]", how: signal.Signals) -> None:
    if process.poll() is not None:
        return
    process.send_signal(how)
    try:
        process.wait(READY_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

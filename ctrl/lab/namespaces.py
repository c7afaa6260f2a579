"""Network namespaces without names: made, wired, and gone with whoever made them, kill -9 included.

`ip netns add` fails in an unprivileged user namespace and leaves namespaces behind when a process is killed
(LIMITS trap 17). So a namespace here is a thread of ours that lives in it, and a descriptor: pyroute2 and
programs run on that thread, sockets opened there stay there. Nothing touches the host's own interfaces: a
veth pair is made inside, with its far end in the other namespace.

    with Lab("demo") as lab:
        left, right = lab.namespace("left"), lab.namespace("right")
        connect(left, "eth0", right, "eth0", mtu=1600)
        left.address("eth0", "10.0.0.1/24")
        right.address("eth0", "10.0.0.2/24")
        left.command("ping", "-c1", "10.0.0.2")

For a look from outside while it runs: `nsenter --net=/proc/PID/fd/FD` (`str(namespace)` says which).
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from ipaddress import ip_address, ip_interface
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from pyroute2 import IPRoute
from pyroute2.ethtool.ioctl import IoctlEthtool
from pyroute2.netlink.exceptions import NetlinkError

CLONE_NEWNET = 0x40000000
NTF_SELF = 2
NUD_PERMANENT = 0x80
KILLED_AFTER_S = 3.0

P = ParamSpec("P")
T = TypeVar("T")


def missing() -> str | None:
    """Say what keeps this process from making network namespaces; None if nothing does."""
    with ThreadPoolExecutor(1) as thread:
        try:
            thread.submit(_unshare).result()
        except OSError as error:
            return (
                f"network namespaces cannot be made here ({os.strerror(error.errno or 0)}): "
                "needs root, or a user namespace: unshare -Urnm"
            )
    return None


def _unshare() -> None:
    """Put the calling thread, and no other, into a network namespace of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "a network namespace")


class Lab:
    """The namespaces of one experiment; leaving it ends the programs started in them and frees all."""

    def __init__(self, name: str) -> None:
        self.name = f"fp-{os.getpid()}-{name}"
        self._namespaces = ExitStack()

    def namespace(self, name: str) -> Namespace:
        """Make a namespace with its loopback up. OSError where that is not allowed (see `missing`)."""
        return self._namespaces.enter_context(Namespace(f"{self.name}-{name}"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._namespaces.close()


class Namespace:
    """One network namespace; the kernel frees it after `close`, once no program and socket is left in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._programs: list[subprocess.Popen[str]] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        try:
            self.fd = self._thread.submit(self._settle).result()
        except BaseException:
            self._thread.shutdown()
            raise
        # No duplicate address detection, which takes a second, and nothing that nobody asked for on the wire.
        for knob, value in (("accept_dad", 0), ("router_solicitations", 0), ("accept_ra", 0)):
            for scope in ("all", "default"):
                with suppress(FileNotFoundError):  # a kernel without IPv6
                    self.sysctl(f"net/ipv6/conf/{scope}/{knob}", value)
        self.set_link("lo", state="up")

    @staticmethod
    def _settle() -> int:
        _unshare()
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def __str__(self) -> str:
        return f"{self.name} (/proc/{os.getpid()}/fd/{self.fd})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the programs, and let go of the namespace. Closing twice does nothing more."""
        for program in self._programs:
            with suppress(ProcessLookupError):
                program.terminate()
        for program in self._programs:
            try:
                program.wait(KILLED_AFTER_S)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()
            for pipe in (program.stdin, program.stdout, program.stderr):
                if pipe is not None:
                    with suppress(OSError):  # what was never read is lost
                        pipe.close()
        self._programs.clear()
        self._thread.shutdown()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def run(self, function: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """Call a function on the thread that lives in the namespace, and wait for it.

        Sockets that it opens belong to the namespace, and work on every thread.
        """
        return self._thread.submit(function, *args, **named).result()

    def popen(self, *argv: str | os.PathLike[str], **options: Any) -> subprocess.Popen[str]:
        """Start a program in the namespace, in text mode; it is ended with it."""

        def start() -> subprocess.Popen[str]:
            return subprocess.Popen(argv, text=True, **options)  # noqa: S603  running programs is its job

        program = self.run(start)
        self._programs.append(program)
        return program

    def command(self, *argv: str | os.PathLike[str], timeout_s: float = 30.0) -> str:
        """Run a program to its end, return what it printed; RuntimeError with its complaint if it failed."""
        program = self.popen(*argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            printed, complaint = program.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            program.kill()
            printed, complaint = program.communicate()[0], f"no end after {timeout_s:g} s"
        self._programs.remove(program)
        if program.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(map(str, argv))}: {complaint.strip()}")
        return printed

    def netlink(self, request: Callable[[Any], T], what: str) -> T:
        """Call `request` with a pyroute2.IPRoute in the namespace; OSError that says `what` was refused.

        Opened each time (a millisecond): pyroute2's sockets belong to a thread and its event loop.
        """

        def ask() -> T:
            try:
                with IPRoute() as route:
                    return request(route)
            except NetlinkError as error:
                raise OSError(error.code, os.strerror(error.code), f"{self.name}: {what}") from None

        return self.run(ask)

    def add_link(self, device: str, kind: str, **options: Any) -> None:
        """Make a device of a `kind` (bridge, dummy, vlan, ...), up; options are pyroute2's."""
        self.netlink(lambda ip: ip.link("add", ifname=device, kind=kind, **options), f"{kind} {device}")
        self.set_link(device, state="up")

    def set_link(self, device: str, **changes: Any) -> None:
        """Change a device: state="up", mtu=1600, address=MAC, master=index, ..."""
        index = self.index(device)
        self.netlink(lambda ip: ip.link("set", index=index, **changes), f"{device} {changes}")

    def delete_link(self, device: str) -> None:
        """Remove a device; of a veth pair, both ends."""
        index = self.index(device)
        self.netlink(lambda ip: ip.link("del", index=index), f"remove {device}")

    def link(self, device: str) -> Any:
        """Everything that the kernel says of a device, as a pyroute2 message. OSError where there is none."""
        return self.netlink(lambda ip: ip.link("get", ifname=device)[0], device)

    def index(self, device: str) -> int:
        """The number of a device."""
        return int(self.link(device)["index"])

    def mac(self, device: str) -> str:
        """The MAC of a device, as in 02:00:00:00:00:01."""
        return str(self.link(device).get_attr("IFLA_ADDRESS"))

    def address(self, device: str, address: str) -> None:
        """Add an address with its prefix length, 10.0.0.1/24 or fd00::1/64; an IPv6 one is usable at once."""
        index, own = self.index(device), ip_interface(address)
        nodad = {"flags": 2} if own.version == 6 else {}  # IFA_F_NODAD
        self.netlink(
            lambda ip: ip.addr(
                "add", index=index, address=str(own.ip), prefixlen=own.network.prefixlen, **nodad
            ),
            f"{device} {address}",
        )

    def route(self, prefix: str, device: str, gateway: str | None = None) -> None:
        """Add a route to a prefix, or to "default", by a device and, where given, a gateway."""
        index = self.index(device)
        by = {} if gateway is None else {"gateway": gateway}
        self.netlink(lambda ip: ip.route("add", dst=prefix, oif=index, **by), f"route to {prefix}")

    def neighbour(self, device: str, address: str, mac: str) -> None:
        """Set a permanent neighbour, over whatever is known of it."""
        index, family = self.index(device), _family(address)
        self.netlink(
            lambda ip: ip.neigh(
                "replace", family=family, dst=address, lladdr=mac, ifindex=index, state=NUD_PERMANENT
            ),
            f"neighbour {address}",
        )

    def vxlan(
        self,
        device: str,
        vni: int,
        *,
        local: str,
        under: str | None = None,
        group: str | None = None,
        port: int = 4789,
        mac: str | None = None,
        **options: Any,
    ) -> None:
        """Make a VXLAN device, up. `group`: a multicast group, or the one unicast remote; `under` is its
        device. Further options are pyroute2's (vxlan_learning=0, vxlan_ttl=1, ...)."""
        wanted = {"vxlan_id": vni, "vxlan_port": port, "vxlan_learning": 0} | options
        six = "6" if ip_address(local).version == 6 else ""
        wanted[f"vxlan_local{six}"] = local
        if group is not None:
            wanted[f"vxlan_group{six}"] = group
        if under is not None:
            wanted["vxlan_link"] = self.index(under)
        if mac is not None:
            wanted["address"] = mac
        self.add_link(device, "vxlan", **wanted)

    def remotes(self, device: str, *addresses: str, mac: str = "00:00:00:00:00:00") -> None:
        """Add remotes to a VXLAN device's entry of a MAC; by default that of head-end replication."""
        index = self.index(device)

        def append(ip: Any) -> None:
            for address in addresses:
                ip.fdb("append", ifindex=index, lladdr=mac, dst=address, state=NUD_PERMANENT, flags=NTF_SELF)

        self.netlink(append, f"remotes of {device}")

    def sysctl(self, path: str, value: int | str) -> None:
        """Set a knob of the namespace: net/ipv4/ip_forward, with slashes, as it stands under /proc/sys."""
        self.run(Path("/proc/sys", path).write_text, str(value))

    def feature(self, device: str, name: str, on: bool) -> None:
        """Switch an offload, as `ethtool -K` does; `name` is the kernel's, such as tx-udp-segmentation."""

        def switch() -> None:
            ethtool = IoctlEthtool(device)
            try:
                features = ethtool.get_features()
                if name not in features:
                    raise ValueError(f"{self.name}: {device} has no offload of the name {name}")
                features[name] = on
                ethtool.set_features(features)
            finally:
                ethtool.close()

        self.run(switch)


def connect(
    one: Namespace, one_device: str, other: Namespace, other_device: str, *, mtu: int = 1500, **options: Any
) -> None:
    """Wire two namespaces, or one with itself, by a veth pair that is up; options are those of both ends."""
    ends = {"mtu": mtu, **options}
    peer = {"ifname": other_device, "net_ns_fd": other.fd, **ends}
    one.netlink(
        lambda ip: ip.link("add", ifname=one_device, kind="veth", peer=peer, **ends), f"veth {one_device}"
    )
    one.set_link(one_device, state="up")
    other.set_link(other_device, state="up")


def _family(address: str) -> int:
    return 2 if ip_address(address).version == 4 else 10

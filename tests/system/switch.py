"""Open vSwitch in userspace, in a box of a lab: its daemons, with sockets and files of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from ctrl.lab.namespaces import Namespace
from tests.system.lab import Lab, Vm, finished, plug, wait_for

POINT, OVS = "10.9.0.1", "10.1.3.2"
"""Addresses of a replication point, and of the switch behind it."""

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
TOOLS = ("ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovs-ofctl", "ovs-appctl")


def missing() -> str | None:
    """Say what keeps a switch from running here."""
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    if lacking:
        return f"{', '.join(lacking)} missing: install openvswitch-switch"
    if not os.access("/dev/net/tun", os.W_OK):
        return "Open vSwitch in userspace opens /dev/net/tun, which needs root"
    return None


class Switch:
    """`br-phy` holds the box's `up` and its underlay address, `br-int` the VMs and the tunnels."""

    def __init__(self, lab: Lab, box: Namespace, address: str, gateway: tuple[str, str]) -> None:
        """`gateway` is the next hop of all tunnels: its address and MAC."""
        self.lab, self.box = lab, box
        self._directory = lab.directory / "ovs"
        self._directory.mkdir()
        self._database = f"unix:{self._directory}/db.sock"
        self._n_ports = 0
        self._start()
        datapath = "datapath_type=netdev"
        mac = f'other-config:hwaddr="{box.mac("up")}"'
        self.vsctl("add-br", "br-phy", "--", "set", "bridge", "br-phy", datapath, mac)
        self.vsctl(
            "add-port", "br-phy", "up", "--", "add-br", "br-int", "--", "set", "bridge", "br-int", datapath
        )
        box.set_link("br-phy", state="up")
        box.address("br-phy", address)
        box.route("0.0.0.0/0", "br-phy", gateway[0])
        self.appctl("tnl/neigh/set", "br-phy", *gateway)
        self.ofctl("del-flows", "br-int")

    def _start(self) -> None:
        log = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        there, here = (
            self._directory,
            {"OVS_RUNDIR": str(self._directory), "OVS_LOGDIR": str(self._directory)},
        )
        self.box.command("ovsdb-tool", "create", there / "conf.db", SCHEMA)
        self.box.popen(
            "ovsdb-server",
            there / "conf.db",
            f"--remote=p{self._database}",
            f"--unixctl={there}/db.ctl",
            **log,
        )
        wait_for((there / "db.sock").exists, "ovsdb-server")
        self.vsctl("--no-wait", "init")
        self.box.popen(
            "ovs-vswitchd", self._database, f"--unixctl={there}/switch.ctl", env=os.environ | here, **log
        )
        wait_for((there / "switch.ctl").exists, "ovs-vswitchd")

    def vsctl(self, *words: str) -> str:
        """Change the configuration, and wait until the switch has taken it on."""
        return self.box.command("ovs-vsctl", "--timeout=10", f"--db={self._database}", *words)

    def appctl(self, *words: str) -> str:
        return self.box.command("ovs-appctl", f"--target={self._directory}/switch.ctl", *words)

    def ofctl(self, verb: str, bridge: str, *words: str) -> str:
        return self.box.command("ovs-ofctl", verb, f"{self._directory}/{bridge}.mgmt", *words)

    def tunnel(self, name: str, kind: str, local: str) -> None:
        """Add a tunnel port that takes every sender and key (INTEROP.md): flows say where to and what key."""
        options = [f"options:{option}" for option in (f"local_ip={local}", "remote_ip=flow", "key=flow")]
        self._n_ports += 1
        self.vsctl(
            *("add-port", "br-int", name, "--", "set", "interface", name, f"type={kind}", *options),
            f"ofport_request={self._n_ports}",
        )

    def vm(self, name: str, number: int, tunnel: str, key: int, mask: int, remote: str) -> Vm:
        """Add a VM that sends to `remote` by a tunnel with a key, and gets what comes with such a key."""
        self.box.add_link(name, "veth", peer={"ifname": f"{name}-in"})
        self.box.set_link(f"{name}-in", state="up")
        self._n_ports += 1
        self.vsctl(
            *("add-port", "br-int", name, "--", "set", "interface", name),
            f"ofport_request={self._n_ports}",
        )
        out = f"set_tunnel:{key:#x},set_field:{remote}->tun_dst,output:{tunnel}"
        self.ofctl("add-flow", "br-int", f"in_port={name},actions={out}")
        self.ofctl(
            "add-flow", "br-int", f"in_port={tunnel},tun_id={key & mask:#x}/{mask:#x},actions=output:{name}"
        )
        return Vm(self.lab, self.box, f"{name}-in", number)


def behind_a_point(lab: Lab) -> tuple[Namespace, dict[int, Namespace], Switch]:
    """Make a point's box, hosts 1 and 2 behind its p1 and p2, and host 3 with a switch behind p3."""
    box = lab.box("point", forwards=True)
    box.address("lo", f"{POINT}/32")
    far = {n: lab.box(f"n{n}") for n in (1, 2, 3)}
    for n in (1, 2):
        plug(box, f"p{n}", far[n], (f"10.1.{n}.1/24", f"10.1.{n}.2/24"))
    plug(box, "p3", far[3])
    box.address("p3", "10.1.3.1/24")
    finished(box, "p3")  # the switch reads packet sockets: it would see a train as one datagram
    return box, far, Switch(lab, far[3], f"{OVS}/24", ("10.1.3.1", box.mac("p3")))

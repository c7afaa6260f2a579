"""Make what a lab file describes, in namespaces of this process."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ctrl.lab.labfile import BoxTable, LabFile, gateway_device
from ctrl.lab.namespaces import Lab, Namespace, connect

CARRIER_S = 5.0


def build(lab: Lab, file: LabFile) -> dict[str, Namespace]:
    """Make the boxes and all in them, and return once every wire has its carrier.

    OSError or RuntimeError with a sentence where this kernel will not have it.
    """
    boxes = {name: lab.namespace(name) for name in file.table.boxes}
    for box in boxes.values():
        for scope in ("all", "default"):  # bridges and new links would talk: MLD, router solicitations
            with suppress(FileNotFoundError):  # a kernel without IPv6
                box.sysctl(f"net/ipv6/conf/{scope}/disable_ipv6", 1)
    for wire in file.table.wires:
        one, other = wire.ends
        connect(boxes[one.box], one.device, boxes[other.box], other.device, mtu=wire.mtu)
    for name, table in file.table.boxes.items():
        _furnish(boxes[name], table)
    for wire in file.table.wires:
        for end in wire.ends:
            _wait_for_carrier(boxes[end.box], end.device)
    return boxes


def _furnish(box: Namespace, table: BoxTable) -> None:
    box.sysctl("net/ipv4/ip_forward", int(table.forwards))
    for device, addresses in table.addresses.items():
        if device not in table.bridges:
            for address in addresses:
                box.address(device, str(address))
    for prefix, gateway in table.routes.items():
        way = gateway_device(table, gateway)
        assert way is not None  # noqa: S101  the lab file was checked
        box.route(prefix, way, str(gateway))
    for device, vxlan in table.vxlan.items():
        local = next(a for a in table.addresses[vxlan.under] if a.version == vxlan.group.version)
        with _needing("VXLAN devices (CONFIG_VXLAN, modprobe vxlan)"):
            # as `ip link add type vxlan` makes them: learning the senders of what comes in
            box.vxlan(
                device,
                vxlan.vni,
                local=str(local.ip),
                under=vxlan.under,
                group=str(vxlan.group),
                vxlan_learning=1,
            )
    for bridge, ports in table.bridges.items():
        with _needing("bridges (CONFIG_BRIDGE, modprobe bridge)"):
            box.add_link(bridge, "bridge", br_mcast_snooping=int(table.snoops))
        index = box.index(bridge)
        for port in ports:
            box.set_link(port, master=index)
        for address in table.addresses.get(bridge, ()):
            box.address(bridge, str(address))


@contextmanager
def _needing(what: str) -> Iterator[None]:
    """Say what the kernel lacks, where it does not know a kind of device."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.EOPNOTSUPP, errno.ENODEV}:
            raise RuntimeError(f"this kernel has no {what}") from None
        raise


def _wait_for_carrier(box: Namespace, device: str) -> None:
    """Wait until what is sent there no longer falls into the first moment of a link, in which it is lost."""
    deadline = time.monotonic() + CARRIER_S
    while box.link(device).get_attr("IFLA_OPERSTATE") != "UP":
        if time.monotonic() > deadline:
            raise RuntimeError(f"{box.name}: {device} has no carrier after {CARRIER_S:g} s")
        time.sleep(0.01)

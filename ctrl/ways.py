"""By which port who is reached, as far as a config says.

1. A peer is reached by the port to which the kernel routes it (live, where there is a kernel to ask), else by
   the one whose `address` prefix holds it (the longest), else by the first that faces the core; ports that
   face VMs reach nobody.
2. What an NVE sends to groups leaves by its uplink: of the ports that face the core alone, the internal ones
   if there are any, the one whose `address` prefix holds the NVE's address, else the first. Internal ports
   lead to the other roles of this box, so no peer is reached by one. Where a device is beside the NVE, what
   comes to a group by the uplink is the NVE's, and by any other port the device's.
3. An NVE with managers is in no group: what it sends goes straight to those that it is told of.
"""

from __future__ import annotations

from collections.abc import Mapping

from ctrl import planner
from ctrl.config.schema import Config
from fastpath.model import IPAddress


def ways(config: Config) -> planner.Ways:
    """Learn from the ports' addresses who is reached where."""
    outward = [
        (i, port) for i, port in enumerate(config.ports) if "vm" not in port.faces and port.kind != "internal"
    ]
    return planner.Ways(
        tuple((i, address.network) for i, port in outward for address in port.addresses),
        tuple(i for i, port in outward if "core" in port.faces),
    )


def uplink(config: Config) -> int | None:
    """The port by which the NVE is in its groups; None: no port will do."""
    if config.nve is None:
        return None
    core = [i for i, port in enumerate(config.ports) if port.faces == ("core",)]
    core = [i for i in core if config.ports[i].kind == "internal"] or core
    prefixes = [(i, address.network) for i in core for address in config.ports[i].addresses]
    return planner.choose_out_port(config.nve.address, prefixes, core)


def out_port_to(config: Config, found: planner.Ways, vtep: IPAddress) -> int:
    """The port by which an NVE reaches another; where there is no way, that of what goes to groups."""
    out_port = found.out_port(vtep)
    return (uplink(config) or 0) if out_port is None else out_port


def vm_ports(config: Config) -> Mapping[str, tuple[int, ...]]:
    """The places of the VM ports of each network that has any, by its name."""
    found: dict[str, tuple[int, ...]] = {}
    for place, port in enumerate(config.ports):
        if "vm" in port.faces and port.network is not None:
            found[port.network] = (*found.get(port.network, ()), place)
    return found

"""What an NVE sends into the overlay: the lists of its networks, and what is planned of their tenants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial

from ctrl import planner
from ctrl.config.schema import Config
from ctrl.ways import out_port_to, uplink, vm_ports
from fastpath.model import IPAddress, Network, ReplicationList


def how_to_send(
    config: Config,
    networks: Iterable[Network],
    found: planner.Ways,
    told: Mapping[IPAddress, planner.Receivers],
) -> dict[str, planner.Overlay]:
    """How the NVE sends what is of each network with VM ports; of none, if the box is no NVE or no port will
    do. A network knows its own receivers alone: it is the same as before when those of others change."""
    nve, by = config.nve, uplink(config)
    if nve is None or by is None:
        return {}
    to_all = planner.Overlay(nve.address, by, tuple(_remotes(config, found, nve.send_to)))
    ports = vm_ports(config)
    here = [network for network in networks if network.name in ports]
    if not nve.manager:
        return {network.name: to_all for network in here}
    way = partial(out_port_to, config, found)
    return {
        network.name: replace(
            to_all,
            told={
                group: told[group].egresses(network, to_all, way)
                for group in network.groups()
                if group in told
            },
        )
        for network in here
    }


def lists(
    networks: Iterable[Network], up: Mapping[str, list[int]], sending: Mapping[str, planner.Overlay]
) -> Iterator[ReplicationList]:
    """Plan the lists of an NVE, of the networks with VM ports that are up."""
    for network in networks:
        if network.name in sending and up[network.name]:
            yield from planner.plan_nve_network(network, up[network.name], sending[network.name])


def snooped(
    config: Config,
    networks: Iterable[Network],
    up: Mapping[str, list[int]],
    sending: Mapping[str, planner.Overlay],
) -> Iterator[planner.Snooped]:
    """The networks with VM ports, be these up or not, whose tenant groups the NVE knows."""
    for network, table in zip(networks, config.networks, strict=True):
        if table.snoop and network.name in sending:
            yield planner.Snooped(network, frozenset(up[network.name]), sending[network.name])


def agnostic(
    config: Config,
    networks: Iterable[Network],
    up: Mapping[str, list[int]],
    sending: Mapping[str, planner.Overlay],
    found: planner.Ways,
) -> Iterator[planner.Agnostic]:
    """The networks with VM ports whose tenants' IGMP and MLD service nodes get besides."""
    for network, table in zip(networks, config.networks, strict=True):
        if table.igmp_to and network.name in sending:
            ports = frozenset(up[network.name])
            services = tuple(_remotes(config, found, table.igmp_to))
            yield planner.Agnostic(network, ports, sending[network.name], services)


def _remotes(config: Config, found: planner.Ways, addresses: Iterable[IPAddress]) -> Iterator[planner.Remote]:
    """Receivers of an NVE, each with its port."""
    return (planner.Remote(address, out_port_to(config, found, address)) for address in addresses)

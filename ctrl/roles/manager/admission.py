"""Who may be a node: refused with a sentence before anything of it is kept or written."""

from __future__ import annotations

import re

from ctrl.roles.manager.absent import addresses_of
from ctrl.roles.manager.values import ManagerSettings
from ctrl.roles.manager.work import Work
from ctrl.topology import records
from ctrl.topology.entry import Address, Node
from ctrl.topology.topology import Topology

ROLES = ("device", "replicator")
TUNNELS = ("nested", "rewrite")
_NAME = re.compile(r"[^/\s\x00-\x1f\x7f]{1,255}")
"""What a key of the store can hold."""
MAX_RANGES = 256


class Admission:
    """The door of a manager."""

    def __init__(self, work: Work, topology: Topology, settings: ManagerSettings) -> None:
        self._work = work
        self._topology = topology
        self._settings = settings
        self.coming: set[str] = set()
        """Nodes of open sessions that are not in the store yet."""

    def refusal(self, node: Node, identity: str | None) -> str | None:
        """Say why a node may not come, None where it may. Counts it."""
        for name, why in (
            ("bad_node", _nonsense(node)),
            ("unknown_role", self._role(node)),
            ("wrong_identity", _identity(node, identity)),
            ("old_generation", self._generation(node)),
            ("nodes_full", self._room(node)),
            ("address_claimed", self._claimed(node)),
        ):
            if why:
                self._work.refuse(name)
                return why
        return None

    def claim(self, node: Node) -> tuple[dict[str, bytes | None], dict[str, int]]:
        """What is to be put into the store for a node, where, and under which conditions but its live key."""
        puts: dict[str, bytes | None] = {}
        when: dict[str, int] = {}
        known = self._topology.nodes.get(node.name)
        if known != node:
            puts[records.node_key(node.name)] = records.encode_node(node)
            for address in addresses_of(known) - addresses_of(node) if known is not None else ():
                puts[records.address_key(address)] = None
        for address in addresses_of(node):
            if self._topology.claimant(address) != node.name:
                key = records.address_key(address)
                puts[key], when[key] = records.encode_name(node.name), 0
        if self._topology.is_dead(node.name):
            puts[records.dead_key(node.name)] = None
        return puts, when

    def _role(self, node: Node) -> str:
        return "" if node.role in ROLES else f"{node.name}: unknown role {node.role!r}, neither of {ROLES}"

    def _generation(self, node: Node) -> str:
        known = self._topology.nodes.get(node.name)
        if known is None or node.generation >= known.generation:
            return ""
        return f"{node.name}: was started again since (generation {node.generation} < {known.generation})"

    def _room(self, node: Node) -> str:
        nodes, most = self._topology.nodes, self._settings.max_nodes
        if node.name in nodes or len(nodes) + len(self.coming - {node.name}) < most:
            return ""
        return f"{node.name}: there are {most} nodes already (max_nodes)"

    def _claimed(self, node: Node) -> str:
        for address in addresses_of(node):
            owner = self._topology.claimant(address)
            if owner not in (None, node.name):
                return f"{node.name}: the address {_text(address)} is that of node {owner}"
        return ""


def _identity(node: Node, identity: str | None) -> str:
    if identity is None or identity == node.name:
        return ""
    return f"{node.name}: the certificate is that of {identity!r}"


def _nonsense(node: Node) -> str:
    if not _NAME.fullmatch(node.name):
        return f"{node.name[:255]!r}: no name of a node"
    for address in addresses_of(node) | {node.address}:
        if not _is_unicast(address):
            return f"{node.name}: {_text(address)} is no address of a node"
    if node.role == "device" and (node.replicate or node.vnis):
        return f"{node.name}: a device replicates for nobody"
    if node.replicate and len(node.replicate) != len(node.address):
        return f"{node.name}: addresses of two IP versions"
    if node.tunnel not in TUNNELS:
        return f"{node.name}: unknown tunnel {node.tunnel!r}, none of {TUNNELS}"
    if len(node.vnis) > MAX_RANGES or not all(
        0 <= low <= high <= records.MAX_NETWORK for low, high in node.vnis
    ):
        return f"{node.name}: not at most {MAX_RANGES} ranges of VNIs"
    return ""


def _is_unicast(address: Address) -> bool:
    if len(address) == 4:
        return 0 < address[0] < 0xE0
    return len(address) == 16 and address[0] != 0xFF and any(address)


def _text(address: Address) -> str:
    if len(address) == 4:
        return ".".join(map(str, address))
    return address.hex(":", 2) or "none"

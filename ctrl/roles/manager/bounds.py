"""How many groups there may be and how many devices in each.

1. Those on their way into the store count as well: ten thousand nodes may say the same group at once.
2. What tenants want counts like a group, but apart, each kind up to the same bounds: tenants, who want what
   they like, must not have a network's group refused. A tenants' group in a network, ANY of them, and that a
   node is AWARE are one each, and whoever wants it is a device of it.
"""

from __future__ import annotations

from collections import Counter

from ctrl.roles.manager.session import Session
from ctrl.roles.manager.values import ManagerSettings
from ctrl.topology.entry import ANY, AWARE, Address, Key, is_key, is_tenant, split_tenant
from ctrl.topology.topology import Topology

LINK_SCOPE = 2
"""Of an IPv6 group: up to here it stays on its link (RFC 4291 section 2.7)."""


def is_group(key: Key) -> bool:
    """Say whether it is a multicast address, or of tenants what they want behind one: a group that reports
    are sent for, ANY or AWARE."""
    if not is_tenant(key):
        return _is_multicast(key)
    if not is_key(key):
        return False
    outer, _, inner = split_tenant(key)
    is_wanted = inner in (ANY, AWARE) or (_is_multicast(inner) and not _is_of_link(inner))
    return _is_multicast(outer) and is_wanted


def _is_multicast(address: Address) -> bool:
    if len(address) == 4:
        return address[0] >> 4 == 0xE
    return len(address) == 16 and address[0] == 0xFF


def _is_of_link(group: Address) -> bool:
    """RFC 4541 section 2.1.2: 224.0.0.X is everybody's on its link, joined or not."""
    return group[:3] == bytes((224, 0, 0)) if len(group) == 4 else group[1] & 0x0F <= LINK_SCOPE


class Joining:
    """Who joins what, of all sessions."""

    def __init__(self, settings: ManagerSettings, topology: Topology) -> None:
        self._settings = settings
        self._topology = topology
        self._joining: Counter[Key] = Counter()
        self._fresh: dict[bool, set[Key]] = {False: set(), True: set()}
        """Groups that nobody was in; apart, what tenants want."""

    def refusal(self, session: Session, key: Key) -> str:
        """Say by which bound a node may not join, "" where it may."""
        settings, topology, of_tenants = self._settings, self._topology, is_tenant(key)
        if session.n_keys[of_tenants] >= settings.max_groups_per_node:
            return "node_groups_full"
        n_devices = topology.n_devices(key) + self._joining[key]
        if n_devices >= settings.max_devices_per_group:
            return "group_devices_full"
        n_known = topology.n_tenants if of_tenants else topology.n_groups
        if not n_devices and n_known + len(self._fresh[of_tenants]) >= settings.max_groups:
            return "groups_full"
        return ""

    def enter(self, session: Session, key: Key) -> None:
        """Count it until `leave`."""
        if not self._joining[key] and not self._topology.n_devices(key):
            self._fresh[is_tenant(key)].add(key)
        self._joining[key] += 1
        session.joins.add(key)

    def leave(self, session: Session, key: Key) -> None:
        """It is in the store, or wants to be there no more."""
        if key not in session.joins:
            return
        session.joins.remove(key)
        self._joining[key] -= 1
        if not self._joining[key]:
            del self._joining[key]
            self._fresh[is_tenant(key)].discard(key)

"""How many groups there may be and how many devices in each.

Those on their way into the store count as well: ten thousand nodes may say the same group at once."""

from __future__ import annotations

from collections import Counter

from ctrl.roles.manager.session import Session
from ctrl.roles.manager.values import ManagerSettings
from ctrl.topology.entry import Key
from ctrl.topology.topology import Topology


def is_group(key: Key) -> bool:
    """Say whether it is a multicast address."""
    return (len(key) == 4 and key[0] >> 4 == 0xE) or (len(key) == 16 and key[0] == 0xFF)


class Joining:
    """Who joins what, of all sessions."""

    def __init__(self, settings: ManagerSettings, topology: Topology) -> None:
        self._settings = settings
        self._topology = topology
        self._joining: Counter[Key] = Counter()
        self._fresh: set[Key] = set()
        """Groups that nobody was in."""

    def refusal(self, session: Session, key: Key) -> str:
        """Say by which bound a node may not join, "" where it may."""
        settings, topology = self._settings, self._topology
        if session.n_groups >= settings.max_groups_per_node:
            return "node_groups_full"
        n_devices = topology.n_devices(key) + self._joining[key]
        if n_devices >= settings.max_devices_per_group:
            return "group_devices_full"
        if not n_devices and topology.n_groups + len(self._fresh) >= settings.max_groups:
            return "groups_full"
        return ""

    def enter(self, session: Session, key: Key) -> None:
        """Count it until `leave`."""
        if not self._joining[key] and not self._topology.n_devices(key):
            self._fresh.add(key)
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
            self._fresh.discard(key)

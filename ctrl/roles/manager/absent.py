"""Nodes that are gone: kept for the hold time, then removed; points that do not answer get no copies at once
(CONFORMANCE M9).

1. Every manager that follows the store holds every node, from when it saw that nobody serves it or from its
   own start; the first to write wins, and none can remove a node that came back. Where it cannot see whether
   a node was served meanwhile, the hold begins anew.
2. A point is dead when nobody serves it and a live device's probes do not reach it. While somebody serves it,
   what probes say is that device's path: it uses its backup, and all others their point.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import partial

from ctrl.roles.manager.session import Session
from ctrl.roles.manager.work import Work
from ctrl.store.model import Write
from ctrl.topology import records
from ctrl.topology.entry import Address, Node
from ctrl.topology.topology import Topology


class Absent:
    """Who is gone, as one manager sees it."""

    def __init__(self, work: Work, topology: Topology, hold_s: float) -> None:
        self._work = work
        self._topology = topology
        self._hold_s = hold_s
        self._since: dict[str, float] = {}
        self._down: dict[str, set[int]] = {}
        """Points, each with the sessions whose probes do not reach it."""

    def served(self, *names: str) -> None:
        """Note that these were served, or may have been, whether or not they are now."""
        for name in names:
            if not self._topology.is_live(name):
                self._since.pop(name, None)

    @property
    def gone(self) -> Collection[str]:
        """Nodes that are held."""
        return self._since.keys()

    # --- from the store -------------------------------------------------------------------------------------

    def look(self, names: Iterable[str], now_s: float) -> None:
        """See whether these are served, as the topology has it by now."""
        topology = self._topology
        for name in names:
            if name not in topology.nodes or topology.is_live(name):
                if self._since.pop(name, None) is not None and name in topology.nodes:
                    self._work.tell("node_back", node=name)
            elif name not in self._since:
                self._since[name] = now_s
                self._work.tell("node_held", node=name, hold_s=self._hold_s)
                self._work.at(now_s + self._hold_s, partial(self._expire, name))
                self._bury(name)

    def _expire(self, name: str, now_s: float) -> int:
        since = self._since.get(name)
        if since is None or now_s < since + self._hold_s:
            return 1  # it came back since, and may be gone again: that has its own timer
        self._work.tell("node_removed", node=name)
        topology = self._topology
        live, node = records.live_key(name), records.node_key(name)
        gone = [node, records.acked_key(name), records.dead_key(name)]
        gone += [records.address_key(address) for address in addresses_of(topology.nodes[name])]
        gone += [records.groups_key(name, shard) for shard in topology.shards_of(name)]
        self._work.offer(Write(dict.fromkeys(gone), when={live: 0, node: topology.revision_of(node)}))
        return 1

    # --- points ---------------------------------------------------------------------------------------------

    def point_state(self, session: Session, address: Address, is_up: bool) -> None:
        """Hear what a device's probes say of a point."""
        name = self._topology.claimant(address)
        node = self._topology.nodes.get(name) if name is not None else None
        if name is None or node is None or node.role == "device":
            self._work.refuse("unknown_point")
            return
        if is_up:
            self._reached(session, name)
        elif name not in session.down:
            session.down.add(name)
            self._down.setdefault(name, set()).add(session.number)
            self._bury(name)

    def close(self, session: Session) -> None:
        """What a device said of points counts no more."""
        for name in list(session.down):
            self._reached(session, name)

    def _reached(self, session: Session, name: str) -> None:
        if name in session.down:
            session.down.remove(name)
            self._down[name].remove(session.number)
            if not self._down[name]:
                del self._down[name]

    def _bury(self, name: str) -> None:
        """Have a point get no copies, if it is dead."""
        if name in self._since and name in self._down and not self._topology.is_dead(name):
            self._work.tell("point_dead", node=name, devices=len(self._down[name]))
            dead, live = records.dead_key(name), records.live_key(name)
            self._work.offer(Write({dead: records.encode_number(0)}, when={live: 0, dead: 0}))


def addresses_of(node: Node) -> set[Address]:
    """The addresses that it claims."""
    return {node.address, node.replicate} - {b""}

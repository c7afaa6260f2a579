"""The rows of `show devices` and `show sessions` on a manager."""

from __future__ import annotations

from ctrl.roles.manager.session import Session
from ctrl.roles.manager.values import DeviceRow, SessionRow
from ctrl.topology.entry import Node
from ctrl.topology.topology import Topology


def device(topology: Topology, node: Node, session: Session | None, now_s: float) -> DeviceRow:
    """Show a node; `session`: ours with it."""
    found = topology.live_of(node.name)
    live = found.live if found is not None else None
    state = "live" if live is not None else "dead" if topology.is_dead(node.name) else "held"
    return DeviceRow(
        node=node.name,
        role=node.shown_role,
        address=node.address,
        state=state,
        manager=live.manager if live is not None else None,
        session=live.session if live is not None else None,
        revision_told=_told(topology, session) if session is not None else None,
        revision_acked=_acked(topology, session) if session is not None else None,
        groups=topology.n_told(node.name),
        last_s=now_s - session.last_s if session is not None else None,
    )


def session(topology: Topology, session: Session, now_s: float) -> SessionRow:
    """Show a session."""
    flight = session.flight
    n_all = len(topology.groups_of(session.node.name))
    return SessionRow(
        session=session.number,
        node=session.node.name,
        role=session.node.shown_role,
        since_s=now_s - session.since_s,
        last_s=now_s - session.last_s,
        unwritten=len(session.pending) + sum(map(len, session.full or session.parts)),
        pending=n_all if session.is_full_due else len(session.dirty),
        in_flight=0 if flight is None else n_all if flight.keys is None else len(flight.keys),
        revision_told=_told(topology, session),
        revision_acked=_acked(topology, session),
    )


def _acked(topology: Topology, session: Session) -> int:
    return topology.revision if session.is_current else session.in_force


def _told(topology: Topology, session: Session) -> int:
    """Up to where nothing is left to be told; what concerned others alone counts as told and acknowledged."""
    return max(session.told, _acked(topology, session))

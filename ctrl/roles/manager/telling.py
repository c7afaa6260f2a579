"""Instructions: what a node is told of what changed for it (US 9,838,462 step 704, CONFORMANCE M3, M4).

1. Made of what is when they are made, never of what was: a batch holds every key that changed for the node up
   to its revision, so that a node that has it knows all up to there.
2. At once, where it was told nothing for a moment, else gathered until that is over; and one batch on its way
   at a time: a node that is slow gets fewer batches, not a longer queue.
3. A node that comes back gets what changed since what it holds; only one that holds nothing of this store, or
   is a point, or may hold of tenants what nobody remembers, gets all there is (CONFORMANCE M10).
4. In force is what was acknowledged and not refused: a switch of a group waits for it (M12).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import partial

from ctrl.roles.manager.session import Flight, Session
from ctrl.roles.manager.values import Convergence
from ctrl.roles.manager.work import Work
from ctrl.rpc.messages import Ack, Instructions
from ctrl.topology.entry import Entry, Key
from ctrl.topology.topology import Topology

GATHER_S = 0.05
CROWD, CROWDED_S = 20, 30.0
"""So many nodes that begin at once are a crowd: while there is one, at most for `CROWDED_S`, instructions
wait, as each node that comes would have all others of its groups told anew."""
AGAIN_S = 0.25
PATIENCE_S = 5.0
"""How long an acknowledgement may take; twice as long after each time that it did."""
PART_KEYS = 4096
PART_ADDRESSES = 65536
"""In one message."""


class Telling:
    """The instructions of all sessions of a manager."""

    def __init__(
        self, work: Work, topology: Topology, store_id: str, convergence: Convergence, is_settling: bool
    ) -> None:
        self._work = work
        self._topology = topology
        self._store_id = store_id
        self._convergence = convergence
        self.is_settling = is_settling
        """What is told adds and never removes: it is not known yet who is there."""
        self.n_batches = 0
        self.n_beginning = 0
        """Nodes that are here, and whose full state is not in the store yet."""

    # --- what is to be told ---------------------------------------------------------------------------------

    def begin(self, session: Session, now_s: float) -> None:
        """Tell a node that has none of this session yet: what changed since what it holds, or all."""
        hello, topology, name = session.hello, self._topology, session.node.name
        session.patience_s, session.told_at_s = PATIENCE_S, now_s
        session.is_vnis_due = session.node.role != "device"
        is_resumed = hello.store == self._store_id and hello.revision > 0 and session.node.role == "device"
        ended = topology.ended(hello.revision) if is_resumed and not self.is_settling else None
        if ended is not None:
            since = hello.revision
            session.dirty.update(ended)
            session.dirty.update(
                key for key in topology.keys_of(name) if topology.changed_at(name, key) > since
            )
            session.told = session.in_force = since
        else:
            session.is_full_due = True
        self.schedule(session, now_s)

    def touch(
        self, session: Session, keys: Collection[Key], before: int, cause_s: float | None, now_s: float
    ) -> None:
        """These keys changed for it, in the step on from revision `before`."""
        if session.is_current:
            session.in_force = max(session.in_force, before)
        session.dirty.update(keys)
        if cause_s is not None and session.cause_s is None:
            session.cause_s = cause_s
        self.schedule(session, now_s)

    def touch_vnis(self, session: Session, before: int, now_s: float) -> None:
        """What a point has to serve alone changed."""
        self.touch(session, (), before, None, now_s)
        session.is_vnis_due = True
        self.schedule(session, now_s)

    def schedule(self, session: Session, now_s: float) -> None:
        """See to it that what is to be told will be."""
        if session.is_ready and not session.is_scheduled and not session.flight and session.is_due:
            session.is_scheduled = True
            due_s = max(now_s, session.told_at_s + GATHER_S)
            self._work.at(due_s, partial(self._tell, session, now_s))

    # --- telling it -----------------------------------------------------------------------------------------

    def _tell(self, session: Session, since_s: float, now_s: float) -> int:
        if session.is_open and self.n_beginning >= CROWD and now_s - since_s < CROWDED_S:
            self._work.at(now_s + AGAIN_S, partial(self._tell, session, since_s))
            return 1
        session.is_scheduled = False
        if not session.is_open or session.flight is not None or not session.is_due:
            return 1
        topology, name = self._topology, session.node.name
        keys: Iterable[Key] = session.dirty
        if session.is_full_due:
            keys = topology.keys_of(name)
        session.n_batches += 1
        self.n_batches += 1
        session.told, session.told_at_s = topology.revision, now_s
        session.flight = Flight(
            session.n_batches,
            topology.revision,
            None if session.is_full_due else session.dirty,
            session.is_vnis_due,
            session.cause_s,
            now_s,
        )
        n_keys = 0
        for message in self._parts(session, keys):
            self._work.messages.append((session.number, message))
            n_keys += len(message.entries) + len(message.removed)
        session.dirty, session.cause_s = set(), None
        session.is_full_due = session.is_vnis_due = False
        return 1 + n_keys

    def _parts(self, session: Session, keys: Iterable[Key]) -> Iterator[Instructions]:
        """Make the messages of a batch."""
        name, entry_of = session.node.name, self._topology.entry
        is_full = session.is_full_due and not self.is_settling
        vnis = self._topology.vnis_of(name) if session.is_vnis_due else None

        def part(more: bool) -> Instructions:
            return Instructions(
                session.n_batches,
                session.told,
                tuple(entries),
                tuple(removed),
                is_full=is_full,
                merge=self.is_settling,
                more=more,
                vnis=vnis,
            )

        entries: list[Entry] = []
        removed: list[Key] = []
        n_addresses = 0
        for key in keys:
            if len(entries) + len(removed) >= PART_KEYS or n_addresses >= PART_ADDRESSES:
                yield part(more=True)
                entries, removed, n_addresses = [], [], 0
            entry = entry_of(name, key)
            if entry is None:
                removed.append(key)
            else:
                entries.append(entry)
                n_addresses += len(entry.peers) + len(entry.backup) + len(entry.accept) + len(entry.onward)
        yield part(more=False)

    # --- what comes back ------------------------------------------------------------------------------------

    def acked(self, session: Session, message: Ack, now_s: float) -> None:
        """A node has what it was told; an acknowledgement of anything else is none."""
        flight = session.flight
        if flight is None or message.number != flight.number:
            return
        session.flight = None
        session.patience_s = PATIENCE_S
        self._note_refused(session, flight, message)
        session.in_force = flight.revision
        if flight.cause_s is not None:
            self._convergence.observe(now_s - flight.cause_s)
        self.schedule(session, now_s)

    def _note_refused(self, session: Session, flight: Flight, message: Ack) -> None:
        if flight.keys is None:
            session.refused = set()
        else:
            session.refused -= flight.keys
        for key, _ in message.refused:
            if flight.keys is None or key in flight.keys:
                session.refused.add(key)
        self._work.refuse("refused_by_node", len(message.refused))

    def in_force(self, session: Session) -> int:
        """Up to which revision all that concerns a node is in force there."""
        if session.is_current:
            session.in_force = self._topology.revision
        return session.in_force

    def repeat(self, session: Session, now_s: float) -> None:
        """Tell it again what it did not acknowledge, though it was heard meanwhile."""
        flight = session.flight
        if flight is None or session.last_s - flight.sent_s < session.patience_s:
            return
        session.patience_s *= 2
        session.flight = None
        if flight.keys is None:
            session.is_full_due = True
        else:
            session.dirty |= flight.keys
        session.is_vnis_due |= flight.with_vnis
        session.cause_s = flight.cause_s
        self.schedule(session, now_s)

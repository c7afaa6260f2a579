"""Whose a node is: the live key of each session of a manager (CONFORMANCE M9).

1. A session counts from when its own live key came back by the store, and ends with that key, be it that
   another manager took the node over or that the lease ran out.
2. Another process with our name is another manager: a token tells them apart. What a dead one left behind
   goes with its lease.
3. A key that was written may be gone before it was seen: in one step with others it is seen all the same; a
   full list does not say what there was before, so whatever it lacks is written again. What was in the way
   of one may be gone unseen, too, so after a moment it is tried again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial

from ctrl.roles.manager.admission import Admission
from ctrl.roles.manager.session import Session
from ctrl.roles.manager.work import Work
from ctrl.store.model import Write
from ctrl.topology import records
from ctrl.topology.records import Live
from ctrl.topology.topology import LiveAt, Topology

AGAIN_S = 1.0


class Claims:
    """The live keys of all sessions of a manager. `end`: ends a session with a sentence."""

    def __init__(
        self,
        name: str,
        work: Work,
        topology: Topology,
        admission: Admission,
        end: Callable[[Session, str], None],
    ) -> None:
        self.writer = f"{name}.{secrets.token_hex(8)}"
        """This process, as no other."""
        self._name = name
        self._work = work
        self._topology = topology
        self._admission = admission
        self._end = end
        self._is_listed = False
        """The store was read, once."""
        self._waiting: dict[int, Session] = {}
        """Those that came before that, or whose claim failed by what is not known yet."""
        self._unseen: dict[str, Session] = {}
        """By the live key that was written and did not come back."""

    # --- sessions -------------------------------------------------------------------------------------------

    def open(self, session: Session) -> None:
        """Write that the node is ours, unless somebody else is faster."""
        if self._is_listed:
            self._claim(session)
        else:
            self._waiting[session.number] = session

    def close(self, session: Session) -> None:
        """Give the node back, where it is ours by this session."""
        key = records.live_key(session.node.name)
        self._waiting.pop(session.number, None)
        if self._unseen.get(key) is session:
            del self._unseen[key]
        if session.live:
            self._release(key, session.live)

    def superseded(self, session: Session) -> None:
        """End a session that is not the node's newest one."""
        if session.is_open:
            self._end(session, "the node is served by a newer session")

    def _claim(self, session: Session) -> None:
        key = records.live_key(session.node.name)
        session.known = self._topology.revision_of(key)
        self._unseen[key] = session
        self._work.write(
            Write({key: self._value(session)}, when={key: session.known}, is_leased=True),
            lambda done, now_s: None if done else self._lost(session, now_s),
        )

    def _lost(self, session: Session, now_s: float) -> None:
        if session.is_open and not session.live:
            self._unseen.pop(records.live_key(session.node.name), None)
            self._waiting[session.number] = session
            self._claim_again(session)
            if session.number in self._waiting:
                self._work.at(now_s + AGAIN_S, partial(self._try_again, session))

    def _try_again(self, session: Session, now_s: float) -> int:
        if self._waiting.pop(session.number, None):
            self._claim(session)
        return 1

    def _claim_again(self, session: Session) -> None:
        """Try again once what was in the way is known; but another manager heard the node later."""
        found = self._topology.live_of(session.node.name)
        is_other = (found.revision if found else 0) != session.known
        if session.number in self._waiting and not is_other:
            return
        self._waiting.pop(session.number, None)
        if session.known < 0:  # it came before we could know who may
            why = self._admission.refusal(session.node, None)
            self._end(session, why) if why else self._claim(session)
        elif found and is_other and not self._is_ours(found.live):
            self.superseded(session)
        else:
            self._claim(session)

    def _record(self, session: Session) -> Live:
        return Live(self._name, self.writer, session.number)

    def _value(self, session: Session) -> bytes:
        return records.encode_live(self._record(session))

    def _is_ours(self, live: Live) -> bool:
        return live.process == self.writer

    def _release(self, key: str, revision: int) -> None:
        self._work.offer(Write({key: None}, when={key: revision}))

    # --- the store ------------------------------------------------------------------------------------------

    def seen(self, store_key: str, value: bytes) -> None:
        """Note a key that was written, be it gone by now."""
        session = self._unseen.get(store_key)
        if session is not None and value == self._value(session):
            session.is_claimed = True
            del self._unseen[store_key]

    def look(self, name: str, session: Session | None) -> bool:
        """See whose a node is, as the topology has it by now, and which session of ours it has; True: it is
        that one's from now on."""
        found = self._topology.live_of(name)
        if session is not None and self._is_lost(session, found):
            self.superseded(session)
            session = None
        if session is None:
            if found and self._is_ours(found.live):
                self._release(records.live_key(name), found.revision)
        elif session.is_claimed and not session.live and found:
            session.live = found.revision
            session.claim_puts, session.claim_when = self._admission.claim(session.node)
            return True
        return False

    def _is_lost(self, session: Session, found: LiveAt | None) -> bool:
        """Say whether a node that was a session's is so no longer."""
        if session.live:
            return found is None or found.revision != session.live
        return session.is_claimed and (found is None or found.live != self._record(session))

    def go_on(self, is_all: bool) -> None:
        """Claim what is to be claimed by what is known now. `is_all`: that came by a full list."""
        self._is_listed |= is_all
        sessions = list(self._waiting.values())
        if is_all:
            sessions += self._unseen.values()
        for session in sessions:
            self._claim_again(session)

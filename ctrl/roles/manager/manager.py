"""The manager role: sessions on one side, the store on the other (US 9,838,462 steps 703, 704 and 708).

1. It holds nothing of its own but sessions: what it tells nodes is a function of the store's items, and what
   it hears becomes such items. So any manager serves any node, and one that starts anew loses nothing.
2. `live/<node>` says whose word counts for a node; all that is written for it compares its revision. A
   session whose live key is another's ends, at both ends of a partition (CONFORMANCE M9, M11).
3. A name it did not expect, a bound that is hit, a message too late: refused by name and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

from ctrl.roles.manager import rows
from ctrl.roles.manager.absent import Absent
from ctrl.roles.manager.admission import Admission
from ctrl.roles.manager.claims import Claims
from ctrl.roles.manager.reporting import Reporting
from ctrl.roles.manager.session import Session
from ctrl.roles.manager.telling import Telling
from ctrl.roles.manager.values import Convergence, DeviceRow, ManagerSettings, SessionRow
from ctrl.roles.manager.work import News, Work
from ctrl.rpc.messages import Ack, FromManager, FromNode, Groups, Hello, Keepalive, Moved, PointState, Welcome
from ctrl.store.model import Changes, Write
from ctrl.topology import records
from ctrl.topology.entry import Address
from ctrl.topology.records import STABLE
from ctrl.topology.topology import Topology

KEEPALIVES_PER_S = 400
"""Of all nodes together; more nodes are heard less often."""
SPREAD = 0.618
"""Nodes that come at once are not spoken to at once for ever: this deals them out, session by session."""
POLL_KEYS = 5_000
"""What one poll tells at most, so that who waits for the loop waits less than a tenth of a second."""
LATE_S = 1.0
LIVE = records.live_key("")
MOVED_S = 5.0
"""How long word of moved VMs stays in the store."""


class Manager:
    """Serves nodes by the state of a store. Pure: after each call take what is to be done by `take_*`, and
    call `poll` at `deadline_s` (at once where that is past: a poll does a bounded amount of work)."""

    def __init__(
        self,
        name: str,
        store_id: str,
        settings: ManagerSettings,
        topology: Topology,
        now_s: float,
        settling_s: float = 0,
    ) -> None:
        """`settling_s`: how long it cannot know who is there, as its store is new (CONFORMANCE M10)."""
        self.name = name
        self.convergence = Convergence()
        self._store_id = store_id
        self._settings = settings
        self._topology = topology
        self._work = work = Work()
        self._absent = Absent(work, topology, settings.hold_s)
        self._admission = Admission(work, topology, settings)
        self._claims = Claims(name, work, topology, self._admission, self._end)
        self._reporting = Reporting(work, topology, settings, self._claims.superseded)
        self._telling = Telling(work, topology, store_id, self.convergence, settling_s > 0)
        self._sessions: dict[int, Session] = {}
        self._by_node: dict[str, Session] = {}
        self._ready: list[int] = []
        self._n_moved = 0
        if settling_s > 0:
            work.at(now_s + settling_s, self._end_settling)

    @property
    def refused(self) -> Counter[str]:
        """How often each refusal struck, by its name in `ctrl.refusals` without `manager_`."""
        return self._work.refused

    @property
    def n_batches(self) -> int:
        """Batches of instructions made."""
        return self._telling.n_batches

    @property
    def is_settling(self) -> bool:
        """True while instructions add and never remove (CONFORMANCE M10)."""
        return self._telling.is_settling

    # --- sessions: numbers given by the transport, never used twice by one process --------------------------

    def open(self, session: int, hello: Hello, identity: str | None, now_s: float) -> str | None:
        """Begin a session; a sentence why not, by which the transport ends it. `identity`: by the node's
        certificate, None where there is no TLS."""
        why = self._admission.refusal(hello.node, identity)
        if why is not None:
            return why
        name = hello.node.name
        older = self._by_node.get(name)
        if older is not None:
            older.live = 0  # not to be released: the new claim takes its place
            self._end(older, "the node opened another session")
        n_nodes = len(self._topology.nodes)
        keepalive_s = max(self._settings.hold_s / 3, n_nodes / KEEPALIVES_PER_S)
        opened = Session(session, hello, keepalive_s, now_s, now_s)
        self._sessions[session] = self._by_node[name] = opened
        self._admission.coming.add(name)
        self._telling.n_beginning += 1
        self._claims.open(opened)
        self._send(opened, Welcome(self.name, self._store_id, keepalive_s))
        first_s = now_s + keepalive_s * (session * SPREAD % 1)
        self._work.at(first_s, partial(self._tick, opened, first_s))
        self._work.tell("session_open", node=name, session=session, role=hello.node.role)
        return None

    def hear(self, session: int, message: FromNode, now_s: float) -> None:
        """Take what a node said."""
        heard = self._sessions.get(session)
        if heard is None:
            self._work.refuse("late")
            return
        heard.last_s = now_s
        match message:
            case Groups():
                self._reporting.hear(heard, message, now_s)
                self._begin(now_s)
                self._telling.schedule(heard, now_s)
            case Ack():
                self._telling.acked(heard, message, now_s)
                self._note_in_force(heard)
            case Keepalive():
                self._reporting.keepalive(heard, message.number)
            case PointState():
                self._absent.point_state(heard, message.address, message.is_up)
            case Hello():
                self._work.refuse("second_hello")
                self._end(heard, "a second hello")

    def closed(self, session: int, now_s: float) -> None:
        """The session ended, whoever ended it; one that is not known is none."""
        ended = self._sessions.get(session)
        if ended is not None:
            self._work.tell("session_closed", node=ended.node.name, session=session)
            self._forget(ended)

    def _end(self, session: Session, why: str) -> None:
        self._work.endings.append((session.number, why))
        self._work.tell("session_ended", node=session.node.name, session=session.number, why=why)
        self._forget(session)

    def _forget(self, session: Session) -> None:
        session.is_open = False
        self._telling.n_beginning -= not session.is_ready
        del self._sessions[session.number]
        if self._by_node.get(session.node.name) is session:
            del self._by_node[session.node.name]
            self._admission.coming.discard(session.node.name)
        self._absent.close(session)
        self._reporting.close(session)
        self._claims.close(session)

    def _tick(self, session: Session, due_s: float, now_s: float) -> int:
        """Keep a session, or end it; not where we come late ourselves: what it said may wait to be heard."""
        if not session.is_open:
            return 1
        silent_s = session.last_s + max(self._settings.hold_s, 3 * session.keepalive_s)
        if now_s >= silent_s and now_s - due_s < LATE_S:
            self._end(session, f"silent for {now_s - session.last_s:.0f} s")
            return 1
        self._send(session, Keepalive(session.n_batches))
        self._telling.repeat(session, now_s)
        next_s = now_s + session.keepalive_s
        if now_s < silent_s < next_s:
            next_s = silent_s
        self._work.at(next_s, partial(self._tick, session, next_s))
        return 1

    # --- the store ------------------------------------------------------------------------------------------

    def follow(self, changes: Changes, now_s: float) -> None:
        """Take what changed in the store, its own writes too."""
        before = self._topology.revision
        dirty = self._topology.apply(changes)
        cause_s = self._seen(changes)
        names = dirty.nodes
        if changes.is_all:
            names = names.union(self._absent.gone, self._by_node)
            self._absent.served(*self._absent.gone)
        self._admission.coming -= self._topology.nodes.keys() & self._admission.coming
        self._absent.look(names, now_s)
        for name in names:
            session = self._by_node.get(name)
            if self._claims.look(name, session) and session is not None:
                self._reporting.compare(session, now_s)
        self._claims.go_on(changes.is_all)
        self._begin(now_s)
        by_node = self._by_node
        for name, keys in dirty.keys.items():
            if name in by_node:
                self._telling.touch(by_node[name], keys, before, cause_s, now_s)
        for name in dirty.points:
            if name in by_node:
                self._telling.touch_vnis(by_node[name], before, now_s)
        for value in dirty.moved:
            self._tell_moved(value)
        self._step()
        for name in self._topology.awaited():
            if name in by_node:
                self._note_in_force(by_node[name])

    def _step(self) -> None:
        """Write the changes of mode that are due. None is while it settles: what a node holds of another
        store is merged, not replaced, and an acknowledgement does not say that a switch is in force."""
        if not self.is_settling:
            for write in self._topology.steps():
                self._work.write(write)

    def _begin(self, now_s: float) -> None:
        """Tell those whose full state is in the store by now."""
        for session in self._reporting.settle():
            self._telling.n_beginning -= 1
            self._telling.begin(session, now_s)
            self._ready.append(session.number)

    def _seen(self, changes: Changes) -> float | None:
        """Note which writes are back; when the oldest second information in them was heard, if by us."""
        if changes.is_all:
            self._reporting.seen_all({item.key for item in changes.items})
        heard_s: float | None = None
        for key, value, _ in changes.items:
            self._work.seen((key,))
            if value is not None and key.startswith(LIVE):
                self._claims.seen(key, value)
                self._absent.served(key.removeprefix(LIVE))
            cause_s = self._reporting.seen(key, value)
            if cause_s is not None and (heard_s is None or cause_s < heard_s):
                heard_s = cause_s
        return heard_s

    def _note_in_force(self, session: Session) -> None:
        """Write what is in force at a node, if a switch waits for it."""
        awaited = self._topology.awaited().get(session.node.name, 0)
        if awaited and self._telling.in_force(session) >= awaited and not self._hinders(session):
            self._reporting.advance(session, awaited)

    def _hinders(self, session: Session) -> bool:
        """Say whether a node refused what it was told of a group that is being switched."""
        return any(self._topology.state_of(key).stage != STABLE for key in session.refused)

    # --- what an operator says ------------------------------------------------------------------------------

    def moved(self, nves: Sequence[Address], now_s: float) -> int:
        """Have all devices ask those of these NVEs that are theirs (CONFORMANCE D19); how many are live."""
        self._n_moved += 1
        key = records.moved_key(f"{self._claims.writer}.{self._n_moved}")
        self._work.write(Write({key: records.encode_moved(nves)}, is_leased=True))
        self._work.at(now_s + MOVED_S, lambda _: self._forget_moved(key))
        topology = self._topology
        return sum(node.role == "device" and topology.is_live(name) for name, node in topology.nodes.items())

    def _forget_moved(self, key: str) -> int:
        self._work.write(Write({key: None}))
        return 1

    def _tell_moved(self, value: bytes) -> None:
        try:
            nves = records.decode_moved(value)
        except records.Damaged as problem:
            self._work.tell("store_damaged", why=str(problem))
            return
        for session in self._sessions.values():
            if session.node.role == "device":
                self._send(session, Moved(nves))

    # --- what is to be done ---------------------------------------------------------------------------------

    def written(self, write: Write, done: bool, now_s: float) -> None:
        """Hear what became of a write that was taken: that very object."""
        self._work.written(write, done, now_s)

    def take_writes(self) -> list[Write]:
        """To be committed in this order; `written` wants each of these objects back."""
        writes, self._work.writes = self._work.writes, []
        return writes

    def take_messages(self) -> list[tuple[int, FromManager]]:
        """(session, message), in order."""
        messages, self._work.messages = self._work.messages, []
        return messages

    def take_endings(self) -> list[tuple[int, str]]:
        """(session, why): to be ended, after its messages were sent. They count as closed already."""
        endings, self._work.endings = self._work.endings, []
        return endings

    def take_ready(self) -> list[int]:
        """Sessions of which all that they said at first is in the store."""
        ready, self._ready = self._ready, []
        return ready

    def take_news(self) -> list[News]:
        """State changes for the log: (event, keys and values), each once."""
        news, self._work.news = self._work.news, []
        return news

    @property
    def deadline_s(self) -> float | None:
        """When to call `poll` next."""
        return self._work.deadline_s

    def poll(self, now_s: float) -> None:
        """Do what is due."""
        self._work.poll(now_s, POLL_KEYS)

    def _send(self, session: Session, message: FromManager) -> None:
        self._work.messages.append((session.number, message))

    def _end_settling(self, now_s: float) -> int:
        self._work.tell("settled", nodes=len(self._topology.nodes), sessions=len(self._sessions))
        self._telling.is_settling = False
        for session in self._sessions.values():
            session.is_full_due = True
            self._telling.schedule(session, now_s)
        self._step()
        return len(self._sessions)

    # --- show -----------------------------------------------------------------------------------------------

    def devices(self, now_s: float) -> Iterator[DeviceRow]:
        """All nodes, one by one."""
        for name, node in self._topology.nodes.items():
            yield rows.device(self._topology, node, self._by_node.get(name), now_s)

    def sessions(self, now_s: float) -> Iterator[SessionRow]:
        """The sessions that this manager serves."""
        for session in self._sessions.values():
            yield rows.session(self._topology, session, now_s)

"""Second information: from what nodes say to what is written (US 9,838,462 step 703, CONFORMANCE M1, M8).

1. What a session says is compared with the store only once its own live key came back by the store: then all
   that older sessions of the node wrote is known, and no more of theirs can come.
2. One write of a node is on its way at a time, until it came back by the store. So its shards are always made
   from what they are, and a node that says much is written in few steps.
3. A bound refuses who comes last; what is refused is forgotten, and the node's next full state asks again.
4. Others spare a node that is aware what it does not want. So one that cannot say all that it wants is not
   aware: that is refused by the same bound, in the same step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache

from ctrl.roles.manager.bounds import Joining, is_group
from ctrl.roles.manager.session import Said, Session
from ctrl.roles.manager.values import ManagerSettings
from ctrl.roles.manager.work import Work
from ctrl.rpc.messages import Group, Groups, Refused, Resend
from ctrl.store.model import MAX_WRITE_BYTES, Write
from ctrl.topology import records
from ctrl.topology.entry import Key, aware_of, is_key, is_tenant
from ctrl.topology.records import NO_NETWORKS, Networks
from ctrl.topology.topology import Topology

MAX_NETWORKS = 1024
"""Of each kind, of one group."""
MARGIN_BYTES = 512
"""Of a write, for each key."""


class Reporting:
    """What all sessions of a manager say of their groups."""

    def __init__(
        self, work: Work, topology: Topology, settings: ManagerSettings, lost: Callable[[Session], None]
    ) -> None:
        """`lost`: hears of a session that is not the node's newest one."""
        self._work = work
        self._lost = lost
        self._topology = topology
        self._settings = settings
        self._joining = Joining(settings, topology)
        self._unseen: dict[str, Session] = {}
        """By the store's key that has to come back."""
        self._landed: list[Session] = []
        self._ready: list[Session] = []

    # --- what a node says -----------------------------------------------------------------------------------

    def hear(self, session: Session, message: Groups, now_s: float) -> None:
        """Take second information."""
        if session.node.role != "device" and (message.added or message.gone):
            self._work.refuse("not_a_device", len(message.added) + len(message.gone))
            message = Groups(message.revision, is_full=message.is_full, more=message.more, base=message.base)
        if message.is_full:
            self._hear_full(session, message, now_s)
        elif session.revision is None or message.base > session.revision:
            self.ask_again(session)
        elif message.revision <= session.revision:
            return  # it came before
        elif message.base < session.revision:
            self.ask_again(session)
        else:
            self._hear_difference(session, message, now_s)

    def keepalive(self, session: Session, revision: int) -> None:
        """Hear which revision it is at; what is missing is asked for."""
        if revision != session.revision:
            self.ask_again(session)

    def ask_again(self, session: Session) -> None:
        """Have it say its full state, once until it does."""
        if not session.is_resend_asked:
            session.is_resend_asked = True
            self._work.messages.append((session.number, Resend()))

    def _hear_full(self, session: Session, message: Groups, now_s: float) -> None:
        if session.parts_revision != message.revision:
            session.parts, session.parts_revision, session.unaware = ({}, {}), message.revision, ""
        self._collect(session, session.parts, message.added)
        if message.more:
            return
        session.full, session.parts, session.parts_revision = session.parts, ({}, {}), -1
        session.revision = message.revision
        session.is_resend_asked = False
        self.compare(session, now_s)

    def _hear_difference(self, session: Session, message: Groups, now_s: float) -> None:
        session.revision = message.revision
        if session.full is None:
            added: Said = ({}, {})
            self._collect(session, added, message.added)
            self._wish(session, added[False] | added[True], message.gone, now_s)
            self.advance(session)
            return
        for key in message.gone:
            session.full[is_tenant(key)].pop(key, None)
        self._collect(session, session.full, message.added)

    def _collect(self, session: Session, into: Said, groups: Iterable[Group]) -> None:
        refused: list[tuple[Key, str]] = []
        for key, vnis, vsids in groups:
            kept = into[is_tenant(key)]
            if not is_group(key):
                refused.append((key, "not_a_group"))
            elif key not in kept and len(kept) >= self._settings.max_groups_per_node:
                refused.append((key, "node_groups_full"))
            else:
                networks = _networks(vnis, vsids)
                if networks is None:
                    refused.append((key, "bad_networks"))
                else:
                    kept[key] = networks
        self._refuse(session, refused)

    # --- against the store ----------------------------------------------------------------------------------

    def compare(self, session: Session, now_s: float) -> None:
        """Take the full state, if it came and the store can say what of it is news."""
        if not session.live or (session.full is None and session.node.role == "device"):
            return
        groups, of_tenants = session.full or ({}, {})
        full, session.full = groups | of_tenants, None
        stored = self._topology.groups_of(session.node.name)
        if not session.is_compared:
            self._count(session)
        gone = [key for key in stored if key not in full]
        gone += [key for key in session.pending if key not in full and key not in stored]
        self._wish(session, full, gone, now_s)
        if not session.is_compared:
            session.is_compared = True
            session.first_shards.update(session.shards)
        self.advance(session)
        self._check_ready(session)

    def _count(self, session: Session) -> None:
        """Work out how many it is in, by the store and what is on its way there."""
        known = self._topology.groups_of(session.node.name) | session.pending
        session.n_keys = Counter(is_tenant(key) for key, networks in known.items() if networks is not None)

    def _wish(
        self, session: Session, added: Mapping[Key, Networks], gone: Iterable[Key], now_s: float
    ) -> None:
        stored, pending = self._topology.groups_of(session.node.name), session.pending
        joining, refused = self._joining, list[tuple[Key, str]]()
        for key in gone:
            if (pending[key] if key in pending else stored.get(key)) is not None:
                session.n_keys[is_tenant(key)] -= 1
                joining.leave(session, key)
                self._change(session, key, None, now_s)
        for key, networks in added.items():
            known = pending[key] if key in pending else stored.get(key)
            if known == networks:
                continue
            if known is None:
                refusal = joining.refusal(session, key) or (session.unaware if _is_aware(key) else "")
                if refusal:
                    refused.append((key, refusal))
                    continue
                session.n_keys[is_tenant(key)] += 1
                joining.enter(session, key)
            self._change(session, key, networks, now_s)
        self._refuse(session, refused)

    def _change(self, session: Session, key: Key, networks: Networks | None, now_s: float) -> None:
        session.pending[key] = networks
        session.shards[records.shard_of(key)] = None
        if session.heard_s is None:
            session.heard_s = now_s

    def _refuse(self, session: Session, refused: list[tuple[Key, str]]) -> None:
        cut = (name for key, name in refused if is_tenant(key) and not _is_aware(key))
        session.unaware = session.unaware or next(cut, "")
        if session.unaware:
            refused = refused + [(key, session.unaware) for key in self._withdraw_aware(session)]
        if not refused:
            return
        for key, name in refused:
            self._work.refuse(name)
            session.dirty.add(key)  # it may hold something of it from before
        self._work.messages.append((session.number, Refused(tuple(refused))))

    def _withdraw_aware(self, session: Session) -> list[Key]:
        """Have it be aware of nothing; of what it was, be it by the write of a session before."""
        known = self._topology.groups_of(session.node.name) | session.pending
        keys = [key for key, networks in known.items() if networks is not None and _is_aware(key)]
        for key in keys:
            session.n_keys[is_tenant(key)] -= 1
            self._joining.leave(session, key)
            self._change(session, key, None, session.last_s)
        return keys

    # --- into the store -------------------------------------------------------------------------------------

    def advance(self, session: Session, awaited: int = 0) -> None:
        """Write what is to be written of a node, unless a write of it is on its way. `awaited`: the revision
        that a switch waits for to be in force there."""
        if session.is_writing or not session.live:
            return
        name = session.node.name
        shards = self._changed_shards(session)
        puts = {records.groups_key(name, number): value for number, value in shards.items()}
        puts |= session.claim_puts
        when = {records.live_key(name): session.live} | session.claim_when
        if awaited and session.in_force >= awaited:
            puts[records.acked_key(name)] = records.encode_number(session.in_force)
        if not puts:
            return
        session.is_writing = True
        session.writing_shards = set(shards)
        session.writing_heard_s, session.heard_s = session.heard_s, None
        session.unseen = dict(puts)
        self._unseen.update(dict.fromkeys(puts, session))
        self._work.write(Write(puts, when), lambda done, _: None if done else self._lost(session))

    def _changed_shards(self, session: Session) -> dict[int, bytes | None]:
        """Make the shards that differ from the store's, as many as one write takes."""
        if not session.shards:
            return {}
        shard_of = records.shard_of
        made: dict[int, dict[Key, Networks]] = {number: {} for number in session.shards}
        for key, networks in self._topology.groups_of(session.node.name).items():
            if (number := shard_of(key)) in made:
                made[number][key] = networks
        changed = set()
        for key, wanted in session.pending.items():
            number = shard_of(key)
            if number not in made or made[number].get(key) == wanted:
                continue
            changed.add(number)
            if wanted is None:
                del made[number][key]
            else:
                made[number][key] = wanted
        return self._encoded(session, made, changed)

    def _encoded(
        self, session: Session, made: dict[int, dict[Key, Networks]], changed: set[int]
    ) -> dict[int, bytes | None]:
        encoded: dict[int, bytes | None] = {}
        n_looked_at, size = 0, 0
        for number in session.shards:
            if number in changed:
                value = records.encode_groups(made[number]) if made[number] else None
                n_bytes = MARGIN_BYTES + len(value or b"")
                if n_bytes > MAX_WRITE_BYTES:
                    self._give_up(session, number)
                    return self._changed_shards(session)  # that may have changed another one
                if size + n_bytes > MAX_WRITE_BYTES:
                    break
                size += n_bytes
                encoded[number] = value
            n_looked_at += 1
        for number in list(session.shards)[:n_looked_at]:
            del session.shards[number]
            if number not in encoded:
                session.first_shards.discard(number)
        return encoded

    def _give_up(self, session: Session, number: int) -> None:
        """Refuse what makes a shard larger than a write may be; what ends in it still does."""
        pending = session.pending.items()
        keys = [key for key, it in pending if it is not None and records.shard_of(key) == number]
        for key in keys:
            self._forget(session, key)
        self._count(session)
        self._refuse(session, [(key, "node_groups_full") for key in keys])

    # --- what became of it ----------------------------------------------------------------------------------

    def seen(self, key: str, value: bytes | None) -> float | None:
        """A key came back by the store. When that was heard which it says, if it is ours."""
        session = self._unseen.get(key)
        if session is None or session.unseen[key] != value:
            return None
        del self._unseen[key], session.unseen[key]
        if not session.unseen:
            self._landed.append(session)
        return session.writing_heard_s

    def seen_all(self, keys: Collection[str]) -> None:
        """These are all keys there are."""
        for store_key in [store_key for store_key in self._unseen if store_key not in keys]:
            self.seen(store_key, None)

    def settle(self) -> list[Session]:
        """Go on with those whose write is back, all of it; the sessions that are ready to be told now."""
        landed, self._landed = self._landed, []
        for session in landed:
            if not session.is_open:
                continue
            session.is_writing, session.writing_heard_s = False, None
            session.first_shards -= session.writing_shards
            session.claim_puts, session.claim_when = {}, {}
            self._forget_stored(session)
            self.advance(session)
            self._check_ready(session)
        ready, self._ready = self._ready, []
        return ready

    def close(self, session: Session) -> None:
        """Forget it."""
        for store_key in session.unseen:
            self._unseen.pop(store_key, None)
        for key in list(session.pending):
            self._forget(session, key)

    def _forget_stored(self, session: Session) -> None:
        stored = self._topology.groups_of(session.node.name)
        for key in [key for key, wanted in session.pending.items() if stored.get(key) == wanted]:
            self._forget(session, key)
        if not session.pending:
            session.heard_s = None

    def _forget(self, session: Session, key: Key) -> None:
        del session.pending[key]
        self._joining.leave(session, key)

    def _check_ready(self, session: Session) -> None:
        is_stored = session.is_compared and not session.first_shards and not session.claim_puts
        if is_stored and not session.is_ready:
            session.is_ready = True
            self._ready.append(session)


def _is_aware(key: Key) -> bool:
    return is_tenant(key) and is_key(key) and key == aware_of(key)


@lru_cache(maxsize=65536)
def _networks(vnis: tuple[int, ...], vsids: tuple[int, ...]) -> Networks | None:
    if not vnis and not vsids:
        return NO_NETWORKS
    if max(map(len, (vnis, vsids))) > MAX_NETWORKS or not all(
        0 <= number <= records.MAX_NETWORK for number in (*vnis, *vsids)
    ):
        return None
    return Networks(tuple(sorted(set(vnis))), tuple(sorted(set(vsids))))

"""A node towards its manager: what it says of itself, and what it holds of what it was told.

1. Pure: messages and time in; messages, changed keys and the next deadline out. The same for a device and a
   replication point.
2. What it holds stays in force while no manager is there, and over a restart (CONFORMANCE M9, M10).
3. An older word never wins: neither an older number of the session, nor an older revision of the same store.
   Instructions of one number count all at once, with their last part.
4. Whatever is not wholly in force (refused, held down, merged) is asked for again with the next session: then
   `Hello` claims no revision, and the manager says everything.
5. Nothing is said per packet, and nothing twice: second information when it differs from what was said last,
   in full when a session begins or the manager asks (D3, D16).

After US 9,838,462 steps 703 to 708.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from ctrl.roles.batch import Batch, Words
from ctrl.roles.holding import Holding
from ctrl.roles.joined import Joined
from ctrl.roles.tunnels import Bounds, Tunnels
from ctrl.rpc.messages import (
    Ack,
    FromManager,
    FromNode,
    Group,
    Hello,
    Instructions,
    Keepalive,
    Moved,
    PointState,
    Refused,
    Resend,
    Welcome,
)
from ctrl.store.held import Held, Update
from ctrl.topology.entry import Address, Entry, Key, Node, is_tenant, outer_of

WELCOME_S = 30.0
"""How long a manager may take to answer; it may have thousands to answer at once."""
LOST_KEEPALIVES = 3
MOST_REFUSED = 4096
"""Refused keys in one Ack; all are counted."""


class Instructed:
    """One node, device or point, and its one session."""

    def __init__(self, node: Node, bounds: Bounds, held: Held) -> None:
        self.node = node
        self.manager = ""
        """Who answered last."""
        self.store, self.revision = held.store, held.revision
        """Of the newest instructions that were heard."""
        self.vnis = held.vnis
        """The ranges that a point has to serve alone, () for all."""
        self.refusals: Counter[str] = Counter()
        """How often each of tunnels.REFUSALS struck."""
        self.refused: dict[Key, str] = {}
        """Keys of which the newest word is not in force, with the reason."""
        self._n_refused: Counter[bool] = Counter()
        """Of them, groups, and apart (True) what tenants want."""
        self.groups_refused: dict[Key, str] = {}
        """Groups of ours that the manager does not count, with its reason."""
        self._bounds = bounds
        self._is_device = node.role == "device"
        self._tunnels = Tunnels(node, bounds)
        self._holding = Holding(bounds.shrink_hold_s)
        self._joined = Joined(held.groups)
        self._moved: dict[Address, None] = {}
        self._notes: list[str] = []
        self._is_vnis_changed = False
        self._is_whole = held.store != ""
        self._foreign: set[Key] = set()
        """Keys whose entries are of another store than that of the manager."""
        for entry in held.entries.values():
            self._put(entry)
        self._tunnels.unstored = held.entries.keys() - self._tunnels.entries.keys()
        self._stored = (held.store, held.revision, held.vnis)
        self._is_unstored = False
        self._end_session()

    # --- the session ----------------------------------------------------------------------------------------

    def connected(self, now_s: float) -> None:
        """Say who we are and our full state: a session began."""
        self._end_session()
        self.groups_refused.clear()
        self.is_connected = True
        self._is_greeting = True
        self._heard_s = now_s
        self._outbox += [PointState(address, is_up=False) for address in sorted(self._tunnels.down)]

    def disconnected(self, now_s: float) -> None:
        """Go on alone: it ended, and what was not yet said is dropped with it."""
        self._end_session()

    def _end_session(self) -> None:
        self.is_connected = False
        self._ack = Ack(0)
        """What was said last of the instructions in force, in this session."""
        self._is_greeting = self._is_full_due = False
        self._claimed = ""
        self._outbox: list[FromNode] = []
        self._batch: Batch | None = None
        self._welcome: Welcome | None = None
        self._heard_s = 0.0
        self._keepalive_at_s = math.inf
        self._ending: str | None = None

    def hear(self, message: FromManager, now_s: float) -> None:
        """Take one message of the session; without a session it is nobody's."""
        if not self.is_connected:
            return
        self._heard_s = now_s
        if isinstance(message, Welcome):
            self._hear_welcome(message, now_s)
        elif self._welcome is None:
            self._ending = f"the manager sent {type(message).__name__} before its Welcome"
        elif isinstance(message, Instructions):
            self._hear_instructions(message, self._welcome.store, now_s)
        elif isinstance(message, Keepalive):
            if message.number > max(self._ack.number, self._batch.number if self._batch else 0):
                self._outbox.append(self._ack)  # which says that the newer ones did not come
        elif isinstance(message, Resend):
            self._is_full_due = True
        elif isinstance(message, Refused):
            self.groups_refused |= {key: why for key, why in message.groups if key in self._joined.groups}
        elif isinstance(message, Moved):
            self._moved.update(dict.fromkeys(message.nves))

    def _hear_welcome(self, welcome: Welcome, now_s: float) -> None:
        if not 0 < welcome.keepalive_s < math.inf:
            self._ending = f"the manager asks for a keepalive every {welcome.keepalive_s} s"
            return
        self._welcome = welcome
        if welcome.store != self.store:
            self._foreign = set(self._tunnels.entries)
        self._keepalive_at_s = now_s + welcome.keepalive_s
        self.manager = welcome.manager
        if self._is_device and welcome.store and welcome.store == self._claimed:
            # the manager tells what changed since; of a group that we left it may know nothing any more
            for key in self._tunnels.entries.keys() - self._joined.groups.keys():
                if not self._is_ours(key):
                    self._tunnels.drop(key)

    # --- instructions ---------------------------------------------------------------------------------------

    def _hear_instructions(self, message: Instructions, store: str, now_s: float) -> None:
        if message.number <= self._ack.number:
            if message.number == self._ack.number and not message.more:
                self._outbox.append(self._ack)
            return
        if store == self.store and message.revision < self.revision:
            self._refuse("older_instructions")
            self._batch = None
            return
        batch = self._batch
        if batch is None or (batch.number, batch.revision) != (message.number, message.revision):
            batch = self._batch = Batch(message.number, message.revision)
        batch.add(message, self._bounds.max_groups, self._tunnels.entries, self.refused)
        if not message.more:
            self._batch = None
            self._apply(batch, store, now_s)

    def _apply(self, batch: Batch, store: str, now_s: float) -> None:
        words = batch.words
        if batch.merge:
            foreign = {key: entry for key, entry in self._tunnels.entries.items() if key in self._foreign}
            words = batch.merged(foreign, self._is_device)
            self._is_whole = False
        elif batch.is_full:
            words |= dict.fromkeys(self._tunnels.entries.keys() - words.keys())
            self.refused.clear()
            self._n_refused.clear()
            self._tunnels.trust()
            self._foreign.clear()
            self._is_whole = True
        elif store != self.store:
            self._is_whole = False
        if batch.n_over:
            self._refuse("tunnels_full", batch.n_over.total())
            self._is_whole = False
        if batch.n_over[True]:
            self._tunnels.distrust("tunnels_full")
        n_had = self._tunnels.n_with_peers
        n_held = self._holding.sift(words, self._tunnels, self._is_ours, now_s)
        if n_held:
            self._notes.append(f"shrink held_down={n_held} of={n_had} for_s={self._bounds.shrink_hold_s:g}")
        refused = self._follow(words)
        if batch.vnis is not None and batch.vnis != self.vnis:
            self.vnis, self._is_vnis_changed = batch.vnis, True
        self.store, self.revision = store, batch.revision
        self._ack = Ack(batch.number, tuple(refused[:MOST_REFUSED]))
        self._outbox.append(self._ack)

    def _follow(self, words: Words) -> list[tuple[Key, str]]:
        """Bring what was said into force: first what ends, which makes room. What is refused, and why, what
        tenants want last: a manager waits with a switch of a group of which it hears that it is refused."""
        for key, word in words.items():
            if word is None:
                self._tunnels.drop(key)
                self._forgive(key)
        said = [word for word in words.values() if word is not None]
        refused = [(word.key, why) for word in said if (why := self._put(word))]
        return sorted(refused, key=lambda one: is_tenant(one[0]))

    def _put(self, entry: Entry) -> str:
        why = self._tunnels.put(entry)
        self._forgive(entry.key)
        if not why:
            return ""
        self._refuse(why)
        of_tenants = is_tenant(entry.key)
        if self._n_refused[of_tenants] < self._bounds.max_groups:
            self._n_refused[of_tenants] += 1
            self.refused[entry.key] = why
        else:
            self._is_whole = False
        return why

    def _forgive(self, key: Key) -> None:
        if self.refused and self.refused.pop(key, None) is not None:
            self._n_refused[is_tenant(key)] -= 1

    def _is_ours(self, key: Key) -> bool:
        return not self._is_device or outer_of(key) in self._joined.groups

    def _refuse(self, name: str, n: int = 1) -> None:
        if name not in self.refusals:
            self._notes.append(f"instructions refused={name}")
        self.refusals[name] += n

    def _standing(self) -> tuple[str, int]:
        """The store and revision that what we hold is the whole of, or none."""
        is_whole = self._is_whole and self._tunnels.is_trusted
        is_whole = is_whole and not self.refused and not self._holding.held
        return (self.store, self.revision) if is_whole else ("", 0)

    # --- second information ---------------------------------------------------------------------------------

    def joined(self, key: Key, vnis: tuple[int, ...] = (), vsids: tuple[int, ...] = ()) -> None:
        """Be in the group, or want this of the tenants', with these networks: all of them, sorted (M13)."""
        self._joined.join(Group(key, vnis, vsids))

    def left(self, key: Key) -> None:
        """Be in it, or want it, no longer. Its tunnels stay until the manager says so."""
        self._joined.leave(key)
        self._gone([key])

    def confirm(self) -> None:
        """Leave the groups from before the restart that nobody joined since: the queries are answered."""
        self._gone(self._joined.confirm())

    def _gone(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self.groups_refused.pop(key, None)
            self._follow(self._holding.take(key))

    @property
    def groups(self) -> Mapping[Key, Group]:
        """The second information as of now."""
        return self._joined.groups

    # --- points ---------------------------------------------------------------------------------------------

    def set_point_state(self, address: Address, is_up: bool, now_s: float) -> None:
        """Heed what the probes say of a point: in force at once, and told."""
        if self._tunnels.set_point_state(address, is_up) and self.is_connected:
            self._outbox.append(PointState(address, is_up))

    def points(self) -> AbstractSet[Address]:
        """The points to probe. A view: it goes on to change."""
        return self._tunnels.points.addresses.keys()

    @property
    def down(self) -> AbstractSet[Address]:
        """Those that do not answer."""
        return self._tunnels.down

    # --- what is in force -----------------------------------------------------------------------------------

    @property
    def entries(self) -> Mapping[Key, Entry]:
        """All tunnels. A view: it goes on to change."""
        return self._tunnels.entries

    @property
    def held_down(self) -> Mapping[Key, tuple[float, Entry | None]]:
        """Until when (monotonic seconds) what is not yet followed, after a sudden loss of most tunnels."""
        return self._holding.held

    def entry(self, key: Key) -> Entry | None:
        """What was told of the key and is in force."""
        return self._tunnels.entries.get(key)

    @property
    def n_tenants(self) -> int:
        """How many of `entries` are about tenants."""
        return self._tunnels.n_tenants

    def peers(self, key: Key) -> tuple[Address, ...]:
        """Where copies go now: to `backup` while a point of `peers` is down; or who else wants it."""
        return self._tunnels.peers(key)

    def senders(self) -> AbstractSet[Address]:
        """Every address that packets are taken from (D12). A view: it goes on to change."""
        return self._tunnels.senders.addresses.keys()

    # --- what is to be done ---------------------------------------------------------------------------------

    def take_messages(self) -> list[FromNode]:
        """What is to be said, in order; nothing without a session."""
        if not self.is_connected:
            return []
        messages: list[FromNode] = []
        if self._is_greeting:
            self._claimed, revision = self._standing()
            messages.append(Hello(self.node, self._claimed, revision))
        if self._is_greeting or self._is_full_due:
            messages += self._joined.full()
        else:
            messages += self._joined.difference()
        self._is_greeting = self._is_full_due = False
        messages += self._outbox
        self._outbox = []
        return messages

    def take_changes(self) -> set[Key]:
        """Keys whose copies or networks may differ since the last call; at first all that is held."""
        changed, self._tunnels.changed = self._tunnels.changed, set()
        return changed

    def take_senders_changed(self) -> bool:
        """Say whether `senders()` differs since the last call."""
        is_changed, self._tunnels.senders.is_changed = self._tunnels.senders.is_changed, False
        return is_changed

    def take_vnis_changed(self) -> bool:
        """Say whether `vnis` differs since the last call."""
        is_changed, self._is_vnis_changed = self._is_vnis_changed, False
        return is_changed

    def take_moved(self) -> list[Address]:
        """NVEs whose VMs moved: those of them that are ours are to be asked (D19)."""
        moved, self._moved = list(self._moved), {}
        return moved

    def take_notes(self) -> list[str]:
        """Changes of state for the log, each once: key=value."""
        notes, self._notes = self._notes, []
        return notes

    def take_ending(self) -> str | None:
        """Why the session had better end, if so: a sentence."""
        ending, self._ending = self._ending, None
        return ending

    def take_stored(self) -> Update | None:
        """What differs from what is on disk; to be called even where nothing is kept, or it would grow."""
        standing = (*self._standing(), self.vnis)
        entries, groups = self._tunnels.unstored, self._joined.unstored
        is_all = self._is_unstored
        if not (is_all or entries or groups or standing != self._stored):
            return None
        self._tunnels.unstored, self._joined.unstored = set(), set()
        self._stored, self._is_unstored = standing, False
        if is_all:
            return Update(*standing, dict(self._tunnels.entries), dict(self._joined.groups), is_all=True)
        return Update(
            *standing,
            {key: self._tunnels.entries.get(key) for key in entries},
            {key: self._joined.groups.get(key) for key in groups},
        )

    def store_again(self) -> None:
        """Have the next `take_stored` be of everything: a write failed."""
        self._is_unstored = True

    # --- time -----------------------------------------------------------------------------------------------

    @property
    def deadline_s(self) -> float | None:
        """When `poll` is due next."""
        due = self._holding.deadline_s
        if self.is_connected:
            due = min(due if due is not None else math.inf, self._keepalive_at_s, self._silent_at_s)
        return due

    def poll(self, now_s: float) -> None:
        """Do what is due: keepalives, an end for a manager that is silent, removals that waited."""
        due = self._holding.take_due(now_s)
        if due:
            self._notes.append(f"shrink followed={len(due)}")
            self._follow(due)
        if not self.is_connected:
            return
        if self._welcome is not None and self._keepalive_at_s <= now_s:
            self._outbox.append(Keepalive(self._joined.revision))
            self._keepalive_at_s = now_s + self._welcome.keepalive_s
        if self._silent_at_s <= now_s:
            self._ending = f"the manager said nothing for {now_s - self._heard_s:.0f} s"
            self._heard_s = now_s  # said once; should the session go on, it has as long again

    @property
    def _silent_at_s(self) -> float:
        welcome = self._welcome
        return self._heard_s + (LOST_KEEPALIVES * welcome.keepalive_s if welcome else WELCOME_S)

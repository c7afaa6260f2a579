"""All BFD sessions of one own address, by the peer's: one agenda, bounds, and what is refused. Pure.

1. One session a peer. A wanted one is active; others are made for peers that are allowed to have one, up to a
   bound, and answer (RFC 5880 section 6.1). A packet belongs to the session of its source, and must name it
   or none: the discriminator of one peer is of no use to another.
2. The packets of all peers together are bounded: the more sessions, the longer the interval that all of them
   are asked for. Ours grows later: by it the peers find us gone, while a point has little use for knowing of
   its probers. Both change in steps of a quarter: each is a Poll Sequence a session.
3. Answers end with their reason: a session that nobody was at for a while is forgotten, and one whose peer is
   allowed no more is closed.
4. The agenda is a heap in which each session stands once, never later than its deadline: a packet heard only
   moves deadlines on, so the heap need not know. What comes too early is put back, what is no more valid is
   dropped in its time, or at once where it is most of the heap.
5. Without authentication a forged source is the peer: who can forge the addresses of the underlay can end a
   session, as he can send into the overlay. RFC 5883 section 5 leaves the TTL open; packets are sent with 255
   and MIN_TTL is asked for, so that who forges must be near (as RFC 5082 has it for one hop).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, heapreplace
from math import inf

from ctrl.protocols import bfd
from ctrl.protocols.bfd_session import Session

MIN_TTL = 224
"""On receipt: 31 routers on the way at most."""
FORGOTTEN_AFTER_S = 30.0
SWEPT_EVERY_S = 5.0
LATE_S = 0.05
"""A turn that comes this much after its time is behind: so may be what it knows of the peers."""
MEAN_JITTER = 0.875

REFUSALS = {
    **bfd.REFUSALS,
    "too_far": f"Its TTL or hop limit is below {MIN_TTL}: it is from too far away, or forged.",
    "not_allowed": "It is from an address that we neither probe nor take packets from.",
    "too_many_sessions": "max_sessions: as many peers as may be have a session.",
    "unknown_session": "Its Your Discriminator is not that of the session of its source.",
}
"""Why a packet is refused: names, and a sentence each."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`interval_s`: between packets, as long as they are not more than `heard_per_s` and `sent_per_s`."""

    interval_s: float = 0.3
    multiplier: int = 3
    max_sessions: int = 4096
    heard_per_s: int = 2000
    sent_per_s: int = 8000


@dataclass(frozen=True, slots=True)
class Row:
    """A session at a moment. Intervals are those in force; inf where there is none."""

    peer: str
    state: str
    since_s: float
    """For how long it has been in its state."""
    diag: int
    send_s: float
    receive_s: float
    detection_s: float
    n_downs: int
    is_wanted: bool


class _Place:
    """A session in the table. `due_s`: where it stands in the agenda."""

    __slots__ = ("due_s", "is_up", "is_wanted", "peer", "session")

    def __init__(self, peer: str, session: Session) -> None:
        self.peer = peer
        self.session = session
        self.is_wanted = False
        self.is_up: bool | None = None
        """What was told."""
        self.due_s = inf


class Table:
    """The sessions. `draw` gives random numbers from 0 to 1, hard to guess (discriminators are made
    of them); `is_allowed` says of a peer whether it may have a session that it asks for."""

    def __init__(
        self,
        settings: Settings,
        draw: Callable[[], float],
        is_allowed: Callable[[str], bool] | None,
        now_s: float,
    ) -> None:
        self.refused: Counter[str] = Counter()
        self._settings = settings
        self._draw = draw
        self._is_allowed = is_allowed or (lambda peer: False)
        self._places: dict[str, _Place] = {}
        self._discriminators: set[int] = set()
        self._agenda: list[tuple[float, int, _Place]] = []
        self._swept_s = now_s
        self._packets: list[tuple[str, bytes]] = []
        self._changes: list[tuple[str, bool]] = []
        self.send_s = self.hear_s = settings.interval_s
        """The intervals at which we send, and ask all peers to send at most."""

    def __len__(self) -> int:
        return len(self._places)

    @property
    def deadline_s(self) -> float:
        """When `poll` has something to do; inf: never, as it is."""
        return min(
            self._agenda[0][0] if self._agenda else inf, self._swept_s + SWEPT_EVERY_S if self else inf
        )

    def want(self, peers: AbstractSet[str], now_s: float) -> None:
        """Probe these peers, and no others. Those that are given up are told."""
        for place in [place for place in self._places.values() if place.is_wanted]:
            if place.peer in peers:
                continue
            if self._is_allowed(place.peer):
                place.is_wanted, place.is_up = False, None
                place.session.set_active(False, now_s)
            else:
                self._close(place, now_s)
        for peer in peers:
            place = self._places.get(peer) or self._add(peer, now_s, is_active=True)
            if not place.is_wanted:
                place.is_wanted = True
                place.session.set_active(True, now_s)
                self._tell(place)
                self._book(place)
        self._repace(now_s)

    def hear(self, data: bytes, peer: str, ttl: int, now_s: float) -> None:
        """Take a packet."""
        if ttl < MIN_TTL:
            self.refused["too_far"] += 1
            return
        place = self._places.get(peer)
        if place is not None and place.session.knows(data, now_s):
            return
        packet = bfd.read(data)
        if isinstance(packet, str):
            self.refused[packet] += 1
            return
        if place is None:
            refusal = self._refusal(packet, peer)
            if refusal:
                self.refused[refusal] += 1
                return
            place = self._add(peer, now_s, is_active=False)
            self._repace(now_s)
        elif packet.yours and packet.yours != place.session.discriminator:
            self.refused["unknown_session"] += 1
            return
        place.session.hear(packet, data, now_s)
        self._serve(place, now_s)

    def _refusal(self, packet: bfd.Packet, peer: str) -> str:
        """Say what speaks against a session with one who has none."""
        if not self._is_allowed(peer):
            return "not_allowed"
        if packet.yours or packet.state != bfd.State.DOWN:
            return "unknown_session"
        return "too_many_sessions" if len(self) >= self._settings.max_sessions else ""

    def poll(self, now_s: float, *, is_behind: bool = False) -> None:
        """Do what is due. `is_behind`: not all that came so far was heard."""
        agenda = self._agenda
        is_behind = is_behind or (bool(agenda) and now_s - agenda[0][0] > LATE_S)
        while agenda and agenda[0][0] <= now_s:
            due_s, number, place = agenda[0]
            if due_s != place.due_s:  # it stands in another place, or is closed
                heappop(agenda)
                continue
            self._take(place, now_s, is_behind)
            place.due_s = place.session.deadline_s
            if place.due_s < inf:
                heapreplace(agenda, (place.due_s, number, place))
            else:
                heappop(agenda)
        if now_s >= self._swept_s + SWEPT_EVERY_S:
            self._sweep(now_s)

    def take_packets(self) -> list[tuple[str, bytes]]:
        """Take the packets to be sent: to whom, and what."""
        packets, self._packets = self._packets, []
        return packets

    def take_changes(self) -> list[tuple[str, bool]]:
        """Take which wanted peers went up (True) and down."""
        changes, self._changes = self._changes, []
        return changes

    def rows(self, now_s: float) -> list[Row]:
        """Show all sessions."""
        return [
            Row(
                peer,
                place.session.state.name.lower(),
                now_s - place.session.since_s,
                place.session.diag,
                place.session.send_s,
                place.session.receive_s,
                place.session.detection_s,
                place.session.n_downs,
                place.is_wanted,
            )
            for peer, place in self._places.items()
        ]

    def close(self, now_s: float) -> None:
        """End all sessions; the peers are told."""
        for place in list(self._places.values()):
            self._close(place, now_s)

    def _add(self, peer: str, now_s: float, *, is_active: bool) -> _Place:
        number = 0
        while not number or number in self._discriminators:
            number = int(self._draw() * ((1 << 32) - 1)) + 1
        self._discriminators.add(number)
        send_us, hear_us = round(self.send_s * 1e6), round(self.hear_s * 1e6)
        session = Session(number, send_us, hear_us, self._settings.multiplier, now_s, is_active=is_active)
        if not self._places:
            self._swept_s = now_s
        place = self._places[peer] = _Place(peer, session)
        return place

    def _close(self, place: _Place, now_s: float) -> None:
        last = place.session.close(now_s)
        if last is not None:
            self._packets.append((place.peer, last))
        place.due_s = inf
        del self._places[place.peer]
        self._discriminators.remove(place.session.discriminator)

    def _serve(self, place: _Place, now_s: float) -> None:
        """Do what a packet asks for at once, and see that the agenda is not late for the rest."""
        if place.session.deadline_s <= now_s:
            self._take(place, now_s, is_behind=True)  # silence is not at issue
        self._tell(place)
        self._book(place)

    def _take(self, place: _Place, now_s: float, is_behind: bool) -> None:
        packet = place.session.take(now_s, self._draw(), is_behind=is_behind)
        if packet is not None:
            self._packets.append((place.peer, packet))
        if place.is_up is not place.session.is_up:
            self._tell(place)

    def _tell(self, place: _Place) -> None:
        is_up = place.session.is_up
        if place.is_wanted and is_up is not None and is_up is not place.is_up:
            place.is_up = is_up
            self._changes.append((place.peer, is_up))

    def _book(self, place: _Place) -> None:
        deadline_s = place.session.deadline_s
        if deadline_s < place.due_s:
            place.due_s = deadline_s
            heappush(self._agenda, (deadline_s, place.session.discriminator, place))
            if len(self._agenda) > 4 * len(self._places) + 64:
                self._agenda = [entry for entry in self._agenda if entry[0] == entry[2].due_s]
                heapify(self._agenda)

    def _repace(self, now_s: float) -> None:
        """Fit the intervals to the number of sessions."""
        settings = self._settings
        send_s = self._fitting(self.send_s, settings.sent_per_s)
        hear_s = self._fitting(self.hear_s, settings.heard_per_s)
        if (send_s, hear_s) == (self.send_s, self.hear_s):
            return
        self.send_s, self.hear_s = send_s, hear_s
        for place in self._places.values():
            place.session.set_pace(round(send_s * 1e6), round(hear_s * 1e6), now_s)
            self._book(place)

    def _fitting(self, interval_s: float, most_per_s: int) -> float:
        """A quarter above what the interval must be; it gets shorter again once it is twice of that."""
        usual_s = self._settings.interval_s
        least_s = len(self) / (most_per_s * MEAN_JITTER)
        if least_s <= interval_s <= max(usual_s, 2 * least_s):
            return interval_s
        return 1.25 * least_s if least_s > usual_s else usual_s

    def _sweep(self, now_s: float) -> None:
        self._swept_s = now_s
        for place in list(self._places.values()):
            session = place.session
            if place.is_wanted:
                continue
            is_forgotten = session.is_idle and now_s >= session.since_s + FORGOTTEN_AFTER_S
            if is_forgotten or not self._is_allowed(place.peer):
                self._close(place, now_s)
        self._repace(now_s)

"""One BFD session (RFC 5880 section 6.8), asynchronous mode. No clock, no socket: packets and time in.

1. A session is up when both ends say so (three-way handshake, section 6.2). Each change of state is told at
   once; all else waits for the next periodic packet.
2. While it is not Up it sends once a second at most (section 6.8.3), whatever its pace.
3. A change of intervals is told by a Poll Sequence, one at a time. What would surprise the other end (we send
   more slowly, or expect more often) is in force from the Final on, the rest at once.
4. Silence for the detection time takes a session down, and forgets who was there (section 6.8.1). In a turn
   that is behind (the caller was late, or has not read all that came) nobody is judged by it: a silent peer
   gets one more interval, once. So a pause of ours is no failure of the peer, and a dead peer still goes.
5. A passive session sends nothing to a peer that it has not heard of (section 6.1).
6. `is_up` is what a client goes by: None until something is known. An active session that finds nobody within
   its multiplier in seconds is down.
"""

from __future__ import annotations

from math import inf

from ctrl.protocols.bfd import MAX_INTERVAL_US, Diag, Packet, State, write

SLOW_US = 1_000_000


class Session:
    """Our end of a session. `discriminator`: our own, unique and not 0; `send_us` and `hear_us`: the
    intervals at which we send and want to hear, while it is up."""

    __slots__ = (
        "_answers", "_desired_us", "_detect_s", "_extra_s", "_hear_us", "_heard", "_is_active", "_is_polling",
        "_last_s", "_next_s", "_peer", "_required_us", "_rx_us", "_send_us", "_tx_us", "_wire", "diag",
        "discriminator", "is_up", "multiplier", "n_downs", "since_s", "state",
    )  # fmt: skip

    def __init__(
        self,
        discriminator: int,
        send_us: int,
        hear_us: int,
        multiplier: int,
        now_s: float,
        *,
        is_active: bool,
    ) -> None:
        self.discriminator = discriminator
        self.multiplier = multiplier
        self.state = State.DOWN
        self.diag: int = Diag.NONE
        self.since_s = now_s
        """Since when it is in its state."""
        self.n_downs = 0
        """How often it went down after it had been up."""
        self.is_up: bool | None = None
        self._is_active = is_active
        self._send_us, self._hear_us = send_us, hear_us
        self._desired_us = self._tx_us = max(SLOW_US, send_us)
        self._required_us = self._rx_us = hear_us
        self._peer: Packet | None = None
        """The last packet of a peer that was heard within a detection time."""
        self._heard = b""
        """A packet that changes nothing, if it comes again."""
        self._wire = b""
        """Our packet of the present state, once it was written."""
        self._answers = self._is_polling = False
        self._last_s = -inf
        self._next_s = now_s if is_active else inf
        self._detect_s = now_s + multiplier * SLOW_US / 1e6 if is_active else inf
        self._extra_s = 0.0

    @property
    def deadline_s(self) -> float:
        """When `take` has something to do."""
        if self._answers:
            return -inf
        silent_s = self._detect_s + self._extra_s
        return min(self._next_s, silent_s)

    @property
    def send_s(self) -> float:
        """The interval of our packets, before jitter; inf: none are sent but answers."""
        peer = self._peer
        if peer is None:
            return self._tx_us / 1e6 if self._is_active else inf
        both_up = peer.state == self.state == State.UP
        if (
            self.state == State.ADMIN_DOWN
            or not peer.rx_us
            or (peer.demand and both_up and not self._is_polling)
        ):
            return inf
        return max(self._tx_us, peer.rx_us) / 1e6

    @property
    def receive_s(self) -> float:
        """The interval at which the peer sends at most; inf as long as it is not heard."""
        return inf if self._peer is None else max(self._rx_us, self._peer.tx_us) / 1e6

    @property
    def detection_s(self) -> float:
        """For how long it may be silent (section 6.8.4); inf as long as it is not heard."""
        return inf if self._peer is None else self._peer.multiplier * self.receive_s

    @property
    def is_idle(self) -> bool:
        """Whether nobody is there, nor looked for."""
        return self._peer is None and not self._is_active

    def knows(self, data: bytes, now_s: float) -> bool:
        """Take a packet as heard that is the same as the last, in a session at rest: most packets are."""
        if data != self._heard or not data:
            return False
        self._detect_s = now_s + self.detection_s
        self._extra_s = 0.0
        return True

    def hear(self, packet: Packet, data: bytes, now_s: float) -> None:
        """Take a packet that is for this session; `data`: the same as it came."""
        if self.state == State.ADMIN_DOWN:
            return
        before_s = self.send_s
        if self._peer is None or self._peer.mine != packet.mine:
            self._wire = b""
        self._peer = packet
        if packet.final and self._is_polling:
            self._polled(now_s)
        self._hasten(before_s, now_s)
        self._follow(packet.state, now_s)
        self._answers |= packet.poll
        self._detect_s = now_s + self.detection_s
        self._extra_s = 0.0
        is_at_rest = packet.state == self.state == State.UP and not (
            packet.poll or packet.final or self._is_polling
        )
        self._heard = data if is_at_rest else b""

    def _follow(self, theirs: State, now_s: float) -> None:
        """Section 6.8.6, the state machine."""
        if theirs == State.ADMIN_DOWN:
            if self.state != State.DOWN:
                self._enter(State.DOWN, Diag.PEER_DOWN, now_s)
            elif self.is_up is None:
                self.is_up = False
        elif self.state == State.DOWN:
            if theirs == State.DOWN:
                self._enter(State.INIT, self.diag, now_s)
            elif theirs == State.INIT:
                self._enter(State.UP, Diag.NONE, now_s)
        elif self.state == State.INIT:
            if theirs >= State.INIT:
                self._enter(State.UP, Diag.NONE, now_s)
        elif theirs == State.DOWN:
            self._enter(State.DOWN, Diag.PEER_DOWN, now_s)

    def _enter(self, state: State, diag: int, now_s: float) -> None:
        if self.state == State.UP:
            self.n_downs += 1
        self.state, self.diag, self.since_s = state, diag, now_s
        if state != State.INIT:
            self.is_up = state == State.UP
        self._heard = self._wire = b""
        self._next_s = now_s
        desired_us = self._send_us if state == State.UP else max(SLOW_US, self._send_us)
        self._is_polling = state != State.ADMIN_DOWN and (
            desired_us != self._desired_us or self._hear_us != self._required_us
        )
        self._desired_us = self._tx_us = desired_us
        self._required_us = self._hear_us
        self._rx_us = max(self._rx_us, self._hear_us) if state == State.UP else self._hear_us

    def set_pace(self, send_us: int, hear_us: int, now_s: float) -> None:
        """Send and hear at other intervals, once the peer knows."""
        self._send_us, self._hear_us = send_us, hear_us
        if not self._is_polling:
            self._adapt(now_s)

    def _adapt(self, now_s: float) -> None:
        """Begin a Poll Sequence if what we say of intervals is to change (section 6.8.3)."""
        is_up = self.state == State.UP
        desired_us = self._send_us if is_up else max(SLOW_US, self._send_us)
        if (desired_us, self._hear_us) == (self._desired_us, self._required_us):
            return
        before_s = self.send_s
        self._desired_us, self._required_us = desired_us, self._hear_us
        self._tx_us = min(self._tx_us, desired_us) if is_up else desired_us
        self._rx_us = max(self._rx_us, self._hear_us) if is_up else self._hear_us
        self._is_polling = self._peer is not None
        self._heard = self._wire = b""
        self._hasten(before_s, now_s)

    def _hasten(self, before_s: float, now_s: float) -> None:
        """Heed another interval at once, not after the one that was (section 6.8.7)."""
        send_s = self.send_s
        if send_s == inf:
            self._next_s = inf
        elif send_s != before_s:
            self._next_s = max(min(self._next_s, self._last_s + send_s), now_s)

    def _polled(self, now_s: float) -> None:
        self._is_polling = False
        self._tx_us, self._rx_us = self._desired_us, self._required_us
        self._wire = b""
        self._adapt(now_s)

    def set_active(self, is_active: bool, now_s: float) -> None:
        """Look for the peer from now on, or answer it only."""
        if is_active and not self._is_active and self._peer is None:
            self._next_s = now_s
            self._detect_s = now_s + self.multiplier * SLOW_US / 1e6
        self._is_active = is_active
        if self.is_idle:
            self._next_s = self._detect_s = inf

    def close(self, now_s: float) -> bytes | None:
        """End it, and make the packet that says so, if anybody is there to hear it (section 6.8.16)."""
        self._enter(State.ADMIN_DOWN, Diag.ADMIN_DOWN, now_s)
        self._next_s = self._detect_s = inf
        return self._packet() if self._peer is not None else None

    def take(self, now_s: float, draw: float, *, is_behind: bool = False) -> bytes | None:
        """Make the packet that is due now, and judge the peer's silence. `draw`: at random, from 0 to 1."""
        if now_s >= self._detect_s + self._extra_s:
            if not is_behind or self._extra_s:
                return self._expire(now_s, draw)
            interval_s = SLOW_US / 1e6 if self._peer is None else self.receive_s
            self._extra_s = now_s + interval_s - self._detect_s
        if self._answers:
            self._answers = False
            self._is_told(now_s, draw)
            return self._packet(final=True)
        if now_s < self._next_s:
            return None
        self._next_s = self._later(now_s, draw)
        self._last_s = now_s
        if not self._wire:
            self._wire = self._packet()
        return self._wire

    def _expire(self, now_s: float, draw: float) -> bytes | None:
        """Go down; a peer that hears us, and is not heard, is told so before it is forgotten."""
        last = None
        if self.state >= State.INIT:
            self._enter(State.DOWN, Diag.EXPIRED, now_s)
            self._is_polling = False
            last = self._packet()
        self._detect_s, self._extra_s = inf, 0.0
        self.is_up = False
        self._peer = None
        self._is_polling = False
        self._wire = b""
        if last is not None or self._next_s == inf:
            self._last_s = now_s
            self._next_s = self._later(now_s, draw)
        return last

    def _is_told(self, now_s: float, draw: float) -> None:
        """An answer tells all that a packet which is due would tell, but for a Poll of ours."""
        if now_s >= self._next_s and not self._is_polling:
            self._last_s = now_s
            self._next_s = self._later(now_s, draw)

    def _later(self, now_s: float, draw: float) -> float:
        """Up to a quarter earlier than the interval, and with a multiplier of 1 a tenth at least (6.8.7)."""
        most = 0.9 if self.multiplier == 1 else 1.0
        return now_s + self.send_s * (0.75 + draw * (most - 0.75))

    def _packet(self, *, final: bool = False) -> bytes:
        yours = self._peer.mine if self._peer is not None else 0
        return write(
            Packet(
                self.state,
                self.discriminator,
                yours,
                min(self._desired_us, MAX_INTERVAL_US),
                min(self._required_us, MAX_INTERVAL_US),
                self.multiplier,
                poll=self._is_polling and not final,
                final=final,
                diag=self.diag,
            )
        )

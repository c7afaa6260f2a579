"""Drives what speaks IGMP and MLD on a running box, the device role, the joins of the NVE and what hears
tenants, at NVE, device and point: punted frames and timers in; lists, queries, reports, events and log out.

1. Ports take turns (`turns`): nobody's message waits for all that another port sends.
2. What changed in a turn is one FIB. A turn is short, so that nobody waits; but twice as long as it took to
   carry out the one before, so that many joins are few FIBs.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from ctrl.daemon.nve import Nve
from ctrl.daemon.turns import Turns
from ctrl.membership import Event
from ctrl.publisher import Publisher, Step
from ctrl.refusals import Refused
from ctrl.roles.device import Device
from ctrl.tenant_relay import TenantRelay
from ctrl.tenant_side import TenantSide
from fastpath import Forwarder, Punted
from fastpath.model import Scope

TURN_S, LONG_TURN_S = 0.01, 0.05
TURN_FRAMES = 64
"""Queries and reports sent in a turn, or a part of all that wait: thousands of leaves keep nobody waiting."""
WAITING_FRAMES = 4096
"""Of tenants: with so many to be sent the turn is over."""
LOOK_S, LOOK_FRAMES = 0.0005, 64
"""How often the ring is looked into, and what is taken then: it empties faster than that is handled."""


class Speaker(Protocol):
    """A role that hears IGMP and MLD at its places, and speaks it there."""

    @property
    def deadline_s(self) -> float | None: ...
    @property
    def n_frames(self) -> int: ...
    def hear(self, place: int, frame: bytes, now_s: float, /) -> None: ...
    def poll(self, now_s: float) -> None: ...
    def take_frames(self, most: int | None = None) -> list[tuple[int, bytes]]: ...


class Snooping:
    """The speakers of a box, on the running loop; what comes in on an uplink of the NVE is for its joins."""

    def __init__(
        self,
        forwarder: Forwarder,
        device: Device,
        publisher: Publisher,
        refused: Refused,
        send: Callable[[int, bytes], None],
        tell: Callable[[Event], None],
        nve: Nve | None = None,
        tenants: TenantSide | None = None,
        relays: Sequence[TenantRelay] = (),
        tell_tenant: Callable[[Scope, str, Event], None] = lambda scope, network, event: None,
        settled: Callable[[], None] = lambda: None,
    ) -> None:
        self._forwarder = forwarder
        self._device = device
        self._publisher = publisher
        self._refused = refused
        self._send = send
        self._tell = tell
        self._nve = nve
        self._tell_tenant = tell_tenant
        self._relays = relays
        self._settled = settled
        self._sides: dict[Scope, TenantSide | TenantRelay] = {one.scope: one for one in relays}
        """What hears tenants."""
        if tenants is not None:
            self._sides[Scope.NVE] = tenants
        all_speakers: tuple[Speaker | None, ...] = (
            device,
            None if nve is None else nve.joins,
            *self._sides.values(),
        )
        self._speakers = tuple(one for one in all_speakers if one is not None)
        self._waiting: Turns[tuple[Speaker, int]] = Turns()
        self._turn_s = TURN_S
        self._loop = asyncio.get_running_loop()
        self._alarm: asyncio.TimerHandle | None = None
        self._next: asyncio.Handle | None = None
        """The turn that comes next, where there is something to do already."""

    def start(self) -> None:
        """Listen from now on."""
        gc.freeze()  # all that is there by now stays: a look through it would take longer than many joins
        gc.enable()
        for fd in self._forwarder.punt_fds:
            self._loop.add_reader(fd, self._woken)
        self.settle()

    def stop(self) -> None:
        """Listen no more."""
        for fd in self._forwarder.punt_fds:
            self._loop.remove_reader(fd)
        for handle in (self._alarm, self._next):
            if handle is not None:
                handle.cancel()
        self._alarm = self._next = None

    def _woken(self) -> None:
        if self._next is None:
            self._turn()

    def _turn(self) -> None:
        """Handle what came in, of every port one message after the other, for as long as a turn lasts."""
        self._next = None
        now_s = time.monotonic()
        end_s = now_s + self._turn_s
        for speaker in self._speakers:
            speaker.poll(now_s)
        look_s = now_s
        while now_s < end_s:
            if self._is_full:
                while self._look() == LOOK_FRAMES and time.monotonic() < end_s:
                    pass
                break
            if now_s >= look_s or not self._waiting:
                self._look()
                look_s = now_s + LOOK_S
                if not self._waiting:
                    break
            (speaker, place), frame = self._waiting.take()
            speaker.hear(place, frame, now_s)
            now_s = time.monotonic()
        self.settle()
        self._turn_s = min(max(TURN_S, 2 * (time.monotonic() - now_s)), LONG_TURN_S)

    @property
    def _is_full(self) -> bool:
        """A query of a tenant is a frame for each VM of its network: while many wait to be sent, nobody is
        heard, and what comes waits for its turn, within the bounds of those."""
        return sum(side.n_frames for side in self._sides.values()) >= WAITING_FRAMES

    def _look(self) -> int:
        """Have what came in wait for its turn; how many messages that were."""
        found = self._forwarder.read_punted(LOOK_FRAMES)
        for punted in found:
            speaker, place, frame = self._addressed(punted)
            if not self._waiting.put((speaker, place), frame):
                self._refused.count("control_busy")
        return len(found)

    def _addressed(self, punted: Punted) -> tuple[Speaker, int, bytes]:
        """Whom a punted frame is for, whose turn it is there, and what is heard."""
        side = None if punted.inner is None else self._sides.get(punted.inner.scope)
        if side is not None:
            return side, *side.whose(punted)
        if self._nve is not None and self._nve.is_uplink(punted.in_port):
            return self._nve.joins, punted.in_port, punted.frame
        return self._device, punted.in_port, punted.frame

    def _due(self) -> None:
        self._alarm = None
        now_s = time.monotonic()
        for speaker in self._speakers:
            speaker.poll(now_s)
        self.settle()

    def _publish(self) -> Step:
        step = self._publisher.update()
        if step.lists or step.removed:
            self._forwarder.publish(step.lists, step.removed)
        return step

    def settle(self) -> None:
        """Carry out what the roles came to, and wait for what is due next."""
        step, now_s = self._publish(), time.monotonic()
        touched = [*(one.key for one in step.lists), *step.removed] if self._relays else []
        are_others = [relay.touched(touched, now_s) for relay in self._relays]
        if any(are_others):
            self._publish()
        for event in self._device.take_events():
            self._tell(event)
        for scope, side in self._sides.items():
            for network, event in side.take_events():
                self._tell_tenant(scope, network, event)
        self._settled()
        for speaker in self._speakers:
            for port, frame in speaker.take_frames(max(TURN_FRAMES, speaker.n_frames // 16)):
                self._send(port, frame)
        if self._next is None and (self._waiting or any(one.n_frames for one in self._speakers)):
            self._next = self._loop.call_soon(self._turn)
        due_s = [one.deadline_s for one in self._speakers]
        deadline_s = min((one for one in due_s if one is not None), default=None)
        if self._alarm is not None:
            self._alarm.cancel()
        # the loop's clock is the monotonic one
        self._alarm = None if deadline_s is None else self._loop.call_at(deadline_s, self._due)

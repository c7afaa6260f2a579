"""Drives the device role on a running box: punted frames and timers in; lists, queries, events and log out.

1. Ports take turns (`turns`): nobody's message waits for all that another port sends.
2. What changed in a turn is one FIB. A turn is short, so that nobody waits; but twice as long as it took to
   carry out the one before, so that many joins are few FIBs.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable

from ctrl.daemon.turns import Turns
from ctrl.membership import Event
from ctrl.publisher import Publisher
from ctrl.refusals import Refused
from ctrl.roles.device import Device
from fastpath import Forwarder

TURN_S, LONG_TURN_S = 0.01, 0.05
TURN_FRAMES = 64
"""Queries sent in a turn, or a part of all that wait: thousands of leaves keep nobody waiting."""
LOOK_S, LOOK_FRAMES = 0.0005, 64
"""How often the ring is looked into, and what is taken then: it empties faster than that is handled."""


class Snooping:
    """The device role of a box, on the running loop."""

    def __init__(
        self,
        forwarder: Forwarder,
        device: Device,
        publisher: Publisher,
        refused: Refused,
        send: Callable[[int, bytes], None],
        tell: Callable[[Event], None],
    ) -> None:
        self._forwarder = forwarder
        self._device = device
        self._publisher = publisher
        self._refused = refused
        self._send = send
        self._tell = tell
        self._waiting = Turns()
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
        self._device.poll(now_s)
        look_s = now_s
        while now_s < end_s:
            if now_s >= look_s or not self._waiting:
                self._look()
                look_s = now_s + LOOK_S
                if not self._waiting:
                    break
            port, frame = self._waiting.take()
            self._device.hear(port, frame, now_s)
            now_s = time.monotonic()
        self.settle()
        self._turn_s = min(max(TURN_S, 2 * (time.monotonic() - now_s)), LONG_TURN_S)

    def _look(self) -> None:
        for port, _, frame in self._forwarder.read_punted(LOOK_FRAMES):
            if not self._waiting.put(port, frame):
                self._refused.count("control_busy")

    def _due(self) -> None:
        self._alarm = None
        self._device.poll(time.monotonic())
        self.settle()

    def settle(self) -> None:
        """Carry out what the role came to, and wait for what is due next."""
        step = self._publisher.update()
        if step.lists or step.removed:
            self._forwarder.publish(step.lists, step.removed)
        for event in self._device.take_events():
            self._tell(event)
        for port, frame in self._device.take_frames(max(TURN_FRAMES, self._device.n_frames // 16)):
            self._send(port, frame)
        if self._next is None and (self._waiting or self._device.n_frames):
            self._next = self._loop.call_soon(self._turn)
        deadline_s = self._device.deadline_s
        if self._alarm is not None:
            self._alarm.cancel()
        # the loop's clock is the monotonic one
        self._alarm = None if deadline_s is None else self._loop.call_at(deadline_s, self._due)

"""Drives the device role on a running box: punted frames and timers in; lists, queries, events and log out.

1. Ports take turns: whatever one port sends, a message of another waits for one of its messages, not for all
   (a queue a port, bounded; what comes beyond is counted).
2. A turn ends after TURN_S, and what changed in it is one FIB: many joins are few FIBs, and nobody waits
   longer than a turn.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

from ctrl.membership import Event
from ctrl.publisher import Publisher
from ctrl.refusals import Refused
from ctrl.roles.device import Device
from fastpath import Forwarder

LOG = logging.getLogger("fastpath.membership")
TURN_S = 0.03
FETCH_FRAMES = 64
"""Messages handled between two looks into the ring."""
QUEUE_FRAMES = 8192
"""Messages of one port that wait for their turn."""


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
        self._queues: dict[int, deque[bytes]] = {}
        self._loop = asyncio.get_running_loop()
        self._alarm: asyncio.TimerHandle | None = None
        self._at_work = False

    def start(self) -> None:
        """Listen from now on."""
        for fd in self._forwarder.punt_fds:
            self._loop.add_reader(fd, self._woken)
        self.settle()

    def stop(self) -> None:
        """Listen no more."""
        for fd in self._forwarder.punt_fds:
            self._loop.remove_reader(fd)
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _woken(self) -> None:
        if not self._at_work:
            self._turn()

    def _turn(self) -> None:
        """Handle what came in, of every port one message after the other, for as long as a turn lasts."""
        self._at_work = False
        now_s = time.monotonic()
        end_s = now_s + TURN_S
        self._device.poll(now_s)
        self._fetch()
        while self._queues and now_s < end_s:
            for port in list(self._queues):
                queue = self._queues[port]
                self._device.hear(port, queue.popleft(), now_s)
                if not queue:
                    del self._queues[port]
            self._fetch()
            now_s = time.monotonic()
        self.settle()
        if self._queues:
            self._at_work = True
            self._loop.call_soon(self._turn)

    def _fetch(self) -> None:
        for port, _, frame in self._forwarder.read_punted(FETCH_FRAMES):
            queue = self._queues.setdefault(port, deque())
            if len(queue) < QUEUE_FRAMES:
                queue.append(frame)
            else:
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
        for port, frame in self._device.take_frames():
            self._send(port, frame)
        deadline_s = self._device.deadline_s
        if self._alarm is not None:
            self._alarm.cancel()
        # the loop's clock is the monotonic one
        self._alarm = None if deadline_s is None else self._loop.call_at(deadline_s, self._due)

"""Drives what a manager has to say to a role of this box, and what this says to it: the session, the disk,
the probes.

1. What was stored counts before anything is heard, and before gRPC is imported: a box that starts anew
   forwards by its last good instructions, and is in the groups that these are about, until its NVEs had the
   time to say otherwise.
2. An instruction is in force, and its next hops are known or had their time, before it is acknowledged: who
   waits for an acknowledgement waits for copies that arrive.
3. A probe that fails is in force at once; nobody is asked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING

from ctrl.daemon.probing import Prober, Responder
from ctrl.events import Bus, applied_event, session_event, tunnel_event
from ctrl.rpc.messages import Ack, FromManager, FromNode, Instructions
from ctrl.topology.entry import Key
from ctrl.topology.words import key_line
from fastpath.model import IPAddress, Scope

if TYPE_CHECKING:
    from ctrl.roles.instructed import Instructed
    from ctrl.rpc.client import Client
    from ctrl.store.held import HeldStore

LOG = logging.getLogger("fastpath.fabric")
REFUSED_LINES = 10
STORE_S = 0.2
"""Between two writes of instructions to the disk."""


@lru_cache(1 << 16)
def address_of(packed: bytes) -> IPAddress:
    """The address of a packed one; keys of groups are such."""
    return ip_address(packed)


class Instructing:
    """One role of this box and its managers.

    `obey` carries out what the role holds by now, and gives the peers that were not there before; `resolved`
    waits until their next hops are known, or had their time.
    """

    def __init__(
        self,
        scope: Scope,
        instructed: Instructed,
        store: HeldStore | None,
        events: Bus,
        obey: Callable[[], frozenset[IPAddress]],
        resolved: Callable[[frozenset[IPAddress]], Awaitable[None]],
    ) -> None:
        self.scope = scope
        self.instructed = instructed
        self._store = store
        self._events = events
        self._obey = obey
        self._resolved = resolved
        self.client: Client | None = None
        self.probes: Prober | Responder | None = None
        self.changed_s = time.monotonic()
        """When the session came or went: the monotonic clock."""
        self.heard_s: float | None = None
        """When a manager was heard last."""
        self.told_s = self.changed_s if instructed.revision else None
        """When the last instructions came; those from the disk: with the start."""
        self._acks: list[Ack] = []
        """Those that wait for the next hops of `_fresh`."""
        self._fresh: frozenset[IPAddress] = frozenset()
        self._acks_due = asyncio.Event()
        self._last_ack: Ack | None = None
        self._logged: dict[bytes, str] = {}
        """Keys that were refused, and are still, with the reason that the log has."""
        self._alarm: asyncio.TimerHandle | None = None
        self._next: asyncio.Handle | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def role(self) -> str:
        """What it is on this box: an NVE is a device to managers."""
        return "nve" if self.scope is Scope.NVE else self.instructed.node.role

    async def run(self, client: Client, probes: Prober | Responder | None) -> None:
        """Serve a manager's word for as long as the box runs."""
        self.client, self.probes = client, probes
        self._look_after_points()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(client.run(), name="session with a manager")
            tasks.create_task(self._acknowledge(), name="acknowledge")
            tasks.create_task(self._keep(), name="keep instructions")

    # --- what happens ---------------------------------------------------------------------------------------

    def connected(self, address: str) -> None:
        """A session began, with the manager at this address."""
        self.changed_s = time.monotonic()
        self._tell("came", address)
        self.instructed.connected(self.changed_s)
        self.settle()

    def disconnected(self) -> None:
        """It ended."""
        self._acks.clear()
        self._tell("went", None)
        self.changed_s = time.monotonic()
        self.instructed.disconnected(self.changed_s)
        self.settle()

    def heard(self, message: FromManager) -> None:
        """A manager said something."""
        self.heard_s = time.monotonic()
        if isinstance(message, Instructions):
            self.told_s = self.heard_s
        self.instructed.hear(message, self.heard_s)
        self.settle()

    def probed(self, address: bytes, is_up: bool) -> None:
        """A point's probes came through, or no longer do."""
        point = address_of(address)
        LOG.log(
            logging.INFO if is_up else logging.WARNING,
            *("point %s address=%s", "answers probes" if is_up else "does not answer probes", point),
        )
        self._events.publish("tunnels", tunnel_event(point, "up" if is_up else "unreached"))
        self.instructed.set_point_state(address, is_up, time.monotonic())
        self.settle()

    def joined(self, key: Key, vnis: tuple[int, ...], vsids: tuple[int, ...]) -> None:
        """The box is in a group from now on, or its tenants in one of theirs."""
        self.instructed.joined(key, vnis, vsids)
        self._soon()

    def left(self, key: Key) -> None:
        """The box, or its tenants, are in it no more."""
        self.instructed.left(key)
        self._soon()

    def confirm(self) -> None:
        """NVEs had the time to say again which groups they are in."""
        self.instructed.confirm()
        self.settle()

    def _soon(self) -> None:
        if self._next is None:
            self._next = self._loop.call_soon(self.settle)

    # --- and what comes of it -------------------------------------------------------------------------------

    def settle(self) -> None:
        """Carry out what came, and say what is to be said."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
        self._fresh |= self._obey()
        self._look_after_points()
        for message in self.instructed.take_messages():
            if isinstance(message, Ack):
                self._tell_refused(message)
            if isinstance(message, Ack) and (self._fresh or self._acks):
                self._acks.append(message)
                self._acks_due.set()
            else:
                self._send(message)
        for line in self.instructed.take_notes():
            LOG.info("%s", line)
        why = self.instructed.take_ending()
        if why is not None and self.client is not None:
            self.client.end(why)
        deadline_s = self.instructed.deadline_s
        if self._alarm is not None:
            self._alarm.cancel()
        # the loop's clock is the monotonic one
        self._alarm = None if deadline_s is None else self._loop.call_at(deadline_s, self._due)

    def _due(self) -> None:
        self._alarm = None
        self.instructed.poll(time.monotonic())
        self.settle()

    def _send(self, message: FromNode) -> None:
        if self.client is not None:
            self.client.send(message)

    def _tell(self, event: str, manager: str | None) -> None:
        name = self.instructed.node.name
        self._events.publish("sessions", session_event(event, name, self.role, manager))

    def _tell_refused(self, ack: Ack) -> None:
        if ack is self._last_ack:  # said again, as the other side asked
            return
        self._last_ack = ack
        name, revision = self.instructed.node.name, self.instructed.revision
        fresh = [(key, why) for key, why in ack.refused if self._logged.get(key) != why]
        still = {key: why for key, why in self._logged.items() if key in self.instructed.refused}
        self._logged = still | dict(ack.refused)
        for key, why in fresh[:REFUSED_LINES]:
            LOG.warning("instruction refused %s why=%s", key_line(key), why)
        if len(fresh) > REFUSED_LINES:
            LOG.warning("instructions refused besides=%d", len(fresh) - REFUSED_LINES)
        for key, why in ack.refused:
            entry = self.instructed.entry(key)
            self._events.publish("instructions", applied_event(name, key, entry, revision, why))

    def _look_after_points(self) -> None:
        if isinstance(self.probes, Prober):
            self.probes.want(self.instructed.points())

    async def _acknowledge(self) -> None:
        while True:
            await self._acks_due.wait()
            self._acks_due.clear()
            while self._fresh:  # more may come meanwhile, with an Ack of their own
                fresh, self._fresh = self._fresh, frozenset()
                await self._resolved(fresh)
            acks, self._acks = self._acks, []
            for ack in acks:
                self._send(ack)

    async def _keep(self) -> None:
        """Write what is new to the disk now and then; without one it is only taken, or it would gather."""
        has_failed = False
        while True:
            await asyncio.sleep(STORE_S)
            update = self.instructed.take_stored()
            if update is None or self._store is None:
                continue
            try:
                await asyncio.to_thread(self._store.write, update)
                has_failed = False
            except OSError as error:
                self.instructed.store_again()
                if not has_failed:
                    LOG.warning("instructions are not kept why=%s", error)
                has_failed = True

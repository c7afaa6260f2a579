"""The daemon: composes ports, workers, the kernel's picture, the membership and the control socket, and keeps
them in step.

1. One event loop, one thread for control; workers have threads of their own and never wait for it.
2. Whatever happens (a reload, a route, a link) ends in `_apply`: work out anew what the config means on this
   kernel, and tell the data path the difference. What did not change is not touched.
3. A reload is taken whole or not at all: what can fail (reading, checking, opening ports) comes first.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Collection
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ctrl import notify, privileges
from ctrl.config import Config, read
from ctrl.control.listen import sockets
from ctrl.daemon import reach as r
from ctrl.daemon.answering import Answering
from ctrl.daemon.fabric import Fabric
from ctrl.daemon.losses import Losses
from ctrl.daemon.nve import Nve
from ctrl.daemon.ports import Opened
from ctrl.daemon.portset import PortSet, log_presence
from ctrl.daemon.refusing import StartError, refuse_what_is_not_live, refuse_what_takes_a_restart
from ctrl.daemon.signals import hear_signals, leaf
from ctrl.daemon.snooping import Snooping
from ctrl.daemon.telling import Teller
from ctrl.daemon.tenancy import Tenancy
from ctrl.events import Bus
from ctrl.membership import Event, Membership
from ctrl.netlink import View as Kernel
from ctrl.netlink import Watch
from ctrl.publisher import Publisher
from ctrl.refusals import Refused
from ctrl.roles.device import Device
from ctrl.static import enroll, tunnelled
from ctrl.store.model import StoreError
from ctrl.view import Rates
from fastpath import Forwarder, Punts
from fastpath.model import IPAddress, Scope
from fastpath.ports import LivePort

if TYPE_CHECKING:
    from ctrl.daemon.managing import Managing

LOG = logging.getLogger("fastpath")
DRAIN_S = 1.0
RESOLVE_S = 0.5
"""How long a start waits for the neighbours it asked for, before the first copy is counted `no_neighbour`."""
TICK_S = 1.0


class Daemon(Answering):
    """Forwards by the config file at `path`, whose content `config` is, until it is told to stop."""

    def __init__(self, path: Path, config: Config) -> None:
        refuse_what_is_not_live(config)
        self._path = path
        self._config = config
        self._ports = PortSet(r.claims(config))
        self._reach = r.NOTHING
        self._refused = Refused()
        self._membership = Membership()
        self._tenancy = Tenancy(config, self._refused)
        self._publisher = Publisher(
            self._membership, tenants=self._tenancy.lists(), refined=self._tenancy.refined()
        )
        self._device = Device(self._membership, self._refused, config.membership)
        self._started_s = time.monotonic()
        self._rates = Rates(time.monotonic, time.time)
        self.events = Bus(time.time)
        self._teller = Teller(self.events, self._membership, lambda place: self._config.ports[place].name)
        self._managing: Managing | None = None
        self._nve: Nve | None = None
        self._stopping = asyncio.Event()
        self._reloading = asyncio.Event()

    async def run(self) -> None:
        """Start, say so, and go on until SIGTERM or SIGINT. StartError or OSError where it cannot start."""
        async with AsyncExitStack() as stack:
            stack.callback(hear_signals(self._stopping, self._reloading))
            config = self._config
            stack.callback(self._ports.close)
            # first: TAP interfaces exist only now, and another instance shows here
            self._ports.open_all(config)
            self._fabric = Fabric(
                config,
                self._membership,
                self._publisher,
                self._device,
                self._tenancy,
                self.events,
                tell=self._teller.member,
                apply=lambda: self._apply(self._config, self._kernel),
                settle=self._settle,
                resolved=self._peers_resolved,
            )
            self._watch = await stack.enter_async_context(Watch(*self._wanted(config), owns=False))
            await self._neighbours_known()
            self._reach = r.work_out(config, self._kernel, self._told)
            self._enroll(config)
            self._fabric.restore(r.attached(config, self._reach.layout, self._kernel))
            self._publisher.rebase(self._reach.basis)
            self._forwarder = Forwarder(
                self._reach.layout,
                self._carriers(0),
                list(self._publisher.lists.values()),
                more_workers=[self._carriers(i) for i in range(1, config.dataplane.workers)],
                batch=config.dataplane.batch,
                trains=config.dataplane.trains,
                punts=_punts(config),
                max_macs=config.nve.max_macs if config.nve else 0,
                max_vteps=config.nve.max_vteps if config.nve else 0,
            )
            self._forwarder.resolve(self._reach.hops)
            if config.nve is not None:
                self._nve = Nve(config, self._reach, self._forwarder, self._refused, self.events)
            self._snooping = Snooping(
                self._forwarder,
                self._device,
                self._publisher,
                self._refused,
                self._send,
                self._member,
                self._nve,
                self._tenancy.side,
                self._tenancy.relays,
                self._tenant,
                self._fabric.say_tenants,
            )
            bound = stack.enter_context(sockets(config.control_socket, config.control.http))
            self._watch.take_over()
            for sentence in privileges.missing():
                LOG.info("%s", sentence)
            privileges.drop()
            for address, state in self._reach.states.items():
                if state == "no_route" and address not in self._told.vteps:  # of those `Nve` tells
                    LOG.warning("no route to peer address=%s", address)
            self._forwarder.start(config.dataplane.cpus)
            stack.push_async_callback(self._drain)
            stack.callback(self._snooping.stop)
            self._attach()
            self._snooping.start()
            if self._nve is not None:
                stack.callback(self._nve.stop)
                self._nve.start()
            # what takes long to import comes when the box forwards already, by what it has stored
            from ctrl.control.server import serving  # noqa: PLC0415

            await stack.enter_async_context(serving(self, bound))
            if config.manager is not None:
                from ctrl.daemon.managing import Managing  # noqa: PLC0415

                self._managing = await stack.enter_async_context(
                    Managing(config, self._path.parent, self.events)
                )
            await self._live()

    async def _live(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                jobs = [
                    tasks.create_task(self._follow(), name="follow the kernel"),
                    tasks.create_task(self._reloads(), name="reload"),
                    tasks.create_task(self._tick(), name="tick"),
                    tasks.create_task(self._fabric.run(self._path.parent), name="managers"),
                ]
                if self._nve is not None:
                    jobs.append(tasks.create_task(self._want_vteps(self._nve), name="next hops of VTEPs"))
                if self._managing is not None:
                    jobs.append(tasks.create_task(self._managing.run(), name="manager"))
                LOG.info("forwarding node=%s ports=%d lists=%d", *self._sizes())
                notify.ready(f"forwarding, {len(self._publisher.lists)} lists")
                await self._stopping.wait()
                notify.stopping()
                for job in jobs:
                    job.cancel()
        except ExceptionGroup as broken:
            if broken.split((OSError, StoreError))[1]:  # a defect of ours: with all that is known of it
                raise
            # The kernel or the store is lost: a sentence will do, and whoever started us does it anew.
            raise leaf(broken) from None

    def _sizes(self) -> tuple[str, int, int]:
        return self._config.node, len(self._ports), len(self._publisher.lists)

    # --- what happens ---------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        async for _ in self._watch.changes():
            self._look_at_ports()

    def _look_at_ports(self) -> None:
        fresh = self._ports.open_appeared(self._config)
        if fresh:
            for port in self._exchange(self._config, fresh):
                port.close()
            for port in fresh.values():
                log_presence(port)
        self._apply(self._config, self._kernel)

    async def _want_vteps(self, nve: Nve) -> None:
        """Ask netlink of the VTEPs that are heard; what it knows comes as any news of the kernel."""
        while True:
            await nve.wanted.wait()
            nve.wanted.clear()
            began_s = time.monotonic()
            await self._watch.want(*self._wanted(self._config))
            # who makes up VTEPs takes no more than half of our time
            await asyncio.sleep(time.monotonic() - began_s)

    async def _reloads(self) -> None:
        while True:
            await self._reloading.wait()
            self._reloading.clear()
            notify.reloading()
            try:
                await self._reload()
            except (StartError, OSError) as error:
                LOG.warning("reload refused, the old config stays file=%s why=%s", self._path, error)
            notify.ready(f"forwarding, {len(self._publisher.lists)} lists")

    async def _reload(self) -> None:
        reading = read(self._path)
        for finding in reading.findings:
            LOG.warning("%s", finding)
        if reading.config is None:
            n_errors = sum(f.severity.value == "error" for f in reading.findings)
            raise StartError(f"errors={n_errors}, see above")
        new = r.placed(reading.config, [port.name for port in self._config.ports])
        refuse_what_is_not_live(new)
        refuse_what_takes_a_restart(self._config, new)
        await self._watch.want(*self._wanted(self._config, new))
        try:
            self._change_to(new)
        finally:
            await self._watch.want(*self._wanted(self._config))
        LOG.info("reloaded file=%s ports=%d lists=%d", self._path, *self._sizes()[1:])

    def _change_to(self, new: Config) -> None:
        claims, old = r.claims(new), self._ports.claims
        fresh = self._ports.open_changed(new, claims)
        self._ports.claim(r.common_claims(old, claims))
        closing = self._exchange(new, fresh)
        self._config = new
        self._device.configure(new.membership)
        self._tenancy.configure(new)
        self._fabric.configure(new)
        if self._nve is not None:
            self._nve.configure(new)
        self._forwarder.set_punt_limits(new.membership.punt_rate_pps, new.membership.punt_burst)
        self._enroll(new)
        self._apply(new, self._kernel)
        self._ports.claim(claims)
        for port in closing:
            port.close()

    async def _tick(self) -> None:
        failed: set[tuple[int, int, int]] = set()
        losses = Losses()
        while True:
            now = self._forwarder.statistics()
            self._rates.take(now, self._all_refused())
            losses.log(now, self._refused)
            self._teller.tick()
            if self._nve is not None:
                self._nve.tick()
            self._ports.refresh()
            if self._ports.turned(self._watch.view):
                self._look_at_ports()
            for worker, place, code in set(self._forwarder.failures()) - failed:
                LOG.error(
                    "a port receives no more worker=%d port=%s why=%s",
                    *(worker, self._config.ports[place].name, os.strerror(code)),
                )
            failed = set(self._forwarder.failures())
            notify.watchdog()
            await asyncio.sleep(TICK_S)

    # --- and what comes of it -------------------------------------------------------------------------------

    def _apply(self, config: Config, kernel: Kernel) -> None:
        """Tell the data path how this config on this kernel differs from what it forwards by."""
        new, old = r.work_out(config, kernel, self._told), self._reach
        is_other = new.basis != old.basis
        step = self._publisher.rebase(new.basis) if is_other else self._publisher.reroute(new.basis)
        if new.layout != old.layout or step.lists or step.removed:
            self._forwarder.relayout(new.layout, step.lists, step.removed, new.hops)
        elif new.hops != old.hops:
            self._forwarder.resolve(new.hops)
        self._reach = new
        self._ports.applied(kernel)
        self._teller.hops(old.states, new.states)
        self._attach()
        self._snooping.settle()

    def _enroll(self, config: Config) -> None:
        for event in enroll(self._membership, config):
            self._member(event)

    def _member(self, event: Event) -> None:
        self._teller.member(event)
        self._fabric.member(event)

    def _tenant(self, scope: Scope, network: str, event: Event) -> None:
        self._teller.tenant(network, event)
        self._fabric.tenant(scope, network, event)

    def _attach(self) -> None:
        """Tell the roles which ports have NVEs and VMs, as they are now."""
        self._device.attach(r.attached(self._config, self._reach.layout, self._kernel), time.monotonic())
        if self._nve is not None:
            uplinks = r.uplinks(self._config, self._reach.layout, self._kernel)
            self._nve.apply(self._reach, uplinks, self._watch.view.addresses)
            self._fabric.tunnelled(tunnelled(self._config, self._reach.layout.ports))
        self._tenancy.attach(self._reach, self._publisher, time.monotonic())
        self._fabric.listening(self._reach.basis)

    def _send(self, place: int, frame: bytes) -> None:
        self._ports.send(self._config.ports[place], frame)

    def _exchange(self, config: Config, fresh: dict[str, Opened]) -> list[Opened]:
        """Let the workers use the fresh ports and those that `config` keeps; give the others back."""
        closing = self._ports.take(config, fresh)
        if closing or fresh:
            ports = r.work_out(config, self._kernel).layout.ports
            layout = replace(self._reach.layout, ports=ports)  # what else is new comes with its lists
            workers = [self._carriers(i, config) for i in range(config.dataplane.workers)]
            self._forwarder.set_ports(layout, workers)
            self._reach = replace(self._reach, layout=layout)
        return closing

    def _carriers(self, worker: int, config: Config | None = None) -> list[LivePort]:
        return self._ports.carriers(config or self._config, worker)

    def _wanted(self, *configs: Config) -> tuple[set[str], set[IPAddress]]:
        return (
            {device for config in configs for device in r.devices(config)},
            {address for config in configs for address in r.peers(config, self._told)},
        )

    @property
    def _told(self) -> r.Told:
        """Whom nobody configured: peers that managers named, and VTEPs that were heard."""
        return replace(self._fabric.told, vteps=self._nve.vteps if self._nve else frozenset())

    async def _neighbours_known(self) -> None:
        deadline = time.monotonic() + RESOLVE_S
        while time.monotonic() < deadline:
            hops = self._watch.view.hops.values()
            if all(hop.mac is not None or hop.device is None for hop in hops):
                return
            await self._watch.want(*self._wanted(self._config))
            await asyncio.sleep(0.02)

    def _settle(self) -> None:
        self._snooping.settle()

    async def _peers_resolved(self, fresh: Collection[IPAddress]) -> None:
        """Wait until the next hops of these peers are known, or had their time."""
        deadline = time.monotonic() + RESOLVE_S
        await self._watch.want(*self._wanted(self._config))
        seen = None
        while time.monotonic() < deadline:
            if self._watch.view is not seen:
                seen = self._watch.view
                self._apply(self._config, self._kernel)
            if all(mac is not None for (_, peer), mac in self._reach.hops.items() if peer in fresh):
                return
            await asyncio.sleep(0.01)

    async def _drain(self) -> None:
        await asyncio.to_thread(self._forwarder.stop, DRAIN_S)
        now = self._forwarder.statistics()
        LOG.info(
            "stopped received=%d replicated=%d punted=%d dropped=%d copies_out=%d",
            *(now.received, now.replicated, now.punted, now.dropped, now.copies_out),
        )


def _punts(config: Config) -> Punts:
    return Punts(config.membership.punt_rate_pps, config.membership.punt_burst)

"""The daemon: composes ports, workers, the kernel's picture and the control socket, and keeps them in step.

1. One event loop, one thread for control; workers have threads of their own and never wait for it.
2. Whatever happens (a reload, a route, a link) ends in `_apply`: work out anew what the config means on this
   kernel, and tell the data path the difference. What did not change is not touched.
3. A reload is taken whole or not at all: what can fail (reading, checking, opening ports) comes first.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from ctrl import notify, privileges
from ctrl.config import Config, read
from ctrl.control.server import serving
from ctrl.daemon import reach as r
from ctrl.daemon.losses import Losses
from ctrl.daemon.ports import LIVE_KINDS, Opened, absent, open_port
from ctrl.netlink import View as Kernel
from ctrl.netlink import Watch
from ctrl.view import PortView, Rates, View
from fastpath import Forwarder
from fastpath.claims import Claims
from fastpath.model import IPAddress
from fastpath.ports import AbsentPort, LivePort
from fastpath.statistics import PortCount

LOG = logging.getLogger("fastpath")
DRAIN_S = 1.0
RESOLVE_S = 0.5
"""How long a start waits for the neighbours it asked for, before the first copy is counted `no_neighbour`."""
TICK_S = 1.0
_RESTART_KEYS = ("workers", "cpus", "batch", "trains", "ring_frames")


class StartError(Exception):
    """The daemon cannot start, or a reload cannot be applied: a sentence."""


class Daemon:
    """Forwards by the config file at `path`, whose content `config` is, until it is told to stop."""

    def __init__(self, path: Path, config: Config) -> None:
        refuse_what_is_not_live(config)
        self._path = path
        self._config = config
        self._ports: dict[str, Opened] = {}
        self._reach = r.NOTHING
        self._started_s = time.monotonic()
        self._rates = Rates(time.monotonic, time.time)
        self._stopping = asyncio.Event()
        self._reloading = asyncio.Event()

    async def run(self) -> None:
        """Start, say so, and go on until SIGTERM or SIGINT. StartError or OSError where it cannot start."""
        async with AsyncExitStack() as stack:
            stack.callback(self._hear_signals())
            config = self._config
            stack.callback(self._close_ports)
            self._claims = r.claims(config)
            self._open_ports(config)  # first: TAP interfaces exist only now, and another instance shows here
            self._watch = await stack.enter_async_context(Watch(*self._wanted(config), owns=False))
            await self._neighbours_known()
            self._reach = r.work_out(config, self._watch.view)
            self._forwarder = Forwarder(
                self._reach.layout,
                self._carriers(0),
                list(self._reach.lists.values()),
                more_workers=[self._carriers(i) for i in range(1, config.dataplane.workers)],
                batch=config.dataplane.batch,
                trains=config.dataplane.trains,
            )
            self._forwarder.resolve(self._reach.hops)
            await stack.enter_async_context(serving(self.view, config.control_socket, config.control.http))
            self._watch.take_over()
            for sentence in privileges.missing():
                LOG.info("%s", sentence)
            privileges.drop()
            for address, state in self._reach.states.items():
                if state == "no_route":
                    LOG.warning("no route to peer address=%s", address)
            self._forwarder.start(config.dataplane.cpus)
            stack.push_async_callback(self._drain)
            await self._live()

    async def _live(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                jobs = [
                    tasks.create_task(self._follow(), name="follow the kernel"),
                    tasks.create_task(self._reloads(), name="reload"),
                    tasks.create_task(self._tick(), name="tick"),
                ]
                LOG.info("forwarding node=%s ports=%d lists=%d", *self._sizes())
                notify.ready(f"forwarding, {len(self._reach.lists)} lists")
                await self._stopping.wait()
                notify.stopping()
                for job in jobs:
                    job.cancel()
        except ExceptionGroup as broken:
            if broken.split(OSError)[1]:  # a defect of ours: with all that is known of it
                raise
            # The kernel can be heard no more: a sentence will do, and whoever started us starts us anew.
            raise broken.exceptions[0] from None

    def _hear_signals(self) -> Callable[[], None]:
        """From now on; gives what ends it."""
        loop = asyncio.get_running_loop()
        heard = {
            signal.SIGTERM: self._stopping,
            signal.SIGINT: self._stopping,
            signal.SIGHUP: self._reloading,
        }
        for number, event in heard.items():
            loop.add_signal_handler(number, event.set)

        def end() -> None:
            for number in heard:
                loop.remove_signal_handler(number)

        return end

    def _sizes(self) -> tuple[str, int, int]:
        return self._config.node, len(self._ports), len(self._reach.lists)

    # --- what happens ---------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        async for kernel in self._watch.changes():
            self._interfaces()
            self._apply(self._config, kernel)

    async def _reloads(self) -> None:
        while True:
            await self._reloading.wait()
            self._reloading.clear()
            notify.reloading()
            try:
                await self._reload()
            except (StartError, OSError) as error:
                LOG.warning("reload refused, the old config stays file=%s why=%s", self._path, error)
            notify.ready(f"forwarding, {len(self._reach.lists)} lists")

    async def _reload(self) -> None:
        reading = read(self._path)
        for finding in reading.findings:
            LOG.warning("%s", finding)
        if reading.config is None:
            raise StartError(
                f"{sum(f.severity.value == 'error' for f in reading.findings)} errors, see above"
            )
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
        fresh = self._open_changed(new)
        claims, old = r.claims(new), self._claims
        self._claim(r.common_claims(old, claims))
        closing = self._exchange(new, fresh)
        self._config = new
        self._apply(new, self._watch.view)
        self._claim(claims)
        for port in closing:
            port.close()

    async def _tick(self) -> None:
        failed: set[tuple[int, int, int]] = set()
        losses = Losses()
        while True:
            now = self._forwarder.statistics()
            self._rates.take(now)
            losses.log(now)
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
        new, old = r.work_out(config, kernel), self._reach
        lists, removed = r.changed_lists(old, new)
        if new.layout != old.layout or lists or removed:
            self._forwarder.relayout(new.layout, lists, removed, new.hops)
        elif new.hops != old.hops:
            self._forwarder.resolve(new.hops)
        self._reach = new

    def _interfaces(self) -> None:
        """Open the ports whose interfaces have appeared, or were made anew; part with those that vanished."""
        fresh: dict[str, Opened] = {}
        n_workers = self._config.dataplane.workers
        for name, port in self._ports.items():
            device = r.device_of(port.table)
            index = index_of(device)
            if index == port.index:
                continue
            if index == 0:
                fresh[name] = absent(port.table, n_workers, f"there is no interface {device}")
                continue
            if port.consumer is not None:  # of the interface that was: a new one takes its name
                port.consumer.close()
                port.consumer = None
            try:
                fresh[name] = open_port(port.table, self._config, self._claims)
            except OSError as error:
                LOG.warning("cannot open port=%s why=%s", name, error)
        if fresh:
            for port in self._exchange(self._config, fresh):
                port.close()
            for port in fresh.values():
                log_presence(port)

    def _exchange(self, config: Config, fresh: dict[str, Opened]) -> list[Opened]:
        """Let the workers use the fresh ports and those that `config` keeps; give the others back."""
        tables = {table.name: table for table in config.ports if table.faces}
        closing = [port for name, port in self._ports.items() if name in fresh or name not in tables]
        self._ports = {name: port for name, port in self._ports.items() if name in tables} | fresh
        for name, port in self._ports.items():
            port.table = tables[name]
        if closing or fresh:
            ports = r.work_out(config, self._watch.view).layout.ports
            layout = replace(self._reach.layout, ports=ports)  # what else is new comes with its lists
            workers = [self._carriers(i, config) for i in range(config.dataplane.workers)]
            self._forwarder.set_ports(layout, workers)
            self._reach = replace(self._reach, layout=layout)
        return closing

    def _open_ports(self, config: Config) -> None:
        for table in config.ports:
            self._ports[table.name] = open_port(table, config, self._claims)
            if self._ports[table.name].is_absent:
                log_presence(self._ports[table.name])

    def _open_changed(self, new: Config) -> dict[str, Opened]:
        """Open what a new config has more, or differently; all of it or, with OSError, nothing."""
        fresh: dict[str, Opened] = {}
        try:
            for table in new.ports:
                old = self._ports.get(table.name)
                if table.faces and (old is None or _carried_otherwise(old.table, table)):
                    fresh[table.name] = open_port(table, new, r.claims(new))
        except BaseException:
            for port in fresh.values():
                port.close()
            raise
        return fresh

    def _claim(self, claims: Claims) -> None:
        if claims == self._claims:
            return
        for name, port in self._ports.items():
            try:
                port.claim(claims)
            except OSError as error:  # it went meanwhile; it will be opened anew, with these
                LOG.warning("cannot claim port=%s why=%s", name, error)
        self._claims = claims

    def _carriers(self, worker: int, config: Config | None = None) -> list[LivePort]:
        """The ports of one worker, by their places; an empty place has one that carries nothing."""
        out: list[LivePort] = []
        for table in (config or self._config).ports:
            port = self._ports.get(table.name) if table.faces else None
            out.append(port.carriers[worker] if port else AbsentPort())
        return out

    def _wanted(self, *configs: Config) -> tuple[set[str], set[IPAddress]]:
        return (
            {device for config in configs for device in r.devices(config)},
            {address for config in configs for address in r.peers(config)},
        )

    async def _neighbours_known(self) -> None:
        deadline = time.monotonic() + RESOLVE_S
        while time.monotonic() < deadline:
            hops = self._watch.view.hops.values()
            if all(hop.mac is not None or hop.device is None for hop in hops):
                return
            await self._watch.want(*self._wanted(self._config))
            await asyncio.sleep(0.02)

    async def _drain(self) -> None:
        await asyncio.to_thread(self._forwarder.stop, DRAIN_S)
        now = self._forwarder.statistics()
        LOG.info(
            "stopped received=%d replicated=%d punted=%d dropped=%d copies_out=%d",
            *(now.received, now.replicated, now.punted, now.dropped, now.copies_out),
        )

    def _close_ports(self) -> None:
        for port in self._ports.values():
            port.close()

    # --- what is shown --------------------------------------------------------------------------------------

    def view(self) -> View:
        """The picture of this moment."""
        statistics = self._forwarder.statistics()
        failed = {place for _, place, _ in self._forwarder.failures()}
        real = [(place, table) for place, table in enumerate(self._config.ports) if table.faces]
        return View(
            config=self._config.model_copy(update={"ports": tuple(table for _, table in real)}),
            started_s=self._started_s,
            now_s=time.monotonic(),
            revision=self._forwarder.revision,
            layout=self._reach.layout,
            lists=self._reach.lists,
            statistics=statistics,
            ports=tuple(
                self._port_view(place, statistics.ports[place], place in failed) for place, table in real
            ),
            hops=self._reach.states,
            recent=self._rates.recent(statistics),
        )

    def _port_view(self, place: int, count: PortCount, has_failed: bool) -> PortView:
        port = self._ports[self._config.ports[place].name]
        device = r.device_of(port.table)
        link = self._watch.view.links.get(device)
        state = "absent" if port.is_absent or link is None else "up" if link.is_up else "down"
        return PortView(
            name=port.table.name,
            device=device,
            kind=port.table.kind,
            faces=port.table.faces,
            state="error" if has_failed else state,
            mtu=self._reach.layout.ports[place].mtu,
            transmit=port.transmit,
            why=port.why,
            received=count.received,
            copies_out=count.copies_out,
            ring_lost=sum(carrier.ring_lost for carrier in port.carriers),
        )


def index_of(device: str) -> int:
    """The index of an interface now, 0 where there is none; the kernel's picture may be a moment old."""
    try:
        return socket.if_nametoindex(device)
    except OSError:
        return 0


def log_presence(port: Opened) -> None:
    """Say whether there is something behind a port."""
    if port.is_absent:
        LOG.warning("port absent name=%s why=%s", port.table.name, port.why)
    else:
        LOG.info("port opened name=%s device=%s", port.table.name, r.device_of(port.table))


def _carried_otherwise(old: object, new: object) -> bool:
    return any(getattr(old, key) != getattr(new, key) for key in ("device", "kind", "faces"))


def refuse_what_is_not_live(config: Config) -> None:
    """Raise StartError for what replay can do and a live process cannot."""
    if not any(port.faces for port in config.ports):
        raise StartError("no [[port]] is given, so there is nothing to forward between")
    for port in config.ports:
        if port.faces and port.kind not in LIVE_KINDS:
            raise StartError(
                f'port {port.name}: kind = "{port.kind}" is for replay; '
                f"expected one of {', '.join(sorted(LIVE_KINDS))}"
            )
        if "vm" in port.faces:
            raise StartError(
                f'port {port.name}: faces = "vm" needs [nve], which this version does not have yet'
            )


def refuse_what_takes_a_restart(old: Config, new: Config) -> None:
    """Raise StartError for keys that a running process cannot change."""
    keys = [
        f"dataplane.{key}"
        for key in _RESTART_KEYS
        if getattr(old.dataplane, key) != getattr(new.dataplane, key)
    ]
    keys += [key for key in ("control", "node") if getattr(old, key) != getattr(new, key)]
    if keys:
        raise StartError(f"{', '.join(keys)} changed, which takes a restart")

"""The live ports of a box by their names: opened, exchanged, claimed and closed together."""

from __future__ import annotations

import logging
import socket
from dataclasses import replace

from ctrl.config import Config
from ctrl.config.schema import PortTable
from ctrl.daemon.cloning import Cloning
from ctrl.daemon.ports import Opened, absent, open_pair, open_port
from ctrl.daemon.reach import device_of
from ctrl.netlink import View as Kernel
from fastpath.claims import Claims
from fastpath.ports import AbsentPort, LivePort

LOG = logging.getLogger("fastpath")


class PortSet(dict[str, Opened]):
    """The opened port of each name."""

    def __init__(self, claims: Claims) -> None:
        super().__init__()
        self._claims = claims
        self._mute: set[str] = set()
        """Ports that sent nothing for control of late."""
        self._applied = Kernel()
        self._cloning = Cloning()

    @property
    def claims(self) -> Claims:
        """What all of them claim."""
        return self._claims

    @property
    def cloned(self) -> dict[int, tuple[int, int]]:
        """Of each worker, if there are clones: see `Cloning.counts`."""
        return self._cloning.counts

    def open_all(self, config: Config) -> None:
        """Open every port of a config. OSError where the system refuses one."""
        if config.dataplane.clones and any(table.faces for table in config.ports):
            self._cloning.open(config.dataplane.workers)
        for table in config.ports:
            if table.name not in self:
                self.update(self._open(table, config, self._claims))
            if self[table.name].is_absent:
                log_presence(self[table.name])

    def _open(self, table: PortTable, config: Config, claims: Claims) -> dict[str, Opened]:
        """Open one port, or two that are one another's peers."""
        if table.kind != "internal":
            return {table.name: open_port(table, config, claims, self._cloning)}
        peer = next(other for other in config.ports if other.name == table.peer)
        return {port.table.name: port for port in open_pair(table, peer, config)}

    def open_changed(self, new: Config, claims: Claims) -> dict[str, Opened]:
        """Open what a new config has more, or differently; all of it or, with OSError, nothing."""
        fresh: dict[str, Opened] = {}
        try:
            for table in new.ports:
                old = self.get(table.name)
                is_other = table.faces and (old is None or _carried_otherwise(old.table, table))
                if is_other and table.name not in fresh:
                    fresh |= self._open(table, new, claims)
        except BaseException:
            for port in fresh.values():
                port.close()
            raise
        return fresh

    def open_appeared(self, config: Config) -> dict[str, Opened]:
        """Open the ports whose interfaces have appeared, or were made anew; absent ones for those that
        vanished."""
        fresh: dict[str, Opened] = {}
        for name, port in self.items():
            device = device_of(port.table)
            index = _index_of(device)
            if index == port.index or port.table.kind == "internal" or port.has_left:
                continue
            if index == 0 and port.table.kind != "tap":  # those we make
                fresh[name] = absent(port.table, config.dataplane.workers, f"there is no interface {device}")
                continue
            if port.consumer is not None:  # of the interface that was: a new one takes its name
                port.consumer.close()
                port.consumer = None
            try:
                fresh[name] = open_port(port.table, config, self._claims, self._cloning)
            except OSError as error:
                LOG.warning("cannot open port=%s why=%s", name, error)
        return fresh

    def seen(self, kernel: Kernel) -> Kernel:
        """The kernel's picture, and what only we see of our ports."""
        links = dict(kernel.links)
        for port in self.values():
            link = port.link(links.pop(device_of(port.table), None))
            if link is not None:
                links[device_of(port.table)] = link
        return replace(kernel, links=links)

    def applied(self, kernel: Kernel) -> None:
        """Remember what was `seen` when the box was last told."""
        self._applied = kernel

    def turned(self, kernel: Kernel) -> bool:
        """Whether something became of a TAP since then that nobody tells; takes the kernel's picture."""
        return any(
            port.link(kernel.links.get(device)) != self._applied.links.get(device)
            for port in self.values()
            if port.table.kind == "tap"
            for device in [device_of(port.table)]
        )

    def refresh(self) -> None:
        """Look again at what the interfaces can do; some of it nobody tells."""
        for port in self.values():
            port.refresh()

    def take(self, config: Config, fresh: dict[str, Opened]) -> list[Opened]:
        """Be the fresh ports and those that `config` keeps; gives the others back."""
        tables = {table.name: table for table in config.ports if table.faces}
        gone = [port for name, port in self.items() if name in fresh or name not in tables]
        kept = {name: port for name, port in self.items() if name in tables} | fresh
        self.clear()
        self.update(kept)
        for name, port in self.items():
            port.table = tables[name]
        return gone

    def claim(self, claims: Claims) -> None:
        """Have all ports receive this, and keep it from the kernel, from now on."""
        if claims == self._claims:
            return
        for name, port in self.items():
            try:
                port.claim(claims)
            except OSError as error:  # it went meanwhile; it will be opened anew, with these
                LOG.warning("cannot claim port=%s why=%s", name, error)
        self._claims = claims

    def carriers(self, config: Config, worker: int) -> list[LivePort]:
        """The ports of one worker, by their places; an empty place has one that carries nothing."""
        out: list[LivePort] = []
        for table in config.ports:
            port = self.get(table.name) if table.faces else None
            out.append(port.carriers[worker] if port else AbsentPort())
        return out

    def send(self, table: PortTable, frame: bytes) -> None:
        """Send a frame of control's own; what a port refuses is logged once, until it sends again."""
        port = self.get(table.name)
        if port is None:
            return
        try:
            port.carriers[0].send(frame)
            self._mute.discard(table.name)
        except OSError as error:
            if table.name not in self._mute:
                LOG.warning("queries do not leave port=%s why=%s", table.name, error.strerror)
            self._mute.add(table.name)

    def close(self) -> None:
        """Give all of them back."""
        for port in self.values():
            port.close()
        self._cloning.close()


def _index_of(device: str) -> int:
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
        LOG.info("port opened name=%s device=%s", port.table.name, device_of(port.table))


def _carried_otherwise(old: PortTable, new: PortTable) -> bool:
    return any(getattr(old, key) != getattr(new, key) for key in ("device", "kind", "faces", "peer"))

"""The roles of a box that managers instruct, device and replication point, and what they make it forward by.

1. What a manager says of groups goes to the publisher, whom packets are taken from into the layout; both
   count from the same FIB on.
2. What the box says of itself is its second information: the groups that the membership table has, with the
   networks that the config has them carry.
3. A device that starts anew knows no member for a second or so. Until its NVEs had the time to say who wants
   what, every port that faces them gets what the device was in before.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import ExitStack
from pathlib import Path

from ctrl.config import Config
from ctrl.config.numbers import vsid_of
from ctrl.config.schema_roles import DeviceTable, ReplicatorTable
from ctrl.daemon.instructing import Instructing, address_of
from ctrl.daemon.reach import Told
from ctrl.events import Bus, applied_event
from ctrl.membership import ALL, Event, Membership, Origin, Who
from ctrl.point_lists import Receivers
from ctrl.publisher import Publisher
from ctrl.roles.device import Device
from ctrl.roles.instructed import Instructed
from ctrl.roles.tunnels import Bounds
from ctrl.store.held import Held, HeldStore
from ctrl.topology.entry import Node
from fastpath.model import IPAddress, Scope

LOG = logging.getLogger("fastpath.fabric")
ROLE = {Scope.DEVICE: "device", Scope.REPLICATOR: "replicator"}
GRACE_S = 1.0
"""What NVEs have beyond their response times to say again which groups they are in, after a start."""


class Fabric:
    """The sessions of a box with managers, and what came of them.

    `tell` hears of members that come and go here; `apply` has the box forward by another layout, `settle` by
    other lists alone; `resolved` waits until the next hops of peers are known, or had their time.
    """

    def __init__(
        self,
        config: Config,
        membership: Membership,
        publisher: Publisher,
        device: Device,
        events: Bus,
        tell: Callable[[Event], None],
        apply: Callable[[], None],
        settle: Callable[[], None],
        resolved: Callable[[frozenset[IPAddress]], Awaitable[None]],
    ) -> None:
        self._config = config
        self._membership = membership
        self._publisher = publisher
        self._device = device
        self._events = events
        self._tell, self._apply, self._settle = tell, apply, settle
        self.told = Told()
        self.sides = [
            Instructing(scope, *_loaded(config, scope, table), events, self._obey, resolved)
            for scope, table in _instructed(config)
        ]
        for side in self.sides:
            self._take(side)
        self._take_told()

    def member(self, event: Event) -> None:
        """The device's second information differs, if it is the first or the last of a group."""
        for side in self._devices():
            if event.is_first:
                side.joined(event.group, *_numbers(self._config, event.group))
            elif event.is_last:
                side.left(event.group)

    def restore(self, places: Collection[int]) -> None:
        """Have all of these ports want the groups that the device was in when it ended, until `_confirm`."""
        for side in self._devices():
            for key in side.instructed.groups:
                for place in places:
                    event = self._membership.apply(address_of(key), Who(place, Origin.STORED), ALL)
                    if event is not None:
                        self._tell(event)

    def _confirm(self) -> None:
        """NVEs had their time: go by what they said."""
        for group, who in self._membership.of_origin(Origin.STORED):
            event = self._membership.apply(group, who, None)
            if event is not None:
                self._tell(event)
                self.member(event)
        for side in self._devices():
            self._join_all(side)
            side.confirm()
        self._settle()

    def _join_all(self, side: Instructing) -> None:
        for group in self._membership.groups():
            side.joined(group, *_numbers(self._config, group))

    def _devices(self) -> list[Instructing]:
        return [side for side in self.sides if side.scope is Scope.DEVICE]

    def configure(self, config: Config) -> None:
        """Go on by another config: groups may carry other networks."""
        is_other = config.networks != self._config.networks
        self._config = config
        for side in self._devices() if is_other else ():
            self._join_all(side)

    async def run(self, folder: Path) -> None:
        """Serve managers for as long as the box runs; `folder`: where the paths of [tls] begin."""
        if not self.sides:
            return
        if self._config.manager is None:  # what a manager sees of failed handshakes gRPC alone explains
            os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        # gRPC comes with it: imported when the box forwards already
        from ctrl.daemon.sessions import client_of, probes_of  # noqa: PLC0415

        settings = self._config.membership
        confirm_s = settings.robustness * settings.startup_response_interval_s + GRACE_S
        asyncio.get_running_loop().call_later(confirm_s, self._confirm)
        with ExitStack() as stack:
            async with asyncio.TaskGroup() as tasks:
                for side, (scope, table) in zip(self.sides, _instructed(self._config), strict=True):
                    client = client_of(side, table, self._config, folder)
                    run = side.run(client, probes_of(stack, side, table))
                    tasks.create_task(run, name=f"managers of the {ROLE[scope]}")

    # --- what managers say ----------------------------------------------------------------------------------

    def _obey(self) -> frozenset[IPAddress]:
        """Carry out what the roles hold by now; the peers that were not there before."""
        is_other = False
        for side in self.sides:
            is_other |= self._take(side)
            moved = side.instructed.take_moved()
            if moved:
                self._device.moved([address_of(nve) for nve in moved], time.monotonic())
                is_other = True
        before = self.told
        if self._take_told():
            self._apply()
        elif is_other:
            self._settle()
        return (self.told.device | self.told.point) - (before.device | before.point)

    def _take(self, side: Instructing) -> bool:
        """Give the publisher what is new; False: nothing is."""
        instructed = side.instructed
        is_watched = self._events.wanted("instructions")
        changes = instructed.take_changes()
        for key in changes:
            group = address_of(key)
            if is_watched:
                now = instructed.entry(key), instructed.revision
                self._events.publish("instructions", applied_event(instructed.node.name, key, *now))
            if side.scope is Scope.DEVICE:
                self._publisher.instruct(group, _addresses(instructed.peers(key)))
                continue
            entry = instructed.entry(key)
            self._publisher.instruct_point(
                group,
                entry
                and Receivers(_addresses(entry.peers), _addresses(entry.onward), entry.vnis, entry.vsids),
            )
        return bool(changes)

    def _take_told(self) -> bool:
        """Note whom the roles were told of; True where that is another set than before."""
        changed = [
            side.instructed.take_senders_changed() | side.instructed.take_vnis_changed()
            for side in self.sides
        ]
        if not any(changed):
            return False
        told = {side.scope: frozenset(map(address_of, side.instructed.senders())) for side in self.sides}
        vnis = next((side.instructed.vnis for side in self.sides if side.scope is Scope.REPLICATOR), ())
        before, self.told = (
            self.told,
            Told(told.get(Scope.DEVICE, frozenset()), told.get(Scope.REPLICATOR, frozenset()), vnis or None),
        )
        return before != self.told


def _instructed(config: Config) -> Iterator[tuple[Scope, DeviceTable | ReplicatorTable]]:
    """The roles that have managers."""
    if config.device and config.device.manager:
        yield Scope.DEVICE, config.device
    if config.replicator and config.replicator.manager:
        yield Scope.REPLICATOR, config.replicator


def node_of(config: Config, scope: Scope) -> Node:
    """Who the box is to a manager. A point beside a device has a name of its own: NODE.point."""
    generation = time.time_ns() // 1_000_000
    device, point = config.device, config.replicator
    if scope is Scope.DEVICE and device is not None:
        return Node(config.node, "device", device.address.packed, generation, device.tunnel)
    if point is None:
        raise ValueError(f"a box without {scope.name}")
    return Node(
        name=f"{config.node}.point" if device else config.node,
        role="replicator",
        address=point.address.packed,
        generation=generation,
        replicate=point.replicate.packed if point.replicate else b"",
        vnis=tuple(sorted(point.vnis)),
    )


def _loaded(
    config: Config, scope: Scope, table: DeviceTable | ReplicatorTable
) -> tuple[Instructed, HeldStore | None]:
    """A role with what it held when it ended, and where that is kept."""
    node = node_of(config, scope)
    bounds = Bounds(
        peers_from=table.peers_from,
        max_peers_per_group=table.max_peers_per_group,
        max_groups=table.max_groups,
        shrink_hold_s=table.shrink_hold_s,
    )
    path = f"/var/lib/fastpath/{node.name}.db" if table.state is None else table.state
    if not path:
        return Instructed(node, bounds, Held()), None
    store = HeldStore(Path(path), node.name, node.role)
    try:
        held = store.load()
    except OSError as error:
        LOG.warning("instructions are not kept why=%s", error)
        return Instructed(node, bounds, Held()), None
    LOG.info("instructions held groups=%d revision=%d file=%s", len(held.entries), held.revision, path)
    return Instructed(node, bounds, held), store


def _numbers(config: Config, group: IPAddress) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The VNIs and VSIDs that the config has a group carry."""
    carried = [n for n in config.networks if group in (n.group, *(one.group for one in n.maps))]
    vsids = {vsid_of(network) for network in carried}
    return tuple(sorted({network.vni for network in carried})), tuple(
        sorted(v for v in vsids if v is not None)
    )


def _addresses(packed: tuple[bytes, ...]) -> tuple[IPAddress, ...]:
    return tuple(map(address_of, packed))

"""The roles of a box that managers instruct, device, replication point and NVE, and what they make it forward
by.

1. What a manager says of groups goes to the publisher, whom packets are taken from into the layout; both
   count from the same FIB on.
2. What the box says of itself is its second information: the groups that the membership table has, with the
   networks that the config has them carry. An NVE is a device that rewrites to managers: it is in the groups
   of the networks that it has VMs of, and sends to each whom it is told of (framework 3.2).
3. Of its tenants a device or NVE says what they want together, network by network (`TenantsSaid`), and is
   told what those of others want; it says all of a turn at once (`say_tenants`).
4. A device that starts anew knows no member for a second or so. Until its NVEs had the time to say who wants
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

from ctrl import planner
from ctrl.config import Config
from ctrl.config.numbers import vsid_of
from ctrl.config.schema_roles import NodeTable
from ctrl.daemon.instructing import Instructing, address_of
from ctrl.daemon.reach import Told
from ctrl.daemon.tenancy import Tenancy
from ctrl.events import Bus, applied_event
from ctrl.membership import ALL, Event, Membership, Origin, Who
from ctrl.point_lists import Receivers
from ctrl.publisher import Basis, Publisher
from ctrl.roles.device import Device
from ctrl.roles.instructed import Instructed
from ctrl.roles.tunnels import Bounds
from ctrl.store.held import Held, HeldStore
from ctrl.store.opening import state_folder
from ctrl.tenants_said import TenantsSaid
from ctrl.tenants_told import Audience
from ctrl.tenants_told import Told as WhoWants
from ctrl.topology.entry import ANY, AWARE, MESH, Entry, Key, Node, is_tenant, split_tenant
from ctrl.topology.words import is_shown
from fastpath.model import IPAddress, Scope

LOG = logging.getLogger("fastpath.fabric")
Numbers = tuple[tuple[int, ...], tuple[int, ...]]
"""VNIs and VSIDs."""
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
        tenancy: Tenancy,
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
        self._tenancy = tenancy
        self._events = events
        self._tell, self._apply, self._settle = tell, apply, settle
        self.told = Told()
        self._receivers: dict[IPAddress, planner.Receivers] = {}
        """Whom managers have the NVE send what is for a group."""
        self._is_redirected = False
        self._tunnelled: dict[IPAddress, Numbers] = {}
        self.sides = [
            Instructing(scope, *_loaded(config, scope, table), events, self._obey, resolved)
            for scope, table in _instructed(config)
        ]
        heard = tenancy.heard()
        is_in = {Scope.DEVICE: lambda group: bool(membership.of(group)), Scope.NVE: self._is_tunnelled}
        self._said = {
            side.scope: TenantsSaid(heard[side.scope], is_in[side.scope])
            for side in self.sides
            if side.scope in is_in
        }
        for side in self.sides:
            self._take(side)
        self._take_told()

    def _is_tunnelled(self, group: IPAddress) -> bool:
        return group in self._tunnelled

    def member(self, event: Event) -> None:
        """The device's second information differs, if it is the first or the last of a group."""
        for side in self._devices():
            if event.is_first:
                side.joined(event.group.packed, *_numbers(self._config, event.group))
            elif event.is_last:
                side.left(event.group.packed)
            if event.is_first or event.is_last:
                self._said[side.scope].change_outer(event.group)

    def listening(self, basis: Basis) -> None:
        """To the tenants of these networks it is listened from now on."""
        networks = {Scope.DEVICE: basis.refined, Scope.NVE: [one.network for one in basis.snooped]}
        for scope, said in self._said.items():
            said.rebase(networks[scope])

    def tenant(self, scope: Scope, network: str, event: Event) -> None:
        """What tenants want together differs, if it is the first or the last of a group."""
        if scope in self._said and (event.is_first or event.is_last):
            self._said[scope].change(network, event.group)

    def say_tenants(self) -> None:
        """Say what differs by now."""
        for side in self.sides:
            for key, numbers in self._said[side.scope].take() if side.scope in self._said else ():
                if numbers is None:
                    side.left(key)
                else:
                    side.joined(key, *numbers)

    def tunnelled(self, groups: Collection[IPAddress]) -> None:
        """These are the groups of the NVE from now on."""
        before, self._tunnelled = self._tunnelled, {one: _numbers(self._config, one) for one in groups}
        for side in self._nves():
            for group, numbers in self._tunnelled.items():
                if before.get(group) != numbers:
                    side.joined(group.packed, *numbers)
            for group in before.keys() - self._tunnelled.keys():
                side.left(group.packed)
            for group in before.keys() ^ self._tunnelled.keys():
                self._said[side.scope].change_outer(group)

    def restore(self, places: Collection[int]) -> None:
        """Have all of these ports want the groups that the device was in when it ended, until `_confirm`."""
        for side in self._devices():
            for key in side.instructed.groups:
                for place in places if not is_tenant(key) else ():
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
        for side in self._nves():
            side.confirm()
        self._settle()

    def _join_all(self, side: Instructing) -> None:
        for group in self._membership.groups():
            side.joined(group.packed, *_numbers(self._config, group))

    def _devices(self) -> list[Instructing]:
        return [side for side in self.sides if side.scope is Scope.DEVICE]

    def _nves(self) -> list[Instructing]:
        return [side for side in self.sides if side.scope is Scope.NVE]

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
                for side, (_, table) in zip(self.sides, _instructed(self._config), strict=True):
                    client = client_of(side, table, self._config, folder)
                    run = side.run(client, probes_of(stack, side, table))
                    tasks.create_task(run, name=f"managers of the {side.role}")

    # --- what managers say ----------------------------------------------------------------------------------

    def _obey(self) -> frozenset[IPAddress]:
        """Carry out what the roles hold by now; the peers that were not there before."""
        is_other = False
        for side in self.sides:
            is_other |= self._take(side)
            moved = side.instructed.take_moved()
            if moved:
                hosts, now_s = [address_of(one) for one in moved], time.monotonic()
                self._device.moved(hosts, now_s)
                self._tenancy.moved(hosts, now_s)
                is_other = True
        before = self.told
        if self._take_told():
            self._apply()
        elif is_other:
            self._settle()
        return self.told.peers - before.peers

    def _take(self, side: Instructing) -> bool:
        """Give the publisher what is new; False: nothing is."""
        instructed = side.instructed
        is_watched = self._events.wanted("instructions")
        changes = instructed.take_changes()
        for key in changes:
            entry = instructed.entry(key)
            if is_watched and is_shown(key):
                now = entry, instructed.revision
                self._events.publish("instructions", applied_event(instructed.node.name, key, *now))
            if is_tenant(key):
                self._take_tenants(side, key, entry)
                continue
            group = address_of(key)
            if side.scope is Scope.DEVICE:
                is_mesh = entry is not None and entry.via == MESH
                self._publisher.instruct(group, _addresses(instructed.peers(key)), is_mesh)
                continue
            if side.scope is Scope.NVE:
                self._redirect(group, _addresses(instructed.peers(key)))
                continue
            self._publisher.instruct_point(
                group,
                entry
                and Receivers(_addresses(entry.peers), _addresses(entry.onward), entry.vnis, entry.vsids),
            )
        return bool(changes)

    def _take_tenants(self, side: Instructing, key: Key, entry: Entry | None) -> None:
        """Note what other nodes want of the tenants."""
        of_role, (outer, vni, inner) = self._tenancy.told[side.scope], split_tenant(key)
        audience = Audience(address_of(outer), vni)
        told = entry and WhoWants(frozenset(_addresses(entry.peers)), entry.vnis, entry.vsids)
        if inner == AWARE:
            of_role.instruct_aware(audience, told)
        elif inner == ANY:
            of_role.instruct_any(audience, told)
        else:
            of_role.instruct(audience, address_of(inner), told)

    def _redirect(self, group: IPAddress, peers: tuple[IPAddress, ...]) -> None:
        """These are the receivers of what our NVE has for a group."""
        if peers:
            self._receivers[group] = planner.Receivers(peers)
        else:
            self._receivers.pop(group, None)
        self._is_redirected = True

    def _take_told(self) -> bool:
        """Note whom the roles were told of; True where that is another set than before."""
        changed = [
            side.instructed.take_senders_changed() | side.instructed.take_vnis_changed()
            for side in self.sides
        ]
        if not (any(changed) or self._is_redirected):
            return False
        self._is_redirected = False
        told = {side.scope: frozenset(map(address_of, side.instructed.senders())) for side in self.sides}
        vnis = next((side.instructed.vnis for side in self.sides if side.scope is Scope.REPLICATOR), ())
        before, self.told = (
            self.told,
            Told(
                device=told.get(Scope.DEVICE, frozenset()),
                point=told.get(Scope.REPLICATOR, frozenset()),
                vnis=vnis or None,
                nve=told.get(Scope.NVE, frozenset()),
                receivers=dict(self._receivers),
            ),
        )
        return before != self.told


def _instructed(config: Config) -> Iterator[tuple[Scope, NodeTable]]:
    """The roles that have managers."""
    if config.device and config.device.manager:
        yield Scope.DEVICE, config.device
    if config.replicator and config.replicator.manager:
        yield Scope.REPLICATOR, config.replicator
    if config.nve and config.nve.manager:
        yield Scope.NVE, config.nve


def node_of(config: Config, scope: Scope) -> Node:
    """Who the box is to a manager. Each of its roles has a name of its own: NODE, NODE.nve, NODE.point."""
    generation = time.time_ns() // 1_000_000
    nve, device, point = config.nve, config.device, config.replicator
    if scope is Scope.DEVICE and device is not None:
        return Node(config.node, "device", device.address.packed, generation, device.tunnel)
    if scope is Scope.NVE and nve is not None:
        name = f"{config.node}.nve" if device else config.node
        return Node(name, "device", nve.address.packed, generation, "rewrite", is_nve=True)
    if point is None:
        raise ValueError(f"a box without {scope.name}")
    return Node(
        name=f"{config.node}.point" if device or (nve and nve.manager) else config.node,
        role="replicator",
        address=point.address.packed,
        generation=generation,
        replicate=point.replicate.packed if point.replicate else b"",
        vnis=tuple(sorted(point.vnis)),
    )


def _loaded(config: Config, scope: Scope, table: NodeTable) -> tuple[Instructed, HeldStore | None]:
    """A role with what it held when it ended, and where that is kept."""
    node = node_of(config, scope)
    bounds = Bounds(
        peers_from=table.peers_from,
        max_peers_per_group=table.max_peers_per_group,
        max_groups=table.max_groups,
        shrink_hold_s=table.shrink_hold_s,
    )
    path = f"{state_folder() / node.name}.db" if table.state is None else table.state
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


def _numbers(config: Config, group: IPAddress) -> Numbers:
    """The VNIs and VSIDs that the config has a group carry."""
    carried = [n for n in config.networks if group in (n.group, *(one.group for one in n.maps))]
    vsids = {vsid_of(network) for network in carried}
    return tuple(sorted({network.vni for network in carried})), tuple(
        sorted(v for v in vsids if v is not None)
    )


def _addresses(packed: tuple[bytes, ...]) -> tuple[IPAddress, ...]:
    return tuple(map(address_of, packed))

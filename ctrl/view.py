"""The one picture from which everything is shown: tables, JSON and metrics agree because each is made of it.

A view is immutable, so whoever serves it may do so in another thread while the daemon goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ctrl.config import Config
from ctrl.topology.entry import Entry, Key
from fastpath.compiler import NextHops
from fastpath.model import GroupKey, IPAddress, Layout, ReplicationList, Scope
from fastpath.statistics import Statistics


@dataclass(frozen=True, slots=True)
class PortView:
    """A port as it is now. `why` says why it transmits as it does, or what is wrong with it."""

    name: str
    device: str | None
    kind: str
    faces: tuple[str, ...]
    state: str
    """up, down, absent (no such interface) or error."""
    mtu: int
    transmit: str
    """trains, xdp, packet or memory, several of them joined by +, or none."""
    why: str
    received: int
    copies_out: int
    ring_lost: int


@dataclass(frozen=True, slots=True)
class MemberView:
    """A local member of a group at a moment; `network` is that of a VM.

    `nve` is the source of its reports (CONFORMANCE W8), or the NVE that the config serves by unicast. None of
    `nve`, `mac` and `expires_s` is there for a static member that is a port as a whole.
    """

    port: str
    group: IPAddress
    nve: IPAddress | None
    mac: bytes | None
    is_exclude: bool
    sources: tuple[IPAddress, ...]
    """Those whose timers run: what an INCLUDE member wants."""
    blocked: tuple[IPAddress, ...]
    """Those that an EXCLUDE member does not want."""
    origin: str
    expires_s: float | None
    network: str | None = None


@dataclass(frozen=True, slots=True)
class SnoopingView:
    """What one port hears and asks of one family: igmp or mld, which is also the origin of its members."""

    port: str
    family: str
    is_querier: bool
    n_groups: int
    n_members: int
    queries_sent: int


@dataclass(frozen=True, slots=True)
class MacView:
    """A station of a virtual network at a moment: at a VM port or behind a VTEP."""

    vni: int
    network: str
    mac: bytes
    port: str | None
    vtep: IPAddress | None
    is_static: bool
    age_s: float
    """Since it was heard; without a meaning where it is static."""


@dataclass(frozen=True, slots=True)
class JoinedView:
    """A group that an NVE is in, as these networks have VMs."""

    group: IPAddress
    networks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NveView:
    """The NVE role as a whole."""

    macs: Mapping[str, int] = field(default_factory=dict)
    """How many are known, by network; every network with VM ports is in here."""
    learned: int = 0
    moved: int = 0
    aged: int = 0
    vteps: tuple[tuple[IPAddress, int], ...] = ()
    """Those that MACs are behind, and the port by which each is reached."""
    waiting: tuple[IPAddress, ...] = ()
    """Those that were heard and cannot be sent to yet, as no next hop of theirs is known."""
    joined: tuple[JoinedView, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceView:
    """A node that a manager knows. What another manager serves is None where only that one knows it."""

    node: str
    role: str
    """device, nve or replicator"""
    address: IPAddress
    state: str
    """live; held: it is gone, its tunnels stay for the hold time; dead: a point that gets no copies."""
    manager: str | None = None
    revision_told: int | None = None
    revision_acked: int | None = None
    n_groups: int = 0
    last_s: float | None = None
    """How long ago it was heard."""
    tunnel: str = "nested"


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session of a node with a manager, seen from either side. Times are ages, in seconds."""

    node: str
    role: str
    """device, nve or replicator"""
    manager: str | None
    """Who serves it; None: nobody, as of now."""
    is_up: bool
    since_s: float
    """How long it is up, or away."""
    last_s: float | None = None
    """How long ago the other side was heard."""
    revision: int = 0
    """Of the last instructions: those told, or at a node those in force."""
    revision_acked: int | None = None
    """At a manager: up to which all is in force at the node."""
    n_pending: int = 0
    """Keys whose last word is not in force at the node."""
    n_unwritten: int | None = None
    """At a manager: groups that the node said and that are not in the store yet."""
    n_refused: int | None = None
    """At a node: entries that it refused, and groups that the manager did."""
    told_s: float | None = None
    """At a node: the age of the instructions in force, those from the disk included; None: there are none."""
    why: str | None = None
    """At a node: why there is no session, as far as that is known, by the address of each manager."""
    n_tenants: int = 0
    """At a node: what managers said of its tenants' groups, key by key."""


@dataclass(frozen=True, slots=True)
class GroupView:
    """A group as a manager knows it: its devices, and the points that serve it, none in a mesh."""

    group: IPAddress
    devices: tuple[IPAddress, ...]
    points: tuple[str, ...]
    vnis: tuple[int, ...]
    revision: int
    tenants: str | None = None
    """The tenants' own group that `devices` want, or any; None: it is the group itself, that they are in."""


@dataclass(frozen=True, slots=True)
class PointStateView:
    """A replication point that the device probes (BFD), and whether it answers."""

    address: IPAddress
    is_up: bool


@dataclass(frozen=True, slots=True)
class ManagerView:
    """The manager role as a whole."""

    revision: int = 0
    """Of its store, as far as it followed it."""
    n_groups: int = 0
    n_tenants: int = 0
    """What tenants want, which counts apart."""
    is_settling: bool = False
    """It does not know yet who is there, and removes nothing (CONFORMANCE M10)."""
    is_store_reachable: bool = True
    n_batches: int = 0
    """Batches of instructions that it sent."""
    convergence: tuple[tuple[float, int], ...] = ()
    """From hearing second information to its last acknowledgement: (upper bound in seconds, how many took up
    to that and longer than the one before), inf last."""
    convergence_sum_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Recent:
    """How the counters moved of late: what a snapshot alone does not tell."""

    drop_rates: Mapping[str, float] = field(default_factory=dict)
    """Drops and refusals a second by reason, over the last whole interval; those that rested are left out."""
    drop_times: Mapping[str, float] = field(default_factory=dict)
    """When a reason struck last: Unix time, seconds."""
    peer_times: Mapping[IPAddress, float] = field(default_factory=dict)
    """When a peer was sent something last: the monotonic clock, seconds."""


@dataclass(frozen=True, slots=True)
class View:
    """A box at one moment; `pid` is its process. `started_s` and `now_s` are of the monotonic clock,
    `revision` is the FIB's."""

    pid: int
    config: Config
    started_s: float
    now_s: float
    revision: int
    layout: Layout
    lists: Mapping[GroupKey, ReplicationList]
    statistics: Statistics
    ports: tuple[PortView, ...]
    hops: Mapping[IPAddress, str] = field(default_factory=dict)
    """The next hop to a peer: up, no_neighbour, no_route or down. A peer that is not in here has a fixed MAC,
    and is as its port."""
    recent: Recent = field(default_factory=Recent)
    next_hops: NextHops = field(default_factory=dict)
    """The MACs that copies go to, of the same moment as `layout` and `lists`."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """How often each refusal of `ctrl.refusals` struck; those that never did may be left out."""
    snooping: tuple[SnoopingView, ...] = ()
    n_groups: int = 0
    """Groups that the device is in: the size of the second information."""
    second_revision: int = 0
    """The revision of the second information."""
    clones: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    """By worker: what it handed to the kernel to be cloned, and the clones that were made of it, copies or
    trains. Those that cannot clone are left out."""
    routers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Where multicast routers of tenants are, by network; those without are left out."""
    told: Mapping[Scope, Mapping[Key, Entry]] = field(default_factory=dict)
    """What managers said of groups and is in force, by the role that it was said to; a copy."""
    points: tuple[PointStateView, ...] = ()
    """Those that the device probes."""
    own_sessions: tuple[SessionView, ...] = ()
    """Those of this box's roles with their managers."""
    manager: ManagerView | None = None
    """The manager role of this box."""
    nve: NveView | None = None
    """The NVE role of this box."""
    members: Sequence[MemberView] = ()
    """Filled in for who shows them alone: there may be a hundred thousand."""
    macs: Sequence[MacView] = ()
    """The same: there may be a million."""
    devices: Sequence[DeviceView] = ()
    """The same: at a manager there may be ten thousand."""
    groups: Sequence[GroupView] = ()
    """The same: those of the manager of this box."""
    sessions: Sequence[SessionView] = ()
    """The same: the sessions that the manager of this box serves."""


NOTHING_COUNTED = Statistics(*(0,) * 8, *((),) * 6)
"""The statistics of a box that forwards nothing, as it is a manager alone."""


class Rates:
    """Compares snapshots: `take` one a second, and `recent` tells how the counters have moved.

    `clock` is the monotonic clock, `wall` Unix time, both in seconds.
    """

    def __init__(self, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self._clock = clock
        self._wall = wall
        self._taken_s = clock()
        self._drops: dict[str, int] = {}
        self._peers: dict[IPAddress, int] = {}
        self._rates: dict[str, float] = {}
        self._drop_times: dict[str, float] = {}
        self._peer_times: dict[IPAddress, float] = {}

    def take(self, statistics: Statistics, refused: Mapping[str, int]) -> None:
        """Note a snapshot; the rates are those since the one before."""
        now_s = self._clock()
        if now_s <= self._taken_s:
            return
        seconds = now_s - self._taken_s
        seen = self.recent(statistics, refused)
        drops, peers = _drops(statistics, refused), _peers(statistics)
        self._rates = {
            name: (count - self._drops.get(name, 0)) / seconds
            for name, count in drops.items()
            if count > self._drops.get(name, 0)
        }
        self._taken_s, self._drops, self._peers = now_s, drops, peers
        self._drop_times, self._peer_times = dict(seen.drop_times), dict(seen.peer_times)

    def recent(self, statistics: Statistics, refused: Mapping[str, int]) -> Recent:
        """How the counters have moved up to this snapshot, which is not noted."""
        now_s, time_s = self._clock(), self._wall()
        drops = _drops(statistics, refused)
        return Recent(
            self._rates,
            self._drop_times | {name: time_s for name, n in drops.items() if n > self._drops.get(name, 0)},
            self._peer_times
            | {peer: now_s for peer, n in _peers(statistics).items() if n > self._peers.get(peer, 0)},
        )


def _drops(statistics: Statistics, refused: Mapping[str, int]) -> dict[str, int]:
    """Drops by reason and refusals by name: no two of them are called alike."""
    return {**{row.reason.name: row.count for row in statistics.drops}, **refused}


def _peers(statistics: Statistics) -> dict[IPAddress, int]:
    """Copies by peer; an owner without a port is one."""
    sent: dict[IPAddress, int] = {}
    for row in statistics.egresses:
        owner = row.egress.owner
        if owner.port is None and owner.address is not None:
            sent[owner.address] = sent.get(owner.address, 0) + row.copies
    return sent

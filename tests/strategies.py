"""Random boxes and batches, for the property that two engines agree.

Everything is drawn from a `random.Random`: a plain one with a seed where ten thousand frames are wanted,
and hypothesis' own (`st.randoms`) in the strategies, which records and shrinks every choice. The first of
several choices is the plain one. Addresses and numbers come from small pools, so that things meet.

Most frames are *aimed*: a list is picked and a frame is made that finds it. A share of them is then spoiled:
a field, a length, a flag, a byte, a cut.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

from hypothesis import strategies as st

from fastpath.model import (
    ANY_GROUP,
    AllowFrom,
    Egress,
    Encap,
    Endpoint,
    Faces,
    Form,
    Frame,
    GroupKey,
    GroupMap,
    KeyKind,
    Layout,
    LocalNve,
    Network,
    Owner,
    Peer,
    Port,
    Rate,
    ReplicationList,
    Scope,
    Storm,
    group_key,
    vni_key,
)
from fastpath.reference import MacTable
from tests.arrivals import (
    GROUPS,
    INNER_GROUPS,
    INNER_SOURCES,
    OWN,
    PEERS,
    VM_MACS,
    VNIS,
    VSIDS,
    VTEPS,
    chance,
    random_arrival,
    same_version,
    some,
)


@dataclass(frozen=True)
class Scene:
    """A box, and what arrives at it: (in port, frame) in order. `macs` None: no MAC table."""

    layout: Layout
    lists: tuple[ReplicationList, ...]
    batch: tuple[tuple[int, Frame], ...] = ()
    macs: MacTable | None = None


# --- boxes --------------------------------------------------------------------------------------------------


def random_network(rng: random.Random, name: str) -> Network:
    """A network; its number in its own encapsulation is always there."""
    vsid: int | None = rng.choice(VSIDS)
    encap = rng.choice((Encap.VXLAN, Encap.NVGRE))
    if encap is Encap.VXLAN and chance(rng, 20):
        vsid = None
    group = None if chance(rng, 10) else ip_address(rng.choice(GROUPS))
    prefixes = some(rng, ("239.77.0.0/16", "239.0.0.0/8", "ff15::/64", "172.16.0.0/12"), 15)
    maps = tuple(GroupMap(ip_network(p), ip_address(rng.choice(GROUPS))) for p in prefixes)
    snoop = chance(rng, 40)
    spares = snoop and chance(rng, 65)
    return Network(name, rng.choice(VNIS), vsid, encap, group, maps, chance(rng, 20), snoop, spares)


def random_port(rng: random.Random, number: int, faces: Faces, network: str = "") -> Port:
    """A port; one in six has a small MTU."""
    mac = bytes((0x02, 0xFA, 0x57, 0, 0x10, number))
    hop = bytes((0x02, 0xBE, 0xEF, number, 0x77, 0x31))
    mtu = rng.choice((0, 0, 0, 0, 0, 100 + rng.randrange(150)))
    encap = rng.choice((Encap.VXLAN, Encap.NVGRE))
    scope = rng.choice((Scope.DEVICE, Scope.NVE)) if chance(rng, 15) else None
    return Port(f"p{number}", faces, mac, hop, encap, mtu, network, group_scope=scope)


def random_rate(rng: random.Random) -> Rate | None:
    """What a VM port may send of a kind."""
    if chance(rng, 25):
        return None
    return Rate(rng.choice((1, 1, 30, 1_000_000)), rng.choice((1, 1, 2)))


def guarded(rng: random.Random, port: Port) -> Port:
    """A VM port that lets only some frames pass."""
    macs = tuple(some(rng, VM_MACS, 80)) if chance(rng, 15) else ()
    storm = Storm(random_rate(rng), random_rate(rng), random_rate(rng)) if chance(rng, 40) else None
    return replace(port, macs=macs, drop_tagged=chance(rng, 15), storm=storm)


def random_layout(rng: random.Random) -> Layout:
    """A box with any mixture of roles."""
    networks = tuple(random_network(rng, f"net{i}") for i in range(rng.choice((2, 1, 3, 0))))
    faces = [Faces.CORE, Faces.NVE, Faces.NVE | Faces.CORE, Faces.NVE, Faces.CORE]
    ports = [random_port(rng, i, one) for i, one in enumerate(faces[: 3 + rng.randrange(3)])]
    for network in networks[:2]:
        ports.append(guarded(rng, random_port(rng, len(ports), Faces.VM, network.name)))
    rng.shuffle(ports)
    scopes = rng.choice(
        (
            (Scope.DEVICE,),
            (Scope.NVE,),
            (Scope.REPLICATOR,),
            (Scope.DEVICE, Scope.REPLICATOR),
            (Scope.DEVICE, Scope.NVE),
            tuple(Scope),
        )
    )
    endpoints = tuple(
        Endpoint(ip_address(one), scope, chance(rng, 50 if scope is Scope.REPLICATOR else 8))
        for scope in scopes
        for one in OWN[scope]
    )
    peers = tuple(
        Peer(scope, ip_address(one))
        for scope in Scope
        for one in PEERS
        if scope in scopes and chance(rng, 85)
    )
    nves = tuple(LocalNve(i, ip_address(one)) for i in range(len(ports)) for one in some(rng, VTEPS[2:], 40))
    prefixes = ("203.0.113.64/30", "2001:db8:bad::/48", "10.0.0.0/24")
    allowed = tuple(AllowFrom(scope, ip_network(p)) for scope in Scope for p in some(rng, prefixes, 8))
    return Layout(
        ports=tuple(ports),
        endpoints=endpoints,
        networks=networks,
        peers=peers,
        nves=nves,
        allow_from=allowed,
        point_vnis=((0x2000, 0x0A1B2C), (0x6F4E3D, 0x9C8D7E)) if chance(rng, 15) else (),
        vxlan_ports=rng.choice(
            ((4789,), (4789,), (4789,), (4789,), (8472, 4789), (4789,), (4789,), (4789, 4754))
        ),
        verify_checksums=not chance(rng, 10),
        strict_reserved=chance(rng, 10),
        strict_members=chance(rng, 20),
    )


# --- lists --------------------------------------------------------------------------------------------------


def random_egress(rng: random.Random, layout: Layout, version: int, key: GroupKey) -> Egress:
    """One copy, mostly of a form that suits the key; `version` is that of the group it is for."""
    out_port = rng.randrange(len(layout.ports))
    encap = rng.choice((None, None, None, Encap.VXLAN, Encap.NVGRE))
    if key.kind in (KeyKind.GROUP, KeyKind.SOURCE_GROUP):
        form = rng.choice(
            (Form.GROUP, Form.REWRITE, Form.NESTED, Form.GROUP, Form.REWRITE, Form.DECAPSULATED)
        )
    else:
        form = rng.choice((Form.REWRITE, Form.DECAPSULATED))
        if key.scope is Scope.NVE:
            encap = rng.choice((Encap.VXLAN, Encap.NVGRE, Encap.VXLAN, Encap.NVGRE, None))
        if chance(rng, 20):
            form = rng.choice((Form.GROUP, Form.NESTED))
    number = rng.choice((*VNIS, VSIDS[0], 0xFFFFFF)) if chance(rng, 25 if encap is not None else 4) else None
    address = rng.choice((*PEERS, *VTEPS))
    own = same_version(OWN[Scope.DEVICE], address)[0]
    if form is Form.DECAPSULATED:
        return Egress(out_port, form, Owner(out_port))
    if form is Form.GROUP:
        group_source = None if chance(rng, 60) else ip_address(OWN[Scope.DEVICE][version == 6])
        return Egress(out_port, form, Owner(out_port), None, group_source, encap, number, version)
    to = ip_address(address)
    if form is Form.NESTED:
        return Egress(out_port, form, Owner(address=to), to, ip_address(own))
    owner = Owner(out_port, to) if address in VTEPS else Owner(address=to)
    source = None if chance(rng, 20) else ip_address(own)
    if chance(rng, 15):
        to = ip_address(same_version(GROUPS, address)[0])
    return Egress(out_port, form, owner, to, source, encap, number)


def random_list(rng: random.Random, layout: Layout, key: GroupKey) -> ReplicationList:
    """A list whose owners are all different."""
    version = rng.choice((4, 6)) if key.group is None or key.kind < KeyKind.VNI else key.group.version
    egresses: dict[Owner, Egress] = {}
    for _ in range(rng.choice((4, 3, 6, 5, 4, 3, 4, 5, 2, 1, 0))):
        egress = random_egress(rng, layout, version, key)
        egresses.setdefault(egress.owner, egress)
    if key.scope is Scope.REPLICATOR:
        for one in some(rng, PEERS, 60):
            own = ip_address(same_version(OWN[Scope.REPLICATOR], one)[0])
            to = Egress(0, Form.NESTED, Owner(address=ip_address(one)), ip_address(one), own)
            egresses.setdefault(to.owner, to)
    halves: tuple[list[Egress], list[Egress]] = ([], [])
    for egress in egresses.values():
        halves[chance(rng, 25)].append(egress)
    return ReplicationList(key, tuple(halves[0]), tuple(halves[1]))


def random_keys(rng: random.Random, scope: Scope) -> list[GroupKey]:
    """Group keys of every kind."""
    keys: list[GroupKey] = []
    for group in some(rng, GROUPS, 75) if scope is not Scope.NVE else ():
        keys.append(group_key(scope, ip_address(group)))
        if chance(rng, 20):
            keys.append(group_key(scope, ip_address(group), ip_address(same_version(VTEPS, group)[0])))
    numbers = [(Encap.VXLAN, n) for n in VNIS] + [(Encap.NVGRE, n) for n in VSIDS]
    by_number = some(rng, numbers, 80 if scope is Scope.NVE else 30)
    keys += [vni_key(scope, encap, number) for encap, number in by_number]
    for encap, number in by_number if scope is Scope.NVE else some(rng, numbers, 85):
        for inner in some(rng, INNER_GROUPS, 15):
            source = ip_address(same_version(INNER_SOURCES, inner)[0]) if chance(rng, 40) else None
            keys.append(vni_key(scope, encap, number, ip_address(inner), source))
        if chance(rng, 50):
            keys.append(vni_key(scope, encap, number, ANY_GROUP))
    return keys


def map_keys(rng: random.Random, layout: Layout) -> list[GroupKey]:
    """Keys of the groups that the maps of VM ports' networks name."""
    behind = {port.network for port in layout.ports}
    return [
        GroupKey(Scope.NVE, KeyKind.GROUP, group, None, network.encap, number)
        for network in layout.networks
        if network.name in behind and (number := network.number(network.encap)) is not None
        for group in sorted({one.group for one in network.maps}, key=str)
        if chance(rng, 70)
    ]


def may_be_found(layout: Layout, key: GroupKey, keys: Sequence[GroupKey]) -> bool:
    """Whether there is a list to refine, where this is a refinement."""
    if key.kind > KeyKind.INNER_GROUP or key.scope is Scope.NVE:
        return True
    by_number = vni_key(key.scope, key.encap, key.vni)
    return by_number in keys or any(n.number(key.encap) == key.vni for n in layout.networks)


def without_rates(layout: Layout) -> Layout:
    """The box if nothing that its VMs send depended on the time."""
    return replace(layout, ports=tuple(replace(port, storm=None) for port in layout.ports))


def random_scene(rng: random.Random, n_frames: int, rates: bool) -> Scene:
    """A box with its lists and a batch of frames."""
    layout = random_layout(rng)
    layout = layout if rates else without_rates(layout)
    scopes = {e.scope for e in layout.endpoints}
    keys = [key for scope in Scope if scope in scopes for key in random_keys(rng, scope)]
    if Scope.NVE not in scopes:
        behind = {p.network for p in layout.ports}
        ours = {(n.encap, n.number(n.encap)) for n in layout.networks if n.name in behind}
        keys += [key for key in random_keys(rng, Scope.NVE) if (key.encap, key.vni) in ours]
    keys = list(dict.fromkeys([*keys, *map_keys(rng, layout)]))
    keys = [key for key in keys if may_be_found(layout, key, keys) or chance(rng, 10)]
    lists = tuple(random_list(rng, layout, key) for key in keys)
    macs = random_macs(rng, layout) if chance(rng, 60) else None
    return Scene(layout, lists, tuple(random_batch(rng, layout, lists, n_frames)), macs)


def random_macs(rng: random.Random, layout: Layout) -> MacTable:
    """A MAC table for the networks of a box: VM ports, ports that are none, and VTEPs."""
    vms = [i for i, port in enumerate(layout.ports) if port.faces is Faces.VM] or [0]
    vteps: dict[tuple[str, Encap], Egress] = {}
    table: dict[tuple[int, bytes], Egress] = {}
    for vni in (*sorted({n.vni for n in layout.networks}), VNIS[0]):
        for mac in some(rng, VM_MACS, 65):
            kind = rng.randrange(10)
            if kind < 4:
                place = rng.choice(vms)
            elif kind < 5:
                place = rng.randrange(len(layout.ports) + 2)
            else:
                to, encap = rng.choice((*VTEPS, *PEERS)), rng.choice((Encap.VXLAN, Encap.NVGRE))
                table[vni, mac] = vteps.setdefault((to, encap), random_vtep(rng, layout, to, encap))
                continue
            table[vni, mac] = Egress(place, Form.DECAPSULATED, Owner(place))
    return table


def random_vtep(rng: random.Random, layout: Layout, to: str, encap: Encap) -> Egress:
    """The station of a VTEP."""
    own = ip_address(rng.choice(same_version(OWN[Scope.NVE], to)))
    out_port = rng.randrange(len(layout.ports))
    return Egress(out_port, Form.REWRITE, Owner(address=ip_address(to)), ip_address(to), own, encap)


def random_batch(
    rng: random.Random, layout: Layout, lists: Sequence[ReplicationList], n_frames: int
) -> list[tuple[int, Frame]]:
    """Arrivals; some come several times in a row, so that trains can form. Seldom does much time pass."""
    batch: list[tuple[int, Frame]] = []
    time_ns = 1_000_000_000
    while len(batch) < n_frames:
        times = 2 + rng.randrange(5) if chance(rng, 10) else 1
        time_ns += rng.choice((0, 1_000, 1_000_000, 30_000_000)) if not chance(rng, 2) else 3_000_000_000
        in_port, frame = random_arrival(rng, layout, lists)
        arrival = in_port, replace(frame, time_ns=time_ns)
        batch += [arrival] * min(times, n_frames - len(batch))
    return batch


# --- strategies ---------------------------------------------------------------------------------------------


def scenes(max_frames: int = 40, *, rates: bool = False) -> st.SearchStrategy[Scene]:
    """Boxes with a batch of one to `max_frames` frames. With `rates`, VM ports may have them."""
    rng, n_frames = st.randoms(use_true_random=False), st.integers(1, max_frames)
    return st.builds(random_scene, rng, n_frames, st.just(rates))


def seeded_scenes(seed: int, n_scenes: int, n_frames: int, *, rates: bool = False) -> list[Scene]:
    """Many boxes at once, the same ones for the same seed; for counting, fuzzing and benchmarks."""
    return [random_scene(random.Random(seed * 100_003 + i), n_frames, rates) for i in range(n_scenes)]

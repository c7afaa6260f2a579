"""A box with roles that managers instruct, without its ports: `Fabric` and what it drives."""

from ipaddress import ip_address
from typing import cast

from ctrl.config import parse
from ctrl.daemon import fabric as f
from ctrl.daemon.tenancy import Tenancy
from ctrl.events import Bus
from ctrl.membership import ALL, Event, Membership, Origin, Who
from ctrl.planner import Tunnel, Ways
from ctrl.point_lists import Point
from ctrl.publisher import Basis, Publisher
from ctrl.refusals import Refused
from ctrl.roles.device import Device
from ctrl.rpc.client import Client as RpcClient
from ctrl.rpc.messages import Instructions, Welcome
from ctrl.topology.entry import MESH, POINT, Entry
from fastpath.model import Encap, Form, IPAddress, Scope, group_key
from tests.unit.driven import Client

G, H, J = (ip_address(f"239.1.1.{n}") for n in (100, 101, 102))
A, B, C, P, Q = (ip_address(f"10.0.0.{n}") for n in (1, 2, 3, 110, 111))
NVE = Who(0, Origin.IGMP, bytes.fromhex("020000000001"), ip_address("10.1.1.2"))

PORTS = '[[port]]\nname = "p1"\nfaces = "nve"\n[[port]]\nname = "core"\nfaces = "core"\n'
DEVICE_TABLE = '[device]\naddress = "10.0.0.1"\nmanager = ["127.0.0.1:9470"]\nstate = "{state}"\n'
POINT_TABLE = (
    '[replicator]\naddress = "10.0.0.110"\nmanager = ["127.0.0.1:9470"]\nstate = "{state}"\n'
    'vnis = ["100-199", 7]\n'
)
BLUE = '[[network]]\nname = "blue"\nvni = 100\ngroup = "239.1.1.100"\n'
GREEN = '[[network]]\nname = "green"\nvni = 5000\nvsid = 4999\ngroup = "239.1.1.100"\n'
MAPPED = (
    '[[network]]\nname = "red"\nvni = 200\ngroup = "239.1.1.1"\n'
    '[[network.map]]\ninner = "239.0.0.0/8"\ngroup = "239.1.1.100"\n'
)
ALONE = PORTS + DEVICE_TABLE.format(state="")
BOTH = PORTS + DEVICE_TABLE.format(state="") + POINT_TABLE.format(state="")


def config_of(text, node="tor1"):
    reading = parse(f'node = "{node}"\n{text}')
    assert reading.config is not None, reading.findings
    return reading.config


class Asked:
    """The device role, as far as it is told of NVEs to ask."""

    def __init__(self) -> None:
        self.nves: list[IPAddress] = []

    def moved(self, nves, now_s):
        self.nves += nves
        return len(nves)


class Box:
    """A box without a data path: what it is to do is noted in `done`."""

    def __init__(self, text=ALONE, node="tor1"):
        self.membership = Membership()
        self.publisher = Publisher(
            self.membership,
            Basis((Encap.VXLAN,) * 2, Tunnel(Form.NESTED, A), ways=Ways((), (1,)), point=Point(P)),
        )
        self.events = Bus(lambda: 0.0)
        self.asked = Asked()
        self.done: list[str] = []
        self.waited_for = []
        self.told: list[Event] = []
        self.client = Client()
        config = config_of(text, node)
        self.fabric = f.Fabric(
            config,
            self.membership,
            self.publisher,
            cast("Device", self.asked),
            Tenancy(config, Refused()),
            self.events,
            tell=self.told.append,
            apply=lambda: self.done.append("apply"),
            settle=lambda: self.done.append("settle"),
            resolved=self.resolved,
        )
        for side in self.fabric.sides:
            side.client = cast("RpcClient", self.client)
        self.number = 0

    def peers(self):
        """Who gets copies of each group, besides members."""
        self.publisher.update()
        lists = self.publisher.lists.items()
        of_device = [(key.group, one) for key, one in lists if key.scope is Scope.DEVICE]
        found = {group: tuple(e.address for e in one.remote) for group, one in of_device}
        return {group: peers for group, peers in found.items() if peers}

    async def resolved(self, fresh):
        self.waited_for.append(fresh)

    def side(self, scope=Scope.DEVICE):
        return next(side for side in self.fabric.sides if side.scope is scope)

    def begin(self, scope=Scope.DEVICE):
        self.side(scope).connected("127.0.0.1:9470")
        self.side(scope).heard(Welcome("m1", "s", 10.0))

    def tell(self, *entries, scope=Scope.DEVICE, **how):
        """Instruct a role; what the box does about it."""
        self.done.clear()
        self.number += 1
        self.side(scope).heard(Instructions(self.number, self.number, entries, **how))
        return list(self.done)

    def join(self, group, who=NVE):
        self.fabric.member(cast("Event", self.membership.apply(group, who, ALL)))

    def leave(self, group, who=NVE):
        self.fabric.member(cast("Event", self.membership.apply(group, who, None)))

    def groups(self):
        """The second information, as a manager is to know it."""
        return set(map(ip_address, self.side().instructed.groups))

    def point_list(self):
        self.publisher.update()
        one = self.publisher.lists.get(group_key(Scope.REPLICATOR, G))
        return None if one is None else {egress.address for egress in one.remote}


def mesh(group, *peers, accept=()):
    return Entry(group.packed, MESH, tuple(p.packed for p in peers), accept=tuple(p.packed for p in accept))


def at_point(group, *peers):
    return Entry(group.packed, POINT, tuple(p.packed for p in peers))

"""Devices by the thousand, as one manager sees them: the truth of who is in what, and who holds what of it.

1. Each device has a connection of its own, says hello, all its groups, an acknowledgement for each number, a
   keepalive as often as it was asked to, and pings every three seconds, as `ctrl.rpc.client` does; it comes
   back with the same patience and pauses.
2. It holds what it was told as `ctrl.roles.instructed` does: what is in full ends the rest, what comes again
   replaces, what it holds stays when the session ends.
3. A group is right while each of its devices holds exactly its right peers: `n_right` counts those groups, so
   the moment of the last one is the moment of the load, and not that of a look at it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.fabric_http2 import Connection
from ctrl.rpc import fabric_pb2 as pb
from ctrl.rpc.bounds import MAX_KEYS
from ctrl.rpc.client import Patience
from ctrl.rpc.messages import FromNode, Group, Groups, Hello, Keepalive
from ctrl.rpc.writing import encode_from_node
from ctrl.topology.entry import Address, Key, Node

PATH = "/fastpath.v1.Fabric/Session"
SLICES_PER_S = 20
PATIENCE = Patience()


@dataclass(slots=True, eq=False)
class Truth:
    """A group: who is in it, and who holds it right."""

    key: Key
    members: dict[Address, Device] = field(default_factory=dict)
    joined: bytes = b""
    """All addresses, in order."""
    right: set[Address] = field(default_factory=set)
    at_s: float = 0.0
    """When it became right."""

    def settle(self) -> None:
        """Who is in it changed: nobody holds that yet."""
        self.joined = b"".join(sorted(self.members))
        self.right = set()

    def expected(self, address: Address) -> bytes | None:
        """What a device has to hold; None: nothing."""
        at = self.joined.find(address)
        while at % 4:  # between two addresses, or nowhere
            if at < 0:
                return None
            at = self.joined.find(address, at + 1)
        return self.joined[:at] + self.joined[at + 4 :]


class World:
    """`n` devices, each in `per_device` groups of `size` devices, dealt at random: of two devices' groups few
    are the same, so one that comes concerns many others."""

    def __init__(self, n: int, per_device: int, size: int, addresses: Sequence[str]) -> None:
        assert n % size == 0
        self.addresses = list(addresses)
        self.chance = random.Random(n)
        self.devices = [Device(self, number) for number in range(n)]
        self.truth: dict[Key, Truth] = {}
        self.n_right = 0
        self.done_s = 0.0
        self.n_bytes = 0
        self.n_messages = self.n_entries = self.n_resends = self.n_lost = self.n_refused = 0
        self.n_given_up = self.n_tries = 0
        self.n_welcome = 0
        self._is_done = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        order = list(self.devices)
        for _ in range(per_device):
            self.chance.shuffle(order)
            for at in range(0, n, size):
                truth = self._group(len(self.truth))
                for device in order[at : at + size]:
                    truth.members[device.node.address] = device
                    device.groups.add(truth.key)
                truth.settle()

    def _group(self, number: int) -> Truth:
        key = b"\xef" + (number + 256).to_bytes(3, "big")
        return self.truth.setdefault(key, Truth(key))

    # --- the run --------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Have all devices come at once."""
        self._tasks = [asyncio.create_task(self._tick())]
        self._tasks += [asyncio.create_task(device.run()) for device in self.devices]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def settled(self, limit_s: float) -> float:
        """Wait until all devices are served and all groups are right; when that was. TimeoutError."""
        async with asyncio.timeout(limit_s):
            while self.n_right < len(self.truth) or self.n_welcome < len(self.devices):
                self._is_done.clear()
                await self._is_done.wait()
        return self.done_s

    def became_right(self, truth: Truth) -> None:
        self.n_right += 1
        truth.at_s = time.perf_counter()
        self.look()

    def look(self) -> None:
        """See whether all is as it should be."""
        if self.n_right == len(self.truth) and self.n_welcome == len(self.devices):
            self.done_s = time.perf_counter()
            self._is_done.set()

    def turn(self, truth: Truth, device: Device, *, is_in: bool) -> None:
        """A device joined a group or left it: nobody holds that yet."""
        self.n_right -= len(truth.right) == len(truth.members)
        if is_in:
            truth.members[device.node.address] = device
        else:
            del truth.members[device.node.address]
        truth.settle()

    def addresses_of(self, device: Device) -> list[str]:
        """The managers, in an order that gives each of them its share."""
        first = int.from_bytes(device.node.address) % len(self.addresses)
        return self.addresses[first:] + self.addresses[:first]

    def check(self) -> list[str]:
        """What is not as it should be, of all that is held: [] for no fault."""
        faults = []
        for device in self.devices:
            if device.held.keys() != device.groups:
                stale, missing = device.held.keys() - device.groups, device.groups - device.held.keys()
                faults.append(f"{device.node.name}: {len(stale)} stale, {len(missing)} missing")
            address, held = device.node.address, device.held
            faults += [
                f"{device.node.name}: wrong peers of {key.hex()}"
                for key in device.groups & held.keys()
                if held[key] != self.truth[key].expected(address)
            ]
        return faults

    def joins(self, count: int) -> list[tuple[Device, Truth]]:
        """Choose joins of devices to groups that they are not in, each group once."""
        chosen = []
        for truth in self.chance.sample(list(self.truth.values()), count):
            device = self.chance.choice(self.devices)
            while device.node.address in truth.members:
                device = self.chance.choice(self.devices)
            chosen.append((device, truth))
        return chosen

    async def _tick(self) -> None:
        """Keepalives and pings, spread over their intervals."""
        number, n = 0, len(self.devices)
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(1 / SLICES_PER_S)
            number += 1
            every = int(PATIENCE.ping_s * SLICES_PER_S)
            for device in self.devices[number % every : n : every]:
                device.ping()
            now_s = loop.time()
            for device in self.devices[number % SLICES_PER_S : n : SLICES_PER_S]:
                device.tick(now_s)


class Device:
    """One of them."""

    __slots__ = (
        "_connection",
        "_full",
        "_heard_s",
        "_is_welcome",
        "_keepalive_s",
        "_revision",
        "_said_s",
        "_told",
        "groups",
        "held",
        "node",
        "store",
        "world",
    )

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.node = Node(f"device{number}", "device", b"\x0a" + number.to_bytes(3, "big"), 1)
        self.groups: set[Key] = set()
        self.held: dict[Key, bytes] = {}
        """By key all peers in a row."""
        self.store, self._told = "", 0
        self._revision = 1
        self._connection: Connection | None = None
        self._is_welcome = False
        self._keepalive_s = self._said_s = self._heard_s = 0.0
        self._full: set[Key] | None = None
        """Keys of a full state of which not all is here."""

    # --- the session ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """As `ctrl.rpc.client.Client.run`."""
        pause_s, n_slow = PATIENCE.first_pause_s, Counter[str]()
        while True:
            for address in self.world.addresses_of(self):
                self._is_welcome = False
                self.world.n_tries += 1
                wait_s = PATIENCE.connect_s
                if n := n_slow[address]:
                    wait_s = min(PATIENCE.busy_s * 2 ** (n - 1), PATIENCE.busiest_s)
                try:
                    await self._session(address, wait_s)
                except TimeoutError:
                    n_slow[address] += 1
                except OSError:
                    pass  # nobody there
                if self._is_welcome:
                    pause_s = PATIENCE.first_pause_s
                    break
            await asyncio.sleep(pause_s * self.world.chance.uniform(0.5, 1))
            pause_s = min(pause_s * 2, PATIENCE.last_pause_s)

    async def _session(self, address: str, wait_s: float) -> None:
        loop, world = asyncio.get_running_loop(), self.world
        host, _, port = address.rpartition(":")
        connection = Connection(PATH, self.hear)
        try:
            async with asyncio.timeout(wait_s):
                await loop.create_connection(lambda: connection, host, int(port))
                is_there = await connection.opened
            if is_there:
                self.attach(connection)
                await connection.ended
                world.n_lost += 1
        finally:
            world.n_welcome -= self._connection is not None and self._is_welcome
            self._connection = None
            connection.abort()

    def attach(self, connection: Connection) -> None:
        """Speak over this one from now on."""
        self._connection, self._full, self._heard_s = connection, None, time.monotonic()
        self._say(Hello(self.node, self.store, self._told))

    def _say(self, message: FromNode) -> None:
        if self._connection is not None:
            self._said_s = time.monotonic()
            for data in encode_from_node(message):
                self._connection.send(data)

    def _say_all(self) -> None:
        groups = tuple(map(Group, sorted(self.groups)))
        assert len(groups) <= MAX_KEYS
        self._say(Groups(self._revision, groups, is_full=True))

    def tick(self, now_s: float) -> None:
        """Say that it is here, if that is due; give a manager up that says nothing."""
        silence_s = 3 * self._keepalive_s if self._is_welcome else PATIENCE.welcome_s
        if self._connection is not None and now_s - self._heard_s > silence_s:
            self.world.n_given_up += 1
            self._connection.abort()
        elif self._is_welcome and now_s - self._said_s >= self._keepalive_s:
            self._say(Keepalive(self._revision))

    def ping(self) -> None:
        if self._connection is not None:
            self._connection.ping()

    # --- what it is in --------------------------------------------------------------------------------------

    def join(self, truth: Truth) -> None:
        """Say that it is in a group."""
        self.groups.add(truth.key)
        self.world.turn(truth, self, is_in=True)
        self._revision += 1
        if self._is_welcome:
            self._say(Groups(self._revision, (Group(truth.key),), base=self._revision - 1))

    def leave(self, truth: Truth) -> None:
        """Say that it is not."""
        self.groups.discard(truth.key)
        self.world.turn(truth, self, is_in=False)
        self._revision += 1
        if self._is_welcome:
            self._say(Groups(self._revision, (), (truth.key,), base=self._revision - 1))

    # --- what it is told ------------------------------------------------------------------------------------

    def hear(self, data: bytes) -> None:
        """Take a message of the manager's."""
        world = self.world
        self._heard_s = time.monotonic()
        world.n_bytes += len(data)
        world.n_messages += 1
        said = pb.FromManager.FromString(data)
        kind = said.WhichOneof("kind")
        if kind == "instructions":
            self._instructions(said.instructions)
        elif kind == "welcome":
            self._is_welcome = True
            world.n_welcome += 1
            world.look()
            self.store, self._told = said.welcome.store, self._told if said.welcome.store == self.store else 0
            self._keepalive_s = said.welcome.keepalive_s
            self._say_all()
        elif kind == "resend":
            world.n_resends += 1
            self._say_all()
        elif kind == "refused":
            world.n_refused += len(said.refused.groups)

    def _instructions(self, told: Any) -> None:
        world, truth, held, address = self.world, self.world.truth, self.held, self.node.address
        world.n_entries += len(told.entries) + len(told.removed)
        if told.is_full and self._full is None:
            self._full = set()
        for entry in told.entries:
            key = entry.key
            held[key] = peers = b"".join(entry.peers)
            if self._full is not None:
                self._full.add(key)
            group = truth[key]
            if peers == group.expected(address):
                if address not in group.right:
                    group.right.add(address)
                    if len(group.right) == len(group.members):
                        world.became_right(group)
            elif address in group.right:
                world.n_right -= len(group.right) == len(group.members)
                group.right.discard(address)
        for key in told.removed:
            held.pop(key, None)
        if told.more:
            return
        if self._full is not None:
            for key in held.keys() - self._full:
                del held[key]
            self._full = None
        self._told = told.revision
        ack = pb.FromNode()
        ack.ack.number = told.number
        if self._connection is not None:
            self._connection.send(ack.SerializeToString())

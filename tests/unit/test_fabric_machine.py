"""The fabric as a whole, in any order of steps (CONFORMANCE M9 to M12).

Whatever is late, lost or killed, it ends in the truth; no older revision wins; and a switch between mesh and
point leaves nobody without a copy, nor with two, at any instant. `go` takes one after the other of the steps
that can be taken, so that much happens while little of it is done; the other rules disturb it.
"""

from __future__ import annotations

import math
from functools import partial

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ctrl.roles.manager import ManagerSettings
from ctrl.store.model import Changes
from ctrl.topology.entry import ANY, AWARE, Key, outer_of, tenant_key
from ctrl.topology.points import Settings
from ctrl.topology.topology import Topology
from tests.unit.fabric import SETTLE_S, World
from tests.unit.fabric_parts import device, group, point

HOLD_S = 30.0
THRESHOLD, HYSTERESIS = 3, 1
DEVICES = [f"d{n}" for n in range(1, 6)]
POINTS = ["p1", "p2"]
KEYS = [group(n) for n in range(1, 3)]
INNER = (bytes([239, 5, 5, 5]), bytes([239, 5, 5, 6]), ANY, AWARE)
TENANTS = [tenant_key(KEYS[0], 5001, inner) for inner in INNER] + [tenant_key(KEYS[1], 5002, ANY)]
MANAGERS = ["m1", "m2"]
some_device = st.sampled_from(DEVICES)
some_node = st.sampled_from(DEVICES + POINTS)
some_key = st.sampled_from(KEYS)
some_tenants = st.sampled_from(TENANTS)
some_manager = st.sampled_from(MANAGERS)
some_link = st.integers(0, 30)
few = st.integers(1, 4)


class Fabric(RuleBasedStateMachine):
    """One or two managers on a store, five devices, two points, two groups."""

    @initialize(
        n_managers=st.sampled_from((1, 2)),
        n_points=st.sampled_from((0, 1, 2)),
        members=st.lists(st.tuples(some_device, some_key), min_size=2, max_size=8),
    )
    def begin(self, n_managers: int, n_points: int, members: list[tuple[str, bytes]]) -> None:
        self.world = World(
            MANAGERS[:n_managers],
            ManagerSettings(hold_s=HOLD_S),
            Settings(threshold=THRESHOLD, hysteresis=HYSTERESIS),
        )
        for name in DEVICES:
            self.world.add(device(int(name[1:])))
        for name in POINTS[:n_points]:
            self.world.add(point(int(name[1:])))
        for name, key in members:
            self.world.join(name, key)
        self.steady: set[tuple[bytes, str]] = set()
        """Members since the last rest: a packet of one reaches each other one exactly once."""
        self.elapsed_s = 0.0
        self.rest()

    # --- what goes on by itself -----------------------------------------------------------------------------

    def _steps(self, stalled: str) -> list[partial[None]]:
        """List the steps that can be taken now, but those of a node or a manager that is slow."""
        world, steps = self.world, list[partial[None]]()
        for name, running in world.managers.items():
            if running is None or name == stalled:
                continue
            if running.writes:
                steps.append(partial(world.commit, name))
            if running.results:
                steps.append(partial(world.report, name))
            if running.followed < world.store.revision:
                steps.append(partial(world.follow, name, 1))
            if (running.manager.deadline_s or math.inf) <= world.now_s + SETTLE_S:
                steps.append(partial(self.wait, SETTLE_S))
        for number, link in world.links.items():
            if link.to_manager and link.node != stalled:
                steps.append(partial(world.to_manager, number))
            if link.to_node and link.node != stalled:
                steps.append(partial(world.to_node, number))
        return steps

    def go(self, choices: list[int], stalled: str) -> None:
        """Take some steps in some order."""
        for choice in choices:
            steps = self._steps(stalled)
            if not steps:
                return
            step = steps[choice % len(steps)]
            step()
            if step.func == self.world.to_node:
                self.nobody_gets_two_and_no_old_member_gets_none()

    many_choices = st.lists(st.integers(0, 30), min_size=20, max_size=80)
    go_1 = rule(choices=many_choices, stalled=some_node | some_manager)(go)
    go_2 = rule(choices=many_choices, stalled=some_device)(go)

    @rule(choices=many_choices, stalled=some_node | some_manager, name=some_device, key=some_key)
    def join_and_go(self, choices: list[int], stalled: str, name: str, key: bytes) -> None:
        if name in self.world.members(key):
            self.leave(name, key)
        else:
            self.world.join(name, key)
        self.go(choices, stalled)

    @rule(choices=many_choices, stalled=some_manager, name=some_node, manager=some_manager)
    def move_and_go(self, choices: list[int], stalled: str, name: str, manager: str) -> None:
        self.connect(name, manager)
        self.go(choices, stalled)

    # --- what nodes do --------------------------------------------------------------------------------------

    @rule(name=some_device, key=some_key)
    def join(self, name: str, key: bytes) -> None:
        self.world.join(name, key)

    @rule(names=st.sets(some_device, min_size=1), keys=st.sets(some_tenants, min_size=1))
    def want(self, names: set[str], keys: set[Key]) -> None:
        """Have tenants behind these want something else, whether or not their devices are in the group."""
        for name in names:
            for key in keys:
                if name in self.world.members(key):
                    self.world.leave(name, key)
                else:
                    self.world.join(name, key, (5001,))

    @rule(choices=many_choices, stalled=some_node | some_manager, name=some_device, key=some_tenants)
    def want_and_go(self, choices: list[int], stalled: str, name: str, key: Key) -> None:
        self.want({name}, {key})
        self.go(choices, stalled)

    @rule(key=some_key)
    def join_all(self, key: bytes) -> None:
        for name in DEVICES:
            self.world.join(name, key)

    @rule(name=some_device, key=some_key)
    def leave(self, name: str, key: bytes) -> None:
        self.steady.discard((key, name))
        self.world.leave(name, key)

    @rule(name=some_node)
    def restart(self, name: str) -> None:
        if name in self.world.boxes and self.world.boxes[name].is_up:
            self.world.restart(name)

    @rule(name=some_node)
    def kill(self, name: str) -> None:
        if name in self.world.boxes:
            self.world.kill(name)
            lost = {(key, who) for key, who in self.steady if who == name}
            self.steady = set() if name in POINTS else self.steady - lost

    @rule(name=some_node)
    def start(self, name: str) -> None:
        if name in self.world.boxes and not self.world.boxes[name].is_up:
            self.world.restart(name)

    @rule(name=some_device, which=st.sampled_from(POINTS), is_up=st.booleans())
    def probe(self, name: str, which: str, is_up: bool) -> None:
        box = self.world.boxes.get(which)
        if box is not None and box.is_up == is_up:
            self.world.probe(name, box.instructed.node.replicate, is_up)

    # --- the network ----------------------------------------------------------------------------------------

    @rule(name=some_node, manager=some_manager)
    def connect(self, name: str, manager: str) -> None:
        if name in self.world.boxes and manager in self.world.managers:
            self.world.connect(name, manager)

    @rule()
    def reconnect(self) -> None:
        if any(self.world.managers.values()):
            self.world.reconnect()

    def _link(self, number: int) -> int | None:
        numbers = list(self.world.links)[-31:]
        return numbers[number % len(numbers)] if numbers else None

    @rule(number=some_link)
    def cut(self, number: int) -> None:
        if (link := self._link(number)) is not None:
            self.world.cut(link)

    @rule(number=some_link, at_node=st.booleans())
    def close(self, number: int, at_node: bool) -> None:
        if (link := self._link(number)) is not None:
            self.world.close_at_node(link) if at_node else self.world.close_at_manager(link)

    # --- managers and the store -----------------------------------------------------------------------------

    @rule(manager=some_manager)
    def relist(self, manager: str) -> None:
        if manager in self.world.managers:
            self.world.relist(manager)

    @rule(manager=some_manager)
    def kill_manager(self, manager: str) -> None:
        if self.world.managers.get(manager):
            self.world.kill_manager(manager)

    @rule(manager=some_manager)
    def start_manager(self, manager: str) -> None:
        if manager in self.world.managers and not self.world.managers[manager]:
            self.world.start_manager(manager)

    @rule(manager=some_manager, of_the_living=st.booleans())
    def expire(self, manager: str, of_the_living: bool) -> None:
        running = self.world.managers.get(manager)
        if of_the_living and running:
            self.world.store.expire(running.process)
        self.world.expire()

    # --- time -----------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from((1.0, 6.0)))
    def wait(self, seconds: float) -> None:
        if self.elapsed_s + seconds < HOLD_S - 1:
            self.elapsed_s += seconds
            self.world.advance(seconds)

    @rule()
    def run_on(self) -> None:
        """Let all go well for a moment."""
        if self.elapsed_s + 1 < HOLD_S - 1:
            self.elapsed_s += 3 * SETTLE_S
            self.world.run()

    @precondition(lambda self: self.elapsed_s)
    @rule()
    def wait_past_the_hold(self) -> None:
        self.steady.clear()
        self.world.advance(HOLD_S + 1)

    @rule()
    def rest(self) -> None:
        self.world.quiesce()
        self._check_truth()
        self.steady = {(key, name) for key in KEYS for name in self.world.members(key)}
        self.elapsed_s = 0.0

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.rest()

    # --- what must hold -------------------------------------------------------------------------------------

    @invariant()
    def nobody_gets_two_and_no_old_member_gets_none(self) -> None:
        if not hasattr(self, "world"):
            return
        for key in KEYS:
            members = self.world.members(key)
            for sender in members:
                copies = self.world.copies(sender, key)
                for receiver, n in copies.items():
                    assert n <= 1, f"{receiver} gets {n} copies of {sender}'s"
                    assert receiver != sender, f"{sender} gets its own"
                if (key, sender) in self.steady:
                    for receiver in members:
                        if receiver != sender and (key, receiver) in self.steady:
                            assert copies[receiver] == 1, f"{receiver} gets nothing of {sender}'s"

    def _check_truth(self) -> None:
        world = self.world
        up = {name for name, box in world.boxes.items() if box.is_up}
        assert {key.partition("/")[2] for key in world.store.items if key.startswith("node/")} == up
        assert {key.split("/")[1] for key in world.store.items if key.startswith("groups/")} <= up
        topology = Topology(Settings(threshold=THRESHOLD, hysteresis=HYSTERESIS))
        topology.apply(Changes(world.store.revision, list(world.store.items.values()), is_all=True))
        live_points = up.intersection(POINTS)
        for key in KEYS:
            members = world.members(key)
            addresses = {name: world.boxes[name].instructed.node.address for name in members}
            via = set()
            for name in members:
                others = [other for other in members if other != name]
                assert world.copies(name, key) == dict.fromkeys(others, 1)
                entry = world.entry(name, key)
                assert entry is not None
                via.add(entry.via)
                if entry.via == "mesh":
                    assert entry.peers == tuple(sorted(addresses[other] for other in others))
            assert len(via) <= 1
            if live_points and len(members) >= THRESHOLD:
                assert via == {"point"}
            elif not live_points or len(members) <= THRESHOLD - HYSTERESIS:
                assert via <= {"mesh"}
        for name in up:
            instructed = world.boxes[name].instructed
            audience = {key for key in KEYS if instructed.entry(key) is not None}
            if instructed.node.role == "device":
                assert audience == {key for key in KEYS if name in world.members(key)}
            wanted = {key for key in TENANTS if outer_of(key) in audience and world.members(key)}
            assert instructed.entries.keys() == audience | wanted
            for key in wanted:
                self._check_wanted(name, key)
            for key in (*KEYS, *TENANTS):
                assert instructed.entry(key) == topology.entry(name, key), name
                assert world.peers(name, key) is not None

    def _check_wanted(self, name: str, key: Key) -> None:
        """A node holds exactly the other nodes that want it."""
        world = self.world
        entry = world.entry(name, key)
        assert entry is not None
        others = [other for other in world.members(key) if other != name]
        assert entry.peers == tuple(world.boxes[other].instructed.node.address for other in others)
        assert entry.vnis == (5001,)


def test_the_fabric_ends_in_the_truth_whatever_is_late_lost_or_killed() -> None:
    """M9, M10, M11, M12: moderate, for every run."""
    run_state_machine_as_test(
        Fabric,
        settings=settings(
            max_examples=30, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.slow
def test_the_fabric_ends_in_the_truth_over_many_more_orders() -> None:
    """M9, M10, M11, M12: the same, longer."""
    run_state_machine_as_test(
        Fabric,
        settings=settings(
            max_examples=600, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )

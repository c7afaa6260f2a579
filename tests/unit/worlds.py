"""Worlds of which all nodes are with the first manager, and what happens to one of them."""

from __future__ import annotations

from ctrl.topology.points import Settings
from tests.unit.fabric import World
from tests.unit.fabric_parts import Running, device, point


def world_of(n_devices: int, n_managers: int = 2, n_points: int = 0, mode: str = "mesh") -> World:
    """Make a world where all are connected to m1."""
    world = World([f"m{n}" for n in range(1, n_managers + 1)], topology=Settings(mode=mode))
    return peopled(world, n_devices, n_points)


def peopled(world: World, n_devices: int, n_points: int = 0) -> World:
    """Have so many nodes in it, all of them connected to m1."""
    for n in range(1, n_devices + 1):
        world.add(device(n))
    for n in range(1, n_points + 1):
        world.add(point(n))
    for name in world.boxes:
        world.connect(name, "m1")
    world.run()
    return world


def running_of(world: World, name: str = "m1") -> Running:
    """A manager's process."""
    running = world.managers[name]
    assert running is not None
    return running


def deliver(world: World, name: str) -> None:
    """Deliver what a node said, and nothing else."""
    number = world.boxes[name].session or 0
    while world.links[number].to_manager:
        world.to_manager(number)


def gone_for(world: World, name: str, seconds: float) -> None:
    """Have a node be without a session for so long, and nobody do anything."""
    number = world.boxes[name].session or 0
    world.close_at_node(number)
    world.close_at_manager(number)
    world.flow()
    world.now_s += seconds

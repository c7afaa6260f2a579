"""How a group goes from one way of being served to another one, make-before-break (CONFORMANCE M12).

1. Prepare: the points of `next` get the list, all devices send as `now` and take packets by both ways. Once
   all of them said that this is in force: switch: devices send as `next`, and take packets by both. Once all
   said so: stable: by `next` alone. So at any instant a device sends by one way, and all others take it.
2. A switch that began is ended, whatever is wanted meanwhile; one that is prepared is given up at once.
3. Who decides may lag behind the store: a device that joined after what it had `seen` and before the record
   was written may be one that a point does not know yet. Such a switch does not count: it is as if it were
   still prepared. All see that alike, as the records alone say it; only if that very device changes something
   else before the switch is written anew, it counts too early, for this device.
4. A device alone has nobody to lose a packet: its group is stable at once.
"""

from __future__ import annotations

from typing import NamedTuple

from ctrl.topology.records import PREPARE, STABLE, SWITCH, Mode, Points


class State(NamedTuple):
    """How a group is served. Stable: `now` and `next` are the same."""

    stage: str
    now: Points
    next: Points

    @property
    def sends(self) -> Points:
        """By whom devices send, () for mesh."""
        return self.next if self.stage == SWITCH else self.now


MESHED = State(STABLE, (), ())


def state_of(mode: Mode | None, is_raced: bool) -> State:
    """Say what a record means. `is_raced`: a device joined that who wrote it had not seen."""
    if mode is None:
        return MESHED
    if mode.stage == STABLE and not (is_raced and mode.now != mode.next):
        return State(STABLE, mode.next, mode.next)
    if mode.stage == SWITCH and not is_raced:
        return State(SWITCH, mode.now, mode.next)
    return State(PREPARE, mode.now, mode.next)


def next_mode(
    mode: Mode | None, state: State, wanted: Points, n_devices: int, is_acked: bool, seen: int, is_tree: bool
) -> Mode | None:
    """Say which record is due, None for none; the one there is where there is nothing to do.

    `is_acked`: the stage is in force wherever it must be. `is_tree`: `wanted` or what is now is a tree. A
    point has one list of a group, and that of a tree is another one: so the way from or to a tree is by mesh.
    """
    if not n_devices:
        return None
    stage, now, following = state
    if stage == SWITCH:
        return Mode(STABLE, following, following) if is_acked else mode
    if wanted == now:
        if stage == STABLE:
            return mode if now else None
        return Mode(STABLE, now, now)
    if n_devices == 1:
        return Mode(STABLE, now, wanted, seen)
    goal = () if is_tree and now else wanted
    if stage == PREPARE and following == goal:
        return Mode(SWITCH, now, goal, seen) if is_acked else mode
    return Mode(PREPARE, now, goal)

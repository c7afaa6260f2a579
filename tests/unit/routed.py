"""A router side at one port on a fake clock, and the books of what came out of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from ctrl.protocols.messages import Kind, Query, Record, Report
from ctrl.protocols.router import Router
from ctrl.protocols.state import Bounds, Filter, Host, Member, Room, Timers

A: Host = (bytes.fromhex("020000000001"), 0xC0000201)
B: Host = (bytes.fromhex("020000000002"), 0xC0000202)
C: Host = (bytes.fromhex("020000000003"), 0xC0000203)
OURS = 0xC0000264
"""Our address as querier, and below and above it those of others."""
LOW: Host = (bytes.fromhex("0200000000ff"), 0xC0000263)
LOWER: Host = (bytes.fromhex("0200000000fe"), 0xC0000262)
HIGH: Host = (bytes.fromhex("0200000000fd"), 0xC0000265)
G, H = 0xEF0A0A0A, 0xEF0A0A0B
NONE = Filter(is_exclude=False)
IS_IN, IS_EX, TO_IN, TO_EX, ALLOW, BLOCK = Kind


def host(n: int) -> Host:
    return (n.to_bytes(6, "big"), 0x0A000000 + n)


@dataclass
class Port:
    """`at_s` is the time; whatever is said is said then."""

    bits: int = 32
    address: int = OURS
    timers: Timers = field(default_factory=Timers)
    bounds: Bounds = field(default_factory=Bounds)
    room: Room = field(default_factory=Room)
    at_s: float = 0.0
    wants: dict[tuple[Host, int], Filter] = field(default_factory=dict)
    """What the changes come to."""
    changes: list[tuple[float, Host, int, Filter | None]] = field(default_factory=list)
    queries: list[tuple[float, Query]] = field(default_factory=list)
    refused: list[tuple[str, Host, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.router = Router(
            self.bits, self.address, self.timers, self.bounds, self.room, self._refuse, self.at_s
        )
        self.run()

    def _refuse(self, *refusal: Any) -> None:
        self.refused.append(refusal)

    def configure(self, **timers: Any) -> None:
        self.timers = self.router.timers = replace(self.timers, **timers)

    def hear(self, message: Query | Report, whose: Host = A) -> None:
        self.router.hear(message, whose, self.at_s)
        self.settle()

    def say(self, kind: Kind, *sources: int, whose: Host = A, group: int = G, version: int = 3) -> None:
        """Have a host report one group."""
        self.hear(Report(version, (Record(kind, group, sources),)), whose)

    def run(self, for_s: float = 0.0) -> None:
        """Let the time go on, each deadline on time."""
        until_s = self.at_s + for_s
        while (deadline_s := self.router.deadline_s) is not None and deadline_s <= until_s:
            self.at_s = max(self.at_s, deadline_s)
            self.router.poll(self.at_s)
            self.settle()
            assert self.router.deadline_s is None or self.router.deadline_s > self.at_s
        self.at_s = until_s

    def settle(self) -> None:
        """Book what came out; each change is one."""
        for change in self.router.take_changes():
            key = change.host, change.group
            assert self.wants.get(key) != change.wants
            if change.wants is None:
                del self.wants[key]
            else:
                self.wants[key] = change.wants
            self.changes.append((self.at_s, *key, change.wants))
        self.queries += [(self.at_s, query) for query in self.router.take_queries()]

    def asked(self, since_s: float = 0.0, group: int | None = G) -> list[tuple[float, tuple[int, ...], bool]]:
        """The specific queries of a group: seconds from `since_s` on, sources, S flag."""
        return [
            (round(at_s - since_s, 6), query.sources, query.suppress)
            for at_s, query in self.queries
            if query.group == group and at_s >= since_s
        ]

    def members(self) -> dict[tuple[Host, int], Member]:
        return {(one.host, one.group): one for one in self.router.members(self.at_s)}

    def member(self, whose: Host = A, group: int = G) -> Member:
        return self.members()[whose, group]

    def state(self, whose: Host = A, group: int = G) -> tuple[str, set[int], set[int]] | None:
        """(mode, X, Y) as VECTORS.md tells it; None where there is none."""
        member = self.members().get((whose, group))
        if member is None:
            assert (whose, group) not in self.wants
            return None
        wants = member.wants
        assert self.wants[whose, group] == wants
        if wants.is_exclude:
            return "EXCLUDE", set(member.included), set(wants.sources)
        assert member.included == wants.sources
        return "INCLUDE", set(member.included), set()

    def is_in(self, whose: Host = A, group: int = G) -> bool:
        return (whose, group) in self.wants

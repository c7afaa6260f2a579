"""Replays that are checked: what the compiled path made of a capture is what the reference makes of it.

The capture and its copies are read by dpkt and scapy, not by our own reader. What NVEs say in it goes, frame
by frame, through a second device role, and all lists are planned anew after each change. Our own NVE, where
there is one, believes here what any frame says of its source: without limits, and without ageing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from ctrl.config import Config, parse
from ctrl.daemon.snooping import Speaker
from ctrl.members import member_views, relayed_views, tenant_views
from ctrl.membership import Membership
from ctrl.planner import vm_egress
from ctrl.publisher import Publisher
from ctrl.refined_lists import RefinedLists
from ctrl.refusals import Refused
from ctrl.replay import LONGEST_SILENCE_S, Replayed, replay
from ctrl.roles.device import Device
from ctrl.roles.nve.joins import Joins
from ctrl.roles.tenants import Tenants
from ctrl.rows import each_member
from ctrl.static import (
    attachments,
    basis,
    enroll,
    needs,
    plan_layout,
    plan_ports,
    tenant_mac,
    uplinks,
)
from ctrl.stations import static_egresses
from ctrl.table import Row
from ctrl.tenant_lists import TenantLists
from ctrl.tenant_relay import relays_of
from ctrl.tenant_side import TenantSide
from ctrl.tenants_told import TenantsTold
from ctrl.ways import ways
from fastpath import Inner, Punted
from fastpath.model import Egress, Encap, Form, Frame, IPAddress, Owner, Scope, Verdict
from fastpath.reasons import Unit
from fastpath.reference import Lesson, Outcome, Reference, Trail
from tests.captures_io import read_frames
from tests.wording import words

ROOT = Path(__file__).resolve().parent.parent
CAPTURES = ROOT / "tests" / "captures"
EXAMPLES = ROOT / "examples"

Arrival = tuple[int, Frame]


@dataclass(frozen=True)
class Said:
    """A frame that control sent, when `after` frames had come in."""

    after: int
    port: str
    time_ns: int
    data: bytes


@dataclass(frozen=True)
class Checked:
    """A replay that agrees with the reference: its result, and for each frame what became of it."""

    done: Replayed
    arrivals: list[Arrival]
    outcomes: list[Outcome]
    copies: list[tuple[str, bytes]]
    """(out port, bytes) of all copies as the file holds them."""
    said: list[Said]
    """What stands between them: queries."""

    def by(self, port: str) -> list[bytes]:
        """The copies that left by a port."""
        return [data for name, data in self.copies if name == port]

    def reasons(self) -> dict[str, int]:
        """How often each drop reason struck, of frames and of copies."""
        return {row.reason.name: row.count for row in self.done.statistics.drops}


def is_query(data: bytes) -> bool:
    """Tell what control sends from copies."""
    return " query" in words(data).split(" | ")[0]


def copies_in(path: Path) -> list[tuple[str | None, int, bytes]]:
    """The copies of an OUT, without what control sent."""
    return [one for one in read_frames(path) if not is_query(one[2])]


def config_of(text: str) -> Config:
    """The config that a text says; an assertion with all its errors if it is none."""
    reading = parse(text)
    assert reading.config is not None, "\n".join(map(str, reading.findings))
    return reading.config


def arrivals_of(
    frames: Iterable[tuple[str | None, int, bytes]], ports: Sequence[str], in_port: str
) -> list[Arrival]:
    """The frames as they come in: on the port that their interface is named for, or on `in_port`."""
    return [
        (ports.index(name if name in ports else in_port), Frame(data, time_ns=time))
        for name, time, data in frames
    ]


class Stepped:
    """The oracle: one frame at a time through a device role and a reference of its own."""

    def __init__(self, config: Config) -> None:
        self.config = config
        ports = plan_ports(config.ports)
        self.names = [port.name for port in ports]
        self.layout = plan_layout(config, ports)
        self.attachments = attachments(config, ports)
        self.refused, self.membership = Refused(), Membership()
        enroll(self.membership, config)
        self.basis = basis(config, ports, ways(config))
        self.device = Device(self.membership, self.refused, config.membership)
        self.macs = static_egresses(config)
        self.fixed = frozenset(self.macs)
        self.reference = Reference(self.layout, {}, macs=self.macs if config.nve else None)
        self.uplinks = uplinks(config, ports)
        self.joins = Joins(self.refused, config.membership, lambda: 0.5)
        mac = tenant_mac(config.nve) if config.nve else b""
        self.tenants = Tenants(self.refused, config.membership, mac, lambda: 0.5)
        self.side = TenantSide(self.tenants, self.refused)
        self.told = {scope: TenantsTold() for scope in Scope}
        self.relays = {one.scope: one for one in relays_of(config, self.told, self.refused, lambda: 0.5)}
        self.said: list[Said] = []
        self.n_frames = 0
        self.begin_ns = self.clock_ns = 0
        self.is_listening = False
        self._settle(0)

    @property
    def now_s(self) -> float:
        return (self.clock_ns - self.begin_ns) / 1e9

    def take(self, in_port: int, frame: Frame) -> Outcome:
        """Take a frame in: what is due by its time comes first, and what it says comes last."""
        self.pass_time(frame.time_ns)
        self.n_frames += 1
        trail = Trail()
        outcome = self.reference.forward(in_port, frame, trail)
        if outcome.verdict is Verdict.PUNT and trail.parsed is not None:  # it has something inside
            parsed, scope = trail.parsed, trail.scope
            assert scope is not None
            inner = Inner(parsed.encap, parsed.number, parsed.inner, parsed.inner_end, scope)
            punted = Punted(in_port, frame.time_ns, parsed.data, inner)
            hears = self.relays.get(scope, self.side)
            hears.hear(*hears.whose(punted), self.now_s)
            self._settle(self.clock_ns)
        elif outcome.verdict is Verdict.PUNT:
            role = self.joins if in_port in self.uplinks else self.device
            role.hear(in_port, frame.data, self.now_s)
            self._settle(self.clock_ns)
        if outcome.lesson is not None:
            self._learn(outcome.lesson)
        return outcome

    def pass_time(self, time_ns: int) -> None:
        """Do what is due by then; the first time begins it all, and a clock does not go back."""
        if not self.n_frames:
            self.begin_ns = self.clock_ns = time_ns
            self.device.attach(self.attachments, 0.0)
            self._join()
            self.is_listening = True
            self._relay()
            self._settle(time_ns)
        time_ns = max(self.clock_ns, time_ns)
        if (time_ns - self.clock_ns) / 1e9 > LONGEST_SILENCE_S:
            self._poll((time_ns - self.begin_ns) / 1e9)
            self._settle(time_ns)
        while (deadline_s := self._deadline_s()) is not None:
            due_ns = self.begin_ns + ceil(deadline_s * 1e9)
            if due_ns > time_ns:
                break
            self._poll(deadline_s)
            self._settle(due_ns)
        self.clock_ns = time_ns

    def members(self) -> list[Row]:
        """The rows of `fastpath show members`."""
        views = member_views(self.names, self.device, self.membership, self.now_s)
        vms = tenant_views(self.names, self.tenants, self.now_s)
        relayed = [
            one for relay in self.relays.values() for one in relayed_views(self.names, relay, self.now_s)
        ]
        return list(each_member(self.config, [*views, *vms, *relayed]))

    def speakers(self) -> list[Speaker]:
        """All that speak."""
        return [self.device, self.joins, self.side, *self.relays.values()]

    def _deadline_s(self) -> float | None:
        due = [one.deadline_s for one in self.speakers()]
        return min((one for one in due if one is not None), default=None)

    def _poll(self, now_s: float) -> None:
        self.device.poll(now_s)
        self.joins.poll(now_s)
        self.side.poll(now_s)
        for relay in self.relays.values():
            relay.poll(now_s)

    def _relay(self) -> None:
        """Have the relays know the lists as they are."""
        fixed = {one.key for one in self.basis.fixed}
        for relay in self.relays.values():
            relay.attach(self.reference.lookup.lists, self.layout, {}, fixed, self.now_s)

    def _join(self) -> None:
        self.joins.attach(self.uplinks, 0.0)
        for network, places in needs(self.config, self.layout.ports).items():
            self.joins.need(network, places, 0.0)
        self.side.attach(self.basis.snooped, self.basis.agnostic, self.layout, {}, 0.0)

    def _vtep(self, address: IPAddress, encap: Encap) -> Egress:
        assert self.config.nve is not None
        out_port = ways(self.config).remote(address).out_port
        return Egress(out_port, Form.REWRITE, Owner(address=address), address, self.config.nve.address, encap)

    def _learn(self, lesson: Lesson) -> None:
        sender = lesson.sender
        egress = vm_egress(lesson.in_port) if sender is None else self._vtep(sender, lesson.encap)
        if (lesson.vni, lesson.mac) not in self.fixed:
            self.macs[lesson.vni, lesson.mac] = egress

    def _settle(self, time_ns: int) -> None:
        self._plan()
        if self.is_listening:
            self._relay()
            self._plan()
        for port, data in (one for speaker in self.speakers() for one in speaker.take_frames()):
            self.said.append(Said(self.n_frames, self.names[port], time_ns, data))

    def _plan(self) -> None:
        refined = [RefinedLists(scope, relay, self.told[scope]) for scope, relay in self.relays.items()]
        lists = TenantLists(self.tenants, TenantsTold())
        self.reference.lookup.lists = Publisher(self.membership, self.basis, lists, refined).lists


def checked(config: Config, capture: Path, out: Path, in_port: str | None = None) -> Checked:
    """Replay a capture into the pcapng `out`; assert that its books are balanced, and that each frame's fate
    and the members at the end are those of the oracle."""
    ports = [port.name for port in config.ports]
    arrivals = arrivals_of(read_frames(capture), ports, in_port or ports[0])
    done = replay(config, capture, out, in_port)
    oracle = Stepped(config)
    outcomes, copies = check_out(oracle, arrivals, read_frames(out))
    check_books(done, arrivals, outcomes)
    assert done.members == oracle.members()
    assert done.queries + done.reports + done.of_tenants == len(oracle.said)
    assert done.reports == oracle.joins.reports_sent
    if not config.nve:
        assert dict(done.refused) == dict(oracle.refused)
    return Checked(done, arrivals, outcomes, copies, oracle.said)


def check_out(
    oracle: Stepped, arrivals: list[Arrival], left: list[tuple[str | None, int, bytes]]
) -> tuple[list[Outcome], list[tuple[str, bytes]]]:
    """Assert that OUT holds what the oracle makes, frame by frame: ports, order, bytes, times. Return what
    became of each frame, and the copies, without what control sent."""
    outcomes: list[Outcome] = []
    copies: list[tuple[str, bytes]] = []
    at, n_said = 0, 0

    def expect(wanted: list[tuple[str, int, bytes]], why: str) -> None:
        nonlocal at
        got = [(name, time, data.hex()) for name, time, data in left[at : at + len(wanted)]]
        assert got == [(name, time, data.hex()) for name, time, data in wanted], why
        at += len(wanted)

    for number, (in_port, frame) in enumerate(arrivals, 1):
        outcome = oracle.take(in_port, frame)
        said, n_said = oracle.said[n_said:], len(oracle.said)
        before = [(one.port, one.time_ns, one.data) for one in said if one.after < number]
        expect(before, f"queries before frame {number}")
        made = [(oracle.names[copy.out_port], frame.time_ns, copy.data) for copy in outcome.copies]
        expect(made, f"frame {number}: {frame.data.hex()}")
        expect(
            [(one.port, one.time_ns, one.data) for one in said[len(before) :]], f"answers to frame {number}"
        )
        copies += [(name, data) for name, _, data in made]
        outcomes.append(outcome)
    assert at == len(left), "frames that the reference does not make"
    return outcomes, copies


def check_books(done: Replayed, arrivals: list[Arrival], outcomes: list[Outcome]) -> None:
    """Assert that nothing is lost or counted twice, and that the reasons are those of the reference."""
    counted = done.statistics
    verdicts = Counter(outcome.verdict for outcome in outcomes)
    reasons = Counter(outcome.reason for outcome in outcomes if outcome.reason)
    copy_drops: Counter[str] = Counter()
    for outcome in outcomes:
        copy_drops.update(outcome.copy_drops)
    rows = {unit: {r.reason.name: r.count for r in counted.drops if r.reason.unit is unit} for unit in Unit}
    assert rows == {Unit.FRAME: dict(reasons), Unit.COPY: dict(copy_drops), Unit.RING: {}, Unit.RECORD: {}}
    assert counted.received == counted.replicated + counted.punted + counted.dropped == len(arrivals)
    assert (counted.replicated, counted.punted) == (verdicts[Verdict.REPLICATE], verdicts[Verdict.PUNT])
    assert counted.dropped == sum(rows[Unit.FRAME].values())
    assert counted.copies_out == sum(len(outcome.copies) for outcome in outcomes)
    assert counted.copies_dropped == sum(copy_drops.values()) == sum(row.dropped for row in counted.egresses)
    assert counted.copies_out == sum(row.copies for row in counted.egresses)
    assert [row.received for row in counted.ports] == [
        sum(place == i for place, _ in arrivals) for i in range(len(counted.ports))
    ]
    assert sum(row.copies_out for row in counted.ports) == counted.copies_out
    of_lists = sum(row.frames for row in counted.lists)  # a group that is left takes its count with it
    by_list = sum(outcome.key is not None for outcome in outcomes if outcome.verdict is Verdict.REPLICATE)
    assert of_lists == by_list or (done.left and of_lists < by_list)
    wanted = Counter((copy.egress, len(copy.data)) for outcome in outcomes for copy in outcome.copies)
    for row in counted.egresses:
        sizes = {size: n for (egress, size), n in wanted.items() if egress == row.egress}
        assert (row.copies, row.bytes) == (sum(sizes.values()), sum(size * n for size, n in sizes.items()))

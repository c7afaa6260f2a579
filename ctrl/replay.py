"""Replay: captures stand in for every port of a config, live or not; no root, no network.

The frames of the input come in on the ports that its interfaces are named for, or on one port; all copies go
to one file. What NVEs say in the capture takes effect with the next frame of it, by the capture's clock, and
what they are asked stands in the output among the copies. So do the reports of our own NVE, and so takes
effect where its frames say that a MAC is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import ceil
from pathlib import Path

from ctrl.config import Config
from ctrl.members import member_views, tenant_views
from ctrl.membership import Membership
from ctrl.publisher import Publisher, Step
from ctrl.refined_lists import RefinedLists
from ctrl.refusals import Refused
from ctrl.replay_nve import ReplayedNve
from ctrl.replay_relays import ReplayedRelays
from ctrl.roles.attachment import Attachment
from ctrl.roles.device import Device
from ctrl.roles.tenants import Tenants
from ctrl.rows import drop_rows, each_member
from ctrl.static import attachments, basis, enroll, plan_layout, plan_ports, tenant_mac
from ctrl.table import Row
from ctrl.tenant_lists import TenantLists
from ctrl.tenant_relay import relays_of
from ctrl.tenants_told import TenantsTold
from ctrl.view import MemberView
from ctrl.view_nve import each_mac
from ctrl.ways import ways
from fastpath import Forwarder, Punts, Statistics
from fastpath.model import Layout, Scope
from fastpath.ports import PcapSink, PcapSource

_NS = 1_000_000_000
CHUNK_FRAMES = 1 << 16
"""Frames between two calls of `progress`."""
LONGEST_SILENCE_S = 86_400
"""What is due in a longer silence is done once, at its end: a clock that was set must not be millions of
queries."""


class CutShort(Exception):
    """The output could not be written to its end: it holds whole copies, the first ones, and no more."""


class Interrupted(CutShort):
    """Someone has stopped the replay; OUT holds the copies up to there."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay came to. `seconds` is how long forwarding took, `traffic_s` the time of the capture.
    `joined` and `left`: how often an NVE became a member of a group, and was one no longer. `members` are
    those at the end, and `macs` the stations that our own NVE knows. `queries`, `reports` and `of_tenants`
    are frames of OUT that are no copies: the last what VMs were asked, and what of theirs was handed on."""

    statistics: Statistics
    layout: Layout
    members: list[Row]
    joined: int
    left: int
    queries: int
    macs: list[Row]
    reports: int
    of_tenants: int
    refused: Mapping[str, int]
    seconds: float
    traffic_s: float
    damage: str | None

    def as_object(self) -> Row:
        """The object that `fastpath replay -j` prints."""
        counted = self.statistics
        return {
            "received": counted.received,
            "replicated": counted.replicated,
            "punted": counted.punted,
            "dropped": counted.dropped,
            "copies_out": counted.copies_out,
            "drops": drop_rows(counted, self.traffic_s, self.refused),
            "members": self.members,
            "macs": self.macs,
            "seconds": round(self.seconds, 6),
            "copies_per_s": round(counted.copies_out / self.seconds) if self.seconds else 0,
        }


def replay(
    config: Config,
    source_path: Path,
    out_path: Path,
    in_port: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Replayed:
    """Forward the frames of `source_path` as `config` says, copies to `out_path`.

    `progress` is told (frames done, frames in all) now and then. Where input or output cannot be used,
    CaptureError or OSError, and nothing was forwarded; CutShort where the output could not be written to
    its end. Damage in mid-file is told in the result, after all before it was forwarded.
    """
    ports = plan_ports(config.ports)
    layout = plan_layout(config, ports)
    if not ports:
        raise ValueError("no [[port]] is given, so there is none for the frames to come in on")
    names = [port.name for port in ports]
    places = {name: place for place, name in enumerate(names)}
    membership, refused = Membership(), Refused()
    enroll(membership, config)
    found, tenants = basis(config, ports, ways(config)), None
    if config.nve:
        tenants = Tenants(refused, config.membership, tenant_mac(config.nve), lambda: 0.5)
    no_word = {scope: TenantsTold() for scope in Scope}  # of managers
    relays = relays_of(config, no_word, refused, lambda: 0.5)
    publisher = Publisher(
        membership,
        found,
        TenantLists(tenants, no_word[Scope.NVE]) if tenants else None,
        [RefinedLists(one.scope, one, no_word[one.scope]) for one in relays],
    )
    with (
        PcapSource(source_path, places, None if in_port is None else places[in_port]) as source,
        PcapSink(out_path, names, nanoseconds=source.nanoseconds) as sink,
    ):
        forwarder = Forwarder(
            layout,
            [sink] * len(names),
            publisher.lists.values(),
            sources=[source],
            batch=config.dataplane.batch,
            trains=config.dataplane.trains,
            punts=Punts(config.membership.punt_rate_pps, config.membership.punt_burst, stepwise=True),
            max_macs=config.nve.max_macs if config.nve else 0,
            max_vteps=config.nve.max_vteps if config.nve else 0,
        )
        device = Device(membership, refused, config.membership)
        nve = ReplayedNve(config, layout, forwarder, refused, found, tenants) if tenants else None
        relaying = ReplayedRelays(relays, publisher, layout, found)
        control = _Control(forwarder, source, sink, device, publisher, nve, relaying)
        begin = time.perf_counter()
        try:
            control.attach(attachments(config, ports))
            told = 0
            while control.run(told + CHUNK_FRAMES - source.frames_read):
                done = source.frames_read
                if done >= told + CHUNK_FRAMES or told < done == source.n_frames:
                    told = done
                    progress(done, source.n_frames)
            sink.close()
        except KeyboardInterrupt:
            sink.close()
            raise Interrupted(
                f"interrupted; {out_path} holds the first {sink.copies:,} copies "
                f"(reached frame {source.frames_read:,} of {source.n_frames:,})"
            ) from None
        except OSError as error:
            sink.finish()
            if not sink.error:
                raise
            raise CutShort(
                f"{out_path}: {os.strerror(sink.error)}; it holds the first {sink.copies - sink.lost:,} "
                f"copies, the others are lost (reached frame {source.frames_read:,} of {source.n_frames:,})"
            ) from error
        seconds = time.perf_counter() - begin
        return Replayed(
            forwarder.statistics(),
            layout,
            list(each_member(config, control.members(names, membership, tenants))),
            control.joined,
            control.left,
            sink.sent - relaying.n_sent - (nve.joins.reports_sent + nve.n_of_tenants if nve else 0),
            list(each_mac(list(nve.known()))) if nve else [],
            nve.joins.reports_sent if nve else 0,
            relaying.n_sent + (nve.n_of_tenants if nve else 0),
            refused,
            seconds,
            (source.last_ns - source.first_ns) / 1e9,
            source.damage,
        )


class _Control:
    """Drives the roles by the capture's clock: what is due comes before the frame of that time. A capture
    without frames has no clock, and nothing happens."""

    def __init__(
        self,
        forwarder: Forwarder,
        source: PcapSource,
        sink: PcapSink,
        device: Device,
        publisher: Publisher,
        nve: ReplayedNve | None,
        relays: ReplayedRelays,
    ) -> None:
        self._forwarder = forwarder
        self._source = source
        self._sink = sink
        self._device = device
        self._publisher = publisher
        self._nve = nve
        self._relays = relays
        self._begin_ns = source.first_ns
        self.joined = self.left = 0

    @property
    def now_s(self) -> float:
        """Seconds since the first frame."""
        return max(0, self._source.clock_ns - self._begin_ns) / _NS

    def members(
        self, names: Sequence[str], membership: Membership, tenants: Tenants | None
    ) -> list[MemberView]:
        """Who is in a group now, NVEs and VMs; `names` are those of the ports."""
        found = list(member_views(names, self._device, membership, self.now_s))
        found += self._relays.members(names, self.now_s)
        return found + (list(tenant_views(names, tenants, self.now_s)) if tenants is not None else [])

    def attach(self, attachments: Mapping[int, Attachment]) -> None:
        """Begin: ask on the ports with NVEs, join as one."""
        if self._source.next_ns is None:
            return
        self._device.attach(attachments, 0.0)
        if self._nve is not None:
            self._nve.attach()
        self._relays.attach(0.0)
        self._settle(self._begin_ns)

    def run(self, max_frames: int) -> bool:
        """Go on by some frames, or up to the next that control has to hear; False at the capture's end, when
        all that was due by then is done."""
        source, deadline_s = self._source, self._deadline_s
        next_ns, due_ns = source.next_ns, None
        if deadline_s is not None:
            due_ns = self._begin_ns + ceil(deadline_s * _NS)
            if due_ns <= (source.clock_ns if next_ns is None else next_ns):
                if next_ns is not None and next_ns - source.clock_ns > LONGEST_SILENCE_S * _NS:
                    due_ns = next_ns
                    deadline_s = max(deadline_s, (due_ns - self._begin_ns) / _NS)
                self._device.poll(deadline_s)
                if self._nve is not None:
                    self._nve.poll(deadline_s)
                self._relays.poll(deadline_s)
                self._settle(due_ns)
                return True
        if next_ns is None:
            return False
        if self._nve is not None:
            age_ns = self._nve.age(next_ns)
            due_ns = age_ns if due_ns is None else min(due_ns, age_ns)
        source.until_ns = due_ns
        self._forwarder.run(max_frames)
        for one in self._forwarder.read_punted():
            if self._relays.hear(one, self.now_s):
                continue
            if self._nve is None or not self._nve.hear(one, self.now_s):
                self._device.hear(one.in_port, one.frame, self.now_s)
        if self._nve is not None:
            self._nve.learn()
        self._settle(source.clock_ns)
        return True

    @property
    def _deadline_s(self) -> float | None:
        of_nve = self._nve.deadlines_s if self._nve else ()
        due = [self._device.deadline_s, *of_nve, *self._relays.deadlines_s]
        return min((one for one in due if one is not None), default=None)

    def _publish(self) -> Step:
        step = self._publisher.update()
        if step.lists or step.removed:
            self._forwarder.publish(step.lists, step.removed)
        return step

    def _settle(self, time_ns: int) -> None:
        step = self._publish()
        if self._relays.touched([*(one.key for one in step.lists), *step.removed], self.now_s):
            self._publish()
        of_tenants = self._relays.take_events()
        of_tenants += self._nve.tenants.take_events() if self._nve is not None else []
        for event in [*self._device.take_events(), *(event for _, event in of_tenants)]:
            self.joined += event.was is None
            self.left += event.wants is None
        frames = self._device.take_frames()
        if self._nve is not None:
            frames += self._nve.take_frames()
        frames += self._relays.take_frames()
        for port, frame in frames:
            self._sink.send(port, frame, time_ns)


def differences(out_path: Path, expect_path: Path) -> Iterator[str]:
    """Compare two captures byte for byte, in order per port (a pcap has one order for all), without times.

    Yields one sentence a port that differs, about its first difference; and one of a damaged expectation.
    """
    with open_any(out_path) as out, open_any(expect_path) as expect:
        by_port = out.is_pcapng and expect.is_pcapng
        got, wanted = _frames(out, by_port=by_port), _frames(expect, by_port=by_port)
        damage = expect.damage
    for port in sorted({*got, *wanted}):
        for number, (one, other) in enumerate(zip_longest(got.get(port, []), wanted.get(port, [])), 1):
            if one != other:
                yield f"{expect_path}: {port}copy {number}: {_difference(one, other)}"
                break
    if damage:
        yield damage


def open_any(path: Path) -> PcapSource:
    """Open a capture whatever its interfaces are called; CaptureError if it is none."""
    return PcapSource(path, {}, in_port=0)


def _frames(capture: PcapSource, *, by_port: bool) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for interface, data in capture.frames():
        found.setdefault(f"port {capture.interfaces[interface]}, " if by_port else "", []).append(data)
    return found


def _difference(got: bytes | None, wanted: bytes | None) -> str:
    if wanted is None:
        return f"not expected: {_excerpt(got or b'', 0)}"
    if got is None:
        return f"missing: {_excerpt(wanted, 0)}"
    at = next(
        (i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b), min(len(got), len(wanted))
    )
    return f"differs from byte {at} on: {_excerpt(got, at)}; expected {_excerpt(wanted, at)}"


def _excerpt(data: bytes, at: int) -> str:
    """Some bytes from `at` on: enough to see which field it is, not a screenful."""
    return f"{data[at : at + 24].hex(' ', 2) or 'no more'} ({len(data)} bytes in all)"

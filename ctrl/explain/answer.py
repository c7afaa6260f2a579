"""The steps of one frame: the reference forwards it, and what its trail holds is told in the rules' order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from typing import TYPE_CHECKING

from ctrl.explain import MAX_FRAME, Step, punted, words
from ctrl.rows import key_name
from ctrl.table import Row
from fastpath.model import (
    ANY_GROUP,
    Egress,
    Form,
    Frame,
    GroupKey,
    KeyKind,
    Layout,
    Port,
    ReplicationList,
    Scope,
    Verdict,
)
from fastpath.reasons import REASONS
from fastpath.reference import MacTable, Outcome, Reference, Trail
from fastpath.reference.inner import InnerPacket
from fastpath.reference.lookup import Lookup, networks_with, receivers
from fastpath.reference.parse import ip_header
from fastpath.reference.trail import Lesson, Parsed, SourceClass
from fastpath.reference.wire import u16

if TYPE_CHECKING:
    from fastpath.compiler import NextHops

_SENTENCES = {reason.name: reason.sentence for reason in REASONS}
_TAKES = {
    SourceClass.LOCAL: "gets the local and the remote segment of a list",
    SourceClass.REMOTE: "gets the local segment of a list alone",
    SourceClass.ALL: "sent to be replicated: gets both segments of a list",
}
_UP_ALONE = "nobody here asked for the tenants' group (8.3): gets the remote segment of a list alone"

_QUESTION = '{"frame": "02fa57...", "port": "p1" or null}'


class BadQuestion(ValueError):
    """What was asked cannot be: a sentence that says what, and what could be."""


def answer(
    body: bytes,
    layout: Layout,
    lists: Mapping[GroupKey, ReplicationList],
    next_hops: NextHops,
    *,
    strict_headers: bool = False,
    macs: MacTable | None = None,
) -> list[Row]:
    """Answer `{"frame": HEX, "port": NAME or null}`, JSON; BadQuestion if that is not what was asked."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise BadQuestion(f"the body is no JSON; expected {_QUESTION}") from None
    if not isinstance(asked, dict) or asked.keys() - {"frame", "port"}:
        raise BadQuestion(f"the body is no question; expected {_QUESTION}")
    hexed, name = asked.get("frame"), asked.get("port")
    if not isinstance(hexed, str) or not isinstance(name, str | None):
        raise BadQuestion(f"the body is no question; expected {_QUESTION}")
    try:
        data = bytes.fromhex(hexed)
    except ValueError:
        raise BadQuestion("frame: expected pairs of hex digits") from None
    if len(data) > MAX_FRAME:
        raise BadQuestion(f"frame: {len(data):,} bytes; {MAX_FRAME:,} at most")
    in_port = place_of(name, layout.ports)
    return explain(layout, lists, next_hops, Frame(data), in_port, strict_headers=strict_headers, macs=macs)


def place_of(name: str | None, ports: Sequence[Port]) -> int:
    """The place of the port of this name; without a name, of the first one. BadQuestion if there is none."""
    places = {port.name: place for place, port in enumerate(ports) if port.faces}
    if not places:
        raise BadQuestion("no [[port]] is given, so there is none for the frame to come in on")
    if name is None:
        return next(iter(places.values()))
    if name not in places:
        close = get_close_matches(name, places, n=1)
        hint = f'; did you mean "{close[0]}"?' if close else ""
        raise BadQuestion(f"{name}: no port is called that; the ports are {', '.join(places)}{hint}")
    return places[name]


def explain(
    layout: Layout,
    lists: Mapping[GroupKey, ReplicationList],
    next_hops: NextHops,
    frame: Frame,
    in_port: int,
    *,
    strict_headers: bool = False,
    macs: MacTable | None = None,
) -> list[Row]:
    """Tell a frame's way as rows; IPv4 identifications of its copies are 0, as those of an egress's first.

    `lists` are looked up, never walked, and so are `macs`, the stations of our own NVE: it costs the same
    whatever the box replicates.
    """
    reference, trail = Reference(layout, lists, next_hops, macs), Trail()
    outcome = reference.forward(in_port, frame, trail)
    told = [
        *_parsed(layout, frame, in_port, trail),
        *_looked_up(reference.lookup, in_port, trail),
        *_copies(layout, trail),
    ]
    if outcome.verdict is Verdict.PUNT:
        of_tenant = trail.parsed if trail.snooped else None
        heard = trail.data if of_tenant is None else of_tenant.inner_frame()
        told += punted.steps(heard, strict_headers=strict_headers)
    return [asdict(step) for step in (*told, _verdict(outcome))]


def _parsed(layout: Layout, frame: Frame, in_port: int, trail: Trail) -> Iterator[Step]:
    """Section 1: what the frame is."""
    port, data = layout.ports[in_port], trail.data
    network = f", network {port.network}" if port.network else ""
    yield Step(
        "port", None, port.name, f"faces {words.faces(port.faces)}{network}; {len(frame.data):,} bytes"
    )
    if frame.mark is not None and data:
        at = frame.mark.start + frame.mark.offset
        yield Step("checksum", "1.1", "finished", f"the sum from byte {frame.mark.start} on, at byte {at}")
    if trail.ethertype is not None:
        ethertype, begin = trail.ethertype
        tags = words.tags(data, begin, frame.vlan)
        yield Step("ethernet", "1.2", words.macs(data, 0), tags + words.ethertype(ethertype))
    for step, rule, packet in (("outer", "1.3", trail.outer), ("nested", "1.6", trail.inside)):
        if packet is not None:
            ends = f"{packet.source} > {packet.destination}"
            yield Step(step, rule, ends, words.packet(data, packet))
    if trail.overlay is not None:
        encap, at = trail.overlay
        name = encap.name.lower() if trail.number is None else words.number(encap, trail.number)
        yield Step("overlay", "1.7", name, f"header {data[at : at + 8].hex(' ', 4)}")
    if trail.parsed is not None:
        parsed = trail.parsed
        yield Step("inner", "1.9", words.macs(data, parsed.inner), _inner(parsed, parsed.inner_packet))


def _inner(parsed: Parsed, packet: InnerPacket | None) -> str:
    size = f"{parsed.inner_end - parsed.inner:,} bytes, flow {parsed.flow:08x}"
    if packet is None:
        return f"no IP, {size}"
    ports = f" {words.ports(packet.ports)}" if packet.ports else ""
    return f"{packet.source} > {packet.destination}, {words.protocol(packet.protocol)}{ports}, {size}"


def _looked_up(lookup: Lookup, in_port: int, trail: Trail) -> Iterator[Step]:
    """Section 2: whose it is, and which list it takes."""
    if trail.parsed is None or trail.scope is None or trail.source_class is None:
        return
    frame, scope, layout = trail.parsed, trail.scope, lookup.layout
    endpoint = lookup.endpoint_of(frame)
    addressed = "a frame of a VM" if frame.outer is None else "to a group"
    if endpoint is not None:
        addressed = f"to our address {endpoint.address}"
    yield Step("role", "2", scope.name.lower(), addressed)
    up_alone = trail.unregistered and trail.refined is None and trail.source_class is SourceClass.LOCAL
    takes = _UP_ALONE if up_alone else _TAKES[trail.source_class]
    yield Step("class", "2.2", trail.source_class.name.lower(), takes)
    if frame.outer is not None:
        yield Step("sender", "2.3", str(frame.outer.source), _known(lookup, in_port, frame, scope))
    if trail.station is not None:
        yield Step("station", "6.1", frame.inner_frame()[:6].hex(":"), words.station(trail.station, layout))
    elif trail.unknown_unicast:
        told = "nobody knows where: it goes to all of its network, as a broadcast does"
        yield Step("station", "6.1", frame.inner_frame()[:6].hex(":"), told)
    yield from _keys(lookup, trail, frame)
    if trail.found is None and not trail.snooped:
        return
    numbered = networks_with(layout, frame.number_encap, frame.number)
    if layout.networks:
        groups = ", ".join(sorted({str(group) for network in numbered for group in network.groups()}))
        names = ", ".join(network.name for network in numbered) or "none has this number"
        yield Step("network", "2.6", names, f"group {groups}" if groups else None)
    yield from _refinements(lookup, trail)
    if trail.found is not None and trail.owners:
        had = receivers(trail.found, trail)
        out = [words.owner(egress.owner, layout) for egress in had if egress.owner in trail.owners]
        why = "where the frame comes from: no copy" if out else "nobody of the list sent it"
        yield Step("exclusion", "2.9", ", ".join(out) or "-", why)
    if trail.lesson is not None:
        yield Step("lesson", "6.4", trail.lesson.mac.hex(":"), _taught(trail.lesson, layout))


def _taught(lesson: Lesson, layout: Layout) -> str:
    """What control is told of a frame's source."""
    if lesson.sender is None:
        return f"control is told that it is at port {layout.ports[lesson.in_port].name}"
    return f"control is told that it is behind {lesson.sender}, which speaks {lesson.encap.name}"


def _known(lookup: Lookup, in_port: int, frame: Parsed, scope: Scope) -> str:
    """Who the sender is to us."""
    known = {
        "a peer": lookup.is_peer(frame, scope),
        "an NVE that this port serves by unicast": lookup.is_local_nve(in_port, frame),
        "in allow_from": lookup.is_allowed_from(frame, scope),
    }
    stranger = "anybody may send to a group" if lookup.endpoint_of(frame) is None else "nobody we know"
    return ", ".join(who for who, is_so in known.items() if is_so) or stranger


def _keys(lookup: Lookup, trail: Trail, frame: Parsed) -> Iterator[Step]:
    is_outer = (KeyKind.GROUP, KeyKind.SOURCE_GROUP)
    recovered = trail.recovered
    for key in trail.tried:
        if recovered is not None and key.kind in is_outer:
            yield _recovered(frame, str(recovered))
            recovered = None
        found = lookup.lists.get(key)
        told = "no list" if found is None else f"the list: {words.segments(found)}"
        yield Step("key", "2.5", key_name(key), f"{words.KEYS[key.kind]}: {told}")


def _refinements(lookup: Lookup, trail: Trail) -> Iterator[Step]:
    """What was looked up to take the place of the list."""
    for key in trail.refining:
        found = lookup.lists.get(key)
        told = "no list" if found is None else f"takes the place of the list: {words.segments(found)}"
        if key.group == ANY_GROUP:
            yield Step("refined", "8.3", key_name(key), f"any group, for nobody asked for it: {told}")
        else:
            yield Step("refined", "8.2", key_name(key), f"{words.KEYS[key.kind]}: {told}")


def _recovered(frame: Parsed, group: str) -> Step:
    return Step("group", "2.5", group, f"recovered: the group of {words.number(frame.encap, frame.number)}")


def _copies(layout: Layout, trail: Trail) -> Iterator[Step]:
    """Sections 3 and 4: what is set right, and what leaves."""
    if trail.parsed is not None and trail.settled is not None:
        before, after = trail.parsed.data, trail.settled.data
        changed = [str(at) for at, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
        if changed:
            told = f"byte{'s' if len(changed) > 1 else ''} {', '.join(changed)} of the frame"
            yield Step("settled", "3", "headers set right", told)
    for egress, fate in trail.fates:
        port, form = layout.ports[egress.out_port].name, egress.form.name.lower()
        to = words.receiver(egress)
        if isinstance(fate, str):
            yield Step("copy", "4", "dropped", _SENTENCES[fate], fate, port, form, to)
        else:
            yield Step("copy", "4", "made", _made(fate, egress), None, port, form, to, len(fate), fate.hex())


def _made(copy: bytes, egress: Egress) -> str:
    """The headers of a copy in words."""
    if egress.form is Form.DECAPSULATED:
        return words.macs(copy, 0)
    packet = ip_header(copy, 14, len(copy), u16(copy, 12))
    return f"{packet.source} > {packet.destination}, {words.packet(copy, packet)}"


def _verdict(outcome: Outcome) -> Step:
    if outcome.verdict is Verdict.DROP and outcome.reason is not None:
        return Step("verdict", None, "drop", _SENTENCES[outcome.reason], outcome.reason)
    if outcome.verdict is Verdict.PUNT:
        return Step("verdict", None, "punt", "IGMP and MLD go to control; no copy is made.")
    lost = sum(outcome.copy_drops.values())
    told = words.count(len(outcome.copies), "copy") + (f", {lost:,} dropped" if lost else "")
    return Step("verdict", None, "replicate", told)

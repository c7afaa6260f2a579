"""What a punted frame says to control, in words: the message of IGMP or MLD, and its records."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

from ctrl import punt
from ctrl.explain import Step
from ctrl.protocols.messages import Kind, Query, Record
from ctrl.refusals import REFUSALS

_SAYS = {
    Kind.IS_IN: "wants it from these sources alone",
    Kind.IS_EX: "wants it",
    Kind.TO_IN: "wants it from these sources alone from now on",
    Kind.TO_EX: "joins",
    Kind.ALLOW: "wants it from these sources, too",
    Kind.BLOCK: "wants it from these sources no longer",
}


def steps(frame: bytes, *, strict_headers: bool) -> Iterator[Step]:
    """Tell what is heard of a frame, or by which refusal it is not."""
    heard = punt.read(frame, strict_headers=strict_headers)
    if isinstance(heard, str):
        yield Step("message", None, "refused", REFUSALS[heard].sentence, heard)
        return
    message = heard.message
    family = "IGMP" if heard.bits == 32 else "MLD"
    version = message.version if heard.bits == 32 else message.version - 1
    by = f"from {_address(heard.source, heard.bits)} at {heard.mac.hex(':')}"
    if isinstance(message, Query):
        yield Step("message", None, f"{family}v{version} query", f"{by}, {_asked(message, heard.bits)}")
        return
    unknown = f", {message.unknown:,} records of unknown types" if message.unknown else ""
    yield Step("message", None, f"{family}v{version} report", by + unknown)
    for record in message.records:
        group, says = str(_address(record.group, heard.bits)), _record(record, heard.bits)
        yield Step("record", None, group, f"{record.kind.name}: {says}")


def _asked(query: Query, bits: int) -> str:
    if query.group == 0:
        about = "general"
    else:
        sources = ", ".join(str(_address(source, bits)) for source in query.sources)
        about = f"of {_address(query.group, bits)}" + (f" from {sources}" if sources else "")
    return f"{about}, to be answered within {query.response_s:g} s"


def _record(record: Record, bits: int) -> str:
    sources = ", ".join(str(_address(source, bits)) for source in record.sources)
    if not record.sources and record.kind in {Kind.TO_IN, Kind.IS_IN}:
        return "leaves" if record.kind is Kind.TO_IN else "wants it from nobody"
    if record.sources and record.kind in {Kind.IS_EX, Kind.TO_EX}:
        return f"{_SAYS[record.kind]}, but not from {sources}"
    return f"{_SAYS[record.kind]}: {sources}" if sources else _SAYS[record.kind]


def _address(value: int, bits: int) -> IPv4Address | IPv6Address:
    return IPv4Address(value) if bits == 32 else IPv6Address(value)

"""MLD on the wire: versions 1 (RFC 2710) and 2 (RFC 9777). Bytes in, messages out, and back.

1. Versions are told as IGMP's: MLDv1 is 2, MLDv2 is 3 (see `messages`). The length says a query's (RFC 9777
   section 8.1).
2. What a report announces must all be there, see `wire`. `read` does not look at checksums: `is_sound` does.
   They cover the addresses of the IP header, so messages are written without them and frames with them.
3. Frames are what RFC 9777 section 5 asks for: hop limit 1, Router Alert, to the group's MAC.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import pack

from ctrl.protocols import packing, wire
from ctrl.protocols.messages import Kind, MalformedError, Query, Record, Report

QUERY, V1_REPORT, V1_DONE, V2_REPORT = 130, 131, 132, 143
TYPES = frozenset((QUERY, V1_REPORT, V1_DONE, V2_REPORT))
ALL_NODES, ALL_ROUTERS, ALL_V2_ROUTERS = 0xFF02 << 112 | 1, 0xFF02 << 112 | 2, 0xFF02 << 112 | 0x16
PROTOCOL = 58
HOP_BY_HOP = bytes.fromhex("3a00050200000100")
"""The extension header with a Router Alert that says MLD (RFC 2711), padded; ICMPv6 follows."""
HEADERS = 48
"""Bytes of the IP header and of HOP_BY_HOP."""
V1_SIZE, V2_QUERY_SIZE = 24, 28


def is_sound(payload: bytes, source: bytes, destination: bytes) -> bool:
    """Say whether a message is as it was sent, by its checksum with the addresses of its IP header."""
    return wire.is_sound(_pseudo(payload, source, destination) + payload)


def _pseudo(payload: bytes, source: bytes, destination: bytes) -> bytes:
    return source + destination + pack(">II", len(payload), PROTOCOL)


class V1(wire.Packet):
    """A query, report or done of version 1. `code` is the response time in milliseconds."""

    SIZE = wire.IPV6
    __hdr__ = (
        ("type", "B", QUERY),
        ("icmp_code", "B", 0),
        ("sum", "H", 0),
        ("code", "H", 0),
        ("reserved", "H", 0),
        ("group", "16s", bytes(16)),
    )


class V2Query(wire.QueryPacket):
    """A query of version 2. `code` is a code (`wire.value_of`) of milliseconds."""

    SIZE, BITS, UNITS = wire.IPV6, 16, 1000
    __hdr__ = (*V1.__hdr__, *wire.QueryPacket.TAIL)
    __bit_fields__ = wire.QueryPacket.FLAGS


class GroupRecord(wire.RecordPacket):
    """A group record of a version 2 report."""

    SIZE = wire.IPV6
    __hdr__ = (("type", "B", 0), ("aux_words", "B", 0), ("n_sources", "H", 0), ("group", "16s", bytes(16)))


class V2Report(wire.ReportPacket):
    """A report of version 2."""

    SIZE = wire.IPV6
    RECORD = GroupRecord
    __hdr__ = (
        ("type", "B", V2_REPORT),
        ("icmp_code", "B", 0),
        ("sum", "H", 0),
        ("flags", "H", 0),
        ("n_records", "H", 0),
    )


def read(payload: bytes) -> Query | Report:
    """Read an ICMPv6 message that is MLD's; MalformedError, of which UnknownTypeError is one."""
    if len(payload) < 8:
        raise MalformedError(f"{len(payload)} bytes are no MLD message: 8 at least")
    kind = payload[0]
    if kind == V2_REPORT:
        return wire.read_records(payload[8:], payload[6] << 8 | payload[7], wire.IPV6)
    if kind not in TYPES:
        raise wire.UnknownTypeError(f"ICMPv6 type {kind} is not MLD's: 130, 131, 132, 143")
    if len(payload) < V1_SIZE:
        raise MalformedError(f"{len(payload)} bytes of MLD type {kind}: {V1_SIZE} at least")
    if kind == QUERY:
        return _read_query(payload)
    group = int.from_bytes(payload[8:24], "big")
    return Report(2, (Record(Kind.TO_IN if kind == V1_DONE else Kind.IS_EX, group),))


def _read_query(payload: bytes) -> Query:
    if len(payload) == V1_SIZE:
        short = V1(payload)
        return Query(2, int.from_bytes(short.group, "big"), response_s=short.code / 1000)
    if len(payload) < V2_QUERY_SIZE:
        raise MalformedError(
            f"an MLD query of {len(payload)} bytes is of no version: {V1_SIZE}, or {V2_QUERY_SIZE} at least"
        )
    return V2Query(payload).message


def query(message: Query) -> bytes:
    """Write a query, its checksum 0. What it cannot say becomes the nearest time below, robustness 0."""
    if message.version == 3:
        return bytes(V2Query.of(message))
    milliseconds = round(message.response_s * 1000)
    return bytes(V1(code=min(milliseconds, 0xFFFF), group=message.group.to_bytes(16, "big")))


def report(message: Report) -> bytes:
    """Write a report in its version, its checksum 0; ValueError if MLDv1 cannot say it."""
    if message.version == 3:
        return bytes(V2Report.of(message))
    record = wire.only_record(message)
    kind = V1_DONE if record.kind is Kind.TO_IN else V1_REPORT
    return bytes(V1(type=kind, group=record.group.to_bytes(16, "big")))


def query_frame(message: Query, mac: bytes, source: int) -> bytes:
    """Write a query as a frame from (`mac`, `source`), to all nodes or to its group."""
    return _frame(query(message), mac, source, message.group or ALL_NODES)


def report_frame(message: Report, mac: bytes, source: int) -> bytes:
    """Write a report as a frame from (`mac`, `source`), to those who are to hear it in its version."""
    return _frame(report(message), mac, source, wire.who_hears(message, ALL_V2_ROUTERS, ALL_ROUTERS))


def split(message: Query, mtu: int) -> Iterator[Query]:
    """Ask in queries whose packets fit `mtu` (0: no limit but IP's own)."""
    return wire.split_sources(message, (mtu or wire.LONGEST_PACKET) - HEADERS - V2_QUERY_SIZE, wire.IPV6)


def split_report(message: Report, mtu: int) -> Iterator[Report]:
    """Say it in as few reports as there must be for their packets to fit `mtu` (0: no limit but IP's own)."""
    room = (mtu or wire.LONGEST_PACKET) - HEADERS - V2Report.__hdr_len__
    return packing.split_report(message, room, wire.IPV6)


def _frame(payload: bytes, mac: bytes, source: int, destination: int) -> bytes:
    ends = source.to_bytes(16, "big"), destination.to_bytes(16, "big")
    total = wire.checksum(_pseudo(payload, *ends) + payload)
    payload = payload[:2] + total.to_bytes(2, "big") + payload[4:]
    header = pack(">IHBB", 6 << 28, len(HOP_BY_HOP) + len(payload), 0, 1)
    to = b"\x33\x33" + ends[1][12:]
    return b"".join((to, mac, b"\x86\xdd", header, *ends, HOP_BY_HOP, payload))

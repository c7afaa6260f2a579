"""IGMP on the wire: versions 1 (RFC 1112), 2 (RFC 2236) and 3 (RFC 9776). Bytes in, messages out, and back.

1. The length says a query's version, and for 8 bytes whether it names a response time (RFC 9776 section 7.1).
2. A message of version 1 or 2 may be longer than its 8 bytes (RFC 2236 section 2.5).
3. What a report announces must all be there, see `wire`. `read` does not look at checksums: `is_sound` does.
4. Frames are what RFC 9776 section 4 asks for: TTL 1, Router Alert, ToS 0xc0, to the group's MAC.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import pack

from ctrl.protocols import packing, wire
from ctrl.protocols.messages import Kind, MalformedError, Query, Record, Report

QUERY, V1_REPORT, V2_REPORT, V2_LEAVE, V3_REPORT = 0x11, 0x12, 0x16, 0x17, 0x22
ALL_HOSTS, ALL_ROUTERS, ALL_V3_ROUTERS = 0xE0000001, 0xE0000002, 0xE0000016
PROTOCOL = 2
ROUTER_ALERT = bytes.fromhex("94040000")
V1_RESPONSE_S = 10.0
HEADERS = 24
"""Bytes of the IP header with its option."""

is_sound = wire.is_sound


class Igmp(wire.Packet):
    """What all of IGMP shares: a `sum` that is worked out when it is left 0."""

    SIZE = wire.IPV4

    def __bytes__(self) -> bytes:
        raw: bytes = super().__bytes__()
        return raw if self.sum else raw[:2] + wire.checksum(raw).to_bytes(2, "big") + raw[4:]


class V2(Igmp):
    """A query, report or leave of version 1 or 2. `code` is the response time in tenths of a second."""

    __hdr__ = (("type", "B", QUERY), ("code", "B", 0), ("sum", "H", 0), ("group", "4s", bytes(4)))


class V3Query(Igmp, wire.QueryPacket):
    """A query of version 3. `code` is a code (`wire.value_of`) of tenths of a second."""

    BITS, UNITS = 8, 10
    __hdr__ = (*V2.__hdr__, *wire.QueryPacket.TAIL)
    __bit_fields__ = wire.QueryPacket.FLAGS


class GroupRecord(wire.RecordPacket):
    """A group record of a version 3 report."""

    SIZE = wire.IPV4
    __hdr__ = (("type", "B", 0), ("aux_words", "B", 0), ("n_sources", "H", 0), ("group", "4s", bytes(4)))


class V3Report(Igmp, wire.ReportPacket):
    """A report of version 3."""

    RECORD = GroupRecord
    __hdr__ = (
        ("type", "B", V3_REPORT),
        ("reserved", "B", 0),
        ("sum", "H", 0),
        ("flags", "H", 0),
        ("n_records", "H", 0),
    )


def read(payload: bytes) -> Query | Report:
    """Read a message; MalformedError, of which UnknownTypeError is one."""
    if len(payload) < 8:
        raise MalformedError(f"{len(payload)} bytes are no IGMP message: 8 at least")
    kind = payload[0]
    if kind == V3_REPORT:
        return wire.read_records(payload[8:], payload[6] << 8 | payload[7], wire.IPV4)
    if kind == QUERY:
        return _read_query(payload)
    group = int.from_bytes(payload[4:8], "big")
    if kind == V2_REPORT:
        return Report(2, (Record(Kind.IS_EX, group),))
    if kind == V2_LEAVE:
        return Report(2, (Record(Kind.TO_IN, group),))
    if kind == V1_REPORT:
        return Report(1, (Record(Kind.IS_EX, group),))
    raise wire.UnknownTypeError(f"IGMP type 0x{kind:02x} is neither a query, a report nor a leave")


def _read_query(payload: bytes) -> Query:
    if len(payload) == 8:
        short = V2(payload)
        if short.code == 0:  # version 1: the group is ignored (RFC 1112 appendix I)
            return Query(1, response_s=V1_RESPONSE_S)
        return Query(2, int.from_bytes(short.group, "big"), response_s=short.code / 10)
    if len(payload) < 12:
        raise MalformedError(f"an IGMP query of {len(payload)} bytes is of no version: 8, or 12 at least")
    return V3Query(payload).message


def query(message: Query) -> bytes:
    """Write a query. What it cannot say in its version becomes the nearest time below, robustness 0."""
    if message.version == 1:
        return bytes(V2())
    if message.version == 2:
        tenths = round(message.response_s * 10)
        return bytes(V2(code=min(max(tenths, 1), 255), group=message.group.to_bytes(4, "big")))
    return bytes(V3Query.of(message))


def report(message: Report) -> bytes:
    """Write a report in its version; ValueError if version 1 or 2 cannot say it."""
    if message.version == 3:
        return bytes(V3Report.of(message))
    record = wire.only_record(message)
    kind = V1_REPORT if message.version == 1 else V2_LEAVE if record.kind is Kind.TO_IN else V2_REPORT
    return bytes(V2(type=kind, group=record.group.to_bytes(4, "big")))


def query_frame(message: Query, mac: bytes, source: int) -> bytes:
    """Write a query as a frame from (`mac`, `source`), to all hosts or to its group."""
    return _frame(query(message), mac, source, (message.version > 1 and message.group) or ALL_HOSTS)


def report_frame(message: Report, mac: bytes, source: int) -> bytes:
    """Write a report as a frame from (`mac`, `source`), to those who are to hear it in its version."""
    return _frame(report(message), mac, source, wire.who_hears(message, ALL_V3_ROUTERS, ALL_ROUTERS))


def split(message: Query, mtu: int) -> Iterator[Query]:
    """Ask in queries whose packets fit `mtu` (0: no limit but IP's own)."""
    return wire.split_sources(
        message, (mtu or wire.LONGEST_PACKET) - HEADERS - V3Query.__hdr_len__, wire.IPV4
    )


def split_report(message: Report, mtu: int) -> Iterator[Report]:
    """Say it in as few reports as there must be for their packets to fit `mtu` (0: no limit but IP's own)."""
    room = (mtu or wire.LONGEST_PACKET) - HEADERS - V3Report.__hdr_len__
    return packing.split_report(message, room, wire.IPV4)


def _frame(payload: bytes, mac: bytes, source: int, destination: int) -> bytes:
    size = HEADERS + len(payload)
    header = pack(
        ">BBHHHBBHII4s", 0x46, 0xC0, size, 0, 0x4000, 1, PROTOCOL, 0, source, destination, ROUTER_ALERT
    )
    header = header[:10] + wire.checksum(header).to_bytes(2, "big") + header[12:]
    to = b"\x01\x00\x5e" + (destination & 0x7FFFFF).to_bytes(3, "big")
    return to + mac + b"\x08\x00" + header + payload

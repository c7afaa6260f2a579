"""What IGMP and MLD have in common on the wire: number codes, checksum, group records, source lists.

1. Nothing is believed that is announced: every count is held against the bytes that are there before anything
   is made of it. A report with one record or source less than it announces is refused as a whole; half of a
   report would be believed as if the host had said no more.
2. `walk` is the only reader of group records. `read_records` makes `Record`s of what it finds, fast; the dpkt
   classes show every field of the same bytes, slowly, and write them.
3. Bytes behind what a message announces are ignored, but for its checksum (RFC 9776 section 4).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from struct import Struct, iter_unpack, unpack_from
from typing import Any, ClassVar

import dpkt

from ctrl.protocols.messages import Kind, MalformedError, Query, Record, Report

IPV4, IPV6 = 4, 16
"""Bytes of an address: which of the two protocols it is."""

KINDS = {int(kind): kind for kind in Kind}
RECORD_HEAD = Struct(">BBH")
LONGEST_PACKET = 65_535


class UnknownTypeError(MalformedError):
    """A message of a type that is neither a query, a report nor a leave."""


def value_of(code: int, bits: int = 8) -> int:
    """Tell what a code of 8 or 16 bits stands for (RFC 9776 section 4.1.1, RFC 9777 section 5.1.3)."""
    if code < 1 << bits - 1:
        return code
    mantissa_bits = bits - 4
    top = 1 << mantissa_bits
    return (code & top - 1 | top) << (code >> mantissa_bits & 7) + 3


def code_of(value: int, bits: int = 8) -> int:
    """The code of the largest value that can be said and is not above `value`: no host answers too late."""
    if value < 1 << bits - 1:
        return value
    mantissa_bits = bits - 4
    exponent = value.bit_length() - mantissa_bits - 4
    if exponent > 7:
        return (1 << bits) - 1
    return 1 << bits - 1 | exponent << mantissa_bits | value >> exponent + 3 & (1 << mantissa_bits) - 1


def checksum(data: bytes) -> int:
    """RFC 1071, of bytes that are not all zeros.

    65,536 is 1 modulo 65,535, so the sum of all words is the remainder of the whole number.
    """
    return -_remainder(data) % 0xFFFF


def is_sound(data: bytes) -> bool:
    """Say whether bytes that hold their own checksum are as they were sent."""
    return _remainder(data) == 0


def _remainder(data: bytes) -> int:
    return int.from_bytes(data + bytes(len(data) % 2), "big") % 0xFFFF


def addresses(data: bytes, at: int, n: int, size: int) -> tuple[int, ...]:
    """Read `n` addresses of `size` bytes; MalformedError if there are fewer."""
    end = at + n * size
    if end > len(data):
        raise MalformedError(f"{n} sources announced, {(len(data) - at) // size} present")
    if size == IPV4:
        return unpack_from(f">{n}I", data, at)
    return tuple(int.from_bytes(part, "big") for (part,) in iter_unpack(f"{size}s", data[at:end]))


def packed(sources: tuple[int, ...], size: int) -> bytes:
    """Addresses as they stand in a message."""
    return b"".join(source.to_bytes(size, "big") for source in sources)


def walk(data: bytes, n: int, size: int) -> Iterator[tuple[int, int, int, int]]:
    """Step over `n` group records: type, where the sources begin, how many, the end behind auxiliary data."""
    head = RECORD_HEAD.unpack_from
    end = 0
    for i in range(n):
        sources_at = end + RECORD_HEAD.size + size
        if sources_at > len(data):
            raise MalformedError(f"{n} records announced, {i} present")
        kind, aux_words, n_sources = head(data, end)
        end = sources_at + n_sources * size + aux_words * 4
        if end > len(data):
            raise MalformedError(f"record {i + 1} of {n}: {end - len(data)} bytes less than it announces")
        yield kind, sources_at, n_sources, end


def read_records(data: bytes, n: int, size: int) -> Report:
    """Read the `n` records behind the head of a version 3 report."""
    found = []
    unknown = 0
    for kind, at, n_sources, _ in walk(data, n, size):
        known = KINDS.get(kind)
        if known is None:
            unknown += 1
            continue
        group = int.from_bytes(data[at - size : at], "big")
        found.append(Record(known, group, addresses(data, at, n_sources, size) if n_sources else ()))
    return Report(3, tuple(found), unknown)


def only_record(report: Report) -> Record:
    """Give the one thing that a report of version 1 or 2 can say; ValueError if it says another."""
    if len(report.records) == 1:
        record = report.records[0]
        leaves = record.kind is Kind.TO_IN and report.version == 2
        if not record.sources and (leaves or record.kind in (Kind.IS_EX, Kind.TO_EX)):
            return record
    raise ValueError(
        f"a report of version {report.version} says one IS_EX, TO_EX or TO_IN (version 2) without sources"
    )


def who_hears(report: Report, v3_routers: int, all_routers: int) -> int:
    """To whom a report goes: routers that read version 3, all routers for a leave, or else its group."""
    if report.version == 3:
        return v3_routers
    record = report.records[0]
    return all_routers if record.kind is Kind.TO_IN else record.group


def split_sources(query: Query, room: int, size: int) -> Iterator[Query]:
    """Ask in as many queries as are needed for each to hold at most `room` bytes of sources."""
    n = room // size
    if not query.sources:
        yield query
        return
    if n < 1:
        raise ValueError(f"no room for a source: {room} bytes")
    for i in range(0, len(query.sources), n):
        yield replace(query, sources=query.sources[i : i + n])


class Packet(dpkt.Packet):  # type: ignore[misc]  # dpkt has no types
    """A dpkt packet with addresses of SIZE bytes. A group is bytes, as dpkt has it; sources are ints."""

    SIZE: ClassVar[int]


class SourcesPacket(Packet):
    """A packet whose `data` begins with the `n_sources` that its header announces."""

    @property
    def sources(self) -> tuple[int, ...]:
        """Source addresses; MalformedError if there are fewer than announced."""
        return addresses(self.data, 0, self.n_sources, self.SIZE)


class QueryPacket(SourcesPacket):
    """A version 3 query. `code` is a code of BITS bits, of 1 / UNITS s; `qqic` one of 8 bits, of seconds.

    Behind the head that it shares with older versions, each header ends with TAIL, whose flags are FLAGS.
    """

    BITS: ClassVar[int]
    UNITS: ClassVar[int]
    TAIL = (("_flags_s_qrv", "B", 0), ("qqic", "B", 0), ("n_sources", "H", 0))
    FLAGS: ClassVar = {"_flags_s_qrv": (("flags", 4), ("s", 1), ("qrv", 3))}

    @property
    def message(self) -> Query:
        """What it asks; MalformedError if there are fewer sources than announced."""
        return Query(
            version=3,
            group=int.from_bytes(self.group, "big"),
            sources=self.sources,
            response_s=value_of(self.code, self.BITS) / self.UNITS,
            suppress=bool(self.s),
            robustness=self.qrv,
            interval_s=float(value_of(self.qqic)),
        )

    @classmethod
    def of(cls, message: Query) -> QueryPacket:
        """Make the query that asks this; what it cannot say becomes the nearest time below, robustness 0."""
        return cls(
            code=code_of(round(message.response_s * cls.UNITS), cls.BITS),
            group=message.group.to_bytes(cls.SIZE, "big"),
            s=int(message.suppress),
            qrv=message.robustness if message.robustness < 8 else 0,
            qqic=code_of(round(message.interval_s)),
            n_sources=len(message.sources),
            data=packed(message.sources, cls.SIZE),
        )


class RecordPacket(SourcesPacket):
    """A group record with its sources and auxiliary data in `data`."""

    @property
    def aux(self) -> bytes:
        """Auxiliary data: no version uses it (RFC 9776 section 4.2)."""
        start = self.n_sources * self.SIZE
        return bytes(self.data[start : start + self.aux_words * 4])

    @classmethod
    def of(cls, record: Record) -> RecordPacket:
        """Make the group record that says this."""
        return cls(
            type=int(record.kind),
            n_sources=len(record.sources),
            group=record.group.to_bytes(cls.SIZE, "big"),
            data=packed(record.sources, cls.SIZE),
        )


class ReportPacket(Packet):
    """A version 3 report with its group records in `data`."""

    RECORD: ClassVar[type[RecordPacket]]

    @property
    def records(self) -> list[RecordPacket]:
        """Group records, those of unknown types too; MalformedError if there is less than announced."""
        head = RECORD_HEAD.size + self.SIZE
        found = walk(self.data, self.n_records, self.SIZE)
        return [self.RECORD(self.data[at - head : end]) for _, at, _, end in found]

    @classmethod
    def of(cls, report: Report, **fields: Any) -> ReportPacket:
        """Make the report that says this."""
        data = b"".join(bytes(cls.RECORD.of(record)) for record in report.records)
        return cls(n_records=len(report.records), data=data, **fields)

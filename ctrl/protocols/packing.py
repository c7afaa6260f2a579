"""A version 3 report in as few messages as hold its records (RFC 9776 section 4.2.16, CONFORMANCE N7).

1. A record is kept whole where a message can hold it: it begins the next message rather than being cut.
2. What no message can hold is cut: into several records, all of which count; but those that say "all but
   these" lose what does not fit, for a second one would take the first one's place. More is then sent than
   is wanted, never less. Of TO_IN the further records are ALLOW: a second TO_IN would have the router ask for
   the sources of the first.
"""

from __future__ import annotations

from collections.abc import Iterator

from ctrl.protocols.messages import Kind, Record, Report
from ctrl.protocols.wire import RECORD_HEAD


def split_report(report: Report, room: int, size: int) -> Iterator[Report]:
    """Say it in as few reports as there must be, with `room` bytes for records, addresses of `size` bytes.
    One of version 1 or 2 is of one group. ValueError if there is no room for a group and a source."""
    if report.version < 3:
        yield report
        return
    head = RECORD_HEAD.size + size
    most = (room - head) // size
    if most < 1:
        raise ValueError(f"no room for a group record: {room} bytes")
    kept: list[Record] = []
    left = room
    for record in report.records:
        for part in _parts(record, most):
            needs = head + len(part.sources) * size
            if needs > left:
                yield Report(3, tuple(kept))
                kept, left = [], room
            kept.append(part)
            left -= needs
    if kept:
        yield Report(3, tuple(kept))


def _parts(record: Record, most: int) -> Iterator[Record]:
    """Cut a record into some of at most so many sources."""
    kind, group, sources = record
    if len(sources) <= most:
        yield record
    elif kind in (Kind.IS_EX, Kind.TO_EX):
        yield Record(kind, group, sources[:most])
    else:
        yield Record(kind, group, sources[:most])
        further = Kind.ALLOW if kind is Kind.TO_IN else kind
        for i in range(most, len(sources), most):
            yield Record(further, group, sources[i : i + most])

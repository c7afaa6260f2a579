"""What control refuses of the IGMP and MLD that was punted to it, by name: the other half of the drop table.

A punted frame is a message that was taken or, by one of these reasons, refused; so is each record of a report
that was taken, and each source of a record. The reasons of frames and copies are in `fastpath.reasons`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refusal:
    """One row of the table. `unit`: message, record or source."""

    name: str
    unit: str
    stage: str
    sentence: str


def _message(name: str, sentence: str) -> Refusal:
    return Refusal(name, "message", "punt", sentence)


def _record(name: str, sentence: str, stage: str = "membership") -> Refusal:
    return Refusal(name, "record", stage, sentence)


REFUSALS: dict[str, Refusal] = {
    row.name: row
    for row in (
        _message(
            "zero_mac",
            "The Ethernet source of a report or query is no station's address: all zeros, or a group's.",
        ),
        _message("bad_control_checksum", "The IGMP or MLD checksum is wrong."),
        _message(
            "malformed_control",
            "An IGMP or MLD message, or the frame around it, is shorter than what it announces, or at odds "
            "with itself.",
        ),
        _message(
            "unknown_control", "An IGMP message or a frame that is neither a query, a report nor a leave."
        ),
        _message(
            "not_from_the_link",
            "MLD without a link-local source, hop limit 1 and Router Alert (RFC 9777 section 5); with "
            "strict_headers, IGMP without TTL 1 and Router Alert, and MLD from ::.",
        ),
        _message("not_an_nve_port", "IGMP or MLD on a port where nobody may join."),
        _message("control_busy", "A port sent more messages than control had handled of it."),
        _record("unknown_record", "A group record of a type that RFC 9776 does not know.", "punt"),
        _record("not_a_group", "A report of an address that is not multicast."),
        _record("link_local_group", "A report of a link-local group, as Linux sends: every port gets those."),
        _record("groups_full", "max_groups: the box has as many groups as it may."),
        _record("port_groups_full", "max_groups_per_port: the port has as many groups as it may."),
        _record("members_full", "max_members_per_group: the group has as many members there as it may."),
        _record("port_members_full", "max_members_per_port: the port has as many memberships as it may."),
        Refusal(
            "sources_full",
            "source",
            "membership",
            "max_sources_per_group: an NVE named more sources of a group than it may.",
        ),
        Refusal("not_a_source", "source", "membership", "A source of a report is not a unicast address."),
    )
}  # fmt: skip


class Refused(Counter[str]):
    """How often each refusal struck."""

    def count(self, name: str, n: int = 1) -> None:
        """Count a refusal of the table; KeyError for another name."""
        if n:
            self[REFUSALS[name].name] += n

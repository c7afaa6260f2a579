"""What control refuses, by name: the other half of the drop table.

A punted frame is a message of IGMP or MLD that was taken or, by one of these reasons, refused; so is each
record of a report that was taken, and each source of a record. An NVE refuses to learn where a MAC is.
Managers refuse sessions and groups, nodes refuse instructions and probes: these names begin with who did. The
reasons of frames and copies are in `fastpath.reasons`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ctrl.protocols import bfd_table
from ctrl.roles import tunnels


@dataclass(frozen=True, slots=True)
class Refusal:
    """One row of the table. `unit`: message, record, source, session, group, instruction or probe."""

    name: str
    unit: str
    stage: str
    sentence: str


def _message(name: str, sentence: str) -> Refusal:
    return Refusal(name, "message", "punt", sentence)


def _record(name: str, sentence: str, stage: str = "membership") -> Refusal:
    return Refusal(name, "record", stage, sentence)


_MANAGER = {
    "session": {
        "wrong_identity": "A node spoke for another one: its certificate has another name.",
        "unknown_role": "A node that is neither a device nor a replication point.",
        "bad_node": "A node whose name, addresses or networks no node can have.",
        "address_claimed": "A node claimed an address that another node has.",
        "old_generation": "A node came that had been started before the one that is known.",
        "nodes_full": "max_nodes: there are as many nodes as may be.",
        "unknown_point": "The state of a point that no point has the address of.",
        "late": "A message or a result for a session that had ended.",
        "second_hello": "A node said hello twice in one session.",
        "full": "max_nodes: the manager has as many sessions as it may.",
        "tls_version": "A node spoke an older TLS than 1.3.",
        "handshake": "A TLS handshake came to no session.",
        "silent": "No Hello came in time.",
        "malformed": "What a node said is no message of fabric.proto, or not in its turn.",
        "slow": "A node did not read what it was sent.",
        "paced": "A message of a node that says more than its pace: it was read later.",
    },
    "group": {
        "groups_full": "max_groups: there are as many groups as may be.",
        "node_groups_full": "max_groups_per_node: a node is in as many groups as it may.",
        "group_devices_full": "max_devices_per_group: a group has as many devices as it may.",
        "not_a_group": "A key that is no multicast group.",
        "bad_networks": "Networks of a group that no networks can be, or too many.",
        "not_a_device": "Second information of a replication point.",
    },
    "instruction": {
        "refused_by_node": "A node refused an entry that it was told: its own bounds forbid it.",
    },
}
_PROBES = {
    **bfd_table.REFUSALS,
    "overrun": "It came while the socket's buffer was full.",
    "not_sent": "The kernel would not send it: no route, or no room.",
}

_LEARNING = {
    "mac_port_full": "max_macs_per_port: the VM port has as many stations as it may.",
    "mac_network_full": "max_macs_per_network: the network has as many stations as it may.",
    "mac_table_full": "max_macs: there are as many stations as may be, or no room for this one.",
    "vteps_full": "max_vteps: stations are behind as many VTEPs as may be.",
    "vteps_waiting": "A quarter of max_vteps wait for a next hop already, so this VTEP cannot.",
    "not_a_vtep": "A frame's outer source is no address of a station, so nothing can be sent there.",
    "static_mac_moved": "A static station was heard elsewhere; it stays where the config has it.",
}


def _of_fabric() -> Iterator[Refusal]:
    for unit, sentences in _MANAGER.items():
        for name, sentence in sentences.items():
            yield Refusal(f"manager_{name}", unit, "manager", sentence)
    for name, sentence in tunnels.REFUSALS.items():
        yield Refusal(f"instruction_{name}", "instruction", "instructions", sentence)
    for name, sentence in _PROBES.items():
        yield Refusal(f"probe_{name}", "probe", "probes", sentence)


def fabric_counts(
    manager: Mapping[str, int], instructions: Iterable[Mapping[str, int]], probes: Iterable[Mapping[str, int]]
) -> dict[str, int]:
    """What a manager, the roles that are told by one and the probes refused, by the names of the table."""
    counts: Counter[str] = Counter()
    several = (("manager", [manager]), ("instruction", instructions), ("probe", probes))
    for who, refused in several:
        for one in refused:
            for name, n in one.items():
                if f"{who}_{name}" in REFUSALS:
                    counts[f"{who}_{name}"] += n
    return dict(counts)


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
        _message("report_of_a_host", "A report on an uplink of the NVE: it is for the device there."),
        _message("query_of_nobody", "A tenant's query from 0.0.0.0: a snooper's, which is no router."),
        _message("tenant_not_sent", "A report or query of tenants that a port could not take."),
        _message(
            "tenant_not_heard",
            "A report or query of tenants by a tunnel of which nobody here gets copies, or of a stranger.",
        ),
        _message("query_astray", "A general query on an uplink to a group that is not all hosts'."),
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
        *(_record(name, sentence, "learn") for name, sentence in _LEARNING.items()),
        *_of_fabric(),
    )
}  # fmt: skip


class Refused(Counter[str]):
    """How often each refusal struck."""

    def count(self, name: str, n: int = 1) -> None:
        """Count a refusal of the table; KeyError for another name."""
        if n:
            self[REFUSALS[name].name] += n

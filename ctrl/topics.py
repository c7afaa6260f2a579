"""What `fastpath monitor` shows: the topics, what the events of each hold, and the schema of `-j`.

Imports nothing that takes time, as `ctrl.objects`. The rows are made in `ctrl.events`.
"""

from __future__ import annotations

from typing import Any

from ctrl.objects import Column, Shown, row_schema

_TIME = (
    Column("time", "text", "When, UTC: ISO 8601, to the millisecond."),
    Column("topic", "text", "members, groups, macs, tunnels, instructions or sessions."),
)

EVENTS: dict[str, Shown] = {
    "members": Shown(
        "What became of a local member of a group.",
        (
            *_TIME,
            Column("event", "text", "joined, left or changed: it wants other sources."),
            Column("port", "text", "The port that it is behind."),
            Column("nve", "text", "As in members; null: all of the port, by config.", nullable=True),
            Column("mac", "text", "As in members; null: it is static.", nullable=True),
            Column("network", "text", "Of a VM: its network; null: it is an NVE.", nullable=True),
            Column("group", "text", "What it is or was a member of."),
            Column("mode", "text", "include or exclude; of one that left, until then."),
            Column("sources", "list", "Of include: what it wants."),
            Column("blocked", "list", "Of exclude: what it does not want."),
            Column(
                "origin",
                "text",
                "Who says so: igmp, mld or static; stored: the box itself, which was in it when it ended.",
            ),
        ),
    ),
    "groups": Shown(
        "A change of the second information: the groups that the box is in.",
        (
            *_TIME,
            Column("event", "text", "joined: its first member came; left: its last one went."),
            Column("group", "text", "Which."),
            Column("revision", "count", "The revision of the second information from then on."),
        ),
    ),
    "macs": Shown(
        "What became of a station of a virtual network.",
        (
            *_TIME,
            Column("event", "text", "learned, moved, aged, or cleared: its port or network went."),
            Column("vni", "count", "The VNI of its network."),
            Column("network", "text", "How the config calls it; null: it is gone.", nullable=True),
            Column("mac", "text", "Its MAC."),
            Column("port", "text", "As in macs; of one that is gone, where it was.", nullable=True),
            Column("vtep", "text", "The same.", nullable=True),
            Column("was", "text", "Of one that moved: the port or VTEP until now.", nullable=True),
        ),
    ),
    "tunnels": Shown(
        "A peer whose tunnel is in another state.",
        (
            *_TIME,
            Column("event", "text", "The state: up, no_neighbour, no_route, down or unreached."),
            Column("peer", "text", "Its address."),
        ),
    ),
    "instructions": Shown(
        "The tunnels of a group at a node, or who else wants a tenants' group: at a manager what was told "
        "to whom, at a node what became of it.",
        (
            *_TIME,
            Column("event", "text", "told or withdrawn; at the node applied, ended or refused."),
            Column("node", "text", "Which device or point."),
            Column("group", "text", "Which; of tenants: the group of their network."),
            Column("vni", "count", "Of tenants: their network; null: of the group itself.", nullable=True),
            Column("tenants", "text", "The group that they want; any: all; null: as above.", nullable=True),
            Column("via", "text", "mesh or point; null: there are none any more.", nullable=True),
            Column("peers", "list", "Where copies are to go; of tenants: who wants one."),
            Column("revision", "count", "The store's revision that it was made from."),
            Column("why", "text", "The reason of a refusal, by its name; null: none.", nullable=True),
        ),
    ),
    "sessions": Shown(
        "A session of a node with a manager, told by either side.",
        (
            *_TIME,
            Column("event", "text", "came, went or refused."),
            Column("node", "text", "Which; null: it did not come so far as to say.", nullable=True),
            Column("role", "text", "device, nve or replicator; null: as above.", nullable=True),
            Column("manager", "text", "Who serves it, or refused it; null: none is known.", nullable=True),
            Column("why", "text", "Why it went or was refused; null: nobody said.", nullable=True),
        ),
    ),
}
"""What the events of each topic hold, by the topic's name."""

MISSED = Shown(
    "Events of a topic that were lost, the oldest ones, as they were not read in time.",
    (
        *_TIME,
        Column("event", "text", "missed."),
        Column("missed", "count", "How many."),
    ),
)
"""What may come in place of events, of any topic."""


def event_schema() -> dict[str, Any]:
    """Describe the lines of `fastpath monitor -j`, by topic, as JSON Schema."""
    rows = {**EVENTS, "missed": MISSED}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fastpath monitor -j, a line",
        "$defs": {name: row_schema(shown) for name, shown in rows.items()},
        "anyOf": [{"$ref": f"#/$defs/{name}"} for name in rows],
    }

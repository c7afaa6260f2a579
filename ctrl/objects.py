"""What `fastpath show` shows: objects, their keys in order, what each key holds; and the schema of `-j`.
Events are in `ctrl.topics`.

The one place that names the keys, imported by the command and by the daemon: so it imports nothing. The rows
are made in `ctrl.view_rows`, and tests hold them against the schemas.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_TYPES: dict[str, dict[str, Any]] = {
    "text": {"type": "string"},
    "count": {"type": "integer", "minimum": 0},
    "number": {"type": "number", "minimum": 0},
    "switch": {"type": "boolean"},
    "list": {"type": "array", "items": {"type": "string"}},
    "value": {"type": ["string", "number", "boolean", "array", "null"], "items": {"type": "string"}},
}


@dataclass(frozen=True, slots=True)
class Column:
    """A key of an object's rows. A key that may be null says in `meaning` when."""

    key: str
    kind: str
    meaning: str
    nullable: bool = False


@dataclass(frozen=True, slots=True)
class Shown:
    """An object: what one of its rows is, and their keys."""

    row: str
    columns: tuple[Column, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(column.key for column in self.columns)


OBJECTS: dict[str, Shown] = {
    "status": Shown(
        "The box as a whole: received = replicated + punted + dropped.",
        (
            Column("node", "text", "How the box is called."),
            Column("roles", "list", "nve, device, replicator, manager: the tables of the config."),
            Column("pid", "count", "The process, for signals."),
            Column("uptime_s", "number", "Since the process began to forward."),
            Column("received", "count", "Frames."),
            Column("replicated", "count", "Frames of which copies were made."),
            Column("punted", "count", "Frames handed to control: IGMP and MLD."),
            Column("dropped", "count", "Frames; drops says why."),
            Column("copies_out", "count", "Copies that left."),
            Column(
                "unknown_unicast",
                "count",
                "Of the replicated: VMs' frames to a station not in macs, and so to their whole network.",
            ),
            Column("fib", "count", "The revision of the replication lists."),
            Column("manager", "text", "The manager in charge of its tunnels; null: none.", nullable=True),
        ),
    ),
    "ports": Shown(
        "A port.",
        (
            Column("name", "text", "How the config calls it."),
            Column("device", "text", "The Linux interface; null: it has none.", nullable=True),
            Column("kind", "text", "packet, xdp, tap, internal, pcap or memory."),
            Column("faces", "list", "What is behind it: nve, core, vm."),
            Column("state", "text", "up, down, absent (no such interface) or error."),
            Column("mtu", "count", "The largest IP packet that may leave there, in bytes; 0: no limit."),
            Column(
                "transmit",
                "text",
                "How copies leave: clones, trains, xdp, packet, clones+trains, ... or none.",
            ),
            Column("why", "text", "Why they leave so, or what is wrong."),
            Column("received", "count", "Frames that came in there."),
            Column("copies_out", "count", "Copies that left there."),
            Column("ring_lost", "count", "What its receive ring had no room for: ring_full in drops."),
        ),
    ),
    "networks": Shown(
        "A virtual network of the config.",
        (
            Column("name", "text", "How the config calls it."),
            Column("vni", "count", "Its number on VXLAN."),
            Column("vsid", "count", "Its number on NVGRE; null: it can have none.", nullable=True),
            Column("encap", "text", "What its own frames carry: vxlan or nvgre."),
            Column("groups", "list", "The outer groups of its frames, those of its maps included."),
            Column("ports", "list", "The ports of its VMs."),
            Column("snoop", "switch", "Whether a group of tenants goes only to who joined it."),
            Column("unregistered", "text", "flood or drop: then what nobody joined goes to routers alone."),
            Column("igmp_to", "list", "Service nodes that get a copy of its VMs' IGMP and MLD."),
            Column(
                "routers",
                "list",
                "Where multicast routers of tenants were heard: a port, PORT/NVE, a receiver of a point's "
                "list, or overlay: behind other NVEs or devices.",
            ),
        ),
    ),
    "groups": Shown(
        "A replication list; a group that an NVE is in; at a manager, a group with its devices.",
        (
            Column("role", "text", "Whose list it is: device, replicator or nve; or manager."),
            Column("group", "text", "The group, or the number of a network's packets."),
            Column("vni", "list", "The VNIs that it carries, as far as the config names them."),
            Column(
                "tenants",
                "text",
                "The tenants' own group that it is for, or any: those that nobody joined, at a manager all "
                "of them; null: all of the network.",
                nullable=True,
            ),
            Column(
                "local",
                "list",
                "Its local members: a port, or PORT/NVE for one served by unicast; at a manager: its points.",
            ),
            Column(
                "remote",
                "list",
                "The peers that get a copy, of an NVE the group; at a manager: the devices that are in it.",
            ),
            Column(
                "via",
                "text",
                "Who planned the copies to peers: static, mesh or point; joined: the NVE is in it, and "
                "this is no list.",
            ),
            Column(
                "revision",
                "count",
                "The revision of the replication lists that it stands in; at a manager: of the store.",
            ),
            Column("frames", "count", "Frames replicated by it; null: not counted singly.", nullable=True),
        ),
    ),
    "members": Shown(
        "A local member of a group: an NVE or a VM that joined it, or what the config says.",
        (
            Column("node", "text", "How the box is called."),
            Column("port", "text", "The port that it is behind."),
            Column(
                "nve",
                "text",
                "The source of its reports, or the NVE served by unicast; null: all of the port, by config.",
                nullable=True,
            ),
            Column("mac", "text", "The MAC that its reports came from; null: it is static.", nullable=True),
            Column("network", "text", "Of a VM: its network; null: it is an NVE.", nullable=True),
            Column(
                "vni",
                "list",
                "The VNIs that the group carries, as far as the config names them; of a VM, that of its "
                "network.",
            ),
            Column("group", "text", "What it is a member of."),
            Column("mode", "text", "include: it wants sources alone; exclude: all but blocked."),
            Column("sources", "list", "Those that it named and wants."),
            Column("blocked", "list", "Those that it does not want."),
            Column("origin", "text", "Who says so: igmp, mld or static."),
            Column(
                "expires_s", "number", "Seconds until it is forgotten, unheard; null: never.", nullable=True
            ),
        ),
    ),
    "macs": Shown(
        "A station of a virtual network, and where it is: at a VM port or behind a VTEP.",
        (
            Column("vni", "count", "The VNI of its network, whatever the encapsulation."),
            Column("network", "text", "How the config calls it."),
            Column("mac", "text", "Its MAC."),
            Column("port", "text", "The VM port; null: it is behind a VTEP.", nullable=True),
            Column("vtep", "text", "The VTEP's address; null: it is at a VM port.", nullable=True),
            Column("origin", "text", "Who says so: static, by the config, or learned."),
            Column("age_s", "number", "Seconds since it was heard; null: it is static.", nullable=True),
        ),
    ),
    "tunnels": Shown(
        "A peer that gets copies, in one form; at a manager, a node that others send to.",
        (
            Column("peer", "text", "Its address."),
            Column("groups", "count", "Replication lists that it stands in."),
            Column(
                "told",
                "count",
                "Groups for which a manager named it; at that manager, those that it is in or serves.",
            ),
            Column("tunnel", "text", "nested or rewrite."),
            Column(
                "state",
                "text",
                "up, no_neighbour, no_route, down, or unreached: a point without answers; at a manager live, "
                "held or dead, as in devices.",
            ),
            Column("copies", "count", "Copies sent to it."),
            Column("bytes", "count", "Their bytes, Ethernet headers included."),
            Column("dropped", "count", "Copies for it that could not be sent."),
            Column("last_s", "number", "Seconds since the last copy; null: there was none.", nullable=True),
        ),
    ),
    "devices": Shown(
        "At a manager: a device or a replication point that it knows.",
        (
            Column("node", "text", "How it is called."),
            Column("role", "text", "device, nve or replicator."),
            Column("address", "text", "Its tunnel address."),
            Column(
                "state",
                "text",
                "live; held: it is gone, its tunnels stay for hold_s; dead: a point that gets no copies.",
            ),
            Column("manager", "text", "Who serves it; null: nobody, as of now.", nullable=True),
            Column(
                "revision_told",
                "count",
                "The store's revision that it was told of; null: not by this manager.",
                nullable=True,
            ),
            Column(
                "revision_acked",
                "count",
                "That up to which all is in force there; null: as above.",
                nullable=True,
            ),
            Column("groups", "count", "Groups that it is in, by what it said."),
            Column(
                "last_s", "number", "Seconds since it was heard; null: not by this manager.", nullable=True
            ),
        ),
    ),
    "sessions": Shown(
        "A session of a node with a manager: at a manager one a node, at a node one a role.",
        (
            Column("node", "text", "The device or point."),
            Column("role", "text", "device, nve or replicator."),
            Column("manager", "text", "Who serves it; null: nobody, as of now.", nullable=True),
            Column("state", "text", "up; or away: no manager answers."),
            Column("since_s", "number", "Seconds that it is so."),
            Column("last_s", "number", "Seconds since the other side was heard; null: never.", nullable=True),
            Column(
                "revision",
                "count",
                "The store's revision of the last instructions: told, or at a node in force.",
            ),
            Column(
                "revision_acked", "count", "That up to which all is in force; null: at a node.", nullable=True
            ),
            Column(
                "pending",
                "count",
                "Groups whose last word is not in force: untold, unacknowledged, held down.",
            ),
            Column(
                "unwritten",
                "count",
                "Groups that it said and that are not in the store; null: at a node.",
                nullable=True,
            ),
            Column(
                "refused",
                "count",
                "Groups that one side refused the other; null: at a manager.",
                nullable=True,
            ),
            Column(
                "why",
                "text",
                "At a node: why it is not up, by each manager's address; null: it is, or none was tried.",
                nullable=True,
            ),
        ),
    ),
    "drops": Shown(
        "A reason that struck. Rows of unit frame sum to dropped; messages, records and sources were punted.",
        (
            Column("reason", "text", "Its name; the README has a sentence for each."),
            Column(
                "unit",
                "text",
                "What it counts: frame, copy, ring; message, record, source (IGMP and MLD; a record is a MAC "
                "that an NVE did not learn, too); session, group, instruction, probe (managers and points).",
            ),
            Column("stage", "text", "Where it strikes."),
            Column("frames", "count", "How often it struck."),
            Column("rate_pps", "number", "How often a second, over the last second."),
            Column("last", "text", "When it struck last, UTC, to the second.", nullable=True),
        ),
    ),
    "runtime": Shown(
        "A worker and a stage of its bursts, since it began.",
        (
            Column("worker", "count", "Its number."),
            Column("cpu", "count", "The CPU it is pinned to; null: none.", nullable=True),
            Column("stage", "text", "receive, classify, replicate, ..."),
            Column("frames", "count", "Frames that the worker received."),
            Column("ns_per_frame", "number", "Time in the stage; null: no frame yet.", nullable=True),
            Column("frames_per_burst", "number", "null: no burst yet.", nullable=True),
            Column("copies_per_train", "number", "null: no train yet.", nullable=True),
            Column("clone_sends", "count", "Frames and trains handed to the kernel to be cloned."),
            Column(
                "clones_per_send", "number", "A clone is a copy or a train. null: no send yet.", nullable=True
            ),
        ),
    ),
    "config": Shown(
        "A key of the config in force, defaults included.",
        (
            Column("table", "text", "Its table: port[0] is the first [[port]]; empty: the top."),
            Column("key", "text", "Its name."),
            Column("value", "value", "What it is set to; null: not set.", nullable=True),
            Column("origin", "text", "file or default."),
        ),
    ),
}
"""Every object by its name, in the order of a help text."""


def schema() -> dict[str, Any]:
    """Describe the arrays that `-j` prints, by object, as JSON Schema."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fastpath show OBJECT -j",
        "$defs": {name: {"type": "array", "items": row_schema(shown)} for name, shown in OBJECTS.items()},
        "anyOf": [{"$ref": f"#/$defs/{name}"} for name in OBJECTS],
    }


def row_schema(shown: Shown) -> dict[str, Any]:
    """Describe one row, as JSON Schema."""
    return {
        "type": "object",
        "description": shown.row,
        "properties": {column.key: _cell_schema(column) for column in shown.columns},
        "required": list(shown.keys),
        "additionalProperties": False,
    }


def _cell_schema(column: Column) -> dict[str, Any]:
    cell = {**_TYPES[column.kind], "description": column.meaning}
    if column.nullable and isinstance(cell["type"], str):
        cell["type"] = [cell["type"], "null"]
    return cell

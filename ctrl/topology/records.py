"""How what managers know stands in the store: its keys, and values as JSON that `etcdctl get` shows readably.

1. What is encoded here is decoded here; nobody else knows the layout.
2. A value that cannot be read is `Damaged`, whoever wrote it: for the reader it is not there.
3. Second information stands in 16 shards a node: a join rewrites a sixteenth of what the node is in, and a
   store holds 160,000 values for 10,000 nodes instead of a million. What tenants want stands in 16 others: a
   shard is only so large, and no group of the node's may be refused for want of room that tenants took.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from zlib import crc32

from ctrl.topology.entry import Address, Key, Node, is_key, is_tenant

N_SHARDS = 32
"""The latter half for what tenants want."""
MAX_NETWORK = (1 << 24) - 1
_SHARDS = {f"{number:02x}": number for number in range(N_SHARDS)}
_ADDRESS_SIZES = (4, 16)
_ROLES = ("device", "replicator")

Points = tuple[str, ...]
"""Names of the points by which a group is served, in order; () is mesh."""

STABLE, PREPARE, SWITCH = "stable", "prepare", "switch"
_STAGES = (STABLE, PREPARE, SWITCH)


class Damaged(ValueError):
    """A key or a value that is not ours or was spoilt: a sentence."""


class Networks(NamedTuple):
    """What a node knows a group to carry: VNIs, and VSIDs of NVGRE; neither: it does not know."""

    vnis: tuple[int, ...] = ()
    vsids: tuple[int, ...] = ()


class Live(NamedTuple):
    """Which manager serves a node, in which of its sessions. `process`: a word like no other's, another one
    after a restart; names and numbers of sessions may be those of another one, too."""

    manager: str
    process: str
    session: int


class Mode(NamedTuple):
    """How a group is served (CONFORMANCE M12). Stable: by `next`; while it changes: by `now`, then by `next`.

    `seen`: the store revision up to which who wrote it knew the group's devices, -1 where that is no matter.
    """

    stage: str
    now: Points
    next: Points
    seen: int = -1


# --- keys ---------------------------------------------------------------------------------------------------

NODE, ADDRESS, GROUPS, LIVE, ACKED, MODE, DEAD, MOVED = (
    "node",
    "address",
    "groups",
    "live",
    "acked",
    "mode",
    "dead",
    "moved",
)


def node_key(name: str) -> str:
    """Name the record of who the node is."""
    return f"node/{name}"


def address_key(address: Address) -> str:
    """Name the record of who claims an address."""
    return f"address/{address.hex()}"


def shard_of(key: Key) -> int:
    """Say in which shard a group of a node's stands, or something that its tenants want."""
    half = N_SHARDS // 2
    return crc32(key) % half + half * is_tenant(key)


def groups_key(name: str, shard: int) -> str:
    """Name a shard of the node's second information."""
    return f"groups/{name}/{shard:02x}"


def live_key(name: str) -> str:
    """Name the leased record of who serves the node."""
    return f"live/{name}"


def acked_key(name: str) -> str:
    """Name the record of the store revision that is in force at the node."""
    return f"acked/{name}"


def mode_key(key: Key) -> str:
    """Name the record of how a group is served."""
    return f"mode/{key.hex()}"


def dead_key(name: str) -> str:
    """Name the record that a point is no candidate."""
    return f"dead/{name}"


def moved_key(token: str) -> str:
    """Name a leased record that VMs moved; `token`: of its writer's, like no other."""
    return f"moved/{token}"


def split_key(store_key: str) -> tuple[str, str]:
    """Split a store's key into what it is and of whom; of `groups` the shard is still behind the name."""
    kind, _, rest = store_key.partition("/")
    if not rest:
        raise Damaged(f"store key {store_key!r}: expected KIND/NAME")
    return kind, rest


def split_shard(rest: str) -> tuple[str, int]:
    """Split what follows `groups/` into the node's name and the shard."""
    name, _, digits = rest.rpartition("/")
    shard = _SHARDS.get(digits)
    if not name or shard is None:
        raise Damaged(f"store key groups/{rest}: expected groups/NAME/00 to groups/NAME/{N_SHARDS - 1:02x}")
    return name, shard


# --- values -------------------------------------------------------------------------------------------------


def encode_node(node: Node) -> bytes:
    """Write down who a node is."""
    return _dump(
        {
            "role": node.role,
            "address": node.address.hex(),
            "generation": node.generation,
            "tunnel": node.tunnel,
            "replicate": node.replicate.hex(),
            "vnis": [list(limits) for limits in node.vnis],
        }
        | ({"nve": True} if node.is_nve else {})
    )


def decode_node(name: str, value: bytes) -> Node:
    """Read who the node `name` is. Raises Damaged."""
    found = _load_object(value)
    role, tunnel, replicate = found.get("role"), found.get("tunnel"), found.get("replicate")
    if role not in _ROLES or not isinstance(tunnel, str):
        raise Damaged(f"node {name}: role {role!r}, tunnel {tunnel!r}; expected device or replicator, a name")
    return Node(
        name,
        role,
        _unhex(found.get("address"), _ADDRESS_SIZES),
        _number(found.get("generation")),
        tunnel,
        _unhex(replicate, _ADDRESS_SIZES) if replicate else b"",
        tuple(_range(limits) for limits in _list(found.get("vnis"))),
        found.get("nve") is True,
    )


def encode_groups(groups: Mapping[Key, tuple[Iterable[int], Iterable[int]]]) -> bytes:
    """Write down one shard of second information: the VNIs and VSIDs by group (`Networks`)."""
    return _dump(
        {
            key.hex(): [list(vnis), list(vsids)] if vnis or vsids else []
            for key, (vnis, vsids) in sorted(groups.items())
        }
    )


def decode_groups(value: bytes) -> dict[Key, Networks]:
    """Read one shard of second information. Raises Damaged."""
    try:
        return {
            _group(key): NO_NETWORKS if not nets else _networks(tuple(nets[0]), tuple(nets[1]))
            for key, nets in _load_object(value).items()
        }
    except Damaged:
        raise
    except (TypeError, ValueError, LookupError) as problem:
        raise Damaged(f"second information {value[:80]!r}: {problem}") from None


def encode_live(live: Live) -> bytes:
    """Write down who serves a node."""
    return _dump({"manager": live.manager, "process": live.process, "session": live.session})


def decode_live(value: bytes) -> Live:
    """Read who serves a node. Raises Damaged."""
    found = _load_object(value)
    manager, process = found.get("manager"), found.get("process")
    if not isinstance(manager, str) or not isinstance(process, str):
        raise Damaged(f"live record with manager {manager!r}, process {process!r}; expected two words")
    return Live(manager, process, _number(found.get("session")))


def encode_number(number: int) -> bytes:
    """Write down the value of `acked/`; of `dead/` any will do."""
    return _dump(number)


def decode_number(value: bytes) -> int:
    """Read the value of `acked/`. Raises Damaged."""
    return _number(_load(value))


def encode_name(name: str) -> bytes:
    """Write down the value of `address/`: the node that claims it."""
    return _dump(name)


def decode_name(value: bytes) -> str:
    """Read the value of `address/`. Raises Damaged."""
    name = _load(value)
    if not isinstance(name, str):
        raise Damaged(f"{name!r} given; expected a node's name")
    return name


def encode_mode(mode: Mode) -> bytes:
    """Write down how a group is served."""
    found: dict[str, Any] = {
        "stage": mode.stage,
        "now": list(mode.now) or "mesh",
        "next": list(mode.next) or "mesh",
    }
    if mode.seen >= 0:
        found["seen"] = mode.seen
    return _dump(found)


def decode_mode(value: bytes) -> Mode:
    """Read how a group is served. Raises Damaged."""
    found = _load_object(value)
    stage = found.get("stage")
    if stage not in _STAGES:
        raise Damaged(f"mode with stage {stage!r}; expected one of {', '.join(_STAGES)}")
    seen = _number(found["seen"]) if "seen" in found else -1
    return Mode(stage, _points(found.get("now")), _points(found.get("next")), seen)


def encode_moved(nves: Iterable[Address]) -> bytes:
    """Write down the NVEs to or from which VMs moved."""
    return _dump({"nves": [address.hex() for address in nves]})


def decode_moved(value: bytes) -> tuple[Address, ...]:
    """Read the NVEs to or from which VMs moved. Raises Damaged."""
    return tuple(_unhex(address, _ADDRESS_SIZES) for address in _list(_load_object(value).get("nves")))


def decode_address(text: str) -> Address:
    """Read the address of an `address/` key. Raises Damaged."""
    return _unhex(text, _ADDRESS_SIZES)


def decode_group(text: str) -> Key:
    """Read the group of a `mode/` key. Raises Damaged."""
    key = _unhex(text, _ADDRESS_SIZES)
    if key.hex() != text:
        raise Damaged(f"group {text!r}: expected {key.hex()}")
    return key


# --- parts --------------------------------------------------------------------------------------------------


@lru_cache(maxsize=65536)
def _networks(vnis: tuple[int, ...], vsids: tuple[int, ...]) -> Networks:
    """Check these numbers; the same object for all groups that carry the same."""
    for number in vnis + vsids:
        if _number(number) > MAX_NETWORK:
            raise Damaged(f"network {number}; expected 0 to {MAX_NETWORK}")
    return Networks(tuple(sorted(vnis)), tuple(sorted(vsids)))


NO_NETWORKS = Networks()


def _group(text: str) -> Key:
    key = bytes.fromhex(text)
    if len(key) not in _ADDRESS_SIZES and not is_key(key):
        raise Damaged(f"group {text!r}: expected 4 or 16 bytes in hex, or a key of tenants")
    return key


def _unhex(text: object, sizes: Iterable[int]) -> bytes:
    try:
        found = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        found = b""
    if len(found) not in sizes:
        raise Damaged(f"{text!r} given; expected hex digits of {', '.join(map(str, sizes))} bytes")
    return found


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise Damaged(f"{value!r} given; expected a number from 0")
    return value


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise Damaged(f"{value!r} given; expected a list")
    return value


def _range(value: object) -> tuple[int, int]:
    limits = _list(value)
    if len(limits) != 2 or not 0 <= _number(limits[0]) <= _number(limits[1]) <= MAX_NETWORK:
        raise Damaged(f"{value!r} given; expected the first and the last number of a range")
    return limits[0], limits[1]


def _points(value: object) -> Points:
    if value == "mesh":
        return ()
    names = _list(value)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise Damaged(f'{value!r} given; expected "mesh" or names of points')
    return tuple(names)


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _load(value: bytes) -> object:
    try:
        return json.loads(value.decode())
    except (ValueError, RecursionError) as problem:
        raise Damaged(f"{value[:80]!r} is not JSON: {problem}") from None


def _load_object(value: bytes) -> dict[str, Any]:
    found = _load(value)
    if not isinstance(found, dict):
        raise Damaged(f"{value[:80]!r} given; expected an object")
    return found

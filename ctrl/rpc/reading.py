"""From bytes to messages: every field is checked, and what is not as `fabric.proto` says is named.

Nothing raises, whatever comes: the result is a message or `Malformed`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from ctrl.rpc import fabric_pb2 as pb
from ctrl.rpc.bounds import (
    MAX_KEEPALIVE_S,
    MAX_KEYS,
    MAX_MESSAGE,
    MAX_NETWORK,
    MAX_NETWORKS,
    MAX_NUMBER,
    MAX_WHY,
    NAME,
    SIZES,
    STORE,
    TUNNELS,
)
from ctrl.rpc.messages import (
    Ack,
    FromManager,
    FromNode,
    Group,
    Groups,
    Hello,
    Instructions,
    Keepalive,
    Moved,
    PointState,
    Refused,
    Resend,
    Welcome,
)
from ctrl.topology.entry import MESH, POINT, Address, Entry, Key, Node, is_key

T = TypeVar("T")
ROLES = {pb.ROLE_DEVICE: "device", pb.ROLE_REPLICATOR: "replicator"}
_KEYS = "expected 4 or 16, or of tenants: 4 or 16, as many bytes of a group, 3 of a VNI, and 0, 4 or 16 more"
VIAS = {pb.VIA_MESH: MESH, pb.VIA_POINT: POINT}


@dataclass(frozen=True, slots=True)
class Malformed:
    """What came is no message: a sentence that names the field, what it held, and what was expected."""

    why: str


class _WrongError(Exception):
    """A field that is not as it should be: ends as `Malformed`."""


def decode_from_node(data: bytes) -> FromNode | Malformed:
    """Read what a node said."""
    return _decode(data, pb.FromNode, _FROM_NODE)


def decode_from_manager(data: bytes) -> FromManager | Malformed:
    """Read what a manager said."""
    return _decode(data, pb.FromManager, _FROM_MANAGER)


def _decode(data: bytes, made: Any, readers: Mapping[str, Callable[[Any], T]]) -> T | Malformed:
    if len(data) > MAX_MESSAGE:
        return Malformed(f"a message of {len(data)} bytes; expected up to {MAX_MESSAGE}")
    try:
        said = made.FromString(data)
    except DecodeError:
        return Malformed(f"{len(data)} bytes that are no message of fabric.proto")
    kind = said.WhichOneof("kind")
    if kind is None:
        return Malformed(f"a message of no known kind; expected one of {', '.join(readers)}")
    try:
        return readers[kind](getattr(said, kind))
    except _WrongError as wrong:
        return Malformed(f"{kind}.{wrong}")


# --- fields -------------------------------------------------------------------------------------------------


def _number(value: int, field: str) -> int:
    if value > MAX_NUMBER:
        raise _WrongError(f"{field}: {value} given; expected less than 2^63")
    return value


def _name(value: str, field: str) -> str:
    if not NAME.fullmatch(value):
        raise _WrongError(
            f"{field}: {_given(value)}; expected 1 to 64 printable ASCII characters without space and slash"
        )
    return value


def _store(value: str, field: str) -> str:
    if not STORE.fullmatch(value):
        raise _WrongError(
            f"{field}: {_given(value)}; expected up to 128 printable ASCII characters without space"
        )
    return value


def _given(value: str) -> str:
    return f"{value[:40]!a} given" + (f" ({len(value)} characters)" if len(value) > 40 else "")


def _sized(value: bytes, field: str) -> bytes:
    if len(value) not in SIZES:
        raise _WrongError(f"{field}: {len(value)} bytes given; expected 4 or 16")
    return value


def _all_sized(values: Any, field: str) -> tuple[bytes, ...]:
    if not SIZES.issuperset(map(len, values)):
        wrong = next(value for value in values if len(value) not in SIZES)
        raise _WrongError(f"{field}: one of {len(wrong)} bytes given; expected 4 or 16")
    return tuple(values)


def _key(value: bytes, field: str) -> Key:
    if len(value) not in SIZES and not is_key(value):
        raise _WrongError(f"{field}: {len(value)} bytes given; {_KEYS}")
    return value


def _keys(values: Any, field: str) -> tuple[Key, ...]:
    if not SIZES.issuperset(map(len, values)):
        wrong = next((value for value in values if not is_key(value)), None)
        if wrong is not None:
            raise _WrongError(f"{field}: one of {len(wrong)} bytes given; {_KEYS}")
    return tuple(values)


def _networks(values: Any, field: str) -> tuple[int, ...]:
    if not values:
        return ()
    if len(values) > MAX_NETWORKS:
        raise _WrongError(f"{field}: {len(values)} numbers given; expected up to {MAX_NETWORKS}")
    if max(values) > MAX_NETWORK:
        raise _WrongError(f"{field}: {max(values)} given; expected up to {MAX_NETWORK}")
    return tuple(values)


def _ranges(value: Any, field: str) -> tuple[tuple[int, int], ...]:
    if len(value.ranges) > MAX_NETWORKS:
        raise _WrongError(f"{field}: {len(value.ranges)} ranges given; expected up to {MAX_NETWORKS}")
    for each in value.ranges:
        if not each.first <= each.last <= MAX_NETWORK:
            raise _WrongError(
                f"{field}: {each.first}-{each.last} given; expected first <= last <= {MAX_NETWORK}"
            )
    return tuple((each.first, each.last) for each in value.ranges)


def _few(n: int, field: str) -> None:
    if n > MAX_KEYS:
        raise _WrongError(f"{field}: {n} keys given; expected up to {MAX_KEYS} in one message")


def _refusals(values: Any, field: str) -> tuple[tuple[Key, str], ...]:
    _few(len(values), field)
    for each in values:
        if len(each.why) > MAX_WHY or not each.why.isprintable():
            raise _WrongError(
                f"{field}.why: {_given(each.why)}; expected up to {MAX_WHY} printable characters"
            )
    return tuple((_key(each.key, f"{field}.key"), each.why) for each in values)


# --- messages -----------------------------------------------------------------------------------------------


def _hello(said: Any) -> Hello:
    role = ROLES.get(said.role)
    if role is None:
        raise _WrongError(f"role: {said.role} given; expected one of {', '.join(pb.Role.keys()[1:])}")
    if said.tunnel not in TUNNELS:
        raise _WrongError(f"tunnel: {_given(said.tunnel)}; expected one of {', '.join(TUNNELS)}")
    replicate: Address = said.replicate
    node = Node(
        _name(said.name, "name"),
        role,
        _sized(said.address, "address"),
        _number(said.generation, "generation"),
        said.tunnel,
        _sized(replicate, "replicate") if replicate else b"",
        _ranges(said.vnis, "vnis"),
        said.is_nve,
    )
    return Hello(node, _store(said.store, "store"), _number(said.revision, "revision"))


def _groups(said: Any) -> Groups:
    _few(len(said.added) + len(said.gone), "added")
    added = tuple(
        Group(
            _key(each.key, "added.key"),
            _networks(each.vnis, "added.vnis"),
            _networks(each.vsids, "added.vsids"),
        )
        for each in said.added
    )
    gone = _keys(said.gone, "gone")
    revision, base = _number(said.revision, "revision"), _number(said.base, "base")
    return Groups(revision, added, gone, base, said.is_full, said.more)


def _entry(said: Any) -> Entry:
    via = VIAS.get(said.via)
    if via is None:
        raise _WrongError(f"entries.via: {said.via} given; expected one of {', '.join(pb.Via.keys()[1:])}")
    return Entry(
        _key(said.key, "entries.key"),
        via,
        _all_sized(said.peers, "entries.peers"),
        _all_sized(said.backup, "entries.backup"),
        _all_sized(said.accept, "entries.accept"),
        _all_sized(said.onward, "entries.onward"),
        _networks(said.vnis, "entries.vnis"),
        _networks(said.vsids, "entries.vsids"),
    )


def _instructions(said: Any) -> Instructions:
    _few(len(said.entries) + len(said.removed), "entries")
    return Instructions(
        _number(said.number, "number"),
        _number(said.revision, "revision"),
        tuple(map(_entry, said.entries)),
        _keys(said.removed, "removed"),
        said.is_full,
        said.merge,
        said.more,
        _ranges(said.vnis, "vnis") if said.HasField("vnis") else None,
    )


def _welcome(said: Any) -> Welcome:
    if not 0 < said.keepalive_s <= MAX_KEEPALIVE_S:
        raise _WrongError(
            f"keepalive_s: {said.keepalive_s} given; expected more than 0, up to {MAX_KEEPALIVE_S}"
        )
    return Welcome(_name(said.manager, "manager"), _store(said.store, "store"), said.keepalive_s)


def _moved(said: Any) -> Moved:
    _few(len(said.nves), "nves")
    return Moved(_all_sized(said.nves, "nves"))


_FROM_NODE: Mapping[str, Callable[[Any], FromNode]] = {
    "hello": _hello,
    "groups": _groups,
    "ack": lambda said: Ack(_number(said.number, "number"), _refusals(said.refused, "refused")),
    "point_state": lambda said: PointState(_sized(said.address, "address"), said.is_up),
    "keepalive": lambda said: Keepalive(_number(said.number, "number")),
}
_FROM_MANAGER: Mapping[str, Callable[[Any], FromManager]] = {
    "welcome": _welcome,
    "instructions": _instructions,
    "refused": lambda said: Refused(_refusals(said.groups, "groups")),
    "resend": lambda _: Resend(),
    "moved": _moved,
    "keepalive": lambda said: Keepalive(_number(said.number, "number")),
}

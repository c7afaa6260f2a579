"""From messages to bytes, cut to the bounds that the other side checks.

1. A full state and instructions go in as many parts as it takes: all but the last say `more`.
2. A difference of second information cannot be cut: each part would need a revision of its own. Who has more
   to say than fits says its full state (`TooLarge`).
3. Reasons are told up to the bounds, and the rest is left out: the numbers count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from ctrl.rpc import fabric_pb2 as pb
from ctrl.rpc.bounds import MAX_KEYS, MAX_MESSAGE, MAX_WHY, PART
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
from ctrl.rpc.reading import ROLES, VIAS
from ctrl.topology.entry import Entry, Key

T = TypeVar("T")
_ROLE_OF = {name: number for number, name in ROLES.items()}
_VIA_OF = {name: number for number, name in VIAS.items()}
_LISTS = ("peers", "backup", "accept", "onward", "vnis", "vsids")


class TooLarge(ValueError):
    """A message that does not fit the bounds, and cannot be cut."""


def encode_from_node(message: FromNode) -> Iterator[bytes]:
    """Give its parts, one by one as they are wanted. TooLarge."""
    for part in _parts(message):
        said = pb.FromNode()
        match part:
            case Hello():
                _put_hello(said.hello, part)
            case Groups():
                _put_groups(said.groups, part)
            case Ack():
                said.ack.number = part.number
                _put_refusals(said.ack.refused, part.refused)
            case PointState():
                said.point_state.address, said.point_state.is_up = part.address, part.is_up
            case Keepalive():
                said.keepalive.number = part.number
        yield _fitting(said)


def encode_from_manager(message: FromManager) -> Iterator[bytes]:
    """Give its parts, one by one as they are wanted. TooLarge."""
    for part in _parts(message):
        said = pb.FromManager()
        match part:
            case Instructions():
                _put_instructions(said.instructions, part)
            case Welcome():
                said.welcome.manager, said.welcome.store = part.manager, part.store
                said.welcome.keepalive_s = part.keepalive_s
            case Refused():
                said.refused.SetInParent()
                _put_refusals(said.refused.groups, part.groups)
            case Resend():
                said.resend.SetInParent()
            case Moved():
                said.moved.SetInParent()
                said.moved.nves.extend(part.nves)
            case Keepalive():
                said.keepalive.number = part.number
        yield _fitting(said)


def _fitting(said: Any) -> bytes:
    data: bytes = said.SerializeToString()
    if len(data) > MAX_MESSAGE:
        raise TooLarge(f"a message ({said.WhichOneof('kind')}) of {len(data)} bytes; {MAX_MESSAGE} fit")
    return data


# --- parts --------------------------------------------------------------------------------------------------


def _parts(message: FromNode | FromManager) -> Iterable[FromNode | FromManager]:
    match message:
        case Instructions():
            return _parts_of_instructions(message)
        case Groups() if message.is_full:
            return _parts_of_state(message)
        case Groups() if len(message.added) + len(message.gone) > MAX_KEYS:
            raise TooLarge(f"{len(message.added) + len(message.gone)} keys that differ; {MAX_KEYS} fit")
        case Ack() if message.refused:
            return (replace(message, refused=_cut(message.refused, _size_of_refusal)[0]),)
        case Refused():
            return map(Refused, _cut(message.groups, _size_of_refusal))
        case Moved():
            return map(Moved, _cut(message.nves, len))
    return (message,)


def _parts_of_instructions(message: Instructions) -> Sequence[Instructions]:
    fits = len(message.entries) + len(message.removed) <= MAX_KEYS
    entries = _cut(message.entries, _size_of_entry)
    if fits and len(entries) == 1:
        return (message,)
    parts = [replace(message, entries=part, removed=(), more=True) for part in entries if part]
    parts += [
        replace(message, entries=(), removed=part, more=True) for part in _cut(message.removed, len) if part
    ]
    return (*parts[:-1], replace(parts[-1], more=message.more))


def _parts_of_state(message: Groups) -> Sequence[Groups]:
    parts = _cut(message.added, _size_of_group)
    if len(parts) == 1:
        return (message,)
    return (
        *(replace(message, added=part, more=True) for part in parts[:-1]),
        replace(message, added=parts[-1]),
    )


def _cut(values: Sequence[T], size_of: Callable[[T], int]) -> list[tuple[T, ...]]:
    """Deal values to parts of bounded number and size: at least one part, empty where there is no value."""
    parts: list[tuple[T, ...]] = []
    start = size = 0
    for at, value in enumerate(values):
        size += size_of(value) + 4
        if at - start == MAX_KEYS or (size > PART and at > start):
            parts.append(tuple(values[start:at]))
            start, size = at, size_of(value) + 4
    return [*parts, tuple(values[start:])]


def _size_of_entry(entry: Entry) -> int:
    """Not less than it takes."""
    addresses = len(entry.peers) + len(entry.backup) + len(entry.accept) + len(entry.onward)
    return 16 + len(entry.key) + 18 * addresses + 4 * (len(entry.vnis) + len(entry.vsids))


def _size_of_group(group: Group) -> int:
    return 16 + len(group.key) + 4 * (len(group.vnis) + len(group.vsids))


def _size_of_refusal(refusal: tuple[Key, str]) -> int:
    return 16 + len(refusal[0]) + 4 * min(len(refusal[1]), MAX_WHY)


# --- messages -----------------------------------------------------------------------------------------------


def _put_hello(said: Any, hello: Hello) -> None:
    node = hello.node
    said.name, said.role, said.address = node.name, _ROLE_OF[node.role], node.address
    said.generation, said.tunnel, said.replicate = node.generation, node.tunnel, node.replicate
    said.vnis.ranges.extend(pb.Range(first=first, last=last) for first, last in node.vnis)
    said.store, said.revision, said.is_nve = hello.store, hello.revision, node.is_nve


def _put_groups(said: Any, groups: Groups) -> None:
    said.revision, said.base = groups.revision, groups.base
    said.is_full, said.more = groups.is_full, groups.more
    for each in groups.added:
        group = said.added.add(key=each.key)
        if each.vnis:
            group.vnis.extend(each.vnis)
        if each.vsids:
            group.vsids.extend(each.vsids)
    said.gone.extend(groups.gone)


def _put_instructions(said: Any, told: Instructions) -> None:
    said.number, said.revision = told.number, told.revision
    said.is_full, said.merge, said.more = told.is_full, told.merge, told.more
    for each in told.entries:
        entry = said.entries.add()
        entry.key, entry.via = each.key, _VIA_OF[each.via]
        for field in _LISTS:  # most are empty, and each that is touched costs
            if values := getattr(each, field):
                getattr(entry, field).extend(values)
    said.removed.extend(told.removed)
    if told.vnis is not None:
        said.vnis.SetInParent()
        said.vnis.ranges.extend(pb.Range(first=first, last=last) for first, last in told.vnis)


def _put_refusals(said: Any, refused: Iterable[tuple[Key, str]]) -> None:
    said.extend(pb.Refusal(key=key, why=why[:MAX_WHY]) for key, why in refused)

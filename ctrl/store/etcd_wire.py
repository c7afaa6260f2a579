"""What is said to etcd's JSON gateway and what it answers, as values: no I/O.

Bytes travel as base64, 64-bit numbers as strings, and what is zero, empty or false is left out.
1. Our keys are PREFIX/KEY. A KEY that begins with a full stop is the store's own and nobody is told of it:
   `.store` says which store this is, `.writer/...` are the marks of ctrl.store.etcd_writing.
"""

from __future__ import annotations

import contextlib
import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ctrl.store.model import Item, Write

Json = Mapping[str, Any]

CANCELLED, UNKNOWN, DEADLINE, NOT_FOUND, DENIED, EXHAUSTED = 1, 2, 4, 5, 7, 8
ABORTED, INTERNAL, UNAVAILABLE, UNAUTHENTICATED = 10, 13, 14, 16
"""Status codes of gRPC that we tell apart, as the gateway names them in `code`."""
PASSING = frozenset({CANCELLED, UNKNOWN, DEADLINE, EXHAUSTED, ABORTED, INTERNAL, UNAVAILABLE})
"""After these another endpoint, or the same one later, may do what was asked; it may also have been done."""
DONE, VOID = b"done", b"void"
"""What a mark says of the transaction that it stands for."""


class Refused(Exception):
    """etcd's own answer that it will not do this: asking again would not help."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def is_login_needed(self) -> bool:
        """Whether the token is missing, forgotten (a member restarted) or older than the users' list."""
        return self.code == UNAUTHENTICATED or any(
            words in str(self) for words in ("user name is empty", "revision of auth store is old")
        )


class Mark(NamedTuple):
    """A key of one writer's own that every transaction of it changes."""

    key: str
    revision: int


def b64(data: bytes) -> str:
    return b64encode(data).decode()


def number(message: Json, name: str) -> int:
    return int(message.get(name, 0))


class Names:
    """Our keys among etcd's."""

    def __init__(self, prefix: str) -> None:
        self._prefix = f"{prefix}/".encode()
        self.all = {"key": b64(self._prefix + b"/"), "range_end": b64(prefix.encode() + b"0")}
        """From PREFIX// (after all that begins with a full stop) to the end of PREFIX/."""

    def key(self, key: str) -> str:
        return b64(self._prefix + key.encode())

    def after(self, etcd_key: str) -> str:
        return b64(b64decode(etcd_key) + b"\0")

    def range(self, start: str) -> Json:
        """All keys that begin with `start`, which ends in a slash."""
        return {"key": self.key(start), "range_end": self.key(start[:-1] + "0")}

    def item(self, kv: Json, *, is_gone: bool = False) -> Item:
        key = b64decode(kv["key"]).removeprefix(self._prefix).decode(errors="replace")
        value = None if is_gone else b64decode(kv.get("value", ""))
        return Item(key, value, number(kv, "mod_revision"))

    def items(self, events: Iterable[Json]) -> list[Item]:
        return [self.item(event["kv"], is_gone=event.get("type") == "DELETE") for event in events]

    def transaction(
        self, mark: Mark, writes: Sequence[Write], lease: str, at_s: int, *, is_repeat: bool
    ) -> Json:
        """All of these writes, or none and the revisions of what they compare, the mark's first.

        A repeat that finds another comparison than the mark's failed voids the mark: what is still under way
        of the attempts before it can then no more be done.
        """
        wanted = {pair: None for write in writes for pair in write.when.items()}
        compare = [_compare(mark.key, mark.revision), *(_compare(self.key(key), at) for key, at in wanted)]
        success: list[Json] = [_put(mark.key, DONE + b" %d" % at_s, "")]
        for write in writes:
            for key, value in write.puts.items():
                if value is None:
                    success.append({"request_delete_range": {"key": self.key(key)}})
                else:
                    success.append(_put(self.key(key), value, lease if write.is_leased else ""))
        failure: list[Json] = [{"request_range": {"key": mark.key}}]
        failure += [{"request_range": {"key": self.key(key), "keys_only": True}} for key in compared(writes)]
        if is_repeat:
            void = {"compare": compare[:1], "success": [_put(mark.key, VOID + b" %d" % at_s, "")]}
            failure.append({"request_txn": void})
        return {"compare": compare, "success": success, "failure": failure}


def compared(writes: Sequence[Write]) -> list[str]:
    """Each key that these writes compare, once, in the order of their revisions in the answer."""
    return list(dict.fromkeys(key for write in writes for key in write.when))


def found(answer: Json) -> list[Json]:
    """The key of each range of a transaction's answer; {} for one that is not there."""
    ranges = (response["response_range"] for response in answer["responses"] if "response_range" in response)
    return [(found.get("kvs") or [{}])[0] for found in ranges]


def is_done(mark: Json) -> bool:
    return b64decode(mark.get("value", "")).startswith(DONE)


def written_at_s(mark: Json) -> int:
    """When a mark was last written, by the wall clock of who wrote it; 0 where it does not say."""
    words = b64decode(mark.get("value", "")).split()
    return int(words[1]) if len(words) == 2 and words[1].isdigit() else 0


def _compare(key: str, revision: int) -> Json:
    return {"target": "MOD", "result": "EQUAL", "key": key, "mod_revision": str(revision)}


def _put(key: str, value: bytes, lease: str) -> Json:
    put = {"key": key, "value": b64(value)}
    return {"request_put": {**put, "lease": lease} if lease else put}


@contextlib.contextmanager
def understood() -> Iterator[None]:
    """Refuse what is no answer of an etcd, where it turns out while it is read."""
    try:
        yield
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise Refused(UNKNOWN, f"an answer that no etcd gives ({error!r})") from None


def read_answer(body: bytes) -> Json:
    """Read an answer, or the first message of a stream; ValueError for what etcd never says, else Refused."""
    try:
        line = json.loads(body.partition(b"\n")[0])
        error = line.get("error")
        if error is None:
            message: Json = line.get("result", line)
            str(message["header"]["cluster_id"])  # every answer says that
            return message
        if not isinstance(error, dict):  # not within a stream
            error = {**line, "grpc_code": line.get("code", UNKNOWN)}
        refused = Refused(int(error.get("grpc_code", UNKNOWN)), str(error.get("message", "")))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"no etcd answers there, but: {body[:60]!r}") from None
    raise refused

"""What IGMP and MLD say, in one vocabulary: queries and reports of any version of either.

1. Addresses are ints: 32 bits for IGMP, 128 for MLD. Whoever holds a message knows which of the two it is.
2. Versions count as IGMP's do: 1, 2, 3. MLDv1 is 2 and MLDv2 is 3, as RFC 9777 says of them.
3. An older message is told as what it means in version 3: a report of a group is IS_EX {}, a leave TO_IN {}.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple


class Kind(IntEnum):
    """A group record's type (RFC 9776 section 4.2.13, RFC 9777 section 5.2.12)."""

    IS_IN = 1
    IS_EX = 2
    TO_IN = 3
    TO_EX = 4
    ALLOW = 5
    BLOCK = 6


class Record(NamedTuple):
    """What a host says of one group. Nothing is known of `group` and `sources` but their size."""

    kind: Kind
    group: int
    sources: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """A report or a leave. `unknown` counts the records of types that we do not know, which are left out."""

    version: int
    records: tuple[Record, ...]
    unknown: int = 0


@dataclass(frozen=True, slots=True)
class Query:
    """A query: general (`group` 0), of a group, or of a group and sources.

    `response_s` is the time within which hosts answer. `suppress` is the S flag: other routers keep their
    timers. `robustness` 0 and `interval_s` 0.0: the querier does not say (version 1 and 2, or zero there).
    """

    version: int
    group: int = 0
    sources: tuple[int, ...] = ()
    response_s: float = 10.0
    suppress: bool = False
    robustness: int = 0
    interval_s: float = 0.0


Message = Query | Report


class MalformedError(ValueError):
    """Bytes that are no message: a sentence. The peer broke the protocol."""

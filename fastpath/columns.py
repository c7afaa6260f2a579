"""Very many replication lists at once, as numpy columns, on their way into the first FIB of a layout.

A module of its own, as importing numpy takes time that a box does not have before it forwards: only who has
a million lists at hand needs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastpath._fib import hash_keys
from fastpath.compiler import OUTER_GROUP_KINDS, address_words, egress_order
from fastpath.model import Egress, IPAddress


@dataclass(frozen=True, slots=True)
class Columns:
    """Many lists as numpy columns. List i has the key `keys[i]` (five uint64 words, see `key_words`) and
    the egresses
    `egresses[ids[offsets[i]:offsets[i + 1]]]`, of which the first `n_local[i]` are its local segment."""

    keys: npt.NDArray[np.uint64]
    offsets: npt.NDArray[np.uint32]
    n_local: npt.NDArray[np.uint32]
    ids: npt.NDArray[np.uint32]
    egresses: Sequence[Egress]


class Arrays(NamedTuple):
    """Columns as `Fib.with_columns` takes them."""

    keys: npt.NDArray[np.uint64]
    order: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.uint32]
    n_local: npt.NDArray[np.uint32]
    ids: npt.NDArray[np.uint32]
    number_offsets: npt.NDArray[np.uint32]
    numbers: npt.NDArray[np.uint32]


def arranged(
    columns: Columns, egress_ids: Sequence[int], numbers: Mapping[IPAddress | None, Sequence[int]]
) -> Arrays:
    """The arrays of these columns, whose egresses have the numbers `egress_ids` in the FIB; `numbers` are
    those of the networks of each group. ValueError where the columns contradict each other."""
    if len(columns.ids) and int(columns.ids.max()) >= len(egress_ids):
        raise ValueError(f"ids name egress {int(columns.ids.max())}, there are {len(egress_ids)}")
    in_order = _ordered(columns)
    hashes = np.empty(len(columns.keys), np.uint64)
    hash_keys(columns.keys, hashes)
    return Arrays(
        columns.keys,
        np.argsort(hashes, kind="stable"),
        columns.offsets,
        columns.n_local,
        np.array(egress_ids, np.uint32)[in_order] if egress_ids else in_order,
        *_number_columns(columns.keys, numbers),
    )


def _number_columns(
    keys: npt.NDArray[np.uint64], numbers_by_group: Mapping[IPAddress | None, Sequence[int]]
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """The numbers of each key's networks. Only the groups of networks are looked for: few, beside the
    keys."""
    counts = np.zeros(len(keys), np.uint32)
    rows: list[npt.NDArray[np.intp]] = []
    values: list[npt.NDArray[np.uint32]] = []
    outer = (
        np.isin(keys[:, 4] >> np.uint64(48), np.array(OUTER_GROUP_KINDS, np.uint64))
        if numbers_by_group
        else None
    )
    for group, numbers in numbers_by_group.items():
        high, low = (np.uint64(word) for word in address_words(group))
        found = np.nonzero((keys[:, 1] == low) & (keys[:, 0] == high) & outer)[0]
        counts[found] += np.uint32(len(numbers))
        rows.append(np.repeat(found, len(numbers)))
        values.append(np.tile(np.array(numbers, np.uint32), len(found)))
    offsets = np.zeros(len(keys) + 1, np.uint32)
    np.cumsum(counts, out=offsets[1:])
    if not rows:
        return offsets, np.empty(0, np.uint32)
    order = np.argsort(np.concatenate(rows), kind="stable")
    return offsets, np.concatenate(values)[order]


def _ordered(columns: Columns) -> npt.NDArray[np.uint32]:
    """`ids` with each segment of each list in `egress_order`."""
    ranks = np.empty(len(columns.egresses), np.uint64)
    ranks[sorted(range(len(ranks)), key=lambda i: egress_order(columns.egresses[i]))] = np.arange(len(ranks))
    offsets = columns.offsets.astype(np.int64)
    sizes = offsets[1:] - offsets[:-1]
    if len(columns.n_local) != len(columns.keys):
        raise ValueError(f"{len(columns.n_local)} numbers of local egresses for {len(columns.keys)} keys")
    if (
        np.any(sizes < 0)
        or len(columns.offsets) != len(columns.keys) + 1
        or int(sizes.sum()) != len(columns.ids)
    ):
        raise ValueError("offsets do not divide the ids among the keys")
    rows = np.repeat(np.arange(len(sizes), dtype=np.uint64), sizes)
    places = np.arange(len(columns.ids), dtype=np.int64) - np.repeat(offsets[:-1], sizes)
    remote = (places >= np.repeat(columns.n_local.astype(np.int64), sizes)).astype(np.uint64)
    wanted = rows << np.uint64(33) | remote << np.uint64(32) | ranks[columns.ids]
    if np.all(wanted[1:] > wanted[:-1]):
        return columns.ids
    wanted.sort()
    by_rank = np.empty(len(ranks), np.uint32)
    by_rank[ranks.astype(np.intp)] = np.arange(len(ranks), dtype=np.uint32)
    return by_rank[(wanted & np.uint64(0xFFFFFFFF)).astype(np.intp)]

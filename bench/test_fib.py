"""The FIB: a million lists compiled from columns, and one join published into what is there.

What they race is one memcpy of the FIB's size: the least that a table without shared pages would pay, at each
join as well.
"""

from __future__ import annotations

import ctypes
import gc
import os
from ipaddress import IPv4Address
from pathlib import Path

import numpy as np
import pytest

from bench.conftest import Race, timed
from bench.figures import Sample, Target
from bench.memcpy import Memcpy
from bench.traffic import FIRST_GROUP, SENDER, Bench, egress, group_keys, layout, vxlan_frames
from fastpath.columns import Columns
from fastpath.forwarder import Forwarder
from fastpath.model import Egress, Form, Owner, ReplicationList, Scope, group_key
from fastpath.ports import MemoryPort
from fastpath.reference import Reference

MILLION = 1_000_000
N_EGRESSES = 8
N_PEERS = 1000
STEP = 97
"""Coprime to the number of peers: the receivers of a list are distinct."""


def columns(n_groups: int) -> Columns:
    """Lists of 8 receivers each, in no order, after the sender's own port."""
    rng = np.random.default_rng(11)
    first = rng.integers(0, N_PEERS, n_groups, dtype=np.uint32)[:, None]
    remote = 1 + (first + np.arange(N_EGRESSES, dtype=np.uint32) * STEP) % N_PEERS
    ids = np.concatenate([np.zeros((n_groups, 1), np.uint32), remote], axis=1).astype(np.uint32)
    return Columns(
        group_keys(n_groups),
        np.arange(n_groups + 1, dtype=np.uint32) * np.uint32(1 + N_EGRESSES),
        np.ones(n_groups, np.uint32),
        ids.reshape(-1),
        (Egress(0, Form.GROUP, Owner(port=0)), *(egress(Form.NESTED, i) for i in range(N_PEERS))),
    )


def as_list(given: Columns, row: int, *more: Egress) -> ReplicationList:
    ids = given.ids[given.offsets[row] : given.offsets[row + 1]]
    egresses = tuple(given.egresses[i] for i in ids)
    n_local = int(given.n_local[row])
    key = group_key(Scope.DEVICE, IPv4Address(FIRST_GROUP + row))
    return ReplicationList(key, egresses[:n_local], (*egresses[n_local:], *more))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_compile_a_million_groups_from_columns(race: Race) -> None:
    given = columns(MILLION)
    forwarders: list[Forwarder] = []
    grown: list[float] = []
    trim = ctypes.CDLL(None).malloc_trim

    def fill() -> None:
        forwarders.append(Forwarder(layout(), [MemoryPort(1 << 12), MemoryPort(1 << 12)]))
        before = resident_bytes()
        forwarders[0].fill(given)
        grown.append((resident_bytes() - before) / MILLION)

    memcpy = Memcpy(MILLION * 109)

    def forget() -> None:
        forwarders.clear()
        gc.collect()
        trim(0)

    rounds = race(fill, memcpy, per=1, between=forget, least=3)
    n_bytes = forwarders[0].fib_bytes / MILLION
    parameters = {"groups": MILLION, "egresses": N_EGRESSES, "order": "random"}
    seconds = in_unit(rounds.ours, 1e9)
    assert rounds.rival is not None
    memcpied = in_unit(rounds.rival, 1e9)
    race.book("FIB, compile", parameters, seconds, unit="s", target=Target(2), memcpy=memcpied)
    exact = Sample(n_bytes, 0, n_bytes, n_bytes, 1)
    race.book("FIB, its own count", parameters, exact, unit="B/group", target=Target(200))
    race.book("FIB, resident growth", parameters, Sample.of(grown), unit="B/group", target=Target(200))

    source = MemoryPort()
    sink = MemoryPort()
    checked = Forwarder(layout(), [source, sink])
    checked.fill(given)
    rows = [0, 1, MILLION // 2, MILLION - 1]
    frames = vxlan_frames(64, rows, rows)
    bench = Bench(frames, 1 << 16, lists=[as_list(given, row) for row in rows])
    for row in frames:
        source.push(row.tobytes())
    assert checked.run() == len(rows)
    assert sink.take() == [data for _, data in bench.reference(len(rows))]


@pytest.mark.parametrize("n_groups", [100_000, MILLION])
def test_publish_one_join_into_many_groups(race: Race, n_groups: int) -> None:
    given = columns(n_groups)
    source, sink = MemoryPort(), MemoryPort()
    forwarder = Forwarder(layout(), [source, sink])
    forwarder.fill(given)
    newcomer = egress(Form.NESTED, N_PEERS)
    turns = iter(np.random.default_rng(5).permutation(n_groups))

    def join() -> None:
        forwarder.publish([as_list(given, int(next(turns)), newcomer)])

    rounds = race(join, Memcpy(forwarder.fib_bytes), per=1)
    # What a program without a FIB does at a change: it takes all lists once more.
    some = [as_list(given, row) for row in range(1000)]
    reference = timed(lambda: Reference(layout(), some), len(some), 1)
    race.book(
        "FIB, publish one join",
        {"groups": n_groups, "egresses": N_EGRESSES + 1},
        in_unit(rounds.ours, 1e3),
        unit="us",
        target=Target(5000),
        memcpy=None if rounds.rival is None else in_unit(rounds.rival, 1e3),
        reference=in_unit(reference, 1e3 / n_groups),
    )
    assert forwarder.n_groups == n_groups
    assert forwarder.fibs_alive == 1
    joined = int(next(turns))
    wanted = as_list(given, joined, newcomer)
    forwarder.publish([wanted])
    frames = vxlan_frames(64, [joined], [0])
    source.push(frames[0].tobytes())
    forwarder.run()
    assert sink.take() == [data for _, data in Bench(frames, 1 << 16, lists=[wanted]).reference(1)]
    assert frames[0, 26:30].tobytes() == SENDER.packed


def in_unit(sample: Sample, ns: float) -> Sample:
    """A sample of ns in a larger unit."""
    return Sample(sample.median / ns, sample.mad / ns, sample.min / ns, sample.max / ns, sample.rounds)

"""Parse, classify and look up: what a frame costs before its first copy.

Measured twice in the same rounds: by the stage's own clock, and by the time of bursts whose frames all end as
`no_receiver`, because their sender is the only member; that holds receive and the burst's own work, too.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from bench.conftest import Race, timed
from bench.figures import Sample, Target
from bench.memcpy import Memcpy
from bench.traffic import BATCH, BATCHES, Bench, egress, group_keys, receivers, vxlan_frames
from fastpath.columns import Columns
from fastpath.model import Egress, Form, Owner

N_FRAMES = 1 << 16
"""Distinct frames, where groups are hit at random: far more than the second level cache holds."""


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("n_groups", [1, 1_000, 100_000, 1_000_000])
def test_classify_frames_of_many_groups(race: Race, n_groups: int, batch: int) -> None:
    hot = n_groups == 1
    n_frames = BATCH if hot else N_FRAMES
    groups = np.random.default_rng(7).integers(0, n_groups, n_frames)
    bench = Bench(vxlan_frames(64, groups, np.arange(n_frames)), 1 << 16, batch=batch)
    offsets = np.arange(n_groups + 1, dtype=np.uint32)
    bench.forwarder.fill(
        Columns(
            group_keys(n_groups),
            offsets,
            np.ones(n_groups, np.uint32),
            np.zeros(n_groups, np.uint32),
            [Egress(0, Form.GROUP, Owner(port=0))],
        )
    )
    bench()
    drops = {row.reason.name: row.count for row in bench.forwarder.statistics().drops}
    assert drops == {"no_receiver": n_frames}

    rounds = race(bench, Memcpy(bench.frames.size), per=n_frames, reading=lambda: classify_ns(bench))
    assert rounds.read is not None
    parameters = {"groups": n_groups, "batch": batch, "frames": n_frames}
    target = Target(30) if hot and batch == BATCH else None
    if n_groups == 1_000_000 and batch == BATCH:
        target = Target(60)
    book(race, "classify", parameters, rounds.read, rounds.rival, target)
    book(race, "burst, no copies", parameters, rounds.ours, rounds.rival, None)


def test_classify_frames_that_are_replicated(race: Race) -> None:
    """The stage with all that comes before a copy, beside a replicate stage that shares its caches."""
    bench = Bench(vxlan_frames(64, 0, np.arange(BATCH)), 1 << 19, lists=[receivers(Form.NESTED, 8)])
    rounds = race(bench, Memcpy(bench.frames.size), per=BATCH, reading=lambda: classify_ns(bench))
    assert rounds.read is not None
    assert egress(Form.NESTED, 7) in bench.lists[0].remote
    reference = timed(lambda: bench.reference(64), 64, 1)
    parameters = {"groups": 1, "batch": BATCH, "frames": BATCH}
    race.book(
        "classify, then 8 copies",
        parameters,
        rounds.read,
        unit="ns/frame",
        target=Target(30),
        memcpy=rounds.rival,
        reference=reference,
    )


def classify_ns(bench: Bench) -> int:
    return next(stage.ns for stage in bench.forwarder.statistics().stages if stage.stage == "classify")


def book(
    race: Race,
    name: str,
    parameters: Mapping[str, object],
    ours: Sample,
    rival: Sample | None,
    target: Target | None,
) -> None:
    race.book(name, parameters, ours, unit="ns/frame", target=target, memcpy=rival)

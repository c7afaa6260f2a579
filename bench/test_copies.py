"""Full copies, memory to memory: each byte of each copy is written, as for ports that take single frames."""

from __future__ import annotations

import pytest

from bench.conftest import Race, timed
from bench.figures import Target
from bench.memcpy import Memcpy
from bench.traffic import BATCH, BATCHES, RECORD_SIZE, SIZES, Bench, check, copy_size, receivers, vxlan_frames
from fastpath.model import Form

TARGETS = {64: Target(2.5, of_ratio=True), 1400: Target(1.4, of_ratio=True)}
"""By size, at fan-out 50 and batch 256; hand-written C takes 2.4 and 17 ns a copy."""
REFERENCE_COPIES = 512


def copies_bench(form: Form, fan_out: int, size: int, batch: int) -> Bench:
    """256 flows of one frame each, and an arena that one round of them fills."""
    record = (RECORD_SIZE + copy_size(form, size) + 7) & ~7
    return Bench(
        vxlan_frames(size, 0, range(BATCH)),
        BATCH * fan_out * record,
        lists=[receivers(form, fan_out)],
        batch=batch,
    )


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fan_out", [1, 8, 50, 256])
def test_full_copies_against_one_memcpy(race: Race, fan_out: int, size: int, batch: int) -> None:
    run(race, Form.NESTED, fan_out, size, batch)


@pytest.mark.parametrize("size", SIZES)
def test_rewritten_copies_against_one_memcpy(race: Race, size: int) -> None:
    run(race, Form.REWRITE, 50, size, BATCH)


def run(race: Race, form: Form, fan_out: int, size: int, batch: int) -> None:
    bench = copies_bench(form, fan_out, size, batch)
    n_reference = max(1, REFERENCE_COPIES // fan_out)
    check(bench, n_reference)
    n_copies = BATCH * fan_out
    rounds = race(bench, Memcpy(n_copies * copy_size(form, size)), per=n_copies)
    sampled = fan_out in (1, 50) and batch == BATCH
    reference = timed(lambda: bench.reference(n_reference), n_reference * fan_out, 1) if sampled else None
    race.book(
        f"full copies, {form.name.lower()}",
        {"fan_out": fan_out, "size": size, "batch": batch},
        rounds.ours,
        target=TARGETS.get(size) if (form, fan_out, batch) == (Form.NESTED, 50, BATCH) else None,
        memcpy=rounds.rival,
        reference=reference,
    )

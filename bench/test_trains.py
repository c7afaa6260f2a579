"""Copies as trains: a header is patched per destination, the payload built once and shared."""

from __future__ import annotations

import pytest

from bench.conftest import Race, timed
from bench.figures import Target
from bench.memcpy import Memcpy
from bench.traffic import (
    BATCH,
    SIZES,
    TRAIN_HEAD_SIZE,
    Bench,
    check,
    copy_size,
    receivers,
    vxlan_frames,
)
from fastpath.model import Form

FAN_OUT = 50
TARGET = Target(1.5)
"""ns a copy at length 32; not of GROUP, where each destination is a port of its own, with its own payload."""


@pytest.mark.parametrize("form", [Form.NESTED, Form.REWRITE, Form.GROUP], ids=lambda form: form.name.lower())
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("length", [4, 16, 32, 128])
def test_trains_against_one_memcpy_of_their_datagrams(race: Race, form: Form, size: int, length: int) -> None:
    n_out = FAN_OUT if form is Form.GROUP else 1
    n_trains = BATCH // length + 8  # 64 KB cut the longest in pieces
    capacity = BATCH * copy_size(form, size) + n_trains * TRAIN_HEAD_SIZE * (FAN_OUT // n_out + 1)
    flows = [place // length for place in range(BATCH)]
    bench = Bench(
        vxlan_frames(size, 0, flows), capacity, n_out=n_out, lists=[receivers(form, FAN_OUT)], trains=True
    )
    check(bench, 8, trains=True)
    n_copies = BATCH * FAN_OUT
    rounds = race(bench, Memcpy(n_copies * copy_size(form, size)), per=n_copies)
    statistics = bench.forwarder.statistics()
    race.book(
        f"trains, {form.name.lower()}",
        {"fan_out": FAN_OUT, "size": size, "length": round(statistics.train_copies / statistics.trains, 1)},
        rounds.ours,
        target=TARGET if length == 32 and form is not Form.GROUP else None,
        memcpy=rounds.rival,
        reference=timed(lambda: bench.reference(8), 8 * FAN_OUT, 1) if length == 32 else None,
    )

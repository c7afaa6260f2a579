"""The FIB: a dict that never changes, however it was made, and shares what it can."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastpath._fib import Fib, hash_keys
from fastpath.columns import Columns
from fastpath.compiler import Compiler, Words, egress_order, key_words
from fastpath.model import (
    Egress,
    Encap,
    Form,
    GroupKey,
    KeyKind,
    Owner,
    ReplicationList,
    Scope,
    group_key,
    vni_key,
)
from tests.cases import box as b

RANDOM = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
PEERS = tuple(b.at_peer(b.CORE, f"10.0.{i // 200}.{i % 200}") for i in range(300))
N_CANDIDATES = 1 << 18
Answers = dict[Words, tuple[list[Egress], list[Egress]]]


def vni_words(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Key words of whole networks."""
    keys = np.zeros((len(numbers), 5), np.uint64)
    keys[:, 4] = np.uint64(KeyKind.VNI << 48) | numbers
    return keys


def crowded() -> list[GroupKey]:
    """Keys that meet: 300 of one root slot of the trie, some of them in one page behind it."""
    first = int(ip_address("239.0.0.0"))
    keys = np.zeros((N_CANDIDATES, 5), np.uint64)
    keys[:, 1] = np.uint64(0xFFFF << 32 | first) + np.arange(N_CANDIDATES, dtype=np.uint64)
    keys[:, 4] = KeyKind.GROUP << 48
    hashes = np.empty(len(keys), np.uint64)
    hash_keys(keys, hashes)
    slots, counts = np.unique(hashes >> np.uint64(46), return_counts=True)
    fullest = slots[np.argmax(counts)]
    root = np.nonzero(hashes >> np.uint64(55) == fullest >> np.uint64(9))[0]
    page = np.nonzero(hashes >> np.uint64(46) == fullest)[0]
    assert len(page) >= 5
    assert len(root) > 300
    places = [*page.tolist(), *root.tolist()[:300]]
    return [group_key(Scope.DEVICE, ip_address(first + place)) for place in dict.fromkeys(places)]


CROWDED = crowded()
GROUP, GROUP6, SOURCE = ip_address("239.1.1.1"), ip_address("ff15::ef01:101"), ip_address("10.9.8.7")
OF_EVERY_KIND = (
    vni_key(Scope.DEVICE, Encap.VXLAN, 7, GROUP, SOURCE),
    vni_key(Scope.DEVICE, Encap.VXLAN, 7, GROUP),
    vni_key(Scope.DEVICE, Encap.VXLAN, 7),
    group_key(Scope.DEVICE, GROUP, SOURCE),
    group_key(Scope.DEVICE, GROUP),
)
SCATTERED = [
    *OF_EVERY_KIND,
    *(replace(key, scope=scope) for key in OF_EVERY_KIND for scope in (Scope.REPLICATOR, Scope.NVE)),
    *(replace(key, encap=Encap.NVGRE) for key in OF_EVERY_KIND[:3]),
    *(replace(key, group=GROUP6) for key in OF_EVERY_KIND if key.group is not None),
    group_key(Scope.DEVICE, ip_address("::ef01:101")),
    group_key(Scope.DEVICE, ip_address("239.1.1.2")),
    group_key(Scope.DEVICE, GROUP, ip_address("10.9.8.6")),
    group_key(Scope.DEVICE, SOURCE, GROUP),
]


def some_list(rng: random.Random, key: GroupKey, most: int = 8) -> ReplicationList:
    chosen = rng.sample(PEERS, rng.randrange(most + 1))
    cut = rng.randrange(len(chosen) + 1)
    return ReplicationList(key, tuple(chosen[:cut]), tuple(chosen[cut:]))


def answer(one: ReplicationList) -> tuple[list[Egress], list[Egress]]:
    return sorted(one.local, key=egress_order), sorted(one.remote, key=egress_order)


def find(compiler: Compiler, fib: Fib, words: Words) -> tuple[list[Egress], list[Egress]] | None:
    found = fib.find(words)
    if found is None:
        return None
    local, remote, _ = found
    return [compiler.egresses[i] for i in local], [compiler.egresses[i] for i in remote]


def assert_answers(
    compiler: Compiler, fib: Fib, model: Mapping[GroupKey, ReplicationList], keys: Iterable[GroupKey]
):
    assert fib.n_groups == len(model)
    for key in keys:
        wanted = answer(model[key]) if key in model else None
        assert find(compiler, fib, key_words(key)) == wanted


# --- changes ------------------------------------------------------------------------------------------------


@RANDOM
@given(
    rng=st.randoms(use_true_random=False),
    crowd=st.booleans(),
    steps=st.integers(1, 12),
    burst=st.integers(1, 60),
)
def test_a_fib_is_a_dict_and_every_old_one_stays_as_it_was(rng, crowd, steps, burst):
    keys = CROWDED if crowd else SCATTERED
    compiler = Compiler(b.BOX)
    model: dict[GroupKey, ReplicationList] = {}
    kept = [(compiler.fib, dict(model))]
    for _ in range(steps):
        chosen = [rng.choice(keys) for _ in range(burst)]
        removed = [key for key in chosen if rng.randrange(3) == 0]
        lists = {key: some_list(rng, key) for key in chosen if rng.randrange(3)}
        for key in removed:
            model.pop(key, None)
        model |= lists
        kept.append((compiler.change(lists.values(), removed), dict(model)))
    for fib, then in kept:
        assert_answers(compiler, fib, then, keys)
    assert [fib.revision for fib, _ in kept] == list(range(len(kept)))


def test_a_page_splits_and_its_keys_are_found_on_both_sides():
    """Page by page through the split at 24 lists, then down to nothing."""
    compiler, model = Compiler(b.BOX), dict[GroupKey, ReplicationList]()
    for i, key in enumerate(CROWDED[:60]):
        model[key] = ReplicationList(key, (PEERS[i],))
        compiler.change([model[key]])
        assert_answers(compiler, compiler.fib, model, CROWDED[:61])
    for key in CROWDED[:60]:
        del model[key]
        compiler.change([], [key])
        assert_answers(compiler, compiler.fib, model, CROWDED[:61])


def test_memory_is_given_back_with_the_lists():
    compiler = Compiler(b.BOX)
    compiler.change([ReplicationList(key, PEERS[:8]) for key in SCATTERED])
    before = compiler.fib.memory_bytes
    some = [ReplicationList(key, PEERS[:5]) for key in CROWDED[:20]]
    compiler.change(some)
    assert compiler.fib.memory_bytes > before + 20 * (56 + 5 * 4)
    compiler.change([], [one.key for one in some])
    assert compiler.fib.memory_bytes == before


def test_a_snapshot_outlives_the_compiler_and_its_later_snapshots():
    compiler = Compiler(b.BOX)
    old = compiler.change([ReplicationList(key, (PEERS[0],)) for key in CROWDED[:100]])
    for i in range(1, 50):
        compiler.change([ReplicationList(key, (PEERS[i],)) for key in CROWDED[i : i + 5]])
    del compiler
    gc.collect()
    assert [old.find(key_words(key)) for key in CROWDED[:101]] == [([0], [], [])] * 100 + [None]


def test_in_one_change_the_last_word_counts_and_removals_go_first():
    key = CROWDED[0]
    compiler = Compiler(b.BOX)
    first, second = ReplicationList(key, (PEERS[0],)), ReplicationList(key, (), (PEERS[1],))
    compiler.change([first, second])
    assert_answers(compiler, compiler.fib, {key: second}, [key])
    compiler.change([first], [key])
    assert_answers(compiler, compiler.fib, {key: first}, [key])


@pytest.mark.parametrize("n", [0, 1, 10_000])
def test_a_list_has_any_number_of_egresses(n):
    many = [
        Egress(i % 3, Form.NESTED, Owner(address=ip_address(0x0A000000 + i)), ip_address(0x0A000000 + i))
        for i in range(n)
    ]
    one = ReplicationList(CROWDED[0], tuple(many[: n // 3]), tuple(many[n // 3 :]))
    compiler = Compiler(b.BOX)
    compiler.change([one])
    assert_answers(compiler, compiler.fib, {one.key: one}, CROWDED[:2])


def test_keys_of_every_kind_differ_in_every_part():
    """239.1.1.1, ::ef01:101 and ff15::ef01:101 end in the same bits; a source is not a group."""
    compiler = Compiler(b.BOX)
    model = {key: ReplicationList(key, (PEERS[i],)) for i, key in enumerate(SCATTERED)}
    assert len(model) == len(SCATTERED)
    compiler.change(model.values())
    assert_answers(compiler, compiler.fib, model, SCATTERED)
    for key in OF_EVERY_KIND:
        compiler.change([], [key])
        del model[key]
        assert_answers(compiler, compiler.fib, model, SCATTERED)


def test_equal_egresses_are_one_whatever_lists_they_stand_in():
    compiler = Compiler(b.BOX)
    compiler.change(ReplicationList(key, PEERS[:8]) for key in CROWDED[:50])
    assert (len(compiler.egresses), compiler.fib.n_egresses) == (8, 8)


def test_the_numbers_of_a_group_are_those_of_its_networks():
    compiler = Compiler(b.BOX)
    compiler.change([b.of_group(PEERS[0]), b.of_group(PEERS[0], group="239.9.9.9")])
    numbers = sorted((b.VNI, Encap.NVGRE << 24 | b.VSID))
    assert compiler.fib.find(key_words(group_key(Scope.DEVICE, ip_address(b.GROUP)))) == ([0], [], numbers)
    assert compiler.fib.find(key_words(group_key(Scope.DEVICE, ip_address("239.9.9.9")))) == ([0], [], [])


# --- columns ------------------------------------------------------------------------------------------------


def columns_of(lists: Iterable[ReplicationList]) -> Columns:
    """Lists as columns, egresses in the order in which they appear."""
    lists = list(lists)
    places: dict[Egress, int] = {}
    ids = [places.setdefault(e, len(places)) for one in lists for e in (*one.local, *one.remote)]
    sizes = [len(one.local) + len(one.remote) for one in lists]
    return Columns(
        np.array([key_words(one.key) for one in lists], np.uint64).reshape(-1, 5),
        np.cumsum([0, *sizes]).astype(np.uint32),
        np.array([len(one.local) for one in lists], np.uint32),
        np.array(ids, np.uint32),
        list(places),
    )


@RANDOM
@given(rng=st.randoms(use_true_random=False), crowd=st.booleans(), n=st.integers(0, 300))
def test_a_fib_from_columns_is_the_one_from_changes(rng, crowd, n):
    keys = CROWDED if crowd else SCATTERED
    lists = [some_list(rng, key) for key in rng.sample(keys, min(n, len(keys)))]
    filled, changed = Compiler(b.BOX), Compiler(b.BOX)
    filled.fill(columns_of(lists))
    changed.change(lists)
    model = {one.key: one for one in lists}
    assert_answers(filled, filled.fib, model, keys)
    words = [key_words(key) for key in keys]
    found, wanted = map(filled.fib.find, words), map(changed.fib.find, words)
    assert [one and one[2] for one in found] == [one and one[2] for one in wanted]
    more = some_list(rng, keys[0])
    model[more.key] = more
    assert_answers(filled, filled.change([more]), model, keys)


def test_columns_fill_an_empty_fib_only():
    compiler = Compiler(b.BOX)
    compiler.change([ReplicationList(CROWDED[0], (PEERS[0],))])
    with pytest.raises(ValueError, match="fills an empty FIB"):
        compiler.fill(columns_of([ReplicationList(CROWDED[1], (PEERS[0],))]))


@pytest.mark.parametrize("n", [2, 30, 250])
def test_columns_name_no_key_twice(n):
    lists = [ReplicationList(key, (PEERS[0],)) for key in CROWDED[:n]]
    compiler = Compiler(b.BOX)
    with pytest.raises(ValueError, match="a key stands twice"):
        compiler.fill(columns_of([*lists, lists[n // 2]]))
    assert compiler.fib.n_groups == 0


def spoiled(columns: Columns, changes: dict[str, Any]) -> Columns:
    arrays: dict[str, Any] = {name: np.array(value, np.uint32) for name, value in changes.items()}
    return replace(columns, **arrays)


@pytest.mark.parametrize(
    "changes",
    [
        {"offsets": [0, 2, 1, 5]},
        {"offsets": [0, 2, 3, 6]},
        {"offsets": [0, 2, 3, 4]},
        {"offsets": [1, 2, 3, 5]},
        {"offsets": [0, 2, 5]},
        {"offsets": []},
        {"n_local": [3, 1, 1]},
        {"n_local": [1, 1]},
        {"n_local": [1, 1, 1, 1]},
        {"ids": [0, 1, 2, 3, 5]},
        {"ids": [0, 1, 2, 3]},
        {"ids": []},
    ],
    ids=str,
)
def test_columns_that_contradict_each_other_are_refused(changes):
    lists = [
        ReplicationList(CROWDED[0], PEERS[:2]),
        ReplicationList(CROWDED[1], PEERS[2:3]),
        ReplicationList(CROWDED[2], PEERS[3:4], PEERS[4:5]),
    ]
    compiler = Compiler(b.BOX)
    with pytest.raises(ValueError, match=r"offsets|columns|ids|local"):
        compiler.fill(spoiled(columns_of(lists), changes))
    assert compiler.fib.n_groups == 0
    compiler.fill(columns_of(lists))
    assert_answers(compiler, compiler.fib, {one.key: one for one in lists}, CROWDED[:4])


def test_the_fib_itself_refuses_what_the_compiler_would_never_say():
    compiler = Compiler(b.BOX)
    words, table = key_words(CROWDED[0]), compiler._table
    none = np.zeros(0, np.uint32)
    with pytest.raises(ValueError, match="egress 0 is in a list, but was never set"):
        compiler.fib.with_changes(table, {}, [(words, [0], [], [], 0)])
    with pytest.raises(ValueError, match="expected 256"):
        compiler.fib.with_changes(table, {0: bytes(255)}, [])
    for place in (-1, 1 << 20):
        with pytest.raises(ValueError, match="room for 1048576 egresses"):
            compiler.fib.with_changes(table, {place: bytes(256)}, [])
    for order in ([1], [-1], [0, 0]):
        keys = np.array([words] * len(order), np.uint64)
        zeros = np.zeros(len(order) + 1, np.uint32)
        with pytest.raises(ValueError, match="with_columns"):
            compiler.fib.with_columns(
                table, {}, keys, np.array(order, np.int64), zeros, zeros[1:], none, zeros, none
            )
    one, zero = np.array([0, 1], np.uint32), np.zeros(2, np.uint32)
    rows = (np.array([words], np.uint64), np.zeros(1, np.int64), one, one[:1])
    with pytest.raises(ValueError, match="egress ids out of range"):
        compiler.fib.with_columns(table, {}, *rows, one[:1], zero, none)
    with pytest.raises(ValueError, match="n x 5 words"):
        hash_keys(np.zeros((3, 4), np.uint64), np.zeros(3, np.uint64))
    with pytest.raises(ValueError, match="n x 5 words"):
        hash_keys(np.zeros((3, 5), np.uint64), np.zeros(2, np.uint64))


def test_an_owner_stands_in_a_list_once():
    compiler = Compiler(b.BOX)
    for one in (
        ReplicationList(CROWDED[0], (PEERS[0], PEERS[0])),
        ReplicationList(CROWDED[0], (PEERS[0],), (b.at_peer(b.MIX, "10.0.0.0"),)),
    ):
        with pytest.raises(ValueError, match="twice"):
            compiler.change([one])
    assert compiler.fib.n_groups == 0


def test_a_change_that_is_refused_leaves_the_fib_as_it_was():
    compiler = Compiler(b.BOX)
    good = ReplicationList(CROWDED[0], (PEERS[0],))
    compiler.change([good])
    bad = ReplicationList(CROWDED[1], (Egress(b.CORE, Form.NESTED, Owner(address=ip_address("10.0.0.9"))),))
    with pytest.raises(ValueError, match="needs an address"):
        compiler.change([ReplicationList(CROWDED[2], (PEERS[1],)), bad], [good.key])
    assert_answers(compiler, compiler.fib, {good.key: good}, CROWDED[:3])
    later = ReplicationList(CROWDED[2], (PEERS[1], PEERS[2]))
    compiler.change([later])
    assert_answers(compiler, compiler.fib, {good.key: good, later.key: later}, CROWDED[:3])


def test_a_million_lists_of_eight_cost_less_than_200_bytes_each():
    n = 1_000_000
    rng = np.random.default_rng(4)
    ids = np.sort(rng.integers(0, 32, (n, 8), np.uint32) + np.arange(8, dtype=np.uint32) * 32, axis=1).ravel()
    columns = Columns(
        vni_words(np.arange(n, dtype=np.uint64)),
        np.arange(0, 8 * n + 1, 8).astype(np.uint32),
        np.full(n, 5, np.uint32),
        ids,
        PEERS[:256],
    )
    compiler = Compiler(b.BOX)
    compiler.fill(columns)
    assert compiler.fib.n_groups == n
    assert compiler.fib.memory_bytes <= 200 * n
    for row in rng.integers(0, n, 200).tolist():
        wanted = ids[8 * row : 8 * row + 8].tolist()
        assert compiler.fib.find((0, 0, 0, 0, KeyKind.VNI << 48 | row)) == (wanted[:5], wanted[5:], [])
    assert compiler.fib.find((0, 0, 0, 0, KeyKind.VNI << 48 | n)) is None

"""Instructions in parts, repeated, broken off with their session, in any order: always the truth."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from ctrl.roles.tunnels import Bounds
from ctrl.rpc.messages import Ack, Instructions, Keepalive
from ctrl.store.held import Held
from ctrl.topology.entry import MESH, POINT, Entry, Key
from tests.unit.instructed import Side, device, key, put

entries = st.builds(
    lambda n, via, peers, accept: Entry(key(n), via, peers, accept=accept),
    st.integers(1, 5),
    st.sampled_from([MESH, POINT]),
    st.lists(st.integers(2, 6), max_size=4, unique=True).map(lambda ns: tuple(map(device, sorted(ns)))),
    st.lists(st.integers(2, 6), max_size=2, unique=True).map(lambda ns: tuple(map(device, sorted(ns)))),
)


@st.composite
def batches(draw: st.DrawFn) -> list[list[Instructions]]:
    """A session's instructions, each in one or more parts."""
    revision = 1
    made = []
    for number in range(1, draw(st.integers(1, 6)) + 1):
        revision += draw(st.integers(0, 3))
        is_full = number == 1 or draw(st.booleans())
        words = {entry.key: entry for entry in draw(st.lists(entries, max_size=6))}
        gone = tuple(draw(st.sets(st.integers(1, 5).map(key), max_size=3)) - words.keys())
        left = list(words.values())
        cuts = sorted(draw(st.lists(st.integers(0, len(left)), max_size=3)))
        edges = [0, *cuts, len(left)]
        parts = [tuple(left[a:b]) for a, b in pairwise(edges)]
        made.append(
            [
                Instructions(
                    number,
                    revision,
                    part,
                    gone if place == 0 else (),
                    is_full=is_full,
                    more=place < len(parts) - 1,
                )
                for place, part in enumerate(parts)
            ]
        )
    return made


def truth(said: list[list[Instructions]]) -> dict[Key, Entry]:
    """What stands after these, said by the simplest means."""
    held: dict[Key, Entry] = {}
    for parts in said:
        if parts[0].is_full:
            held = {}
        for part in parts:
            for one in part.removed:
                held.pop(one, None)
        held |= {entry.key: entry for part in parts for entry in part.entries}
    return held


@settings(max_examples=200)
@given(said=batches(), data=st.data())
def test_parts_and_any_repetition_of_them_end_in_the_truth(
    said: list[list[Instructions]], data: st.DataObject
) -> None:
    """D8, M11, M9: each part may come again and so may older ones once their batch is through; each batch is
    acknowledged, senders and what is on disk are those of the entries in force."""
    side = Side(bounds=Bounds(shrink_hold_s=0))
    side.connect()
    disk = Held()
    for n, parts in enumerate(said):
        for part in parts:
            for _ in range(data.draw(st.integers(1, 3)) if part.more else 1):
                side.hear(part)
        assert Ack(parts[-1].number) in side.said()
        assert side.node.entries == truth(said[: n + 1])
        for old in data.draw(st.lists(st.sampled_from([one for some in said[: n + 1] for one in some]))):
            side.hear(old)
        disk = put(disk, side.node.take_stored())
        assert side.node.entries == truth(said[: n + 1]) == disk.entries
        named = {one for e in disk.entries.values() for one in (*e.peers, *e.accept)}
        assert side.node.senders() == named
        assert (disk.store, disk.revision) == ("s", parts[0].revision)


@settings(max_examples=200)
@given(said=batches(), data=st.data())
def test_sessions_that_break_at_any_part_end_in_the_truth(
    said: list[list[Instructions]], data: st.DataObject
) -> None:
    """M9, M11: a manager that says its newest state in full to who comes back; managers that lag change
    nothing."""
    side = Side(bounds=Bounds(shrink_hold_s=0))
    side.connect()
    newest = 0
    for n in range(len(said)):
        state = truth(said[: n + 1])
        revision = newest = said[n][0].revision
        if data.draw(st.booleans()):  # it breaks, and what came of the batch is lost with it
            for part in said[n][: data.draw(st.integers(0, len(said[n]) - 1))]:
                side.hear(replace(part, number=side.number + 1))
            side.disconnect()
            side.connect()
            lag = data.draw(st.integers(0, n))
            before = dict(side.node.entries)
            if said[lag][0].revision < side.node.revision:
                assert (
                    side.tell(*truth(said[:lag]).values(), revision=said[lag][0].revision, is_full=True)
                    is None
                )
                assert side.node.entries == before
        side.tell(*state.values(), revision=revision, is_full=True)
        assert side.node.entries == state
    assert side.node.revision == newest
    side.hear(Keepalive(side.number))
    assert side.said() == []

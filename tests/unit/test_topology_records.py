"""What stands in the store: it comes back as it was, and what is spoilt is told so."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctrl.topology import records
from ctrl.topology.entry import Node
from ctrl.topology.records import Damaged, Live, Mode, Networks

ADDRESSES = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
VNIS = st.integers(0, records.MAX_NETWORK)
NUMBERS = st.integers(0, 1 << 62)
RANGES = st.tuples(VNIS, VNIS).map(lambda pair: (min(pair), max(pair)))
NODES = st.builds(
    Node,
    name=st.text(min_size=1),
    role=st.sampled_from(["device", "replicator"]),
    address=ADDRESSES,
    generation=NUMBERS,
    tunnel=st.text(),
    replicate=ADDRESSES | st.just(b""),
    vnis=st.lists(RANGES, max_size=3).map(tuple),
    is_nve=st.booleans(),
)
NETS = st.builds(
    Networks,
    st.sets(VNIS, max_size=3).map(lambda found: tuple(sorted(found))),
    st.sets(VNIS, max_size=3).map(lambda found: tuple(sorted(found))),
)
POINTS = st.lists(st.text(min_size=1), max_size=3).map(tuple)
MODES = st.builds(Mode, st.sampled_from(["stable", "prepare", "switch"]), POINTS, POINTS, st.integers(-1, 99))


@given(NODES, st.dictionaries(ADDRESSES, NETS), MODES, st.lists(ADDRESSES), NUMBERS)
def test_all_comes_back_as_it_was_written(node, groups, mode, nves, number):
    assert records.decode_node(node.name, records.encode_node(node)) == node
    assert records.decode_groups(records.encode_groups(groups)) == groups
    assert records.decode_mode(records.encode_mode(mode)) == mode
    assert records.decode_moved(records.encode_moved(nves)) == tuple(nves)
    live = Live(node.name, "x", number)
    assert records.decode_live(records.encode_live(live)) == live
    assert records.decode_number(records.encode_number(number)) == number
    assert records.decode_name(records.encode_name(node.name)) == node.name


def test_values_are_json_that_people_can_read():
    node = Node("tor1", "device", bytes([10, 0, 0, 1]), 3)
    assert json.loads(records.encode_node(node)) == {
        "role": "device",
        "address": "0a000001",
        "generation": 3,
        "tunnel": "nested",
        "replicate": "",
        "vnis": [],
    }
    shard = {bytes([239, 1, 1, 1]): Networks((5,), ()), bytes([239, 1, 1, 2]): Networks()}
    assert records.encode_groups(shard) == b'{"ef010101":[[5],[]],"ef010102":[]}'
    assert (
        records.encode_mode(Mode("prepare", (), ("p1",))) == b'{"stage":"prepare","now":"mesh","next":["p1"]}'
    )


def test_keys_say_what_they_are_of():
    group = bytes([239, 1, 1, 1])
    assert records.split_key(records.node_key("a/b")) == ("node", "a/b")
    kind, rest = records.split_key(records.groups_key("a/b", 10))
    assert (kind, records.split_shard(rest)) == ("groups", ("a/b", 10))
    assert records.decode_group(records.split_key(records.mode_key(group))[1]) == group
    assert records.decode_address(records.split_key(records.address_key(group))[1]) == group


@pytest.mark.parametrize("rest", ["a", "a/", "/00", "a/20", "a/0", "a/0A", "a/zz", "a/-1", "a/\u0660\u0661"])
def test_a_shard_that_is_none_is_refused(rest):
    with pytest.raises(Damaged):
        records.split_shard(rest)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)
DECODERS = (
    records.decode_groups,
    records.decode_mode,
    records.decode_live,
    records.decode_number,
    records.decode_name,
    records.decode_moved,
    lambda value: records.decode_node("x", value),
)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_a_value_is_read_or_damaged_and_nothing_else(value):
    for decode in DECODERS:
        with suppress(Damaged):
            decode(value)


NODE = {
    "role": "device",
    "address": "0a000001",
    "generation": 3,
    "tunnel": "nested",
    "replicate": "",
    "vnis": [],
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("role", "manager"),
        ("address", "0a0000"),
        ("address", 7),
        ("address", ""),
        ("generation", -1),
        ("generation", True),
        ("generation", 1.5),
        ("tunnel", None),
        ("replicate", "xx"),
        ("vnis", [[5]]),
        ("vnis", [[9, 5]]),
        ("vnis", [[0, 1 << 24]]),
    ],
)
def test_a_node_with_a_spoilt_field_is_damaged(key, value):
    with pytest.raises(Damaged):
        records.decode_node("x", json.dumps(NODE | {key: value}).encode())


@pytest.mark.parametrize(
    "value",
    [
        {"ef01": []},
        {"zz": []},
        {"ef010101": [[5]]},
        {"ef010101": [[-5], []]},
        {"ef010101": [["5"], []]},
        {"ef010101": [[[5]], []]},
        {"ef010101": [[1 << 24], []]},
        {"ef010101": 7},
    ],
)
def test_second_information_with_a_spoilt_group_is_damaged(value):
    with pytest.raises(Damaged):
        records.decode_groups(json.dumps(value).encode())

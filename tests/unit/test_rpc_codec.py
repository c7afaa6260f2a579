"""Messages as bytes: there and back, whatever comes, and within the bounds of `fabric.proto`."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctrl.rpc import fabric_pb2 as pb
from ctrl.rpc.bounds import MAX_KEYS, MAX_MESSAGE, MAX_NETWORKS, PART
from ctrl.rpc.messages import (
    Ack,
    Group,
    Groups,
    Hello,
    Instructions,
    Keepalive,
    Moved,
    PointState,
    Refused,
    Resend,
    Welcome,
)
from ctrl.rpc.reading import Malformed, decode_from_manager, decode_from_node
from ctrl.rpc.writing import TooLarge, encode_from_manager, encode_from_node
from ctrl.topology.entry import ANY, AWARE, Entry, Node, tenant_key

addresses = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
keys = addresses | st.builds(
    tenant_key, addresses, st.integers(0, 0xFFFFFF), st.sampled_from((ANY, AWARE)) | addresses
)
several_keys = st.lists(keys, max_size=4).map(tuple)
several = st.lists(addresses, max_size=4).map(tuple)
numbers = st.integers(0, (1 << 63) - 1)
networks = st.lists(st.integers(0, 0xFFFFFF), max_size=4).map(tuple)
ranges = st.lists(
    st.tuples(st.integers(0, 0xFFFFFF), st.integers(0, 0xFFFFFF)).map(sorted).map(tuple), max_size=3
).map(tuple)
names = st.text("!-.0Az~", min_size=1, max_size=64)
stores = st.text("!/Az~", max_size=128)
refusals = st.lists(st.tuples(keys, st.text("aé. ", max_size=256)), max_size=3).map(tuple)
nodes = st.builds(
    Node,
    names,
    st.sampled_from(("device", "replicator")),
    addresses,
    numbers,
    st.sampled_from(("nested", "rewrite")),
    st.just(b"") | addresses,
    ranges,
    st.booleans(),
)
groups = st.builds(Group, keys, networks, networks)
entries = st.builds(
    Entry,
    keys,
    st.sampled_from(("mesh", "point")),
    several,
    several,
    several,
    several,
    networks,
    networks,
)
keepalives = st.builds(Keepalive, numbers)
from_node = st.one_of(
    st.builds(Hello, nodes, stores, numbers),
    st.builds(
        Groups,
        numbers,
        st.lists(groups, max_size=3).map(tuple),
        several_keys,
        numbers,
        st.booleans(),
        st.booleans(),
    ),
    st.builds(Ack, numbers, refusals),
    st.builds(PointState, addresses, st.booleans()),
    keepalives,
)
from_manager = st.one_of(
    st.builds(Welcome, names, stores, st.floats(0.001, 3600)),
    st.builds(
        Instructions,
        numbers,
        numbers,
        st.lists(entries, max_size=3).map(tuple),
        several_keys,
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.none() | ranges,
    ),
    st.builds(Refused, refusals),
    st.just(Resend()),
    st.builds(Moved, several),
    keepalives,
)


@given(from_node)
def test_what_a_node_says_comes_as_it_was_said(message):
    (data,) = encode_from_node(message)
    assert decode_from_node(data) == message


@given(from_manager)
def test_what_a_manager_says_comes_as_it_was_said(message):
    (data,) = encode_from_manager(message)
    assert decode_from_manager(data) == message


@given(st.binary(max_size=200), st.sampled_from((decode_from_node, decode_from_manager)))
def test_any_bytes_are_a_message_or_a_named_error(data, decode):
    read = decode(data)
    assert not isinstance(read, Malformed) or read.why


@given(from_node | from_manager, st.data())
def test_a_message_with_bytes_changed_is_a_message_or_a_named_error(message, data):
    is_of_node = isinstance(message, Hello | Groups | Ack | PointState)
    (said,) = encode_from_node(message) if is_of_node else encode_from_manager(message)
    spoiled = bytearray(said)
    for at in data.draw(st.lists(st.integers(0, len(said) - 1), max_size=4)) if said else ():
        spoiled[at] = data.draw(st.integers(0, 255))
    for decode in (decode_from_node, decode_from_manager):
        read = decode(bytes(spoiled[: data.draw(st.integers(0, len(said)))]))
        assert not isinstance(read, Malformed) or read.why


HELLO = pb.Hello(name="tor1", role=pb.ROLE_DEVICE, address=b"\x0a\0\0\x01", tunnel="nested")
ENTRY = pb.Entry(key=b"\xef\0\0\x01", via=pb.VIA_MESH)


def _of_node(**fields):
    return decode_from_node(pb.FromNode(**fields).SerializeToString())


def _of_manager(**fields):
    return decode_from_manager(pb.FromManager(**fields).SerializeToString())


def _hello(**fields):
    said = pb.Hello()
    said.CopyFrom(HELLO)
    said.MergeFrom(pb.Hello(**fields))
    return _of_node(hello=said)


def _entry(**fields):
    said = pb.Entry()
    said.CopyFrom(ENTRY)
    said.MergeFrom(pb.Entry(**fields))
    return _of_manager(instructions=pb.Instructions(entries=[said]))


def _networks(*ranges):
    return pb.Networks(ranges=[pb.Range(first=first, last=last) for first, last in ranges])


def test_the_messages_that_the_next_test_spoils_are_sound():
    assert isinstance(_hello(), Hello)
    assert isinstance(_entry(), Instructions)


@pytest.mark.parametrize(
    ("read", "why"),
    [
        (decode_from_node(b""), "a message of no known kind; expected one of hello, groups, ack, "),
        (decode_from_node(b"\xff\xff"), "2 bytes that are no message of fabric.proto"),
        (decode_from_node(bytes(MAX_MESSAGE + 1)), "a message of 1048577 bytes; expected up to 1048576"),
        (_hello(name="a/b"), "hello.name: 'a/b' given; expected 1 to 64 printable ASCII"),
        (
            _hello(name="x" * 65),
            "hello.name: 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' given (65 characters)",
        ),
        (_hello(name="a\nb"), r"hello.name: 'a\nb' given"),
        (_hello(role=7), "hello.role: 7 given; expected one of ROLE_DEVICE, ROLE_REPLICATOR"),
        (_hello(address=b"abc"), "hello.address: 3 bytes given; expected 4 or 16"),
        (_hello(replicate=b"abc"), "hello.replicate: 3 bytes given; expected 4 or 16"),
        (_hello(generation=1 << 63), "hello.generation: 9223372036854775808 given; expected less than 2^63"),
        (_hello(tunnel="gre"), "hello.tunnel: 'gre' given; expected one of nested, rewrite"),
        (_hello(vnis=_networks((9, 8))), "hello.vnis: 9-8 given; expected first <= last <= 16777215"),
        (_hello(vnis=_networks((0, 1 << 24))), "hello.vnis: 0-16777216 given"),
        (_hello(vnis=_networks(*[(1, 1)] * (MAX_NETWORKS + 1))), "hello.vnis: 4097 ranges given"),
        (_hello(store="a b"), "hello.store: 'a b' given"),
        (_of_node(groups=pb.Groups(added=[pb.Group(key=b"")])), "groups.added.key: 0 bytes given"),
        (_of_node(groups=pb.Groups(gone=[b"12345"])), "groups.gone: one of 5 bytes given"),
        (
            _of_node(groups=pb.Groups(added=[pb.Group(key=b"1234", vnis=[1 << 24])])),
            "groups.added.vnis: 16777216 given; expected up to 16777215",
        ),
        (
            _of_node(groups=pb.Groups(added=[pb.Group(key=b"1234", vsids=[1] * (MAX_NETWORKS + 1))])),
            "groups.added.vsids: 4097 numbers given; expected up to 4096",
        ),
        (
            _of_node(groups=pb.Groups(gone=[b"1234"] * (MAX_KEYS + 1))),
            "groups.added: 4097 keys given; expected up to 4096 in one message",
        ),
        (_of_node(groups=pb.Groups(base=1 << 63)), "groups.base: 9223372036854775808 given"),
        (_of_node(ack=pb.Ack(refused=[pb.Refusal(key=b"1234", why="\n")])), r"ack.refused.why: '\n' given"),
        (_of_node(ack=pb.Ack(refused=[pb.Refusal(key=b"1")])), "ack.refused.key: 1 bytes given"),
        (_of_node(point_state=pb.PointState()), "point_state.address: 0 bytes given"),
        (_of_node(keepalive=pb.Keepalive(number=1 << 63)), "keepalive.number: "),
        (_entry(key=b"123"), "instructions.entries.key: 3 bytes given"),
        (_entry(via=9), "instructions.entries.via: 9 given; expected one of VIA_MESH, VIA_POINT"),
        (_entry(peers=[b""]), "instructions.entries.peers: one of 0 bytes given"),
        (_entry(backup=[b"1"]), "instructions.entries.backup: one of 1 bytes given"),
        (_entry(accept=[b"1"]), "instructions.entries.accept: one of 1 bytes given"),
        (_entry(onward=[b"1"]), "instructions.entries.onward: one of 1 bytes given"),
        (
            _of_manager(instructions=pb.Instructions(removed=[b"1234"] * (MAX_KEYS + 1))),
            "instructions.entries: 4097 keys given",
        ),
        (
            _of_manager(welcome=pb.Welcome(manager="m1", keepalive_s=float("nan"))),
            "welcome.keepalive_s: nan given",
        ),
        (
            _of_manager(welcome=pb.Welcome(manager="m1")),
            "welcome.keepalive_s: 0.0 given; expected more than 0, up to 3600",
        ),
        (_of_manager(moved=pb.Moved(nves=[b"123"])), "moved.nves: one of 3 bytes given"),
        (
            _of_manager(refused=pb.Refused(groups=[pb.Refusal(key=b"1234")] * (MAX_KEYS + 1))),
            "refused.groups: 4097 keys given",
        ),
    ],
)
def test_a_field_that_is_not_as_published_is_named(read, why):
    assert isinstance(read, Malformed)
    assert read.why.startswith(why)


def _key(number):
    return bytes((239, *number.to_bytes(3, "big")))


def _joined(encode, decode, message):
    """Say it, and put the parts together again."""
    said = list(encode(message))
    assert all(len(data) <= PART for data in said)
    return len(said), [decode(data) for data in said]


def test_instructions_go_in_parts_that_all_but_the_last_say_more():
    entries = tuple(Entry(_key(n), "mesh", tuple(_key(n + m) for m in range(9))) for n in range(10_000))
    told = Instructions(7, 9, entries, tuple(_key(n) for n in range(5_000)), is_full=True, vnis=((1, 2),))
    n, parts = _joined(encode_from_manager, decode_from_manager, told)
    assert n > 5
    assert [part.more for part in parts] == [True] * (n - 1) + [False]
    assert {replace(part, entries=(), removed=(), more=False) for part in parts} == {
        Instructions(7, 9, is_full=True, vnis=((1, 2),))
    }
    assert tuple(entry for part in parts for entry in part.entries) == entries
    assert tuple(key for part in parts for key in part.removed) == told.removed


@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize(("n_entries", "n_removed"), [(0, 5000), (5000, 0), (4096, 1), (1, 4096), (1, 1)])
def test_no_part_has_more_keys_than_fit(more, n_entries, n_removed):
    entries = tuple(Entry(_key(n), "mesh") for n in range(n_entries))
    told = Instructions(1, 1, entries, tuple(map(_key, range(n_removed))), more=more)
    _, parts = _joined(encode_from_manager, decode_from_manager, told)
    assert [part.more for part in parts] == [True] * (len(parts) - 1) + [more]
    assert sum(len(part.entries) for part in parts) == n_entries
    assert sum(len(part.removed) for part in parts) == n_removed


def test_a_full_state_goes_in_parts():
    added = tuple(Group(_key(n), (n, n + 1)) for n in range(10_000))
    n, parts = _joined(encode_from_node, decode_from_node, Groups(3, added, is_full=True))
    assert n == 3
    assert [part.more for part in parts] == [True, True, False]
    assert tuple(group for part in parts for group in part.added) == added


def test_a_difference_that_does_not_fit_is_an_error_and_not_a_part():
    with pytest.raises(TooLarge, match="4097 keys that differ; 4096 fit"):
        list(encode_from_node(Groups(3, gone=tuple(_key(n) for n in range(4097)), base=2)))


@pytest.mark.parametrize("size", [*range(4), *range(5, 8), 9, 13, 23, 25, 37])
def test_a_key_that_is_none_is_named_wherever_it_stands(size):
    key, outer = b"\4" * size, "expected 4 or 16, or of tenants: "
    for said, where in (
        (_of_node(groups=pb.Groups(added=[pb.Group(key=key)])), "groups.added.key: "),
        (_of_node(groups=pb.Groups(gone=[b"\xef\1\1\1", key])), "groups.gone: one of "),
        (_of_node(ack=pb.Ack(refused=[pb.Refusal(key=key)])), "ack.refused.key: "),
        (_of_manager(refused=pb.Refused(groups=[pb.Refusal(key=key)])), "refused.groups.key: "),
        (_of_manager(instructions=pb.Instructions(removed=[key])), "instructions.removed: one of "),
    ):
        assert isinstance(said, Malformed)
        assert said.why.startswith(f"{where}{size} bytes given; {outer}")


def test_an_address_is_no_tenants_key():
    entry = pb.Entry(key=b"\xef\1\1\1", via=pb.VIA_MESH, peers=[tenant_key(b"\xef\1\1\1", 5, ANY)])
    read = _of_manager(instructions=pb.Instructions(entries=[entry]))
    assert isinstance(read, Malformed)
    assert read.why == "instructions.entries.peers: one of 12 bytes given; expected 4 or 16"


def test_the_longest_keys_go_in_parts_that_fit():
    longest = [tenant_key(bytes([0xFF]) * 16, n, bytes([0xFF]) * 16) for n in range(10_000)]
    told = Instructions(1, 1, tuple(Entry(key, "mesh") for key in longest), tuple(longest))
    _, parts = _joined(encode_from_manager, decode_from_manager, told)
    assert [entry.key for part in parts for entry in part.entries] == longest
    assert [key for part in parts for key in part.removed] == longest
    state = Groups(3, tuple(Group(key, (5,)) for key in longest), is_full=True)
    _, parts = _joined(encode_from_node, decode_from_node, state)
    assert [group.key for part in parts for group in part.added] == longest


def test_one_entry_too_large_for_a_message_is_an_error():
    entry = Entry(_key(1), "mesh", tuple(bytes((n >> 8, n & 255)) * 8 for n in range(60_000)))
    with pytest.raises(TooLarge, match="instructions"):
        list(encode_from_manager(Instructions(1, 1, (entry,))))


def test_a_hundred_thousand_refusals_are_told_in_parts_and_an_ack_tells_some():
    refused = tuple((_key(n), "too_many_groups" * 40) for n in range(20_000))
    _, parts = _joined(encode_from_manager, decode_from_manager, Refused(refused))
    assert sum(len(part.groups) for part in parts) == 20_000
    _, (ack,) = _joined(encode_from_node, decode_from_node, Ack(4, refused))
    assert ack.number == 4
    assert len(ack.refused) > 100

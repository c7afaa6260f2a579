"""What is said to etcd and what is made of its answers, byte for byte."""

import json
from base64 import b64decode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctrl.store import etcd_wire as wire
from ctrl.store.model import Item, Write

NAMES = wire.Names("fabric")
MARK = wire.Mark(NAMES.key(".writer/ab/0"), 7)


def test_all_keys_of_the_prefix_are_within_its_range_but_our_own():
    start, end = (b64decode(NAMES.all[name]) for name in ("key", "range_end"))
    for key in ("acked/a", "node/a", "0", "~", "\u00e9"):
        assert start <= b64decode(NAMES.key(key)) < end
    for own in (".store", ".writer/ab/0"):
        assert b64decode(NAMES.key(own)) < start
    for neighbour in (b"fabric0/node/a", b"fabric2/node/a", b"fabri/node/a"):
        assert not start <= neighbour < end
    assert not start <= b"fabric" < end


def test_a_change_is_read_with_its_key_value_and_revision():
    kv = {
        "key": NAMES.key("node/a"),
        "create_revision": "3",
        "mod_revision": "9007199254740993",
        "value": "AP8=",
    }
    gone = {"key": NAMES.key("node/a"), "mod_revision": "5"}
    assert NAMES.items([{"kv": kv}, {"type": "DELETE", "kv": gone}, {"kv": gone}]) == [
        Item("node/a", b"\x00\xff", 9007199254740993),
        Item("node/a", None, 5),
        Item("node/a", b"", 5),
    ]


def test_a_transaction_compares_each_key_once_and_reads_it_where_it_fails():
    writes = [
        Write({"node/a": b"1", "node/b": None}, when={"live/a": 3, "node/a": 0}),
        Write({"live/c": b""}, when={"live/a": 3}, is_leased=True),
    ]
    said = NAMES.transaction(MARK, writes, "99", 1000, is_repeat=False)
    compared = [(b64decode(each["key"]), each["mod_revision"]) for each in said["compare"]]
    assert compared == [(b"fabric/.writer/ab/0", "7"), (b"fabric/live/a", "3"), (b"fabric/node/a", "0")]
    assert all((each["target"], each["result"]) == ("MOD", "EQUAL") for each in said["compare"])
    mark, a, b, c = said["success"]
    assert b64decode(mark["request_put"]["value"]) == b"done 1000"
    assert a == {"request_put": {"key": NAMES.key("node/a"), "value": "MQ=="}}
    assert b == {"request_delete_range": {"key": NAMES.key("node/b")}}
    assert c == {"request_put": {"key": NAMES.key("live/c"), "value": "", "lease": "99"}}
    assert [each["request_range"]["key"] for each in said["failure"]] == [
        each["key"] for each in said["compare"]
    ]


def test_a_repeat_voids_the_mark_only_where_it_is_as_it_was():
    said = NAMES.transaction(MARK, [Write({"node/a": b"1"})], "", 1000, is_repeat=True)
    *_, last = said["failure"]
    assert last["request_txn"]["compare"] == said["compare"][:1]
    (put,) = last["request_txn"]["success"]
    assert b64decode(put["request_put"]["value"]) == b"void 1000"


@pytest.mark.parametrize(
    ("value", "is_done", "at_s"),
    [
        (b"done 1000", True, 1000),
        (b"void 12", False, 12),
        (b"", False, 0),
        (b"done", True, 0),
        (b"x y", False, 0),
    ],
)
def test_a_mark_says_what_became_of_its_transaction_and_when(value, is_done, at_s):
    mark = {"value": wire.b64(value)}
    assert (wire.is_done(mark), wire.written_at_s(mark)) == (is_done, at_s)


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (b'{"error":"no","message":"no","code":5}', wire.NOT_FOUND, "no"),
        (b'{"error":{"grpc_code":14,"http_code":503,"message":"away"}}\n', wire.UNAVAILABLE, "away"),
        (b'{"error":"bare"}', wire.UNKNOWN, ""),
    ],
)
def test_an_error_is_refused_with_its_code(body, code, message):
    with pytest.raises(wire.Refused) as caught:
        wire.read_answer(body)
    assert (caught.value.code, str(caught.value)) == (code, message)


def test_the_first_message_of_a_stream_is_what_it_answers():
    header = {"header": {"cluster_id": "1"}}
    body = b'{"result":%s}\n{"result":{}}\n' % json.dumps({**header, "TTL": "10"}).encode()
    assert wire.read_answer(body) == {**header, "TTL": "10"}
    assert wire.read_answer(json.dumps(header).encode()) == header


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"null",
        b"[]",
        b"7",
        b"{}",
        b'{"result":7}',
        b'{"header":{}}',
        b'{"error":"x","code":[]}',
    ],
)
def test_what_is_no_answer_of_an_etcd_is_said_to_be_none(body):
    with pytest.raises(ValueError, match="no etcd answers there, but"):
        wire.read_answer(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda some: (
        st.lists(some, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["error", "result", "header", "cluster_id", "kv", "key", "value", "grpc_code", "code"]
            ),
            some,
        )
    ),
    max_leaves=10,
)


@given(JSON)
def test_nothing_that_comes_raises_but_what_is_named(what):
    try:
        wire.read_answer(json.dumps(what).encode())
        with wire.understood():
            NAMES.items(what)
    except (wire.Refused, ValueError):
        pass


def test_who_is_to_log_in_again_is_told_from_who_may_not():
    assert wire.Refused(16, "etcdserver: invalid auth token").is_login_needed
    assert wire.Refused(3, "etcdserver: user name is empty").is_login_needed
    assert wire.Refused(3, "etcdserver: revision of auth store is old").is_login_needed
    assert not wire.Refused(7, "etcdserver: permission denied").is_login_needed
    assert not wire.Refused(3, "etcdserver: authentication failed").is_login_needed

"""Which store a URL names, and what is said of one that names none."""

from pathlib import Path

import pytest

from ctrl.store.opening import EtcdUrl, SqliteUrl, parse_store, state_folder


@pytest.mark.parametrize(
    ("said", "folder"),
    [(None, "/var/lib/fastpath"), ("", "/var/lib/fastpath"), ("/var/lib/a", "/var/lib/a"), ("/a:/b", "/a")],
)
def test_what_a_box_keeps_is_where_whoever_started_it_says(monkeypatch: pytest.MonkeyPatch, said, folder):
    """As systemd says it: several folders are parted by colons."""
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    if said is not None:
        monkeypatch.setenv("STATE_DIRECTORY", said)
    assert state_folder() == Path(folder)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///var/lib/fastpath/manager.db", "/var/lib/fastpath/manager.db"),
        ("sqlite:////var/lib/x.db", "/var/lib/x.db"),
        ("sqlite:///tmp/with space, 100%.db", "/tmp/with space, 100%.db"),
    ],
)
def test_a_file_is_named_by_its_absolute_path(url, path):
    assert parse_store(url) == SqliteUrl(Path(path))


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("etcd://h1", EtcdUrl((("h1", 2379),), "fastpath", is_tls=False)),
        (
            "etcds://h1:1,[2001:db8::1]:2,[::1]/a/b",
            EtcdUrl((("h1", 1), ("2001:db8::1", 2), ("::1", 2379)), "a/b", is_tls=True),
        ),
        (
            "etcd://me:p%40s:s%2f@h1:1/x/",
            EtcdUrl((("h1", 1),), "x", is_tls=False, user="me", password="p@s:s/"),
        ),
    ],
)
def test_a_cluster_is_named_by_its_hosts_and_a_prefix(url, place):
    assert parse_store(url) == place


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "expected sqlite:///PATH or etcd://"),
        ("/var/lib/x.db", "expected sqlite:///PATH or etcd://"),
        ("redis://h1", "expected sqlite:///PATH or etcd://"),
        ("sqlite://x.db", "absolute path"),
        ("sqlite:///", "absolute path"),
        ("sqlite:///tmp/", "absolute path"),
        ("etcd://", "expected HOST:PORT"),
        ("etcd:///prefix", "expected HOST:PORT"),
        ("etcd://h1,,h2", "expected HOST:PORT"),
        ("etcd://h1:port", "a port from 1 to 65535, not 'port'"),
        ("etcd://h1:0", "a port from 1 to 65535, not '0'"),
        ("etcd://h1:65536", "a port from 1 to 65535"),
        ("etcd://2001:db8::1", "in brackets"),
        ("etcd://h1:1,h1:1", "twice"),
        ("etcd://h1/x?y=z", "a prefix of plain letters"),
        ("etcd://me:with/slash@h1", "is to be written as %xx"),
        ("etcd://me@h1", "USER:PASSWORD"),
        ("etcd://me:@h1", "USER:PASSWORD"),
    ],
)
def test_a_url_of_no_store_is_refused_with_what_is_expected(url, says):
    with pytest.raises(ValueError, match=says):
        parse_store(url)


@pytest.mark.parametrize(
    "url",
    ["etcd://me:hidden@h1:x", "etcd://me:hidden@h1/a?b", "etcd://:hidden@h1", "etcd://me:hid/hidden@h1"],
)
def test_an_error_shows_no_password(url):
    with pytest.raises(ValueError) as caught:
        parse_store(url)
    assert "hidden" not in str(caught.value)


def test_a_place_shows_no_password():
    place = parse_store("etcd://me:hidden@h1")
    assert str(place) == "etcd://h1:2379/fastpath"
    assert "hidden" not in repr(place)

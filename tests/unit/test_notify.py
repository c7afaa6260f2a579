"""What the service manager reads on its socket."""

import os
import socket
import time

import pytest

from ctrl import notify


@pytest.fixture(autouse=True)
def nobody_manages_us(monkeypatch):
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def manager(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        made.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", made.getsockname())
        yield made


def test_ready_stopping_and_status_are_one_datagram_each(manager):
    notify.ready("forwarding on 2 ports")
    notify.status("1 of 2 ports is down")
    notify.stopping()
    assert manager.recv(256) == b"READY=1\nSTATUS=forwarding on 2 ports"
    assert manager.recv(256) == b"STATUS=1 of 2 ports is down"
    assert manager.recv(256) == b"STOPPING=1"


def test_a_status_stays_on_its_line_and_an_empty_one_is_not_sent(manager):
    notify.status("")
    notify.status("refused: line 3\nREADY=1")
    assert manager.recv(256) == b"STATUS=refused: line 3 READY=1"


def test_reloading_carries_the_monotonic_time_in_microseconds(manager):
    before = time.monotonic_ns() // 1000
    notify.reloading()
    first, second = manager.recv(256).decode().split("\n")
    assert first == "RELOADING=1"
    name, value = second.split("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(value) <= time.monotonic_ns() // 1000


def test_an_abstract_socket_is_reached_by_its_at_sign(monkeypatch):
    name = f"fp-notify-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name)
        notify.ready()
        assert manager.recv(256, socket.MSG_DONTWAIT) == b"READY=1"


def test_without_a_manager_nothing_happens(caplog):
    notify.ready("x")
    notify.reloading()
    notify.watchdog()
    notify.stopping()
    assert caplog.records == []


def test_a_manager_that_is_gone_is_logged_and_stops_nobody(tmp_path, monkeypatch, caplog):
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    notify.ready("forwarding")
    assert [record.message for record in caplog.records] == [
        f"service manager not told what=READY=1 socket={path} why=No such file or directory"
    ]


def test_a_manager_that_does_not_read_is_not_waited_for(manager, caplog):
    while not caplog.records:  # until its queue is full
        notify.status("x" * 1000)
    assert "Resource temporarily unavailable" in caplog.text


@pytest.mark.parametrize("watched", [str(os.getpid()), None], ids=["this_process", "any_process"])
def test_the_watchdog_is_fed_if_it_watches_us(manager, monkeypatch, watched):
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    if watched is not None:
        monkeypatch.setenv("WATCHDOG_PID", watched)
    notify.watchdog()
    assert manager.recv(256) == b"WATCHDOG=1"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"},
    ],
    ids=["none", "zero", "no_number", "another_process"],
)
def test_no_watchdog_is_not_fed(manager, monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    notify.watchdog()
    with pytest.raises(BlockingIOError):
        manager.recv(256)

"""`fastpath notify moved`: whom it names to the box, and what it says of the answer."""

from ipaddress import ip_address

import pytest
from click.testing import CliRunner

from ctrl.cli import asking, main
from tests.unit.served import served


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(asking, "SOCKETS", tmp_path)
    monkeypatch.delenv("FASTPATH_SOCKET", raising=False)
    return tmp_path / "tor1.sock"


def moved(*words):
    return CliRunner().invoke(main, ["notify", "moved", *words])


def test_it_says_how_many_of_the_nves_are_known_and_are_queried_now(path):
    """D19"""
    with served(path) as box:
        done = moved("10.1.1.2", "10.9.9.9", "10.1.1.2", "fe80::2")
        assert (done.exit_code, done.output) == (0, "1 of 3 NVEs known, and queried now\n")
        assert box.told == [ip_address(nve) for nve in ("10.1.1.2", "10.9.9.9", "fe80::2")]


def test_a_manager_says_how_many_devices_it_told(path):
    """D19, for all devices of a manager."""
    with served(path) as box:
        box.n_told = 3
        done = moved("10.9.9.9")
        assert (done.exit_code, done.output) == (0, "3 devices told\n")
        box.n_told = 1
        done = moved("10.1.1.9")
        assert (done.exit_code, done.output) == (0, "1 of 1 NVEs known, and queried now\n1 device told\n")
        box.n_told = 0
        assert (moved("10.9.9.9").exit_code, moved("10.9.9.9").output) == (1, "0 devices told\n")


def test_where_none_is_known_the_answer_is_no(path):
    with served(path):
        done = moved("10.9.9.9", "-s", str(path))
    assert (done.exit_code, done.stdout) == (1, "0 of 1 NVEs known, and queried now\n")


def test_what_is_no_address_is_told_and_nobody_is_asked(path):
    with served(path) as box:
        done = moved("10.1.1.2", "tor2")
        assert box.told == []
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == (
        "fastpath notify: tor2: no IP address of an NVE; expected one like 10.1.1.2 or fe80::2\n"
    )


def test_more_than_a_box_takes_is_misuse(path):
    with served(path):
        done = moved(*(f"10.1.{i >> 8}.{i & 255}" for i in range(5000)))
    assert done.exit_code == 2
    assert done.stderr.endswith(": the body is too long; expected up to 65536 bytes\n")


def test_without_an_nve_it_is_misuse():
    assert moved().exit_code == 2


def test_where_nobody_is_there_is_no_daemon(path):
    done = moved("10.1.1.2")
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr.startswith("fastpath notify: no daemon answers in ")

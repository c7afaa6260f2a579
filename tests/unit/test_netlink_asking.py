"""Whose turn it is to be asked for: a fake clock, no kernel."""

import errno
import logging
from ipaddress import ip_address

import pytest

from ctrl.netlink.asking import Asking
from ctrl.netlink.news import Target

ONE, TWO = (Target(3, ip_address(address).packed) for address in ("10.7.0.2", "fd07::2"))


def never(_target: Target) -> bool:
    return False


def always(_target: Target) -> bool:
    return True


def turns(asking: Asking, until: float, is_resolved=never, error: int = 0) -> list[float]:
    """List when ONE is asked for, by a clock that jumps to the next turn."""
    now, seen = 0.0, []
    while now <= until:
        due = asking.due(now, {ONE})
        if due:
            seen.append(now)
            asking.were_asked(now, due, [error] * len(due), is_resolved)
        next_at = asking.next_at()
        if next_at is None:
            break
        now = next_at
    return seen


@pytest.mark.parametrize("error", [0, errno.ENOBUFS])
def test_who_does_not_answer_is_asked_for_ever_more_rarely(error) -> None:
    asking = Asking()
    assert turns(asking, 130, error=error) == [0, 1, 3, 7, 15, 31, 61, 91, 121]
    assert (asking.asked, asking.refused) == ((0, 9) if error else (9, 0))


def test_who_answered_but_is_not_kept_is_asked_for_every_thirty_seconds() -> None:
    assert turns(Asking(), 95, is_resolved=always) == [0, 30, 60, 90]


def test_who_came_to_rest_starts_anew() -> None:
    asking = Asking()
    assert turns(asking, 10) == [0, 1, 3, 7]
    assert asking.due(11, set()) == []
    assert asking.next_at() is None
    assert asking.due(12, {ONE}) == [ONE]
    asking.were_asked(12, [ONE], [0], never)
    assert asking.next_at() == 13


def test_each_has_its_own_turn() -> None:
    asking = Asking()
    asking.were_asked(0, asking.due(0, {ONE}), [0], never)
    assert asking.due(0.5, {ONE, TWO}) == [TWO]
    asking.were_asked(0.5, [TWO], [0], never)
    assert asking.next_at() == 1
    assert asking.due(1, {ONE, TWO}) == [ONE]


def test_silence_and_refusal_are_logged_once(caplog) -> None:
    caplog.set_level(logging.INFO)
    asking = Asking()
    turns(asking, 200)
    assert [r.getMessage() for r in caplog.records] == [
        "neighbours silent count=1 first=10.7.0.2 ifindex=3 asked=3"
    ]
    caplog.clear()
    turns(Asking(), 200, error=errno.ENOBUFS)
    (record,) = caplog.records
    assert "gc_thresh3" in record.getMessage()


def test_a_refusal_after_it_went_well_is_logged_again(caplog) -> None:
    asking = Asking()
    for now, error in ((0, errno.ENETDOWN), (1, 0), (3, errno.ENETDOWN)):
        asking.were_asked(now, asking.due(now, {ONE}), [error], never)
    assert len(caplog.records) == 2


def test_without_the_capability_nobody_is_asked_for_after_one_warning(caplog) -> None:
    asking = Asking()
    assert turns(asking, 200, error=errno.EPERM) == [0]
    assert asking.is_forbidden
    assert asking.due(300, {ONE, TWO}) == []
    (record,) = caplog.records
    assert "CAP_NET_ADMIN" in record.getMessage()

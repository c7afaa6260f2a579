"""[membership] of a config: each key's bounds, and what two of them must be to each other."""

from __future__ import annotations

import pytest

from ctrl.config import Severity, parse
from ctrl.config.schema import MembershipTable
from tests.unit.marked import check_marked
from tests.unit.test_config import PORTS

SECONDS = {
    "query_interval_s": (1, 31744),
    "query_response_interval_s": (0.1, 3174.4),
    "startup_response_interval_s": (0.1, 3174.4),
    "last_member_query_interval_s": (0.1, 25.5),
}
NUMBERS = {
    "robustness": 7,
    "max_groups": 1_000_000,
    "max_groups_per_port": 1_000_000,
    "max_members_per_group": 1_000_000,
    "max_members_per_port": 10_000_000,
    "max_sources_per_group": 65_536,
    "punt_rate_pps": 1_000_000,
    "punt_burst": 1_000_000,
}
SWITCHES = ("fast_leave", "strict_headers")


def box(lines: str) -> str:
    return f"""
[device]
address = "10.0.0.1"
{PORTS}
[membership]
{lines}
"""


def test_these_are_all_keys():
    assert {*SECONDS, *NUMBERS, *SWITCHES} == set(MembershipTable.model_fields)


@pytest.mark.parametrize(
    "broken", ["nan", "inf", "-inf", "0", "-1", "1e300", '"1"', "true", "[1]", "{a = 1}"]
)
@pytest.mark.parametrize("key", SECONDS)
def test_a_time_is_a_finite_number_of_seconds_in_its_range(key: str, broken: str):
    low, high = SECONDS[key]
    (found,) = parse(box(f"{key} = {broken}")).findings
    assert (found.severity, found.line, found.key) == (Severity.ERROR, 12, f"membership.{key}")
    assert found.message.endswith(f"given; expected seconds, from {low:g} to {high:g}")


@pytest.mark.parametrize("key", SECONDS)
def test_a_time_may_be_either_end_of_its_range_and_nothing_beyond(key: str):
    low, high = SECONDS[key]
    around = {
        "query_interval_s": "startup_response_interval_s = 0.1\nquery_response_interval_s = 0.1",
        "last_member_query_interval_s": "",
    }.get(key, "query_interval_s = 31744")
    for value in (low, high):
        check_marked(box(f"{around}\n{key} = {value}"))
    for value in (low - 0.01, high + 0.01):
        check_marked(box(f"{around}\n{key} = {value}  # error: membership.{key}: {value:.2f}"[:-3]))


@pytest.mark.parametrize("broken", ["0", "-1", "1.0", "nan", '"1"', "true", "[1]", "9" * 60])
@pytest.mark.parametrize("key", NUMBERS)
def test_a_bound_is_a_whole_number_in_its_range(key: str, broken: str):
    check_marked(box(f"# error: given; expected a number from 1 to {NUMBERS[key]}\n{key} = {broken}"))
    check_marked(
        box(f"# error: given; expected a number from 1 to {NUMBERS[key]}\n{key} = {NUMBERS[key] + 1}")
    )
    check_marked(box(f"{key} = {NUMBERS[key]}"))
    check_marked(box(f"{key} = 1"))


@pytest.mark.parametrize("key", SWITCHES)
def test_a_switch_is_true_or_false(key: str):
    check_marked(box(f"{key} = 1  # error: membership.{key}: 1 given; expected true or false"))
    check_marked(box(f"{key} = true"))


@pytest.mark.parametrize("key", ["query_response_interval_s", "startup_response_interval_s"])
def test_answers_come_before_the_next_query(key: str):
    """RFC 9776 section 8.3, RFC 9777 section 9.3."""
    other = {"query_response_interval_s": "startup", "startup_response_interval_s": "query"}[key]
    for value in ("20", "20.5"):
        check_marked(
            box(
                f"query_interval_s = 20\n{other}_response_interval_s = 5\n"
                f"{key} = {value}  # error: membership.{key}: {value} given, but query_interval_s is 20"
            )
        )
    check_marked(box(f"query_interval_s = 20\n{other}_response_interval_s = 5\n{key} = 19.9"))


def test_one_wrong_time_makes_no_second_error_about_the_other():
    check_marked(
        box(
            "query_interval_s = 5\n"
            "query_response_interval_s = nan  # error: membership.query_response_interval_s: nan given"
        )
    )


def test_an_unknown_key_is_told_with_the_one_that_was_meant():
    (found,) = parse(box("robustnes = 2")).findings
    assert (found.line, found.key) == (12, "membership.robustnes")
    assert found.message.endswith('punt_rate_pps or punt_burst; did you mean "robustness"?')

"""From the data of a TOML file to a `Config`, telling every value that cannot be taken.

What is wrong is left out and the rest read again, until it holds: so the rules that follow can judge the
rest, and one run of `fastpath check` shows everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ctrl.config.finding import Path, any_of, given, nearest
from ctrl.config.report import Report
from ctrl.config.schema import TABLES, Config, find_key, keys_of
from ctrl.config.values import without_password

_ARRAYS = {
    ("port",),
    ("network",),
    ("network", "map"),
    ("nve", "mac"),
    ("device", "peer"),
    ("device", "member"),
    ("replicator", "list"),
    ("manager", "point"),
}

# With a tunnel address missing, the rest of its role can still be judged: RFC 7600's dummy address stands in.
_STAND_INS = {(role, "address"): "192.0.0.8" for role in ("nve", "device", "replicator")}


def table_name(table: tuple[str, ...]) -> str:
    """A table as its header has it."""
    if not table:
        return "the top of the file"
    if table not in TABLES or table[-1] == "addresses":
        return "an item of addresses"
    return f"[[{'.'.join(table)}]]" if table in _ARRAYS else f"[{'.'.join(table)}]"


def shape(data: Mapping[str, Any], report: Report) -> Config | None:
    """Make the config of what of `data` can be taken; None only if nothing can."""
    first = True
    while True:
        report.kept = {}
        sound = _without(data, report, ())
        try:
            return Config.model_validate(sound)
        except ValidationError as problem:
            n_left_out = len(report.left_out)
            errors = problem.errors(include_url=False)
            inside = {error["loc"][:n] for error in errors for n in range(len(error["loc"]))}
            for error in errors:
                if error["type"] == "too_short" and error["loc"] in inside:
                    continue  # only because its items could not be taken
                place = report.in_file(error["loc"])
                is_missing = error["type"] == "missing"
                if first:
                    report.findings += _told(place, error, data, report)
                if _names(place) in _STAND_INS and isinstance(data.get(str(place[0])), dict):
                    report.leave_out(place)
                else:
                    report.leave_out(_reachable(data, place[:-1] if is_missing else place))
            if len(report.left_out) == n_left_out or () in report.left_out:
                return None
            first = False


def _without(value: Any, report: Report, place: Path) -> Any:
    """A copy of `value` without what is left out; `report.kept` gets the lists whose places move."""
    if place not in report.around or not isinstance(value, dict | list):
        return value
    if isinstance(value, dict):
        stand_ins = {
            path[-1]: address
            for path, address in _STAND_INS.items()
            if path[:-1] == place and path in report.left_out
        }
        return stand_ins | {
            name: _without(item, report, (*place, name))
            for name, item in value.items()
            if (*place, name) not in report.left_out
        }
    kept = [i for i in range(len(value)) if (*place, i) not in report.left_out]
    report.kept[place] = kept
    return [_without(value[i], report, (*place, i)) for i in kept]


def _reachable(data: Any, place: Path) -> Path:
    """As much of `place` as the data has: an address in a list stands for a table that is not in the file."""
    for n_parts, part in enumerate(place):
        if isinstance(part, int):
            inside = isinstance(data, list) and part < len(data)
        else:
            inside = isinstance(data, dict) and part in data
        if not inside:
            return place[:n_parts]
        data = data[part]
    return place


def _told(place: Path, error: Any, data: Any, report: Report) -> list[Any]:
    """The finding for one of pydantic's errors, in our words."""
    apart = Report(report.file, report.lines)  # without `kept`: the place is already one of the file
    if error["type"] == "missing":
        found = find_key(place)
        apart.error(place, f"missing; expected {found.legal}" if found else "missing")
    elif error["type"] == "extra_forbidden":
        apart.error(place, _unknown(place))
    else:
        apart.error(_reachable(data, place), _refused(place, error))
    return apart.findings


def _unknown(place: Path) -> str:
    table = _names(place[:-1])
    word = place[-1]
    legal = [k.name for k in keys_of(table)]
    message = f"unknown key; {table_name(table)} takes {any_of(legal)}"
    hint = nearest(word, legal)
    if hint:
        return f'{message}; did you mean "{hint}"?'
    every = {k.name: k for other in TABLES for k in keys_of(other)}
    hint = nearest(word, list(every))
    if hint is None:
        return message
    homes = [table_name(other) for other in TABLES if any(k.name == hint for k in keys_of(other))]
    return f'{message}; did you mean "{hint}" of {any_of(homes)}?'


def _names(place: Path) -> tuple[str, ...]:
    return tuple(part for part in place if isinstance(part, str))


def _refused(place: Path, error: Any) -> str:
    context = error.get("ctx", {})
    value = error["input"]
    if isinstance(value, dict) and set(value) == {"address"}:
        value = value["address"]
    message = given(without_password(value) if isinstance(value, str) else value)
    why = context.get("why", "")
    message += f" {why}" if why else " given"
    found = find_key(place)
    hint: str | None = context.get("hint")
    if found:
        message += f"; expected {found.legal}"
        hint = hint or nearest(value, found.words)
    return f'{message}; did you mean "{hint}"?' if hint else message

"""The config in force, key by key, defaults included: what `fastpath show config` shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ctrl.config.finding import Path, key_name
from ctrl.config.schema import TABLES, Config, Table


def config_rows(config: Config) -> Iterator[dict[str, Any]]:
    """Give each key with its value; `table` is named as findings name it: port[0] is the first [[port]]."""
    for row in _rows(config, ()):
        if (row["table"], row["key"]) == ("control", "socket"):
            row["value"] = config.control_socket
        if (row["table"], row["key"]) == ("nve", "send_to"):
            row["value"] = row["value"] or "group"
        yield row


def _rows(table: Table, place: Path) -> Iterator[dict[str, Any]]:
    names = tuple(part for part in place if isinstance(part, str))
    inside: list[tuple[Path, Table]] = []
    for attribute, field in type(table).model_fields.items():
        value, key = getattr(table, attribute), field.alias or attribute
        if (*names, key) not in TABLES:
            origin = "file" if attribute in table.model_fields_set else "default"
            yield {"table": key_name(place), "key": key, "value": _value(value), "origin": origin}
        elif isinstance(value, tuple):
            inside += [((*place, key, i), item) for i, item in enumerate(value)]
        elif value is not None:
            inside.append(((*place, key), value))
    for path, item in inside:
        yield from _rows(item, path)


def _value(value: object) -> object:
    if isinstance(value, tuple):
        return [_text(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    return _text(value)


def _text(value: object) -> str:
    if isinstance(value, tuple):  # a range of VNIs
        return str(value[0]) if value[0] == value[1] else f"{value[0]}-{value[1]}"
    return value.hex(":") if isinstance(value, bytes) else str(value)

"""What is said about a config file: findings, each one line that grep and editors understand."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

Path = tuple[str | int, ...]
"""Where a key stands: table and key names, and places in lists counted from 0."""

_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_LONGEST_GIVEN = 60


class Severity(Enum):
    """An error keeps the config from being used, a warning does not."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to say about one key. `line` counts from 1; 0 speaks of a file that cannot be read at all."""

    severity: Severity
    file: str
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        key = f"{self.key}: " if self.key else ""
        return f"{place}: {self.severity.value}: {key}{self.message}"


class ConfigError(Exception):
    """The config cannot be used; `findings` has every error, and the warnings beside them."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings: tuple[Finding, ...] = tuple(findings)
        super().__init__("\n".join(map(str, self.findings)))


def key_name(path: Path) -> str:
    """Write a path as an operator would: `port[0].mac`; the places are those of the `-j` output and of jq."""
    name = ""
    for part in path:
        if isinstance(part, int):
            name += f"[{part}]"
        else:
            bare = part and _BARE.issuperset(part)
            name += ("." if name else "") + (part if bare else given(part))
    return name


def given(value: object) -> str:
    """Write a value as the file has it, on one line and not too long."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        short = value if len(value) <= _LONGEST_GIVEN else value[: _LONGEST_GIVEN - 3] + "..."
        return json.dumps(short)
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        if any(isinstance(item, dict | list | tuple) for item in value):
            return "a list of tables or lists"
        text = f"[{', '.join(given(item) for item in value[:8])}{', ...' if len(value) > 8 else ''}]"
        return text if len(text) <= 2 * _LONGEST_GIVEN else "a list"
    if isinstance(value, int) and value.bit_length() > 128:
        return "a huge number"
    return str(value)


def nearest(word: object, legal: Sequence[str]) -> str | None:
    """The legal word that `word` was probably meant to be."""
    if not isinstance(word, str):
        return None
    lower = word.lower()[:_LONGEST_GIVEN].replace("-", "_")
    by_lower = {w.lower(): w for w in legal}
    if lower in by_lower:
        return by_lower[lower]
    close = difflib.get_close_matches(lower, by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def any_of(words: Sequence[str]) -> str:
    """Join words for a sentence: `a, b or c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"

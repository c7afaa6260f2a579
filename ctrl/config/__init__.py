"""The config file: read, checked as a whole, and told about with file, line and key.

`read` is for who lives by a config on this box, `check` for who wants to know what is wrong with one. `load`
is for who looks at a config that may be another box's: what other files it names is no matter then.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path as FilePath

from ctrl.config.finding import ConfigError, Finding, Severity
from ctrl.config.positions import scan
from ctrl.config.report import Report
from ctrl.config.rules_layout import check_layout
from ctrl.config.rules_manager import check_manager
from ctrl.config.rules_nve import check_nve
from ctrl.config.rules_roles import check_roles
from ctrl.config.schema import Config, TlsTable
from ctrl.config.shape import shape

__all__ = ["Config", "ConfigError", "Finding", "Reading", "Severity", "check", "load", "parse", "read"]

_MAX_SIZE = 64 << 20
_AT_LINE = re.compile(r" ?\(at line (\d+), column (\d+)\)$")


@dataclass(frozen=True, slots=True)
class Reading:
    """What became of a file: `config` is None if there are errors among `findings`."""

    config: Config | None
    findings: tuple[Finding, ...]


def load(path: str | os.PathLike[str]) -> Config:
    """Read a config file by itself, or raise ConfigError with everything that is wrong with it."""
    reading = _read(path, is_here=False)
    if reading.config is None:
        raise ConfigError(reading.findings)
    return reading.config


def check(path: str | os.PathLike[str]) -> list[Finding]:
    """Find all errors and warnings of a config file, in the order of its lines."""
    return list(read(path).findings)


def read(path: str | os.PathLike[str]) -> Reading:
    """Read a config file with all that there is to say about it; never raises for what the file is or
    holds. The files that it names are looked for, and their paths are those from here."""
    return _read(path, is_here=True)


def _read(path: str | os.PathLike[str], *, is_here: bool) -> Reading:
    file = os.fspath(path)
    shown = file.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    try:
        with FilePath(file).open("rb") as stream:
            raw = stream.read(_MAX_SIZE + 1)
    except (OSError, ValueError) as problem:
        why = (problem.strerror if isinstance(problem, OSError) else None) or str(problem)
        return _unread(shown, 0, f"cannot be read: {why}")
    if len(raw) > _MAX_SIZE:
        return _unread(shown, 0, f"is larger than {_MAX_SIZE >> 20} MB; expected a TOML file")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = raw.count(b"\n", 0, problem.start) + 1
        return _unread(shown, line, f"byte 0x{raw[problem.start]:02x} given; expected UTF-8 text")
    return parse(text, shown, FilePath(file).parent if is_here else None)


def parse(text: str, file: str = "<config>", folder: FilePath | None = None) -> Reading:
    """Read a config from its text; `file` is how findings call it, `folder` where the files are that it
    names: None if they are not to be looked for."""
    try:
        data = tomllib.loads(text)
    except RecursionError:
        return _unread(file, 1, "is nested too deeply; expected a TOML file")
    except ValueError as problem:  # TOMLDecodeError, and what int() and datetime() refuse
        return _unread(file, *_syntax(str(problem), text))
    report = Report(file, scan(text))
    config = shape(data, report)
    if config is not None:
        check_layout(config, report)
        check_roles(config, report, frozenset(data))
        check_nve(config, report)
        check_manager(config, report, folder)
        if folder and config.tls:
            config = config.model_copy(update={"tls": _placed(config.tls, folder)})
    return Reading(None if report.has_errors() else config, tuple(report.sorted()))


def _placed(tls: TlsTable, folder: FilePath) -> TlsTable:
    """The same files, by paths that hold wherever the process is."""
    paths = {name: str((folder / getattr(tls, name)).absolute()) for name in type(tls).model_fields}
    return tls.model_copy(update=paths)


def _unread(file: str, line: int, message: str) -> Reading:
    return Reading(None, (Finding(Severity.ERROR, file, line, "", message),))


def _syntax(message: str, text: str) -> tuple[int, str]:
    """The line and our sentence for a message of tomllib's."""
    found = _AT_LINE.search(message)
    if found:
        return int(found[1]), f"not TOML, at column {found[2]}: {message[: found.start()]}"
    n_lines = text.rstrip("\n").count("\n") + 1
    if message.endswith("(at end of document)"):
        return n_lines, f"not TOML, at the end of the file: {message.removesuffix(' (at end of document)')}"
    return 1, f"not TOML: {message}"

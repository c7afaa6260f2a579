"""On which line each key of a TOML file stands: tomllib gives the values, but no positions.

The scanner reads only what tomllib has accepted, so it need not tell right from wrong: it follows keys,
headers and values and steps over the rest. Its law, held by a property test: on every document that tomllib
accepts, it names exactly the paths of the data that tomllib returns. On anything else it ends all the same,
with some paths.
"""

from __future__ import annotations

import contextlib
import re
import tomllib
from bisect import bisect_right

from ctrl.config.finding import Path

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
# A quote that ends a multi-line string may be preceded by two more that belong to it, hence {3,5}.
_STRINGS = (
    r'"""(?:[^"\\]|\\.|"(?!""))*"{3,5}',
    r"'''(?:[^']|'(?!''))*'{3,5}",
    r'"(?:[^"\\\n]|\\.)*"',
    r"'[^'\n]*'",
)
_STRING = re.compile("|".join(_STRINGS), re.DOTALL)
_SCALAR = re.compile(r"[^,\]}#\r\n]+")


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Path, int] = {(): 1}
        self.sizes: dict[Path, int] = {}
        """Arrays of tables: how many tables each has so far."""
        self._newlines = [match.start() for match in re.finditer("\n", text)]

    def line(self) -> int:
        return bisect_right(self._newlines, self.at - 1) + 1

    def peek(self, what: str) -> bool:
        return self.text.startswith(what, self.at)

    def take(self, what: str) -> bool:
        found = self.peek(what)
        self.at += len(what) if found else 0
        return found

    def blank(self) -> None:
        match = _BLANK.match(self.text, self.at)
        self.at = match.end() if match else self.at

    def document(self) -> None:
        table: Path = ()
        while True:
            self.blank()
            start = self.at
            if start >= len(self.text):
                return
            if self.peek("["):
                table = self.header()
            else:
                self.pair(table)
            if self.at == start:
                self.at += 1  # not TOML: step on, so as to end

    def header(self) -> Path:
        line = self.line()
        array = self.take("[[")
        if not array:
            self.take("[")
        names = self.dotted()
        self.take("]]" if array else "]")
        path: Path = ()
        for i, name in enumerate(names):
            path = (*path, name)
            last = i == len(names) - 1
            if last and array:
                self.sizes[path] = self.sizes.get(path, 0) + 1
            if last:
                self.lines[path] = self.lines.get(path, line) if array else line
            else:
                self.lines.setdefault(path, line)
            if path in self.sizes:
                path = (*path, self.sizes[path] - 1)
                self.lines.setdefault(path, line)
        return path

    def dotted(self) -> list[str]:
        names = []
        while True:
            self.blank()
            names.append(self.name())
            self.blank()
            if not self.take("."):
                return names

    def name(self) -> str:
        quoted = _STRING.match(self.text, self.at)
        if quoted:
            self.at = quoted.end()
            try:
                return str(tomllib.loads(f"k = {quoted.group()}")["k"])  # every escape, as tomllib reads it
            except ValueError:
                return quoted.group()
        bare = _BARE_KEY.match(self.text, self.at)
        self.at = bare.end() if bare else self.at
        return bare.group() if bare else ""

    def pair(self, table: Path) -> None:
        line = self.line()
        path = table
        for name in self.dotted():
            path = (*path, name)
            self.lines.setdefault(path, line)
        self.take("=")
        self.value(path)

    def value(self, path: Path) -> None:
        self.blank()
        if self.take("["):
            self.items(path)
        elif self.take("{"):
            self.inline(path)
        else:
            match = _STRING.match(self.text, self.at) or _SCALAR.match(self.text, self.at)
            self.at = match.end() if match else self.at

    def items(self, path: Path) -> None:
        n_items = 0
        while True:
            self.blank()
            start = self.at
            if self.take("]") or self.at >= len(self.text):
                return
            self.lines[(*path, n_items)] = self.line()
            self.value((*path, n_items))
            n_items += 1
            self.blank()
            self.take(",")
            if self.at == start:
                return

    def inline(self, path: Path) -> None:
        while True:
            self.blank()
            start = self.at
            if self.take("}") or self.at >= len(self.text):
                return
            self.pair(path)
            self.blank()
            self.take(",")
            if self.at == start:
                return


def scan(text: str) -> dict[Path, int]:
    """Give the line, counted from 1, of every table, key and list item of a TOML document.

    A table's line is its header's, or its first key's where it has no header of its own; an array of tables
    stands where its first table does.
    """
    scanner = _Scanner(text)
    with contextlib.suppress(
        RecursionError
    ):  # nested about as deep as tomllib can follow: what is found serves
        scanner.document()
    return scanner.lines


def line_of(lines: dict[Path, int], path: Path) -> int:
    """The line of `path`, or of the nearest thing around it that stands in the file (for a key that is
    missing)."""
    while path not in lines:
        path = path[:-1]
    return lines[path]

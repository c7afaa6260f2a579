"""Config texts that say themselves what is to be found in them.

A line may end in `# error: WORDS` or `# warning: WORDS`; where that is too long or there are several, the
marks stand on lines of their own before it. There, and nowhere else, `parse` must find just these, with WORDS
somewhere in `KEY: MESSAGE`: so every case checks lines, keys and the absence of anything more.
"""

from __future__ import annotations

import re

from ctrl.config import Reading, Severity, parse

_MARK = re.compile(r"(.*?)# (error|warning): (.*)$")


def check_marked(text: str) -> Reading:
    """Parse `text`, and hold what is found against its marks."""
    reading = parse(text, "f.toml")
    left = [(f.line, f.severity.value, f"{f.key}: {f.message}") for f in reading.findings]
    ahead: list[tuple[str, str]] = []
    for line, words in enumerate(text.splitlines(), 1):
        mark = _MARK.match(words)
        if mark:
            ahead.append((mark[2], mark[3]))
        if mark and not mark[1].strip():
            continue
        for severity, message in ahead:
            match = next((f for f in left if f[0] == line and f[1] == severity and message in f[2]), None)
            assert match, f"line {line}: no {severity} with {message!r} in {left}"
            left.remove(match)
        ahead = []
    assert not left, f"found besides: {left}"
    assert not ahead, f"marked without a line: {ahead}"
    assert (reading.config is None) == any(f.severity is Severity.ERROR for f in reading.findings)
    return reading

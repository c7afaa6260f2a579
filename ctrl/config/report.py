"""Where the rules put what they find; it knows the lines, and what of the file could not be kept."""

from __future__ import annotations

from ctrl.config.finding import Finding, Path, Severity, key_name
from ctrl.config.positions import line_of


class Report:
    """Collects the findings of one file.

    A value that cannot be taken is told once and then left out, so that the rules can judge the rest. Rules
    name places as the `Config` has them; `kept` leads from there to the places in the file.
    """

    def __init__(self, file: str, lines: dict[Path, int]) -> None:
        self.file = file
        self.lines = lines
        self.findings: list[Finding] = []
        self.kept: dict[Path, list[int]] = {}
        """For a list of the file that lost items: the places in the file of those that remain."""
        self.left_out: set[Path] = set()
        self.around: set[Path] = set()
        """Every place that has something left out in it."""

    def error(self, path: Path, message: str) -> None:
        self._add(Severity.ERROR, path, message)

    def warning(self, path: Path, message: str) -> None:
        self._add(Severity.WARNING, path, message)

    def is_damaged(self, path: Path) -> bool:
        """Whether anything at, in or around `path` was left out: then what is missing there proves
        nothing."""
        place = self.in_file(path)
        return place in self.around or any(place[:n] in self.left_out for n in range(len(place) + 1))

    def leave_out(self, place: Path) -> None:
        """Leave out what stands at this place of the file."""
        self.left_out.add(place)
        self.around.update(place[:n] for n in range(len(place)))

    def in_file(self, path: Path) -> Path:
        """The place in the file of a place in the config."""
        found: Path = ()
        for part in path:
            kept = self.kept.get(found)
            found = (*found, kept[part] if kept is not None and isinstance(part, int) else part)
        return found

    def line(self, path: Path) -> int:
        """The line of a place in the config, to refer to it from another."""
        return line_of(self.lines, self.in_file(path))

    def has_errors(self) -> bool:
        return any(finding.severity is Severity.ERROR for finding in self.findings)

    def sorted(self) -> list[Finding]:
        """All findings in the order of the file, each once."""
        return sorted(dict.fromkeys(self.findings), key=lambda f: (f.line, f.severity.value))

    def _add(self, severity: Severity, path: Path, message: str) -> None:
        place = self.in_file(path)
        self.findings.append(
            Finding(severity, self.file, line_of(self.lines, place), key_name(place), message)
        )

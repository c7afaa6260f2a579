"""Figures: what was measured, against what, and on which machine; their table and their JSON lines."""

from __future__ import annotations

import ast
import json
import os
import platform
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "build" / "bench" / "figures.jsonl"


@dataclass(frozen=True, slots=True)
class Sample:
    """What some rounds measured, in the unit of the figure. MAD: the median distance from the median."""

    median: float
    mad: float
    min: float
    max: float
    rounds: int

    @staticmethod
    def of(values: Sequence[float]) -> Sample:
        middle = median(values)
        mad = median(abs(value - middle) for value in values)
        return Sample(middle, mad, min(values), max(values), len(values))

    def __str__(self) -> str:
        return f"{short(self.median)} ±{short(self.mad)}"


@dataclass(frozen=True, slots=True)
class Target:
    """At most `limit`: of the figure itself, or of its ratio to what it is raced against."""

    limit: float
    of_ratio: bool = False

    def __str__(self) -> str:
        return f"<= {short(self.limit)}{'x' if self.of_ratio else ''}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    name: str
    parameters: Mapping[str, object]
    unit: str
    ours: Sample
    rivals: Mapping[str, Sample]
    """By name, in the same unit; the ratio is that to the first."""
    target: Target | None = None

    @property
    def ratio(self) -> float | None:
        """Ours / the first rival's, by medians."""
        return next((self.ours.median / rival.median for rival in self.rivals.values()), None)

    @property
    def ratio_of_minima(self) -> float | None:
        """The same by minima: what a machine without neighbours would show."""
        return next((self.ours.min / rival.min for rival in self.rivals.values()), None)

    @property
    def met(self) -> bool | None:
        """Whether the medians meet the target; None where there is none."""
        value = self.ratio if self.target is not None and self.target.of_ratio else self.ours.median
        return None if self.target is None or value is None else value <= self.target.limit

    def as_json(self) -> dict[str, Any]:
        """Everything, as it is kept."""
        return asdict(self) | {"ratio": self.ratio, "ratio_of_minima": self.ratio_of_minima, "met": self.met}


def short(value: float) -> str:
    """Three digits that mean something."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(figures: Sequence[Figure]) -> list[str]:
    """The lines of the table."""
    head = ("figure", "parameters", "unit", "ours (min)", "raced against", "ratio (min)", "target", "")
    rows = [head]
    for one in figures:
        ratio = "" if one.ratio is None else f"{short(one.ratio)} ({short(one.ratio_of_minima or 0)})"
        rows.append(
            (
                one.name,
                " ".join(f"{key}={value}" for key, value in one.parameters.items()),
                one.unit,
                f"{one.ours} ({short(one.ours.min)})",
                ", ".join(f"{name} {short(rival.median)}" for name, rival in one.rivals.items()),
                ratio,
                "" if one.target is None else str(one.target),
                {True: "met", False: "MISSED", None: ""}[one.met],
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def keep(figures: Sequence[Figure]) -> None:
    """Append one JSON line a figure to `build/bench/figures.jsonl`."""
    facts = machine()
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    with KEPT.open("a") as file:
        for one in figures:
            file.write(json.dumps(facts | one.as_json()) + "\n")


def machine() -> dict[str, Any]:
    """What a figure depends on, besides the code."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "machine": platform.node(),
        "cpu": cpu[0].partition(":")[2].strip() if cpu else platform.machine(),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "load": os.getloadavg()[0],
        "huge_pages": _word_in_brackets(Path("/sys/kernel/mm/transparent_hugepage/enabled")),
        "python": platform.python_version(),
        "compiler": sysconfig.get_config_var("CC"),
        "flags": f"{sysconfig.get_config_var('CFLAGS')} {_setup_flags()}",
        "commit": _git("rev-parse", "--short", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "argv": sys.argv[1:],
    }


def _word_in_brackets(path: Path) -> str:
    return path.read_text().partition("[")[2].partition("]")[0] if path.exists() else ""


def _git(*words: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(ROOT), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _setup_flags() -> str:
    """The flags of a release build: what setup.py assigns to COMPILE, and adds where it is no debug build."""
    flags: list[str] = []
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        match node:
            case ast.Assign(targets=[ast.Name("COMPILE")], value=ast.List() as words):
                flags += ast.literal_eval(words)
            case ast.AugAssign(target=ast.Name("COMPILE"), value=ast.IfExp(orelse=words)):
                flags += ast.literal_eval(words)
            case _:
                pass
    return " ".join(flags)

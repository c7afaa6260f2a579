"""Looks at what a process's main thread does, again and again, for where its time goes.

Every 5 ms, from a thread of its own: the innermost functions (itself), and every function on the stack (with
what it calls); what is in C counts for who called it. And how long garbage collections took. Written to
FOLDER/PID-N.txt, and begun anew, at each SIGUSR1.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType

from ctrl import privileges

EVERY_S = 0.005
SHOWN = 60


def start(folder: str) -> None:
    """Sample this thread from when it has dropped its privileges until the process ends."""
    main = threading.get_ident()
    collected: list[tuple[int, float]] = []
    gc.callbacks.append(Collections(collected))
    asked = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: asked.set())

    def sample() -> None:
        own, within, number = Counter[str](), Counter[str](), 0
        while True:
            if asked.wait(EVERY_S):
                asked.clear()
                number += 1
                write(Path(folder, f"{os.getpid()}-{number}.txt"), own, within, collected)
                collected.clear()
                own, within = Counter[str](), Counter[str]()
            frame = sys._current_frames().get(main)
            seen = set[str]()
            if frame is not None:
                own[f"{_name(frame)}:{frame.f_lineno}"] += 1
            while frame is not None:
                seen.add(_name(frame))
                frame = frame.f_back
            within.update(seen)

    drop = privileges.drop

    def drop_and_sample() -> None:
        drop()  # it wants to be the only thread
        threading.Thread(target=sample, daemon=True).start()

    privileges.drop = drop_and_sample  # type: ignore[assignment]


class Collections:
    """Notes the generation and the seconds of each garbage collection."""

    def __init__(self, collected: list[tuple[int, float]]) -> None:
        self._collected = collected
        self._since_s = 0.0

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._since_s = time.perf_counter()
        else:
            self._collected.append((info["generation"], time.perf_counter() - self._since_s))


def write(path: Path, own: Counter[str], within: Counter[str], collected: list[tuple[int, float]]) -> None:
    total = sum(own.values()) or 1
    lines = [f"{total} samples of {EVERY_S} s"]
    for title, counts in (("with what it calls", within), ("itself", own)):
        lines += ["", title]
        lines += [f"{100 * n / total:6.2f} % {name}" for name, n in counts.most_common(SHOWN)]
    lines.append("")
    for generation in range(3):
        took = [seconds for which, seconds in collected if which == generation] or [0.0]
        lines.append(f"generation {generation}: {len(took)} in {sum(took):.3f} s, at most {max(took):.3f} s")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def _name(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename[-40:]}:{frame.f_code.co_qualname}"

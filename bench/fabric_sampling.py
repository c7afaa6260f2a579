"""Looks at what a process's main thread does, again and again, for where its time goes.

Every 5 ms, from a thread of its own: the innermost functions (self), and every function on the stack
(with those it calls). What is in C counts for who called it. Written to FOLDER/samples-PID.txt at the end.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path

EVERY_S = 0.005
SHOWN = 60


def start(folder: str) -> None:
    """Sample this thread until the process ends."""
    main = threading.get_ident()
    own, within = Counter[str](), Counter[str]()
    ends = threading.Event()

    def sample() -> None:
        while not ends.wait(EVERY_S):
            frame = sys._current_frames().get(main)
            seen = set[str]()
            is_first = True
            while frame is not None:
                name = f"{frame.f_code.co_filename[-40:]}:{frame.f_code.co_qualname}"
                if is_first:
                    own[f"{name}:{frame.f_lineno}"] += 1
                    is_first = False
                if name not in seen:
                    seen.add(name)
                    within[name] += 1
                frame = frame.f_back

    def write() -> None:
        ends.set()
        total = sum(own.values()) or 1
        lines = [f"{total} samples of {EVERY_S} s; {time.process_time():.1f} s of CPU"]
        for title, counts in (("with what it calls", within), ("itself", own)):
            lines += ["", title]
            lines += [f"{100 * n / total:6.2f} % {name}" for name, n in counts.most_common(SHOWN)]
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, f"samples-{os.getpid()}.txt").write_text("\n".join(lines) + "\n")

    threading.Thread(target=sample, daemon=True).start()
    atexit.register(write)

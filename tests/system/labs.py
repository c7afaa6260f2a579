"""What tests of `fastpath lab` share: the command, with a folder of its own, and what must not be left."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.house.tree import ROOT
from tests.system.lab import wait_for
from tests.unit.test_lab_file import SMALL

LAB = (sys.executable, "-c", "from ctrl.cli.lab import lab; lab(prog_name='fastpath lab')")
USER = ("unshare", "-U", "--map-user=1000", "--map-group=1000")
"""Become somebody without rights who still may read this tree."""


class Labs:
    """The command, with a folder of its own for labs; `inside`: the words that begin all its commands."""

    def __init__(self, folder: Path, *inside: str) -> None:
        self.folder = folder / "fastpath-lab"
        self.inside = inside
        self.environment = os.environ | {"XDG_RUNTIME_DIR": str(folder), "PYTHONPATH": _python_path()}
        (folder / "small.toml").write_text(SMALL)
        self.small = str(folder / "small.toml")

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            (*self.inside, *LAB, *words),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str, code: int = 0) -> str:
        """Run it to its end; what it printed, or its complaint if it is to end with another code."""
        process = self.start(*words)
        printed, complaint = process.communicate(timeout=60)
        assert process.returncode == code, f"{words}: {printed}{complaint}"
        return complaint if code else printed

    def listed(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in json.loads(self.run("list", "-j"))}

    def processes(self) -> list[str]:
        """The processes that belong to a lab of this folder."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                except OSError:  # it has ended
                    continue
                if str(self.folder) in words:
                    found.append(f"{entry.name} {words}")
        return found

    def kill_keeper(self) -> None:
        """Kill -9, and wait until the fastpath in its boxes has ended by itself."""
        os.kill(json.loads((self.folder / "small" / "state.json").read_text())["pid"], signal.SIGKILL)
        wait_for(lambda: not self.processes(), "fastpath ends")

    def expect_nothing_left(self) -> None:
        wait_for(lambda: not self.processes() and not self.folder.exists(), "nothing is left")


def _python_path() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def no_user_namespace() -> str | None:
    """Say why a lab without root cannot be tried here; None if it can."""
    tried = subprocess.run((*USER, "unshare", "-Urn", "true"), capture_output=True, text=True, check=False)
    return f"needs user namespaces: {tried.stderr.strip()}" if tried.returncode else None


@contextmanager
def short_folder() -> Iterator[Path]:
    """Lend a folder with a short name: the paths of sockets end at 107 bytes. No lab in it outlives it."""
    made = Path(tempfile.mkdtemp(prefix="fpL-"))
    try:
        yield made
    finally:
        for state in made.glob("fastpath-lab/*/state.json"):
            with suppress(ProcessLookupError):
                os.kill(json.loads(state.read_text())["pid"], signal.SIGKILL)
        shutil.rmtree(made, ignore_errors=True)

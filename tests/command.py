"""`fastpath replay` as tests call it: in this process, or in one of its own where the system has a say."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

from ctrl.cli import main
from tests import captures_io as c
from tests import frames as f
from tests.replaying import CAPTURES, EXAMPLES

TO_GROUP = f.wire(f.vxlan_packet(f.tenant(), "10.1.1.2", "239.1.1.100", 100))
SMALL = """
[[port]]
name = "p1"
faces = "nve"
[[port]]
name = "p2"
faces = "nve"
[[port]]
name = "up"
faces = "core"
address = "10.0.0.1/24"
[device]
address = "10.0.0.1"
[[device.member]]
group = "239.1.1.100"
port = "p2"
[[device.peer]]
group = "239.1.1.100"
addresses = ["10.0.0.2"]
"""
"""A device with a member and a peer: two copies of a frame to the group that comes in on p1."""


def pcap_of(path: Path, *frames: bytes) -> Path:
    """Write frames to a pcap, a millisecond apart."""
    path.write_bytes(c.pcap((10**18 + i * 10**6, data) for i, data in enumerate(frames)))
    return path


def pcapng_of(path: Path, *frames: tuple[str, bytes]) -> Path:
    """Write (interface, bytes) to a pcapng of one section."""
    names = sorted({name for name, _ in frames})
    blocks = [c.section(), *(c.interface(name, resolution=9) for name in names)]
    blocks += [c.packet(data, names.index(name), i) for i, (name, data) in enumerate(frames)]
    path.write_bytes(b"".join(blocks))
    return path


def cut(path: Path, capture: Path, size: int) -> Path:
    """Write the first bytes of a capture."""
    path.write_bytes(capture.read_bytes()[:size])
    return path


MAIN = "from ctrl.cli import main; main(prog_name='fastpath')"
COMMAND = (sys.executable, "-c", MAIN, "replay")
DEMO, CAPTURE = EXAMPLES / "demo.toml", CAPTURES / "mixed_demo.pcapng"
ENVIRONMENT = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}


@dataclass(frozen=True)
class Done:
    """What a command came to."""

    returncode: int
    stdout: str
    stderr: str


class Box:
    """A folder with a config, a capture of one frame, and the command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "box.toml").write_text(SMALL)
        pcap_of(folder / "in.pcap", TO_GROUP)

    def replay(self, *words: str | Path) -> Done:
        """Run the command in the folder, with words or the usual ones."""
        usual = ("in.pcap", "-c", "box.toml", "-o", "out.pcapng")
        result = CliRunner().invoke(main, ["replay", *map(str, words or usual)], prog_name="fastpath")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return Done(result.exit_code, result.stdout, result.stderr)

    def process(self, *words: str | Path, before: str = "") -> Done:
        """The same in a process of its own, which does what `before` says in Python first."""
        done = subprocess.run(
            [sys.executable, "-c", f"{before}\n{MAIN}", "replay", *words],
            cwd=self.folder,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert "Traceback" not in done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def refuses(self, *words: str | Path) -> str:
        """Run the command, which must end with 2 and say one sentence alone; return the sentence."""
        done = self.replay(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("fastpath replay: ")
        assert done.stderr.count("\n") == 1
        return done.stderr.removeprefix("fastpath replay: ").rstrip("\n")

"""Managers as processes of their own, on one core: started, watched, killed, and always gone in the end.

BENCH_FABRIC_PROFILE=FOLDER has each look every 5 ms at what its loop's thread does, and write that down at
each `mark`; threads of gRPC and of the store are told by the time that they had their core.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PROFILE = os.environ.get("BENCH_FABRIC_PROFILE", "")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
RUN = "from ctrl.cli import main; main()"
START_S = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has had: seconds of its core, by the loop's thread and by all; MiB now and at most."""

    loop_s: float
    all_s: float
    resident_mib: float
    most_mib: float


class ManagerProcess:
    """`fastpath run` with a [manager] table alone."""

    def __init__(self, folder: Path, name: str, store: str, cpu: int, more: str = "") -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.log = folder / f"{name}.log"
        self._cpu = cpu
        self._config = folder / f"{name}.toml"
        self._config.write_text(
            f'node = "{name}"\n[control]\nsocket = "{folder}/{name}.sock"\nhttp = ""\n'
            f'[manager]\nlisten = "{self.address}"\nstore = "{store}"\n{more}\n'
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        run = RUN
        if PROFILE:
            run = f"import bench.fabric_sampling as s; s.start({PROFILE!r}); {RUN}"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", run, "run", "-c", str(self._config)],
                stdout=log,
                stderr=log,
                preexec_fn=self._prepare,  # noqa: PLW1509  # there are no threads here
            )

    def _prepare(self) -> None:
        os.sched_setaffinity(0, {self._cpu})
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    def wait_until_it_listens(self) -> None:
        host, _, port = self.address.rpartition(":")
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            assert self._process is not None
            assert self._process.poll() is None, self.log.read_text()[-4000:]
            try:
                socket.create_connection((host, int(port)), 1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError(self.log.read_text()[-4000:])

    @property
    def usage(self) -> Usage:
        assert self._process is not None
        pid = self._process.pid
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
        )
        return Usage(
            _seconds(Path(f"/proc/{pid}/task/{pid}/stat")),
            _seconds(Path(f"/proc/{pid}/stat")),
            int(status["VmRSS"].split()[0]) / 1024,
            int(status["VmHWM"].split()[0]) / 1024,
        )

    def mark(self) -> None:
        """Have what was sampled written down."""
        if PROFILE and self._process is not None:
            self._process.send_signal(signal.SIGUSR1)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def _seconds(stat: Path) -> float:
    words = stat.read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / TICKS_PER_S

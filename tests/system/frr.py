"""FRR's bfdd as a neighbour: one of its own in a namespace, with its files in a directory of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from ctrl.lab.namespaces import Namespace

DAEMONS = Path("/usr/lib/frr")


def missing() -> str | None:
    """Say what is not installed."""
    absent = [name for name in ("zebra", "bfdd") if not (DAEMONS / name).exists()]
    absent += [] if shutil.which("vtysh") else ["vtysh"]
    return f"FRR's {', '.join(absent)} missing: apt install frr" if absent else None


class Frr:
    """zebra and bfdd in a namespace, with a configuration of bfdd's."""

    def __init__(self, namespace: Namespace, directory: Path, config: str) -> None:
        self._namespace = namespace
        self._directory = directory
        directory.chmod(0o777)
        zserv = directory / "zserv.api"
        self._start("zebra", "", "-z", zserv)
        self._wait(zserv.exists)
        self.bfdd = self._start("bfdd", config, "-z", zserv, "--bfdctl", directory / "bfdd.sock")
        self._wait((directory / "bfdd.vty").exists)

    def _start(self, name: str, config: str, *options: str | Path) -> subprocess.Popen[str]:
        file = self._directory / f"{name}.conf"
        file.write_text(config)
        return self._namespace.popen(
            DAEMONS / name, "-f", file, "-i", self._directory / f"{name}.pid",
            "--vty_socket", self._directory, "-A", "127.0.0.1", "-P", "0",
            "--log", f"file:{self._directory}/log", *options,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def _wait(self, is_so: Any) -> None:
        end_s = time.monotonic() + 5
        while not is_so():
            if time.monotonic() > end_s:
                log = self._directory / "log"
                raise TimeoutError(f"FRR does not start: {log.read_text() if log.exists() else 'no log'}")
            time.sleep(0.02)

    def ask(self, *commands: str) -> str:
        """Give commands, get what it says."""
        words = [word for command in commands for word in ("-c", command)]
        return self._namespace.command("vtysh", "--vty_socket", str(self._directory), "-d", "bfdd", *words)

    def peers(self) -> list[dict[str, Any]]:
        """Its sessions, as it shows them."""
        found: list[dict[str, Any]] = json.loads(self.ask("show bfd peers json"))
        return found

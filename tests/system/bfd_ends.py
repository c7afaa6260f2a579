"""One end of BFD sessions as a process of its own: `Prober` or `Responder`, and what it sees, line by line.

    bfd_ends.py device OWN INTERVAL_S MULTIPLIER STALL_S PEER...     probes the peers
    bfd_ends.py point OWN INTERVAL_S MULTIPLIER STALL_S PEER...      answers the peers

A line is a JSON list: seconds of the monotonic clock, an address, whether it is up. SIGUSR1 asks for states
and counts; SIGTERM closes. STALL_S: its loop is busy for so long, again and again, with a moment between.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from ctrl.daemon.probing import Prober, Responder
from ctrl.lab.namespaces import Namespace
from ctrl.protocols.bfd import State


def say(*words: Any) -> None:
    print(json.dumps([time.monotonic(), *words]), flush=True)


async def main(
    role: str, own: str, interval_s: float, multiplier: int, stall_s: float, peers: list[str]
) -> None:
    addresses = {ip_address(peer).packed for peer in peers}

    def on_state(address: bytes, is_up: bool) -> None:
        say(str(ip_address(address)), is_up)

    end: Prober | Responder
    if role == "device":
        end = Prober(ip_address(own).packed, interval_s, multiplier, on_state)
        end.want(addresses)
    else:
        end = Responder(ip_address(own).packed, addresses.__contains__, interval_s, multiplier)

    def tell() -> None:
        say({"rows": list(map(asdict, end.rows())), "counts": dict(end.counts)})

    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    loop.add_signal_handler(signal.SIGUSR1, tell)
    say("ready")
    while stall_s and not ended.is_set():
        await asyncio.sleep(0.005)
        time.sleep(stall_s)  # noqa: ASYNC251  that is the point
    await ended.wait()
    end.close()


class End:
    """Such a process, as the tests see it. A point runs once it is made: who probed it earlier would find it
    down. `multiplier`: of its interval, how long the other end is patient with it."""

    def __init__(
        self,
        namespace: Namespace,
        role: str,
        own: str,
        *peers: str,
        interval_s: float = 0.2,
        multiplier: int = 3,
        stall_s: float = 0,
    ) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        words = (str(Path(__file__)), role, own, str(interval_s), str(multiplier), str(stall_s), *peers)
        self.process = namespace.popen(
            sys.executable, *words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._ready_s: float | None = None
        if role == "point":
            self.ready()

    def ready(self) -> float:
        """Wait until it runs; say since when."""
        if self._ready_s is None:
            self._ready_s, word = self._line()
            assert word == "ready"
        return self._ready_s

    def read(self) -> list[Any]:
        """Wait for what it sees next."""
        self.ready()
        return self._line()

    def _line(self) -> list[Any]:
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        found: list[Any] = json.loads(line)
        return found

    def ask(self) -> dict[str, Any]:
        """Get its states and counts; changes that were said before are passed over."""
        self.ready()
        self.process.send_signal(signal.SIGUSR1)
        while not isinstance(found := self.read()[1], dict):
            pass
        return found

    def state(self) -> State:
        """Say how its only session is."""
        [row] = self.ask()["rows"]
        return State[row["state"].upper()]


if __name__ == "__main__":
    role, own, interval_s, multiplier, stall_s, *peers = sys.argv[1:]
    asyncio.run(main(role, own, float(interval_s), int(multiplier), float(stall_s), peers))

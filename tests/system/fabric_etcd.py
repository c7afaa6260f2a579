"""Three etcd nodes in a box on the core of a fabric: killed, started again, compacted."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from tests.system.fabric import Fabric
from tests.system.lab import wait_for

HOST = "10.0.0.120"
N = 3
SPEED = ("--heartbeat-interval=50", "--election-timeout=500")


class Etcds:
    """A cluster whose nodes are numbered from 0."""

    def __init__(self, fabric: Fabric) -> None:
        self._box = fabric.attach("etcd", HOST)
        self._folder = fabric.lab.directory / "etcd"
        self._folder.mkdir()
        self._nodes: dict[int, subprocess.Popen[str]] = {}
        self._state = "new"
        for n in range(N):
            self.start(n)
        self._state = "existing"
        wait_for(self._has_leader, "etcd answers", 20.0)

        self._ctl("put", "fabric/.store", '{"id": "aged", "made": 0}')  # see Fabric.start

    def _has_leader(self) -> bool:
        """Say whether all nodes answer, and know one that leads: without, nothing is written."""
        leaders = [one.get("leader") for one in self._statuses().values()]
        return len(leaders) == N and all(leaders)

    @property
    def url(self) -> str:
        """The store's."""
        return f"etcd://{','.join(f'{HOST}:{_client(n)}' for n in range(N))}/fabric"

    def start(self, n: int) -> None:
        """Start a node, on what the one before left behind."""
        client, peer = (f"http://{HOST}:{port}" for port in (_client(n), _client(n) + 1))
        cluster = ",".join(f"e{k}=http://{HOST}:{_client(k) + 1}" for k in range(N))
        with (self._folder / f"e{n}.log").open("a") as log:
            self._nodes[n] = self._box.popen(
                *("etcd", f"--name=e{n}", f"--data-dir={self._folder / f'e{n}'}", "--log-level=error"),
                *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
                *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
                *(f"--initial-cluster={cluster}", f"--initial-cluster-state={self._state}", *SPEED),
                stdout=log,
                stderr=log,
            )

    def kill(self, n: int) -> None:
        self._nodes[n].kill()
        self._nodes[n].wait()

    def restart(self, n: int) -> None:
        """Kill a node, start it again, and wait until it answers."""
        self.kill(n)
        self.start(n)
        wait_for(lambda: n in self._statuses(), "the node answers", 20.0)

    def leader(self) -> int:
        """The node that leads; there may be none for a moment."""

        def led() -> list[int]:
            return [
                n for n, one in self._statuses().items() if one.get("leader") == one["header"]["member_id"]
            ]

        return int(wait_for(led, "a leader")[0])

    def compact(self) -> int:
        """Forget all revisions but the newest, which is given."""
        revision = max(int(one["header"]["revision"]) for one in self._statuses().values())
        self._ctl("compaction", str(revision))
        return revision

    def _statuses(self) -> dict[int, Any]:
        """What the nodes that answer say of themselves."""
        found = {}
        for n, node in self._nodes.items():
            if node.poll() is None:
                try:
                    said = self._ctl("endpoint", "status", "-w", "json", only=n)
                except RuntimeError:  # not yet, or no longer
                    continue
                found[n] = json.loads(said)[0]["Status"]
        return found

    def _ctl(self, *words: str, only: int | None = None) -> str:
        ends = ",".join(f"{HOST}:{_client(n)}" for n in range(N) if only in {None, n})
        return self._box.command(
            *("env", "ETCDCTL_API=3", "etcdctl", f"--endpoints={ends}", "--command-timeout=2s", *words)
        )


def _client(n: int) -> int:
    return 2379 + 10 * n

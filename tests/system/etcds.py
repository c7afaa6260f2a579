"""Real etcd servers on loopback, in temporary folders: started, killed, started again, and always removed."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Self

import pytest

from ctrl.store.etcd import EtcdStore
from ctrl.store.opening import EtcdUrl, parse_store
from tests.system.lab import stands_still, wait_for

needs_etcd = pytest.mark.skipif(
    not (shutil.which("etcd") and shutil.which("etcdctl")),
    reason="etcd missing: apt install etcd-server etcd-client",
)
START_S = 20


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Cluster:
    """`size` members. `scheme`: http, or https with the options that say whose certificates."""

    def __init__(self, folder: Path, size: int, options: Sequence[str] = (), scheme: str = "http") -> None:
        self._folder = folder
        self._options = options
        self._scheme = scheme
        ports = free_ports(2 * size)
        self.clients, self._peers = ports[:size], ports[size:]
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * size

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.clients)
        return f"etcd{'s' * (self._scheme == 'https')}://{hosts}/fabric"

    def start(self) -> None:
        """Start those that do not run, and wait until they answer."""
        members = [member for member, process in enumerate(self._processes) if process is None]
        for member in members:
            client = f"{self._scheme}://127.0.0.1:{self.clients[member]}"
            peers = [f"http://127.0.0.1:{port}" for port in self._peers]
            command = ["etcd", "--name", f"n{member}", "--data-dir", str(self._folder / f"n{member}")]
            command += ["--listen-client-urls", client, "--advertise-client-urls", client]
            command += ["--listen-peer-urls", peers[member], "--initial-advertise-peer-urls", peers[member]]
            command += ["--initial-cluster", ",".join(f"n{i}={peer}" for i, peer in enumerate(peers))]
            # the disk of a shared machine is not what is tested
            command += ["--unsafe-no-fsync", "--heartbeat-interval", "50", "--election-timeout", "500"]
            log = (self._folder / f"n{member}.log").open("ab")
            with log:
                self._processes[member] = subprocess.Popen([*command, *self._options], stdout=log, stderr=log)
        until = time.monotonic() + START_S
        for member in members:
            while not self._answers(member):
                assert time.monotonic() < until, (self._folder / f"n{member}.log").read_text()[-2000:]
                time.sleep(0.05)

    def _answers(self, member: int) -> bool:
        # only a member with a leader answers a read
        return self.ctl("get", "x", member=member, check=False).returncode == 0

    def ctl(self, *words: str, member: int = 0, check: bool = True) -> subprocess.CompletedProcess[str]:
        where = f"{self._scheme}://127.0.0.1:{self.clients[member]}"
        command = ["etcdctl", "--endpoints", where, "--dial-timeout", "1s", "--command-timeout", "2s", *words]
        environment = {**os.environ, "ETCDCTL_API": "3", **self.environment}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=check)

    environment: dict[str, str] = {}  # noqa: RUF012  # of etcdctl: certificates, user

    def leader(self) -> int:
        """The member that leads; on a busy machine there may be none for a moment."""
        return int(wait_for(lambda: [*filter(self._leads, range(len(self.clients)))], "a leader")[0])

    def _leads(self, member: int) -> bool:
        said = self.ctl("endpoint", "status", "-w", "json", member=member, check=False)
        status = json.loads(said.stdout)[0]["Status"] if said.returncode == 0 else {}
        return bool(status) and status.get("leader") == status["header"]["member_id"]

    def kill(self, *members: int, by: signal.Signals = signal.SIGKILL) -> None:
        for member in members or range(len(self.clients)):
            process = self._processes[member]
            if process is not None:
                process.send_signal(by)
                if by == signal.SIGKILL:
                    process.wait()
                    self._processes[member] = None
                if by == signal.SIGSTOP:
                    wait_for(partial(stands_still, process.pid), "the member hangs")

    def wipe(self) -> None:
        self.kill()
        for member in range(len(self.clients)):
            shutil.rmtree(self._folder / f"n{member}")

    async def open(self, lease_s: int = 2) -> EtcdStore:
        place = parse_store(self.url)
        assert isinstance(place, EtcdUrl)
        return await EtcdStore.open(place, lease_s=lease_s)


@contextlib.contextmanager
def cluster(size: int = 1, options: Sequence[str] = (), scheme: str = "http") -> Iterator[Cluster]:
    """Make a cluster that does not run yet, in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="fastpath-etcd-"))
    made = Cluster(folder, size, options, scheme)
    try:
        yield made
    finally:
        made.kill()
        shutil.rmtree(folder)


class Relay:
    """A relay of TCP before one endpoint, that loses or holds what it is told to.

    `answers`: "pass"; "lose": what is asked arrives, and the connection ends before the answer. `questions`:
    "pass", or "hold": kept back until `release`, whoever asked being gone or not.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.answers = self.questions = "pass"
        self.n_lost = self.n_held = 0
        self._released = asyncio.Event()
        self._lost = asyncio.Event()
        self.arrived = asyncio.Event()
        """A question that was held was answered, though nobody may have waited for that."""
        self.only = b""
        """What a question must contain to be lost or held."""

    async def __aenter__(self) -> Self:
        self._tasks = set[asyncio.Task[None]]()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def release(self) -> None:
        self.questions = "pass"
        self._released.set()

    async def lose(self, count: int) -> None:
        """Lose the answers of so many questions, and pass all after that."""
        self.answers = "lose"
        while self.n_lost < count:
            self._lost.clear()
            await self._lost.wait()
        self.answers = "pass"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        answering = asyncio.create_task(self._answer(there, writer))
        self._tasks.add(answering)
        try:
            while data := await reader.read(1 << 20):
                if self.only in data and self.questions == "hold":
                    self.n_held += 1
                    await self._released.wait()
                    back.write(data)
                    await answering  # with the connection open, or the server would not do it
                    continue
                if self.only in data and self.answers == "lose":
                    answering.cancel()
                    await asyncio.gather(answering, return_exceptions=True)
                    back.write(data)
                    await there.read(1)
                    self.n_lost += 1
                    self._lost.set()
                    return
                back.write(data)
                await back.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass  # the streams' own callback would complain of a task that was cancelled
        finally:
            for each in (writer, back):
                each.close()

    async def _answer(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await there.read(1 << 20):
                if self._released.is_set():
                    self.arrived.set()
                writer.write(data)
                await writer.drain()
        writer.close()

"""The process that is a lab: makes it, holds it, starts `fastpath run` in its boxes, and takes it down.

    python -c "from ctrl.lab.keeper import main; main()" FILE FOLDER LOCK CHANNEL

1. It answers on the channel: one JSON object a line, what it came to or why not.
2. It does as the channel says: START, then any number of `KILL BOX` and `START BOX`, then STAY, after
   which it goes on until SIGTERM. If the channel ends before, whoever wanted the lab is gone, and so is it.
3. Without root it becomes root of a user namespace of its own, before a second thread starts.
4. Nothing disturbs it while it builds and while it removes: signals are heard in between.
5. What the programs tell their service manager is read for as long as they run: one that was told by nobody
   would say so in its log, at each reload.
"""

from __future__ import annotations

import errno
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path

from ctrl.lab.build import build
from ctrl.lab.labfile import LabFile, config_of, environment_of, read
from ctrl.lab.namespaces import KILLED_AFTER_S, Lab, Namespace, missing
from ctrl.lab.running import BUILT, KILL, NOT_ALLOWED, NOT_DONE, STAY, UP, LabError, State, last_words, tidy
from ctrl.lab.system import become_root_of_own

READY_S = 30.0
_FASTPATH = (
    "from ctrl.lab.system import die_with_parent; die_with_parent(); "
    "from ctrl.cli import main; main(prog_name='fastpath')"
)


def main() -> None:
    """Be the keeper of a lab, as the command line says."""
    path, folder, _lock, channel = sys.argv[1:]  # the lock is held by being open
    keeper = _Keeper(Path(folder), socket.socket(fileno=int(channel)))
    with ExitStack() as stack:
        stack.callback(tidy, Path(folder).parent)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        try:
            keeper.keep(read(Path(path)), stack)
        except LabError as error:
            keeper.say({"error": str(error), "code": error.code})
        except (OSError, RuntimeError) as error:
            allowed = not isinstance(error, OSError) or error.errno not in {errno.EPERM, errno.EACCES}
            sentence = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
            keeper.say({"error": sentence, "code": NOT_DONE if allowed else NOT_ALLOWED})


class _Keeper:
    def __init__(self, folder: Path, channel: socket.socket) -> None:
        self.folder = folder
        self.channel = channel
        self._programs = _Programs(folder)
        self._heard, wake = socket.socketpair()  # becomes readable when a signal came
        wake.setblocking(False)
        self._wake = wake
        signal.set_wakeup_fd(wake.fileno())
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)

    def say(self, what: dict[str, object]) -> None:
        """Tell whoever listens; that nobody does is told by the channel's end."""
        with suppress(OSError):
            self.channel.sendall(f"{json.dumps(what)}\n".encode())

    def keep(self, file: LabFile, stack: ExitStack) -> None:
        """Make the lab, hold it for as long as it is wanted; the stack takes it down."""
        state = State(file.name, file.table.about, os.getpid())
        state.write(self.folder)
        _enough_rights()
        boxes = build(stack.enter_context(Lab(file.name)), file)
        stack.callback(_end_all, {os.fstat(box.fd).st_ino for box in boxes.values()})
        state.boxes = {name: box.fd for name, box in boxes.items()}
        state.state = BUILT
        self._tell(state)
        if not self._wanted():
            return
        programs = self._programs
        for name, text in file.fastpaths.items():
            state.sockets[name] = programs.start(name, boxes[name], text)
        if not programs.wait([self.channel, self._heard]):
            return
        state.state = UP
        self._tell(state)
        while word := self._wanted():
            if word == STAY:
                self._let_go()
                self._wait([self._heard])
                return
            verb, _, name = word.partition(" ")
            if verb == KILL:
                programs.kill(name)
            else:
                programs.start(name, boxes[name], file.fastpaths[name])
                if not programs.wait([self.channel, self._heard]):
                    return
            self._tell(state)

    def _tell(self, state: State) -> None:
        state.write(self.folder)
        self.say({state.state: asdict(state)})

    def _wanted(self) -> str:
        """Wait for the next words, which come one by one; "" if none will come, or it is to end."""
        ready = self._wait([self.channel, self._heard])
        return "" if self._heard in ready else self.channel.recv(64).decode().strip()

    def _wait(self, wanted: list[socket.socket]) -> list[socket.socket]:
        """Wait until any of these has something to say; those that have."""
        while True:
            ready = select.select([*wanted, *self._programs.ears], [], [])[0]
            self._programs.hear(ready)
            if found := [one for one in wanted if one in ready]:
                return found

    def _let_go(self) -> None:
        """Part with whoever started us, and with their terminal."""
        self.channel.close()
        log = os.open(self.folder / "keeper.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)


def _end_all(boxes: Collection[int]) -> None:
    """End what runs in the boxes, by the inodes of their network namespaces: ours, and what users started
    there (`lab exec`). What is deaf to that, as a shell at its prompt is, is killed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in _inside(boxes):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + KILLED_AFTER_S
        while any(_inside(boxes)) and time.monotonic() < deadline:
            time.sleep(0.02)


def _inside(boxes: Collection[int]) -> list[int]:
    """The processes in the boxes."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is somebody else's
            if (process / "ns/net").stat().st_ino in boxes:
                found.append(int(process.name))
    return found


class _Programs:
    """The `fastpath run` of the boxes. Each tells that it forwards as it would tell a service manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: dict[str, subprocess.Popen[str]] = {}
        self._ears: dict[str, socket.socket] = {}
        self._waiting: set[str] = set()
        """Those that do not forward yet."""

    @property
    def ears(self) -> list[socket.socket]:
        """Where they tell of themselves, for `hear`."""
        return [*self._ears.values()]

    def start(self, name: str, box: Namespace, text: str) -> str:
        """Start one with a config; its control socket's path."""
        environment = environment_of(name, self._folder)
        file, told = self._folder / f"{name}.toml", self._folder / f"{name}.notify"
        file.write_text(config_of(name, text, self._folder), encoding="utf-8")
        told.unlink(missing_ok=True)
        if name in self._ears:  # of one that was killed
            self._ears.pop(name).close()
        self._ears[name] = ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        ear.bind(str(told))
        self._waiting.add(name)
        with self._log(name).open("a") as log:
            self._started[name] = box.popen(
                *(sys.executable, "-c", _FASTPATH, "run", "-c", str(file)),
                env=os.environ | environment | {"NOTIFY_SOCKET": str(told)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return environment["FASTPATH_SOCKET"]

    def wait(self, others: list[socket.socket]) -> bool:
        """Wait until all forward; False as soon as one of the other sockets has something to say."""
        deadline = time.monotonic() + READY_S
        while self._waiting:
            ready = select.select([*self.ears, *others], [], [], 0.05)[0]
            if any(other in ready for other in others):
                return False
            self.hear(ready)
            for name, program in self._started.items():  # those that forward, too: one may end meanwhile
                code = program.poll()
                is_late = time.monotonic() > deadline and name in self._waiting
                if code is not None or is_late:
                    why = f"does not forward after {READY_S:g} s" if code is None else f"ended with {code}"
                    raise LabError(NOT_DONE, f"{name}: fastpath run {why}: {last_words(self._log(name))}")
        return True

    def hear(self, ready: Collection[socket.socket]) -> None:
        """Read what some tell of themselves."""
        for name, ear in self._ears.items():
            if ear in ready and ear.recv(4096).startswith(b"READY=1"):
                self._waiting.discard(name)

    def kill(self, name: str) -> None:
        """Kill one, as `kill -9` does."""
        program = self._started.pop(name)
        program.kill()
        program.wait()

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


def _enough_rights() -> None:
    if os.geteuid() != 0:
        try:
            become_root_of_own()
        except OSError as error:
            raise LabError(
                NOT_ALLOWED,
                f"neither root nor a user namespace is to be had here ({error.strerror}): look at "
                "/proc/sys/user/max_user_namespaces, kernel.unprivileged_userns_clone and AppArmor",
            ) from None
    why_not = missing()
    if why_not is not None:
        raise LabError(NOT_ALLOWED, why_not)

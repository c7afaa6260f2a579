"""Labs that run: where they are found, how one is started, reached and ended.

1. A lab is a process of its own, its *keeper* (ctrl.lab.keeper): it holds the namespaces and the programs in
   them. When it ends, however it ends, the kernel takes the rest.
2. A lab has a folder, with its state, the configs, logs and control sockets of its boxes. The keeper holds a
   lock on the folder while it lives, so a folder that can be locked is a dead one's, and is removed.
3. Whoever starts a keeper has a channel to it, and tells it to go on; if the channel ends before `STAY` was
   said, it removes everything. So Ctrl-C, and even kill -9, leaves nothing behind.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from ctrl.config.finding import any_of, given, nearest
from ctrl.lab.labfile import LabFile

NOT_DONE, MISUSED, NOT_ALLOWED = 1, 2, 4
START, KILL, STAY = "start", "kill", "stay"
BUILT, UP = "built", "up"
STATE = "state.json"
_END_S = 10.0
_LOCK_TRIES = 10


class LabError(Exception):
    """What cannot be done with a lab, in a sentence, and the exit code that says so."""

    def __init__(self, code: int, sentence: str) -> None:
        self.code = code
        super().__init__(sentence)


@dataclass(slots=True)
class State:
    """What a keeper says of its lab. `boxes`: the keeper's descriptors of the namespaces."""

    name: str
    about: str
    pid: int
    state: str = "building"
    boxes: dict[str, int] = field(default_factory=dict)
    sockets: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Put it where `states` finds it, whole or not at all."""
        made = folder / f"{STATE}.new"
        made.write_text(json.dumps(asdict(self)), encoding="utf-8")
        made.rename(folder / STATE)

    def namespace(self, box: str) -> str:
        """The path to a box's network namespace; LabError if it has no such box."""
        if box not in self.boxes:
            close = nearest(box, list(self.boxes))
            hint = f'; did you mean "{close}"?' if close else ""
            there = any_of(list(self.boxes)) if self.boxes else "none yet"
            raise LabError(MISUSED, f"{self.name}: {given(box)} is no box of it; there is {there}{hint}")
        return f"/proc/{self.pid}/fd/{self.boxes[box]}"


def base() -> Path:
    """The folder of this user's labs: XDG_RUNTIME_DIR's, root's in /run, or one in /tmp."""
    user = os.geteuid()
    candidates = [Path(os.environ["XDG_RUNTIME_DIR"])] if os.environ.get("XDG_RUNTIME_DIR") else []
    candidates += [Path("/run")] if user == 0 else [Path(f"/run/user/{user}")]
    folders = [*(path / "fastpath-lab" for path in candidates), Path(f"/tmp/fastpath-lab-{user}")]  # noqa: S108
    for folder in folders:
        with suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
            if folder.lstat().st_uid == user and os.access(folder, os.W_OK):
                return folder
    raise LabError(NOT_ALLOWED, f"no folder for labs can be made: tried {any_of([str(f) for f in folders])}")


def states() -> list[State]:
    """The labs that run, by name; what is left of dead ones is removed."""
    folder = base()
    found = [_state(inside) for inside in sorted(folder.iterdir())]
    tidy(folder)
    return [state for state in found if state is not None]


def tidy(folder: Path) -> None:
    """Remove the folder of a user's labs, if there is none."""
    with suppress(OSError):
        folder.rmdir()


def last_words(log: Path) -> str:
    """What a program said last, without the frame that Python draws around several errors."""
    lines = [line.strip(" |+-") for line in log.read_text(encoding="utf-8").splitlines()]
    return next(filter(None, reversed(lines)), "nothing")


def only(name: str | None) -> State:
    """The running lab of a name, or the only one; LabError if there is no such."""
    there = states()
    names = [state.name for state in there]
    if name is not None and name not in names:
        said = f"{any_of(names)} {'is' if len(names) == 1 else 'are'}" if names else "none is"
        raise LabError(NOT_DONE, f"{name} is not up; {said}")
    if not there:
        raise LabError(NOT_DONE, "no lab is up")
    if name is None and len(there) > 1:
        raise LabError(MISUSED, f"several labs are up; say which: {any_of(names)}")
    return there[0] if name is None else there[names.index(name)]


def end(state: State) -> None:
    """Have the keeper remove all, and wait until it has; a deaf one is killed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.kill(state.pid, number)
        deadline = time.monotonic() + _END_S
        while time.monotonic() < deadline:
            if state.name not in (other.name for other in states()):
                return
            time.sleep(0.02)
    raise LabError(NOT_DONE, f"{state.name}: its keeper, process {state.pid}, does not end")


class Keeper:
    """A keeper from the side of whoever starts it: leaving this ends the lab, unless `stay` was called."""

    def __init__(self, file: LabFile, path: Path) -> None:
        self.file = file
        self.folder, lock = _hold(file.name)
        self._channel, theirs = socket.socketpair()
        with theirs:
            command = (sys.executable, "-c", "from ctrl.lab.keeper import main; main()")
            words = (str(path.absolute()), str(self.folder), str(lock), str(theirs.fileno()))
            self._process = subprocess.Popen(  # noqa: S603  our own module, with our own words
                (*command, *words),
                pass_fds=(lock, theirs.fileno()),
                start_new_session=True,  # a Ctrl-C is for us alone
                stdin=subprocess.DEVNULL,
            )
        os.close(lock)  # it has its own
        self._said = self._channel.makefile("r", encoding="utf-8")
        self._stays = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with undisturbed():
            self._said.close()
            self._channel.close()
            if not self._stays:
                self._process.wait()

    def expect(self, what: str) -> State:
        """Wait until the keeper says so much; LabError with what it says instead."""
        said: dict[str, Any] = json.loads(self._said.readline() or "{}")
        if what in said:
            return State(**said[what])
        raise LabError(
            said.get("code", NOT_DONE),
            said.get("error", f"{self.file.name}: the keeper ended without a word"),
        )

    def start(self) -> State:
        """Have `fastpath run` started in the boxes that have a config, and wait until all forward."""
        self._channel.sendall(f"{START}\n".encode())
        return self.expect(UP)

    def kill(self, box: str) -> None:
        """Kill the `fastpath run` of a box, as `kill -9` does; return when it is gone."""
        self._channel.sendall(f"{KILL} {box}\n".encode())
        self.expect(UP)

    def restart(self, box: str) -> None:
        """Start that of a box anew, on what the one before left behind; return when it forwards."""
        self._channel.sendall(f"{START} {box}\n".encode())
        self.expect(UP)

    def stay(self) -> None:
        """Let the lab outlive us."""
        with undisturbed():
            self._channel.sendall(f"{STAY}\n".encode())
            self._stays = True


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let no Ctrl-C interrupt what removes things."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _hold(name: str) -> tuple[Path, int]:
    """Make the folder of a lab and lock it; LabError if a keeper has it."""
    for _ in range(_LOCK_TRIES):  # who asks whether a lab is dead holds the lock, too, for a moment
        folder = base() / name
        with suppress(FileNotFoundError):  # someone has just removed it, as a dead one's
            folder.mkdir(mode=0o700, exist_ok=True)
            lock = _lock(folder)
            if lock is not None and not folder.samefile(f"/proc/self/fd/{lock}"):
                os.close(lock)
            elif lock is not None:
                for left in folder.iterdir():
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
                return folder, lock
        time.sleep(0.02)
    raise LabError(NOT_DONE, f"{name} is up already; fastpath lab down {name}")


def _state(folder: Path) -> State | None:
    """The state of the lab in a folder; None, and the folder is removed, if its keeper is dead."""
    try:
        lock = _lock(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if lock is not None:
        with suppress(FileNotFoundError):
            if folder.samefile(f"/proc/self/fd/{lock}"):  # else someone has just made a new one of the name
                shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
        return None
    with suppress(FileNotFoundError):  # it ends, or has just begun
        return State(**json.loads((folder / STATE).read_text(encoding="utf-8")))
    return None


def _lock(folder: Path) -> int | None:
    """Lock a folder, unless someone else has."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd

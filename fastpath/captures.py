"""Captures as ports: `PcapSource` stands in for all in ports, `PcapSink` for all out ports."""

from __future__ import annotations

import difflib
import os
import stat
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from fastpath.errors import CaptureError, place
from fastpath.io._pcap_in import PcapIn
from fastpath.io._pcap_out import PcapOut

__all__ = ["PcapSink", "PcapSource"]

SNAP_SIZE = 1 << 18
ALIENS = {
    b"\x1f\x8b": "this is gzip: gunzip it first",
    b"\x28\xb5\x2f\xfd": "this is zstd: unzstd it first",
    b"\xfd7zXZ\x00": "this is xz: unxz it first",
    b"BZh": "this is bzip2: bunzip2 it first",
    b"\x04\x22\x4d\x18": "this is lz4: unlz4 it first",
    b"snoop\x00": "this is a snoop capture: editcap turns it into a pcap",
    b"\xa1\xb2\xcd\x34": "this is a modified pcap: editcap turns it into a plain one",
    b"\x34\xcd\xb2\xa1": "this is a modified pcap: editcap turns it into a plain one",
}
"""What people take for a pcap, by its first bytes."""


class PcapSource(PcapIn):
    """The frames of a pcap or pcapng file, as they stand in a mapping of it.

    The file must be left alone until `close`: one that shrinks kills its reader. `ports` gives the places of
    the ports by name. Frames of a pcapng interface come in on the port of its name, or on `in_port` where no
    port has that name; all frames of a pcap come in on `in_port`, or the first port.

    Raises CaptureError where nothing in the file can be used, or frames came from an interface that is no
    port or no Ethernet. Anything else that is wrong is told by `damage`: the frames in front of it come in.
    """

    def __init__(
        self, path: str | os.PathLike[str], ports: Mapping[str, int], in_port: int | None = None
    ) -> None:
        self.path = Path(path)
        descriptor = _open(self.path)
        try:
            super().__init__(descriptor)
        except OSError as error:
            raise CaptureError(path, f"cannot be read: {error.strerror}") from error
        finally:
            os.close(descriptor)
        self.damage: str | None = None
        """What is wrong behind the last frame, naming file and byte; None if nothing is."""
        if self.fault is not None:
            offset, message, fatal = self.fault
            if fatal:
                raise CaptureError(path, message, offset)
            self.damage = f"{path}: {place(offset)}{message}"
        declared = [
            (None if name is None else name.decode(errors="replace").rstrip("\0"), n_frames)
            for name, n_frames in self.declared()
        ]
        self.interfaces: tuple[str | None, ...] = tuple(name for name, _ in declared)
        """The names of the interfaces as the file declares them, section by section; a pcap's has none."""
        for number, (name, n_frames) in enumerate(declared):
            self._assign(number, name, n_frames, ports, in_port)

    def _assign(
        self, number: int, name: str | None, n_frames: int, ports: Mapping[str, int], in_port: int | None
    ) -> None:
        if name is not None and name in ports:
            self.assign(number, ports[name])
        elif in_port is not None:
            self.assign(number, in_port)
        elif n_frames and self.is_pcapng:
            given = f"interface {number}, which has no name," if name is None else f"interface {name!r}"
            close = difflib.get_close_matches(name or "", ports, n=1, cutoff=0.4)
            raise CaptureError(
                self.path,
                f"{n_frames} frames came from {given} but no port is called that; "
                f"the ports are {', '.join(ports)}"
                + (f"; did you mean {close[0]!r}?" if close else "")
                + " (or name the port that they shall come in on)",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open(path: Path) -> int:
    """Open a capture for reading, without ever waiting for the writer of a pipe."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise CaptureError(path, f"cannot be read: {error.strerror}") from error
    try:
        _check(path, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check(path: Path, descriptor: int) -> None:
    """Name what people take for a pcap; what is neither that nor one, `PcapIn` finds."""
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        raise CaptureError(path, f"is {_kind(mode)}; expected a regular file")
    try:
        first = os.pread(descriptor, 8, 0)
    except OSError as error:
        raise CaptureError(path, f"cannot be read: {error.strerror}") from error
    for magic, sentence in ALIENS.items():
        if first.startswith(magic):
            raise CaptureError(path, f"{sentence}; expected a pcap or pcapng", 0)


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


class PcapSink(PcapOut):
    """Writes the copies of all out ports to a new file: pcap or pcapng, by the suffix of `path`.

    `ports` names the out ports in the order of the layout; each is an interface of the pcapng. A copy has the
    time of its frame: in nanoseconds in a pcapng, in microseconds in a pcap unless `nanoseconds`, which
    readers from before 2013 do not know (`PcapSource.nanoseconds` tells whether there are any to keep).

    One object stands for every out port: `Forwarder(layout, [sink] * n, sources=[source])`. Close it, or use
    it as a context, to have the last copies in the file. Raises OSError naming the file when it cannot be
    opened and, from `close`, when a write has failed: `lost` are the copies that were counted as sent and are
    not in the file. Opening empties the file: it must not be the one that a source has mapped.
    """

    def __init__(
        self, path: str | os.PathLike[str], ports: Sequence[str], *, nanoseconds: bool = False
    ) -> None:
        self.path = Path(path)
        if self.path.suffix not in {".pcap", ".pcapng"}:
            raise ValueError(
                f"{self.path}: the suffix says what is written; "
                f"expected .pcap or .pcapng, found {self.path.suffix!r}"
            )
        blocks = self.path.suffix == ".pcapng"
        head = _pcapng_head(ports) if blocks else _pcap_head(nanoseconds=nanoseconds)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            super().__init__(descriptor, head, len(ports), blocks, nanoseconds)
        except BaseException:
            os.close(descriptor)
            raise
        if self.error:
            self.close()

    def close(self) -> None:
        """Write the last copies and close the file; OSError if that, or any write before it, failed."""
        if self.finish() and self.error:
            lost = f"; the last {self.lost} copies are not in the file" if self.lost else ""
            raise OSError(self.error, os.strerror(self.error) + lost, str(self.path))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _pcap_head(*, nanoseconds: bool) -> bytes:
    return struct.pack("=IHHiIII", 0xA1B23C4D if nanoseconds else 0xA1B2C3D4, 2, 4, 0, 0, SNAP_SIZE, 1)


def _pcapng_head(ports: Sequence[str]) -> bytes:
    """One section with one interface per port, whose times are nanoseconds."""
    section = struct.pack("=IHHq", 0x1A2B3C4D, 1, 0, -1)
    blocks = [_block(0x0A0D0D0A, section)]
    for name in ports:
        options = _option(2, name.encode()) + _option(9, b"\x09") + _option(0, b"")
        blocks.append(_block(1, struct.pack("=HHI", 1, 0, SNAP_SIZE) + options))
    return b"".join(blocks)


def _block(kind: int, body: bytes) -> bytes:
    size = len(body) + 12
    return struct.pack("=II", kind, size) + body + struct.pack("=I", size)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("=HH", code, len(value)) + value + bytes(-len(value) % 4)

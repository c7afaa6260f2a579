"""The limit that every figure is raced against: one plain memcpy of the same number of bytes.

The memory is mapped here rather than taken from numpy, which asks for huge pages for large arrays: the copies
of the data path go to memory from malloc, and the race is between the copying, not between the page sizes.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

SHM = Path("/dev/shm")


class Buffer:
    """Memory with an address, every page of it touched."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        ctypes.memset(self.address, 0x5A, size)


class Memcpy:
    """Calling it copies `size` bytes from one buffer to another, in one call; both are warm."""

    def __init__(self, size: int) -> None:
        self._from = Buffer(size)
        self._to = Buffer(size)
        self()

    def __call__(self) -> None:
        ctypes.memmove(self._to.address, self._from.address, self._from.size)


class MemcpyToFile:
    """Calling it makes a new file of `size` bytes, maps it, copies one buffer into it and closes it."""

    def __init__(self, size: int, path: Path) -> None:
        self._from = Buffer(size)
        self._path = path

    def __call__(self) -> None:
        size = self._from.size
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, size)
            mapped = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        first = ctypes.c_char.from_buffer(mapped)
        ctypes.memmove(ctypes.addressof(first), self._from.address, size)
        del first
        mapped.close()

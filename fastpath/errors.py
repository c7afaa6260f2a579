"""The errors of fastpath, in three families that have nothing in common but Exception.

You misused us: ValueError, TypeError, RuntimeError, with a sentence. What came from elsewhere broke its
format: `FormatError`. The system said no: OSError, naming the file.
"""

from __future__ import annotations

import os

__all__ = ["CaptureError", "FormatError"]


class FormatError(Exception):
    """What came from elsewhere is not what its format says."""


class CaptureError(FormatError):
    """A capture cannot be replayed; `offset` is the byte where that shows, None for all of the file."""

    def __init__(self, path: str | os.PathLike[str], message: str, offset: int | None = None) -> None:
        self.path = os.fspath(path)
        self.offset = offset
        self.message = message
        super().__init__(self.path, message, offset)

    def __str__(self) -> str:
        return f"{self.path}: {place(self.offset)}{self.message}"


def place(offset: int | None) -> str:
    """Begin a sentence about a file with where in it."""
    return "" if offset is None else f"byte {offset}: "

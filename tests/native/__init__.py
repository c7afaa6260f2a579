"""Hooks, compiled for the tests alone, by which they reach C functions that the product keeps to itself."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

# A debug or sanitizer build keeps its hooks beside its own fastpath (see the Makefile); never mix two builds.
if _build := os.environ.get("FASTPATH_BUILD"):
    __path__.insert(0, str(Path(_build, "tests", "native")))

if TYPE_CHECKING:  # hooks need no stubs

    def __getattr__(name: str) -> Any: ...

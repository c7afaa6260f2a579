"""The tree as the house tests see it."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {".py", ".pyi", ".pyx", ".pxd"}
MADE = {"build", "dist", "__pycache__"}


def files(root: Path = ROOT) -> Iterator[Path]:
    """Yield every file that a person wrote, relative to the root: nothing built, nothing hidden but .ci."""
    for path in sorted(root.iterdir()):
        if path.is_dir():
            made = path.name in MADE or path.suffix == ".egg-info"
            if path.name == ".ci" or not (made or path.name.startswith(".")):
                yield from (path.relative_to(root) / inner for inner in files(path))
        elif path.suffix not in {".so", ".pyc"} and not path.stem.endswith("_pb2"):
            yield path.relative_to(root)


def sources(root: Path = ROOT) -> Iterator[Path]:
    """Yield the Python and Cython sources among them."""
    return (path for path in files(root) if path.suffix in SOURCES)


def run(*command: str | Path, cwd: Path, fails: bool = False, **env: str) -> str:
    """Run a command free of what this run itself was started with, return all that it said."""
    plain = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("FASTPATH_", "PYTHON", "LD_", "MAKE"))
    }
    result = subprocess.run(command, cwd=cwd, env=plain | env, capture_output=True, text=True, check=False)
    assert (result.returncode != 0) == fails, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout + result.stderr


def compiled_modules(root: Path = ROOT) -> list[str]:
    """Name the modules that setup.py builds into the package."""
    found = (root / "src_cython").rglob("*.pyx")
    return sorted(".".join(path.relative_to(root / "src_cython").with_suffix("").parts) for path in found)

"""Build the compiled data path: every src_cython/fastpath/**/_x.pyx becomes fastpath.**._x.

Every ctrl/**/x.proto becomes x_pb2.py beside it, whatever is built or installed, and in place: as all of
Python here it is seen as it lies in the tree.

All directives and C flags of the project stand here, once; pyproject.toml holds the rest. The environment
chooses:

    FASTPATH_DEBUG=1      Cython's checks of memoryviews (bounds, initialisation), and asserts in C
    FASTPATH_SANITIZE=1   AddressSanitizer and UndefinedBehaviorSanitizer
    FASTPATH_HOOKS=1      also tests/native/*.pyx, the tests' own way to C functions; never in a wheel
    FASTPATH_PURE=1       nothing compiled: `make build` installs first, and compiles in place afterwards

A Cython warning or performance hint fails the build: a hint means that some function takes the GIL, or
raises, where the data path must not. A module that fails does not keep the others from being built; all
faults are told at the end.
"""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

# Relative on purpose: setuptools refuses absolute source paths, and the generated C carries no path of ours.
os.chdir(Path(__file__).parent)

DEBUG = os.environ.get("FASTPATH_DEBUG") == "1"
SANITIZE = os.environ.get("FASTPATH_SANITIZE") == "1"
HOOKS = os.environ.get("FASTPATH_HOOKS") == "1"
PURE = os.environ.get("FASTPATH_PURE") == "1"
KIND = "-".join(name for name, on in (("debug", DEBUG), ("sanitize", SANITIZE)) if on) or "release"
GENERATED = Path("build", KIND, "c")

DIRECTIVES = {
    "language_level": "3",
    "boundscheck": DEBUG,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": DEBUG,
    "embedsignature": True,
    "show_performance_hints": not DEBUG,  # a debug build is slow on purpose
    "warn.unreachable": True,
    "warn.unused": True,  # a counter that nobody reads is called _
}

# Cython takes the name it gives a generator expression for a variable that nobody uses.
FAULT = re.compile(r"performance hint:|warning:(?!.*Unused entry 'genexpr')")

# No -march=native: a wheel must run on the neighbour's machine. Frames are read through pointers of other
# types than they were written by, hence -fno-strict-aliasing. Cython emits helpers that nobody may call.
COMPILE = ["-std=gnu11", "-Wall", "-Wno-unused-function", "-fno-strict-aliasing", "-fvisibility=hidden"]
LINK: list[str] = []
# The compiler sees more of what may be uninitialised than Cython does, but only when it optimises.
COMPILE += ["-O1", "-g", "-Wno-maybe-uninitialized"] if DEBUG or SANITIZE else ["-O3"]
if DEBUG:
    COMPILE += ["-UNDEBUG"]
if SANITIZE:
    LINK += ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    COMPILE += [*LINK, "-fno-omit-frame-pointer"]


class Module(Extension):
    """An extension as `cythonize(exclude_failures=True)` needs it: it keeps the failed ones in a set."""

    __hash__ = object.__hash__


def extensions() -> list[Module]:
    """List one extension per .pyx, named by its path."""
    found = [(path, path.relative_to("src_cython")) for path in Path("src_cython").rglob("*.pyx")]
    if HOOKS:
        found += [(path, path) for path in Path("tests/native").glob("*.pyx")]
    return [
        Module(
            ".".join(name.with_suffix("").parts),
            [str(path)],
            extra_compile_args=COMPILE,
            extra_link_args=LINK,
        )
        for path, name in sorted(found)
    ]


@contextmanager
def heard(lines: list[str]) -> Iterator[None]:
    """Collect what is written to stderr, by the worker processes too, and pass it on afterwards."""
    sys.stderr.flush()
    ours = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(ours, 2)
            os.close(ours)
            log.seek(0)
            text = log.read().decode(errors="replace")
            sys.stderr.write(text)
            lines += text.splitlines()


def c_files() -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in GENERATED.rglob("*.c")}


def translate(modules: list[Module]) -> list[str]:
    """Turn .pyx into C where anything it depends on is newer; drop what fails, return the faults."""
    from Cython.Build import cythonize  # noqa: PLC0415  only a build needs Cython; metadata and sdist do not

    lines: list[str] = []
    with heard(lines):
        translated = cythonize(
            modules,
            include_path=["src_cython"],
            build_dir=str(GENERATED),
            compiler_directives=DIRECTIVES,
            nthreads=os.cpu_count() or 1,
            force=any(time < Path("setup.py").stat().st_mtime_ns for time in c_files().values()),
            exclude_failures=True,
            quiet=True,
        )
    faults = {line for line in lines if FAULT.match(line)}
    by_name = {module.name: module for module in translated}
    for module in list(modules):
        if module.name in by_name:
            module.sources = by_name[module.name].sources
            module.depends = [*by_name[module.name].depends, "setup.py"]
        else:
            modules.remove(module)
            faults.add(f"does not compile, see above: {module.sources[0]}")
    return sorted(faults)


def generate() -> None:
    """Make the Python of each .proto that is newer than it. Whoever imports it meanwhile finds it whole."""
    for proto in Path("ctrl").rglob("*.proto"):
        made = proto.with_name(f"{proto.stem}_pb2.py")
        since = max(path.stat().st_mtime_ns for path in (proto, Path("setup.py")))
        if made.exists() and made.stat().st_mtime_ns > since:
            continue
        from grpc_tools import protoc  # noqa: PLC0415  only a build needs it

        with tempfile.TemporaryDirectory(dir=proto.parent, prefix=".") as out:
            if protoc.main(["protoc", "-I.", f"--python_out={out}", f"--pyi_out={out}", str(proto)]):
                sys.exit(f"The build failed: {proto} is no interface, see above")
            for name in (f"{made.name}i", made.name):
                Path(out, proto.parent, name).replace(proto.with_name(name))


class BuildPy(build_py):
    """Generate first: what is generated is copied, or seen in place, as any other module."""

    def run(self) -> None:
        generate()
        super().run()


class BuildExt(build_ext):
    """Translate, compile on all cores, then fail if anything was at fault."""

    def run(self) -> None:
        generate()  # `build_ext --inplace` is what `make build` runs
        self.parallel = self.parallel or os.cpu_count()
        before = c_files()
        faults = translate(self.extensions) if self.extensions else []
        try:
            super().run()
        finally:
            if faults:  # the next build must not find this C up to date, and say nothing
                for path, time in c_files().items():
                    if before.get(path) != time:
                        path.unlink()
        if faults:
            sys.exit("\n".join(["", "The build failed:", *faults]))


setup(ext_modules=[] if PURE else extensions(), cmdclass={"build_ext": BuildExt, "build_py": BuildPy})

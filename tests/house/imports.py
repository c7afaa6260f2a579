"""The import rule of DESIGN.md ("One way") as data, and the walk that names who breaks it.

bench, tests -> ctrl -> fastpath's public names -> fastpath._* -> kernel; nobody looks back.
"""

import ast
import re
import sys
import tomllib
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path

from tests.house.tree import sources

# pydantic's other half, which has a distribution of its own and comes with it
PARTS = {"pydantic_core": "pydantic"}
OURS = ("fastpath", "ctrl", "tests", "bench")
PRIVATE = r"fastpath(\.\w+)*\._(?!_).*"


@dataclass(frozen=True, slots=True)
class Law:
    """What the files at `where` must not import, both as regular expressions over the whole path or name."""

    where: str
    forbids: str
    says: str
    but: str = r"(?!)"  # the names that are allowed all the same


STDLIB = "|".join(sys.stdlib_module_names)
LAWS = (
    Law(r"(fastpath|src_cython)/.*", r"ctrl(\..*)?", "fastpath knows nothing of the control plane"),
    Law(
        r"(fastpath|src_cython|ctrl)/.*",
        r"(tests|bench)(\..*)?",
        "the product knows nothing of tests and benchmarks",
    ),
    Law(r"ctrl/.*", PRIVATE, "ctrl uses the public names of fastpath only"),
    Law(
        r"ctrl/protocols/.*",
        r".*",
        "protocols import the standard library and dpkt only: no clock, no socket",
        but=rf"(?!(time|socket|asyncio|select|selectors|threading)\b)({STDLIB}|dpkt|ctrl\.protocols)(\..*)?"
        "|ctrl",
    ),
    Law(
        r"ctrl/(membership|topology|planner)(\.py|/.*)",
        r"(fastpath|ctrl)(\..*)?",
        "the heart of control depends on fastpath.model and plain values only",
        but=r"fastpath|fastpath\.model(\..*)?|ctrl|ctrl\.(topology|store\.model)(\..*)?|ctrl\.store",
    ),
    Law(
        r"src_cython/fastpath/_engine\.(pyx|pxd)",
        r"fastpath\.io(\..*)?",
        "the engine calls ports through their operations, whatever they are",
    ),
    Law(  # exceptions have to come from somewhere
        r"src_cython/.*",
        r"fastpath(\..*)?",
        "compiled code does not look back at the Python that uses it",
        but=rf"fastpath|fastpath\.io|{PRIVATE}|fastpath\.errors(\..*)?",
    ),
)


def imported(root: Path, path: Path) -> list[tuple[int, str]]:
    """List (line, dotted name) of all that a file imports; `from a cimport b` gives `a` and `a.b`."""
    text = (root / path).read_text()
    read = _read_python if path.suffix in {".py", ".pyi"} else _read_cython
    package = [*(path.parts[1:] if path.parts[0] == "src_cython" else path.parts)][:-1]
    names = []
    for line, module, wanted in read(text):
        dots = len(module) - len(module.lstrip("."))
        base = ".".join([*package[: len(package) - dots + 1], module[dots:]]).strip(".") if dots else module
        names += [(line, base), *((line, f"{base}.{name}") for name in wanted if name != "*")]
    return names


def _read_python(text: str) -> list[tuple[int, str, list[str]]]:
    found: list[tuple[int, str, list[str]]] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found.append((node.lineno, module, [alias.name for alias in node.names]))
    return found


_CYTHON = re.compile(
    r"^[ \t]*(?:from[ \t]+(?P<module>[\w.]+)[ \t]+c?import[ \t]+(?P<wanted>\([^)]*\)|[^#\n]+)"
    r"|c?import[ \t]+(?P<modules>[\w., \t]+))",
    re.MULTILINE,
)


def _read_cython(text: str) -> list[tuple[int, str, list[str]]]:
    def first_words(names: str) -> list[str]:
        return [name.split()[0] for name in names.strip("() \t\n").split(",") if name.split()]

    found: list[tuple[int, str, list[str]]] = []
    for match in _CYTHON.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        if match["module"]:
            found.append((line, match["module"], first_words(match["wanted"])))
        else:
            found += [(line, module, []) for module in first_words(match["modules"])]
    return found


def offences(root: Path) -> list[str]:
    """Say, one line each, who imports what it must not."""
    found = []
    for path in sources(root):
        for line, name in imported(root, path):
            found += [
                f"{path}:{line} imports {name}: {law.says}"
                for law in LAWS
                if re.fullmatch(law.where, path.as_posix())
                and re.fullmatch(law.forbids, name)
                and not re.fullmatch(law.but, name)
            ]
    return found


def undeclared(root: Path) -> list[str]:
    """Say where the product imports a package that pyproject.toml does not list as a runtime dependency."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    declared = {_normal(re.split(r"[^\w.-]", entry)[0]) for entry in project["dependencies"]}
    owners = packages_distributions()
    found = []
    for path in sources(root):
        if path.parts[0] not in {"fastpath", "ctrl"}:
            continue
        for line, name in imported(root, path):
            top = name.split(".")[0]
            top = PARTS.get(top, top)
            known = top in OURS or top in sys.stdlib_module_names
            if not known and not declared & {_normal(owner) for owner in owners.get(top, [top])}:
                found.append(
                    f"{path}:{line} imports {name}, which pyproject.toml does not list in dependencies"
                )
    return found


def _normal(name: str) -> str:
    """A distribution's name as pip compares it."""
    return name.lower().replace("_", "-")


def pure_tests(root: Path) -> list[Path]:
    """The unit tests that reach no compiled code: they are the same in every build."""
    tests = (path.relative_to(root) for path in sorted((root / "tests" / "unit").glob("test_*.py")))
    return [path for path in tests if not compiled_behind(root, path)]


def compiled_behind(root: Path, start: Path) -> list[str]:
    """Say by which way a file reaches compiled code, through whatever modules of ours it imports by name.

    fastpath/__init__.py is passed over: it offers everything to everyone, compiled or not.
    """
    seen, ways = {start}, [(start, str(start))]
    found = []
    while ways:
        path, way = ways.pop()
        for line, name in imported(root, path):
            inner = Path(name.replace(".", "/"))
            if any((root / place / inner).with_suffix(".pyx").exists() for place in ("src_cython", "")):
                found.append(f"{way}:{line} -> {name}")
            for behind in (inner.with_suffix(".py"), inner / "__init__.py"):
                if behind not in seen | {Path("fastpath/__init__.py")} and (root / behind).exists():
                    seen.add(behind)
                    ways.append((behind, f"{way}:{line} -> {behind}"))
    return found


if __name__ == "__main__":  # for the Makefile: what the debug and the sanitizer build need not run again
    print(*(f"--ignore={path}" for path in pure_tests(Path.cwd())))

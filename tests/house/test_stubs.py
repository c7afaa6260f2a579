"""Each compiled module has a stub beside it that names the same things: what mypy sees is there."""

import ast
from importlib import import_module
from types import ModuleType

import pytest

from tests.house.tree import ROOT, compiled_modules


def in_module(module: ModuleType) -> set[str]:
    """Collect what a module offers: its own names, not imported ones, and `Class.member` for its classes."""
    names = set()
    for name, value in vars(module).items():
        if name.startswith("_") or isinstance(value, ModuleType):
            continue
        if getattr(value, "__module__", module.__name__) != module.__name__:
            continue
        names.add(name)
        if isinstance(value, type):
            names |= {f"{name}.{member}" for member in vars(value) if not member.startswith("_")}
    return names


def in_stub(text: str) -> set[str]:
    def declared(body: list[ast.stmt]) -> set[str]:
        names = set()
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
            elif isinstance(node, ast.Assign):
                names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
            if isinstance(node, ast.ClassDef):
                names |= {f"{node.name}.{member}" for member in declared(node.body)}
        return {name for name in names if not any(part.startswith("_") for part in name.split("."))}

    return declared(ast.parse(text).body)


@pytest.mark.parametrize("name", compiled_modules())
def test_a_stub_names_what_its_module_offers(name):
    stub = ROOT / (name.replace(".", "/") + ".pyi")
    assert stub.exists(), f"{name} has no {stub.relative_to(ROOT)}"
    offered, told = in_module(import_module(name)), in_stub(stub.read_text())
    assert told - offered == set(), "in the stub only"
    assert offered - told == set(), "in the module only"


def test_what_is_built_still_has_its_source():
    left = [path for package in ("fastpath", "tests") for path in (ROOT / package).rglob("*.so")]
    orphans = [
        path.relative_to(ROOT)
        for path in left
        if not any(
            (root / path.relative_to(ROOT)).with_name(path.name.split(".")[0] + ".pyx").exists()
            for root in (ROOT, ROOT / "src_cython")
        )
    ]
    assert orphans == [], "left from a module that is gone: make clean"


def test_the_comparison_sees_both_sides():
    module = ModuleType("fake")
    exec("import ast\nLIMIT = 3\nclass Fib:\n    def find(self): ...\n    _hidden = 1\n", module.__dict__)
    module.Fib.__module__ = "fake"
    assert in_module(module) == {"LIMIT", "Fib", "Fib.find"}
    assert in_stub("import ast\nLIMIT: int\nclass Fib:\n    def find(self) -> int: ...\n    size: int\n") == {
        "LIMIT", "Fib", "Fib.find", "Fib.size",
    }  # fmt: skip

"""The build: the right one is under test, and it refuses what would cost the data path its speed."""

import os
import shutil
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.house.tree import ROOT, compiled_modules, run

HINT = """
cdef void touch(int n) nogil:  # not noexcept: every call would look for an exception under the GIL
    pass

def run(int n):
    with nogil:
        touch(n)
"""
BROKEN = "cdef void touch(int n) noexcept nogil:\n    print(n)\n"
SOUND = "def answer():\n    return 42\n"


@pytest.mark.parametrize("name", ["fastpath", *compiled_modules()])
def test_the_build_under_test_is_the_one_asked_for(name):
    expected = Path(os.environ.get("FASTPATH_BUILD", ROOT))
    assert Path(import_module(name).__file__ or "").is_relative_to(expected / "fastpath")


@pytest.fixture
def tree(tmp_path):
    """Make a project of the real setup.py with other sources."""
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "README.md").touch()
    (tmp_path / "fastpath").mkdir()
    (tmp_path / "fastpath/__init__.py").touch()
    source = tmp_path / "src_cython/fastpath"
    source.mkdir(parents=True)
    (source / "__init__.pxd").touch()
    (source / "_sound.pyx").write_text(SOUND)
    return tmp_path


def build(tree, *, fails=False):
    return run(sys.executable, "setup.py", "-q", "build_ext", "--inplace", cwd=tree, fails=fails)


@pytest.mark.slow
def test_a_performance_hint_fails_every_build_until_it_is_gone(tree):
    bad = tree / "src_cython/fastpath/_hint.pyx"
    bad.write_text(HINT)
    for _ in range(2):
        faults = build(tree, fails=True).split("The build failed:")[1]
        assert "performance hint: src_cython/fastpath/_hint.pyx:2:0" in faults
    bad.write_text(HINT.replace("nogil:  #", "noexcept nogil:  #"))
    build(tree)


@pytest.mark.slow
def test_a_broken_module_fails_the_build_but_not_its_neighbour(tree):
    (tree / "src_cython/fastpath/_broken.pyx").write_text(BROKEN)
    told = build(tree, fails=True)
    assert "does not compile, see above: src_cython/fastpath/_broken.pyx" in told
    assert list((tree / "fastpath").glob("_sound*.so"))


@pytest.mark.slow
def test_a_changed_pxd_rebuilds_who_cimports_it(tree):
    source = tree / "src_cython/fastpath"
    (source / "_limits.pxd").write_text("cdef enum:\n    LIMIT = 1\n")
    (source / "_user.pyx").write_text("from fastpath._limits cimport LIMIT\ndef limit():\n    return LIMIT\n")

    def limit() -> str:
        build(tree)
        print_it = "import fastpath._user as u; print(u.limit())"
        return run(sys.executable, "-c", print_it, cwd=tree, PYTHONPATH=str(tree))

    assert limit() == "1\n"
    (source / "_limits.pxd").write_text("cdef enum:\n    LIMIT = 2\n")
    assert limit() == "2\n"

"""What we publish is complete: the sdist builds, the wheel installs, the command answers. Asks no index."""

import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.house.tree import ROOT, compiled_modules, run, sources

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    out = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(out), cwd=ROOT)
    (path,) = out.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """Build it as a user does, but for the last -O, which counts: what is compiled is only imported here."""
    out = tmp_path_factory.mktemp("wheel")
    compiler = tmp_path_factory.mktemp("bin") / "gcc"
    compiler.write_text('#!/bin/sh\nexec gcc "$@" -O0\n')
    compiler.chmod(0o755)
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation")
    run(*pip, "-w", str(out), str(sdist), cwd=out, CC=str(compiler))
    (path,) = out.iterdir()
    return path


def test_the_sdist_holds_every_source_and_nothing_built(sdist):
    with tarfile.open(sdist) as archive:
        held = {Path(*Path(name).parts[1:]) for name in archive.getnames()}
    wanted = {path for path in sources() if path.parts[0] in {"src_cython", "fastpath", "ctrl", "tests"}}
    wanted |= {Path(name) for name in ("setup.py", "pyproject.toml", "LICENSE", "README.md", "Makefile")}
    wanted |= {Path("fastpath/py.typed"), Path("ctrl/py.typed")}
    assert wanted - held == set()
    assert {path for path in held if path.suffix in {".c", ".so", ".o", ".pyc"}} == set()


def test_the_wheel_holds_modules_stubs_and_markers_but_no_tests(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {Path(name) for name in archive.namelist()}
    ours = {path for path in sources() if path.parts[0] in {"fastpath", "ctrl"}}
    assert ours | {Path("fastpath/py.typed"), Path("ctrl/py.typed")} <= held
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    assert {Path(name.replace(".", "/") + suffix) for name in compiled_modules()} <= held
    tops = {path.parts[0] for path in held}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"fastpath", "ctrl"}


def test_the_wheel_installs_into_a_fresh_environment(wheel, tmp_path):
    run(sys.executable, "-m", "venv", "--without-pip", "fresh", cwd=tmp_path)
    python = tmp_path / "fresh/bin/python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index")
    run(*pip, str(wheel), cwd=tmp_path)
    # The dependencies come from this environment, so that the test needs no index. Its editable fastpath is
    # not seen: the .pth line behind it counts only in a site directory, which PYTHONPATH is not.
    deps = sysconfig.get_path("purelib")
    modules = ", ".join(["fastpath", "ctrl", *compiled_modules()])
    where = f"import {modules}; print(fastpath.__file__)"
    assert Path(run(python, "-c", where, cwd=tmp_path, PYTHONPATH=deps)).is_relative_to(tmp_path / "fresh")
    command = tmp_path / "fresh/bin/fastpath"
    assert "Usage: fastpath" in run(command, "--help", cwd=tmp_path, PYTHONPATH=deps)
    assert run(command, "--version", cwd=tmp_path, PYTHONPATH=deps).split()[-1] in wheel.name

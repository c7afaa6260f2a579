"""The Python of a .proto is made by every build, and is up to date."""

import os
import shutil
import sys

import pytest

from tests.house.tree import ROOT, run

PROTO = 'syntax = "proto3";\npackage x;\nmessage {} {{ string name = 1; }}\n'


@pytest.fixture
def tree(tmp_path):
    """Make a project of the real setup.py with another .proto."""
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "README.md").touch()
    (tmp_path / "src_cython").mkdir()
    (tmp_path / "ctrl").mkdir()
    (tmp_path / "ctrl/__init__.py").touch()
    (tmp_path / "ctrl/x.proto").write_text(PROTO.format("Old"))
    return tmp_path


def _build(tree, *words, fails=False):
    return run(sys.executable, "setup.py", "-q", *words, cwd=tree, fails=fails)


@pytest.mark.slow
def test_a_build_in_place_makes_the_stubs_and_makes_them_again_when_the_proto_changed(tree):
    _build(tree, "build_ext", "--inplace")
    made = tree / "ctrl/x_pb2.py"
    assert "class Old(" in (tree / "ctrl/x_pb2.pyi").read_text()
    since = made.stat().st_mtime_ns
    _build(tree, "build_ext", "--inplace")
    assert made.stat().st_mtime_ns == since
    (tree / "ctrl/x.proto").write_text(PROTO.format("New"))
    os.utime(tree / "ctrl/x.proto", ns=(since + 1, since + 1))
    _build(tree, "build_ext", "--inplace")
    assert "class New(" in (tree / "ctrl/x_pb2.pyi").read_text()
    assert {path.name for path in (tree / "ctrl").iterdir()} == {
        "__init__.py",
        "x.proto",
        "x_pb2.py",
        "x_pb2.pyi",
    }


def test_a_copy_of_the_packages_holds_the_stubs(tree):
    _build(tree, "build", "--build-base", "build/debug", "--build-lib", "build/debug/lib")
    assert (tree / "build/debug/lib/ctrl/x_pb2.py").exists()


def test_a_broken_proto_fails_the_build_and_leaves_what_was_there(tree):
    _build(tree, "build_ext", "--inplace")
    before = (tree / "ctrl/x_pb2.py").read_text()
    (tree / "ctrl/x.proto").write_text("message {")
    said = _build(tree, "build_ext", "--inplace", fails=True)
    assert "ctrl/x.proto is no interface, see above" in said
    assert (tree / "ctrl/x_pb2.py").read_text() == before


def test_the_messages_wait_for_no_grpc():
    heavy = "{'grpc', 'google.protobuf', 'ssl', 'asyncio'}"
    run(
        sys.executable,
        "-c",
        f"import sys, ctrl.rpc.messages; assert not {heavy} & set(sys.modules)",
        cwd=ROOT,
    )

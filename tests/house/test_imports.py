"""Nobody looks back: the import rule, and that its test can fail."""

import re
import sys
from pathlib import Path

import pytest

from tests.house.imports import compiled_behind, offences, undeclared
from tests.house.tree import ROOT, run, sources


def plant(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_nobody_imports_against_the_one_way():
    assert offences(ROOT) == []


def test_the_product_imports_only_what_pyproject_declares():
    assert undeclared(ROOT) == []


def test_the_reference_reaches_no_compiled_code():
    reference = [path for path in sources(ROOT) if re.match(r"fastpath/reference(\.py|/.*\.py)$", str(path))]
    assert [way for path in reference for way in compiled_behind(ROOT, path)] == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("fastpath/ports.py", "from ctrl.app import run"),
        ("fastpath/ports.py", "def f():\n    import tests.house"),
        ("ctrl/app.py", "from fastpath import _fib"),
        ("ctrl/app.py", "import fastpath.io._pcap"),
        ("ctrl/roles/nve.py", "from fastpath.ports import _secret"),
        ("ctrl/roles/nve.py", "from bench import frames"),
        ("ctrl/protocols/igmp.py", "import numpy"),
        ("ctrl/protocols/igmp.py", "import time"),
        ("ctrl/protocols/mld.py", "from ctrl.clock import Clock"),
        ("ctrl/protocols/mld.py", "from ..clock import Clock"),
        ("ctrl/membership.py", "from fastpath.compiler import plan"),
        ("ctrl/planner/mesh.py", "from ctrl.config import Config"),
        ("src_cython/fastpath/_engine.pyx", "from fastpath.io._pcap cimport pcap_ops"),
        ("src_cython/fastpath/_engine.pxd", "from fastpath.io cimport (_pcap,\n    _memory)"),
        ("src_cython/fastpath/_engine.pyx", "from .io cimport _pcap"),
        ("src_cython/fastpath/_fib.pyx", "cimport libc.stdlib, fastpath.model"),
    ],
)
def test_an_offender_is_named(tmp_path, path, text):
    plant(tmp_path, path, text)
    found = offences(tmp_path)
    assert found
    assert all(line.startswith(f"{path}:") for line in found)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("fastpath/ports.py", "from fastpath._frame import Batch\nfrom fastpath.io import _pcap"),
        ("ctrl/app.py", "from fastpath import Forwarder, __version__\nfrom fastpath.model import Group"),
        (
            "ctrl/protocols/igmp.py",
            "import struct\nimport dpkt.igmp\nfrom ctrl.protocols.checks import whole",
        ),
        ("ctrl/membership.py", "from fastpath.model import Group\nfrom dataclasses import dataclass"),
        (
            "src_cython/fastpath/_engine.pyx",
            "from fastpath._fib cimport fib_find  # not fastpath.io\nimport os",
        ),
        (
            "src_cython/fastpath/io/_pcap.pyx",
            "from fastpath._frame cimport frame, batch\nfrom libc.errno cimport errno",
        ),
        ("tests/unit/test_fib.py", "import fastpath._fib, scapy.all"),
    ],
)
def test_a_lawful_import_is_not(tmp_path, path, text):
    plant(tmp_path, path, text)
    assert offences(tmp_path) == []


def test_an_undeclared_package_is_named(tmp_path):
    plant(tmp_path, "pyproject.toml", '[project]\ndependencies = ["numpy>=2", "dpkt"]\n')
    plant(tmp_path, "fastpath/ports.py", "import numpy as np\nimport dpkt.ip\nimport scapy.all\n")
    assert undeclared(tmp_path) == [
        "fastpath/ports.py:3 imports scapy.all, which pyproject.toml does not list in dependencies"
    ]


def test_a_reference_that_leans_on_compiled_code_is_named_with_its_way(tmp_path):
    plant(tmp_path, "src_cython/fastpath/_wire.pyx", "")
    plant(tmp_path, "fastpath/sums.py", "from fastpath import _wire")
    plant(tmp_path, "fastpath/reference.py", "import dpkt\nfrom fastpath.sums import add")
    assert compiled_behind(tmp_path, Path("fastpath/reference.py")) == [
        "fastpath/reference.py:2 -> fastpath/sums.py:1 -> fastpath._wire"
    ]


def test_the_command_starts_without_what_takes_long_to_import():
    heavy = "{'numpy', 'pydantic', 'dpkt', 'rich', 'fastpath', 'grpc', 'aiohttp', 'pyroute2'}"
    told = run(sys.executable, "-c", f"import sys, ctrl.cli; print({heavy} & set(sys.modules))", cwd=ROOT)
    assert told == "set()\n"


@pytest.mark.parametrize(
    ("wanted", "heavy"),
    [
        ("ctrl.cli.check", "numpy dpkt pyroute2 aiohttp prometheus_client grpc google rich asyncio ssl"),
        (
            "ctrl.cli.run, ctrl.control.listen, ctrl.daemon, ctrl.rpc.tls",
            "numpy aiohttp prometheus_client grpc google rich",
        ),
        ("ctrl.control.server", "numpy prometheus_client grpc google rich"),
    ],
    ids=["a config is checked", "a box forwards", "a box is asked"],
)
def test_what_takes_long_to_import_comes_only_after(wanted, heavy):
    """A box that was killed forwards a second after it was started again: what nobody needs until then is
    not imported until then."""
    names = set(heavy.split())
    told = run(sys.executable, "-c", f"import sys, {wanted}; print({names} & set(sys.modules))", cwd=ROOT)
    assert told == "set()\n"


def test_no_table_of_the_config_is_built_by_itself():
    """To build what reads a table takes a millisecond or two; what reads a config has all of them in it."""
    built = "[table for table in schema.TABLES.values() if table.__pydantic_complete__]"
    told = run(sys.executable, "-c", f"from ctrl.config import schema; print({built})", cwd=ROOT)
    assert told == "[]\n"

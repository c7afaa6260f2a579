"""The README tells the truth: its tables, its commands, its links, its map, and what it shows of the demo."""

import ast
import os
import re
import sys
import time
from pathlib import Path

import pytest

from ctrl.lab import namespaces
from tests.house.tree import ROOT, run

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
"""(language, text) of the code blocks."""
SHELL = [line for language, text in BLOCKS if not language for line in text.splitlines()]
FASTPATH = (sys.executable, "-c", "from ctrl.cli import main; main(prog_name='fastpath')")
RACED = re.compile(r"^(\w+) +[\d,]{4,} ", re.MULTILINE)
"""The paths of a race whose copies arrived."""
FIGURES = re.compile(r"[\d.,]+ (?=ms:|million)|\b(?:receive|classify|replicate) [\d,]+")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Make a folder that looks like the tree to who reads it, and where what is written does no harm."""
    for name in ("examples", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "build" / "demo").mkdir(parents=True)
    return tmp_path


def part(name: str) -> str:
    """What stands between two marks."""
    found = re.search(rf"<!-- {name}:begin -->\n(.*?)<!-- {name}:end -->", README, re.DOTALL)
    assert found, f"README has no part {name}"
    return found[1]


def test_its_tables_are_those_of_the_code():
    run(sys.executable, "scripts/readme_tables.py", "--check", cwd=ROOT)


def test_a_table_that_is_not_that_of_the_code_is_noticed(tmp_path):
    """The check itself, on a copy of the tree's README with one word changed."""
    for path in ROOT.iterdir():
        if path.name not in {"README.md", "scripts", "build"}:
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "readme_tables.py").write_text(
        (ROOT / "scripts" / "readme_tables.py").read_text()
    )
    check = (sys.executable, "scripts/readme_tables.py", "--check")
    (tmp_path / "README.md").write_text(README)
    run(*check, cwd=tmp_path)
    for word, other in (("| `not_ours` |", "| `ours` |"), ("+ dropped 11", "+ dropped 12")):
        assert word in README
        (tmp_path / "README.md").write_text(README.replace(word, other))
        assert "not those of the code" in run(*check, cwd=tmp_path, fails=True)


# --- commands -----------------------------------------------------------------------------------------------

COMMANDS = [line.removeprefix("$ ") for line in SHELL if line.removeprefix("$ ").startswith("fastpath ")]
LIVE = [line for line in COMMANDS if line.split()[1] in {"run", "show", "bench"}]


@pytest.mark.skipif(namespaces.missing() is not None, reason=str(namespaces.missing()))
def test_every_live_command_does_what_it_is_there_for(tmp_path: Path):
    """In a namespace with interfaces of the names that the example gives them."""
    (start,) = [line for line in LIVE if line.startswith("fastpath run ")]
    shows = [line for line in LIVE if line.startswith("fastpath show ")]
    assert len(shows) == 3
    socket = Path("/run/fastpath/tor1.sock")
    if socket.exists():
        pytest.skip(f"{socket}: another box of this name runs here")
    with (tmp_path / "log").open("w") as log, namespaces.Lab("readme") as lab:
        box, far = lab.namespace("box"), lab.namespace("far")
        for device in ("p1", "p2", "core"):
            namespaces.connect(box, device, far, device, mtu=1600)
        daemon = box.popen(*FASTPATH, *start.split()[1:], cwd=ROOT, stderr=log)
        try:
            for _ in range(200):
                if socket.exists() or daemon.poll() is not None:
                    break
                time.sleep(0.05)
            assert daemon.poll() is None, (tmp_path / "log").read_text()
            for line in shows:
                assert run(*FASTPATH, *line.split()[1:], cwd=ROOT).splitlines()
        finally:
            daemon.terminate()
            assert daemon.wait(10) == 0


@pytest.mark.skipif(namespaces.missing() is not None, reason=str(namespaces.missing()))
def test_the_race_is_run():
    (race,) = [line for line in LIVE if line.startswith("fastpath bench ")]
    printed = run(*FASTPATH, *race.split()[1:], "--seconds", "0.01", "--egresses", "4", cwd=ROOT)
    assert set(RACED.findall(printed)) >= {"trains", "forward", "kernel", "limit"}


@pytest.mark.parametrize("command", [line for line in COMMANDS if line not in LIVE])
def test_every_fastpath_command_does_what_it_is_there_for(command: str, elsewhere: Path):
    run(*FASTPATH, *command.split()[1:], cwd=elsewhere)


def test_there_is_no_command_that_these_tests_do_not_run():
    demo = part("demo").splitlines()
    drawing = next(text for _, text in BLOCKS if "DEVICE (ToR)" in text).splitlines()
    others = [line for line in SHELL if line.strip() and line not in {*demo, *drawing, *COMMANDS}]
    assert {line.split("#")[0].strip() for line in others} == {"make demo", "make test"}
    assert {language for language, _ in BLOCKS} == {"", "toml", "python", "console"}


def test_every_make_target_that_it_names_is_one():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)\b(?=`|\s+#)", README))
    assert {"demo", "test", "bench"} <= named <= targets


def test_make_test_is_what_ci_runs():
    assert re.search(r"^step make test$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)


def test_the_python_block_runs_as_it_stands(elsewhere: Path):
    (program,) = [text for language, text in BLOCKS if language == "python"]
    ast.parse(program)
    assert re.fullmatch(
        r"280 frames in, \d+ copies out, \d+ of them to the peer\n",
        run(sys.executable, "-c", program, cwd=elsewhere),
    )


# --- the demo -----------------------------------------------------------------------------------------------


def steady(text: str) -> set[str]:
    """The lines of the lab's story but for who built it, times, and what an ARP more or less changes."""
    varies = r"[\d.]+ ms$|^ *[\d.]+ s|^built .*:|^vm\d .*$|live +\d+$"
    masked = re.sub(varies, "#", text, flags=re.MULTILINE)
    return {" ".join(line.split()) for line in masked.splitlines()}


def test_what_it_shows_of_the_demo_is_what_the_demo_prints_but_for_times_and_rates():
    venv = Path(sys.prefix)
    if not (venv / ".ready").exists():
        pytest.skip(f"{venv} was not made by `make build`")
    printed = run("make", "--no-print-directory", "demo", f"VENV={venv}", cwd=ROOT, PATH=os.environ["PATH"])
    shown = part("demo").removeprefix("```\n").removesuffix("```\n")
    assert FIGURES.sub("#", shown) in FIGURES.sub("#", printed)
    lab, _, at_length = printed.partition("a thousand times over")
    (copies,) = re.findall(r"^([\d,]+) copies to", shown, re.MULTILINE)
    assert re.search(
        rf"^{copies},000 copies to build/demo/long_copies.pcapng in .* million copies/s",
        at_length,
        re.MULTILINE,
    )
    if namespaces.missing() is None:
        shown_lab = part("lab").removeprefix("```console\n").removesuffix("```\n")
        assert steady(shown_lab) <= steady(lab)
        assert {"trains", "forward", "kernel"} <= set(RACED.findall(at_length))


# --- places -------------------------------------------------------------------------------------------------


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_every_link_leads_somewhere():
    anchors = {slug(heading) for heading in re.findall(r"^#+ (.*)$", README, re.MULTILINE)}
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert len(links) > 5
    relative = [link for link in links if not link.startswith("http")]
    dead = [
        link for link in relative if not (link[1:] in anchors if link[0] == "#" else (ROOT / link).exists())
    ]
    assert dead == []


MAP = re.findall(
    r"^\| (.*) \| (.*) \|$", README.split("## The map of the code")[1].split("\n## ")[0], re.MULTILINE
)[2:]


def places(cell: str) -> list[str]:
    """The modules and folders that a cell of the map names."""
    return [name for name in re.findall(r"`([\w/]+)`", cell) if name != "fastpath"]


def exists(folder: Path, name: str) -> bool:
    return any((folder / f"{name.rstrip('/')}{suffix}").exists() for suffix in ("", ".py", ".pyx", ".pxd"))


def test_every_module_of_the_map_exists():
    compiled = ROOT / "src_cython" / "fastpath"
    named = [
        (compiled if name[0] == "_" or name == "io/" else ROOT, name)
        for where, _ in MAP
        for name in places(where)
    ]
    for where, what in MAP:
        if where in {"`fastpath/`", "`ctrl/`"}:
            named += [(ROOT / where.strip("`/"), name) for name in places(what)]
    assert len(named) > 30
    assert [f"{folder.name}/{name}" for folder, name in named if not exists(folder, name)] == []


def test_every_module_of_the_data_path_stands_in_the_map():
    """One that nobody can find is as bad as one that is not there; `_frame` has structs alone."""
    named = {name for where, _ in MAP for name in places(where)}
    compiled = {path.stem for path in (ROOT / "src_cython" / "fastpath").glob("_*.p??")} - {"__init__"}
    assert compiled - named <= {"_frame"}

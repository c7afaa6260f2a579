"""`fastpath lab demo`: its story, and what is left when it is interrupted in the middle."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctrl.lab.namespaces import missing
from tests.system.labs import USER, Labs, no_user_namespace, short_folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as made:
        yield made


def count(pattern: str, text: str) -> int:
    return len(re.findall(pattern, text, re.MULTILINE))


def test_vms_reach_each_other_with_fastpath_alone_and_go_on_when_its_parts_are_killed(folder: Path):
    """D1, D4, D8, D12, M6, M10, M12: NVEs of Linux are served, in mesh and by a point, without multicast
    below."""
    if why_not := no_user_namespace():
        pytest.skip(why_not)
    labs = Labs(folder, *USER)
    titles = re.compile(r"^(?=fastpath starts|host4 leaves|It is back|kill -9|The manager)", re.MULTILINE)
    parts = titles.split(labs.run("demo"))
    before, started, left, back, manager, tor, again, point = parts
    assert count(": no answer$", before) == 2
    assert " ms" not in before
    assert count(r"host\d \(10\.\d\.\d\.2\) joined 239\.1\.1\.[12]00$", started) == 6
    assert count(r"^ping .*: [\d.]+ ms$", started) == 4
    assert count(r"^tor\d +239\.1\.1\.100 .* 10\.0\.0\.11[01] +point$", started) == 3
    assert count(r"^tor[12] +239\.1\.1\.200 .* 10\.0\.0\.[12] +mesh$", started) == 2
    assert re.search(r"^tor1 +core +core +20$", started, re.MULTILINE)
    assert re.search(r"^point[12] +core +core +20$", started, re.MULTILINE)
    assert count(r"^tor[12] +239\.1\.1\.100 .* 10\.0\.0\.[12] +mesh$", left) == 2
    assert count(r"^tor\d +239\.1\.1\.100 .* 10\.0\.0\.11[01] +point$", back) == 3
    for whole in (left, back, manager, again):
        assert count(r"^vm\d +\d+ +0 +0 ", whole) >= 2
    assert count(r"^vm[234] +\d+ +\d+ +0 ", tor) == count(r"^vm[234] +\d+ +\d+ +0 ", point) == 3
    assert point.endswith("The lab is down; nothing of it is left.\n")
    labs.expect_nothing_left()


@pytest.mark.parametrize("line", ["no answer", " joined "])
def test_a_ctrl_c_in_the_middle_leaves_nothing_behind(folder: Path, line: str):
    labs = Labs(folder)
    process = labs.start("demo")
    assert process.stdout is not None
    while line not in (said := process.stdout.readline()):
        assert said
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=30)
    assert (process.returncode, complaint) == (
        130,
        "fastpath lab demo: interrupted; nothing is left behind\n",
    )
    labs.expect_nothing_left()

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


def test_vms_reach_each_other_with_fastpath_alone_and_who_leaves_gets_no_more(folder: Path):
    """D1, D4, D9, D12: NVEs of Linux join and leave, and are served, without multicast below."""
    if why_not := no_user_namespace():
        pytest.skip(why_not)
    labs = Labs(folder, *USER)
    before, _, story = labs.run("demo").partition("fastpath starts")
    assert before.count(": no answer") == 3
    assert " ms" not in before
    assert len(re.findall(r"host\d \(10\.\d\.\d\.2\) joined 239\.1\.1\.[12]00$", story, re.MULTILINE)) == 6
    reached, _, left = story.partition("host4 sets its VXLAN devices down")
    assert len(re.findall(r"^ping .*: [\d.]+ ms$", reached, re.MULTILINE)) == 4
    assert re.search(r"^tor2 +p2 +host4 +20$", reached, re.MULTILINE)
    assert re.search(r"^tor2 +p2 +host4 +0$", left, re.MULTILINE)
    assert re.search(r"^tor2 +p1 +host3 +10$", left, re.MULTILINE)
    assert len(re.findall(r"host4 \(10\.2\.2\.2\) left 239\.1\.1\.[12]00$", left, re.MULTILINE)) == 2
    assert re.search(r"^tor2 +no_receiver +frame +lookup +1\d$", left, re.MULTILINE)
    assert left.endswith("The lab is down; nothing of it is left.\n")
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

"""`fastpath replay` where something cannot be used or written to its end: one sentence, no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

import ctrl.cli.replay
from ctrl.cli import main
from fastpath.errors import CaptureError
from tests.captures_io import read_frames
from tests.command import (
    CAPTURE,
    DEMO,
    SMALL,
    TO_GROUP,
    Box,
    pcap_of,
    pcapng_of,
)
from tests.replaying import is_query


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    """Make a folder to replay in, and go there."""
    monkeypatch.chdir(tmp_path)
    return Box(tmp_path)


def test_a_capture_that_is_not_there(box: Box):
    sentence = box.refuses("nowhere.pcap", "-c", "box.toml", "-o", "out.pcap")
    assert sentence == "nowhere.pcap: cannot be read: No such file or directory"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "byte 0: is empty"),
        (b"\x1f\x8b\x08\x00" + bytes(40), "byte 0: this is gzip: gunzip it first; expected a pcap or pcapng"),
        (b"Dear Sir or Madam, here is the capture", "byte 0: "),
    ],
    ids=["empty", "gzip", "letter"],
)
def test_an_alien_file_is_named_and_the_output_left_alone(box: Box, content: bytes, sentence: str):
    (box.folder / "alien.pcap").write_bytes(content)
    (box.folder / "out.pcap").write_text("precious")
    assert box.refuses("alien.pcap", "-c", "box.toml", "-o", "out.pcap").startswith(f"alien.pcap: {sentence}")
    assert (box.folder / "out.pcap").read_text() == "precious"


def test_a_folder_is_no_capture(box: Box):
    assert (
        box.refuses(".", "-c", "box.toml", "-o", "out.pcap") == ".: is a directory; expected a regular file"
    )


def test_a_config_with_errors_is_told_as_check_tells_it(box: Box):
    (box.folder / "box.toml").write_text(SMALL + "[dataplane]\nbatch = 0\nworkerz = 1\n")
    done = box.replay()
    assert (done.returncode, done.stdout) == (2, "")
    checked = CliRunner().invoke(main, ["check", "box.toml"])
    assert done.stderr.splitlines() == checked.output.splitlines()[:-1]
    assert [line.split(": ")[:3] for line in done.stderr.splitlines()] == [
        ["box.toml:21", "error", "dataplane.batch"],
        ["box.toml:22", "error", "dataplane.workerz"],
    ]


def test_a_config_that_is_not_there(box: Box):
    done = box.replay("in.pcap", "-c", "nowhere.toml", "-o", "out.pcap")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "nowhere.toml: error: cannot be read: No such file or directory\n"


def test_a_config_without_ports(box: Box):
    (box.folder / "box.toml").write_text('node = "a"\n')
    sentence = box.refuses()
    assert sentence == "box.toml: no [[port]] is given, so there is none for the frames to come in on"
    sentence = box.refuses("in.pcap", "-c", "box.toml", "-o", "out.pcap", "--in-port", "p1")
    assert sentence == "--in-port p1: no port is called that; the ports are none"


def test_a_config_with_more_ports_than_the_data_path_has_room_for(box: Box):
    ports = "".join(f'[[port]]\nname = "more{i}"\nfaces = "nve"\n' for i in range(254))
    (box.folder / "box.toml").write_text(SMALL + ports)
    done = box.replay()
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: port[256]: 257 ports given; the data path has room for 256" in done.stderr


def test_an_in_port_that_is_none_of_the_config_s(box: Box):
    sentence = box.refuses("in.pcap", "-c", "box.toml", "-o", "out.pcap", "--in-port", "p9")
    assert sentence == "--in-port p9: no port is called that; the ports are p1, p2, up"


def test_an_interface_that_is_none_of_the_config_s(box: Box):
    pcapng_of(box.folder / "in.pcapng", ("p11", TO_GROUP))
    sentence = box.refuses("in.pcapng", "-c", "box.toml", "-o", "out.pcap")
    assert (
        "interface 'p11' but no port is called that; the ports are p1, p2, up; did you mean 'p1'?" in sentence
    )


@pytest.mark.parametrize("name", ["out", "out.txt", "out.pcap.gz"])
def test_an_output_whose_name_does_not_say_what_to_write(box: Box, name: str):
    sentence = box.refuses("in.pcap", "-c", "box.toml", "-o", name)
    assert sentence == f"--out {name}: expected a name that ends in .pcap or .pcapng"


@pytest.mark.parametrize(
    ("role", "link"),
    [
        *((role, link) for role in ("in.pcap", "expect.pcap") for link in ("itself", "another way")),
        *(
            (role, link)
            for role in ("in.pcap", "expect.pcap", "box.toml")
            for link in ("hard link", "symbolic link")
        ),
    ],
)
def test_an_output_that_is_one_of_the_files_to_read_is_refused_before_it_is_emptied(
    box: Box, role: str, link: str
):
    pcap_of(box.folder / "expect.pcap", TO_GROUP)
    read, out = box.folder / role, box.folder / "out.pcap"
    if link == "hard link":
        out.hardlink_to(read)
    elif link == "symbolic link":
        out.symlink_to(role)
    elif link == "another way":
        (box.folder / "way").symlink_to(".")
        out = box.folder / "way" / role
    else:
        out = read
    before = read.read_bytes()
    sentence = box.refuses("in.pcap", "-c", "box.toml", "-o", out, "--expect", "expect.pcap")
    what = {
        "in.pcap": "the capture to read",
        "expect.pcap": "the capture to compare with",
        "box.toml": "the config",
    }
    assert sentence == f"--out {out}: is {what[role]}, {role}; writing would empty it"
    assert read.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nowhere/out.pcap", "No such file or directory"),
        ("folder.pcap", "Is a directory"),
        ("in.pcap/out.pcap", "Not a directory"),
        ("x" * 300 + ".pcap", "File name too long"),
        ("full.pcap", "No space left on device"),
    ],
)
def test_an_output_that_cannot_be_written(box: Box, name: str, why: str):
    (box.folder / "folder.pcap").mkdir()
    (box.folder / "full.pcap").symlink_to("/dev/full")
    assert box.refuses("in.pcap", "-c", "box.toml", "-o", name) == f"{name}: {why}"


@pytest.mark.parametrize("suffix", [".pcap", ".pcapng"])
def test_an_output_that_is_full_after_some_copies_is_exit_code_1_and_holds_whole_copies(
    box: Box, suffix: str
):
    """Nothing is lost silently: how many copies the file holds, and how far the replay got."""
    box.replay(CAPTURE, "-c", DEMO, "-o", "whole" + suffix)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
    done = box.process(CAPTURE, "-c", DEMO, "-o", "out" + suffix, before=limit)
    assert (done.returncode, done.stdout) == (1, "")
    held, whole = read_frames(box.folder / ("out" + suffix)), read_frames(box.folder / ("whole" + suffix))
    assert 0 < len(held) < len(whole)
    assert held == whole[: len(held)]
    copies = [one for one in held if not is_query(one[2])]
    assert done.stderr == (
        f"fastpath replay: out{suffix}: File too large; it holds the first {len(copies)} copies, "
        "the others are lost (reached frame 279 of 280)\n"
    )


def test_the_help_tells_the_exit_codes(box: Box):
    told = " ".join(box.replay("--help").stdout.split())
    assert (
        "Exits with 1 if the copies are not those of --expect, if the capture is damaged, or if OUT could"
        in told
    )
    assert "Exits with 2 if something cannot be used; then nothing was forwarded." in told


def test_words_that_are_missing_are_asked_for(box: Box):
    done = box.replay("in.pcap")
    assert done.returncode == 2
    assert "Missing option" in done.stderr


def test_a_failure_behind_the_replay_is_no_traceback_either(box: Box, monkeypatch: pytest.MonkeyPatch):
    """The output is gone when it is to be compared."""

    def fails(*_: object) -> list[str]:
        raise CaptureError("out.pcap", "is empty", 0)

    monkeypatch.setattr(ctrl.cli.replay, "differences", fails)
    sentence = box.refuses("in.pcap", "-c", "box.toml", "-o", "out.pcap", "--expect", "in.pcap")
    assert sentence == "out.pcap: byte 0: is empty"

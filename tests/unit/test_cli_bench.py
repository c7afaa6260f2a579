"""The command `fastpath bench wire`: its options, what it prints and where; nobody runs here."""

import json
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from ctrl.cli import bench, main
from ctrl.race import latency, wire
from ctrl.race.latency import Latency
from ctrl.race.traffic import Load
from ctrl.race.wire import Row


def bench_wire(*options: str) -> Result:
    return CliRunner().invoke(main, ["bench", "wire", *options])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--egresses", "0"], "0 is not in the range 1<=x<=1000"),
        (["--size", "63"], "63 is not in the range 64<=x<=1500"),
        (["--ports", "65"], "65 is not in the range 1<=x<=64"),
        (["--seconds", "0"], "0.0 is not in the range 0.01<=x<=60"),
        (["--seconds", "soon"], "'soon' is not a valid float"),
    ],
)
def test_an_option_out_of_range_is_refused_with_the_range(options, complaint):
    done = bench_wire(*options)
    assert done.exit_code == 2
    assert complaint in done.output


def test_without_the_right_to_make_namespaces_it_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(bench, "missing", lambda: "needs root, or a user namespace: unshare -Urnm")
    done = bench_wire()
    assert done.exit_code == 4
    assert done.output == "fastpath bench wire: needs root, or a user namespace: unshare -Urnm\n"


class FakeTrack:
    """A track on which nothing can be raced."""

    cpu, other_cpu = 1, 0
    sink = SimpleNamespace(why_not_exact=None)

    def __init__(self, n_ports):
        self.n_ports = n_ports

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def nobody_runs(monkeypatch):
    """Rows of invented figures, and no namespace."""
    monkeypatch.setattr(bench, "missing", lambda: None)
    monkeypatch.setattr(bench, "Track", FakeTrack)
    monkeypatch.setattr(
        wire, "race", lambda track, load, seconds: [Row(path, load, 2e6) for path in wire.paths(load)]
    )
    latencies = [Latency(path, Load(8, 64), 100, 99, 35.0, 86.0) for path in ("forward", "kernel")]
    monkeypatch.setattr(latency, "compare", lambda track, loads, seconds: latencies)


@pytest.mark.usefixtures("nobody_runs")
def test_json_is_one_array_and_all_else_goes_to_stderr():
    done = bench_wire("-j")
    rows = json.loads(done.stdout)
    assert len(rows) == 4 * len(wire.PATHS)
    assert {(row["egresses"], row["size"]) for row in rows} == {(8, 64), (50, 64), (8, 1400), (50, 1400)}
    assert "Linux" in done.stderr
    assert "MB" in done.stderr


@pytest.mark.usefixtures("nobody_runs")
def test_the_table_names_machine_conditions_loads_paths_latency_and_memory():
    lines = bench_wire("--egresses", "8", "--size", "64").output.splitlines()
    assert (
        lines[1]
        == "copies made on CPU 1, frames generated on CPU 0; datagrams counted by a program at the sink"
    )
    assert lines[3] == "8 receivers, 64 B in VXLAN, trains of 44"
    end = 5 + len(wire.PATHS)
    assert lines[5].split()[:7] == ["clones", "2,000,000", "500.0", "1.0", "1.0", "1.0", "memory"]
    assert [line.split()[0] for line in lines[5:end]] == list(wire.PATHS)
    assert lines[end + 1] == "latency at 1,000 frames/s, 8 receivers, 64 B: from an NVE to the last copy"
    assert lines[end + 3].split() == ["forward", "35.0", "86.0", "100", "99", "-"]
    assert lines[-1].startswith("most memory ever held: ")


@pytest.mark.usefixtures("nobody_runs")
def test_receivers_behind_several_ports_are_said_to_be_so():
    printed = bench_wire("--egresses", "8", "--size", "64", "--ports", "3").output
    assert "\n8 receivers behind 3 ports, 64 B in VXLAN, trains of 44\n" in printed


@pytest.mark.usefixtures("nobody_runs")
def test_ctrl_c_ends_with_130_and_one_sentence(monkeypatch):
    def interrupt(*_: object) -> list[Row]:
        raise KeyboardInterrupt

    monkeypatch.setattr(wire, "race", interrupt)
    done = bench_wire()
    assert done.exit_code == 130
    assert done.stderr == "fastpath bench wire: interrupted; nothing is left behind\n"

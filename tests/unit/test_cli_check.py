"""`fastpath check FILE`: its lines, its summary, its exit code."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from ctrl.cli import main
from ctrl.cli.check import summary
from tests.unit.test_config import LIVE, write_tls


def run(*args: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["check", *args])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def test_errors_are_lines_that_grep_and_editors_know_and_the_exit_code_is_2(tmp_path):
    file = tmp_path / "f.toml"
    file.write_text('node = "a"\n[dataplane]\nbatch = 0\nworkers = 0\n[control]\nhttp = "0.0.0.0:1"\n')
    code, output = run(str(file))
    assert code == 2
    assert output == (
        f"{file}:1: warning: no [nve], [device], [replicator] or [manager] is given, so all is dropped\n"
        f"{file}:3: error: dataplane.batch: 0 given; expected a number from 1 to 256\n"
        f"{file}:4: error: dataplane.workers: 0 given; expected a number from 1 to 256\n"
        f"{file}:6: warning: control.http: 0.0.0.0:1 is not of this box alone: whoever reaches it can read "
        "the metrics, as nobody is asked who they are\n"
        "2 errors, 2 warnings\n"
    )


def test_warnings_alone_leave_the_exit_code_at_0(tmp_path):
    file = tmp_path / "f.toml"
    file.write_text(LIVE)
    write_tls(tmp_path)
    code, output = run(str(file))
    assert code == 0
    assert output.endswith("\nno errors, 2 warnings\n")


def test_json_is_an_array_of_flat_objects(tmp_path):
    file = tmp_path / "f.toml"
    file.write_text("[dataplane]\nbatch = 0\n")
    code, output = run("-j", str(file))
    assert code == 2
    assert json.loads(output) == [
        {
            "severity": "warning",
            "file": str(file),
            "line": 1,
            "key": "",
            "message": "no [nve], [device], [replicator] or [manager] is given, so all is dropped",
        },
        {
            "severity": "error",
            "file": str(file),
            "line": 2,
            "key": "dataplane.batch",
            "message": "0 given; expected a number from 1 to 256",
        },
    ]
    file.write_text("")
    assert run("-j", str(file))[0] == 0


def test_a_file_that_is_not_there_is_an_error_like_any_other():
    assert run("/nowhere") == (
        2,
        "/nowhere: error: cannot be read: No such file or directory\n1 error, no warnings\n",
    )
    assert json.loads(run("-j", "/nowhere")[1])[0]["line"] == 0


@pytest.mark.parametrize(
    ("are_errors", "words"),
    [
        ([], "no errors, no warnings"),
        ([True], "1 error, no warnings"),
        ([False, True, True], "2 errors, 1 warning"),
    ],
)
def test_the_summary_counts_in_words(are_errors, words):
    assert summary(are_errors) == words


def test_the_commands_help_imports_neither_the_config_nor_what_it_needs():
    code = (
        "import sys, ctrl.cli; print([m for m in ('pydantic', 'numpy', 'ctrl.config') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"

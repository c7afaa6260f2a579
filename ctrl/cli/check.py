"""`fastpath check FILE`: everything that is wrong with a config, and everything to think twice about."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from ctrl.config import Severity
from ctrl.config import check as check_config


@click.command("check")
@click.argument("file", type=click.Path())
@click.option("-j", "--json", "as_json", is_flag=True, help="Print a JSON array of findings.")
def check(file: str, as_json: bool) -> None:
    """Check a config FILE: every error and warning, with file, line and key.

    Exits with 0 if the config can be used, warnings or not, and with 2 if it has errors.
    """
    findings = check_config(file)
    if as_json:
        click.echo(json.dumps([asdict(f) | {"severity": f.severity.value} for f in findings], indent=2))
    else:
        for finding in findings:
            click.echo(str(finding))
        click.echo(summary([finding.severity is Severity.ERROR for finding in findings]))
    if any(finding.severity is Severity.ERROR for finding in findings):
        raise SystemExit(2)


def summary(are_errors: list[bool]) -> str:
    """Count errors and warnings in words."""
    n_errors, n_warnings = sum(are_errors), len(are_errors) - sum(are_errors)
    return f"{_count(n_errors, 'error')}, {_count(n_warnings, 'warning')}"


def _count(n: int, what: str) -> str:
    return f"{n or 'no'} {what}" if n == 1 else f"{n or 'no'} {what}s"

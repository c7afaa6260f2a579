"""`fastpath run -c FILE`: the daemon."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
from pathlib import Path
from typing import NoReturn

import click

from ctrl.config import read

NOT_DONE, MISUSED, NOT_ALLOWED = 1, 2, 4


@click.command("run")
@click.option(
    "-c", "--config", "config_file", required=True, type=click.Path(), help="The config to forward by."
)
def run(config_file: str) -> None:
    """Forward between live interfaces as a config says, in the foreground.

    SIGHUP reads the config again and applies the difference; a bad one is refused, and the old one stays.
    SIGTERM and Ctrl-C forward what waits, and end it. Takes CAP_NET_RAW and CAP_NET_ADMIN.

    Exits with 2 if the config cannot be used, with 4 if the system does not allow it, with 1 if something
    else is in the way (another instance on an interface).
    """
    reading = read(config_file)
    for finding in reading.findings:
        click.echo(str(finding), err=True)
    if reading.config is None:
        raise SystemExit(MISUSED)
    gc.disable()  # until it forwards: all that a start makes stays
    from ctrl.control.listen import ControlError  # noqa: PLC0415  imported once the config is good
    from ctrl.daemon import Daemon, StartError  # noqa: PLC0415
    from ctrl.rpc.tls import TlsError  # noqa: PLC0415
    from ctrl.store.model import StoreError  # noqa: PLC0415

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(Daemon(Path(config_file), reading.config).run())
    except StartError as error:
        _fail(f"{config_file}: {error}", MISUSED)
    except (StoreError, TlsError) as error:
        _fail(str(error), NOT_DONE)
    except ControlError as error:
        _fail(str(error), NOT_DONE if error.is_allowed else NOT_ALLOWED)
    except OSError as error:
        _fail(str(error), NOT_ALLOWED if error.errno in {errno.EPERM, errno.EACCES} else NOT_DONE)


def _fail(sentence: str, code: int) -> NoReturn:
    click.echo(f"fastpath run: {sentence}", err=True)
    raise SystemExit(code)

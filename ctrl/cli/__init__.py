"""The command `fastpath`: one module a subcommand, imported when it is called.

`fastpath --help` and `fastpath show` answer within 150 ms, so nothing here imports numpy, pydantic or a
subcommand.
"""

import gc
from importlib import import_module

import click

# name: where the command lives, and the sentence that `fastpath --help` shows for it
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("ctrl.cli.run:run", "Forward between live interfaces, as a config says."),
    "replay": ("ctrl.cli.replay:replay", "Send a capture through the data path, and show what became of it."),
    "show": ("ctrl.cli.show:show", "Look into a running box: status, ports, groups, tunnels, drops, ..."),
    "monitor": ("ctrl.cli.monitor:monitor", "Watch a running box: who joins and leaves, groups, tunnels."),
    "notify": ("ctrl.cli.notify:notify", "Tell a running box that a VM moved: it asks the NVEs named."),
    "explain": (
        "ctrl.cli.explain:explain",
        "Explain what becomes of a frame: each step, each copy, why not.",
    ),
    "check": ("ctrl.cli.check:check", "Check a config: every error and warning, with file, line and key."),
    "lab": ("ctrl.cli.lab:lab", "Build a small data centre of Linux VXLAN hosts, and remove it."),
    "bench": ("ctrl.cli.bench:bench", "Race the data path against the kernel, on this machine."),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and sentence, and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name][0].split(":")
        gc.disable()  # what imports make stays
        try:
            command: click.Command = getattr(import_module(module), attribute)
        finally:
            gc.enable()
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if COMMANDS:
            with formatter.section("Commands"):
                formatter.write_dl([(name, sentence) for name, (_, sentence) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fastpath", message="fastpath %(version)s")
def main() -> None:
    """Replicate the broadcast, unknown-unicast and multicast frames of VXLAN and NVGRE overlays."""

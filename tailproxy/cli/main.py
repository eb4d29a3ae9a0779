"""The group of commands. Each is imported when it is called: help and completion stay quick."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

import tailproxy

# Each command by the module that has it, under its own name.
_COMMANDS: dict[str, str] = {
    "configure": "tailproxy.cli.configure",
    "doctor": "tailproxy.cli.doctor",
    "explain": "tailproxy.cli.explain",
    "kubeconfig": "tailproxy.cli.kubeconfig",
    "play": "tailproxy.cli.play",
    "rbac": "tailproxy.cli.rbac",
    "sessions": "tailproxy.cli.sessions",
    "whoami": "tailproxy.cli.whoami",
}


class Commands(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names, sorted."""
        return sorted({*super().list_commands(ctx), *_COMMANDS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or None."""
        if cmd_name in _COMMANDS:
            found: Any = getattr(import_module(_COMMANDS[cmd_name]), cmd_name)
            return found if isinstance(found, click.Command) else None
        return super().get_command(ctx, cmd_name)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(tailproxy.__version__, prog_name="tailproxy", message="%(prog)s %(version)s")
def main() -> None:
    """Reach Kubernetes API servers over the tailnet, as who you are there."""


def kubectl() -> None:
    """Entry point of the kubectl plugin: the same commands as `kubectl tailproxy ...`."""
    main(prog_name="kubectl tailproxy")

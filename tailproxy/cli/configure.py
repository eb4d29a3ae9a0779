"""`tailproxy configure`: the commands that set something up, under the name others give them."""

from __future__ import annotations

import click

from tailproxy.cli.kubeconfig import kubeconfig


@click.group()
def configure() -> None:
    """Set up what uses the tailnet."""


configure.add_command(kubeconfig)

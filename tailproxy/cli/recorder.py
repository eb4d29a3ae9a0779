"""What commands on recordings have in common: the way to the recorder that has them."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tailproxy.client.access import read_access
from tailproxy.client.connection import Connection, ConnectionFailed
from tailproxy.client.localsocket import LocalConnection
from tailproxy.client.sessions import Sessions
from tailproxy.kubeconfig import kubeconfig_paths
from tailproxy.schema import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def recorder_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where the recorder is."""
    for option in (
        click.option(
            "--socket",
            type=click.Path(path_type=Path),
            envvar="TAILPROXY_SESSIONS",
            show_envvar=True,
            help="The recorder of this machine, by its unix socket.",
        ),
        click.option(
            "--kubeconfig",
            type=click.Path(path_type=Path, dir_okay=False),
            help="The kubeconfig; the files of KUBECONFIG, or ~/.kube/config, if left out.",
        ),
        click.option("--context", help="The kubeconfig's context; its current one if left out."),
    ):
        command = option(command)
    return command


@contextmanager
def recorder(
    socket: Path | None, kubeconfig: Path | None, context: str | None
) -> Iterator[Sessions]:
    """The recorder that the options name. What goes wrong with it ends the command."""
    try:
        if socket is None:
            with Connection(read_access(kubeconfig_paths(kubeconfig), context)) as connection:
                yield Sessions(connection)
        else:
            with LocalConnection(socket) as local:
                yield Sessions(local)
    except (ConfigError, ConnectionFailed) as error:
        raise click.ClickException(str(error)) from error

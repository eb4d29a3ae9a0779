"""`tailproxy doctor`: looks at everything that a request needs."""

from __future__ import annotations

from typing import Any

import attrs
import click

from tailproxy.cli.host import config_option, run
from tailproxy.cli.output import echo_data, echo_rows, output_option
from tailproxy.doctor import Finding, examine

_SHOWN = {True: "ok", False: "problem", None: "-"}


@click.command()
@config_option
@output_option
def doctor(config: str, output: str | None) -> None:
    """Look at everything that a request needs, and say what to do.

    On the host of the proxy: configuration, tailscaled, node, name, serve, the service's own
    readiness, API server and the right to impersonate. The exit status is 1 if there is a problem.
    """
    found: list[Finding] = []

    async def work(reactor: Any) -> None:
        async for finding in examine(config, reactor):
            found.append(finding)
            if not output:
                echo_rows([(f"{_SHOWN[finding.ok]:7}  {finding.name:<15}", finding.detail)])

    run(work, ())
    if output:
        echo_data([attrs.asdict(finding) for finding in found], output)
    if any(finding.ok is False for finding in found):
        raise click.exceptions.Exit(1)

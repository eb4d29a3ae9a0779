"""`tailproxy whoami`: who the proxy says I am, why, and what I may do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tailproxy.cli.output import echo_data, echo_rows, output_option
from tailproxy.client.access import read_access
from tailproxy.client.connection import ConnectionFailed
from tailproxy.client.whoami import REPEATS, who_am_i
from tailproxy.kubeconfig import kubeconfig_paths
from tailproxy.schema import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from tailproxy.client.whoami import Finding


@click.command()
@click.option("--context", help="The kubeconfig's context; its current one if left out.")
@click.option("-n", "--namespace", help="Where to look what you may do; the context's if left out.")
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The kubeconfig; the files of KUBECONFIG, or ~/.kube/config, if left out.",
)
@output_option
def whoami(
    context: str | None, namespace: str | None, kubeconfig: Path | None, output: str | None
) -> None:
    """Show who a proxy says you are, why, and what you may do there."""
    try:
        access = read_access(kubeconfig_paths(kubeconfig), context)
        finding = who_am_i(access, namespace or access.namespace)
    except (ConfigError, ConnectionFailed) as error:
        raise click.ClickException(str(error)) from error
    if output:
        echo_data(finding.as_json(), output)
    else:
        echo_rows(_rows(finding))


def _rows(finding: Finding) -> Iterator[tuple[str, str]]:
    caller, access, latency = finding.caller, finding.access, finding.latency
    yield "You are", caller["user"]
    yield "", f"on the node {caller['node']['name']}, from {caller.get('address', 'nowhere')}"
    yield from _groups(caller)
    yield "Service", f"{access.server} (context {access.context})"
    version = f"tailproxy {caller.get('version', '(older)')}"
    service = f", {caller['service']}" if caller.get("service") else ""
    yield "", f"{version}, mode {caller.get('mode', 'unknown')}{service}"
    yield from _permissions(finding)
    yield "Latency", f"{_ms(latency.first)} to the first answer, connection included"
    yield "", f"{_ms(latency.proxy)} for an answer of the proxy (median of {REPEATS})"
    yield "", f"{_ms(latency.cluster)} for one of the API server"


def _groups(caller: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    label = "Groups"
    for reason in caller.get("groupReasons", ()):
        yield label, f"{reason['group']}: {reason['reason']}"
        label = ""
    if label:
        yield label, "none: no grant of the tailnet's policy gives you one"


def _permissions(finding: Finding) -> Iterator[tuple[str, str]]:
    label = "You may"
    if finding.status is None:
        yield label, f"unknown: {finding.refused}"
        return
    yield label, f"in the namespace {finding.namespace}:"
    for permission in finding.permissions:
        verbs = "do all" if permission.verbs == ("*",) else " ".join(permission.verbs)
        yield "", f"{verbs}: {', '.join(permission.things)}"
    if not finding.permissions:
        user = finding.caller["user"]
        yield "", f"nothing; ask the cluster's administrator to bind the user {user}"
    if not finding.complete:
        yield "", "perhaps more: the cluster cannot list all that it allows"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"

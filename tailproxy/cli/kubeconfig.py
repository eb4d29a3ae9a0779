"""`tailproxy kubeconfig`: kubectl is told of a proxy."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tailproxy.cli.host import run
from tailproxy.client import kubeconfigfile
from tailproxy.client.destination import DestinationError, resolve
from tailproxy.client.kubeconfigfile import KubeconfigFileError
from tailproxy.client.user import kept_user
from tailproxy.kubeconfig import kubeconfig_paths
from tailproxy.options import Tailscaled
from tailproxy.schema import ConfigError
from tailproxy.tailnet.localapi import LocalAPI, LocalAPIError
from tailproxy.wire.kubeconfig import USER, Entry, KubeconfigError, add
from tailproxy.wire.kubeconfig import remove as take_out

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tailproxy.wire.kubeconfig import Edit

_FILE = click.Path(dir_okay=False, path_type=Path)


def _name(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """Refuse what nobody could select later."""
    if value is not None and not (value.strip() and value.isprintable()):
        raise click.BadParameter("it must have at least one character, and printable ones alone")
    return value


@click.command()
@click.argument("url")
@click.option(
    "--context", metavar="NAME", callback=_name, help="The context's name [default: NAME in full]."
)
@click.option(
    "--cluster", metavar="NAME", callback=_name, help="The cluster's name [default: NAME in full]."
)
@click.option("--user", metavar="NAME", callback=_name, help=f"The user's name [default: {USER}].")
@click.option("-n", "--namespace", metavar="NAME", callback=_name, help="The context's namespace.")
@click.option(
    "--keep-user",
    is_flag=True,
    help="For a proxy in noauth mode: the context gets a user that is there already, with "
    "its own credentials; that of --user, else of the current context.",
)
@click.option(
    "--set-current/--no-set-current",
    default=True,
    help="Whether the context becomes the current one [default: it does].",
)
@click.option("--http", is_flag=True, help="Plain HTTP where URL has no scheme.")
@click.option("--ca", metavar="FILE", type=_FILE, help="PEM certificates that vouch for the proxy.")
@click.option(
    "--proxy-url", metavar="URL", callback=_name, help="An HTTP or SOCKS5 proxy into the tailnet."
)
@click.option("--kubeconfig", "file", metavar="FILE", type=_FILE, help="The file to change.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["-"]),
    help="Print a kubeconfig of this entry alone, and change no file.",
)
@click.option(
    "--remove",
    is_flag=True,
    help="Take the context out again, and the cluster unless another context uses it.",
)
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@click.option(
    "--socket",
    metavar="PATH",
    default=str(Tailscaled().socket),
    show_default=True,
    help="tailscaled's socket.",
)
def kubeconfig(
    url: str,
    context: str | None,
    cluster: str | None,
    user: str | None,
    namespace: str | None,
    keep_user: bool,
    set_current: bool,
    http: bool,
    ca: Path | None,
    proxy_url: str | None,
    file: Path | None,
    output: str | None,
    remove: bool,
    dry_run: bool,
    socket: str,
) -> None:
    """Have kubectl reach a cluster through a proxy on the tailnet.

    URL is https://NAME or NAME, where NAME is the proxy's host name, full or short, with a port if
    it has one of its own; or svc:NAME for a Tailscale Service; or an address.

    The file is the one kubectl would use: the first of KUBECONFIG that is there, else
    ~/.kube/config. Nothing in it changes but the entry's cluster, user and context.
    """
    if output and remove:
        raise click.UsageError("--remove changes a file, and --output none")
    files = kubeconfig_paths(file)
    status, unknown = _status(socket)
    try:
        proxy = resolve(url, status, http=http, unknown=unknown)
        warnings = list(proxy.warnings)
        if keep_user:
            user, doubt = kept_user(files, user)
            warnings += [doubt] if doubt else []
        entry = Entry(
            server=proxy.url,
            cluster=cluster or proxy.name,
            context=context or proxy.name,
            user=user or USER,
            keep_user=keep_user,
            namespace=namespace,
            authority=kubeconfigfile.read_authority(ca) if ca else None,
            proxy_url=proxy_url,
            current=set_current,
        )
        for warning in warnings:
            click.echo(f"Warning: {warning}", err=True)
        if output:
            click.echo(add("", entry).text, nl=False)
            return
        target = kubeconfigfile.choose(files)
        edit = partial(add, entry=entry)
        if remove:
            edit = partial(take_out, context=entry.context, cluster=entry.cluster)
        made = _change(target, edit, dry_run=dry_run)
    except (ConfigError, DestinationError, KubeconfigError, KubeconfigFileError) as error:
        raise click.ClickException(str(error)) from error
    _tell(target, made.changes, dry_run=dry_run)
    if not dry_run and not remove:
        words = ["kubectl"]
        words += ["--kubeconfig", str(file)] if file else []
        words += [] if set_current else ["--context", entry.context]
        click.echo(f"Next: {shlex.join([*words, 'auth', 'whoami'])}", err=True)


def _change(target: Path, edit: Callable[[str], Edit], *, dry_run: bool) -> Edit:
    try:
        if dry_run:
            return edit(kubeconfigfile.read(target))
        return kubeconfigfile.change(target, edit)
    except KubeconfigError as error:
        raise KubeconfigError(f"{target}: {error}") from error


def _tell(target: Path, changes: tuple[str, ...], *, dry_run: bool) -> None:
    if not changes:
        click.echo(f"{target}: nothing to change", err=True)
        return
    click.echo(f"{target}{' would change' if dry_run else ''}:", err=True)
    for line in changes:
        click.echo(f"  {line}", err=True)


def _status(socket: str) -> tuple[Mapping[str, Any] | None, str]:
    """Ask tailscaled for its status; None, and why, if it cannot be asked."""

    async def ask(reactor: Any) -> tuple[Mapping[str, Any] | None, str]:
        tailscaled = LocalAPI(reactor, socket)
        try:
            return await tailscaled.status(peers=True), ""
        except LocalAPIError as error:
            # Its advice is for the service, which has a configuration.
            return None, error.message.partition(";")[0]
        finally:
            await tailscaled.close()

    return run(ask, ())

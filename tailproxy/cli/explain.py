"""`tailproxy explain`: what becomes of a request, asked on the proxy's host."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click
from twisted.internet.defer import Deferred

from tailproxy.cli.host import config_option, run
from tailproxy.cli.output import echo_data, echo_rows, output_option
from tailproxy.client import explain as client
from tailproxy.config import load
from tailproxy.errors import ApiError
from tailproxy.options import ResolverKind
from tailproxy.parts import Parts
from tailproxy.policy.decide import Rules
from tailproxy.policy.identity import Caller, IdentityError
from tailproxy.schema import ConfigError
from tailproxy.tailnet.localapi import LocalAPIError
from tailproxy.tailnet.lookup import UnknownNodeError, identity_at, node_address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tailproxy.config import Config
    from tailproxy.policy.grants import GrantRule
    from tailproxy.wire.http1 import Header

_PROBLEMS = (ApiError, ConfigError, IdentityError, LocalAPIError, UnknownNodeError)


@click.command()
@click.option("--node", metavar="NAME", help="The caller, by the name of a node.")
@click.option("--addr", metavar="IP", help="The caller, by a tailnet address.")
@config_option
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    help="tailscaled's socket; that of the configuration if left out.",
)
@click.option(
    "--listener", metavar="NAME", help="Where the caller comes in; the first if left out."
)
@click.option("--as", "user", metavar="USER", help="As `kubectl --as`.")
@click.option(
    "--as-group", "groups", metavar="GROUP", multiple=True, help="As `kubectl --as-group`."
)
@click.option(
    "-H",
    "--header",
    "headers",
    metavar="NAME:VALUE",
    multiple=True,
    help="A header of the request.",
)
@output_option
@click.argument("request", nargs=-1)
def explain(
    node: str | None,
    addr: str | None,
    config: str,
    socket: Path | None,
    listener: str | None,
    user: str | None,
    groups: tuple[str, ...],
    headers: tuple[str, ...],
    output: str | None,
    request: tuple[str, ...],
) -> None:
    """Show who a node is to the proxy, why, and what becomes of a request.

    REQUEST is a request line: METHOD PATH. Nothing is sent; RBAC is not asked. For the host of the
    proxy, since it needs the proxy's configuration and tailscaled.
    """
    if (node is None) == (addr is None):
        raise click.UsageError("name the caller with either --node or --addr")
    try:
        line = client.read_line(request or ("GET", "/api"))
        address = None if addr is None else ip_address(addr)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    fields = [_header(each) for each in headers]
    fields += [(b"Impersonate-Group", group.encode()) for group in groups]
    if user is not None:
        fields.append((b"Impersonate-User", user.encode()))

    async def work(reactor: Any) -> client.Explanation:
        settings = _settings(config, socket)
        parts = Parts(settings, reactor, watched=False)
        static = settings.tailproxy.resolver.kind is ResolverKind.STATIC
        if address is not None:
            asked = address
        elif static:
            raise UnknownNodeError("with the static resolver name the caller with --addr")
        else:
            asked = await node_address(parts.tailnet.api, node or "")
        caller = Caller(asked, 0, _service(settings, listener))
        identity = await (
            parts.tailnet.resolver.resolve(caller)
            if static
            else Deferred.fromCoroutine(identity_at(parts.tailnet.api, caller))
        )
        return client.explain(
            identity,
            caller,
            Rules(parts.mode, settings.tailproxy.client_impersonation),
            line,
            fields,
            parts.upstream.host,
            bearer=_shows_token(parts),
        )

    explanation = run(work, _PROBLEMS)
    if output:
        echo_data(explanation.as_json(), output)
    else:
        echo_rows(_rows(explanation))


def _header(text: str) -> Header:
    name, colon, value = text.partition(":")
    if not colon:
        raise click.BadParameter(f"found {text!r}, wanted NAME:VALUE", param_hint="--header")
    return name.strip().encode(), value.strip().encode()


def _settings(source: str, socket: Path | None) -> Config:
    config = load(source).config
    if socket is None:
        return config
    tailscaled = attrs.evolve(config.tailproxy.tailscaled, socket=socket)
    return attrs.evolve(config, tailproxy=attrs.evolve(config.tailproxy, tailscaled=tailscaled))


def _service(config: Config, label: str | None) -> str | None:
    """The Tailscale Service that a listener serves."""
    listeners = config.tailproxy.listeners
    labels = [each.label for each in listeners]
    if label is not None and label not in labels:
        raise click.BadParameter(f"there is {', '.join(labels)}", param_hint="--listener")
    chosen = listeners[labels.index(label) if label else 0]
    return chosen.service or config.api_server_proxy.service_name


def _shows_token(parts: Parts) -> bool:
    """Whether there is a token; one that is to be fetched yet counts as one."""
    try:
        return parts.upstream.bearer() is not None
    except ApiError:
        return True


def _rows(explanation: client.Explanation) -> Iterator[tuple[str, str]]:
    identity = explanation.identity
    addresses = ", ".join(map(str, identity.addresses))
    yield "Node", f"{identity.node or identity.node_id}, {addresses}"
    if identity.tags:
        yield "", ", ".join(identity.tags)
    yield "User", identity.user
    reasons = [f"{reason.group}: {reason}" for reason in identity.reasons]
    yield from _labelled("Groups", reasons or ["none: no rule gives one, and the node has no tags"])
    rules = [f"{rule.origin}: {_says(rule)}" for rule in identity.grants.rules]
    yield from _labelled("Rules", rules or ["none"])
    yield "Request", f"{explanation.line}: {explanation.meaning}"
    yield "Decision", explanation.decision
    yield from _labelled("Sent", [f"{name}: {value}" for name, value in explanation.sent])
    yield "Recorded", explanation.recording


def _says(rule: GrantRule) -> str:
    """What a rule says, in the words of the policy."""
    said = [f"groups {', '.join(rule.groups)}"] if rule.groups else []
    said += [f"recorder {address}" for address in rule.recorder_addresses]
    said += ["enforceRecorder"] if rule.enforce_recorder else []
    said += ["enableEvents"] if rule.enable_events else []
    if rule.sessions is not None:
        may = rule.sessions.as_json()
        where = may["namespaces"]
        said.append(
            f"recorded sessions: {', '.join(may['sessions'])}"
            + ("" if where is None else f" in {', '.join(where) or 'no namespace'}")
        )
    return "; ".join(said) or "nothing that counts here"


def _labelled(label: str, texts: list[str]) -> Iterator[tuple[str, str]]:
    for number, text in enumerate(texts):
        yield "" if number else label, text

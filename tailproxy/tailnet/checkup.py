"""Whether the own node and serve are as tailproxy needs them: one look, for `tailproxy doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tailproxy.interfaces import CheckResult

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tailproxy.listener_options import Endpoint
    from tailproxy.tailnet.node import Node


def name_of(node: Node, *, certified: bool) -> CheckResult:
    """Whether the node has a name that clients can use.

    :param certified: whether it must be one that the tailnet certifies: tailscaled ends TLS, or
        tailproxy does so with a certificate from there.
    """
    if not node.fqdn:
        return CheckResult(
            ok=False,
            detail="the node has no name; turn MagicDNS on, on the DNS page of the tailnet's admin"
            " console",
        )
    if certified and node.fqdn not in node.cert_domains:
        return CheckResult(
            ok=False,
            detail=f"the tailnet gives no certificate for {node.fqdn}; turn HTTPS certificates on,"
            " on the DNS page of the tailnet's admin console",
        )
    return CheckResult(ok=True, detail=node.fqdn)


def serves(config: Mapping[str, Any], endpoint: Endpoint, service: str | None) -> CheckResult:
    """Whether tailscaled's serve hands connections to a listener as that needs it.

    :param config: of serve (spec/dataplane.md 3.6).
    :param endpoint: of a listener of the kind `serve`.
    :param service: the Tailscale Service that it serves; ``None`` for the node itself.
    """
    scope = f" --service={service}" if service else ""
    command = (
        f"`tailscale serve{scope} --bg --tls-terminated-tcp=443 --proxy-protocol=2"
        f" tcp://{endpoint}`"
    )
    where = service or "the node"
    found = [
        (port, handler)
        for port, handler in _handlers(config, service)
        if handler.get("TCPForward") == str(endpoint)
    ]
    if not found:
        return CheckResult(
            ok=False, detail=f"serve sends nothing of {where} to {endpoint}; have it with {command}"
        )
    for port, handler in found:
        if handler.get("ProxyProtocol") != 2:
            return CheckResult(
                ok=False,
                detail=f"serve sends port {port} of {where} to {endpoint} without a PROXY v2"
                f" header, so that nobody is known; have it with {command}",
            )
        if not handler.get("TerminateTLS"):
            return CheckResult(
                ok=False,
                detail=f"serve sends port {port} of {where} to {endpoint} with TLS as it comes,"
                f" which nobody ends; have it with {command}",
            )
    ports = ", ".join(port for port, _ in found)
    return CheckResult(ok=True, detail=f"port {ports} of {where} leads to {endpoint}, PROXY v2")


def _handlers(
    config: Mapping[str, Any], service: str | None
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Ports and what serve does with TCP connections to them."""
    if service is not None:
        scopes = [(config.get("Services") or {}).get(service) or {}]
    else:
        # Those of a `tailscale serve` without --bg last as long as that command.
        scopes = [config, *(config.get("Foreground") or {}).values()]
    for scope in scopes:
        for port, handler in (scope.get("TCP") or {}).items():
            yield str(port), handler or {}

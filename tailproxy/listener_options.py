"""Where to listen: ports that clients come in by, and what each kind of them demands."""

from __future__ import annotations

import ipaddress
from enum import Enum
from typing import Any

import attrs

from tailproxy.schema import (
    FLAG,
    IP_PATTERN,
    TEXT,
    Choice,
    MisfitError,
    Scalar,
    option,
    parsed,
)
from tailproxy.wire.addresses import IPAddress, unmapped


class ListenerKind(Enum):
    """How clients reach a listener, and so how it knows their address."""

    SERVE = "serve"
    TAILNET = "tailnet"
    LOOPBACK = "loopback"


class ListenerTLS(Enum):
    """Who ends TLS."""

    TAILSCALED = "tailscaled"
    OWN = "own"


@attrs.frozen
class Endpoint:
    """An address to listen on. Without a host: whatever addresses the node has."""

    host: IPAddress | None
    port: int

    def __str__(self) -> str:
        if self.host is None:
            return str(self.port)
        return (
            f"[{self.host}]:{self.port}" if self.host.version == 6 else f"{self.host}:{self.port}"
        )


def _endpoint(value: Any) -> Endpoint:
    """An `Endpoint` from `IP:PORT` or a port. No names: they mean different things to different
    programs (spec/dataplane.md 1.1).
    """
    host, port = None, value
    if isinstance(value, str):
        before, colon, port = value.rpartition(":")
        if colon:
            host = _address(before[1:-1] if before[:1] + before[-1:] == "[]" else before)
            if (host.version == 6) != before.startswith("["):
                raise ValueError
        if not (port.isascii() and port.isdigit()):
            raise ValueError
        port = int(port)
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        raise ValueError
    return Endpoint(host, port)


def _address(text: str) -> IPAddress:
    return unmapped(ipaddress.ip_address(text))


def _service(text: str) -> str:
    if not text.startswith("svc:") or len(text) == 4:
        raise ValueError
    return text


ADDRESS = parsed("an IP address", _address, IP_PATTERN)
ENDPOINT = Scalar(
    '"IP:PORT", with an IPv6 address in brackets, or a port',
    _endpoint,
    {
        "type": ["string", "integer"],
        "pattern": r"^(([0-9.]+|\[[0-9A-Fa-f:.]+\]):)?[0-9]{1,5}$",
        "minimum": 0,
        "maximum": 65535,
    },
)


def check_address(kind: ListenerKind, host: IPAddress | None) -> None:
    """Check where a listener is (design.md section 6, rule 10; spec/dataplane.md 1.1).

    :raises MisfitError: a listener of that kind may not be there.
    """
    if kind is ListenerKind.SERVE and (
        host is None or not host.is_loopback or host == ipaddress.IPv4Address("127.0.0.1")
    ):
        raise MisfitError(
            ("Address",),
            "for the kind serve a loopback address other than 127.0.0.1, such as"
            ' "127.0.0.2:8443": tailscaled lets tailnet nodes reach 127.0.0.1 directly, where'
            " they could forge the PROXY header",
        )
    if kind is ListenerKind.LOOPBACK and (host is None or not host.is_loopback):
        raise MisfitError(
            ("Address",), 'for the kind loopback a loopback address, such as "127.0.0.1:443"'
        )
    if kind is ListenerKind.TAILNET and host is not None and host.is_unspecified:
        raise MisfitError(
            ("Address",),
            "for the kind tailnet a port alone, or one address of the node: on all addresses"
            " a host outside the tailnet could forge its source address",
        )


@attrs.frozen
class Listener:
    """One port that clients come in by."""

    name: str = option("Name", TEXT, "Name in logs and metrics; the kind if left out.", default="")
    kind: ListenerKind = option(
        "Kind",
        Choice(ListenerKind),
        "`serve`: behind tailscaled's serve, which sends a PROXY v2 header; `tailnet`: on the"
        " node's own addresses (kernel networking); `loopback`: behind a tailscaled with"
        " userspace networking, without that header.",
        default=ListenerKind.SERVE,
    )
    address: Endpoint | None = option(
        "Address",
        ENDPOINT,
        "Where to listen. If left out: 127.0.0.2:8443 for `serve`, port 443 of the node's"
        " addresses for `tailnet`, 127.0.0.1:443 for `loopback`.",
    )
    service: str | None = option(
        "Service",
        parsed('the name of a Tailscale Service, such as "svc:kube"', _service, "^svc:."),
        "The Tailscale Service that this listener serves; APIServerProxy.ServiceName if left"
        " out. Its grants count beside the node's.",
    )
    tls: ListenerTLS | None = option(
        "TLS",
        Choice(ListenerTLS),
        "Who ends TLS; if left out `tailscaled` for `serve`, else `own`.",
    )
    redirect: bool = option(
        "Redirect",
        FLAG,
        "Also answer port 80 of the node's addresses with a redirect to https; for `tailnet`.",
        default=False,
    )

    def __attrs_post_init__(self) -> None:
        """Check what the kind demands (design.md section 6, rule 10; spec/dataplane.md 1.1)."""
        check_address(self.kind, self.endpoint.host)
        if self.kind is not ListenerKind.SERVE and self.tls is ListenerTLS.TAILSCALED:
            raise MisfitError(
                ("TLS",),
                f'"own" for the kind {self.kind.value}: tailscaled ends TLS for serve only',
            )
        if self.redirect and self.kind is not ListenerKind.TAILNET:
            raise MisfitError(("Redirect",), "false, or the kind tailnet")

    @property
    def endpoint(self) -> Endpoint:
        """Where to listen, the kind's default included."""
        if self.address is not None:
            return self.address
        return {
            ListenerKind.SERVE: Endpoint(ipaddress.IPv4Address("127.0.0.2"), 8443),
            ListenerKind.TAILNET: Endpoint(None, 443),
            ListenerKind.LOOPBACK: Endpoint(ipaddress.IPv4Address("127.0.0.1"), 443),
        }[self.kind]

    @property
    def own_tls(self) -> bool:
        """Whether the listener ends TLS itself."""
        return (self.tls or _TLS_OF_KIND[self.kind]) is ListenerTLS.OWN

    @property
    def label(self) -> str:
        """Its name for logs and metrics."""
        return self.name or self.kind.value


_TLS_OF_KIND = {
    ListenerKind.SERVE: ListenerTLS.TAILSCALED,
    ListenerKind.TAILNET: ListenerTLS.OWN,
    ListenerKind.LOOPBACK: ListenerTLS.OWN,
}

"""The object `Tailproxy` of the configuration: what the Tailscale operator's schema lacks.

Every option with its key, its meaning and its default, and the rules between them. Unknown and
repeated keys are errors here (design.md section 4).
"""

from __future__ import annotations

import ipaddress
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from tailproxy.audit_options import Audit
from tailproxy.listener_options import ADDRESS, Endpoint, Listener, ListenerKind
from tailproxy.policy.decide import ClientImpersonation
from tailproxy.recorder_options import Recorder
from tailproxy.recording_options import Recording
from tailproxy.schema import (
    PATH,
    PORT,
    TEXT,
    Choice,
    Many,
    MisfitError,
    Nested,
    Objects,
    option,
    seconds,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tailproxy.wire.addresses import IPAddress

# Where tailscaled's packages put its socket.
_SOCKET = "/var/run/tailscale/tailscaled.sock"


class ResolverKind(Enum):
    """Who says which caller has an address."""

    TAILSCALED = "tailscaled"
    STATIC = "static"


class CertificatesFrom(Enum):
    """Where the listeners' certificates come from."""

    TAILNET = "tailnet"
    FILES = "files"
    SELF_SIGNED = "self-signed"


class LogFormat(Enum):
    """How log lines look."""

    JSON = "json"
    TEXT = "text"
    AUTO = "auto"


@attrs.frozen
class Tailscaled:
    """The tailscaled to work with."""

    socket: Path = option("Socket", PATH, "Its LocalAPI socket.", default=Path(_SOCKET))


@attrs.frozen
class StaticIdentity:
    """One row of the static resolver's table."""

    address: IPAddress = option(
        "Address",
        ADDRESS,
        "The address a caller has.",
        default=ipaddress.IPv4Address("127.0.0.1"),
    )
    user: str = option("User", TEXT, "Login name; empty for a tagged node.", default="")
    groups: tuple[str, ...] = option(
        "Groups", Many(TEXT), "Groups that a grant would impersonate.", default=()
    )
    node: str = option("Node", TEXT, "FQDN of the caller's node.", default="node.static.invalid")
    tags: tuple[str, ...] = option(
        "Tags", Many(TEXT), 'Tags of the caller\'s node, such as "tag:ci".', default=()
    )

    def __attrs_post_init__(self) -> None:
        """A node belongs to a user or has tags, as on a tailnet."""
        if bool(self.user) == bool(self.tags):
            raise MisfitError(("User",), "either a User or Tags")


@attrs.frozen
class Resolver:
    """How addresses become callers."""

    kind: ResolverKind = option(
        "Kind",
        Choice(ResolverKind),
        "`tailscaled` asks WhoIs; `static` is a table, for development on loopback addresses.",
        default=ResolverKind.TAILSCALED,
    )
    identities: tuple[StaticIdentity, ...] = option(
        "Identities", Many(Nested(StaticIdentity)), "The table of `static`.", default=()
    )

    def __attrs_post_init__(self) -> None:
        """A table is there for `static`, and only for it."""
        if self.identities and self.kind is not ResolverKind.STATIC:
            raise MisfitError(("Identities",), 'none, or the Kind "static"')
        addresses: set[IPAddress] = set()
        for index, row in enumerate(self.identities):
            if row.address in addresses:
                raise MisfitError(
                    ("Identities", index, "Address"), "an address that no other row has"
                )
            addresses.add(row.address)


@attrs.frozen
class Upstream:
    """The API server."""

    kubeconfig: Path | None = option(
        "Kubeconfig",
        PATH,
        "A kubeconfig file. If left out: the pod's service account in a cluster, else the file"
        " that KUBECONFIG names, else ~/.kube/config.",
    )
    context: str | None = option(
        "Context", TEXT, "The kubeconfig's context; its current one if left out."
    )


@attrs.frozen
class Certificates:
    """What the listeners that end TLS themselves show."""

    source: CertificatesFrom = option(
        "Source",
        Choice(CertificatesFrom),
        "`tailnet`: from tailscaled; `files`: Chain and Key; `self-signed`: for development.",
        default=CertificatesFrom.TAILNET,
    )
    chain: Path | None = option("Chain", PATH, "PEM file of the certificate and its chain.")
    key: Path | None = option("Key", PATH, "PEM file of the certificate's key.")
    names: tuple[str, ...] = option(
        "Names",
        Many(TEXT),
        "Names to have certificates for besides the node's own; for `tailnet`.",
        default=(),
    )

    def __attrs_post_init__(self) -> None:
        """Files are named for `files`, and only for it."""
        for key, path in (("Chain", self.chain), ("Key", self.key)):
            if self.source is CertificatesFrom.FILES and path is None:
                raise MisfitError((key,), 'the path of a PEM file, as the Source is "files"')
            if self.source is not CertificatesFrom.FILES and path is not None:
                raise MisfitError((key,), 'none, or the Source "files"')
        if self.names and self.source is not CertificatesFrom.TAILNET:
            raise MisfitError(("Names",), 'none, or the Source "tailnet"')


@attrs.frozen
class Drain:
    """How long leaving may take. Both count from its beginning."""

    requests: float = option("Requests", seconds(), "Seconds for requests in flight.", default=10.0)
    streams: float = option(
        "Streams",
        seconds(),
        "Seconds for exec, attach, port-forward and logs; a pod's grace period must be longer.",
        default=25.0,
    )


@attrs.frozen
class Admin:
    """The port of probes, metrics and version."""

    address: IPAddress | None = option(
        "Address",
        ADDRESS,
        "Where to listen. If left out: POD_IP, else LocalAddr, else all addresses in a cluster"
        " and 127.0.0.2 elsewhere.",
    )
    port: int | None = option("Port", PORT, "TCP port; LocalPort if left out.")


@attrs.frozen
class Log:
    """Log lines on standard error."""

    format: LogFormat = option(
        "Format",
        Choice(LogFormat),
        "`json`: one object a line; `text`: for people; `auto`: text on a terminal, else json.",
        default=LogFormat.AUTO,
    )


@attrs.frozen
class Limits:
    """Bounds of what a client may send and of how long things may take (spec/dataplane.md 1.11)."""

    header_bytes: int = option(
        "HeaderBytes", whole(8192, 16777216), "Size of a request's head.", default=1048576
    )
    header_seconds: float = option(
        "HeaderSeconds",
        seconds(1),
        "Seconds for a request's head, and for the PROXY header in front of the first.",
        default=10.0,
    )
    idle_seconds: float = option(
        "IdleSeconds",
        seconds(1),
        "Seconds a connection may wait for its next request.",
        default=180.0,
    )
    connect_seconds: float = option(
        "ConnectSeconds",
        seconds(1),
        "Seconds to connect to the API server and to verify it.",
        default=30.0,
    )


@attrs.frozen
class Tailproxy:
    """What the Tailscale operator's schema lacks."""

    listeners: tuple[Listener, ...] = option(
        "Listeners",
        Many(Nested(Listener)),
        "The ports clients come in by.",
        default=(Listener(),),
    )
    tailscaled: Tailscaled = option(
        "Tailscaled", Nested(Tailscaled), "The tailscaled to work with.", default=Tailscaled()
    )
    resolver: Resolver = option(
        "Resolver", Nested(Resolver), "How addresses become callers.", default=Resolver()
    )
    upstream: Upstream = option("Upstream", Nested(Upstream), "The API server.", default=Upstream())
    certificates: Certificates = option(
        "Certificates",
        Nested(Certificates),
        "What listeners that end TLS themselves show.",
        default=Certificates(),
    )
    client_impersonation: ClientImpersonation = option(
        "ClientImpersonation",
        Choice(ClientImpersonation),
        "What to do with a client's own Impersonate- headers (kubectl --as): `refuse` the"
        " request, or `strip` them.",
        default=ClientImpersonation.REFUSE,
    )
    drain: Drain = option("Drain", Nested(Drain), "How long leaving may take.", default=Drain())
    workers: int | None = option(
        "Workers",
        whole(1, 1024),
        "How many processes serve requests; 1 is this process itself. If left out: as many as"
        " there are processor cores to use.",
    )
    admin: Admin | None = option(
        "Admin",
        Nested(Admin),
        "The port of probes, metrics and version. It is open when this object is there, or"
        " HealthCheckEnabled or MetricsEnabled is true.",
    )
    recording: Recording = option(
        "Recording",
        Nested(Recording),
        "Where recordings of sessions go, beside the recorders that grants name.",
        default=Recording(),
    )
    log: Log = option("Log", Nested(Log), "Log lines on standard error.", default=Log())
    audit: Audit = option(
        "Audit", Nested(Audit), "Where the line of each request goes.", default=Audit()
    )
    limits: Limits = option(
        "Limits", Nested(Limits), "Bounds of requests and times.", default=Limits()
    )
    recorder: Recorder | None = option(
        "Recorder",
        Nested(Recorder),
        "A recorder of our own, which runs beside the proxy when this object is there.",
    )
    plugins: Mapping[str, Mapping[str, Any]] = option(
        "Plugins", Objects(), "Options of plugins, by plugin name.", default=attrs.Factory(dict)
    )

    def __attrs_post_init__(self) -> None:
        """Check what one object demands of another."""
        labels: set[str] = set()
        addresses: set[Endpoint] = set()
        if not self.listeners:
            raise MisfitError(("Listeners",), "at least one listener")
        for index, listener in enumerate(self.listeners):
            here = ("Listeners", index)
            if listener.label in labels:
                raise MisfitError((*here, "Name"), "a name that no other listener has")
            if listener.endpoint in addresses and listener.endpoint.port:
                raise MisfitError((*here, "Address"), "an address that no other listener has")
            labels.add(listener.label)
            addresses.add(listener.endpoint)
            self._check_kind(here, listener.kind, listener.endpoint)
        if self.recorder is not None:
            place = self.recorder.endpoint
            if place in addresses and place.port:
                raise MisfitError(("Recorder", "Address"), "an address that no listener has")
            self._check_kind(("Recorder",), self.recorder.kind, place)

    def _check_kind(self, here: tuple[str | int, ...], kind: ListenerKind, place: Endpoint) -> None:
        static = self.resolver.kind is ResolverKind.STATIC
        if static and kind is ListenerKind.TAILNET:
            raise MisfitError(
                (*here, "Kind"),
                '"serve" or "loopback", as the static resolver, which believes any'
                " address, is for loopback listeners",
            )
        if (
            not static
            and kind is ListenerKind.LOOPBACK
            and place.host != ipaddress.IPv4Address("127.0.0.1")
        ):
            raise MisfitError(
                (*here, "Address"),
                "for the kind loopback an address of the form 127.0.0.1:PORT: tailscaled"
                " forwards to that one only",
            )

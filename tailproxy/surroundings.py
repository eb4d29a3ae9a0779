"""What has to do with the tailnet, put together: tailscaled, or a table in its place; and the
certificates, which mostly come from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tailproxy.options import CertificatesFrom, ResolverKind
from tailproxy.policy.identity import IdentityError
from tailproxy.proxy.peer import TailscaledOnly
from tailproxy.schema import ConfigError
from tailproxy.tailnet.bus import BusWatcher
from tailproxy.tailnet.certificates import (
    CertificateError,
    FileCertificates,
    SelfSigned,
    TailnetCertificates,
)
from tailproxy.tailnet.localapi import LocalAPI
from tailproxy.tailnet.node import NodeMonitor
from tailproxy.tailnet.resolver import TailscaledResolver
from tailproxy.tailnet.static import StaticCaller, StaticResolver
from tailproxy.tailnet.tagged import TaggedRecorders

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twisted.application.service import Service

    from tailproxy import options
    from tailproxy.interfaces import IIdentityResolver, IReadinessCheck
    from tailproxy.metrics import Metrics
    from tailproxy.wire.addresses import IPAddress


class Surroundings:
    """The parts that know the tailnet.

    :param tailscaled: where it is.
    :param chosen: who says who calls.
    :param watched: whether somebody here shows how the own node stands, or listens on its
        addresses.
    :param issues: whether certificates come from there.
    :param tagged: whether recorders are found by their tags.

    :ivar api: asks tailscaled.
    :ivar resolver: says who calls.
    :ivar doorkeeper: of `serve` listeners; None with the static resolver.
    :ivar monitor: of the own node; None where nobody asks how it stands.
    :ivar services: in the order of their start.
    :ivar checks: for readiness.
    """

    def __init__(
        self,
        tailscaled: options.Tailscaled,
        chosen: options.Resolver,
        reactor: Any,
        metrics: Metrics,
        *,
        watched: bool,
        issues: bool,
        tagged: bool = False,
    ) -> None:
        self.services: list[Service] = []
        self.checks: list[IReadinessCheck] = []
        self.monitor: NodeMonitor | None = None
        self.usermetrics: Any = None
        self.doorkeeper: TailscaledOnly | None = None
        self.api = LocalAPI(reactor, str(tailscaled.socket))
        static = chosen.kind is ResolverKind.STATIC
        self.resolver: IIdentityResolver
        if static:
            self.resolver = _static_resolver(chosen)
        else:
            self.resolver = TailscaledResolver(reactor, self.api, metrics)
            self.doorkeeper = TailscaledOnly(tailscaled.socket)
        if not static or issues:
            self.usermetrics = self.api.usermetrics
            bus = BusWatcher(reactor, self.api)
            if isinstance(self.resolver, TailscaledResolver):
                bus.subscribe(self.resolver)
            if watched or issues:
                self.monitor = NodeMonitor(reactor, self.api)
                bus.subscribe(self.monitor)
                self.services.append(self.monitor)
                self.checks.append(self.monitor)
            self.services.append(bus)
        if tagged and not static:
            self.resolver = TaggedRecorders(reactor, self.api, self.resolver)

    def has_address(self) -> bool:
        """Whether the node has an address; without a tailnet there is nothing to wait for."""
        return self.monitor is None or bool(self.monitor.node.addresses)


def _static_resolver(resolver: options.Resolver) -> StaticResolver:
    try:
        return StaticResolver(
            {
                row.address: StaticCaller(row.user, row.groups, row.node, row.tags)
                for row in resolver.identities
            }
        )
    except IdentityError as error:
        raise ConfigError("Tailproxy.Resolver.Identities", str(error)) from error


def certificate_source(
    certificates: options.Certificates,
    hosts: Sequence[IPAddress],
    tailnet: Surroundings,
    reactor: Any,
    metrics: Metrics,
) -> TailnetCertificates | FileCertificates | SelfSigned:
    """Where the certificates come from that listeners show.

    :param hosts: the addresses of listeners, for a certificate of our own making.
    :raises ConfigError: the files cannot be used.
    """
    if certificates.source is CertificatesFrom.TAILNET:
        names = [name.lower() for name in certificates.names]
        source = TailnetCertificates(reactor, tailnet.api, metrics, names)
        if tailnet.monitor is not None:
            tailnet.monitor.watch(source.node_changed)
        return source
    try:
        if certificates.chain is not None and certificates.key is not None:
            return FileCertificates(reactor, certificates.chain, certificates.key, metrics)
    except CertificateError as error:
        raise ConfigError("Tailproxy.Certificates", str(error)) from error
    return SelfSigned(hosts, metrics)

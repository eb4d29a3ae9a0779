"""What has to do with the tailnet, put together: tailscaled, or a table in its place."""

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

if TYPE_CHECKING:
    from twisted.application.service import Service

    from tailproxy import options
    from tailproxy.config import Config
    from tailproxy.interfaces import ICertificateSource, IIdentityResolver, IReadinessCheck
    from tailproxy.metrics import Metrics


class Surroundings:
    """The parts that know the tailnet.

    :param watched: whether somebody here shows how the own node stands, or listens on its
        addresses.

    :ivar resolver: says who calls.
    :ivar certificates: for listeners that end TLS themselves.
    :ivar doorkeeper: of `serve` listeners; None with the static resolver.
    :ivar monitor: of the own node; None where nobody asks how it stands.
    :ivar services: in the order of their start.
    :ivar checks: for readiness.
    :ivar certificate_services: those of the certificates, to be started behind the others.
    :ivar certificate_checks: for readiness too.
    """

    def __init__(self, config: Config, reactor: Any, metrics: Metrics, *, watched: bool) -> None:
        self.services: list[Service] = []
        self.checks: list[IReadinessCheck] = []
        self.certificate_services: list[Service] = []
        self.certificate_checks: list[IReadinessCheck] = []
        self.monitor: NodeMonitor | None = None
        self.usermetrics: Any = None
        self.doorkeeper: TailscaledOnly | None = None
        api = LocalAPI(reactor, str(config.tailproxy.tailscaled.socket))
        needs_certificates = any(listener.own_tls for listener in config.tailproxy.listeners)
        static = config.tailproxy.resolver.kind is ResolverKind.STATIC
        self.resolver: IIdentityResolver
        if static:
            self.resolver = _static_resolver(config.tailproxy.resolver)
        else:
            self.resolver = TailscaledResolver(reactor, api, metrics)
            self.doorkeeper = TailscaledOnly(config.tailproxy.tailscaled.socket)
        issued = (
            needs_certificates and config.tailproxy.certificates.source is CertificatesFrom.TAILNET
        )
        if not static or issued:
            self.usermetrics = api.usermetrics
            bus = BusWatcher(reactor, api)
            if isinstance(self.resolver, TailscaledResolver):
                bus.subscribe(self.resolver)
            if watched or issued:
                self.monitor = NodeMonitor(reactor, api)
                bus.subscribe(self.monitor)
                self.services.append(self.monitor)
                self.checks.append(self.monitor)
            self.services.append(bus)
        self.certificates: ICertificateSource | None = None
        if needs_certificates:
            source = _certificates(config.tailproxy, reactor, api, metrics)
            if isinstance(source, TailnetCertificates) and self.monitor is not None:
                self.monitor.watch(source.node_changed)
            self.certificates = source
            self.certificate_services.append(source)
            self.certificate_checks.append(source)

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


def _certificates(
    config: options.Tailproxy, reactor: Any, api: LocalAPI, metrics: Metrics
) -> TailnetCertificates | FileCertificates | SelfSigned:
    certificates = config.certificates
    if certificates.source is CertificatesFrom.TAILNET:
        names = [name.lower() for name in certificates.names]
        return TailnetCertificates(reactor, api, metrics, names)
    try:
        if certificates.chain is not None and certificates.key is not None:
            return FileCertificates(reactor, certificates.chain, certificates.key, metrics)
    except CertificateError as error:
        raise ConfigError("Tailproxy.Certificates", str(error)) from error
    hosts = [listener.endpoint.host for listener in config.listeners]
    return SelfSigned([host for host in hosts if host is not None], metrics)

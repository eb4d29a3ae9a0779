"""What every role of a process needs of a configuration.

A configuration that is read again makes new parts of what has changed in it; the rest are the
parts that there are. So a reload touches nothing that it need not.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

import tailproxy
from tailproxy.admin.service import AdminService, admin_address, admin_pages
from tailproxy.audit.access import AccessLog, Fanout
from tailproxy.audit.counters import RequestCounters
from tailproxy.audit.trail import audit_trail
from tailproxy.audit_options import SinkKind
from tailproxy.extensions import plugin_resources
from tailproxy.interfaces import DrainTimes
from tailproxy.kube.access import in_cluster, pod_access
from tailproxy.kube.kubeconfig import kubeconfig_access
from tailproxy.kube.review import ApiServerReview
from tailproxy.kubeconfig import kubeconfig_paths
from tailproxy.listener_options import ListenerKind
from tailproxy.metrics import Metrics
from tailproxy.options import CertificatesFrom
from tailproxy.policy.decide import Mode, Rules
from tailproxy.proxy.doors import Entrance, FactoryDoor, ProxyHeaderDoor, SocketDoor
from tailproxy.proxy.listener import Listener
from tailproxy.proxy.nodelistener import NodeListener
from tailproxy.proxy.plugins import PluginsResource
from tailproxy.proxy.redirect import redirect_site
from tailproxy.proxy.reverse import ReverseProxyResource
from tailproxy.proxy.site import Limits, Site
from tailproxy.proxy.upstream import PoolLimits, Upstream
from tailproxy.proxy.whois import WhoIsResource
from tailproxy.record.events import RequestEvents
from tailproxy.record.session import SessionRecorder
from tailproxy.record.sinks import Sinks
from tailproxy.record.threads import Threads
from tailproxy.recorder_parts import library, local_sessions
from tailproxy.recording_options import OnFailure
from tailproxy.reload import content
from tailproxy.surroundings import Surroundings, certificate_source
from tailproxy.tailnet.dial import TailscaledDialer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from prometheus_client import Metric
    from twisted.application.service import Service
    from twisted.web.resource import IResource

    from tailproxy.audit.trail import Trail
    from tailproxy.config import Config
    from tailproxy.interfaces import IAuditSink, IDoor, IReadinessCheck
    from tailproxy.kube.access import ClusterAccess
    from tailproxy.options import Tailproxy
    from tailproxy.proxy.tls import ServerTLS
    from tailproxy.recorder.library import Library
    from tailproxy.sessions.service import LocalSessions
    from tailproxy.tailnet.node import Node

    #: Address, or None for the node's own; port; and a name where the port is still to be chosen.
    Place = tuple[str | None, int, str]


@attrs.frozen
class Way:
    """Where a listener leads, and its name."""

    label: str
    door: IDoor


class Parts:
    """The parts that a configuration asks for.

    :param before: those of the configuration that is in force; none at the start.
    :param watched: whether this process shows how the own node stands.

    :ivar made: each part that is kept, by name, with what it was made of.
    :raises ConfigError: something that it names cannot be used.
    """

    def __init__(
        self, config: Config, reactor: Any, before: Parts | None = None, *, watched: bool = True
    ) -> None:
        self.config = config
        self.reactor = reactor
        self.metrics: Metrics = before.metrics if before else Metrics(tailproxy.__version__)
        self.access_log: AccessLog = before.access_log if before else AccessLog()
        self._before = {} if before is None else before.made
        self.made: dict[str, tuple[object, Any]] = {}
        ours = config.tailproxy
        shows = any(listener.own_tls for listener in ours.listeners)
        issues = shows and ours.certificates.source is CertificatesFrom.TAILNET
        self.tailnet: Surroundings = self._keep(
            "tailnet",
            (ours.tailscaled, ours.resolver, issues, ours.recording.resolve_tags),
            lambda: Surroundings(
                ours.tailscaled,
                ours.resolver,
                reactor,
                self.metrics,
                watched=watched,
                issues=issues,
                tagged=ours.recording.resolve_tags,
            ),
        )
        hosts = [each.endpoint.host for each in ours.listeners if each.endpoint.host is not None]
        self.certificates: Any = (
            self._keep(
                "certificates",
                (self.tailnet, ours.certificates, hosts),
                lambda: certificate_source(
                    ours.certificates, hosts, self.tailnet, reactor, self.metrics
                ),
            )
            if shows
            else None
        )
        self.upstream: Upstream = self._keep(
            "upstream",
            (
                ours.upstream,
                config.api_server_proxy.mode,
                ours.limits.connect_seconds,
                [content(path) for path in kubeconfigs(config)],
            ),
            lambda: Upstream(
                _access(config, reactor),
                self.metrics,
                reactor,
                PoolLimits(connect_seconds=ours.limits.connect_seconds),
            ),
        )
        self.audit: Trail = self._keep(
            "audit",
            ours.audit,
            lambda: audit_trail(ours.audit, self.access_log.json, reactor, self.metrics),
        )
        self.recorder: SessionRecorder = self._keep(
            "recorder",
            (ours.tailscaled, ours.recording),
            lambda: _recorder(ours, self.metrics, reactor),
        )
        self.events: RequestEvents = self._keep(
            "events",
            ours.tailscaled,
            lambda: RequestEvents(
                reactor,
                TailscaledDialer(reactor, str(ours.tailscaled.socket)),
                self.metrics,
            ),
        )
        self.library: Library | None = self._keep(
            "library",
            None if ours.recorder is None else ours.recorder.folder,
            lambda: library(config, reactor),
        )
        self.plugins = plugin_resources(config, self.upstream, self.library, self._keep)

    def _keep(self, name: str, of: object, make: Callable[[], Any]) -> Any:
        """What was made before of the same, else what is made now.

        :param of: what it is made of; equal if nothing has changed.
        """
        before = self._before.get(name)
        made = before if before is not None and before[0] == of else (of, make())
        self.made[name] = made
        return made[1]

    @property
    def libraries(self) -> tuple[Service, ...]:
        """What looks at recordings, if any are kept here."""
        return () if self.library is None else (self.library,)

    def local_pages(self) -> tuple[Service, ...]:
        """Pages on a unix socket, if there is to be one."""
        recorder = self.config.tailproxy.recorder
        if recorder is None or self.library is None:
            return ()
        pages: LocalSessions | None = self._keep(
            "local pages",
            (recorder.socket, self.library),
            partial(local_sessions, self.config, self.library, self.reactor),
        )
        return () if pages is None else (pages,)

    @property
    def mode(self) -> Mode:
        """Whom the API server sees."""
        return self.config.api_server_proxy.mode

    @property
    def drain_times(self) -> DrainTimes:
        """How long leaving may take."""
        drain = self.config.tailproxy.drain
        return DrainTimes(drain.requests, drain.streams)

    def site(self) -> Site:
        """Where connections become answers."""
        return Site(
            self._root(),
            self._audit(),
            self.metrics,
            self.reactor,
            self.drain_times,
            self._limits(),
        )

    def furnish(self, site: Site) -> None:
        """Have a site that there is serve as this configuration says."""
        site.adopt(self._root(), self._audit(), self.drain_times, self._limits())

    def _root(self) -> WhoIsResource:
        return WhoIsResource(
            self.tailnet.resolver,
            ReverseProxyResource(
                self.upstream,
                self.recorder,
                self.events,
                self._rules(),
                self.metrics,
                self.reactor,
            ),
            PluginsResource(self.plugins["tailnet"]),
        )

    def _rules(self) -> Rules:
        ours = self.config.tailproxy
        return Rules(
            self.mode,
            ours.client_impersonation,
            record=bool(ours.recording.sinks),
            enforce=ours.recording.on_failure is OnFailure.CLOSED,
        )

    def _audit(self) -> Fanout:
        sinks: list[IAuditSink] = [RequestCounters(self.metrics, self.mode)]
        if any(sink.kind is SinkKind.LOG for sink in self.config.tailproxy.audit.sinks):
            sinks.append(self.access_log)
        if self.audit.deliveries:
            sinks.append(self.audit)
        return Fanout(sinks)

    def _limits(self) -> Limits:
        limits = self.config.tailproxy.limits
        return Limits(limits.header_bytes, limits.header_seconds, limits.idle_seconds)

    def doors(self, site: Site, tls: ServerTLS) -> dict[str, IDoor]:
        """The way into a site for each listener, by its label.

        :param tls: for the listeners that end TLS themselves.
        """
        found: dict[str, IDoor] = {}
        for listener in self.config.tailproxy.listeners:
            entrance = Entrance(
                self.reactor,
                site,
                listener.label,
                tls if listener.own_tls else None,
                listener.service or self.config.api_server_proxy.service_name,
            )
            if listener.kind is ListenerKind.SERVE:
                doorkeeper = self.tailnet.doorkeeper
                found[listener.label] = ProxyHeaderDoor(entrance, self.metrics, doorkeeper)
            else:
                local = listener.kind is ListenerKind.LOOPBACK
                found[listener.label] = SocketDoor(entrance, local=local)
        return found

    def ways(self, doors: Mapping[str, IDoor]) -> dict[Place, Way]:
        """Where connections to each place go; those to port 80 are sent to https where asked for.

        :param doors: of the listeners, by label.
        """
        found: dict[Place, Way] = {}
        for listener in self.config.tailproxy.listeners:
            host, port = listener.endpoint.host, listener.endpoint.port
            address = None if host is None else str(host)
            if address is None and self.tailnet.monitor is None:
                continue
            label = listener.label
            found[address, port, "" if port else label] = Way(label, doors[label])
            if listener.redirect:
                redirect = FactoryDoor(self.reactor, redirect_site(port))
                found.setdefault((address, 80, ""), Way(f"{label}-redirect", redirect))
        return found

    def listener(self, place: Place, way: Way) -> Listener:
        """A port that is not open yet."""
        address, port, _ = place
        if address is None:
            return NodeListener(self.reactor, way.label, port, way.door)
        return Listener(self.reactor, way.label, [address], port, way.door)

    def follow_node(self, listeners: Iterable[Listener]) -> None:
        """Tell those that listen on the node's own addresses which ones these are."""
        for listener in listeners:
            if isinstance(listener, NodeListener) and self.tailnet.monitor is not None:
                self.tailnet.monitor.watch(_following(listener))

    def review(self) -> ApiServerReview:
        """What asks whether the API server is there."""
        review: ApiServerReview = self._keep(
            "review",
            (self.upstream, self.mode),
            lambda: ApiServerReview(
                self.upstream, self.reactor, impersonate=self.mode is Mode.AUTH
            ),
        )
        return review

    def pages(
        self,
        checks: Sequence[IReadinessCheck],
        metrics: Callable[[], Awaitable[Iterable[Metric]]],
    ) -> IResource:
        """What the port of probes and metrics shows."""
        return admin_pages(
            tailproxy.__version__,
            checks,
            self.tailnet.has_address,
            metrics,
            self.tailnet.usermetrics,
            self.plugins["admin"],
        )

    def admin(self) -> AdminService | None:
        """That port, if there is to be one."""
        if not self.config.admin_enabled:
            return None
        where = admin_address(self.config)
        admin: AdminService = self._keep("admin", where, lambda: AdminService(self.reactor, *where))
        return admin


def kubeconfigs(config: Config) -> list[Path]:
    """The files that say where the API server is; none in a pod that asks its service account."""
    upstream = config.tailproxy.upstream
    if upstream.kubeconfig is None and upstream.context is None and in_cluster():
        return []
    return kubeconfig_paths(upstream.kubeconfig)


def _access(config: Config, reactor: Any) -> ClusterAccess:
    """The way to the API server: as configured, else in the cluster, else by a kubeconfig."""
    anonymous = config.api_server_proxy.mode is Mode.NOAUTH
    paths = kubeconfigs(config)
    if not paths:
        return pod_access(reactor, anonymous=anonymous)
    context = config.tailproxy.upstream.context
    return kubeconfig_access(paths, context, reactor, anonymous=anonymous)


def _recorder(ours: Tailproxy, metrics: Metrics, reactor: Any) -> SessionRecorder:
    """What has sessions recorded, with all that it needs below it."""
    threads = Threads(reactor)
    dialer = TailscaledDialer(reactor, str(ours.tailscaled.socket))
    sinks = Sinks(reactor, threads, dialer, ours.recording)
    recorder = SessionRecorder(sinks, metrics, reactor, ours.recording.header_seconds)
    threads.setServiceParent(recorder)
    sinks.setServiceParent(recorder)
    return recorder


def _following(listener: NodeListener) -> Callable[[Node], None]:
    return lambda node: listener.follow(node.addresses)

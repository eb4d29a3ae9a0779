"""How the parts are put together, for each role that a process has. No logic of the proxy's own.

One process does everything, or a supervisor stands in front of workers: it has the ports, the
probes and the signals; each worker has the data plane behind a door, and all that it asks.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tailproxy
from tailproxy.admin.service import AdminService, admin_address, admin_site
from tailproxy.audit.access import AccessLog, Fanout
from tailproxy.audit.counters import RequestCounters
from tailproxy.config import load
from tailproxy.daemon import LogOutput, TailproxyService
from tailproxy.extensions import plugin_resources
from tailproxy.interfaces import DrainTimes
from tailproxy.kube.access import in_cluster, pod_access
from tailproxy.kube.kubeconfig import kubeconfig_access
from tailproxy.kube.review import ApiServerReview
from tailproxy.kubeconfig import kubeconfig_paths
from tailproxy.metrics import Metrics
from tailproxy.options import ListenerKind
from tailproxy.policy.decide import Mode, Rules
from tailproxy.proxy.doors import Entrance, FactoryDoor, ProxyHeaderDoor, SocketDoor
from tailproxy.proxy.listener import Listener
from tailproxy.proxy.nodelistener import NodeListener
from tailproxy.proxy.plugins import PluginsResource
from tailproxy.proxy.redirect import redirect_site
from tailproxy.proxy.reverse import ReverseProxyResource
from tailproxy.proxy.service import DataPlane
from tailproxy.proxy.site import Limits, Site
from tailproxy.proxy.tls import ServerTLS
from tailproxy.proxy.upstream import PoolLimits, Upstream
from tailproxy.proxy.whois import WhoIsResource
from tailproxy.surroundings import Surroundings
from tailproxy.workers.balance import Dispatcher, PassingDoor
from tailproxy.workers.cores import cores
from tailproxy.workers.messages import Start
from tailproxy.workers.process import WorkerProcess
from tailproxy.workers.reload import Reloader
from tailproxy.workers.supervisor import Supervisor, WorkersCheck

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from prometheus_client import Metric
    from twisted.application.service import Service

    from tailproxy.config import Config, Document
    from tailproxy.interfaces import IDoor, IReadinessCheck
    from tailproxy.kube.access import ClusterAccess
    from tailproxy.options import Listener as ListenerOptions
    from tailproxy.tailnet.node import Node


def serve(document: Document, reactor: Any) -> TailproxyService:
    """The service, with as many workers as the configuration says. Nothing is opened yet.

    :raises ConfigError: something that the configuration names cannot be used.
    """
    count = document.config.tailproxy.workers or cores()
    parts = Parts(document.config, reactor)
    return _alone(parts) if count == 1 else _in_front(parts, document, count)


def check(config: Config, reactor: Any) -> None:
    """Make everything that the configuration names, and throw it away.

    :raises ConfigError: something cannot be used.
    """
    _alone(Parts(config, reactor))


class Parts:
    """What every role needs of a configuration.

    :param watched: whether this process shows how the own node stands.
    :raises ConfigError: something that it names cannot be used.
    """

    def __init__(self, config: Config, reactor: Any, *, watched: bool = True) -> None:
        self.config = config
        self.reactor = reactor
        self.metrics = Metrics(tailproxy.__version__)
        self.access_log = AccessLog()
        self.tailnet = Surroundings(config, reactor, self.metrics, watched=watched)
        self.access = _access(config, reactor)
        self.upstream = Upstream(
            self.access,
            self.metrics,
            reactor,
            PoolLimits(connect_seconds=config.tailproxy.limits.connect_seconds),
        )
        self.plugins = plugin_resources(config, self.upstream)

    def site(self) -> Site:
        """Where connections become answers."""
        mode, limits = self.config.api_server_proxy.mode, self.config.tailproxy.limits
        root = WhoIsResource(
            self.tailnet.resolver,
            ReverseProxyResource(
                self.upstream,
                Rules(mode, self.config.tailproxy.client_impersonation),
                self.metrics,
                self.reactor,
            ),
            PluginsResource(self.plugins["tailnet"]),
        )
        return Site(
            root,
            Fanout((self.access_log, RequestCounters(self.metrics, mode))),
            self.metrics,
            self.reactor,
            _drain_times(self.config),
            Limits(limits.header_bytes, limits.header_seconds, limits.idle_seconds),
        )

    def doors(self, site: Site) -> dict[str, IDoor]:
        """The way into a site for each listener, by its label."""
        certificates = self.tailnet.certificates
        tls = ServerTLS(certificates) if certificates is not None else None
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

    def listeners(self, doors: Mapping[str, IDoor]) -> list[Listener]:
        """The ports in front of the doors, and those that redirect to them."""
        found: list[Listener] = []
        for listener in self.config.tailproxy.listeners:
            port = listener.endpoint.port
            found += self._ports(listener, listener.label, port, doors[listener.label])
        return found

    def redirects(self) -> list[Listener]:
        """The ports that lead to https."""
        found: list[Listener] = []
        for listener in self.config.tailproxy.listeners:
            if listener.redirect:
                door = FactoryDoor(self.reactor, redirect_site(listener.endpoint.port))
                found += self._ports(listener, f"{listener.label}-redirect", 80, door)
        return found

    def _ports(
        self, listener: ListenerOptions, name: str, port: int, door: IDoor
    ) -> list[Listener]:
        if listener.endpoint.host is not None:
            return [Listener(self.reactor, name, [str(listener.endpoint.host)], port, door)]
        if self.tailnet.monitor is None:
            return []
        follower = NodeListener(self.reactor, name, port, door)
        self.tailnet.monitor.watch(_following(follower))
        return [follower]

    def review(self) -> ApiServerReview:
        """What asks whether the API server is there."""
        impersonate = self.config.api_server_proxy.mode is Mode.AUTH
        return ApiServerReview(self.upstream, self.reactor, impersonate=impersonate)

    def admin(
        self,
        checks: Iterable[IReadinessCheck],
        metrics: Callable[[], Awaitable[Iterable[Metric]]],
    ) -> AdminService | None:
        """The port of probes and metrics, if there is to be one."""
        if not self.config.admin_enabled:
            return None
        pages = admin_site(
            tailproxy.__version__,
            tuple(checks),
            self.tailnet.has_address,
            metrics,
            self.tailnet.usermetrics,
            self.plugins["admin"],
        )
        return AdminService(self.reactor, pages, *admin_address(self.config))


def _alone(parts: Parts) -> TailproxyService:
    """One process that does everything."""
    site, review, tailnet = parts.site(), parts.review(), parts.tailnet
    plane = DataPlane(
        site, parts.upstream, [*parts.listeners(parts.doors(site)), *parts.redirects()]
    )
    return TailproxyService(
        parts.config,
        parts.reactor,
        LogOutput(parts.config, parts.reactor, parts.access_log),
        [parts.access, *tailnet.services, *tailnet.certificate_services, review],
        plane,
        parts.admin(
            (*tailnet.checks, *tailnet.certificate_checks, plane, *review.checks),
            parts.metrics.collect,
        ),
    )


def _in_front(parts: Parts, document: Document, count: int) -> TailproxyService:
    """The supervisor: everything but the data plane and its certificates."""
    config, reactor, metrics = parts.config, parts.reactor, parts.metrics
    review, tailnet = parts.review(), parts.tailnet
    output = LogOutput(config, reactor, parts.access_log)
    listeners: list[Listener] = []

    def hold(held: bool) -> None:
        for listener in listeners:
            listener.hold(held=held)

    def launch(number: int, chief: Supervisor) -> WorkerProcess:
        current = reloader.current
        times = _drain_times(current.config)
        worker = WorkerProcess(
            reactor,
            Start(
                number=number,
                version=tailproxy.__version__,
                source=current.source,
                text=current.text,
                first=document.text,
                log=output.format,
            ),
            max(times.requests, times.streams),
            chief,
            output.write,
        )
        worker.spawn()
        return worker

    read = partial(load, str(Path(document.source).absolute()))
    reloader = Reloader(document, read, partial(check, reactor=reactor), metrics)
    dispatcher = Dispatcher(hold)
    supervisor = Supervisor(reactor, count, launch, dispatcher, metrics)
    labels = [listener.label for listener in config.tailproxy.listeners]
    listeners += parts.listeners({label: PassingDoor(label, dispatcher) for label in labels})
    plane = DataPlane(supervisor, parts.upstream, [*listeners, *parts.redirects()])
    certificates = [WorkersCheck(it.name, supervisor) for it in tailnet.certificate_checks]
    return TailproxyService(
        config,
        reactor,
        output,
        [parts.access, *tailnet.services, review, supervisor],
        plane,
        parts.admin(
            (*tailnet.checks, *certificates, plane, supervisor, *review.checks),
            supervisor.collect,
        ),
        (supervisor, reloader),
    )


class DataPlaneOnly:
    """A worker's parts: the data plane behind its doors, and what that asks.

    :ivar services: what the data plane needs, in the order of their start.
    :ivar checks: what must be well before connections are welcome.
    """

    def __init__(self, config: Config, reactor: Any) -> None:
        parts = Parts(config, reactor, watched=False)
        tailnet = parts.tailnet
        self.metrics = parts.metrics
        self.access_log = parts.access_log
        self.site = parts.site()
        self.doors = parts.doors(self.site)
        self.plane = DataPlane(self.site, parts.upstream, ())
        self.checks: list[IReadinessCheck] = tailnet.certificate_checks
        self.services: list[Service] = [
            parts.access,
            *tailnet.services,
            *tailnet.certificate_services,
        ]


def _drain_times(config: Config) -> DrainTimes:
    drain = config.tailproxy.drain
    return DrainTimes(drain.requests, drain.streams)


def _access(config: Config, reactor: Any) -> ClusterAccess:
    """The way to the API server: as configured, else in the cluster, else by a kubeconfig."""
    upstream = config.tailproxy.upstream
    anonymous = config.api_server_proxy.mode is Mode.NOAUTH
    if upstream.kubeconfig is None and upstream.context is None and in_cluster():
        return pod_access(reactor, anonymous=anonymous)
    paths = kubeconfig_paths(upstream.kubeconfig)
    return kubeconfig_access(paths, upstream.context, reactor, anonymous=anonymous)


def _following(listener: NodeListener) -> Callable[[Node], None]:
    return lambda node: listener.follow(node.addresses)

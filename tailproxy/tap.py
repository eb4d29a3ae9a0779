"""`twistd tailproxy`: options, and how the parts are put together. No logic of the proxy's own.

What cannot work ends the start with one line on standard error and a non-zero exit code; what
may yet come (tailscaled, the API server, a token) makes the service unready, with the reason at
`/readyz`.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.logger import ILogObserver, Logger
from twisted.plugin import getPlugins
from twisted.python import usage
from twisted.python.components import Componentized
from twisted.python.logfile import LogFile

import tailproxy
from tailproxy.admin.service import AdminService, admin_address, admin_site
from tailproxy.audit.access import AccessLog, Fanout
from tailproxy.audit.counters import RequestCounters
from tailproxy.audit.logs import LineObserver, filtered, json_line, text_line
from tailproxy.config import Config, load
from tailproxy.interfaces import (
    DrainTimes,
    ICertificateSource,
    IDoor,
    IIdentityResolver,
    IReadinessCheck,
    IResourcePlugin,
    PluginContext,
)
from tailproxy.kube.access import ClusterAccess, in_cluster, pod_access
from tailproxy.kube.kubeconfig import kubeconfig_access, kubeconfig_paths
from tailproxy.kube.review import ApiServerReview
from tailproxy.metrics import Metrics
from tailproxy.options import CertificatesFrom, ListenerKind, LogFormat, ResolverKind
from tailproxy.policy.decide import Mode, Rules
from tailproxy.policy.identity import IdentityError
from tailproxy.proxy.doors import Entrance, FactoryDoor, ProxyHeaderDoor, SocketDoor
from tailproxy.proxy.listener import Listener
from tailproxy.proxy.nodelistener import NodeListener
from tailproxy.proxy.peer import TailscaledOnly
from tailproxy.proxy.plugins import PluginsResource
from tailproxy.proxy.redirect import redirect_site
from tailproxy.proxy.reverse import ReverseProxyResource
from tailproxy.proxy.service import DataPlane
from tailproxy.proxy.site import Limits, Site
from tailproxy.proxy.tls import ServerTLS
from tailproxy.proxy.upstream import PoolLimits, Upstream
from tailproxy.proxy.whoami import WhoAmIPlugin
from tailproxy.proxy.whois import WhoIsResource
from tailproxy.schema import ConfigError
from tailproxy.tailnet.bus import BusWatcher
from tailproxy.tailnet.certificates import (
    CertificateError,
    FileCertificates,
    SelfSigned,
    TailnetCertificates,
)
from tailproxy.tailnet.localapi import LocalAPI
from tailproxy.tailnet.node import Node, NodeMonitor
from tailproxy.tailnet.resolver import TailscaledResolver
from tailproxy.tailnet.static import StaticCaller, StaticResolver

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from twisted.web.resource import IResource

    from tailproxy import options as ours

DEFAULT_CONFIG = "/etc/tailproxy/tailproxy.hujson"
# The variable that names the file for the Tailscale operator's own proxy (spec/dataplane.md 2.1).
_CONFIG_VARIABLE = "TS_K8S_PROXY_CONFIG"
_PLUGIN_NAME = re.compile(r"[a-z0-9-]+")


class Options(usage.Options):
    """The command line of `twistd tailproxy`.

    :ivar config: what the configuration file says, once the options were parsed.
    """

    longdesc = (
        "Puts the Kubernetes API server on a tailnet and lets each caller in as who the tailnet"
        " says they are."
    )
    optParameters: Sequence[Sequence[Any]] = [
        [
            "config",
            "c",
            None,
            f"The configuration file [default: ${_CONFIG_VARIABLE}, or {DEFAULT_CONFIG}].",
        ]
    ]
    optFlags: Sequence[Sequence[Any]] = [
        ["check", None, "Say whether the configuration can be used, and exit."]
    ]
    config: Config

    def opt_version(self) -> None:
        """Print tailproxy's version and exit."""
        sys.stdout.write(f"tailproxy {tailproxy.__version__}\n")
        sys.exit(0)

    def postOptions(self) -> None:
        """Read the configuration.

        :raises SystemExit: it is wrong; or it was only to be checked.
        """
        source = self["config"] or os.environ.get(_CONFIG_VARIABLE) or DEFAULT_CONFIG
        try:
            self.config = load(source)
            if self["check"]:
                build(self.config, _reactor())
        except ConfigError as error:
            raise SystemExit(f"tailproxy: {error}") from error
        if self["check"]:
            sys.stdout.write(f"{source}: good\n")
            sys.exit(0)


def makeService(options: Options, reactor: Any = None) -> MultiService:
    """The service, ready to be started.

    :param reactor: the global one if left out.
    :raises SystemExit: it cannot be made; the message says why.
    """
    twistd: Mapping[str, Any] = options.parent or {}
    try:
        service = build(options.config, reactor or _reactor())
    except ConfigError as error:
        raise SystemExit(f"tailproxy: {error}") from error
    service.run_by(twistd)
    return service


def _reactor() -> Any:
    from twisted.internet import reactor  # noqa: PLC0415 - importing it chooses it

    return reactor


class TailproxyService(MultiService):
    """The whole service. It starts from the bottom up and leaves from the top down.

    :param config: says how to log.
    :param parts: all but the data plane and the admin port, in the order of their start.
    """

    _log = Logger()

    def __init__(
        self,
        config: Config,
        reactor: Any,
        parts: Sequence[Service],
        plane: DataPlane,
        admin: AdminService | None,
    ) -> None:
        super().__init__()
        self._config = config
        self._reactor = reactor
        self._plane = plane
        self._twistd: Mapping[str, Any] = {}
        for part in (*parts, plane, *((admin,) if admin is not None else ())):
            part.setServiceParent(self)

    def run_by(self, twistd: Mapping[str, Any]) -> None:
        """Take note of twistd's own options."""
        self._twistd = twistd

    def setServiceParent(self, parent: Any) -> None:
        """Become part of an application, which logs as the configuration says.

        An observer of the user's own (`twistd --logger`) goes first; that is twistd's doing.
        """
        if isinstance(parent, Componentized) and parent.getComponent(ILogObserver) is None:
            parent.setComponent(ILogObserver, self._observer())
        super().setServiceParent(parent)

    def _observer(self) -> ILogObserver:
        stream, clock = _log_stream(self._twistd), self._reactor
        text = self._config.tailproxy.log.format is LogFormat.TEXT or (
            self._config.tailproxy.log.format is LogFormat.AUTO and _is_terminal(stream)
        )
        observer = LineObserver(stream, text_line if text else json_line, clock)
        self._reactor.addSystemEventTrigger("after", "shutdown", observer.close)
        return filtered(observer, self._config.log_level.value)

    def privilegedStartService(self) -> None:
        """Open every port.

        :raises SystemExit: one cannot be opened.
        """
        try:
            super().privilegedStartService()
        except CannotListenError as error:
            if not self._twistd.get("nodaemon"):
                # twistd hands the message to the terminal it was started from.
                raise
            _forget_pid(self._twistd)
            reason = os.strerror(error.socketError.errno or 0)
            _say(f"cannot listen on {error.interface or 'any address'} port {error.port}: {reason}")
            raise SystemExit(1) from error

    def startService(self) -> None:
        """Start everything, and from now on leave when told to."""
        super().startService()
        if self._config.unheeded:
            self._log.warn(
                "{keys} in the configuration: no effect, as tailscaled runs beside tailproxy",
                keys=", ".join(self._config.unheeded),
            )
        if self._twistd:
            self._reactor.callWhenRunning(self._heed_signals)

    def _heed_signals(self) -> None:
        # Twisted's own handlers would let the process die of the signal after a drain that went
        # well, and would not hear a second one (spec/dataplane.md 2.11).
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._reactor.callFromThread(self._leave))

    def _leave(self) -> None:
        if self.running:
            self._log.info("leaving; a second signal ends everything at once")
            self._reactor.stop()
        else:
            _forget_pid(self._twistd)
            _say("ended by a second signal")
            os._exit(1)

    def stopService(self) -> Deferred[Any]:
        """Drain the data plane, and only then stop what it needs; probes are answered last."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        Service.stopService(self)
        await self._plane.stopService()
        others = [service for service in reversed(list(self)) if service is not self._plane]
        await DeferredList([maybeDeferred(service.stopService) for service in others])


def _say(message: str) -> None:
    """One line on the real standard error: twistd has made log events of `sys.stderr` by now."""
    os.write(2, f"tailproxy: {message}\n".encode())


def _log_stream(twistd: Mapping[str, Any]) -> IO[str]:
    """Where twistd was told to log to; standard error if it was not and stays in the foreground."""
    logfile = twistd.get("logfile")
    if logfile == "-":
        return sys.stdout
    if logfile or not twistd.get("nodaemon", True):
        return cast("IO[str]", LogFile.fromFullPath(logfile or "twistd.log"))
    return sys.stderr


def _is_terminal(stream: IO[str]) -> bool:
    return stream in {sys.stdout, sys.stderr} and stream.isatty()


def _forget_pid(twistd: Mapping[str, Any]) -> None:
    if twistd.get("pidfile"):
        Path(twistd["pidfile"]).unlink(missing_ok=True)


def build(config: Config, reactor: Any) -> TailproxyService:
    """Put the service together. Nothing is opened and nobody is asked yet.

    :raises ConfigError: something that the configuration names cannot be used.
    """
    metrics = Metrics(tailproxy.__version__)
    tailnet = _Tailnet(config, reactor, metrics)
    access = _access(config, reactor)
    limits = config.tailproxy.limits
    upstream = Upstream(
        access, metrics, reactor, PoolLimits(connect_seconds=limits.connect_seconds)
    )
    plugins = _plugins(config, upstream)
    mode = config.api_server_proxy.mode
    root = WhoIsResource(
        tailnet.resolver,
        ReverseProxyResource(
            upstream, Rules(mode, config.tailproxy.client_impersonation), metrics, reactor
        ),
        PluginsResource(plugins["tailnet"]),
    )
    drain = config.tailproxy.drain
    site = Site(
        root,
        Fanout((AccessLog(), RequestCounters(metrics, mode))),
        metrics,
        reactor,
        DrainTimes(drain.requests, drain.streams),
        Limits(limits.header_bytes, limits.header_seconds, limits.idle_seconds),
    )
    listeners = _listeners(config, reactor, site, metrics, tailnet)
    plane = DataPlane(site, upstream, listeners)
    review = ApiServerReview(upstream, reactor, impersonate=mode is Mode.AUTH)
    admin = None
    if config.admin_enabled:
        pages = admin_site(
            tailproxy.__version__,
            (*tailnet.checks, plane, *review.checks),
            tailnet.has_address,
            metrics,
            tailnet.usermetrics,
            plugins["admin"],
        )
        admin = AdminService(reactor, pages, *admin_address(config))
    return TailproxyService(config, reactor, (access, *tailnet.services, review), plane, admin)


class _Tailnet:
    """What has to do with the tailnet: tailscaled, or a table in its place.

    :ivar resolver: says who calls.
    :ivar certificates: for listeners that end TLS themselves.
    :ivar doorkeeper: of `serve` listeners; None with the static resolver.
    :ivar monitor: of the own node; None with the static resolver.
    :ivar services: in the order of their start.
    :ivar checks: for readiness.
    """

    def __init__(self, config: Config, reactor: Any, metrics: Metrics) -> None:
        self.services: list[Service] = []
        self.checks: list[IReadinessCheck] = []
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
        if not static or (
            needs_certificates and config.tailproxy.certificates.source is CertificatesFrom.TAILNET
        ):
            self.monitor = NodeMonitor(reactor, api)
            self.usermetrics = api.usermetrics
            bus = BusWatcher(reactor, api)
            bus.subscribe(self.monitor)
            if isinstance(self.resolver, TailscaledResolver):
                bus.subscribe(self.resolver)
            self.services += [self.monitor, bus]
            self.checks.append(self.monitor)
        self.certificates: ICertificateSource | None = None
        if needs_certificates:
            source = _certificates(config.tailproxy, reactor, api, metrics)
            if isinstance(source, TailnetCertificates) and self.monitor is not None:
                self.monitor.watch(source.node_changed)
            self.certificates = source
            self.services.append(source)
            self.checks.append(source)

    def has_address(self) -> bool:
        """Whether the node has an address; without a tailnet there is nothing to wait for."""
        return self.monitor is None or bool(self.monitor.node.addresses)


def _static_resolver(resolver: ours.Resolver) -> StaticResolver:
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
    config: ours.Tailproxy, reactor: Any, api: LocalAPI, metrics: Metrics
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


def _access(config: Config, reactor: Any) -> ClusterAccess:
    """The way to the API server: as configured, else in the cluster, else by a kubeconfig."""
    upstream = config.tailproxy.upstream
    anonymous = config.api_server_proxy.mode is Mode.NOAUTH
    if upstream.kubeconfig is None and upstream.context is None and in_cluster():
        return pod_access(reactor, anonymous=anonymous)
    paths = kubeconfig_paths(upstream.kubeconfig)
    return kubeconfig_access(paths, upstream.context, reactor, anonymous=anonymous)


def _listeners(
    config: Config, reactor: Any, site: Site, metrics: Metrics, tailnet: _Tailnet
) -> list[Listener]:
    tls = ServerTLS(tailnet.certificates) if tailnet.certificates is not None else None
    found: list[Listener] = []
    for listener in config.tailproxy.listeners:
        service = listener.service or config.api_server_proxy.service_name
        entrance = Entrance(
            reactor, site, listener.label, tls if listener.own_tls else None, service
        )
        door: IDoor
        if listener.kind is ListenerKind.SERVE:
            door = ProxyHeaderDoor(entrance, metrics, tailnet.doorkeeper)
        else:
            door = SocketDoor(entrance, local=listener.kind is ListenerKind.LOOPBACK)
        ports: list[tuple[str, int, IDoor]] = [(listener.label, listener.endpoint.port, door)]
        if listener.redirect:
            redirect = FactoryDoor(reactor, redirect_site(listener.endpoint.port))
            ports.append((f"{listener.label}-redirect", 80, redirect))
        for name, port, answers in ports:
            if listener.endpoint.host is not None:
                host = str(listener.endpoint.host)
                found.append(Listener(reactor, name, [host], port, answers))
            elif tailnet.monitor is not None:
                follower = NodeListener(reactor, name, port, answers)
                tailnet.monitor.watch(_following(follower))
                found.append(follower)
    return found


def _following(listener: NodeListener) -> Callable[[Node], None]:
    return lambda node: listener.follow(node.addresses)


def _plugins(config: Config, upstream: Upstream) -> dict[str, dict[str, IResource]]:
    """The resources of all plugins, by mount and name."""
    options = config.tailproxy.plugins
    found: dict[str, dict[str, IResource]] = {"tailnet": {}, "admin": {}}
    names: set[str] = set()
    for plugin in (WhoAmIPlugin(), *getPlugins(IResourcePlugin)):
        if not _PLUGIN_NAME.fullmatch(plugin.name):
            raise ConfigError(
                f"plugin {plugin.name!r}", "its name is not lower-case letters, digits and hyphens"
            )
        if plugin.name in names:
            raise ConfigError(f"plugin {plugin.name}", "two plugins have this name; remove one")
        names.add(plugin.name)
        context = PluginContext(
            options.get(plugin.name, {}),
            tailproxy.__version__,
            config.api_server_proxy.mode.value,
            upstream,
        )
        if plugin.mount not in found:
            raise ConfigError(
                f"plugin {plugin.name}", f"its mount is {plugin.mount!r}, wanted tailnet or admin"
            )
        try:
            found[plugin.mount][plugin.name] = plugin.resource(context)
        except Exception as error:
            raise ConfigError(
                f"plugin {plugin.name}",
                f"it cannot be used: {error!r}; fix Tailproxy.Plugins.{plugin.name}, or remove it",
            ) from error
    for name in options:
        if name not in names:
            known = ", ".join(sorted(names))
            raise ConfigError(f"Tailproxy.Plugins.{name}", f"no such plugin; there is {known}")
    return found

"""The admin port.

It is reachable from the tailnet when tailscaled uses userspace networking and it listens on
127.0.0.1 or everywhere (spec/dataplane.md 5.3), so it has nothing but harmless pages.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.defer import maybeDeferred
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import Site

from tailproxy.admin.pages import (
    HealthPage,
    LivePage,
    MetricsPage,
    ReadyPage,
    RootPage,
    VersionPage,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from prometheus_client import Metric
    from twisted.internet.defer import Deferred
    from twisted.web.http import Request
    from twisted.web.resource import IResource

    from tailproxy.config import Config
    from tailproxy.interfaces import IReadinessCheck

# Where tailscaled does not forward to (design.md section 6, rule 10).
_LOCAL = "127.0.0.2"
_IDLE_SECONDS = 60


def admin_address(config: Config, environment: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Where the admin port listens: address and port (design.md section 4).

    :param environment: `POD_IP`, and whether this is a pod at all.
    """
    admin = config.tailproxy.admin
    port = config.local_port
    if admin is not None:
        port = port if admin.port is None else admin.port
        if admin.address is not None:
            return str(admin.address), port
    if environment.get("POD_IP"):
        return environment["POD_IP"], port
    if config.local_addr is not None:
        return str(config.local_addr), port
    return "::" if environment.get("KUBERNETES_SERVICE_HOST") else _LOCAL, port


def admin_pages(
    version: str,
    checks: Sequence[IReadinessCheck],
    has_address: Callable[[], bool],
    metrics: Callable[[], Awaitable[Iterable[Metric]]],
    tailscaled_metrics: Callable[[], Deferred[bytes]] | None,
    plugins: Mapping[str, IResource],
) -> IResource:
    """Everything the admin port shows.

    :param version: of tailproxy.
    :param checks: for `/readyz`.
    :param has_address: for `/healthz`.
    :param metrics: asks for ours.
    :param tailscaled_metrics: asks for those of tailscaled; None if there is none to ask.
    :param plugins: resources with the mount `admin`, by name.
    """
    return RootPage(
        {
            **plugins,
            "livez": LivePage(),
            "readyz": ReadyPage(checks),
            "healthz": HealthPage(has_address),
            "metrics": MetricsPage(metrics, tailscaled_metrics),
            "version": VersionPage(version),
        }
    )


class _Site(Site):
    """Without a log line for each probe."""

    noisy = False

    def log(self, request: Request) -> None:
        """Nothing: probes come every few seconds and tell nothing."""


class AdminService(Service):
    """Listens until the service has left: probes are answered during the drain too.

    :raises twisted.internet.error.CannotListenError: from `privilegedStartService`.
    """

    _log = Logger()

    def __init__(self, reactor: Any, address: str, port: int) -> None:
        self.setName("admin")
        self._reactor = reactor
        self._site = _Site(Resource(), timeout=_IDLE_SECONDS)
        self._site.displayTracebacks = False
        self._address = address
        self._wanted = port
        self._port: Any = None

    def show(self, pages: IResource) -> None:
        """Show these from now on."""
        self._site.resource = pages

    @property
    def port(self) -> int:
        """The port it listens on; what was asked for while it does not."""
        return self._wanted if self._port is None else int(self._port.getHost().port)

    def privilegedStartService(self) -> None:
        """Bind, unless that has been done."""
        super().privilegedStartService()
        if self._port is None:
            self._port = self._reactor.listenTCP(self._wanted, self._site, interface=self._address)

    def startService(self) -> None:
        """Bind, unless that has been done."""
        super().startService()
        self.privilegedStartService()
        self._log.info(
            "probes and metrics on {address} port {port}", address=self._address, port=self.port
        )

    def stopService(self) -> Deferred[Any]:
        """Stop listening."""
        super().stopService()
        port, self._port = self._port, None
        return maybeDeferred(port.stopListening if port is not None else _nothing)


def _nothing() -> None:
    """Nothing was open."""

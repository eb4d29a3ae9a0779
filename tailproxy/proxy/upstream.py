"""The API server as seen from the data plane: a pool of verified connections.

Idle connections are kept, newest first, so that a burst of requests does not cost a handshake
each (the reason why other proxies get slower with more clients). A request that found a kept
connection closed under its hands is repeated once if that is harmless.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import attrs
from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred, maybeDeferred
from zope.interface import implementer

from tailproxy.errors import UpstreamError
from tailproxy.interfaces import IUpstream
from tailproxy.proxy.dial import Dial
from tailproxy.proxy.exchange import Exchange

if TYPE_CHECKING:
    from OpenSSL import SSL
    from twisted.internet.interfaces import IDelayedCall

    from tailproxy.interfaces import IClusterAccess, IResponseReceiver, UpstreamRequest
    from tailproxy.metrics import Metrics
    from tailproxy.proxy.connection import Session, UpstreamConnection

# How long connections may take to close when the service ends.
CLOSE_SECONDS = 5.0
# How long new connections resume the same TLS session. Whoever is resumed shows no certificate
# again, so a change of it is noticed no later than this.
SESSION_SECONDS = 300.0


@attrs.frozen
class PoolLimits:
    """How connections to the API server are kept. Times in seconds.

    `idle_seconds` is below the API server's own 90 s, so that it is seldom the one that closes.
    """

    idle_connections: int = 128
    idle_seconds: float = 60.0
    connect_seconds: float = 30.0
    handshake_seconds: float = 10.0
    upgrade_seconds: float = 30.0


@implementer(IUpstream)
class Upstream(MultiService):
    """Keeps connections to the API server.

    :param access: where it is and how it is verified; asked again for every use. If it is a
        service, it is run with this one.
    """

    def __init__(
        self,
        access: IClusterAccess,
        metrics: Metrics,
        reactor: Any,
        limits: PoolLimits | None = None,
    ) -> None:
        super().__init__()
        self._access = access
        if IService.providedBy(access):
            access.setServiceParent(self)
        self._metrics = metrics
        self.clock = reactor
        self.limits = limits or PoolLimits()
        self._idle: list[UpstreamConnection] = []
        self._open: set[UpstreamConnection] = set()
        self._dials: set[Dial] = set()
        self._key: tuple[Any, ...] | None = None
        self._session: Session | None = None
        self._session_since = 0.0
        self._stopping = False
        self._leaving: list[Deferred[None]] = []
        self._sweep: IDelayedCall | None = None

    @property
    def host(self) -> bytes:
        """Value of the Host header."""
        return _host_header(self._access.host, self._access.port)

    @property
    def prefix(self) -> bytes:
        """Path in front of every request target."""
        prefix: bytes = self._access.prefix
        return prefix

    def bearer(self) -> bytes | None:
        """Our own token."""
        return self._access.bearer()

    def rejected(self) -> None:
        """The API server did not accept our credential."""
        self._access.rejected()

    def stopService(self) -> Deferred[None]:
        """Close everything; requests under way fail. Fires when no connection is left."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._keep_no_more()
        for dial in list(self._dials):
            dial.cancel()
        for connection in list(self._open):
            connection.close()
        timer = self.clock.callLater(CLOSE_SECONDS, self._abort_all)
        await self._emptied()
        _cancel(timer)
        await maybeDeferred(super().stopService)

    def retire(self) -> Deferred[None]:
        """Let the requests under way come to their end, exec streams and watches included. Fires
        when no connection is left. There should be no new requests.
        """
        for connection in self._keep_no_more():
            connection.close()
        return self._emptied()

    def _keep_no_more(self) -> list[UpstreamConnection]:
        """The connections that were kept."""
        self._stopping = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        idle, self._idle = self._idle, []
        return idle

    def _emptied(self) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        self._leaving.append(done)
        self._look_around()
        return done

    def _look_around(self) -> None:
        if self._stopping and not self._open and not self._dials:
            leaving, self._leaving = self._leaving, []
            for done in leaving:
                done.callback(None)

    def _abort_all(self) -> None:
        for connection in list(self._open):
            connection.abort()

    def send(self, request: UpstreamRequest, receiver: IResponseReceiver) -> Exchange:
        """Begin a request on a kept connection or on a new one."""
        exchange = Exchange(self, request, receiver)
        try:
            self._look()
        except UpstreamError as error:
            self.clock.callLater(0, exchange.failed, error, answered=False)
            return exchange
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                exchange.connected(connection)
                return exchange
        self.dial(exchange)
        return exchange

    def dial(self, exchange: Exchange) -> None:
        """Open a connection for an exchange."""
        try:
            context = self._look()
        except UpstreamError as error:
            exchange.failed(error, answered=False)
            return
        Dial(self, exchange, context, self._key, self._access).start()

    def _look(self) -> SSL.Context:
        """The context to connect with now. Connections to another place, or made under another
        CA or client certificate, are kept no longer.
        """
        access = self._access
        context: SSL.Context = access.tls_context()
        key = (context, access.host, access.port, access.server_name)
        if key != self._key:
            self._key = key
            self._session = None
            kept, self._idle = self._idle, []
            for connection in kept:
                connection.close()
        return context

    def dialling(self, dial: Dial) -> None:
        """A dial begins."""
        self._dials.add(dial)

    def dialled(self, dial: Dial) -> None:
        """A dial has ended, well or not; the connection has been told of before."""
        self._dials.discard(dial)
        self._look_around()

    def opened(self, connection: UpstreamConnection) -> None:
        """There is a connection; it is not verified yet."""
        self._open.add(connection)

    def verified(self, connection: UpstreamConnection) -> None:
        """The server is the right one."""
        self._metrics.upstream_connections.inc()

    def closed(self, connection: UpstreamConnection) -> None:
        """A connection is gone."""
        self._open.discard(connection)
        if connection.verified:
            self._metrics.upstream_connections.dec()
        if connection in self._idle:
            self._idle.remove(connection)
        self._look_around()

    def release(self, connection: UpstreamConnection, *, reusable: bool) -> None:
        """An exchange has ended: keep its connection if that is possible."""
        if (
            not reusable
            or self._stopping
            or not connection.usable
            or connection.key != self._key
            or len(self._idle) >= self.limits.idle_connections
        ):
            connection.close()
            return
        if not connection.used:
            self._keep_session(connection)
        connection.used = True
        connection.idle_since = self.clock.seconds()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = self.clock.callLater(self.limits.idle_seconds, self._close_idle)

    @property
    def session(self) -> SSL.Session | None:
        """What a new connection may resume, if there is something."""
        session = self._session
        if session is None or session.not_after <= datetime.now(UTC):
            return None
        return session.tls

    def _keep_session(self, connection: UpstreamConnection) -> None:
        """Remember how to resume, if what we have is not fresh."""
        now = self.clock.seconds()
        if self._session is None or now - self._session_since >= SESSION_SECONDS:
            self._session = connection.session
            self._session_since = now

    def count_error(self, error: UpstreamError) -> None:
        """An exchange has failed for good."""
        self._metrics.upstream_errors.labels(error.label).inc()

    def _close_idle(self) -> None:
        self._sweep = None
        oldest = self.clock.seconds() - self.limits.idle_seconds
        kept = [c for c in self._idle if c.idle_since > oldest]
        for connection in self._idle:
            if connection.idle_since <= oldest:
                connection.close()
        self._idle = kept
        if kept:
            self._sweep = self.clock.callLater(self.limits.idle_seconds / 4, self._close_idle)


@lru_cache(maxsize=2)
def _host_header(host: str, port: int) -> bytes:
    bracketed = f"[{host}]" if ":" in host else host
    return f"{bracketed}:{port}".encode("ascii" if bracketed.isascii() else "idna")


def _cancel(timer: IDelayedCall) -> None:
    if timer.active():
        timer.cancel()

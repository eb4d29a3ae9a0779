"""The API server as seen from the data plane: a pool of verified connections.

Idle connections are kept, newest first, so that a burst of requests does not cost a handshake
each (the reason why other proxies get slower with more clients). A request that found a kept
connection closed under its hands is repeated once if that is harmless.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from zope.interface import implementer

from tailproxy.errors import UpstreamError
from tailproxy.interfaces import IUpstream
from tailproxy.proxy.connection import ServerVerification, UpstreamConnection
from tailproxy.proxy.exchange import Exchange
from tailproxy.proxy.keepalive import watch_peer
from tailproxy.proxy.tlstransport import TLSTransport

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from OpenSSL import SSL
    from twisted.internet.interfaces import IDelayedCall
    from twisted.python.failure import Failure

    from tailproxy.interfaces import IClusterAccess, IResponseReceiver, UpstreamRequest
    from tailproxy.metrics import Metrics

# How long connections may take to close when the service ends.
CLOSE_SECONDS = 5.0


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
class Upstream(Service):
    """Keeps connections to the API server.

    :param access: where it is and how it is verified; asked again for every use.
    """

    def __init__(
        self,
        access: IClusterAccess,
        metrics: Metrics,
        reactor: Any,
        limits: PoolLimits | None = None,
    ) -> None:
        self._access = access
        self._metrics = metrics
        self.clock = reactor
        self.limits = limits or PoolLimits()
        self._idle: list[UpstreamConnection] = []
        self._open: set[UpstreamConnection] = set()
        self._dials: set[_Dial] = set()
        self._key: tuple[Any, ...] | None = None
        self._stopping = False
        self._empty: Deferred[None] | None = None
        self._sweep: IDelayedCall | None = None

    @property
    def host(self) -> bytes:
        """Value of the Host header."""
        host: str = self._access.host
        bracketed = f"[{host}]" if ":" in host else host
        port: int = self._access.port
        return f"{bracketed}:{port}".encode("ascii" if bracketed.isascii() else "idna")

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
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._stopping = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self._idle = []
        for dial in list(self._dials):
            dial.cancel()
        for connection in list(self._open):
            connection.close()
        if self._open:
            self._empty = Deferred()
            timer = self.clock.callLater(CLOSE_SECONDS, self._abort_all)
            await self._empty
            _cancel(timer)

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
        _Dial(self, exchange, context, self._key, self._access).start()

    def _look(self) -> SSL.Context:
        """The context to connect with now. Connections to another place, or made under another
        CA or client certificate, are kept no longer.
        """
        access = self._access
        context: SSL.Context = access.tls_context()
        key = (context, access.host, access.port, access.server_name)
        if key != self._key:
            self._key = key
            kept, self._idle = self._idle, []
            for connection in kept:
                connection.close()
        return context

    def dialling(self, dial: _Dial) -> None:
        """A dial begins."""
        self._dials.add(dial)

    def dialled(self, dial: _Dial) -> None:
        """A dial has ended, well or not."""
        self._dials.discard(dial)

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
        if not self._open and self._empty is not None:
            empty, self._empty = self._empty, None
            empty.callback(None)

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
        connection.used = True
        connection.idle_since = self.clock.seconds()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = self.clock.callLater(self.limits.idle_seconds, self._close_idle)

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


class _Dial:
    """One attempt to get a connection for an exchange."""

    _log = Logger()

    def __init__(
        self,
        upstream: Upstream,
        exchange: Exchange,
        context: SSL.Context,
        key: object,
        access: IClusterAccess,
    ) -> None:
        self._upstream = upstream
        self._exchange = exchange
        self._key = key
        self._host: str = access.host
        self._port: int = access.port
        self._verification = ServerVerification(context, access.server_name)
        self._connecting: Deferred[Any] | None = None
        self._connection: UpstreamConnection | None = None
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        """Connect. What follows is told to the exchange."""
        clock = self._upstream.clock
        factory: Factory[Any] = Factory()
        factory.noisy = False
        factory.buildProtocol = self._build  # type: ignore[method-assign,assignment]
        endpoint = HostnameEndpoint(
            clock,
            self._host.encode("ascii" if self._host.isascii() else "idna"),
            self._port,
            timeout=self._upstream.limits.connect_seconds,
        )
        self._upstream.dialling(self)
        self._connecting = endpoint.connect(factory)
        self._connecting.addErrback(self._not_connected)

    def cancel(self) -> None:
        """The service ends."""
        error = UpstreamError(503, "connect", "the service is being stopped")
        if self._connection is not None:
            self._connection.give_up(error)
        elif self._connecting is not None:
            self._connecting.cancel()

    def _build(self, _: object) -> _Connected:
        return _Connected(self._secure)

    def _secure(self, connected: socket.socket) -> None:
        """There is a socket: begin TLS on it."""
        self._connecting = None
        limits = self._upstream.limits
        connection = self._connection = UpstreamConnection(
            self._key, self._verification, self._ready, self._failed, self._upstream.closed
        )
        self._upstream.opened(connection)
        self._timer = self._upstream.clock.callLater(
            limits.handshake_seconds,
            connection.give_up,
            UpstreamError(504, "connect", "its TLS handshake takes too long"),
        )
        watch_peer(connected)
        tls = self._verification.connect(connected)
        TLSTransport(self._upstream.clock, connected, connection, tls).start()

    def _end(self) -> None:
        self._upstream.dialled(self)
        if self._timer is not None:
            _cancel(self._timer)

    def _ready(self, connection: UpstreamConnection) -> None:
        self._end()
        self._upstream.verified(connection)
        if self._exchange.done:
            self._upstream.release(connection, reusable=True)
        else:
            self._exchange.connected(connection)

    def _failed(self, error: UpstreamError) -> None:
        self._end()
        self._exchange.failed(error, answered=False)

    def _not_connected(self, failure: Failure) -> None:
        where = f"{self._host}:{self._port}"
        if failure.check(ConnectTimeout):
            error = UpstreamError(504, "connect", f"no answer from {where}")
        elif failure.check(DNSLookupError):
            error = UpstreamError(502, "connect", f"its name {self._host} is unknown")
        elif failure.check(ConnectError):
            error = UpstreamError(502, "connect", f"cannot connect to {where}: {failure.value}")
        elif failure.check(CancelledError):
            error = UpstreamError(503, "connect", "the service is being stopped")
        else:
            self._log.failure("cannot dial {where}", failure, where=where)
            error = UpstreamError(502, "connect", f"cannot connect to {where}")
        self._failed(error)


class _Connected(Protocol):
    """Takes the socket of a connection over from Twisted."""

    transport: Any

    def __init__(self, take: Callable[[socket.socket], None]) -> None:
        self._take = take

    def connectionMade(self) -> None:
        """The reactor forgets its transport, and the socket is ours."""
        self.transport.stopReading()
        self._take(self.transport.getHandle())


def _cancel(timer: IDelayedCall) -> None:
    if timer.active():
        timer.cancel()

"""The API server as seen from the data plane: a pool of verified connections.

Idle connections are kept, newest first, so that a burst of requests does not cost a handshake
each (the reason why other proxies get slower with more clients). A request that found a kept
connection closed under its hands is repeated once if that is harmless.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
from twisted.application.service import Service
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from zope.interface import implementer

from tailproxy.errors import UpstreamError
from tailproxy.interfaces import IExchange, IUpstream, ResponseHead
from tailproxy.proxy.connection import ServerVerification, UpstreamConnection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twisted.internet.interfaces import IDelayedCall
    from twisted.python.failure import Failure

    from tailproxy.interfaces import IClusterAccess, IResponseReceiver, IStream, UpstreamRequest
    from tailproxy.metrics import Metrics
    from tailproxy.wire.http1 import Header

# Methods whose requests may be sent again when a kept connection turned out to be closed
# (RFC 9110, 9.2.1: safe ones).
_REPEATABLE = frozenset((b"GET", b"HEAD", b"OPTIONS"))
_NO_BODY = frozenset((204, 304))


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


@implementer(IExchange)
class Exchange:
    """One request and its answer. It outlives neither; the connection may."""

    __slots__ = (
        "_body_ended",
        "_connection",
        "_done",
        "_paused",
        "_pending",
        "_producer",
        "_receiver",
        "_repeatable",
        "_timer",
        "_upstream",
        "request",
    )

    def __init__(
        self, upstream: Upstream, request: UpstreamRequest, receiver: IResponseReceiver
    ) -> None:
        self._upstream = upstream
        self.request = request
        self._receiver = receiver
        self._connection: UpstreamConnection | None = None
        self._pending: list[bytes] = []
        self._producer: Any = None
        self._paused = False
        self._done = False
        self._body_ended = not request.has_body
        self._repeatable = request.method in _REPEATABLE and not request.has_body
        self._timer: IDelayedCall | None = None

    # For whoever sends.

    def write_body(self, chunk: bytes) -> None:
        """Send bytes of the request's body."""
        self._write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if self.request.chunked else chunk)

    def end_body(self, trailers: Sequence[Header]) -> None:
        """The request's body is complete."""
        if self.request.chunked:
            fields = b"".join(b"%b: %b\r\n" % field for field in trailers)
            self._write(b"0\r\n" + fields + b"\r\n")
        self._body_ended = True
        if self._producer is not None:
            self._producer = None
            if self._connection is not None and not self._done:
                self._connection.transport.unregisterProducer()

    def register_body_producer(self, producer: Any) -> None:
        """Slow down a push producer while the API server reads slowly, or is not there yet."""
        self._producer = producer
        if self._connection is None:
            producer.pauseProducing()
        else:
            self._connection.transport.registerProducer(producer, True)

    def pause_response(self) -> None:
        """Stop reading the answer."""
        self._paused = True
        if self._connection is not None and not self._done:
            self._connection.transport.pauseProducing()

    def resume_response(self) -> None:
        """Read on."""
        self._paused = False
        if self._connection is not None and not self._done:
            self._connection.transport.resumeProducing()

    def abort(self) -> None:
        """Nobody wants the answer any more."""
        if not self._done:
            self._finish()
            if self._connection is not None:
                self._connection.abort()

    def _write(self, data: bytes) -> None:
        if self._done:
            return
        if self._connection is None:
            self._pending.append(data)
        else:
            self._connection.transport.write(data)

    def _finish(self) -> None:
        self._done = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        producer, self._producer = self._producer, None
        if producer is not None and self._connection is not None:
            self._connection.transport.unregisterProducer()

    # For the pool and the connection.

    @property
    def done(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._done

    def connected(self, connection: UpstreamConnection) -> None:
        """There is a connection: send what has gathered."""
        self._connection = connection
        request = self.request
        lines = [b"%b %b%b HTTP/1.1\r\n" % (request.method, self._upstream.prefix, request.target)]
        lines += [b"%b: %b\r\n" % field for field in request.headers]
        if request.chunked:
            lines.append(b"Transfer-Encoding: chunked\r\n")
        lines.append(b"\r\n")
        lines += self._pending
        self._pending = []
        connection.begin(self, b"".join(lines))
        self._receiver.request_sent()
        if self._producer is not None:
            connection.transport.registerProducer(self._producer, True)
            self._producer.resumeProducing()
        if request.upgrade is not None:
            self._timer = self._upstream.clock.callLater(
                self._upstream.limits.upgrade_seconds, self._no_answer
            )

    def _no_answer(self) -> None:
        self._timer = None
        if not self._done:
            self.abort()
            self._receiver.response_failed(
                UpstreamError(504, "timeout", "it does not answer the request for an upgrade")
            )

    def expects_body(self, code: int) -> bool:
        """Whether an answer with that code has a body (RFC 9112, 6.3)."""
        return self.request.method != b"HEAD" and code not in _NO_BODY

    def accepts_switch(self, head: ResponseHead) -> bool:
        """Whether a 101 switches to what was asked for (spec/streaming.md 1.3)."""
        asked = self.request.upgrade
        if asked is None:
            return False
        got = [value for name, value in head.headers if name.lower() == b"upgrade"]
        return len(got) == 1 and got[0].lower() == asked.lower()

    def interim(self, head: ResponseHead) -> None:
        """An interim answer."""
        self._receiver.response_interim(head)

    def head(self, head: ResponseHead) -> None:
        """The final answer begins."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if head.code == 401:
            self._upstream.rejected()
        self._receiver.response_head(head)

    def body(self, chunks: list[bytes]) -> None:
        """A part of the answer's body."""
        if not self._done:
            self._receiver.response_body(chunks)

    def end(self, trailers: Sequence[Header], *, reusable: bool) -> None:
        """The answer is complete."""
        if self._done:
            return
        connection = self._connection
        self._finish()
        if self._paused and connection is not None:
            connection.transport.resumeProducing()
        self._receiver.response_end(trailers)
        if connection is not None:
            self._upstream.release(connection, reusable=reusable and self._body_ended)

    def switched(self, head: ResponseHead, stream: IStream, early: bytes) -> None:
        """The connection has become a stream."""
        self._finish()
        self._receiver.response_switched(head, stream, early)

    def failed(self, error: UpstreamError, *, answered: bool) -> None:
        """It came to nothing.

        :param answered: whether anything of an answer had come.
        """
        if self._done:
            return
        connection = self._connection
        if (
            connection is not None
            and connection.used
            and not answered
            and self._repeatable
            and error.label == "disconnect"
        ):
            # Once: a fresh connection has not been used before.
            self._connection = None
            self._upstream.dial(self)
            return
        self._finish()
        self._upstream.count_error(error)
        self._receiver.response_failed(error)


@implementer(IUpstream)
class Upstream(Service):
    """Keeps connections to the API server.

    :param access: where it is and how it is verified; asked again for every use.
    """

    _log = Logger()

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
        self._sweep: IDelayedCall | None = None
        bracketed = f"[{access.host}]" if ":" in access.host else access.host
        self.host = f"{bracketed}:{access.port}".encode("idna" if bracketed.isascii() else "utf-8")

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

    def stopService(self) -> None:
        """Close what is idle; exchanges under way end with their requests."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for connection in list(self._open):
            connection.close()
        self._idle = []
        super().stopService()

    def send(self, request: UpstreamRequest, receiver: IResponseReceiver) -> Exchange:
        """Begin a request on a kept connection or on a new one."""
        exchange = Exchange(self, request, receiver)
        try:
            context = self._access.tls_context()
        except UpstreamError as error:
            self.clock.callLater(0, exchange.failed, error, answered=False)
            return exchange
        while self._idle:
            connection = self._idle.pop()
            if connection.context is context:
                exchange.connected(connection)
                return exchange
            connection.close()
        self.dial(exchange)
        return exchange

    def dial(self, exchange: Exchange) -> None:
        """Open a connection for an exchange."""
        access = self._access
        try:
            context = access.tls_context()
        except UpstreamError as error:
            exchange.failed(error, answered=False)
            return
        verification = ServerVerification(context, access.server_name)
        timers: list[IDelayedCall] = []

        def ready(connection: UpstreamConnection) -> None:
            _cancel(timers)
            self._open.add(connection)
            self._metrics.upstream_connections.inc()
            if exchange.done:
                self.release(connection, reusable=True)
            else:
                exchange.connected(connection)

        def failed(error: UpstreamError) -> None:
            _cancel(timers)
            exchange.failed(error, answered=False)

        def protocol() -> UpstreamConnection:
            connection = UpstreamConnection(context, verification, ready, failed, self._closed)
            timers.append(
                self.clock.callLater(self.limits.handshake_seconds, connection.handshake_timed_out)
            )
            return connection

        endpoint = wrapClientTLS(
            verification,
            HostnameEndpoint(
                self.clock,
                access.host.encode("idna" if ":" not in access.host else "ascii"),
                access.port,
                timeout=self.limits.connect_seconds,
            ),
        )
        endpoint.connect(_factory(protocol)).addErrback(self._not_connected, exchange)

    def _not_connected(self, failure: Failure, exchange: Exchange) -> None:
        where = f"{self._access.host}:{self._access.port}"
        if failure.check(ConnectTimeout):
            error = UpstreamError(504, "connect", f"no answer from {where}")
        elif failure.check(DNSLookupError):
            error = UpstreamError(502, "connect", f"its name {self._access.host} is unknown")
        elif failure.check(ConnectError):
            error = UpstreamError(502, "connect", f"cannot connect to {where}: {failure.value}")
        else:
            self._log.failure("cannot dial {where}", failure, where=where)
            error = UpstreamError(502, "connect", f"cannot connect to {where}")
        exchange.failed(error, answered=False)

    def release(self, connection: UpstreamConnection, *, reusable: bool) -> None:
        """An exchange has ended: keep its connection if that is possible."""
        if (
            not reusable
            or connection not in self._open
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

    def _closed(self, connection: UpstreamConnection) -> None:
        if connection in self._open:
            self._open.discard(connection)
            self._metrics.upstream_connections.dec()
        if connection in self._idle:
            self._idle.remove(connection)


def _cancel(timers: list[IDelayedCall]) -> None:
    for timer in timers:
        if timer.active():
            timer.cancel()


def _factory(build: Any) -> Factory[Any]:
    factory: Factory[Any] = Factory()
    factory.noisy = False
    factory.buildProtocol = lambda _: build()  # type: ignore[method-assign,assignment]
    return factory

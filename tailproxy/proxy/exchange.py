"""One request on its way to the API server, from a connection for it to the end of its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zope.interface import implementer

from tailproxy.errors import UpstreamError
from tailproxy.interfaces import IExchange, ResponseHead
from tailproxy.wire import http1

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twisted.internet.interfaces import IDelayedCall

    from tailproxy.interfaces import IResponseReceiver, IStream, UpstreamRequest
    from tailproxy.proxy.connection import UpstreamConnection
    from tailproxy.proxy.upstream import Upstream
    from tailproxy.wire.http1 import Header

# Methods whose requests may be sent again when a kept connection turned out to be closed
# (RFC 9110, 9.2.1: safe ones).
_REPEATABLE = frozenset((b"GET", b"HEAD", b"OPTIONS"))


@implementer(IExchange)
class Exchange:
    """One request and its answer. It outlives neither; the connection may."""

    __slots__ = (
        "_body_ended",
        "_chunked",
        "_connection",
        "_done",
        "_method",
        "_paused",
        "_pending",
        "_producer",
        "_receiver",
        "_repeatable",
        "_request",
        "_timer",
        "_upstream",
    )

    def __init__(
        self, upstream: Upstream, request: UpstreamRequest, receiver: IResponseReceiver
    ) -> None:
        self._upstream = upstream
        self._request: UpstreamRequest | None = request
        self._method = request.method
        self._chunked = request.chunked
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
        if chunk:  # an empty one would be the end of the body
            self._write(http1.chunk(chunk) if self._chunked else chunk)

    def end_body(self, trailers: Sequence[Header]) -> None:
        """The request's body is complete."""
        if self._chunked:
            self._write(http1.last_chunk(trailers))
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
        self._stop_timer()
        producer, self._producer = self._producer, None
        if producer is not None and self._connection is not None:
            self._connection.transport.unregisterProducer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # For the pool and the connection.

    @property
    def done(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._done

    def connected(self, connection: UpstreamConnection) -> None:
        """There is a connection: send what has gathered."""
        self._connection = connection
        request = self._request
        if request is None:
            raise RuntimeError("the request has been answered")
        first = b"%b %b%b HTTP/1.1\r\n%b" % (
            request.method,
            self._upstream.prefix,
            request.target,
            request.block,
        )
        if self._pending:
            first = b"".join((first, *self._pending))
            self._pending = []
        connection.begin(self, first)
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
        return http1.has_body(self._method, code)

    def accepts_switch(self, head: ResponseHead) -> bool:
        """Whether a 101 switches to what was asked for (spec/streaming.md 1.3)."""
        asked = self._request.upgrade if self._request is not None else None
        if asked is None:
            return False
        got = [value for name, value in head.headers if name.lower() == b"upgrade"]
        return len(got) == 1 and got[0].strip().lower() == asked.strip().lower()

    def interim(self, head: ResponseHead) -> None:
        """An interim answer."""
        if not self._done:
            self._receiver.response_interim(head)

    def head(self, head: ResponseHead) -> None:
        """The final answer begins."""
        if self._done:
            return
        self._stop_timer()
        self._request = None  # it will not be sent again, and the answer may go on for hours
        if head.code == 401:
            self._upstream.rejected()
        self._receiver.response_head(head)

    def body(self, chunks: list[bytes]) -> None:
        """A part of the answer's body."""
        if not self._done:
            self._receiver.response_body(chunks)

    def flush(self) -> None:
        """All that came in one read has been told."""
        if not self._done:
            self._receiver.response_flush()

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
        if self._done:
            stream.transport.abortConnection()
            return
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
            self._stop_timer()
            self._connection = None
            self._upstream.dial(self)
            return
        self._finish()
        self._upstream.count_error(error)
        self._receiver.response_failed(error)

"""One request of a client, and its answer.

The channel makes a `Request` when the *headers* are complete; the body may still be on its way.
It is what the root resource gets. It carries the facts of the head, the caller and, once that is
known, the identity; it hands out the body as it comes (`Body`), takes the answer piece by piece
or whole, or gives the connection away for an upgrade (`take_over`).

It is no `twisted.web.http.Request`: that one waits for the whole body and costs several times as
much. `tailproxy.proxy.plugins` makes one of those for plugins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from zope.interface import implementer

from tailproxy.errors import ApiError
from tailproxy.interfaces import AccessRecord, ResponseHead
from tailproxy.proxy.requestid import new_id
from tailproxy.wire import http1
from tailproxy.wire.requestinfo import is_discovery

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

    from twisted.python.failure import Failure

    from tailproxy.interfaces import IStream
    from tailproxy.policy.identity import Caller, Identity
    from tailproxy.proxy.channel import HTTPChannel
    from tailproxy.wire.head import RequestHead
    from tailproxy.wire.http1 import Header

    class BodyReceiver(Protocol):
        """Takes a request's body."""

        def body_data(self, chunks: Sequence[bytes]) -> None:
            """Bytes of the body, without their framing."""

        def body_end(self, trailers: Sequence[Header]) -> None:
            """The body is complete."""

    class Handler(Protocol):
        """Whoever answers a request hears what becomes of its client."""

        def client_lost(self) -> None:
            """The client has gone before the end of the answer."""

        def drain(self) -> None:
            """The service is leaving: end what never ends by itself."""

        @property
        def long_running(self) -> bool:
            """Whether the stream's deadline counts in a drain, not the request's."""


CLIENT_GONE = 499
"""What the audit trail calls a request whose client went before it had an answer."""

_log = Logger()


@implementer(IPushProducer)
class Body:
    """The body of a request, as a push producer of its chunks.

    Until somebody takes it, it holds what has come and stops the client.
    """

    __slots__ = (
        "_ahead",
        "_channel",
        "_chunks",
        "_ended",
        "_paused",
        "_receiver",
        "_trailers",
        "_watcher",
    )

    def __init__(self, channel: HTTPChannel) -> None:
        self._channel = channel
        self._chunks: list[bytes] = []
        self._receiver: BodyReceiver | None = None
        self._watcher: BodyReceiver | None = None
        self._ahead = False
        self._ended = False
        self._paused = False
        self._trailers: Sequence[Header] = ()

    def deliver_to(self, receiver: BodyReceiver) -> None:
        """Give what is here and everything that comes to `receiver`."""
        self._receiver = receiver
        if self._chunks:
            chunks, self._chunks = self._chunks, []
            receiver.body_data(chunks)
        if self._ended:
            receiver.body_end(self._trailers)
        elif not self._paused:
            self._channel.resume_reading()

    def watch(self, watcher: BodyReceiver, *, ahead: bool = False) -> None:
        """Show what is here and everything that comes to somebody who does not take it.

        :param ahead: read on before anybody takes it, until `hold`.
        """
        self._watcher = watcher
        self._ahead = ahead
        if ahead and not self._ended:
            self._channel.resume_reading()
        if self._chunks:
            watcher.body_data(self._chunks)
        if self._ended:
            watcher.body_end(self._trailers)

    def hold(self) -> None:
        """Read no further until somebody takes it."""
        self._ahead = False
        if self._receiver is None and not self._ended:
            self._channel.pause_reading()

    def data(self, chunks: list[bytes]) -> None:
        """The channel has read a part of the body."""
        if self._receiver is not None:
            self._receiver.body_data(chunks)
        else:
            self._chunks += chunks
            if not self._ahead:
                self._channel.pause_reading()
        if self._watcher is not None:
            self._watcher.body_data(chunks)

    def end(self, trailers: Sequence[Header]) -> None:
        """The channel has read the end of the body."""
        self._ended = True
        self._trailers = trailers
        # Nothing is left to hold back, and a client that goes must be noticed.
        self._channel.resume_reading()
        if self._receiver is not None:
            self._receiver.body_end(trailers)
        if self._watcher is not None:
            self._watcher.body_end(trailers)

    def pauseProducing(self) -> None:
        """Stop reading from the client."""
        self._paused = True
        if not self._ended:
            self._channel.pause_reading()

    def resumeProducing(self) -> None:
        """Read on."""
        self._paused = False
        if not self._ended and self._receiver is not None:
            self._channel.resume_reading()

    def stopProducing(self) -> None:
        """The API server takes no more; its answer, or its failure, decides what follows."""


class Request:
    """A request whose head is complete, and the way to answer it.

    What is written of an answer is held until `flush` or the end of the answer, so that a head and
    what came with it leave together.

    :ivar id: fresh and unguessable, hexadecimal. Logs on both sides of us are joined by it.
    :ivar head: what the client sent, without the body.
    :ivar caller: where the connection comes from.
    :ivar listener: name of the listener that took it.
    :ivar identity: who that is; None until `WhoIsResource` knows.
    :ivar body: None when there is none.
    :ivar complete: whether the whole body has arrived.
    :ivar received_at: when the head was complete, in seconds of the reactor's clock.
    :ivar gone: whether the client has gone or the answer is complete.
    :ivar forwarded: whether it was let through to the API server.
    :ivar session: what kind of session it is, for the audit trail.
    :ivar at_end: called when it is over, whatever became of it.
    :ivar exit_code: of the session's command, once that is known.
    :ivar recorded: where it is recorded.
    :ivar reason: why it is refused, or why nothing of it is recorded.
    """

    __slots__ = (
        "_channel",
        "_chunked_answer",
        "_handler",
        "_held",
        "_started",
        "_until_close",
        "at_end",
        "body",
        "caller",
        "complete",
        "denied",
        "exit_code",
        "forwarded",
        "gone",
        "head",
        "id",
        "identity",
        "keep_alive",
        "listener",
        "reason",
        "received",
        "received_at",
        "recorded",
        "sent",
        "session",
        "status",
    )

    def __init__(
        self,
        channel: HTTPChannel,
        head: RequestHead,
        *,
        keep_alive: bool,
    ) -> None:
        self._channel = channel
        self.id = new_id()
        self.head = head
        self.keep_alive = keep_alive
        self.body = Body(channel) if head.framing is not http1.NO_BODY else None
        self.complete = False
        self.caller: Caller = channel.caller
        self.listener: str = channel.listener
        self.received_at: float = channel.clock.seconds()
        self.identity: Identity | None = None
        self.gone = False
        self.denied = ""
        self.reason = ""
        self.forwarded = False
        self.session: str = head.info.session or ""
        self.exit_code: int | None = None
        self.at_end: Callable[[], None] | None = None
        self.recorded = ""
        self.status = 0
        self.sent = 0
        self.received = 0
        self._handler: Handler | None = None
        self._held: list[bytes] = []
        self._started = False
        self._chunked_answer = False
        self._until_close = False

    @property
    def method(self) -> bytes:
        """As sent."""
        return self.head.method

    @property
    def target(self) -> bytes:
        """The request target byte for byte."""
        return self.head.target

    @property
    def id_header(self) -> Header:
        """The header by which an answer of our own says its ID, as the API server's do."""
        return b"Audit-Id", self.id.encode()

    @property
    def upgrade(self) -> bytes | None:
        """The protocol that the client wants to switch to, if it does."""
        return self.head.upgrade

    @property
    def local_address(self) -> Any:
        """Our end of the connection, as Twisted's `IAddress`."""
        return self._channel.transport.getHost()

    @property
    def started(self) -> bool:
        """Whether the head of the answer has been written."""
        return self._started

    @property
    def handler(self) -> Handler | None:
        """Whoever answers."""
        return self._handler

    def handle_by(self, handler: Handler) -> None:
        """Say who answers, and so hears when the client goes."""
        self._handler = handler

    @property
    def told_end(self) -> bool:
        """Whether the answer says that it is the connection's last one, and where it ends."""
        return not self.keep_alive and not self._until_close

    @property
    def draining(self) -> bool:
        """Whether the service is leaving."""
        return self._channel.draining

    # Answers.

    def interim(self, head: ResponseHead) -> None:
        """Write a 1xx answer other than 101; clients of HTTP/1.0 know none (RFC 9110, 15.2)."""
        if not self._started and not self.gone and self.head.version != "1.0":
            self._channel.write(_head_bytes(head))

    def start(self, head: ResponseHead) -> None:
        """Begin the answer.

        :param head: of its headers the end-to-end ones are passed on. With a Content-Length among
            them the body goes as it is, else in chunks (or, to HTTP/1.0, until the end of the
            connection).
        """
        if self.gone:
            return
        self._started = True
        self.status = head.code
        fields, has_length = http1.response_block(head.headers)
        lines = [b"HTTP/1.1 %d %b\r\n" % (head.code, head.reason), fields]
        if not has_length and http1.has_body(self.head.method, head.code):
            if self.head.version == "1.0":
                self.keep_alive = False
                self._until_close = True
            else:
                self._chunked_answer = True
                lines.append(b"Transfer-Encoding: chunked\r\n")
        # The rest of a body that has not arrived must not be taken for the next request.
        if not self.keep_alive or not self.complete or self._channel.draining:
            self.keep_alive = False
            lines.append(b"Connection: close\r\n")
        lines.append(b"\r\n")
        self._held += lines

    def write(self, chunks: Sequence[bytes]) -> None:
        """Write a part of the answer's body."""
        if self.gone:
            return
        size = sum(map(len, chunks))
        self.sent += size
        if not self._chunked_answer:
            self._held += chunks
        elif size:
            self._held.append(b"%x\r\n" % size)
            self._held += chunks
            self._held.append(b"\r\n")

    def flush(self) -> None:
        """Send what is held."""
        held = self._held
        if held:
            self._held = []
            self._channel.write(held[0] if len(held) == 1 else b"".join(held))

    def finish(self, trailers: Sequence[Header] = ()) -> None:
        """The answer is complete."""
        if self.gone:
            return
        if self._chunked_answer:
            self._held.append(http1.last_chunk(trailers))
        self.flush()
        self._account()
        self._channel.answered(self)

    def answer(
        self,
        code: int,
        content_type: bytes,
        body: bytes,
        extra: Sequence[Header] = (),
    ) -> None:
        """Write a whole answer of our own."""
        headers = [
            (b"Content-Type", content_type),
            (b"Content-Length", b"%d" % len(body)),
            (b"Cache-Control", b"no-store"),
            (b"X-Content-Type-Options", b"nosniff"),
            self.id_header,
            *extra,
        ]
        self.start(ResponseHead(code, _REASONS.get(code, b"Error"), headers))
        if http1.has_body(self.head.method, code):
            self.write((body,))
        self.finish()

    def refuse(self, error: ApiError) -> None:
        """Answer with an error, or end the connection when the answer has begun already."""
        if self.gone:
            return
        self.denied = error.label
        self.reason = error.message
        if self._started:
            self.abort()
            return
        content_type, body = error.body(discovery=is_discovery(self.head.method, self.head.target))
        self.answer(error.code, content_type, body)

    def broken(self, failure: Failure) -> None:
        """Refuse after an error of our own, and end what was under way for the request."""
        head = self.head
        _log.failure("cannot answer {method} {path}", failure, method=head.method, path=head.path)
        handler, self._handler = self._handler, None
        if handler is not None:
            handler.client_lost()
        self.refuse(ApiError(500, "internal", "an error of tailproxy's own; its log says more"))

    def abort(self) -> None:
        """End the connection without ending the answer, so that it cannot be taken for whole."""
        if not self.gone:
            self.flush()
            self._account()
            self._channel.abort(self)

    # Upgrades.

    def take_over(self, head: ResponseHead) -> IStream:
        """Write the head of a 101 and give the connection away as a stream of bytes.

        What the client has sent already comes first in the stream.
        """
        self._started = True
        self.status = head.code
        self._channel.write(_head_bytes(head))
        return self._channel.take_over(self)

    def stream_ended(self) -> None:
        """The stream that `take_over` gave has ended: tell the audit trail."""
        self._account()

    # What the answer goes to.

    def register_producer(self, producer: Any, *, streaming: bool = True) -> None:
        """Slow down a producer while the client reads slowly."""
        self._channel.register_producer(producer, streaming=streaming)

    def unregister_producer(self) -> None:
        """There is no more to slow down."""
        self._channel.unregister_producer()

    def lost(self) -> None:
        """The channel has lost the client. Without an answer that is 499 in the audit trail, as
        other proxies have it.
        """
        if self.gone:
            return
        if not self._started:
            self.status = CLIENT_GONE
        self._account()
        if self._handler is not None:
            self._handler.client_lost()

    def _account(self) -> None:
        self.gone = True
        if self.at_end is not None:
            self.at_end()
        head = self.head
        upgrade = head.fields.upgrade
        self._channel.site.audit.answered(
            AccessRecord(
                id=self.id,
                identity=self.identity,
                caller=self.caller,
                listener=self.listener,
                method=head.method.decode("ascii", "replace"),
                path=head.path.decode("ascii", "replace"),
                info=head.info,
                status=self.status,
                sent=self.sent,
                received=self.received,
                duration=self._channel.clock.seconds() - self.received_at,
                upgrade="" if upgrade is None else upgrade.decode("ascii", "replace"),
                session=self.session,
                exit_code=self.exit_code,
                recorded=self.recorded,
                decision="forward" if self.forwarded else self._decision,
                denied=self.denied,
                reason=self.reason,
                user_agent=head.fields.user_agent,
            )
        )

    @property
    def _decision(self) -> str:
        """What became of a request that was not forwarded."""
        if self.denied:
            return "refuse"
        return "serve" if self._started else "none"


def _head_bytes(head: ResponseHead) -> bytes:
    fields = http1.field_lines(head.headers)
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (head.code, head.reason, fields)


_REASONS = {
    200: b"OK",
    301: b"Moved Permanently",
    308: b"Permanent Redirect",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    417: b"Expectation Failed",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}

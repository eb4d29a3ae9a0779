"""The server side of HTTP/1.1: one client connection, one request at a time.

Parsing is llhttp's (`httptools`), the judgement of what it lets pass is
`tailproxy.wire.http1.check_request`. The root resource is called when a request's headers are
complete. Whatever looks like an attempt to smuggle a request is answered with 400 or 431, and the
connection is closed (RFC 9112, 11.2).

Pipelined requests are not served: the request before them is answered, then the connection is
closed, and their client sends them again (RFC 9112, 9.3.2 provides for that).

A connection is in one of these states: between requests (`_request` is None), with a request
under way, a stream that was taken over (`_stream`), or lingering: everything is said, and what the
client still sends is thrown away for a moment, so that it can read our last words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httptools
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from tailproxy.errors import ApiError
from tailproxy.proxy.request import Request
from tailproxy.proxy.stream import Stream
from tailproxy.wire.head import LastHead, RequestHead, read_head, unread_head
from tailproxy.wire.http1 import BadRequest

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from tailproxy.policy.identity import Caller
    from tailproxy.proxy.site import Site
    from tailproxy.wire.http1 import Header

# What a client may send ahead of the answer to its upgrade before it is made to wait.
EARLY_BYTES = 64 * 1024
# How long a client may go on sending after our last answer to it: in all, and between two reads.
LINGER_SECONDS = 10.0
LINGER_SILENCE_SECONDS = 2.0
# How long a client may take to read our last words and to accept that we close.
CLOSE_SECONDS = 60.0
# What may come in one go between two pieces of a body: trailers and extensions of chunks.
TRAILER_BYTES = 64 * 1024


@implementer(IHalfCloseableProtocol)
class HTTPChannel(Protocol):
    """One client connection.

    :param site: the root resource, limits and sinks.
    :param caller: who is at the other end, as address.
    :param listener: name of the listener that took the connection.
    """

    transport: Any

    # There is one for each idle watch.
    __slots__ = (
        "_begun",
        "_bodiless_size",
        "_chunks",
        "_closing",
        "_discarded",
        "_early",
        "_head_complete",
        "_head_size",
        "_headers",
        "_keep_alive",
        "_last",
        "_linger_until",
        "_message_complete",
        "_method",
        "_parser",
        "_pipelined",
        "_reading",
        "_request",
        "_stream",
        "_target",
        "_timer",
        "_trailers",
        "_upgrade",
        "_version",
        "_waiting_until",
        "caller",
        "clock",
        "draining",
        "listener",
        "site",
    )

    def __init__(self, site: Site, caller: Caller, listener: str) -> None:
        self.site = site
        self.caller = caller
        self.listener = listener
        self.clock: IReactorTime = site.clock
        self.draining = site.draining
        self._request: Request | None = None
        self._stream: Stream | None = None
        self._early = b""
        self._discarded: int | None = None
        self._linger_until = 0.0
        self._closing = False
        self._reading = True
        self._timer: IDelayedCall | None = None
        self._waiting_until: float | None = None
        self._last = LastHead()
        self._new_message()

    # The parser's callbacks. They only take notes; `_feed` acts on them.

    def _new_message(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._forget_message()

    def _forget_message(self) -> None:
        self._method = b"GET"
        self._target: list[bytes] = []
        self._version = "1.1"
        self._keep_alive = False
        self._upgrade = False
        self._headers: list[Header] = []
        self._chunks: list[bytes] = []
        self._trailers: list[Header] = []
        self._head_size = 0
        self._bodiless_size = 0
        self._begun = False
        self._head_complete = False
        self._message_complete = False
        self._pipelined = False

    def on_message_begin(self) -> None:
        """A request begins; a second one in the same read is not served."""
        if self._message_complete:
            self._pipelined = True
        self._begun = True

    def on_url(self, part: bytes) -> None:
        """A part of the request target."""
        if not self._pipelined:
            self._target.append(part)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or behind a body in chunks a trailer."""
        if self._pipelined:
            return
        if self._head_complete:
            self._trailers.append((name, value))
        else:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is complete. What the parser knows of it is asked now: it forgets, or goes on
        to the next request, in the same read.
        """
        if not self._pipelined:
            self._head_complete = True
            parser = self._parser
            self._method = parser.get_method()
            self._version = parser.get_http_version()
            self._keep_alive = parser.should_keep_alive()
            self._upgrade = parser.should_upgrade()

    def on_body(self, chunk: bytes) -> None:
        """Bytes of the body."""
        if not self._pipelined:
            self._chunks.append(chunk)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._message_complete = True

    # What the transport says.

    def connectionMade(self) -> None:
        """Wait for a request."""
        self._waiting_until = self.clock.seconds() + self.site.limits.header_seconds
        self._timer = self.clock.callLater(self.site.limits.header_seconds, self._check_time)
        self.site.opened(self)

    def dataReceived(self, data: bytes) -> None:
        """Take the next bytes, for whatever state we are in."""
        if self._stream is not None:
            self._stream.data(data)
        elif self._closing:
            pass  # TLS goes on delivering after we have said goodbye
        elif self._discarded is not None:
            self._discard(len(data))
        elif self._request is not None and self._request.complete:
            if self._request.upgrade is not None:
                self._hold_early(data)
            else:
                self._pipelined = True
        elif not self._head_size and (head := self._known(data)) is not None:
            self._head_size = len(data)
            self._begun = self._head_complete = self._message_complete = self._keep_alive = True
            self._hand_on(head, 0)
        else:
            self._feed(data)

    def readConnectionLost(self) -> None:
        """The client sends no more. Only a stream can live on with that: of any other client it
        is all we will ever hear, also when it has gone.
        """
        if self._stream is not None:
            self._stream.half_closed()
        elif self._request is not None:
            self.end_now()
        else:
            self._close()

    def writeConnectionLost(self) -> None:
        """We have closed our half; nothing follows from it."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The client is gone."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.site.closed(self)
        if self._stream is not None:
            self._stream.lost()
        elif self._request is not None:
            request, self._request = self._request, None
            request.lost()

    # Reading a request.

    def _feed(self, data: bytes) -> None:
        if not self._head_complete:
            if self._head_size == 0:
                self._waiting_until = self.clock.seconds() + self.site.limits.header_seconds
            self._head_size += len(data)
        elif not self._message_complete:
            self._bodiless_size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._hold_early(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if not self._message_complete:
                self._malformed(BadRequest(400, f"the request is malformed ({error})"))
                return
            self._pipelined = True  # what is wrong is behind this request
        if not self._head_complete:
            if self._head_size > self.site.limits.header_bytes:
                self._malformed(_too_large(self.site.limits.header_bytes))
            return
        size = 0
        if self._chunks:
            size = sum(map(len, self._chunks))
            self._bodiless_size = 0
        elif self._bodiless_size > TRAILER_BYTES:
            self._malformed(BadRequest(431, "the trailers are too large"))
            return
        request = self._request
        if request is None:
            request = self._begin(size, data)
            if request is None:
                return
        else:
            request.received += size
        self._pass_body(request)

    def _known(self, data: bytes) -> RequestHead | None:
        """Whether this is a whole request like the last one, of which nothing was parsed yet."""
        return self._last.read(data) if len(data) <= self.site.limits.header_bytes else None

    def _begin(self, size: int, data: bytes) -> Request | None:
        """The head is complete: judge it, make the request and hand it to the root resource.

        :param size: of the part of the body that came with it.
        :param data: what was read last.
        """
        headers = self._headers
        target = self._target[0] if len(self._target) == 1 else b"".join(self._target)
        limit = self.site.limits.header_bytes
        try:
            if self._head_size > limit and (
                sum(len(name) + len(value) for name, value in headers) + len(target) > limit
            ):
                raise _too_large(limit)
            head = read_head(self._method, target, self._version, headers)
            if (head.upgrade is not None) != self._upgrade:
                raise BadRequest(400, "Connection and Upgrade contradict each other")
            if head.upgrade is not None and self._version != "1.1":
                raise BadRequest(400, "HTTP/1.0 knows no upgrades")
        except BadRequest as error:
            self._malformed(error)
            return None
        alone = self._head_size == len(data) and self._message_complete and not self._pipelined
        if alone and self._keep_alive:
            self._last.keep(data, head)
        return self._hand_on(head, size)

    def _hand_on(self, head: RequestHead, size: int) -> Request:
        self._waiting_until = None
        request = self._request = Request(
            self,
            head,
            # Clients of HTTP/1.0 would want to be told that the connection stays.
            keep_alive=self._keep_alive and self._version == "1.1",
        )
        request.complete = self._message_complete
        request.received = size
        try:
            self.site.root.render(request)
        except Exception:  # noqa: BLE001 - whatever it is, the client is to hear of it
            request.broken(Failure())
        return request

    def _pass_body(self, request: Request) -> None:
        body = request.body
        if self._chunks:
            chunks, self._chunks = self._chunks, []
            if body is not None and not request.gone:
                body.data(chunks)
        if self._message_complete:
            request.complete = True
            if body is not None and not request.gone:
                body.end(self._trailers)

    def _malformed(self, error: BadRequest) -> None:
        """Refuse what is no proper request, and close."""
        request = self._request
        if request is not None and request.started:
            request.abort()
            if request.handler is not None:
                request.handler.client_lost()
            return
        if request is None:
            head = unread_head(self._method, _printable(b"".join(self._target)))
            request = self._request = Request(self, head, keep_alive=False)
        elif request.handler is not None:
            request.handler.client_lost()
        request.keep_alive = False
        request.complete = False
        request.refuse(ApiError(error.code, "malformed-request", error.message))

    def _hold_early(self, data: bytes) -> None:
        self._early += data
        if len(self._early) >= EARLY_BYTES:
            self.pause_reading()

    # What a request says of its answer.

    def write(self, data: bytes) -> None:
        """Send bytes to the client."""
        self.transport.write(data)

    def answered(self, request: Request) -> None:
        """The answer is complete: go on with the next request, or close."""
        if request is not self._request:
            return
        self._request = None
        if not request.complete or self._pipelined or self._early:
            self._linger(told=request.told_end)
        elif not request.keep_alive or self.draining:
            self._close()
        else:
            self._await_next(request)

    def _await_next(self, request: Request) -> None:
        if request.upgrade is not None:
            self._new_message()  # llhttp has stopped behind a head that asked for an upgrade
        else:
            self._forget_message()
        self._waiting_until = self.clock.seconds() + self.site.limits.idle_seconds
        self.resume_reading()

    def abort(self, request: Request) -> None:
        """End the connection at once."""
        if request is self._request:
            self._request = None
        self.end_now()

    def take_over(self, request: Request) -> Stream:
        """Become a stream of bytes, those that came early first."""
        early, self._early = self._early, b""
        self._waiting_until = None
        self._stream = Stream(self.transport, early)
        if request is self._request:
            self._request = None
        return self._stream

    # Back-pressure.

    def pause_reading(self) -> None:
        """Let the client wait."""
        if self._reading:
            self._reading = False
            self.transport.pauseProducing()

    def resume_reading(self) -> None:
        """Read on."""
        if not self._reading and not self._closing:
            self._reading = True
            self.transport.resumeProducing()

    def register_producer(self, producer: Any, *, streaming: bool) -> None:
        """Slow down whoever makes the answer while the client reads slowly."""
        self.transport.registerProducer(producer, streaming)

    def unregister_producer(self) -> None:
        """There is no more to slow down."""
        self.transport.unregisterProducer()

    # The end.

    def drain(self) -> None:
        """Take no more requests; end what never ends by itself."""
        self.draining = True
        if self._request is not None:
            if self._request.handler is not None:
                self._request.handler.drain()
        elif self._stream is None and self._discarded is None and not self._begun:
            self._close()

    @property
    def long_running(self) -> bool:
        """Whether the connection carries something that has no end of its own."""
        if self._stream is not None:
            return True
        request = self._request
        return request is not None and request.handler is not None and request.handler.long_running

    def end_now(self) -> None:
        """The time for leaving is over."""
        self._closing = True
        self.transport.abortConnection()

    def _close(self) -> None:
        """Close, once everything that was written is on its way."""
        self.resume_reading()  # else we would not notice that the client agrees
        self._closing = True
        self._check_in(CLOSE_SECONDS)
        self.transport.loseConnection()

    def _linger(self, *, told: bool) -> None:
        """Everything is said, but the client is still sending: closing now would have its system
        throw away our answer (RFC 9112, 9.6).

        :param told: whether the client knows from the answer that it was the last one, and where
            it ends. Then it is left to the client to close, since some of what stands between
            us (tailscaled's serve) closes both ways as soon as we close ours.
        """
        now = self.clock.seconds()
        self._discarded = 0
        self._linger_until = now + LINGER_SECONDS
        self._waiting_until = now + LINGER_SILENCE_SECONDS
        self._check_in(LINGER_SILENCE_SECONDS)
        self.resume_reading()
        if not told:
            self.transport.loseWriteConnection()

    def _discard(self, size: int) -> None:
        self._discarded = (self._discarded or 0) + size
        self._waiting_until = min(self._linger_until, self.clock.seconds() + LINGER_SILENCE_SECONDS)

    def _check_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.reset(seconds)

    def _check_time(self) -> None:
        now = self.clock.seconds()
        again = self.site.limits.header_seconds
        self._timer = None
        if self._closing:
            # The client has not taken our goodbye.
            self.transport.abortConnection()
            return
        if self._waiting_until is not None:
            if now >= self._waiting_until:
                self._out_of_time()
                return
            again = min(again, self._waiting_until - now)
        self._timer = self.clock.callLater(again, self._check_time)

    def _out_of_time(self) -> None:
        self._timer = self.clock.callLater(CLOSE_SECONDS, self._check_time)
        if self._discarded is None and self._begun:
            self._malformed(BadRequest(408, "the request's head took too long"))
        else:
            self._close()


def _too_large(limit: int) -> BadRequest:
    return BadRequest(431, f"the request's head is larger than {limit} bytes")


def _printable(target: bytes) -> bytes:
    """A target that may be written to a log: what is there, without control characters."""
    return bytes(byte for byte in target[:1024] if 0x21 <= byte <= 0x7E) or b"/"

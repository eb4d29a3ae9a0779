"""HTTP/1.1 over tailscaled's socket: a few connections that stay open, one question at a time each.

tailscaled is near, trusted and asked the same few things all day, for every caller once a second.
So this is no general client: there are no redirects, no compression, no cookies. A question is
written at once, and its answer is one object.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import attrs
import httptools
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.protocol import Factory, Protocol, connectionDone

from tailproxy.tailnet.bodies import LineStream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from twisted.python.failure import Failure

# Headers of answers that anybody looks at.
_WANTED = frozenset((b"etag", b"retry-after", b"tailscale-cap"))
# Bytes of the longest head of an answer, and with the above, seconds to connect.
_HEAD_LIMIT = 64 << 10
_CONNECT_SECONDS = 5.0


class Unanswered(Exception):  # noqa: N818 - named for what it says
    """There is no answer, or not the whole of one.

    :ivar number: the system's error number, if there was no connection for it.
    """

    def __init__(self, why: str, number: int | None = None) -> None:
        super().__init__(why)
        self.number = number


@attrs.frozen
class Answer:
    """A whole answer.

    :ivar status: HTTP status code.
    :ivar headers: those that count, by lower-case name.
    :ivar body: without its framing.
    """

    status: int
    headers: Mapping[bytes, str]
    body: bytes


class _Call:
    """A question, from being asked to its answer.

    :ivar stream: bytes of a line, if the answer is lines without an end; else None.
    :ivar apart: whether it has a connection of its own, since the answer takes long.
    """

    __slots__ = ("apart", "connecting", "connection", "request", "result", "stream")

    @property
    def repeatable(self) -> bool:
        """Whether it does no harm to ask twice."""
        return self.request.startswith(b"GET ")

    def __init__(self, request: bytes, stream: int | None, *, apart: bool) -> None:
        self.request = request
        self.stream = stream
        self.apart = apart
        self.connecting: Deferred[Any] | None = None
        self.connection: _Connection | None = None
        self.result: Deferred[Any]


class Client:
    """Asks at one socket.

    :param path: of the socket.
    :param at_once: questions under way at once; others wait their turn. Those that take long do
        not count.
    :param limit: bytes of one answer's body.
    """

    def __init__(self, reactor: Any, path: str, at_once: int, limit: int) -> None:
        self._endpoint = UNIXClientEndpoint(reactor, path, timeout=_CONNECT_SECONDS)
        self._at_once = at_once
        self.limit = limit
        self._under_way = 0
        self._queue: deque[_Call] = deque()
        self._idle: list[_Connection] = []
        self._closing: Deferred[None] | None = None

    def ask(self, request: bytes, *, slow: bool = False) -> Deferred[Answer]:
        """Ask and have the whole answer, whatever its status.

        It fails with `Unanswered`. Cancelling it gives the connection up.

        :param request: as it is written.
        :param slow: the answer takes so long that others must not wait behind it.
        """
        return self._call(_Call(request, None, apart=slow))

    def follow(self, request: bytes, limit: int) -> Deferred[LineStream | Answer]:
        """Ask for lines that have no end, on a connection of their own.

        It fails with `Unanswered`, and fires with an `Answer` where that is a refusal.

        :param limit: bytes of the longest line.
        """
        return self._call(_Call(request, limit, apart=True))

    def close(self) -> Deferred[None]:
        """Close the connections that wait for the next question; fires when they are closed."""
        closing = self._closing = Deferred()
        for connection in self._idle:
            connection.hang_up()
        self._look_closed()
        return closing

    def _call(self, call: _Call) -> Deferred[Any]:
        result: Deferred[Any] = Deferred(lambda _: self._give_up(call))
        call.result = result
        if call.apart:
            self._connect(call)
        else:
            self._queue.append(call)
            self._next()
        return result

    def _next(self) -> None:
        """Begin what waits, as far as it may."""
        while self._queue and self._under_way < self._at_once:
            self._under_way += 1
            call = self._queue.popleft()
            if self._idle:
                self._idle.pop().begin(call)
            else:
                self._connect(call)

    def _connect(self, call: _Call) -> None:
        factory: Factory[Any] = Factory()
        factory.noisy = False
        factory.buildProtocol = lambda _: _Connection(self)  # type: ignore[method-assign,assignment]
        call.connecting = self._endpoint.connect(factory)
        call.connecting.addCallbacks(
            self._connected, self._not_connected, callbackArgs=(call,), errbackArgs=(call,)
        )

    def _connected(self, connection: _Connection, call: _Call) -> None:
        call.connecting = None
        connection.begin(call)

    def _not_connected(self, failure: Failure, call: _Call) -> None:
        call.connecting = None
        number = getattr(failure.value, "osError", None)
        self._free(call)
        if not failure.check(ConnectingCancelledError):
            call.result.errback(Unanswered(failure.getErrorMessage(), number))

    def _give_up(self, call: _Call) -> None:
        """Nobody wants the answer any more."""
        if call.connecting is not None:
            call.connecting.cancel()
        elif call.connection is not None:
            call.connection.hang_up()
        else:
            self._queue.remove(call)

    def _free(self, call: _Call) -> None:
        """A call is over: the next one may begin."""
        if not call.apart:
            self._under_way -= 1
            self._next()

    # For the connections.

    def ended(self, connection: _Connection, call: _Call, *, reusable: bool) -> None:
        """An answer is complete."""
        if reusable and not call.apart:
            self._idle.append(connection)
        else:
            connection.hang_up()
        self._free(call)

    def again(self, call: _Call) -> None:
        """A connection that was kept has turned out to be closed: ask on a new one."""
        self._connect(call)

    def lost(self, connection: _Connection, call: _Call | None) -> None:
        """A connection is gone, and with it the call that was under way on it."""
        if connection in self._idle:
            self._idle.remove(connection)
        if call is not None:
            self._free(call)
        self._look_closed()

    def _look_closed(self) -> None:
        if self._closing is not None and not self._idle:
            closing, self._closing = self._closing, None
            closing.callback(None)


class _Connection(Protocol):
    """One connection. The parser's callbacks take notes; `dataReceived` acts on them."""

    transport: Any

    def __init__(self, client: Client) -> None:
        self._client = client
        self._parser = httptools.HttpResponseParser(self)
        self._call: _Call | None = None
        self._lines: LineStream | None = None
        self._used = False
        self._forget()

    def begin(self, call: _Call) -> None:
        """Write a question. The connection must be free."""
        call.connection = self
        self._call = call
        data = call.request
        try:
            # Without a turn of the reactor; there is nearly always room for a question.
            sent = self.transport.getHandle().send(data)
        except OSError:
            sent = 0  # the transport finds out what is wrong
        if sent < len(data):
            self.transport.write(data[sent:])

    def hang_up(self) -> None:
        """Close, in the middle of an answer too."""
        self.transport.abortConnection()

    # What the parser says.

    def _forget(self) -> None:
        self._headers: dict[bytes, str] = {}
        self._chunks: list[bytes] = []
        self._size = 0
        self._head_size = 0
        self._status = 0
        self._head_complete = False
        self._complete = False
        self._keep_alive = False
        self._delimited = False
        self._surplus = False

    def on_message_begin(self) -> None:
        """An answer begins; behind a complete one it is nobody's, and nothing of it is noted."""
        self._surplus = self._complete

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header or a trailer."""
        if self._surplus:
            return
        key = name.lower()
        if key in _WANTED:
            self._headers[key] = value.decode("latin-1")
        elif key in {b"content-length", b"transfer-encoding"}:
            self._delimited = True

    def on_headers_complete(self) -> None:
        """A head is complete; that of an interim answer is forgotten with its end."""
        if self._surplus:
            return
        self._status = self._parser.get_status_code()
        self._head_complete = self._status >= 200
        self._keep_alive = self._parser.should_keep_alive()

    def on_body(self, chunk: bytes) -> None:
        """A part of the body."""
        if not self._surplus:
            self._chunks.append(chunk)
            self._size += len(chunk)

    def on_message_complete(self) -> None:
        """An answer is complete."""
        self._complete = self._head_complete

    # What the transport says.

    def dataReceived(self, data: bytes) -> None:
        """Parse what came, and pass on what is complete."""
        call = self._call
        if call is None:
            self.hang_up()  # nobody asked
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self._complete:
                self._fail(f"its answer is malformed ({error})")
                return
            self._surplus = True
        if not self._head_complete:
            self._head_size += len(data)
            if self._head_size > _HEAD_LIMIT:
                self._fail("the head of its answer is too long")
        elif call.stream is not None and self._status < 300:
            self._pass_lines(call, call.stream)
        elif self._size > self._client.limit:
            self._fail(f"its answer has more than {self._client.limit} bytes")
        elif self._complete:
            self._end(call)

    def _pass_lines(self, call: _Call, limit: int) -> None:
        chunks, self._chunks = self._chunks, []
        if self._lines is None:
            self._lines = LineStream(self.hang_up, limit)
            call.result.callback(self._lines)
        for chunk in chunks:
            self._lines.receive(chunk)
        if self._complete:
            self.hang_up()

    def _end(self, call: _Call) -> None:
        answer = Answer(self._status, self._headers, b"".join(self._chunks))
        reusable = self._keep_alive and not self._surplus
        self._forget()
        self._call = None
        self._used = True
        self._client.ended(self, call, reusable=reusable)
        call.result.callback(answer)

    def _fail(self, why: str) -> None:
        call, self._call = self._call, None
        self.hang_up()
        if call is not None:
            self._client.lost(self, call)
            call.result.errback(Unanswered(why))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The other side has gone, or we have hung up."""
        call, self._call = self._call, None
        if call is None:
            self._client.lost(self, None)
        elif self._lines is not None:
            self._client.lost(self, call)
            self._lines.end()
        elif call.result.called:
            self._client.lost(self, call)
        elif self._head_complete and not self._delimited:
            self._end(call)  # the end of the connection is the end of the body
            self._client.lost(self, None)
        elif self._used and call.repeatable and not (self._head_complete or self._head_size):
            self._client.lost(self, None)
            self._client.again(call)
        else:
            self._client.lost(self, call)
            call.result.errback(Unanswered(reason.getErrorMessage()))

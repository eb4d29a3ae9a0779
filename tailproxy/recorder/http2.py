"""Uploads over HTTP/2 without TLS, which the client knows beforehand (spec/streaming.md 6.2).

Framing and flow control are h2's. What a stream has sent counts against its window until it is
kept, so that a sender is never faster than the disk.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes, Settings
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger

if TYPE_CHECKING:
    from h2.events import Event
    from twisted.internet.interfaces import IDelayedCall, IReactorTime
    from twisted.python.failure import Failure

    from tailproxy.policy.identity import Caller
    from tailproxy.recorder.intake import Intake, Receiver

    class Connections(Protocol):
        """Knows what is open; for a drain."""

        clock: IReactorTime
        draining: bool

        def opened(self, connection: Any) -> None:
            """A connection begins."""

        def closed(self, connection: Any) -> None:
            """A connection has ended."""


_STREAMS = 32
_HEADER_BYTES = 65536
_STREAM_WINDOW = 1024 * 1024
_IDLE_SECONDS = 180.0
# As much of an answer as may wait for the sender to read it; acknowledgements beyond are left out.
_UNREAD_BYTES = 4096
_DEFAULT_WINDOW = 65535


class HTTP2Connection(TwistedProtocol):
    """One connection with any number of uploads.

    :param connections: is told of it.
    :param caller: who is at the other end.
    :param listener: name of the listener that took it.
    """

    transport: Any
    _log = Logger()

    def __init__(
        self, intake: Intake, connections: Connections, caller: Caller, listener: str
    ) -> None:
        self.caller = caller
        self.listener = listener
        self._intake = intake
        self._connections = connections
        self._http = H2Connection(
            H2Configuration(client_side=False, header_encoding=None, validate_inbound_headers=True)
        )
        self._http.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: _STREAMS,
                SettingCodes.INITIAL_WINDOW_SIZE: _STREAM_WINDOW,
                SettingCodes.MAX_HEADER_LIST_SIZE: _HEADER_BYTES,
            },
        )
        self._exchanges: dict[int, StreamExchange] = {}
        self._timer: IDelayedCall | None = None
        self._leaving = False

    @property
    def long_running(self) -> bool:
        """Whether there is an upload that a drain waits for longer."""
        return bool(self._exchanges)

    # What the transport says.

    def connectionMade(self) -> None:
        """Begin."""
        self._connections.opened(self)
        self._http.initiate_connection()
        # Otherwise one slow upload would hold up the others of the connection.
        self._http.increment_flow_control_window(_STREAMS * _STREAM_WINDOW - _DEFAULT_WINDOW)
        self.flush()
        self._wait()

    def dataReceived(self, data: bytes) -> None:
        """Take the next bytes."""
        try:
            events = self._http.receive_data(data)
        except ProtocolError as error:
            self._log.warn(
                "a connection of {address} is no HTTP/2: {reason}",
                address=self.caller.shown,
                reason=error,
            )
            self.flush()
            self.transport.loseConnection()
            return
        for event in events:
            self._take(event)
        self.flush()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The other side has gone."""
        self._stop_waiting()
        exchanges, self._exchanges = self._exchanges, {}
        for exchange in exchanges.values():
            exchange.lost()
        self._connections.closed(self)

    def _take(self, event: Event) -> None:
        match event:
            case RequestReceived():
                self._begin(event)
            case DataReceived():
                self._data(event)
            case StreamEnded():
                exchange = self._exchanges.get(event.stream_id)
                if exchange is not None:
                    exchange.ended()
            case StreamReset():
                exchange = self._exchanges.pop(event.stream_id, None)
                if exchange is not None:
                    exchange.lost()
                    self._wait()
            case WindowUpdated():
                self._write_on(event.stream_id)
            case ConnectionTerminated():
                # For h2 that is the end, also of streams that are open.
                self.transport.loseConnection()
            case _:
                pass  # settings, pings: h2 has answered them

    def _begin(self, event: RequestReceived) -> None:
        if self._leaving:
            self._http.reset_stream(event.stream_id, ErrorCodes.REFUSED_STREAM)
            return
        self._stop_waiting()
        fields = dict(event.headers)
        exchange = StreamExchange(
            self,
            event.stream_id,
            _bytes(fields.get(b":method", b"")),
            _bytes(fields.get(b":path", b"")).partition(b"?")[0],
        )
        self._exchanges[event.stream_id] = exchange
        self._intake.handle(exchange)

    def _data(self, event: DataReceived) -> None:
        exchange = self._exchanges.get(event.stream_id)
        padding = event.flow_controlled_length - len(event.data)
        if exchange is None:
            self.release(event.stream_id, event.flow_controlled_length)
            return
        if padding:
            self.release(event.stream_id, padding)
        exchange.data(event.data)

    def _write_on(self, stream: int) -> None:
        for number, exchange in list(self._exchanges.items()):
            if stream in {0, number}:
                exchange.write_on()

    # What exchanges do.

    def release(self, stream: int, size: int) -> None:
        """Let the other side send so much more."""
        if size:
            with suppress(ProtocolError):  # the connection has ended
                self._http.acknowledge_received_data(size, stream)
            self.flush()

    def begin(self, stream: int, code: int, *, end: bool) -> None:
        """Send the head of an answer."""
        self._http.send_headers(
            stream,
            [(b":status", b"%d" % code), (b"content-type", b"text/plain; charset=utf-8")],
            end_stream=end,
        )
        self.flush()

    def write(self, stream: int, data: bytes) -> bytes:
        """Send a part of an answer's body. What the window has no room for yet."""
        room = min(self._http.local_flow_control_window(stream), self._http.max_outbound_frame_size)
        sent, rest = data[:room], data[room:]
        if sent:
            self._http.send_data(stream, sent)
            self.flush()
        return rest

    def finish(self, stream: int, *, complete: bool) -> None:
        """An answer is complete.

        :param complete: whether the request's body was too; otherwise it is to end now.
        """
        self._http.end_stream(stream)
        if not complete:
            with suppress(StreamClosedError):  # its end may be next in what was read
                self._http.reset_stream(stream, ErrorCodes.NO_ERROR)
        self.forget(stream)

    def forget(self, stream: int) -> None:
        """There is no more to be said."""
        self.flush()
        self._exchanges.pop(stream, None)
        self._wait()
        self._close_if_done()

    def flush(self) -> None:
        """Send what there is."""
        data = self._http.data_to_send()
        if data:
            self.transport.write(data)

    # The end.

    def _wait(self) -> None:
        """Without anything to do it may stay for a while."""
        if not self._exchanges and self._timer is None and self.transport.connected:
            self._timer = self._connections.clock.callLater(_IDLE_SECONDS, self._idle)

    def _stop_waiting(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def _idle(self) -> None:
        self._timer = None
        self.drain()

    def drain(self) -> None:
        """Take no new requests; go when those that there are have ended."""
        self._leaving = True
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._leaving and not self._exchanges:
            self._close()

    def _close(self) -> None:
        self._stop_waiting()
        self._http.close_connection()
        self.flush()
        self.transport.loseConnection()

    def end_now(self) -> None:
        """The time for leaving is over."""
        for exchange in list(self._exchanges.values()):
            exchange.interrupt("the recorder is leaving")
        self._close()


class StreamExchange:
    """One request over HTTP/2."""

    version = "2"

    def __init__(
        self, connection: HTTP2Connection, stream: int, method: bytes, path: bytes
    ) -> None:
        self.method = method
        self.path = path
        self.caller = connection.caller
        self.gone = False
        self._connection = connection
        self._stream = stream
        self._receiver: Receiver | None = None
        self._early: list[bytes] = []
        self._complete = False
        self._begun = False
        self._unsent = b""
        self._last = False

    def answer(self, code: int, text: str) -> None:
        """See `Exchange.answer`."""
        if self.gone or self._begun:
            return
        self._begun = True
        early, self._early = self._early, []
        self.taken(sum(map(len, early)))
        body = f"{text}\n".encode() if text and self.method != b"HEAD" else b""
        self._connection.begin(self._stream, code, end=False)
        self._send(body, last=True)

    def receive(self, receiver: Receiver, *, streamed: bool) -> None:
        """See `Exchange.receive`. Acknowledgements may follow at once."""
        self._receiver = receiver
        if streamed:
            self._begun = True
            self._connection.begin(self._stream, 200, end=False)
        early, self._early = self._early, []
        for data in early:
            receiver.data(data)
        if self._complete:
            receiver.end()

    def acknowledge(self, size: int) -> None:
        """See `Sender.acknowledge`."""
        if len(self._unsent) < _UNREAD_BYTES:
            self._send(b'{"ack":%d}\n' % size, last=False)

    def taken(self, size: int) -> None:
        """See `Sender.taken`."""
        self._connection.release(self._stream, size)

    def succeeded(self) -> None:
        """See `Sender.succeeded`."""
        self._send(b"", last=True)

    def failed(self, reason: str, *, end: bool = False) -> None:
        """See `Sender.failed`."""
        error = {"error": reason, "end": True} if end else {"error": reason}
        self._send(json.dumps(error).encode() + b"\n", last=True)

    def _send(self, data: bytes, *, last: bool) -> None:
        if not self.gone and not self._last:
            self._unsent += data
            self._last = last
            self.write_on()

    def write_on(self) -> None:
        """Send what the window has room for."""
        if self.gone:
            return
        while self._unsent:
            rest = self._connection.write(self._stream, self._unsent)
            if len(rest) == len(self._unsent):
                return
            self._unsent = rest
        if self._last:
            self.gone = True
            self._connection.finish(self._stream, complete=self._complete)

    # What the connection says.

    def data(self, data: bytes) -> None:
        """A part of the body. Until somebody takes it, it fills the window."""
        if self._receiver is not None:
            self._receiver.data(data)
        elif self._begun:
            self.taken(len(data))
        else:
            self._early.append(data)

    def ended(self) -> None:
        """The body is complete."""
        self._complete = True
        if self._receiver is not None:
            self._receiver.end()

    def lost(self) -> None:
        """The other side has gone, or wants no more."""
        self.gone = True
        early, self._early = self._early, []
        self.taken(sum(map(len, early)))
        if self._receiver is not None:
            self._receiver.lost()

    def interrupt(self, reason: str) -> None:
        """End it at once."""
        if self._begun:
            self.failed(reason)
        else:
            self.answer(503, reason)
        self.lost()


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()

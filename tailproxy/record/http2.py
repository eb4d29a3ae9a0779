"""Version 2 of the recorders' protocol: HTTP/2 without TLS, acknowledged while it goes on.

`HEAD /v2/record` asks whether the recorder speaks it. `POST /v2/record` on the same connection
carries the recording; its answer begins at once and acknowledges what has arrived
(spec/streaming.md 6.2, 6.5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from zope.interface import implementer

from tailproxy.interfaces import SinkError
from tailproxy.record.upload import Patience, Upload
from tailproxy.wire.acks import Acknowledged, AckReader, Ended, Refused

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from tailproxy.wire.acks import Event

_PATH = "/v2/record"
#: Seconds without any acknowledgement, or without progress of them while so many bytes wait.
ACK_SECONDS = 30.0
UNACKNOWLEDGED = 1 << 20


class UnsupportedError(Exception):
    """The recorder does not speak this version of the protocol."""


@implementer(IPushProducer)
class Http2Upload(Upload, Protocol):
    """A connection to a recorder, and the one recording on it.

    :param authority: `IP:PORT` of the recorder, also its place.
    """

    transport: Any

    def __init__(self, clock: Any, authority: str, limit: int) -> None:
        super().__init__(clock, authority, limit)
        self._http = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self._stream = 0
        self._status: Deferred[int] | None = None
        self._begun = False
        self._end_sent = False
        self._paused = False
        self._reader = AckReader()
        self._written = 0
        self._acknowledged = 0
        self._silence = Patience(
            clock, ACK_SECONDS, lambda: self.failed(f"is silent for {ACK_SECONDS:g} s")
        )
        self._behind = Patience(
            clock,
            ACK_SECONDS,
            lambda: self.failed(
                f"has acknowledged nothing for {ACK_SECONDS:g} s, with more than"
                f" {UNACKNOWLEDGED >> 10} KiB under way"
            ),
        )

    async def start(self) -> None:
        """Have the recorder ready for the first line.

        :raises UnsupportedError: it does not speak HTTP/2, or does not know this path.
        :raises SinkError: it does, but takes nothing.
        """
        try:
            status = await self._ask("HEAD", end=True)
        except SinkError as error:
            raise UnsupportedError from error
        if status != 200:
            raise UnsupportedError
        status = await self._ask("POST", end=False)
        if status != 200:
            raise self.trouble(f"answers {status}")
        self._begun = True
        self._silence.start()

    def _ask(self, method: str, *, end: bool) -> Deferred[int]:
        """Send the head of a request; fires with the status of its answer."""
        answered: Deferred[int] = Deferred()
        if self.over:
            answered.errback(self._error or self.trouble("has closed the connection"))
            return answered
        head = [
            (":method", method),
            (":scheme", "http"),
            (":authority", self.place),
            (":path", _PATH),
        ]
        self._status = answered
        self._stream = self._http.get_next_available_stream_id()
        try:
            self._http.send_headers(self._stream, head, end_stream=end)
        except h2.exceptions.ProtocolError as error:  # its settings allow no stream
            self._break("takes no request", str(error))
        else:
            self._flush()
        return answered

    def _flush(self) -> None:
        data = self._http.data_to_send()
        if data:
            self.transport.write(data)

    # How bytes get there.

    def write(self, lines: bytes) -> None:
        """See `IUpload.write`."""
        if not self.over:
            self._written += len(lines)
            super().write(lines)
            self._look_behind(progress=False)

    def send(self) -> None:
        """See `Upload.send`: as much as both windows allow."""
        if self._paused or not self._begun:
            return
        sent = False
        while self.backlog:
            room = min(
                self._http.local_flow_control_window(self._stream),
                self._http.max_outbound_frame_size,
            )
            if room <= 0:
                break
            self._http.send_data(self._stream, self.take(room))
            sent = True
        if sent:
            self._flush()
            self.moved()

    def send_end(self) -> None:
        """See `Upload.send_end`."""
        self._end_sent = True
        self._http.end_stream(self._stream)
        self._flush()

    def hang_up(self) -> None:
        """See `Upload.hang_up`: without the end of the stream it is no whole recording."""
        self._silence.stop()
        self._behind.stop()
        self.transport.abortConnection()

    def pauseProducing(self) -> None:
        """The transport has enough for now."""
        self._paused = True

    def resumeProducing(self) -> None:
        """The transport has sent what it had."""
        self._paused = False
        if not self.over:
            self.send()

    def stopProducing(self) -> None:
        """The transport is gone, which `connectionLost` tells too."""
        self._paused = True

    # What the transport says.

    def connectionMade(self) -> None:
        """Send the preface."""
        self.transport.registerProducer(self, streaming=True)
        self._http.initiate_connection()
        self._flush()

    def dataReceived(self, data: bytes) -> None:
        """Read frames."""
        try:
            events = self._http.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            self._break("sends what is no HTTP/2", str(error))
            return
        for event in events:
            if self.over:
                return
            self._heard(event)
        if not self.over:
            self._flush()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        self._break("has closed the connection", reason.getErrorMessage())

    def _heard(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived(stream_id=self._stream, headers=headers):
                self._answered(headers)
            case h2.events.DataReceived(stream_id=stream, data=data):
                if event.flow_controlled_length:
                    self._http.acknowledge_received_data(event.flow_controlled_length, stream)
                if stream == self._stream:
                    self._acks(self._reader.receive(data))
            case h2.events.StreamEnded(stream_id=self._stream):
                self._acks(self._reader.end())
            case h2.events.WindowUpdated() | h2.events.RemoteSettingsChanged():
                self.send()
            case h2.events.StreamReset(stream_id=self._stream, error_code=code):
                self._break("has given the recording up", f"RST_STREAM {code}")
            case h2.events.ConnectionTerminated(error_code=code):
                self._break("is being stopped", f"GOAWAY {code}")

    def _answered(self, headers: Any) -> None:
        status = next((value for name, value in headers if name == ":status"), "")
        waiting, self._status = self._status, None
        if waiting is not None:
            waiting.callback(int(status) if status.isdecimal() else 0)

    def _acks(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case _ if self.over:
                    return
                case Acknowledged(count):
                    self._silence.renew()
                    progress = count > self._acknowledged
                    self._acknowledged = max(count, self._acknowledged)
                    self._look_behind(progress=progress)
                case Refused(text, end=True):
                    self.fail(SinkError(text, f"{self.place}: {text}", end=True))
                case Refused(text):
                    self._break("has given the recording up", text)
                case Ended() if self._end_sent:
                    self._done()
                case Ended():
                    self._break("has ended the recording early")
                case _:
                    self._break("sends no acknowledgements that can be read")

    def _look_behind(self, *, progress: bool) -> None:
        """Watch the distance between what was written and what has arrived."""
        if self.over or self._written - self._acknowledged <= UNACKNOWLEDGED:
            self._behind.stop()
        elif progress:
            self._behind.renew()
        else:
            self._behind.start()

    def _done(self) -> None:
        self._silence.stop()
        self._behind.stop()
        self._http.close_connection()
        self._flush()
        self.transport.loseConnection()
        self.kept()

    def _break(self, what: str, detail: str = "") -> None:
        """It goes wrong, before or after the recording has begun."""
        waiting, self._status = self._status, None
        self.failed(what, detail)
        if waiting is not None:
            waiting.errback(self.trouble(what, detail))

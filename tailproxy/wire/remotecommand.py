"""What a session with a command shows: exec and attach, over SPDY and over WebSocket.

Everything that goes down to the client is output, except what comes on an error stream: what no
honest server would send must not stay unrecorded for that (streaming.md 2.6). Of what goes up,
only sizes of the terminal are looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailproxy.wire import channels, spdy
from tailproxy.wire.channels import ChannelReader, Part
from tailproxy.wire.outcome import ErrorStream
from tailproxy.wire.resize import SizeStream
from tailproxy.wire.sessionevents import STDERR, STDOUT, Input, Output, Unreadable
from tailproxy.wire.websocket import CLOSE, Control, frame

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from tailproxy.wire.sessionevents import Event

SPDY_SUBPROTOCOLS = frozenset(
    ("", "channel.k8s.io", "v2.channel.k8s.io", "v3.channel.k8s.io", "v4.channel.k8s.io")
)
WEBSOCKET_SUBPROTOCOLS = frozenset(
    (
        "",
        "channel.k8s.io",
        "base64.channel.k8s.io",
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
        "v5.channel.k8s.io",
    )
)
# Those whose error stream is a Status, and not text. On WebSocket they are those with sizes, too.
_STATUS = frozenset(("v4.channel.k8s.io", "v4.base64.channel.k8s.io", "v5.channel.k8s.io"))

# An honest session has five streams.
_MAX_STREAMS = 16
_INTERNAL_ERROR = 2  # of GOAWAY
_UNEXPECTED = (1011).to_bytes(2)  # of a close frame: the server met an unexpected condition
_NORMAL = (1000).to_bytes(2)
_NOTHING: tuple[Event, ...] = ()


class _Events:
    """Events of one read; output of a stream that comes in a row is one."""

    __slots__ = ("_parts", "_stream", "events")

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._parts: list[bytes] = []
        self._stream: Literal[1, 2] = STDOUT

    def output(self, stream: Literal[1, 2], data: bytes) -> None:
        if data:
            if stream != self._stream:
                self._flush()
                self._stream = stream
            self._parts.append(data)

    def add(self, event: Event) -> None:
        self._flush()
        self.events.append(event)

    def done(self) -> list[Event]:
        self._flush()
        return self.events

    def _flush(self) -> None:
        parts = self._parts
        if parts:
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            self.events.append(Output(self._stream, data))
            self._parts = []


class SpdyTap:
    """Exec or attach over SPDY.

    :param subprotocol: the ``X-Stream-Protocol-Version`` of the answer.
    :param terminal: whether the session has one; without, sizes mean nothing.
    :param with_input: whether to say what the client sends.
    """

    def __init__(self, subprotocol: str, terminal: bool, with_input: bool) -> None:
        self._terminal = terminal
        self._plain = subprotocol not in _STATUS
        self._with_input = with_input
        self._up = spdy.SpdyReader()
        self._down = spdy.SpdyReader()
        self._kinds: dict[int, str | None] = {}  # of the streams that the client opened
        self._sizes: dict[int, SizeStream] = {}
        self._error = ErrorStream(self._plain)
        self._error_stream = 0  # where that comes
        self._ended: set[int] = set()  # of these streams, what the server ended
        self._told = False  # the outcome
        self._last = 0  # the client's last stream
        self._broken = False
        self._down_broken = False

    @property
    def down_border(self) -> int:
        """How many of the bytes that went down belong to a frame that is not whole."""
        return self._down.pending

    def up(self, data: bytes) -> Sequence[Event]:
        """Read what the client sent."""
        if self._broken:
            return _NOTHING
        events: list[Event] = []
        for each in self._up.feed(data):
            if isinstance(each, spdy.Data):
                sizes = self._sizes.get(each.stream)
                if sizes is not None:
                    events += sizes.feed(each.data)
                elif self._with_input and each.data and self._is_input(each.stream):
                    events.append(Input(each.data))
            elif isinstance(each, spdy.SynStream):
                self._announced(each)
            elif isinstance(each, Unreadable):
                self._broken = True
                events.append(each)
        return events

    def down(self, data: bytes) -> Sequence[Event]:
        """Read what the server sent."""
        if self._broken:
            self._down_broken = True  # or not followed, which is the same
            return _NOTHING
        events = _Events()
        for each in self._down.feed(data):
            if isinstance(each, spdy.Data):
                stream = each.stream
                if stream == self._error_stream:
                    self._error.add(each.data)
                elif self._kinds.get(stream) == "stderr":
                    events.output(STDERR, each.data)
                else:
                    events.output(STDOUT, each.data)
                if each.last:
                    self._end_of(stream, events)
            elif isinstance(each, spdy.RstStream):
                self._end_of(each.stream, events)
            elif isinstance(each, Unreadable):
                self._broken = self._down_broken = True
                events.add(each)
        return events.done()

    def end(self) -> Sequence[Event]:
        """Say what is left to say: both directions have ended, or are cut off."""
        if self._broken or self._told or not self._error:
            return _NOTHING
        self._told = True
        return (self._error.outcome(),)

    def farewell(self, text: str, status: bytes, held: int = 0) -> bytes:
        """Return what may be sent down now to end the session with a message (5.6).

        :param text: for the user's terminal.
        :param status: a ``Status`` as JSON, for who reads the error stream.
        :param held: how many of the last bytes were not passed on.
        :returns: nothing if a frame was passed on in part, or the server's bytes were not read.
        """
        if self._down_broken or self.down_border != held:
            return b""
        open_streams = {
            kind: stream for stream, kind in self._kinds.items() if stream not in self._ended
        }
        shown = open_streams.get("stdout" if self._terminal else "stderr")
        error = open_streams.get("error")
        frames = []
        if shown is not None:
            frames.append(spdy.data_frame(shown, text.encode()))
        if error is not None:
            last_words = text.encode() if self._plain else status
            frames.append(spdy.data_frame(error, last_words, spdy.FIN))
        frames.append(spdy.goaway_frame(self._last, _INTERNAL_ERROR))
        return b"".join(frames)

    def _is_input(self, stream: int) -> bool:
        """Tell whether the server may read a stream; of the others it is known that it does not."""
        return self._kinds.get(stream) not in {"error", "stdout", "stderr", "resize"}

    def _announced(self, opened: spdy.SynStream) -> None:
        """Note what a stream is for; where that is in doubt, it is for output."""
        stream = opened.stream
        self._last = max(self._last, stream)
        kind = opened.only_value("streamtype")
        if self._kinds.get(stream, kind) != kind:
            kind = None
            self._sizes.pop(stream, None)
        if stream not in self._kinds and len(self._kinds) == _MAX_STREAMS:
            return
        self._kinds[stream] = kind
        if kind == "resize" and self._terminal:
            self._sizes.setdefault(stream, SizeStream())
        errors = [stream for stream, kind in self._kinds.items() if kind == "error"]
        self._error_stream = errors[0] if len(errors) == 1 else 0

    def _end_of(self, stream: int, events: _Events) -> None:
        """Note that the server sends no more on a stream."""
        if stream in self._kinds:
            self._ended.add(stream)
        if stream == self._error_stream and not self._told:
            self._told = True
            events.add(self._error.outcome())


class WebSocketTap:
    """Exec or attach over WebSocket.

    :param subprotocol: the ``Sec-WebSocket-Protocol`` of the answer.
    :param terminal: whether the session has one; without, sizes mean nothing.
    :param with_input: whether to say what the client sends.
    """

    def __init__(self, subprotocol: str, terminal: bool, with_input: bool) -> None:
        self._subprotocol = subprotocol
        self._terminal = terminal
        self._plain = subprotocol not in _STATUS
        has_sizes = terminal and not self._plain
        wanted = {channels.STDIN} if with_input else set()
        self._up = ChannelReader(subprotocol, wanted | {channels.RESIZE} if has_sizes else wanted)
        self._down = ChannelReader(subprotocol)
        self._sizes = SizeStream()
        self._error = ErrorStream(self._plain)
        self._told = False  # the outcome
        self._closed = False
        self._broken = False
        self._down_broken = False

    @property
    def down_border(self) -> int:
        """How many of the bytes that went down belong to a frame that is not whole."""
        return self._down.frames.pending

    def up(self, data: bytes) -> Sequence[Event]:
        """Read what the client sent."""
        if self._broken:
            return _NOTHING
        events: list[Event] = []
        for each in self._up.feed(data):
            if isinstance(each, Part):
                if each.channel == channels.RESIZE:
                    events += self._sizes.feed(each.data)
                elif each.data:
                    events.append(Input(each.data))
            elif isinstance(each, Unreadable):
                self._broken = True
                events.append(each)
        return events

    def down(self, data: bytes) -> Sequence[Event]:
        """Read what the server sent."""
        if self._broken:
            self._down_broken = True  # or not followed, which is the same
            return _NOTHING
        events = _Events()
        for each in self._down.feed(data):
            if isinstance(each, Part):
                if each.channel == channels.ERROR:
                    self._error.add(each.data)
                    if each.last:
                        self._end_of_status(events)
                else:
                    stream = STDERR if each.channel == channels.STDERR else STDOUT
                    events.output(stream, each.data)
            elif isinstance(each, Control):
                if each.opcode == CLOSE:
                    self._close(each, events)
            elif isinstance(each, Unreadable):
                self._broken = self._down_broken = True
                events.add(each)
        return events.done()

    def end(self) -> Sequence[Event]:
        """Say what is left to say: both directions have ended, or are cut off."""
        if self._broken or self._told or not self._error:
            return _NOTHING
        self._told = True
        return (self._error.outcome(),)

    def farewell(self, text: str, status: bytes, held: int = 0) -> bytes:
        """Return what may be sent down now to end the session with a message (5.6).

        :param text: for the user's terminal.
        :param status: a ``Status`` as JSON, for who reads the error channel.
        :param held: how many of the last bytes were not passed on.
        :returns: nothing if a frame was passed on in part, or the server's bytes were not read, or
            it has said goodbye itself.
        """
        if self._down_broken or self._closed or self.down_border != held:
            return b""
        shown = channels.STDOUT if self._terminal else channels.STDERR
        last_words = text.encode() if self._plain else status
        return b"".join(
            (
                self._down.farewell(),
                channels.message(self._subprotocol, shown, text.encode()),
                channels.message(self._subprotocol, channels.ERROR, last_words),
                frame(CLOSE, _UNEXPECTED),
            )
        )

    def _end_of_status(self, events: _Events) -> None:
        """Note that a message on the error channel is whole: it may be all of the Status."""
        if self._error and not self._plain and not self._told:
            outcome = self._error.outcome()
            if outcome.kind != "protocol-error":
                self._told = True
                events.add(outcome)

    def _close(self, close: Control, events: _Events) -> None:
        self._closed = True
        if not self._told and (self._error or close.payload[:2] in {b"", _NORMAL}):
            self._told = True
            events.add(self._error.outcome())

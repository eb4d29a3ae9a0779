"""Which ports of a pod are forwarded, and how much goes through.

Over SPDY, over SPDY in a WebSocket tunnel, and over WebSocket channels as old clients do it
(streaming.md 4.3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from tailproxy.wire import spdy
from tailproxy.wire.channels import ChannelReader, Part
from tailproxy.wire.sessionevents import Forwarded, Forwarding, Unreadable
from tailproxy.wire.websocket import CLOSE, CONTINUATION, Control, Piece, WebSocketReader, frame

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tailproxy.wire.sessionevents import Event
    from tailproxy.wire.spdy import Frame, SynStream

SPDY_SUBPROTOCOLS = frozenset(("portforward.k8s.io",))
TUNNEL_SUBPROTOCOLS = frozenset(("SPDY/3.1+portforward.k8s.io",))
CHANNEL_SUBPROTOCOLS = frozenset(("", "v4.channel.k8s.io", "v4.base64.channel.k8s.io"))

MAX_CONNECTIONS = 4096
"""So many connections of a session are followed at once."""
MAX_REQUEST_ID = 64
"""Length of the longest request id; clients write a number."""

_MAX_ERROR = 1024
_INTERNAL_ERROR = 2  # of GOAWAY
_UNEXPECTED = (1011).to_bytes(2)  # of a close frame: the server met an unexpected condition
_NOTHING: tuple[Event, ...] = ()


@attrs.define(eq=False)
class _Connection:
    """One connection that goes through.

    :ivar port: ``None`` as long as it is not known.
    :ivar sides: which sides may still send data.
    """

    request_id: str
    port: int | None = None
    up: int = 0
    down: int = 0
    error: bytes = b""
    data_stream: int = 0
    error_stream: int = 0
    sides: set[str] = attrs.Factory(lambda: {"up", "down"})

    def said(self, text: bytes) -> None:
        """Keep what the server says went wrong."""
        self.error = (self.error + text)[:_MAX_ERROR]

    def ended(self) -> Iterator[Forwarded]:
        """Tell the end of it, if its beginning was told."""
        if self.port is not None:
            error = self.error.decode(errors="replace").strip()
            yield Forwarded(self.port, self.request_id, self.up, self.down, error)


class _Ledger:
    """The connections of one SPDY session.

    :ivar last: the client's last stream.
    """

    def __init__(self) -> None:
        self.last = 0
        self._connections: dict[str, _Connection] = {}
        self._data: dict[int, _Connection] = {}  # by the stream for data
        self._errors: dict[int, _Connection] = {}  # by the stream for errors

    def up(self, frames: Iterable[Frame]) -> list[Event]:
        """Note what the client sent."""
        events: list[Event] = []
        for each in frames:
            if isinstance(each, spdy.Data):
                connection = self._data.get(each.stream)
                if connection is not None:
                    connection.up += len(each.data)
                    if each.last:
                        self._silent(connection, "up", events)
            elif isinstance(each, spdy.SynStream):
                self._opened(each, events)
            else:
                self._other(each, events)
        return events

    def down(self, frames: Iterable[Frame]) -> list[Event]:
        """Note what the server sent."""
        events: list[Event] = []
        for each in frames:
            if isinstance(each, spdy.Data):
                connection = self._data.get(each.stream)
                if connection is not None:
                    connection.down += len(each.data)
                    if each.last:
                        self._silent(connection, "down", events)
                elif each.stream in self._errors:
                    self._errors[each.stream].said(each.data)
            else:
                self._other(each, events)
        return events

    def end(self) -> list[Event]:
        """Note that everything has ended."""
        connections = list(self._connections.values())
        self._connections.clear()
        self._data.clear()
        self._errors.clear()
        return [told for each in connections for told in each.ended()]

    def _opened(self, opened: SynStream, events: list[Event]) -> None:
        stream, kind = opened.stream, opened.first_value("streamtype")
        self.last = max(self.last, stream)
        if kind not in {"data", "error"} or stream in self._data or stream in self._errors:
            return
        # Old clients number nothing, but open the two streams one after the other.
        request_id = opened.first_value("requestid")
        request_id = request_id or str(stream if kind == "error" else stream - 2)
        connection = self._connections.get(request_id)
        if connection is None:
            if len(request_id) > MAX_REQUEST_ID:
                events.append(Unreadable(f"a request id of {len(request_id)} characters"))
                return
            if len(self._connections) == MAX_CONNECTIONS:
                events.append(Unreadable(f"more than {MAX_CONNECTIONS} connections at once"))
                return
            connection = self._connections[request_id] = _Connection(request_id)
        if kind == "error" and not connection.error_stream:
            connection.error_stream = stream
            self._errors[stream] = connection
        elif kind == "data" and not connection.data_stream:
            connection.data_stream = stream
            self._data[stream] = connection
            connection.port = _port(opened.first_value("port"))
            events.append(Forwarding(connection.port, request_id))
            if opened.flags & spdy.FIN:
                connection.sides.discard("up")

    def _other(self, each: Frame, events: list[Event]) -> None:
        if isinstance(each, Unreadable):
            events.append(each)
        elif isinstance(each, spdy.RstStream):
            connection = self._data.get(each.stream)
            if connection is None:
                connection = self._errors.get(each.stream)
                if connection is None or connection.data_stream:
                    return
            self._close(connection, events)

    def _silent(self, connection: _Connection, side: str, events: list[Event]) -> None:
        connection.sides.discard(side)
        if not connection.sides:
            self._close(connection, events)

    def _close(self, connection: _Connection, events: list[Event]) -> None:
        del self._connections[connection.request_id]
        self._data.pop(connection.data_stream, None)
        self._errors.pop(connection.error_stream, None)
        events += connection.ended()


def _port(text: str) -> int:
    """Read a port as the API server does; 0 if it is none."""
    number = text.lstrip("0")
    if number.isascii() and number.isdecimal() and len(number) <= 5:
        port = int(number)
        return port if port < 1 << 16 else 0
    return 0


def _until_unreadable(events: list[Event]) -> tuple[list[Event], bool]:
    """Leave out what comes behind the first `Unreadable`; tell whether there is one."""
    for at, event in enumerate(events):
        if isinstance(event, Unreadable):
            return events[: at + 1], True
    return events, False


class SpdyForwardTap:
    """Port-forward over SPDY."""

    def __init__(self) -> None:
        self._up = spdy.SpdyReader()
        self._down = spdy.SpdyReader()
        self._ledger = _Ledger()
        self._broken = False

    @property
    def down_border(self) -> int:
        """How many of the bytes that went down belong to a frame that is not whole."""
        return self._down.pending

    def up(self, data: bytes) -> Sequence[Event]:
        """Read what the client sent."""
        if self._broken:
            return _NOTHING
        return self._checked(self._ledger.up(self._up.feed(data)))

    def down(self, data: bytes) -> Sequence[Event]:
        """Read what the server sent."""
        if self._broken:
            return _NOTHING
        return self._checked(self._ledger.down(self._down.feed(data)))

    def end(self) -> Sequence[Event]:
        """Say what is left to say: both directions have ended, or are cut off."""
        return _NOTHING if self._broken else self._ledger.end()

    def farewell(self, text: str, status: bytes, held: int = 0) -> bytes:
        """Return what may be sent down now to end the session. It has no place for a message."""
        if self._broken or self.down_border != held:
            return b""
        return spdy.goaway_frame(self._ledger.last, _INTERNAL_ERROR)

    def _checked(self, events: list[Event]) -> list[Event]:
        events, self._broken = _until_unreadable(events)
        return events


class TunnelTap:
    """Port-forward over SPDY in a WebSocket tunnel, whose messages mean nothing."""

    def __init__(self) -> None:
        self._outer = {"up": WebSocketReader(), "down": WebSocketReader()}
        self._inner = {"up": spdy.SpdyReader(), "down": spdy.SpdyReader()}
        self._ledger = _Ledger()
        self._broken = False

    @property
    def down_border(self) -> int:
        """How many of the bytes that went down belong to a frame that is not whole."""
        return self._outer["down"].pending

    def up(self, data: bytes) -> Sequence[Event]:
        """Read what the client sent."""
        return self._read("up", data)

    def down(self, data: bytes) -> Sequence[Event]:
        """Read what the server sent."""
        return self._read("down", data)

    def end(self) -> Sequence[Event]:
        """Say what is left to say: both directions have ended, or are cut off."""
        return _NOTHING if self._broken else self._ledger.end()

    def farewell(self, text: str, status: bytes, held: int = 0) -> bytes:
        """Return what may be sent down now to end the session. It has no place for a message."""
        down = self._outer["down"]
        if self._broken or down.pending != held:
            return b""
        begun = frame(CONTINUATION, b"") if down.in_message else b""
        return begun + frame(CLOSE, _UNEXPECTED)

    def _read(self, way: str, data: bytes) -> Sequence[Event]:
        if self._broken:
            return _NOTHING
        inner = self._inner[way]
        note = self._ledger.up if way == "up" else self._ledger.down
        events: list[Event] = []
        for each in self._outer[way].feed(data):
            if isinstance(each, Piece):
                events += note(inner.feed(each.payload()))
            elif isinstance(each, Unreadable):
                events.append(each)
        events, self._broken = _until_unreadable(events)
        return events


class ChannelForwardTap:
    """Port-forward over WebSocket channels: 2n is data and 2n + 1 errors of the nth port.

    The server's first message on each channel is the port.

    :param subprotocol: the ``Sec-WebSocket-Protocol`` of the answer.
    """

    def __init__(self, subprotocol: str) -> None:
        self._up = ChannelReader(subprotocol)
        self._down = ChannelReader(subprotocol)
        self._connections: dict[int, _Connection] = {}
        self._ports: dict[int, bytes] = {}  # by channel, as far as they came
        self._broken = False
        self._closed = False

    @property
    def down_border(self) -> int:
        """How many of the bytes that went down belong to a frame that is not whole."""
        return self._down.frames.pending

    def up(self, data: bytes) -> Sequence[Event]:
        """Read what the client sent."""
        if self._broken:
            return _NOTHING
        for each in self._up.feed(data):
            if isinstance(each, Part):
                if each.channel is not None and not each.channel & 1:
                    self._connection(each.channel).up += len(each.data)
            elif isinstance(each, Unreadable):
                self._broken = True
                return (each,)
        return _NOTHING

    def down(self, data: bytes) -> Sequence[Event]:
        """Read what the server sent."""
        if self._broken:
            return _NOTHING
        events: list[Event] = []
        for each in self._down.feed(data):
            if isinstance(each, Part):
                if each.channel is not None:
                    self._came(each.channel, each.data, events)
            elif isinstance(each, Control):
                self._closed = self._closed or each.opcode == CLOSE
            elif isinstance(each, Unreadable):
                self._broken = True
                events.append(each)
        return events

    def end(self) -> Sequence[Event]:
        """Say what is left to say: both directions have ended, or are cut off."""
        if self._broken:
            return _NOTHING
        events = [told for each in self._connections.values() for told in each.ended()]
        self._connections.clear()
        return events

    def farewell(self, text: str, status: bytes, held: int = 0) -> bytes:
        """Return what may be sent down now to end the session. It has no place for a message."""
        if self._broken or self._closed or self.down_border != held:
            return b""
        return self._down.farewell() + frame(CLOSE, _UNEXPECTED)

    def _connection(self, channel: int) -> _Connection:
        number = channel // 2
        connection = self._connections.get(number)
        if connection is None:
            connection = self._connections[number] = _Connection(str(number))
        return connection

    def _came(self, channel: int, data: bytes, events: list[Event]) -> None:
        known = self._ports.get(channel, b"")
        missing = 2 - len(known)
        if missing:
            self._ports[channel] = known = known + data[:missing]
            if len(known) < 2:
                return
            data = data[missing:]
            if not channel & 1:
                connection = self._connection(channel)
                connection.port = int.from_bytes(known, "little")
                events.append(Forwarding(connection.port, connection.request_id))
        connection = self._connection(channel)
        if channel & 1:
            connection.said(data)
        else:
            connection.down += len(data)

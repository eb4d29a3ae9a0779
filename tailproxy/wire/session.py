"""Sessions with pods, seen beside the relay that carries them.

A tap is given what goes up and what goes down, in the order it is relayed and cut anywhere, and
says what it sees. It never raises: who cannot be followed any more is `Unreadable`, once. What it
keeps is bounded, whatever the two sides send.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tailproxy.wire import portforward, remotecommand
from tailproxy.wire.sessionevents import (
    Event,
    Forwarded,
    Forwarding,
    Input,
    Outcome,
    Output,
    Resized,
    Unreadable,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Event",
    "Forwarded",
    "Forwarding",
    "FrameHolder",
    "Input",
    "Outcome",
    "Output",
    "Resized",
    "SessionTap",
    "Unreadable",
    "forward_tap",
    "tap",
]

_MAX_HELD = 1 << 16
_SHOWN = 64  # characters of a protocol's name in a reason
_NOTHING: tuple[Event, ...] = ()


class SessionTap(Protocol):
    """Follows one session."""

    @property
    def down_border(self) -> int:
        """How many of the bytes that went down belong to a frame that is not whole."""

    def up(self, data: bytes) -> Sequence[Event]:
        """Read what the client sent.

        :returns: what it tells, in order.
        """

    def down(self, data: bytes) -> Sequence[Event]:
        """Read what the server sent.

        :returns: what it tells, in order; output of one stream that comes in a row is one event.
        """

    def end(self) -> Sequence[Event]:
        """Say what is left to say: both directions have ended, or are cut off."""

    def farewell(self, text: str, status: bytes, held: int = 0) -> bytes:
        """Return what may be sent down now to end the session with a message (streaming.md 5.6).

        :param text: for the user's terminal, with its line ends.
        :param status: a ``Status`` as JSON, for who reads the error stream.
        :param held: how many of the last bytes that were read were not passed on.
        :returns: empty if nothing may be: a frame was passed on in part, or what the server sent
            could not be read.
        """


def tap(protocol: str, subprotocol: str, terminal: bool, *, with_input: bool = False) -> SessionTap:
    """Return a tap for an exec or attach that was switched to.

    :param protocol: the answer's ``Upgrade``.
    :param subprotocol: the answer's ``X-Stream-Protocol-Version`` (SPDY) or
        ``Sec-WebSocket-Protocol``; empty without.
    :param terminal: whether the session has a terminal (``tty``).
    :param with_input: whether to say what the client sends, too. It may be a password.
    """
    match protocol.lower():
        case "spdy/3.1" if subprotocol in remotecommand.SPDY_SUBPROTOCOLS:
            return remotecommand.SpdyTap(subprotocol, terminal, with_input)
        case "websocket" if subprotocol in remotecommand.WEBSOCKET_SUBPROTOCOLS:
            return remotecommand.WebSocketTap(subprotocol, terminal, with_input)
    return _NoTap(protocol, subprotocol)


def forward_tap(protocol: str, subprotocol: str) -> SessionTap:
    """Return a tap for a port-forward that was switched to; for arguments see `tap`."""
    match protocol.lower():
        case "spdy/3.1" if subprotocol in portforward.SPDY_SUBPROTOCOLS:
            return portforward.SpdyForwardTap()
        case "websocket" if subprotocol in portforward.TUNNEL_SUBPROTOCOLS:
            return portforward.TunnelTap()
        case "websocket" if subprotocol in portforward.CHANNEL_SUBPROTOCOLS:
            return portforward.ChannelForwardTap(subprotocol)
    return _NoTap(protocol, subprotocol)


class _NoTap:
    """Follows a session in a protocol that nobody knows here: not at all."""

    down_border = 0

    def __init__(self, protocol: str, subprotocol: str) -> None:
        self._protocol = f"{protocol[:_SHOWN]!r} with {subprotocol[:_SHOWN]!r}"
        self._told = False

    def up(self, data: bytes) -> Sequence[Event]:
        return self._tell()

    def down(self, data: bytes) -> Sequence[Event]:
        return self._tell()

    def end(self) -> Sequence[Event]:
        return _NOTHING

    def farewell(self, text: str, status: bytes, held: int = 0) -> bytes:
        return b""

    def _tell(self) -> Sequence[Event]:
        if self._told:
            return _NOTHING
        self._told = True
        return (Unreadable(f"an unknown protocol: {self._protocol}"),)


class FrameHolder:
    """Keeps the bytes that go down at a border between frames, where a farewell can be said.

    A frame goes on when it is whole, which clients wait for anyway, or longer than 64 KiB. At the
    end of the stream, ``take(b"", 0)`` returns what is left.
    """

    def __init__(self) -> None:
        self._held = b""

    @property
    def held(self) -> int:
        """How many bytes are held."""
        return len(self._held)

    def take(self, data: bytes, border: int) -> bytes:
        """Return what may go on, of what was held and the next bytes.

        :param border: the tap's `down_border` after it read them.
        """
        data = self._held + data
        if border > _MAX_HELD:
            self._held = b""
            return data
        at = len(data) - min(border, len(data))
        self._held = data[at:]
        return data[:at]

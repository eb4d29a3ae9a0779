"""Channels over WebSocket: what the API server and kubelets speak in place of SPDY streams.

The first byte of a message is the channel, the rest is data; in the base64 variants both are text
(streaming.md 3.3, 3.4).
"""

from __future__ import annotations

import re
from base64 import b64encode
from binascii import Error as BinasciiError
from binascii import a2b_base64
from typing import TYPE_CHECKING, TypeAlias

import attrs

from tailproxy.wire.sessionevents import Unreadable
from tailproxy.wire.websocket import (
    BINARY,
    CONTINUATION,
    TEXT,
    Control,
    Piece,
    WebSocketReader,
    frame,
    turned,
    unmask,
)

if TYPE_CHECKING:
    from collections.abc import Container

STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)
_CLOSE_SIGNAL = 255
_BASE64 = frozenset(("base64.channel.k8s.io", "v4.base64.channel.k8s.io"))
_CLOSING = frozenset(("v5.channel.k8s.io",))
_ZERO = ord("0")
_LINE_ENDS = b"\r\n"  # the API server's decoder skips them
_BEGUN = re.compile(rb"[A-Za-z0-9+/]{0,3}|[A-Za-z0-9+/]{2}=")
_GROUPS = re.compile(rb"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


@attrs.frozen
class Part:
    """A piece of a message, decoded.

    :ivar channel: ``None`` if the message is empty, and so names none.
    :ivar data: may be empty.
    :ivar last: whether the message ends with it.
    """

    channel: int | None
    data: bytes
    last: bool


@attrs.frozen
class CloseSignal:
    """The client sends no more on a channel (v5)."""

    channel: int


ChannelEvent: TypeAlias = Part | CloseSignal | Control | Unreadable


class _ChannelError(Exception):
    """A message that its receiver would not take."""


class ChannelReader:
    """Reads one direction of a WebSocket connection with channels.

    :param subprotocol: as agreed on; it alone says how messages are written.
    :param wanted: the channels whose parts are returned; the others are passed over unread.
    :ivar frames: the reader below.
    """

    def __init__(self, subprotocol: str, wanted: Container[int] = range(256)) -> None:
        self.frames = WebSocketReader()
        self._base64 = subprotocol in _BASE64
        self._closing = subprotocol in _CLOSING
        self._wanted = wanted
        self._channel: int | None = None
        self._carried = b""  # base64 that makes no whole bytes yet, or the close signal
        self._padded = False
        self._at_border: tuple[int | None, bytes] = (None, b"")  # channel and what was carried
        self._broken = False

    def feed(self, data: bytes) -> list[ChannelEvent]:
        """Take the next bytes.

        :returns: what they complete, in order. An `Unreadable` is the last event of all.
        """
        events: list[ChannelEvent] = []
        if self._broken:
            return events
        for each in self.frames.feed(data):
            if not isinstance(each, Piece):
                events.append(each)
                self._broken = isinstance(each, Unreadable)
                continue
            try:
                self._take(each, events)
            except _ChannelError as error:
                self._broken = True
                events.append(Unreadable(f"WebSocket: {error}"))
                break
            if each.frame_ends:
                self._at_border = self._channel, self._carried
        return events

    def farewell(self) -> bytes:
        """Return a frame that ends the message that has begun, so that another may; or nothing.

        It is for behind the last whole frame.
        """
        if not self.frames.in_message:
            return b""
        channel, carried = self._at_border
        rest = b""
        if self._closing and channel == _CLOSE_SIGNAL and not carried:
            rest = b"\0"
        elif self._base64 and carried:
            rest = b"A=="[len(carried) - 1 :]
        return frame(CONTINUATION, rest)

    def _take(self, piece: Piece, events: list[ChannelEvent]) -> None:
        data, key, last = piece.data, piece.key, piece.message_ends
        channel = self._channel
        if channel is None:
            if not data:
                if last:
                    events.append(Part(None, b"", last=True))
                return
            channel = data[0] ^ (key[0] if key else 0)
            if self._base64:
                channel = channel - _ZERO & 0xFF
            data, key = data[1:], turned(key, 1)
        self._channel = None if last else channel
        closing = self._closing and channel == _CLOSE_SIGNAL
        if not closing and channel not in self._wanted:
            return
        if key is not None:
            data = unmask(data, key)
        if closing:
            self._take_close_signal(data, last, events)
        elif self._base64:
            self._take_base64(channel, data, last, events)
        elif data or last:
            events.append(Part(channel, data, last))

    def _take_close_signal(self, data: bytes, last: bool, events: list[ChannelEvent]) -> None:
        self._carried += data[:2]
        if len(self._carried) > 1 or (last and not self._carried):
            raise _ChannelError("a close signal that does not name one channel")
        if last:
            events.append(CloseSignal(self._carried[0]))
            self._carried = b""

    def _take_base64(
        self, channel: int, data: bytes, last: bool, events: list[ChannelEvent]
    ) -> None:
        text = self._carried + data.translate(None, _LINE_ENDS)
        decoded, used = _decode(text)
        left = text[used:]
        padded = self._padded or text[:used].endswith(b"=")
        bad = (self._padded and text) or not _BEGUN.fullmatch(left) or (left and (last or padded))
        if decoded and not self._padded:
            events.append(Part(channel, decoded, last and not bad))
        elif last and not bad:
            events.append(Part(channel, b"", last=True))
        if bad:
            raise _ChannelError("a message that is no base64")
        self._carried = left
        self._padded = padded and not last


def _decode(text: bytes) -> tuple[bytes, int]:
    """Decode as much base64 as there is: to the last whole group of four, or to what is none.

    :returns: the bytes, and how much of the text they are.
    """
    used = len(text) & ~3
    # Strict as it is, the decoder takes padding behind a group that needs none.
    if text[used - 3 : used - 2] != b"=":
        try:
            return a2b_base64(text[:used], strict_mode=True), used
        except BinasciiError:
            pass
    groups = _GROUPS.match(text)
    used = groups.end() if groups else 0
    return a2b_base64(text[:used]), used


def message(subprotocol: str, channel: int, data: bytes) -> bytes:
    """Write a message as servers do.

    :param subprotocol: as agreed on.
    """
    if subprotocol in _BASE64:
        return frame(TEXT, b"%d%b" % (channel, b64encode(data)))
    return frame(BINARY, bytes((channel,)) + data)

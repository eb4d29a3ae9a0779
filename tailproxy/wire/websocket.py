"""WebSocket frames (RFC 6455), read beside a relay: one direction of one connection.

Payload is handed on as it comes, in whatever pieces, still masked if it was: most of it is never
looked at. Between two calls a reader keeps at most one head and one control frame.

Either direction may be masked or not, and a length may be written longer than needed; no
extension is known, for none is ever agreed on (streaming.md 3).
"""

from __future__ import annotations

from functools import cache
from typing import TypeAlias

import attrs

from tailproxy.wire.sessionevents import Unreadable

MAX_FRAME = 32 << 20
"""The longest payload of a frame: the API server's own limit."""

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

_MAX_CONTROL = 125
_FIN = 0x80
_CONTROL_BIT = 0x08
_MASKED = 0x80
# From here on, four passes over every fourth byte are cheaper than one sum of large integers.
_LARGE = 4096


@attrs.frozen
class Piece:
    """A piece of a message.

    :ivar opcode: of the frame that it came in.
    :ivar data: as it arrived, masked if there is a key; may be empty.
    :ivar key: four bytes, the first of which belongs to the first byte of `data`.
    :ivar frame_ends: whether the frame ends with it.
    :ivar message_ends: whether the message does, too.
    """

    opcode: int
    data: bytes
    key: bytes | None
    frame_ends: bool
    message_ends: bool

    def payload(self) -> bytes:
        """Return what it says."""
        return self.data if self.key is None else unmask(self.data, self.key)


@attrs.frozen
class Control:
    """A ping, a pong, or the end.

    :ivar payload: at most 125 bytes, unmasked.
    """

    opcode: int
    payload: bytes
    masked: bool


Frame: TypeAlias = Piece | Control | Unreadable


class _WebSocketError(Exception):
    """These bytes are no WebSocket frames, or larger ones than are read."""


class WebSocketReader:
    """Reads one direction of a WebSocket connection.

    :ivar pending: how many of the bytes that came belong to a frame whose end has not come: 0 at
        a border between two frames.
    :ivar in_message: whether the last whole data frame left its message open.
    """

    def __init__(self) -> None:
        self.pending = 0
        self.in_message = False
        self._held = bytearray()  # of the head, or of the control frame, that is not whole
        self._opcode = CONTINUATION
        self._final = False
        self._key: bytes | None = None  # turned to fit the next byte
        self._remaining = 0  # of the payload of the data frame that is not whole
        self._broken = False

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next bytes.

        :returns: what they complete, in order. An `Unreadable` is the last event of all.
        """
        frames: list[Frame] = []
        if self._broken:
            return frames
        try:
            self._feed(data, frames)
        except _WebSocketError as error:
            self._broken = True
            self._held.clear()
            frames.append(Unreadable(f"WebSocket: {error}"))
        return frames

    def _feed(self, data: bytes, frames: list[Frame]) -> None:
        at, size = 0, len(data)
        while at < size:
            if self._remaining:
                end = min(size, at + self._remaining)
                self._remaining -= end - at
                self.pending += end - at
                self._hand_on(data[at:end], frames)
                at = end
                continue
            if self._held:
                at = self._add_to_held(data, at, frames)
                continue
            head = _head(data, at, size)
            first = data[at]
            if head is not None:
                length, start = head
                end = start + length
                if end <= size:
                    self._whole(first, data, at, start, end, frames)
                    at = end
                    continue
                if not first & _CONTROL_BIT:
                    self._begin(first, data[at:start], length)
                    at = start
                    continue
            self._held += data[at:]
            self.pending = size - at
            return

    def _add_to_held(self, data: bytes, at: int, frames: list[Frame]) -> int:
        """Add what is missing of the head or control frame in hand.

        :returns: where to go on reading.
        """
        held = self._held
        before = len(held)
        # No head has more than 14 bytes, and no control frame more than 125 behind it.
        held += data[at : at + 14 + _MAX_CONTROL]
        self.pending = len(held)
        head = _head(held, 0, len(held))
        if head is None:
            return len(data)
        length, start = head
        end = start + length
        if end <= len(held):
            whole = bytes(held)
            held.clear()
            self.pending = 0
            self._whole(whole[0], whole, 0, start, end, frames)
        elif held[0] & _CONTROL_BIT:
            return len(data)
        else:
            first, opening = held[0], bytes(held[:start])
            held.clear()
            self._begin(first, opening, length)
            end = start
        return at + end - before

    def _whole(
        self, first: int, data: bytes, at: int, start: int, end: int, frames: list[Frame]
    ) -> None:
        """Read a whole frame.

        :param first: its first byte.
        :param at: where it begins.
        :param start: where its payload does.
        """
        masked = data[at + 1] >= _MASKED
        key = data[start - 4 : start] if masked else None
        if first & _CONTROL_BIT:
            payload = data[start:end] if key is None else unmask(data[start:end], key)
            frames.append(Control(first & 0x0F, payload, masked))
            return
        opcode, final = first & 0x0F, first >= _FIN
        self._check_order(opcode)
        self.in_message = not final
        frames.append(Piece(opcode, data[start:end], key, True, final))

    def _begin(self, first: int, head: bytes, length: int) -> None:
        """Begin a data frame that is not whole."""
        self._opcode = first & 0x0F
        self._check_order(self._opcode)
        self._final = first >= _FIN
        self._key = head[-4:] if head[1] >= _MASKED else None
        self._remaining = length
        self.pending = len(head)

    def _check_order(self, opcode: int) -> None:
        if self.in_message is not (opcode == CONTINUATION):
            raise _WebSocketError(
                "a message inside another" if self.in_message else "a continuation of no message"
            )

    def _hand_on(self, data: bytes, frames: list[Frame]) -> None:
        """Hand on a piece of the data frame that is not whole."""
        whole = not self._remaining
        frames.append(Piece(self._opcode, data, self._key, whole, whole and self._final))
        if whole:
            self.pending = 0
            self.in_message = not self._final
        else:
            self._key = turned(self._key, len(data))


_GOOD = frozenset((*range(3), *(_FIN | opcode for opcode in (0, 1, 2, 8, 9, 10))))


def _head(data: bytes | bytearray, at: int, size: int) -> tuple[int, int] | None:
    """Read the head of a frame (RFC 6455, 5.2), which is judged as far as it came.

    :returns: the payload's length, and where the payload begins; ``None`` if more is needed.
    """
    first = data[at]
    if first not in _GOOD:
        raise _WebSocketError(_reason(first))
    start = at + 2
    if size < start:
        return None
    second = data[at + 1]
    length = second & 0x7F
    if length > _MAX_CONTROL:
        if first & _CONTROL_BIT:
            raise _WebSocketError("a control frame of more than 125 bytes")
        start += 2 if length == 126 else 8
        if size < start:
            return None
        length = int.from_bytes(data[at + 2 : start])
        if length > MAX_FRAME:
            raise _WebSocketError(f"a frame of {length} bytes")
    if second >= _MASKED:
        start += 4
    return (length, start) if size >= start else None


def _reason(first: int) -> str:
    """Say what is wrong with the first byte of a frame."""
    if first & 0x70:
        return "a reserved bit is set, and no extension was agreed on"
    if first | _FIN in _GOOD:
        return "a control frame in fragments"
    return f"a frame of unknown type {first & 0x0F}"


def turned(key: bytes | None, count: int) -> bytes | None:
    """Turn a masking key so that it fits what comes behind so many bytes."""
    if key is None:
        return None
    count &= 3
    return key[count:] + key[:count]


@cache
def _table(byte: int) -> bytes:
    return bytes(value ^ byte for value in range(256))


def unmask(data: bytes, key: bytes) -> bytes:
    """Mask or unmask (RFC 6455, 5.3).

    :param key: four bytes, the first of which belongs to the first byte of `data`.
    """
    size = len(data)
    if size < _LARGE:
        mask = (key * (size // 4 + 1))[:size]
        return (int.from_bytes(data) ^ int.from_bytes(mask)).to_bytes(size)
    plain = bytearray(size)
    for at, byte in enumerate(key):
        plain[at::4] = data[at::4].translate(_table(byte))
    return bytes(plain)


def frame(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    """Write a frame as servers do: unmasked, its length as short as can be.

    :param final: whether the message ends with it.
    """
    first = opcode | (_FIN if final else 0)
    size = len(payload)
    if size <= _MAX_CONTROL:
        head = bytes((first, size))
    elif size < 1 << 16:
        head = bytes((first, 126)) + size.to_bytes(2)
    else:
        head = bytes((first, 127)) + size.to_bytes(8)
    return head + payload

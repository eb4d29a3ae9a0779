"""SPDY/3.1 as Kubernetes streams speak it, read beside a relay: one direction of one connection.

What arrives is read as it comes, in whatever pieces: data of a stream is handed on at once, a
control frame when it is whole. Between two calls a reader keeps at most one control frame
(`MAX_CONTROL`) and the window of its inflater (streaming.md 2).

It judges less than an end of the connection would: flow control, the order of stream ids and
what is said about closed streams are none of its business.
"""

from __future__ import annotations

import zlib
from struct import Struct
from typing import TypeAlias

import attrs

from tailproxy.wire.sessionevents import Unreadable

MAX_CONTROL = 1 << 16
"""Length of the longest control frame that is read; those of Kubernetes have some 40 bytes."""
MAX_BLOCK = 1 << 20
"""A header block must be shorter than this, inflated."""
MAX_LARGE = 16 << 20
"""So long all the header blocks of more than 4 KiB of a direction may be together: small frames can
be inflated to large ones, and who may send one may send many."""
MAX_PAIRS = 1000
"""The most headers in a block."""

HeaderPairs: TypeAlias = tuple[tuple[str, str], ...]
"""Headers in order: name in lower case, and value; several values have a zero byte between."""

FIN = 0x01
"""Flag: the sender's half of the stream ends with this frame."""

_USUAL_BLOCK = 4096
_VERSION = 3
_HEAD_BYTES = 8
_ID = 0x7FFFFFFF  # the top bit of a stream id is reserved
_HEAD = Struct(">II")
_WORD = Struct(">I")
_PAIR = Struct(">II")
_OPENING = Struct(">IIBB")

_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language "
    "accept-ranges age allow authorization cache-control connection content-base "
    "content-encoding content-language content-length content-location content-md5 "
    "content-range content-type date etag expect expires from host if-match if-modified-since "
    "if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer "
    "transfer-encoding upgrade user-agent vary via warning www-authenticate method get status"
)
_TAIL = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request"
    "401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented"
    "503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 "
    "Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,"
    "application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age="
    "gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _dictionary() -> bytes:
    words = [
        *_WORDS.split(),
        "200 OK",
        "version",
        "HTTP/1.1",
        "url",
        "public",
        "set-cookie",
        "keep-alive",
        "origin",
    ]
    sized = b"".join(_WORD.pack(len(word)) + word.encode() for word in words)
    return sized + _TAIL.encode()


DICTIONARY = _dictionary()
"""What every header block's compressor has seen before it begins (SPDY/3, 2.6.10.1)."""


@attrs.frozen
class Data:
    """A piece of a stream's data.

    :ivar data: as it arrived; a frame may come in many pieces, and be empty.
    :ivar last: whether the sender's half of the stream ends with it.
    """

    stream: int
    data: bytes
    last: bool


@attrs.frozen
class SynStream:
    """A stream is opened.

    :ivar flags: `FIN`, or 2 for one that is not answered.
    :ivar headers: see `HeaderPairs`.
    """

    stream: int
    associated: int
    priority: int
    slot: int
    flags: int
    headers: HeaderPairs

    def only_value(self, name: str) -> str | None:
        """Return the value of a header, or ``None`` unless there is exactly one."""
        values = [value for key, value in self.headers if key == name]
        return values[0] if len(values) == 1 and "\0" not in values[0] else None

    def first_value(self, name: str) -> str:
        """Return the value that the API server takes, or nothing if there is none."""
        for key, value in self.headers:
            if key == name:
                return value.partition("\0")[0]
        return ""


@attrs.frozen
class SynReply:
    """A stream is accepted."""

    stream: int
    flags: int
    headers: HeaderPairs


@attrs.frozen
class Headers:
    """More headers of a stream."""

    stream: int
    flags: int
    headers: HeaderPairs


@attrs.frozen
class RstStream:
    """Both halves of a stream end at once.

    :ivar status: why: 5 is "cancelled".
    """

    stream: int
    status: int


@attrs.frozen
class Settings:
    """Settings: flags, id and value of each."""

    settings: tuple[tuple[int, int, int], ...]


@attrs.frozen
class Ping:
    """A ping, or the answer to one."""

    ping: int


@attrs.frozen
class GoAway:
    """The sender takes no more streams.

    :ivar last: the last stream of the other side that it took.
    :ivar status: 0 is "all is well".
    """

    last: int
    status: int


@attrs.frozen
class WindowUpdate:
    """Room for more data; Kubernetes neither sends nor heeds it."""

    stream: int
    delta: int


Frame: TypeAlias = (
    Data
    | SynStream
    | SynReply
    | Headers
    | RstStream
    | Settings
    | Ping
    | GoAway
    | WindowUpdate
    | Unreadable
)


class _SpdyError(Exception):
    """These bytes are no SPDY/3.1, or more of it than is read."""


class SpdyReader:
    """Reads one direction of a SPDY connection.

    :ivar pending: how many of the bytes that came belong to a frame whose end has not come: 0 at
        a border between two frames.
    """

    def __init__(self) -> None:
        self.pending = 0
        self._held = bytearray()  # of the head or the control frame that is not whole
        self._wanted = _HEAD_BYTES  # so long must it become
        self._stream = 0  # whose data frame it is that is not whole
        self._remaining = 0  # that so many bytes are missing of
        self._last = False
        self._inflater = zlib.decompressobj(zdict=DICTIONARY)
        self._large = 0
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
        except _SpdyError as error:
            self._broken = True
            self._held.clear()
            frames.append(Unreadable(f"SPDY: {error}"))
        return frames

    def _feed(self, data: bytes, frames: list[Frame]) -> None:
        at, size = 0, len(data)
        while at < size:
            if self._remaining:
                end = min(size, at + self._remaining)
                self._remaining -= end - at
                whole = not self._remaining
                frames.append(Data(self._stream, data[at:end], whole and self._last))
                self.pending = 0 if whole else self.pending + end - at
                at = end
                continue
            if not self._held and size - at >= _HEAD_BYTES:
                first, second = _HEAD.unpack_from(data, at)
                if first <= _ID:
                    at += _HEAD_BYTES
                    self._begin_data(first, second, frames)
                    continue
            end = min(size, at + self._wanted - len(self._held))
            self._held += data[at:end]
            at = end
            if len(self._held) == self._wanted:
                self._take(frames)
            self.pending = len(self._held) or self.pending

    def _take(self, frames: list[Frame]) -> None:
        """Read what is held: a head, or a whole control frame."""
        first, second = _HEAD.unpack_from(self._held)
        if first <= _ID:
            self._held.clear()
            self._begin_data(first, second, frames)
            return
        length = second & 0xFFFFFF
        if len(self._held) == _HEAD_BYTES and length:
            _check_control(first, length)
            self._wanted = _HEAD_BYTES + length
            return
        payload = bytes(self._held[_HEAD_BYTES:])
        self._held.clear()
        self._wanted = _HEAD_BYTES
        self.pending = 0
        frames.append(self._control(first, second >> 24, payload))

    def _begin_data(self, stream: int, second: int, frames: list[Frame]) -> None:
        if not stream:
            raise _SpdyError("data on stream 0")
        self._stream = stream
        self._remaining = second & 0xFFFFFF
        self._last = bool(second >> 24 & FIN)
        self.pending = _HEAD_BYTES if self._remaining else 0
        if not self._remaining:
            frames.append(Data(stream, b"", self._last))

    def _control(self, first: int, flags: int, payload: bytes) -> Frame:
        """Read a whole control frame.

        :param first: the first word of its head.
        """
        kind = first & 0xFFFF
        _check_control(first, len(payload))
        match kind:
            case 1:
                stream, associated, priority, slot = _OPENING.unpack_from(payload)
                headers = self._headers(payload[_OPENING.size :])
                return SynStream(
                    _stream_id(stream), associated & _ID, priority >> 5, slot, flags, headers
                )
            case 2 | 8:
                stream = _stream_id(*_WORD.unpack_from(payload))
                made = SynReply if kind == 2 else Headers
                # A frame without a block at all leaves the inflater alone.
                return made(stream, flags, self._headers(payload[4:]) if payload[4:] else ())
            case 3:
                stream, status = _PAIR.unpack(payload)
                if not status:
                    raise _SpdyError("RST_STREAM without a status")
                return RstStream(_stream_id(stream), status)
            case 4:
                return Settings(_settings(payload))
            case 6:
                return Ping(*_WORD.unpack(payload))
            case 7:
                last, status = _PAIR.unpack(payload)
                return GoAway(last & _ID, status)
            case _:
                stream, delta = _PAIR.unpack(payload)
                return WindowUpdate(stream & _ID, delta & _ID)

    def _headers(self, block: bytes) -> HeaderPairs:
        """Inflate a block. Each one moves the window that later ones lean on (2.4)."""
        try:
            text = self._inflater.decompress(block, MAX_BLOCK)
        except zlib.error as error:
            raise _SpdyError("a header block cannot be inflated") from error
        # At the limit, the inflater may keep back what would then begin the next block.
        if len(text) >= MAX_BLOCK:
            raise _SpdyError(f"a header block of {MAX_BLOCK} bytes or more")
        if self._inflater.eof:
            raise _SpdyError("the end of the compressed headers, which have none")
        if len(text) > _USUAL_BLOCK:
            self._large += len(text)
            if self._large > MAX_LARGE:
                raise _SpdyError(f"large header blocks of more than {MAX_LARGE} bytes together")
        return _read_block(text)


_LENGTHS = {
    1: range(10, MAX_CONTROL + 1),
    2: range(4, MAX_CONTROL + 1),
    3: range(8, 9),
    4: range(4, MAX_CONTROL + 1),
    6: range(4, 5),
    7: range(8, 9),
    8: range(4, MAX_CONTROL + 1),
    9: range(8, 9),
}


def _check_control(first: int, length: int) -> None:
    """Judge the head of a control frame, before anything of its payload is kept."""
    version, kind = first >> 16 & 0x7FFF, first & 0xFFFF
    if version != _VERSION:
        raise _SpdyError(f"a control frame of version {version}")
    lengths = _LENGTHS.get(kind)
    if lengths is None:
        raise _SpdyError(f"a control frame of unknown type {kind}")
    if length not in lengths:
        raise _SpdyError(f"a control frame of type {kind} with {length} bytes")


def _stream_id(word: int) -> int:
    stream = word & _ID
    if not stream:
        raise _SpdyError("a control frame about stream 0")
    return stream


def _settings(payload: bytes) -> tuple[tuple[int, int, int], ...]:
    (count,) = _WORD.unpack_from(payload)
    if len(payload) != 4 + 8 * count:
        raise _SpdyError("SETTINGS of another length than their number says")
    return tuple(
        (key >> 24, key & 0xFFFFFF, value) for key, value in _PAIR.iter_unpack(payload[4:])
    )


def _read_block(text: bytes) -> HeaderPairs:
    """Read an inflated header block (2.3)."""
    count, at = _word(text, 0)
    if count > MAX_PAIRS:
        raise _SpdyError(f"a header block of {count} pairs")
    pairs = []
    for _ in range(count):
        name, at = _string(text, at)
        value, at = _string(text, at)
        pairs.append((name.lower(), value))
    if at != len(text):
        raise _SpdyError("a header block with something behind its pairs")
    return tuple(pairs)


def _word(text: bytes, at: int) -> tuple[int, int]:
    end = at + 4
    if end > len(text):
        raise _SpdyError("a header block that is too short")
    return int.from_bytes(text[at:end]), end


def _string(text: bytes, at: int) -> tuple[str, int]:
    length, start = _word(text, at)
    end = start + length
    if end > len(text):
        raise _SpdyError("a header block that is too short for its strings")
    return text[start:end].decode("latin-1"), end


def data_frame(stream: int, data: bytes, flags: int = 0) -> bytes:
    """Write a frame of data.

    :param stream: 1 to 2**31 - 1.
    :param data: at most 2**24 - 1 bytes.
    """
    return _HEAD.pack(stream, flags << 24 | len(data)) + data


def goaway_frame(last: int, status: int) -> bytes:
    """Write GOAWAY.

    :param last: the last stream that the receiver opened and we know of.
    :param status: 0 all is well, 1 protocol error, 2 internal error.
    """
    return _HEAD.pack(1 << 31 | _VERSION << 16 | 7, 8) + _PAIR.pack(last, status)

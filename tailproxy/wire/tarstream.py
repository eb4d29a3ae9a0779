"""Tar archives as they go by: what `kubectl cp` copies (streaming.md 9).

Names, sizes and checksums are what is looked for; contents are not kept. Read are the forms that
Go, GNU tar and busybox write: ustar, with long names by PAX or in GNU's way.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Literal, TypeAlias

import attrs

from tailproxy.wire.sessionevents import Unreadable

MAX_EXTENSION = 1 << 16
"""Length of the longest extension of a header that is read."""

MemberKind: TypeAlias = Literal["file", "folder", "link", "other"]

_BLOCK = 512
_ZEROS = bytes(_BLOCK)
_KINDS: dict[bytes, MemberKind] = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"1": "link",
    b"2": "link",
    b"5": "folder",
}
_LONG_NAME, _LONG_LINK, _PAX, _GLOBAL = b"L", b"K", b"x", b"g"
_EXTENSIONS = frozenset((_LONG_NAME, _LONG_LINK, _PAX, _GLOBAL))
# Kinds without contents, whatever size their header says.
_EMPTY = frozenset((b"1", b"2", b"3", b"4", b"5", b"6"))
_SPARSE = b"S"
_SPOKEN = frozenset((b"path", b"size"))
_POSIX = b"ustar\0"
_LINE_END = ord("\n")
_RECORD = re.compile(rb"([1-9][0-9]{0,8}) ([^=\n]+)=")
_OCTAL = re.compile(rb"[0-7]*")
_DECIMAL = re.compile(rb"[0-9]{1,18}")


@attrs.frozen
class Member:
    """Something in an archive, its contents complete.

    :ivar name: as it is written there; bytes that are no UTF-8 are shown as U+FFFD.
    :ivar size: of its contents, in bytes.
    :ivar digest: SHA-256 of them, in hex; empty for what is no file.
    """

    name: str
    kind: MemberKind
    size: int
    digest: str


class _TarError(Exception):
    """These bytes are no archive."""


class TarReader:
    """Reads an archive.

    :ivar ended: whether its end has come; what comes behind it means nothing.
    """

    def __init__(self) -> None:
        self.ended = False
        self._held = bytearray()  # of a header, or of an extension
        self._wanted = _BLOCK  # so long must it become
        self._extension: tuple[bytes, int] | None = None  # its type and length, if it is one
        self._zeros = False  # whether the last header was none but zeros, as two at the end are
        self._path: bytes | None = None  # what extensions say of the next member
        self._size: int | None = None
        self._member = Member("", "other", 0, "")  # whose contents are read
        self._hash = sha256()
        self._remaining = 0  # of its contents
        self._skipped = 0  # what fills up the block behind them
        self._broken = False

    def feed(self, data: bytes) -> list[Member | Unreadable]:
        """Take the next bytes.

        :returns: the members that they complete. An `Unreadable` is the last event of all.
        """
        events: list[Member | Unreadable] = []
        if self._broken:
            return events
        try:
            self._feed(data, events)
        except _TarError as error:
            self._broken = True
            self._held.clear()
            events.append(Unreadable(f"tar: {error}"))
        return events

    def _feed(self, data: bytes, events: list[Member | Unreadable]) -> None:
        at, size = 0, len(data)
        while at < size and not self.ended:
            if self._remaining:
                end = min(size, at + self._remaining)
                self._remaining -= end - at
                if self._member.kind == "file":
                    self._hash.update(data[at:end])
                if not self._remaining:
                    events.append(self._complete())
            elif self._skipped:
                end = min(size, at + self._skipped)
                self._skipped -= end - at
            else:
                end = min(size, at + self._wanted - len(self._held))
                self._held += data[at:end]
                if len(self._held) == self._wanted:
                    block = bytes(self._held)
                    self._held.clear()
                    self._wanted = _BLOCK
                    self._take(block, events)
            at = end

    def _take(self, block: bytes, events: list[Member | Unreadable]) -> None:
        """Read a header, or an extension of the one to come."""
        if self._extension:
            kind, size = self._extension
            self._extension = None
            self._extend(kind, block[:size])
        elif block == _ZEROS:
            self.ended = self._zeros
            self._zeros = True
        else:
            self._zeros = False
            self._begin(block, events)

    def _begin(self, header: bytes, events: list[Member | Unreadable]) -> None:
        if _number(header[148:156]) != sum(header[:148]) + 8 * ord(" ") + sum(header[156:]):
            raise _TarError("a header with a wrong checksum")
        kind, size = header[156:157], _number(header[124:136])
        if kind in _EXTENSIONS:
            if size > MAX_EXTENSION:
                raise _TarError(f"an extension of {size} bytes")
            if size:
                self._extension = (kind, size)
                self._wanted = size + -size % _BLOCK
            return
        if kind == _SPARSE:
            raise _TarError("a sparse file")
        if self._size is not None:
            size = self._size
        if kind in _EMPTY:
            size = 0
        name = _name(header) if self._path is None else self._path
        self._path = self._size = None
        self._member = Member(name.decode(errors="replace"), _KINDS.get(kind, "other"), size, "")
        self._hash = sha256()
        self._remaining, self._skipped = size, -size % _BLOCK
        if not size:
            events.append(self._complete())

    def _complete(self) -> Member:
        member = self._member
        if member.kind == "file":
            return attrs.evolve(member, digest=self._hash.hexdigest())
        return member

    def _extend(self, kind: bytes, text: bytes) -> None:
        if kind == _LONG_NAME:
            self._path = text.partition(b"\0")[0]
        elif kind != _LONG_LINK:
            records = _records(text)
            if kind == _GLOBAL:
                if not records.keys().isdisjoint(_SPOKEN):
                    raise _TarError("a name or a size for all members")
                return
            self._path = records.get(b"path", self._path)
            if b"size" in records:
                self._size = _decimal(records[b"size"])


def _name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0]
    if prefix and header[257:263] == _POSIX:
        return prefix + b"/" + name
    return name


def _number(field: bytes) -> int:
    """Read a number of a header: octal digits, or in binary behind a set bit."""
    if field[0] & 0x80:
        if field[0] & 0x7F:
            raise _TarError("a number that is too large")
        number = int.from_bytes(field[1:])
        if number >= 1 << 63:
            raise _TarError("a number that is too large")
        return number
    digits = field.strip(b" \0")
    if not _OCTAL.fullmatch(digits):
        raise _TarError("a number that is none")
    return int(digits or b"0", 8)


def _records(text: bytes) -> dict[bytes, bytes]:
    """Read what a PAX extension says; the last of a name counts."""
    records = {}
    at = 0
    while at < len(text):
        head = _RECORD.match(text, at)
        end = at + int(head[1]) if head else 0
        if head is None or not head.end() < end <= len(text) or text[end - 1] != _LINE_END:
            raise _TarError("an extension that is none")
        records[head[2]] = text[head.end() : end - 1]
        at = end
    return records


def _decimal(digits: bytes) -> int:
    if not _DECIMAL.fullmatch(digits):
        raise _TarError("a size that is none")
    return int(digits)

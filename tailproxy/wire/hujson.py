"""HuJSON: JSON with comments and trailing commas, read into a tree that knows where things are.

Strict in everything else (RFC 8259), so that a file means the same to every reader of it:
no lone surrogates, no NaN, no number that a 64-bit reader would change.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from typing import Any, NoReturn, TypeAlias

import attrs

MAX_DEPTH = 100

Scalar: TypeAlias = str | int | float | bool | None

_SPACE = re.compile(r"(?:[ \t\r\n]++|//[^\n]*+|/\*(?:[^*]|\*(?!/))*+\*/)*+")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*+')
_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*+)(\.[0-9]++)?+([eE][+-]?[0-9]++)?+")
_WORD = re.compile(r"[A-Za-z0-9_+.-]++")
_LITERALS: dict[str, Scalar] = {"true": True, "false": False, "null": None}
_INTEGERS = range(-(1 << 63), 1 << 64)


class HuJSONError(ValueError):
    """The text is not HuJSON.

    :ivar line: where, counted from 1.
    :ivar column: where in the line, in characters counted from 1.
    :ivar message: what is wrong there.
    """

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(f"line {line}, column {column}: {message}")
        self.line = line
        self.column = column
        self.message = message


@attrs.frozen
class Member:
    """One member of an object.

    :ivar key: as meant, escapes resolved.
    :ivar line: of the key, counted from 1.
    :ivar column: of the key, counted from 1.
    :ivar value: its value.
    """

    key: str
    line: int
    column: int
    value: Node


@attrs.frozen
class Node:
    """A value and where it begins.

    :ivar value: the members of an object, the items of an array, or the scalar itself.
    :ivar line: counted from 1.
    :ivar column: counted from 1.
    """

    value: Members | Items | Scalar
    line: int
    column: int

    @property
    def kind(self) -> str:
        """What the value is, in JSON's words: ``object``, ``array``, ``string`` and so on."""
        match self.value:
            case Members():
                return "object"
            case Items():
                return "array"
            case str():
                return "string"
            case bool():
                return "boolean"
            case None:
                return "null"
            case _:
                return "number"

    def plain(self) -> Any:
        """Return the value as `json.loads` would: of repeated keys the last one counts."""
        match self.value:
            case Members(members):
                return {member.key: member.value.plain() for member in members}
            case Items(items):
                return [item.plain() for item in items]
            case scalar:
                return scalar


@attrs.frozen
class Members:
    """The members of an object in order, repeated keys included."""

    members: tuple[Member, ...]


@attrs.frozen
class Items:
    """The items of an array in order."""

    items: tuple[Node, ...]


def parse(text: str | bytes) -> Node:
    """Read one HuJSON value that makes up the whole text.

    :param text: bytes are taken as UTF-8.
    :raises HuJSONError: if it is anything else, or nested deeper than `MAX_DEPTH`.
    """
    if isinstance(text, str):
        return _Reader(text).document()
    try:
        return _Reader(text.decode()).document()
    except UnicodeDecodeError as error:
        before = text[: error.start].decode()
        return _Reader(before).fail(len(before), "the text is not UTF-8")


class _Reader:
    """Reads one text; methods take an offset and return what they read with the offset behind."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._lines = [0, *(found.end() for found in re.finditer("\n", text))]

    def document(self) -> Node:
        if self._text.startswith("\ufeff"):
            self.fail(0, "the text begins with a byte order mark")
        node, at = self._value(self._skip(0), 0)
        at = self._skip(at)
        if at < len(self._text):
            self.fail(at, f"the value ends before {self._found(at)}")
        return node

    def fail(self, at: int, message: str) -> NoReturn:
        line, column = self._place(min(at, len(self._text)))
        raise HuJSONError(line, column, message)

    def _place(self, at: int) -> tuple[int, int]:
        line = bisect_right(self._lines, at)
        return line, at - self._lines[line - 1] + 1

    def _found(self, at: int) -> str:
        if at >= len(self._text):
            return "the end of the text"
        word = _WORD.match(self._text, at)
        return repr(word.group()[:40] if word else self._text[at])

    def _skip(self, at: int) -> int:
        space = _SPACE.match(self._text, at)
        at = space.end() if space else at
        if self._text.startswith("/*", at):
            self.fail(at, "the comment has no end")
        return at

    def _value(self, at: int, depth: int) -> tuple[Node, int]:
        line, column = self._place(at)
        value: Members | Items | Scalar
        match self._text[at : at + 1]:
            case "{":
                value, at = self._members(at, depth + 1)
            case "[":
                value, at = self._items(at, depth + 1)
            case '"':
                value, at = self._string(at)
            case _:
                value, at = self._word(at)
        return Node(value, line, column), at

    def _members(self, start: int, depth: int) -> tuple[Members, int]:
        self._check_depth(start, depth)
        members = []
        at = self._skip(start + 1)
        while not self._text.startswith("}", at):
            if not self._text.startswith('"', at):
                self.fail(at, f'a key in double quotes or "}}" is wanted, not {self._found(at)}')
            line, column = self._place(at)
            key, at = self._string(at)
            at = self._skip(at)
            if not self._text.startswith(":", at):
                self.fail(at, f'":" is wanted after a key, not {self._found(at)}')
            value, at = self._value(self._skip(at + 1), depth)
            members.append(Member(key, line, column, value))
            at = self._next(at, "}")
        return Members(tuple(members)), at + 1

    def _items(self, start: int, depth: int) -> tuple[Items, int]:
        self._check_depth(start, depth)
        items = []
        at = self._skip(start + 1)
        while not self._text.startswith("]", at):
            item, at = self._value(at, depth)
            items.append(item)
            at = self._next(at, "]")
        return Items(tuple(items)), at + 1

    def _next(self, at: int, end: str) -> int:
        """Go past the comma behind a member or an item, or up to the end of the list."""
        at = self._skip(at)
        if self._text.startswith(",", at):
            return self._skip(at + 1)
        if not self._text.startswith(end, at):
            self.fail(at, f'"," or "{end}" is wanted, not {self._found(at)}')
        return at

    def _check_depth(self, at: int, depth: int) -> None:
        if depth > MAX_DEPTH:
            self.fail(at, f"the value is nested deeper than {MAX_DEPTH}")

    def _string(self, start: int) -> tuple[str, int]:
        text = self._text
        at = start + 1
        while True:
            plain = _PLAIN.match(text, at)
            at = plain.end() if plain else at
            match text[at : at + 1]:
                case '"':
                    break
                case "\\":
                    escape = _ESCAPE.match(text, at)
                    if escape is None:
                        self.fail(at, "the escape is unknown")
                    at = escape.end()
                case "":
                    self.fail(start, "the string has no end")
                case _:
                    self.fail(at, "a string may hold no raw control character")
        value: str = json.loads(text[start : at + 1])
        try:
            value.encode()
        except UnicodeEncodeError:
            self.fail(start, "the string holds half of a surrogate pair")
        return value, at + 1

    def _word(self, at: int) -> tuple[Scalar, int]:
        word = _WORD.match(self._text, at)
        if word is None:
            self.fail(at, f"a value is wanted, not {self._found(at)}")
        shown = word.group()
        if shown in _LITERALS:
            return _LITERALS[shown], word.end()
        number = _NUMBER.fullmatch(shown)
        if number is None:
            self.fail(at, f"a value is wanted, not {self._found(at)}")
        if number[1] is None and number[2] is None:
            # Twenty digits hold every 64-bit number, and int() is slow on many more.
            if len(shown) > 21 or int(shown) not in _INTEGERS:
                self.fail(at, "the number does not fit into 64 bits")
            return int(shown), word.end()
        value = float(shown)
        if math.isinf(value):
            self.fail(at, "the number is too large")
        return value, word.end()

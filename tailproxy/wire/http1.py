"""Rules of HTTP/1.1 for a proxy: where bodies end, how heads are written, and what goes no further.

Headers are kept as raw pairs in the order they came, for repetition and order carry meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import attrs

Header: TypeAlias = tuple[bytes, bytes]
Headers: TypeAlias = Sequence[Header]

TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
# What can stand neither in a name nor in a value (RFC 9110, 5.5).
CONTROL = bytes([*range(0x09), *range(0x0A, 0x20), 0x7F])

_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"proxy-connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
# What a client says about where it comes from goes no further either.
NOT_UPSTREAM = _HOP_BY_HOP | {b"forwarded"}
# A sender may not call these hop-by-hop (RFC 9110, 7.6.1): without its length, the body of a
# request would be read as the next request.
NEVER_NAMED = frozenset((b"content-length", b"host"))


class BadRequest(ValueError):  # noqa: N818 - the name of the status it stands for
    """A request that must be refused before anything of it is used.

    :ivar code: the HTTP status to answer with; the connection is closed after it.
    :ivar message: for people.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@attrs.frozen
class Framing:
    """Where the body of a request ends.

    :ivar length: in bytes; 0 without a body; ``None`` when `chunked`.
    :ivar chunked: whether the body comes in chunks.
    """

    length: int | None
    chunked: bool


# Codes of answers that never have a body (RFC 9110, 15).
_NO_BODY_CODES = frozenset((204, 304))
NO_BODY = Framing(length=0, chunked=False)
CHUNKED = Framing(length=None, chunked=True)


def has_body(method: bytes, code: int) -> bool:
    """Tell whether a final answer has a body, whatever its headers say (RFC 9112, 6.3).

    :param method: of the request.
    :param code: status code of the answer.
    """
    return method != b"HEAD" and code not in _NO_BODY_CODES


def field_lines(headers: Headers) -> bytes:
    """Write header or trailer lines, each with its line end."""
    return b"\r\n".join([*map(b": ".join, headers), b""])


def chunk(data: bytes) -> bytes:
    """Write one chunk of a body (RFC 9112, 7.1).

    :param data: not empty: an empty chunk would be the end of the body.
    """
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: Headers) -> bytes:
    """Write the end of a body in chunks."""
    return b"0\r\n" + field_lines(trailers) + b"\r\n"


def response_end_to_end(headers: Headers) -> list[Header]:
    """Return the headers of an answer that go to the client (streaming.md 1.3).

    Not for a 101, whose ``Connection`` and ``Upgrade`` are the point of it.
    """
    return _end_to_end(headers, [name.lower() for name, _ in headers])


def response_block(headers: Headers) -> tuple[bytes, bool]:
    """Write the same headers.

    :returns: the lines, each with its line end; and whether there is a ``Content-Length``.
    """
    keys = [name.lower() for name, _ in headers]
    return field_lines(_end_to_end(headers, keys)), b"content-length" in keys


def _end_to_end(headers: Headers, keys: list[bytes]) -> list[Header]:
    if _HOP_BY_HOP.isdisjoint(keys):
        return list(headers)
    named: set[bytes] = set()
    for key, (_, value) in zip(keys, headers, strict=True):
        if key == b"connection":
            named |= tokens(value)
    ending = _HOP_BY_HOP | (named - NEVER_NAMED)
    return [pair for key, pair in zip(keys, headers, strict=True) if key not in ending]


def tokens(value: bytes) -> set[bytes]:
    """Take a list of words apart, in lower case (RFC 9110, 5.6.1)."""
    return {token.strip() for token in value.lower().split(b",")}


def wants_html(accept: str) -> bool:
    """Tell whether a client asks for HTML by name, as browsers do, without refusing it (RFC 9110,
    12.5.1).

    :param accept: value of its ``Accept`` header.
    """
    for each in accept.lower().split(","):
        media, *parameters = (part.strip() for part in each.split(";"))
        if media == "text/html":
            return not any(_is_zero(parameter) for parameter in parameters)
    return False


def _is_zero(parameter: str) -> bool:
    name, _, value = parameter.partition("=")
    return name.strip() == "q" and not value.strip().strip("0.")

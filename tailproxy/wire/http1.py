"""Rules of HTTP/1.1 for a proxy: what a request may look like, and which headers go further.

The rules stand alone: they hold whatever the parser in front of them already refuses, because
two readers that disagree about where a request ends are how requests are smuggled (RFC 9112, 11).
Headers are kept as raw pairs in the order they came, for repetition and order carry meaning.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

import attrs

Header: TypeAlias = tuple[bytes, bytes]
Headers: TypeAlias = Sequence[Header]

MAX_HEADER_BYTES = 1 << 20  # as the Go servers on either side of us (dataplane.md 1.11)
MAX_HEADER_LINES = 1000

TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
# What can stand neither in a name nor in a value (RFC 9110, 5.5).
CONTROL = bytes([*range(0x09), *range(0x0A, 0x20), 0x7F])
_PRINTABLE = bytes(range(0x20, 0x7F))
_TARGET = bytes(range(0x21, 0x7F)).replace(b"#", b"")
_VALUE = b"\t" + _PRINTABLE + bytes(range(0x80, 0x100))
_HOST = re.compile(rb"(?:[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_LENGTH = re.compile(rb"[0-9]{1,18}")  # below 2**63, the largest length anybody keeps

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
_NEVER_NAMED = frozenset((b"content-length", b"host"))
_CHECKED = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade")
)
# Protocols that carry more requests, which would pass unseen behind the switch.
_NEVER_SWITCHED = (b"h2c", b"http/", b"tls/")


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
    return b"".join([b"%b: %b\r\n" % field for field in headers])


def chunk(data: bytes) -> bytes:
    """Write one chunk of a body (RFC 9112, 7.1).

    :param data: not empty: an empty chunk would be the end of the body.
    """
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: Headers) -> bytes:
    """Write the end of a body in chunks."""
    return b"0\r\n" + field_lines(trailers) + b"\r\n"


def check_request(method: bytes, target: bytes, version: str, headers: Headers) -> Framing:
    """Refuse every request that two readers could read in two ways (RFC 9112, 2 to 7).

    :param method: as sent.
    :param target: the request target as sent; only the origin form (``/path?query``) passes.
    :param version: ``1.0`` or ``1.1``.
    :param headers: as sent, values without the white space around them.
    :raises BadRequest: with the status to answer: 400, 405, 417, 431 or 505.
    """
    if version not in {"1.1", "1.0"}:
        raise BadRequest(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
    if not method or method.translate(None, TOKEN):
        raise BadRequest(400, "the method is not a word")
    _check_target(method, target)
    if len(headers) > MAX_HEADER_LINES:
        raise BadRequest(431, f"there are more than {MAX_HEADER_LINES} header lines")
    names = []
    checked: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        key = name.lower()
        names.append(key)
        if key in _CHECKED:
            checked.setdefault(key, []).append(value)
    joined_names = b"".join(names)
    joined_values = b"".join([value for _, value in headers])
    if len(joined_names) + len(joined_values) > MAX_HEADER_BYTES:
        raise BadRequest(431, f"the headers are larger than {MAX_HEADER_BYTES} bytes")
    if b"" in names or joined_names.translate(None, TOKEN):
        raise BadRequest(400, "the name of a header is not a word")
    if joined_values.translate(None, _VALUE):
        raise BadRequest(400, "the value of a header holds a control character")
    _check_host(version, checked.get(b"host", []))
    if b"expect" in checked:
        _check_expect(checked[b"expect"])
    framing = _framing(version, checked)
    if b"upgrade" in checked:
        _check_upgrade(checked[b"upgrade"], headers, framing)
    return framing


def connection_tokens(headers: Headers) -> set[bytes]:
    """Return what the ``Connection`` lines name, in lower case (RFC 9110, 7.6.1)."""
    return {
        token for name, value in headers if name.lower() == b"connection" for token in tokens(value)
    }


def upgrade_of(headers: Headers) -> bytes | None:
    """Return the protocol a request or an answer wants to switch to, as sent.

    It wants to if ``Connection`` has the token ``upgrade`` and there is an ``Upgrade`` line
    (streaming.md 1.1). Switching to another HTTP is never wanted here, so that no request can
    pass behind a switch.
    """
    value = next((value for name, value in headers if name.lower() == b"upgrade"), b"")
    if not value or b"upgrade" not in connection_tokens(headers):
        return None
    if any(each.strip().startswith(_NEVER_SWITCHED) for each in value.lower().split(b",")):
        return None
    return value


def may_upgrade(headers: Headers) -> bool:
    """Tell whether the API server could take a request for an upgrade (streaming.md 1.1).

    This is its own loose reading, for decisions; `upgrade_of` is what goes upstream.
    """
    return any(
        name.lower() == b"connection" and b"upgrade" in value.lower() for name, value in headers
    )


def end_to_end(headers: Headers, upgrade: bytes | None) -> list[Header]:
    """Return the headers of a request that go upstream (streaming.md 1.2, steps 2 to 6).

    Hop-by-hop headers go, and so does what the client says about where it comes from. Order and
    repetition of the rest stay. ``Content-Length`` stays; whoever sends a chunked body puts
    ``Transfer-Encoding`` there himself.

    :param upgrade: what `upgrade_of` said about these headers; put back last.
    """
    forwarded, trailers = _kept(headers, NOT_UPSTREAM, (b"x-forwarded-",))
    if trailers:
        forwarded.append((b"TE", b"trailers"))
    if upgrade is not None:
        forwarded += ((b"Connection", b"Upgrade"), (b"Upgrade", upgrade))
    return forwarded


def response_end_to_end(headers: Headers) -> list[Header]:
    """Return the headers of an answer that go to the client (streaming.md 1.3).

    Not for a 101, whose ``Connection`` and ``Upgrade`` are the point of it.
    """
    return _kept(headers, _HOP_BY_HOP, ())[0]


def response_block(headers: Headers) -> tuple[bytes, bool]:
    """Write the headers of an answer that go to the client, hop-by-hop ones left out.

    Not for a 101, as above.

    :returns: the lines, each with its line end; and whether there is a ``Content-Length``.
    """
    keys = [name.lower() for name, _ in headers]
    if _HOP_BY_HOP.isdisjoint(keys):
        return field_lines(headers), b"content-length" in keys
    named: set[bytes] = set()
    for key, (_, value) in zip(keys, headers, strict=True):
        if key == b"connection":
            named |= tokens(value)
    ending = _HOP_BY_HOP | (named - _NEVER_NAMED)
    kept = [pair for key, pair in zip(keys, headers, strict=True) if key not in ending]
    return field_lines(kept), b"content-length" in keys


def _kept(
    headers: Headers, ending: frozenset[bytes], prefixes: tuple[bytes, ...]
) -> tuple[list[Header], bool]:
    """Return the headers that do not end here, and whether ``TE`` allows trailers.

    :param ending: names that end here whatever ``Connection`` says.
    :param prefixes: of further such names.
    """
    kept = []
    named: set[bytes] = set()
    trailers = False
    for pair in headers:
        key = pair[0].lower()
        if key not in ending:
            if not key.startswith(prefixes):
                kept.append(pair)
        elif key == b"connection":
            named |= tokens(pair[1])
        elif key == b"te":
            trailers |= b"trailers" in tokens(pair[1])
    if named:
        named -= _NEVER_NAMED
        kept = [pair for pair in kept if pair[0].lower() not in named]
    return kept, trailers


def tokens(value: bytes) -> set[bytes]:
    """Take a list of words apart, in lower case (RFC 9110, 5.6.1)."""
    return {token.strip() for token in value.lower().split(b",")}


def _check_target(method: bytes, target: bytes) -> None:
    if method == b"CONNECT":
        raise BadRequest(400, "this is no tunnel: CONNECT is not served")
    if method == b"TRACE":
        # The answer would repeat the request as sent upstream, credentials included.
        raise BadRequest(405, "TRACE is not served")
    if not target.startswith(b"/"):
        raise BadRequest(400, "the request target must be a path that begins with a slash")
    if target.translate(None, _TARGET):
        raise BadRequest(400, "the request target holds a character that must be encoded")


def _check_host(version: str, hosts: list[bytes]) -> None:
    if len(hosts) != 1:
        if not hosts and version == "1.0":
            return
        raise BadRequest(400, f"there must be one Host header, not {len(hosts)}")
    if not _HOST.fullmatch(hosts[0]):
        raise BadRequest(400, "the Host header is no host name or address")


def _check_expect(values: list[bytes]) -> None:
    if len(values) > 1 or values[0].lower() != b"100-continue":
        raise BadRequest(417, "only 100-continue can be expected")


def _check_upgrade(values: list[bytes], headers: Headers, framing: Framing) -> None:
    if len(values) > 1:
        raise BadRequest(400, "there must be one Upgrade header at most")
    if values[0].translate(None, _PRINTABLE):
        raise BadRequest(400, "the Upgrade header holds a character that is not printable ASCII")
    if framing != NO_BODY and upgrade_of(headers) is not None:
        # llhttp reads no body behind such a head, so where it ends would be a matter of opinion.
        raise BadRequest(400, "a request for an upgrade cannot have a body")


def _framing(version: str, checked: dict[bytes, list[bytes]]) -> Framing:
    lengths = checked.get(b"content-length")
    codings = checked.get(b"transfer-encoding")
    if codings is not None:
        if lengths is not None:
            raise BadRequest(400, "there are both Content-Length and Transfer-Encoding")
        if version == "1.0":
            raise BadRequest(400, "HTTP/1.0 has no Transfer-Encoding")
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            raise BadRequest(400, "the only Transfer-Encoding served is a single chunked")
        return CHUNKED
    if lengths is None:
        return NO_BODY
    if len(lengths) > 1:
        raise BadRequest(400, "there is more than one Content-Length")
    if not _LENGTH.fullmatch(lengths[0]):
        raise BadRequest(400, "the Content-Length is not a number")
    return Framing(length=int(lengths[0]), chunked=False) if int(lengths[0]) else NO_BODY

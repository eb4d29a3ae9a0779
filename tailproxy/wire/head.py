"""The head of a request, read once: judged, and sorted for all the steps behind it.

The rules stand alone: they hold whatever the parser in front of them already refuses, because
two readers that disagree about where a request ends are how requests are smuggled (RFC 9112, 11).

The names of its headers are brought into lower case here and nowhere else. What later steps ask
about them is answered by a set, a search or a flag, so that a request costs one pass over its
headers.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any

import attrs

from tailproxy.wire.http1 import (
    CHUNKED,
    NEVER_NAMED,
    NO_BODY,
    TOKEN,
    BadRequest,
    Framing,
    Headers,
    tokens,
)
from tailproxy.wire.requestinfo import RequestInfo, request_info

MAX_HEADER_BYTES = 1 << 20  # as the Go servers on either side of us (dataplane.md 1.11)
MAX_HEADER_LINES = 1000

_KEPT_BYTES = 4096  # of the last request of a connection

_PRINTABLE = bytes(range(0x20, 0x7F))
_TARGET = bytes(range(0x21, 0x7F)).replace(b"#", b"")
_VALUE = b"\t" + _PRINTABLE + bytes(range(0x80, 0x100))
_HOST = re.compile(rb"(?:[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_LENGTH = re.compile(rb"[0-9]{1,18}")  # below 2**63, the largest length anybody keeps
_METHODS = frozenset((b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"HEAD", b"OPTIONS"))
_LOOKED_AT = frozenset(
    (
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"connection",
        b"expect",
        b"te",
        b"upgrade",
        b"origin",
        b"sec-fetch-site",
    )
)
_NOTHING: frozenset[bytes] = frozenset()
_SAFE = frozenset((b"GET", b"HEAD"))
# Pages of the same host and port, and what a person has typed.
_SAME_SITES = frozenset((b"same-origin", b"none"))
# Protocols that carry more requests, which would pass unseen behind the switch.
_NEVER_SWITCHED = (b"h2c", b"http/", b"tls/")


@attrs.frozen(eq=False)
class Fields:
    """The headers of a request, sorted.

    :ivar headers: in order, as sent.
    :ivar keys: their names in lower case, in the same order.
    :ivar names: the same in one piece, a line feed before each; see `has_prefix`.
    :ivar framing: where the body ends.
    :ivar upgrade: the protocol that is wanted, as sent; ``None`` if none is.
    :ivar may_upgrade: whether the API server could take this for an upgrade (streaming.md 1.1):
        its own loose reading, for decisions; `upgrade` is what goes upstream.
    :ivar named: what ``Connection`` names, in lower case, but for what it cannot name.
    :ivar trailers: whether ``TE`` allows trailers in the answer.
    :ivar cross_site: whether a browser sends this for a page of another site.
    :ivar made: what later steps have made of these fields, each under a key of its own: the next
        request may have the same (see `LastHead`).
    """

    headers: Headers = attrs.field(repr=False)  # they may hold tokens
    keys: list[bytes] = attrs.field(repr=False)
    names: bytes = attrs.field(repr=False)
    framing: Framing
    upgrade: bytes | None
    may_upgrade: bool
    named: frozenset[bytes]
    trailers: bool
    cross_site: bool = False
    made: dict[str, Any] = attrs.field(factory=dict, init=False, repr=False)

    def has_prefix(self, prefix: bytes) -> bool:
        """Tell whether the name of a header begins so.

        :param prefix: in lower case.
        """
        return b"\n" + prefix in self.names

    def first(self, key: bytes) -> bytes:
        """Return the first value of a header, empty without one.

        :param key: its name in lower case.
        """
        if key not in self.keys:
            return b""
        return self.headers[self.keys.index(key)][1]

    @cached_property
    def user_agent(self) -> str:
        """What the client calls itself; for logs."""
        return self.first(b"user-agent").decode("utf-8", "replace")


@attrs.frozen
class RequestHead:
    """A request as sent, without its body.

    :ivar method: as sent.
    :ivar target: path and query as sent.
    :ivar version: of HTTP: ``1.0`` or ``1.1``.
    :ivar fields: its headers.
    :ivar info: the request in the API server's words.
    """

    method: bytes
    target: bytes
    version: str
    fields: Fields
    info: RequestInfo

    @property
    def path(self) -> bytes:
        """The target without its query."""
        return self.target.partition(b"?")[0]

    @property
    def cross_site(self) -> bool:
        """Whether a page of another site has the browser send this, unless it is a link that a
        person follows.
        """
        fields = self.fields
        return fields.cross_site and not (
            self.method in _SAFE
            and fields.first(b"sec-fetch-mode") == b"navigate"
            and fields.first(b"sec-fetch-dest") == b"document"
        )

    @property
    def headers(self) -> Headers:
        """See `Fields.headers`."""
        return self.fields.headers

    @property
    def framing(self) -> Framing:
        """See `Fields.framing`."""
        return self.fields.framing

    @property
    def upgrade(self) -> bytes | None:
        """See `Fields.upgrade`."""
        return self.fields.upgrade

    def first(self, key: bytes) -> bytes:
        """See `Fields.first`."""
        return self.fields.first(key)


class LastHead:
    """The last request of a connection, to know the next one by.

    Clients send the same headers again and again, only the target is another. A head that is, but
    for its first line, byte for byte the last one has been judged and sorted already.
    """

    __slots__ = ("_block", "_fields")

    def __init__(self) -> None:
        self._block = b""
        self._fields: Fields | None = None

    def keep(self, data: bytes, head: RequestHead) -> None:
        """Take note of a request that may be followed by others on its connection.

        :param data: exactly the bytes of the request, none before it and none behind.
        :param head: what they were read as.
        """
        line = b"%b %b HTTP/1.1\r\n" % (head.method, head.target)
        if (
            head.fields.framing is NO_BODY
            and head.fields.upgrade is None
            and len(data) <= _KEPT_BYTES
            and data.startswith(line)
            and data.find(b"\r\n\r\n") == len(data) - 4
        ):
            self._block = data[len(line) :]
            self._fields = head.fields

    def read(self, data: bytes) -> RequestHead | None:
        """Return the head of a request if it is known by the last one.

        :param data: what has come since the last request.
        :returns: ``None`` if it has other headers, or is anything but one whole request without a
            body that passes `read_head`: then it has yet to be parsed.
        """
        fields = self._fields
        if fields is None or not data.endswith(self._block):
            return None
        line = data[: -len(self._block)]
        if not line.endswith(b" HTTP/1.1\r\n"):
            return None
        method, _, target = line[:-11].partition(b" ")
        # There is neither a blank nor the end of a line in a target that passes.
        if method not in _METHODS or not target.startswith(b"/") or target.translate(None, _TARGET):
            return None
        return RequestHead(method, target, "1.1", fields, request_info(method, target))


def read_head(method: bytes, target: bytes, version: str, headers: Headers) -> RequestHead:
    """Refuse every request that two readers could read in two ways (RFC 9112, 2 to 7).

    :param method: as sent.
    :param target: the request target as sent; only the origin form (``/path?query``) passes.
    :param version: ``1.0`` or ``1.1``.
    :param headers: as sent, values without the white space around them.
    :raises BadRequest: with the status to answer: 400, 405, 417, 431 or 505.
    """
    if version not in {"1.1", "1.0"}:
        raise BadRequest(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
    if method not in _METHODS:
        _check_method(method)
    _check_target(target)
    fields = _read_fields(version, headers)
    return RequestHead(method, target, version, fields, request_info(method, target))


def unread_head(method: bytes, target: bytes) -> RequestHead:
    """Make the head of a request that is refused before its headers are looked at.

    :param method: as sent, as far as it came.
    :param target: the same, without control characters.
    """
    fields = Fields((), [], b"", NO_BODY, None, False, _NOTHING, False)
    return RequestHead(method, target, "1.1", fields, request_info(method, target))


def _read_fields(version: str, headers: Headers) -> Fields:
    if len(headers) > MAX_HEADER_LINES:
        raise BadRequest(431, f"there are more than {MAX_HEADER_LINES} header lines")
    keys = [name.lower() for name, _ in headers]
    names = b"\n".join([b"", *keys])
    values = b"".join([value for _, value in headers])
    if len(names) - len(keys) + len(values) > MAX_HEADER_BYTES:
        raise BadRequest(431, f"the headers are larger than {MAX_HEADER_BYTES} bytes")
    # Line feeds are all that may be left, and those in front of the names alone.
    if len(names.translate(None, TOKEN)) != len(keys) or b"" in keys:
        raise BadRequest(400, "the name of a header is not a word")
    if values.translate(None, _VALUE):
        raise BadRequest(400, "the value of a header holds a control character")
    found = {key: _values(key, keys, headers) for key in _LOOKED_AT.intersection(keys)}
    _check_host(version, found.get(b"host", []))
    if b"expect" in found:
        _check_expect(found[b"expect"])
    framing = _framing(version, found)
    upgrade = None
    may_upgrade = False
    named = _NOTHING
    if b"connection" in found:
        joined = b",".join(found[b"connection"]).lower()
        may_upgrade = b"upgrade" in joined
        named = frozenset(tokens(joined))
    if b"upgrade" in found:
        upgrade = _upgrade(found[b"upgrade"], named, framing)
    return Fields(
        headers,
        keys,
        names,
        framing,
        upgrade,
        may_upgrade,
        named - NEVER_NAMED if named else named,
        b"te" in found and b"trailers" in tokens(b",".join(found[b"te"]).lower()),
        (b"sec-fetch-site" in found or b"origin" in found) and _is_cross_site(found, keys, headers),
    )


def _is_cross_site(found: dict[bytes, list[bytes]], keys: list[bytes], headers: Headers) -> bool:
    """Whether a browser sends this for a page of another site (W3C Fetch Metadata).

    Browsers say so themselves, and no page can have them say otherwise. Those that say nothing, as
    all do over plain HTTP, are told by ``Origin`` (RFC 6454, 7); a program's counts for nothing.
    """
    if b"sec-fetch-site" in found:
        return not _SAME_SITES.issuperset(found[b"sec-fetch-site"])
    if not any(each.startswith(b"Mozilla/") for each in _values(b"user-agent", keys, headers)):
        return False
    hosts = {host.lower() for host in found.get(b"host", ())}
    return {origin.rpartition(b"//")[2].lower() for origin in found[b"origin"]} != hosts


def _values(key: bytes, keys: list[bytes], headers: Headers) -> list[bytes]:
    if keys.count(key) == 1:
        return [headers[keys.index(key)][1]]
    return [value for each, (_, value) in zip(keys, headers, strict=True) if each == key]


def _check_method(method: bytes) -> None:
    if not method or method.translate(None, TOKEN):
        raise BadRequest(400, "the method is not a word")
    if method == b"CONNECT":
        raise BadRequest(400, "this is no tunnel: CONNECT is not served")
    if method == b"TRACE":
        # The answer would repeat the request as sent upstream, credentials included.
        raise BadRequest(405, "TRACE is not served")


def _check_target(target: bytes) -> None:
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


def _upgrade(values: list[bytes], named: frozenset[bytes], framing: Framing) -> bytes | None:
    """Return the protocol that is wanted.

    One is wanted if ``Connection`` has the token ``upgrade`` and there is an ``Upgrade`` line
    (streaming.md 1.1). Switching to another HTTP is never wanted here, so that no request can
    pass behind a switch.
    """
    if len(values) > 1:
        raise BadRequest(400, "there must be one Upgrade header at most")
    value = values[0]
    if value.translate(None, _PRINTABLE):
        raise BadRequest(400, "the Upgrade header holds a character that is not printable ASCII")
    if not value or b"upgrade" not in named:
        return None
    if any(each.strip().startswith(_NEVER_SWITCHED) for each in value.lower().split(b",")):
        return None
    if framing != NO_BODY:
        # llhttp reads no body behind such a head, so where it ends would be a matter of opinion.
        raise BadRequest(400, "a request for an upgrade cannot have a body")
    return value


def _framing(version: str, found: dict[bytes, list[bytes]]) -> Framing:
    lengths = found.get(b"content-length")
    codings = found.get(b"transfer-encoding")
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

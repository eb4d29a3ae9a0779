"""What the fast steps must equal: the rules of heads one after another, as they read best.

Each function goes through all headers by itself and knows nothing of the others' findings.
"""

from __future__ import annotations

from tailproxy.wire.head import (
    _HOST,
    _LENGTH,
    _NEVER_SWITCHED,
    _PRINTABLE,
    _TARGET,
    _VALUE,
    MAX_HEADER_BYTES,
    MAX_HEADER_LINES,
)
from tailproxy.wire.http1 import (
    _HOP_BY_HOP,
    CHUNKED,
    NEVER_NAMED,
    NO_BODY,
    NOT_UPSTREAM,
    TOKEN,
    BadRequest,
    Framing,
    Header,
    Headers,
    tokens,
)

_CHECKED = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade")
)


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
    """Return the headers of an answer that go to the client (streaming.md 1.3)."""
    return _kept(headers, _HOP_BY_HOP, ())[0]


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
        named -= NEVER_NAMED
        kept = [pair for pair in kept if pair[0].lower() not in named]
    return kept, trailers


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

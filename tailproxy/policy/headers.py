"""Headers that leave for the API server: the client's minus its credentials, plus ours.

`outgoing_block` builds the set, and `proven_block` proves it once more while it makes bytes of it.
The second one does not trust the first: between them stands the rule that nobody acts as anybody
else.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from tailproxy.policy.identity import Identity, Unsendable
from tailproxy.wire.http1 import CONTROL, NOT_UPSTREAM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailproxy.wire.head import Fields, RequestHead

# Names that authenticate, or tell the API server who somebody is or where from (dataplane.md 1.4).
_CREDENTIALS = frozenset((b"authorization", b"proxy-authorization", b"x-real-ip"))
_IDENTITY_PREFIXES = (b"impersonate-", b"x-remote-")
# A bearer token in the clothes of a WebSocket subprotocol. Looked for anywhere in an element:
# the API server trims more kinds of white space than header syntax knows.
_TOKEN_PROTOCOL = b"base64url.bearer.authorization.k8s.io"
# Names of which nothing of the client's goes further, without and with an identity of ours; each
# with an expression that finds further such names by their beginnings.
_COMPRESSION = frozenset((b"sec-websocket-extensions",))
_ENDING_PREFIXES = (b"x-forwarded-",)
_ENDING_PREFIXES_IN_AUTH = (*_ENDING_PREFIXES, *_IDENTITY_PREFIXES)
_ENDING = NOT_UPSTREAM | {b"host", b"audit-id"}, re.compile(rb"\nx-forwarded-")
_ENDING_IN_AUTH = (
    _ENDING[0] | _CREDENTIALS,
    re.compile(rb"\n(?:x-forwarded-|impersonate-|x-remote-|sec-websocket-protocol)"),
)
# What must not stand among the lines before ours: in lower case, a line feed before each.
_NOT_OURS = re.compile(
    rb"\n(?:impersonate-|x-remote-|(?:authorization|proxy-authorization|x-real-ip)[\t ]*:"
    rb"|sec-websocket-protocol:[^\n]*base64url\.bearer\.authorization\.k8s\.io)"
)


def impersonation_of(head: RequestHead) -> tuple[str, ...]:
    """Return the names of the client's own ``Impersonate-*`` headers, as sent."""
    fields = head.fields
    if not fields.has_prefix(b"impersonate-"):
        return ()
    return tuple(
        name.decode("latin-1")
        for key, (name, _) in zip(fields.keys, fields.headers, strict=True)
        if key.startswith(b"impersonate-")
    )


def outgoing_block(
    head: RequestHead,
    *,
    identity: Identity | None,
    host: bytes,
    client: bytes,
    bearer: bytes | None,
    request_id: bytes,
    readable: bool = False,
) -> bytes:
    """Write the headers of the upstream request (dataplane.md 1.4), and prove them.

    Hop-by-hop headers go first, the client's credentials and identity next, ours come last: in
    another order a client could have ours removed.

    :param head: the request's.
    :param identity: to impersonate in ``auth`` mode; ``None`` in ``noauth`` mode, where the
        client's credentials are its own business and stay.
    :param host: the upstream's, for ``Host``.
    :param client: the caller's tailnet address as text, for the API server's audit log.
    :param bearer: our own token in ``auth`` mode; ``None`` without one.
    :param request_id: for the API server's audit log, of letters and digits. One of the client's
        own goes: it could be that of another request.
    :param readable: whether a session is to be recorded: the client's offer to compress it goes
        (streaming.md 3.5).
    :returns: all header lines and the empty one behind them.
    :raises Unsendable: if a name to impersonate or the token cannot stand in a header, or the
        set does not pass `proven_block`.
    """
    fields = head.fields
    last = fields.made.get("outgoing_block")
    inputs = (host, client, bearer, readable)
    if last is not None and last[0] is identity and last[1] == inputs:
        return _with_id(last[2], request_id)
    lines = [b"Host: " + host]
    lines += _kept(fields, in_auth=identity is not None, readable=readable)
    if fields.trailers:
        lines.append(b"TE: trailers")
    if fields.upgrade is not None:
        lines += (b"Connection: Upgrade", b"Upgrade: " + fields.upgrade)
    if fields.framing.chunked:
        lines.append(b"Transfer-Encoding: chunked")
    lines.append(b"X-Forwarded-For: " + client)
    ours = b"" if identity is None else identity.impersonation_lines
    if identity is not None and bearer is not None:
        ours += b"Authorization: Bearer %b\r\n" % bearer
    block = proven_block(lines, ours, identity, bearer)
    # The next request of the same client may have the same headers.
    fields.made["outgoing_block"] = identity, inputs, block
    return _with_id(block, request_id)


def _with_id(block: bytes, request_id: bytes) -> bytes:
    """End a block with the line that is another one for each request."""
    if not request_id.isalnum():
        raise Unsendable("the request's own ID is none")
    return b"%bAudit-ID: %b\r\n\r\n" % (block, request_id)


def _kept(fields: Fields, *, in_auth: bool, readable: bool) -> list[bytes]:
    """Return the lines of a client's headers that go further, without their ends."""
    ending, beginnings = _ENDING_IN_AUTH if in_auth else _ENDING
    if fields.named:
        ending |= fields.named
    if readable:
        ending |= _COMPRESSION
    keyed = zip(fields.keys, fields.headers, strict=True)
    if not beginnings.search(fields.names):
        return [b": ".join(field) for key, field in keyed if key not in ending]
    prefixes = _ENDING_PREFIXES_IN_AUTH if in_auth else _ENDING_PREFIXES
    lines = []
    for key, field in keyed:
        if key in ending or key.startswith(prefixes):
            continue
        if in_auth and _carries_token(key, field[1]):
            protocols = _without_tokens(field[1])
            if protocols:
                lines.append(b": ".join((field[0], protocols)))
        else:
            lines.append(b": ".join(field))
    return lines


def proven_block(
    lines: Sequence[bytes], ours: bytes, identity: Identity | None, bearer: bytes | None
) -> bytes:
    """Put header lines together, if they make the API server act as the identity and nobody else.

    It does not trust whoever made them: there is no other way from lines to what is sent.

    :param lines: all but those that carry our identity and credential, without their ends.
    :param ours: those, with their ends; they come last.
    :param identity: the caller's in ``auth`` mode, ``None`` in ``noauth`` mode.
    :param bearer: our own token in ``auth`` mode; ``None`` without one.
    :returns: all lines, with their ends.
    :raises Unsendable: if they do not; nothing may be sent then.
    """
    text = b"\n".join((b"", *lines))
    # Line feeds are all that may be left, those that have just been put in.
    if len(text) - len(text.translate(None, CONTROL)) != len(lines) or b"" in lines:
        raise Unsendable("a header to be sent holds a control character")
    if identity is None:
        if ours or bearer is not None:
            raise Unsendable("our own token must not be sent for a client with its own")
    else:
        if ours != identity.expected_lines + _credential(bearer):
            raise Unsendable("the identity or the credential to be sent is not the right one")
        if _NOT_OURS.search(text.lower()):
            raise Unsendable("there is another identity or credential among what is to be sent")
    return b"%b\r\n%b" % (b"\r\n".join(lines), ours)


@lru_cache(maxsize=4)
def _credential(bearer: bytes | None) -> bytes:
    """Return the line of our own token; it changes once an hour at most."""
    if bearer is None:
        return b""
    if not bearer.strip():
        raise Unsendable("our own token is empty")
    if bearer.translate(None, CONTROL) != bearer:
        raise Unsendable("our own token holds a control character")
    return b"Authorization: Bearer %b\r\n" % bearer


def _carries_token(key: bytes, value: bytes) -> bool:
    return key == b"sec-websocket-protocol" and _TOKEN_PROTOCOL in value.lower()


def _without_tokens(protocols: bytes) -> bytes:
    kept = [each for each in protocols.split(b",") if _TOKEN_PROTOCOL not in each.lower()]
    return b",".join(kept).strip()

"""What the fast steps must equal: the headers that leave, one after another."""

from __future__ import annotations

from tailproxy.policy.headers import (
    _CREDENTIALS,
    _IDENTITY_PREFIXES,
    _carries_token,
    _without_tokens,
)
from tailproxy.policy.identity import Identity, Unsendable
from tailproxy.wire.addresses import IPAddress, unmapped
from tailproxy.wire.http1 import CONTROL, Header, Headers
from tests.wire.reference import end_to_end


def outgoing(
    headers: Headers,
    *,
    identity: Identity | None,
    upgrade: bytes | None,
    host: bytes,
    client: IPAddress,
    bearer: bytes | None,
) -> list[Header]:
    """Build the headers of the upstream request (dataplane.md 1.4).

    Hop-by-hop headers go first, the client's credentials and identity next, ours come last: in
    another order a client could have ours removed.

    :param headers: the request's, as sent, and passed by `http1.check_request`.
    :param identity: to impersonate in ``auth`` mode; ``None`` in ``noauth`` mode, where the
        client's credentials are its own business and stay.
    :param upgrade: what `http1.upgrade_of` says about the headers.
    :param host: the upstream's, for ``Host``.
    :param client: the caller's tailnet address, for the API server's audit log.
    :param bearer: our own token in ``auth`` mode; ``None`` without one.
    :raises Unsendable: if a name to impersonate or the token cannot stand in a header.
    """
    sent = [(b"Host", host)]
    for pair in end_to_end(headers, upgrade):
        key = pair[0].lower()
        if key in {b"host", b"audit-id"}:
            continue
        if identity is not None:
            if key in _CREDENTIALS or key.startswith(_IDENTITY_PREFIXES):
                continue
            if _carries_token(key, pair[1]):
                protocols = _without_tokens(pair[1])
                if protocols:
                    sent.append((pair[0], protocols))
                continue
        sent.append(pair)
    sent.append((b"X-Forwarded-For", str(unmapped(client)).encode()))
    if identity is not None:
        sent += identity.impersonation
        if bearer is not None:
            sent.append((b"Authorization", b"Bearer " + bearer))
    return sent


def check_outgoing(headers: Headers, identity: Identity | None, bearer: bytes | None) -> None:
    """Prove that a set of headers makes the API server act as the identity and as nobody else.

    :param headers: complete, as they will be written.
    :param identity: the caller's in ``auth`` mode, ``None`` in ``noauth`` mode.
    :param bearer: our own token in ``auth`` mode; ``None`` without one.
    :raises Unsendable: if they do not; nothing may be sent then.
    """
    flat = [part for pair in headers for part in pair]
    if b"".join(flat).translate(None, CONTROL) != b"".join(flat):
        raise Unsendable("a header to be sent holds a control character")
    if identity is None:
        if bearer is not None:
            raise Unsendable("our own token must not be sent for a client with its own")
        return
    ours = []
    tokens = []
    for name, value in headers:
        key = name.lower()
        if key.startswith(_IDENTITY_PREFIXES):
            ours.append((key, value))
        elif key in _CREDENTIALS or _carries_token(key, value):
            tokens.append((key, value))
    users = [(b"impersonate-user", identity.user.encode())]
    groups = [(b"impersonate-group", group.encode()) for group in identity.groups]
    if not identity.user or ours != groups + users:
        raise Unsendable("the identity to be sent is not the caller's")
    if tokens != ([] if bearer is None else [(b"authorization", b"Bearer " + bearer)]):
        raise Unsendable("the credentials to be sent are not ours alone")
    if bearer is not None and not bearer.strip():
        raise Unsendable("our own token is empty")

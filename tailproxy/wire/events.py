"""Request events: what a recorder is told about a request of a caller whose grants say so.

The object is the one that recorders know (streaming.md 8.2), with two keys of ours in `request`:
`truncated` where only the beginning of a body is in it, and `redacted` where no body is, since it
holds a secret.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import attrs

from tailproxy.wire.requestinfo import query_parameters

if TYPE_CHECKING:
    from tailproxy.wire.head import RequestHead
    from tailproxy.wire.requestinfo import RequestInfo

#: Bytes of a body that are recorded (streaming.md 12).
BODY_BYTES = 128 << 10

_SECRET_RESOURCES = frozenset(("secrets", "tokenreviews", "tokenrequests"))
_SECRET_SUBRESOURCES = frozenset(("token",))


@attrs.frozen
class Peer:
    """A node of the tailnet, at one end of a request.

    :ivar node: its name, without the final dot.
    :ivar node_id: its stable ID.
    :ivar user: login name of its user; empty for a tagged node.
    :ivar user_id: that user's ID; 0 where it is not known.
    :ivar tags: of a tagged node.
    """

    node: str = ""
    node_id: str = ""
    user: str = ""
    user_id: int = 0
    tags: tuple[str, ...] = ()


@attrs.frozen
class RecordedBody:
    """What is recorded of a body.

    :ivar kept: its beginning, or all of it.
    :ivar length: of the whole, in bytes; `None` if it is not known yet.
    :ivar sha256: of the whole, hexadecimal; `None` if it is not known, or not to be told.
    :ivar redacted: whether nothing of it is kept since it holds a secret.
    """

    kept: bytes = attrs.field(default=b"", repr=False)
    length: int | None = 0
    sha256: str | None = None
    redacted: bool = False

    @property
    def truncated(self) -> bool:
        """Whether there is more of it, or may be."""
        return not self.redacted and self.length != len(self.kept)


class BodyCopy:
    """Copies the beginning of a request's body while it passes.

    :param head: of the request.
    """

    def __init__(self, head: RequestHead) -> None:
        self._redacted = holds_secret(head.info)
        self._declared = head.framing.length
        self._kept = bytearray()
        self._hash = hashlib.sha256()
        self._length = 0
        self._ended = self._declared == 0

    @property
    def complete(self) -> bool:
        """Whether there is nothing more to wait for before it is recorded."""
        return self._ended or self._redacted or self._length > BODY_BYTES

    def feed(self, data: bytes) -> None:
        """A part of it passes."""
        self._length += len(data)
        if not self._redacted:
            self._hash.update(data)
            self._kept += data[: BODY_BYTES - len(self._kept)]

    def end(self) -> None:
        """It was whole."""
        self._ended = True

    def body(self) -> RecordedBody:
        """What there is of it now. What has yet to pass is known by its length at most."""
        if self._redacted:
            return RecordedBody(length=self._known_length(), redacted=True)
        digest = self._hash.hexdigest() if self._ended and self._length else None
        return RecordedBody(bytes(self._kept), self._known_length(), digest)

    def _known_length(self) -> int | None:
        return self._length if self._ended else self._declared


def holds_secret(info: RequestInfo) -> bool:
    """Tell whether the body of a request is a secret by what the request is about.

    Secrets and tokens are, in any API group.
    """
    return info.resource in _SECRET_RESOURCES or info.subresource in _SECRET_SUBRESOURCES


def request_event(
    head: RequestHead, body: RecordedBody, source: Peer, destination: Peer, timestamp: int
) -> bytes:
    """Write the event of a request as JSON, with a line feed at its end (streaming.md 8.2).

    :param source: the caller's node.
    :param destination: the proxy's.
    :param timestamp: seconds since 1970.
    """
    request: dict[str, Any] = {
        "method": head.method.decode("ascii", "replace"),
        "path": head.target.decode("ascii", "replace"),
        "body": b64encode(body.kept).decode(),
        "queryParameters": query_parameters(head.target),
    }
    if body.redacted:
        request["redacted"] = True
    elif body.truncated:
        request["truncated"] = {"length": body.length, "sha256": body.sha256}
    event = {
        "type": "kubernetes-api-request",
        "id": "",
        "timestamp": timestamp,
        "userAgent": head.fields.user_agent,
        "request": request,
        "kubernetes": _kubernetes(head.info),
        "source": _peer(source),
        "destination": _peer(destination),
    }
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"


def _peer(peer: Peer) -> dict[str, Any]:
    shown: dict[str, Any] = {"node": peer.node, "nodeID": peer.node_id}
    if peer.tags:
        shown["nodeTags"] = peer.tags
    else:
        if peer.user_id:
            shown["nodeUserID"] = peer.user_id
        if peer.user:
            shown["nodeUser"] = peer.user
    return shown


def _kubernetes(info: RequestInfo) -> dict[str, Any]:
    return {
        "IsResourceRequest": info.is_resource,
        "Path": info.path,
        "Verb": info.verb,
        "APIPrefix": info.api_prefix,
        "APIGroup": info.api_group,
        "APIVersion": info.api_version,
        "Namespace": info.namespace,
        "Resource": info.resource,
        "Subresource": info.subresource,
        "Name": info.name,
        "Parts": info.parts,
        "FieldSelector": info.field_selector,
        "LabelSelector": info.label_selector,
    }

"""RequestInfo: what a request target means to the Kubernetes API server.

It works on the decoded path with outer slashes trimmed, so everything here does too. Where a
path could be read in two ways, the classifiers take the stricter one: a path that is no session
upstream may be called one here, never the other way round. Targets are only read, never changed.
"""

from __future__ import annotations

import posixpath
import re
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeAlias
from urllib.parse import unquote_plus, unquote_to_bytes

import attrs

from tailproxy.wire import selectors

if TYPE_CHECKING:
    from collections.abc import Sequence

SessionKind: TypeAlias = Literal["exec", "attach", "portforward"]

_AUTHORITY = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://[^/?]*")
_VERBS = {
    b"POST": "create",
    b"GET": "get",
    b"HEAD": "get",
    b"PUT": "update",
    b"PATCH": "patch",
    b"DELETE": "delete",
}
_NODE_SESSIONS = frozenset(("exec", "attach", "run", "cri", "portforward"))
_LONG_VERBS = frozenset(("watch", "proxy"))
_LONG_SUBRESOURCES = frozenset(("attach", "exec", "proxy", "log", "portforward"))
# Query options that say what a request is about.
_OPTIONS = frozenset(("fieldSelector", "labelSelector", "limit", "timeoutSeconds", "watch"))
_MAX_PARAMETERS = 10_000  # beyond it the API server's reader gives up
# What is longer, or has more segments, is read anew, so that the caches stay within a few MiB
# whatever clients ask for.
_CACHED_BYTES = 512
_CACHED_SEGMENTS = 24


@attrs.frozen
class RequestInfo:
    """A request in the API server's words (streaming.md 8.3).

    :ivar is_resource: whether it names a resource; the fields from `api_group` to `name` and the
        selectors are empty otherwise.
    :ivar path: decoded; bytes that are no UTF-8 are shown as U+FFFD.
    :ivar verb: of the API (``list``), or the method in lower case for what is no resource.
    :ivar parts: the path from the resource on; ``None`` when there is no resource.
    :ivar session: what kind of session with a pod it is by its path, whatever the method
        (dataplane.md 1.2): in the API server's reading or in that of a cleaning server.
    :ivar node_words: the first words behind ``nodes/NODE/proxy``, one for each of these readings
        that goes there; see `node_proxy`.
    """

    is_resource: bool
    path: str
    verb: str
    api_prefix: str = ""
    api_group: str = ""
    api_version: str = ""
    namespace: str = ""
    resource: str = ""
    subresource: str = ""
    name: str = ""
    parts: tuple[str, ...] | None = None
    field_selector: str = ""
    label_selector: str = ""
    session: SessionKind | None = None
    node_words: tuple[str, ...] = ()


class NodeProxy(Enum):
    """What a request wants of a kubelet through ``nodes/NODE/proxy`` (streaming.md 1.7)."""

    NONE = "none"
    """It does not go there."""
    READ = "read"
    """It reads."""
    EXEC = "exec"
    """It could run a command."""


@attrs.frozen
class _Path:
    """What is known of a decoded path, in its own reading and in that of a cleaning server.

    :ivar parts: split as the API server does.
    :ivar session: its kind in either reading.
    :ivar node_words: first words behind ``nodes/NODE/proxy``, one per reading that goes there.
    """

    text: str
    parts: tuple[str, ...]
    session: SessionKind | None
    node_words: tuple[str, ...]


def request_info(method: bytes, target: bytes) -> RequestInfo:
    """Read a request as the API server does (streaming.md 8.3).

    A path that its rules reject (``/api/v1/watch``) is described as no resource.

    :param method: as sent.
    :param target: as sent, with the query; of any form, however odd.
    """
    if _is_small(target):
        return _cached_request_info(method, target)
    return _request_info(method, target)


def node_proxy(method: bytes, info: RequestInfo, upgrade: bool) -> NodeProxy:
    """Tell whether a request could run a command by way of a kubelet (streaming.md 1.7).

    :param info: of the same request.
    :param upgrade: whether it may be taken for an upgrade (`RequestHead.may_upgrade`).
    """
    words = info.node_words
    if not words:
        return NodeProxy.NONE
    if upgrade or method not in {b"GET", b"HEAD"} or not _NODE_SESSIONS.isdisjoint(words):
        return NodeProxy.EXEC
    return NodeProxy.READ


def is_discovery(method: bytes, target: bytes) -> bool:
    """Tell whether a request is discovery, whose refusals kubectl shows otherwise.

    See dataplane.md 1.9.
    """
    if method != b"GET":
        return False
    match _path_of(target).parts:
        case ("api" | "apis" | "version",) | ("api" | "apis", _) | ("apis", _, _):
            return True
        case ("openapi", *_):
            return True
        case _:
            return False


def is_long_running(info: RequestInfo) -> bool:
    """Tell whether a request may last: a watch, a log, a session, or something proxied."""
    return info.is_resource and (info.verb in _LONG_VERBS or info.subresource in _LONG_SUBRESOURCES)


def boolean(values: Sequence[str]) -> bool:
    """Read a boolean query option by the API server's rule (streaming.md 4.1).

    :param values: all values of the option, decoded; the first one decides.
    """
    return bool(values) and values[0].lower() not in {"false", "0"}


def _request_info(method: bytes, target: bytes) -> RequestInfo:
    path = _path_of(target)
    parts = path.parts
    if len(parts) < 3 or parts[0] not in {"api", "apis"}:
        return _no_resource(method, path)
    prefix, *left = parts
    group = ""
    if prefix == "apis":
        if len(left) < 3:
            return _no_resource(method, path, prefix)
        group, *left = left
    version, *left = left
    verb_in_path = left[0] in _LONG_VERBS
    if verb_in_path:
        if len(left) < 2:
            return _no_resource(method, path)
        verb, *left = left
    else:
        verb = _VERBS.get(method, "")
    namespace = ""
    if left[0] == "namespaces" and len(left) > 1:
        namespace = left[1]
        if len(left) > 2 and left[2] not in {"status", "finalize"}:
            left = left[2:]
    name = left[1] if len(left) > 1 else ""
    parameters = _parameters(target)
    if not name and verb == "get":
        verb, name = _list_or_watch(parameters)
    if not name and verb == "delete":
        verb = "deletecollection"
    selected = verb in {"list", "watch", "deletecollection"} and not verb_in_path
    return RequestInfo(
        is_resource=True,
        path=path.text,
        verb=verb,
        api_prefix=prefix,
        api_group=group,
        api_version=version,
        namespace=namespace,
        resource=left[0],
        subresource=left[2] if len(left) > 2 and verb != "proxy" else "",
        name=name,
        parts=tuple(left),
        field_selector=parameters.get("fieldSelector", [""])[0] if selected else "",
        label_selector=parameters.get("labelSelector", [""])[0] if selected else "",
        session=path.session,
        node_words=path.node_words,
    )


def _no_resource(method: bytes, path: _Path, prefix: str = "") -> RequestInfo:
    return RequestInfo(
        is_resource=False,
        path=path.text,
        verb=method.decode("latin-1").lower(),
        api_prefix=prefix,
        session=path.session,
        node_words=path.node_words,
    )


_cached_request_info = lru_cache(maxsize=1024)(_request_info)


def _list_or_watch(parameters: dict[str, list[str]]) -> tuple[str, str]:
    """Return the verb of a GET without a name, and the one name that its selector admits."""
    verb = "watch" if boolean(parameters.get("watch", [])) else "list"
    try:
        for option in ("limit", "timeoutSeconds"):
            if option in parameters:
                selectors.integer(parameters[option][0])
        if "labelSelector" in parameters:
            selectors.check_labels(parameters["labelSelector"][0])
        terms = selectors.fields(parameters.get("fieldSelector", [""])[0])
    except selectors.SelectorError:
        return verb, ""
    names = [value for key, equal, value in terms if equal and key == "metadata.name"]
    if not names or names[0] in {".", ".."} or "/" in names[0] or "%" in names[0]:
        return verb, ""
    return verb, names[0]


def query_parameters(target: bytes) -> dict[str, list[str]]:
    """Read the query as Go does: a pair that does not parse is left out.

    :param target: as sent.
    :returns: all values of each option, decoded.
    """
    return _parameters(target, None)


def _parameters(target: bytes, wanted: frozenset[str] | None = _OPTIONS) -> dict[str, list[str]]:
    """Read the query, or those options of it that are wanted."""
    query = target.partition(b"?")[2]
    parameters: dict[str, list[str]] = {}
    if not query or query.count(b"&") >= _MAX_PARAMETERS:
        return parameters
    for pair in query.decode("latin-1").split("&"):
        if not pair or ";" in pair or ("%" in pair and _BAD_ESCAPE.search(pair)):
            continue
        key, _, value = pair.partition("=")
        key = _unquoted(key)
        if wanted is None or key in wanted:
            parameters.setdefault(key, []).append(_unquoted(value))
    return parameters


_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def _unquoted(text: str) -> str:
    if "%" not in text and "+" not in text and text.isascii():
        return text
    # Through bytes, since a raw byte and its escape are the same to Go.
    return unquote_plus(text, "latin-1").encode("latin-1").decode("utf-8", "replace")


def _path_of(target: bytes) -> _Path:
    path = target.partition(b"?")[0]
    return _cached_path(path) if _is_small(path) else _path(path)


def _is_small(target: bytes) -> bool:
    """Tell whether what is made of a target may be kept."""
    return (
        len(target) <= _CACHED_BYTES
        and target.count(b"/") + target.count(b"%2") <= _CACHED_SEGMENTS
    )


def _path(path: bytes) -> _Path:
    if not path.startswith(b"/") and (absolute := _AUTHORITY.match(path)):
        path = path[absolute.end() :]
    text = unquote_to_bytes(path).decode("utf-8", "replace")
    trimmed = text.strip("/")
    parts = tuple(trimmed.split("/")) if trimmed else ()
    cleaned = _clean(parts)
    return _Path(
        text=text,
        parts=parts,
        session=_session_of(parts) or _session_of(cleaned),
        node_words=_node_words(parts) + _node_words(cleaned),
    )


_cached_path = lru_cache(maxsize=1024)(_path)


def _clean(parts: Sequence[str]) -> tuple[str, ...]:
    """Resolve empty, ``.`` and ``..`` segments, as a cleaning server does."""
    if "" not in parts and "." not in parts and ".." not in parts:
        return tuple(parts)
    cleaned = posixpath.normpath("/" + "/".join(parts)).strip("/")
    return tuple(cleaned.split("/")) if cleaned else ()


def _session_of(parts: tuple[str, ...]) -> SessionKind | None:
    match parts:
        case ("api", "v1", "namespaces", _, "pods", _, ("exec" | "attach" | "portforward") as kind):
            return kind
        case _:
            return None


def _node_words(parts: tuple[str, ...]) -> tuple[str, ...]:
    if parts[:3] != ("api", "v1", "nodes") or parts[4:5] != ("proxy",):
        return ()
    rest = _clean(parts[5:])  # the kubelet cleans what it gets
    return (rest[0].lower() if rest else "",)

"""Recordings as JSON, and what a search asks for."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tailproxy.errors import ApiError
from tailproxy.recordings import RecordingQuery, RecordingState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tailproxy.recordings import Recording

TEXTS = ("user", "node", "namespace", "pod", "container", "command", "text")
_NAMES = (*TEXTS, "session", "since", "until", "state", "limit", "after")
_LIMIT, _MOST = 50, 500
_LONGEST = 256


def as_json(recording: Recording) -> dict[str, Any]:
    """What is known of a recording."""
    return {
        "id": recording.id,
        "session": recording.session,
        "state": recording.state.value,
        "detail": recording.detail,
        "start": moment(recording.start),
        "durationSeconds": round(recording.duration, 3),
        "user": recording.user,
        "node": recording.node,
        "nodeID": recording.node_id,
        "tags": list(recording.tags),
        "namespace": recording.namespace,
        "pod": recording.pod,
        "container": recording.container,
        "kind": recording.kind,
        "command": recording.command,
        "exitCode": recording.exit_code,
        "width": recording.width,
        "height": recording.height,
        "size": recording.size,
        "encrypted": recording.encrypted,
        "proxy": recording.proxy,
        "proxyID": recording.proxy_id,
    }


def moment(seconds: float) -> str:
    """A time in the form of RFC 3339, whole seconds of UTC.

    :param seconds: since 1970.
    """
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def length(seconds: float) -> str:
    """A duration as people write it."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def read_query(
    args: Mapping[bytes, Sequence[bytes]], namespaces: frozenset[str] | None
) -> RecordingQuery:
    """What the query of a URL asks for. What is empty counts as left out.

    :param namespaces: the only ones whose recordings may be found; None for all.
    :raises ApiError: it cannot be read, or asks for what there is not.
    """
    said: dict[str, str] = {}
    for key, values in args.items():
        name = key.decode("ascii", "replace")
        if name not in _NAMES or len(values) > 1:
            raise _wrong(f"{name!r} is not asked for, or twice; there is {', '.join(_NAMES)}")
        try:
            said[name] = values[0].decode()
        except UnicodeDecodeError:
            raise _wrong(f"{name} is not UTF-8") from None
        if len(said[name]) > _LONGEST:
            raise _wrong(f"{name} is longer than {_LONGEST} characters")
    found: dict[str, Any] = {
        name: said[name] for name in (*TEXTS, "session", "after") if said.get(name)
    }
    for name in ("since", "until"):
        if said.get(name):
            found[name] = _moment(name, said[name])
    if said.get("state"):
        found["state"] = _state(said["state"])
    return RecordingQuery(**found, namespaces=namespaces, limit=_limit(said.get("limit", "")))


def _moment(name: str, text: str) -> float:
    try:
        read = datetime.fromisoformat(text)
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise _wrong(
            f"{name} is {text!r}, wanted a date or time such as 2026-05-01 or 2026-05-01T10:00Z"
        ) from None


def _state(text: str) -> RecordingState:
    try:
        return RecordingState(text)
    except ValueError:
        known = ", ".join(state.value for state in RecordingState)
        raise _wrong(f"state is {text!r}, wanted {known}") from None


def _limit(text: str) -> int:
    if not text:
        return _LIMIT
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _MOST):
        raise _wrong(f"limit is {text!r}, wanted 1 to {_MOST}")
    return int(text)


def _wrong(reason: str) -> ApiError:
    return ApiError(400, "sessions-query", f"the search cannot be made: {reason}")

"""Recordings of sessions, as whoever looks at them knows them."""

from __future__ import annotations

from enum import Enum

import attrs


class RecordingState(Enum):
    """How far a recording has come."""

    LIVE = "live"
    COMPLETE = "complete"
    INTERRUPTED = "interrupted"
    DAMAGED = "damaged"


@attrs.frozen
class Recording:
    """One recording of a session.

    :ivar id: given by the recorder; begins with the start, so that they sort by it.
    :ivar session: ID of the request that began it, as audit lines have it; empty if the proxy did
        not say.
    :ivar start: seconds since 1970.
    :ivar duration: seconds to the last line.
    :ivar user: login name of who had the session; empty for a tagged node.
    :ivar node: FQDN of their node, without the final dot.
    :ivar node_id: its stable ID.
    :ivar tags: of the node.
    :ivar namespace: of the pod.
    :ivar container: empty if none was named.
    :ivar command: its words joined by blanks.
    :ivar kind: `exec` or `attach`.
    :ivar size: bytes that are kept: of whole lines, or of what they are encrypted to.
    :ivar width: of the terminal at first, in columns; 0 without one.
    :ivar height: the same in rows.
    :ivar exit_code: of the command; None if nobody said.
    :ivar detail: why it is not complete, if it is not.
    :ivar proxy: FQDN of the node that uploaded it.
    :ivar proxy_id: its stable ID.
    :ivar encrypted: whether what is kept can be read with a key only.
    """

    id: str
    start: float
    state: RecordingState
    session: str = ""
    duration: float = 0.0
    user: str = ""
    node: str = ""
    node_id: str = ""
    tags: tuple[str, ...] = ()
    namespace: str = ""
    pod: str = ""
    container: str = ""
    command: str = ""
    kind: str = ""
    size: int = 0
    width: int = 0
    height: int = 0
    exit_code: int | None = None
    detail: str = ""
    proxy: str = ""
    proxy_id: str = ""
    encrypted: bool = False


@attrs.frozen
class RecordingQuery:
    """Which recordings are wanted: those that fit everything that is said here.

    `user`, `node`, `namespace`, `pod`, `container` and `session` as they are; `command` and `text`
    anywhere, whatever the case: `text` in any of the words that describe a recording.

    :ivar namespaces: of pods in one of these; None for any, and for none.
    :ivar since: began then or later, in seconds since 1970.
    :ivar until: began before.
    :ivar limit: how many at most.
    :ivar after: ID of the last recording that was on the page before.
    """

    user: str = ""
    node: str = ""
    namespace: str = ""
    pod: str = ""
    container: str = ""
    command: str = ""
    session: str = ""
    text: str = ""
    namespaces: frozenset[str] | None = None
    state: RecordingState | None = None
    since: float | None = None
    until: float | None = None
    limit: int = 100
    after: str = ""


@attrs.frozen
class RecordingPage:
    """Some of the recordings that were asked for, the latest first.

    :ivar more: whether there are others behind the last one.
    """

    recordings: tuple[Recording, ...]
    more: bool

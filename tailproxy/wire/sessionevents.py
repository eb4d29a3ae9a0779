"""What is seen in the bytes of a session with a pod, whatever protocol carries it."""

from __future__ import annotations

from typing import Literal, TypeAlias

import attrs

STDOUT: Literal[1] = 1
STDERR: Literal[2] = 2

OutcomeKind: TypeAlias = Literal["success", "exit", "failure", "protocol-error"]


@attrs.frozen
class Output:
    """Bytes that the client is sent to show.

    :ivar stream: `STDOUT`, which is also where bytes go that no honest server would send, or
        `STDERR`.
    :ivar data: not empty.
    """

    stream: Literal[1, 2]
    data: bytes


@attrs.frozen
class Input:
    """Bytes that the client sends to the command.

    :ivar data: not empty.
    """

    data: bytes


@attrs.frozen
class Resized:
    """The client's terminal has this size now, each at least 1."""

    columns: int
    rows: int


@attrs.frozen
class Outcome:
    """How the command ended, as the server said on its error stream (streaming.md 4.2).

    :ivar code: exit code; 0 is success; ``None`` when there is none.
    :ivar message: for people; empty on success.
    :ivar kind: ``success``; ``exit``: it ran and has another code; ``failure``: it could not be
        run, or followed to its end; ``protocol-error``: what was said cannot be understood.
    """

    code: int | None
    message: str
    kind: OutcomeKind


@attrs.frozen
class Forwarding:
    """A connection is forwarded to a port of the pod.

    :ivar port: 0 if what the client wrote is no port, which the server refuses.
    :ivar request_id: tells this connection from the others of the session.
    """

    port: int
    request_id: str


@attrs.frozen
class Forwarded:
    """That connection has ended.

    :ivar up: bytes of data that went to the pod.
    :ivar down: bytes that came from it.
    :ivar error: what the server said went wrong; else empty.
    """

    port: int
    request_id: str
    up: int
    down: int
    error: str


@attrs.frozen
class Unreadable:
    """The reader cannot follow the session from here on; the last event of all.

    :ivar reason: for the log; never holds bytes of the session.
    """

    reason: str


Event: TypeAlias = Output | Input | Resized | Outcome | Forwarding | Forwarded | Unreadable

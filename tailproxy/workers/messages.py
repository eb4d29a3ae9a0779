"""What supervisor and worker say to each other, as bytes. Nothing here reads or writes a socket.

A message is four bytes of length, most significant first, and that many bytes of JSON: an object
with the message's name as `kind` and its fields. A `Connection` travels with a descriptor, which
is the business of `tailproxy.workers.channel`.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Sequence

_LENGTH = struct.Struct("!I")
# A configuration or all metrics are far smaller; more is a sign that the two have lost step.
LIMIT = 64 * 1024 * 1024


class ControlError(Exception):
    """What came is no message."""


@attrs.frozen
class Start:
    """To a worker: who it is and what it does. The first message.

    `number` from 1, for the log; `version` is the supervisor's; `source` and `text` are the
    configuration; `log` is `json` or `text`.
    """

    number: int
    version: str
    source: str
    text: str = attrs.field(repr=False)  # it may hold an auth key
    log: str


@attrs.frozen
class Adopt:
    """To a worker: take up this configuration. The fields are those of `Start`."""

    source: str
    text: str = attrs.field(repr=False)  # it may hold an auth key
    log: str


@attrs.frozen
class Adopted:
    """To the supervisor: that is done; or it cannot be, for that `problem`."""

    problem: str


@attrs.frozen
class Connection:
    """To a worker: somebody has connected to that listener."""

    listener: str


@attrs.frozen
class AskMetrics:
    """To a worker: how does everything count? `number` comes back with the answer."""

    number: int


@attrs.frozen
class Leave:
    """To a worker: drain, then end.

    `after` that many seconds, in which those who have just been handed to it make their request.
    """

    after: float = 0.0


@attrs.frozen
class Ready:
    """To the supervisor: connections are welcome."""


@attrs.frozen
class Failed:
    """To the supervisor: this cannot work, and why. The end follows."""

    reason: str


@attrs.frozen
class Leaving:
    """To the supervisor: somebody else has told the worker to go; may it?"""


@attrs.frozen
class Load:
    """To the supervisor: how many connections were `taken` since the start, and how many of them
    are `open`.
    """

    taken: int
    open: int


def _rows(rows: Sequence[Sequence[Any]]) -> tuple[tuple[str, bool, str], ...]:
    return tuple((str(name), bool(well), str(why)) for name, well, why in rows)


@attrs.frozen
class Standings:
    """To the supervisor: how the worker's readiness checks stand: name, whether well, why."""

    checks: Sequence[tuple[str, bool, str]] = attrs.field(converter=_rows)


@attrs.frozen
class Figures:
    """To the supervisor: the worker's metrics, as `tailproxy.workers.figures` packs them.

    `number` is that of the question; 0 for the last figures before the end.
    """

    number: int
    families: Any = attrs.field(repr=False)


Message = (
    Start
    | Adopt
    | Adopted
    | Connection
    | AskMetrics
    | Leave
    | Ready
    | Failed
    | Leaving
    | Load
    | Standings
    | Figures
)
_KINDS: dict[str, type[Message]] = {
    kind.__name__: kind
    for kind in (
        Start,
        Adopt,
        Adopted,
        Connection,
        AskMetrics,
        Leave,
        Ready,
        Failed,
        Leaving,
        Load,
        Standings,
        Figures,
    )
}


def encode(message: Message) -> bytes:
    """The bytes of a message."""
    kind = type(message)
    fields = {field.name: getattr(message, field.name) for field in attrs.fields(kind)}
    body = json.dumps({"kind": kind.__name__, **fields}, separators=(",", ":")).encode()
    return _LENGTH.pack(len(body)) + body


class MessageReader:
    """Makes messages of bytes, however they were split on the way."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive_data(self, data: bytes) -> list[Message]:
        """The messages that are complete now.

        :raises ControlError: these are no messages; nothing more can be read.
        """
        self._buffer += data
        found: list[Message] = []
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if length > LIMIT:
                raise ControlError(f"a message of {length} bytes")
            end = start + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            found.append(_decode(self._buffer[start + _LENGTH.size : end]))
            start = end
        del self._buffer[:start]
        return found


def _decode(body: bytearray) -> Message:
    try:
        fields = json.loads(body)
        return _KINDS[fields.pop("kind")](**fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ControlError(f"not a message: {error!r}") from error

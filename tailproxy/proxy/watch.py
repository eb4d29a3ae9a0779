"""Where one event of a watch ends and the next begins.

A watch that is ended by us, because we are leaving, must be ended between two events: half an
event would be an error to its client, while the end of a watch is an everyday matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailproxy.wire.http1 import Header

_PREFIX = 4  # bytes of a frame's length, big endian


class JSONEvents:
    """One JSON text per line, as the API server writes them.

    :ivar between: whether the last event is complete.
    """

    __slots__ = ("between",)

    def __init__(self) -> None:
        self.between = True

    def last_end(self, data: bytes) -> int:
        """Take the next bytes of the body.

        :returns: how many of them belong to events that are complete now; 0 if none is.
        """
        self.between = data.endswith(b"\n")
        return len(data) if self.between else data.rfind(b"\n") + 1


class FramedEvents:
    """Each event behind its length (`application/vnd.kubernetes.protobuf;stream=watch`).

    :ivar between: whether the last event is complete.
    """

    __slots__ = ("_left", "_prefix", "between")

    def __init__(self) -> None:
        self.between = True
        self._left = 0
        self._prefix = b""

    def last_end(self, data: bytes) -> int:
        """Take the next bytes of the body.

        :returns: how many of them belong to events that are complete now; 0 if none is.
        """
        position = end = 0
        size = len(data)
        while position < size:
            if self._left:
                step = min(self._left, size - position)
                position += step
                self._left -= step
            else:
                part = data[position : position + _PREFIX - len(self._prefix)]
                self._prefix += part
                position += len(part)
                if len(self._prefix) < _PREFIX:
                    break
                self._left, self._prefix = int.from_bytes(self._prefix), b""
            if not self._left:
                end = position
        self.between = end == size
        return end


def events_of(headers: Sequence[Header]) -> JSONEvents | FramedEvents | None:
    """How the events of a watch are told apart.

    :param headers: of its answer.
    :returns: None if that is not known.
    """
    fields = {name.lower(): value.lower() for name, value in headers}
    kind = fields.get(b"content-type", b"").partition(b";")[0].strip()
    if b"content-encoding" in fields:
        return None
    if kind == b"application/json":
        return JSONEvents()
    if kind == b"application/vnd.kubernetes.protobuf":
        return FramedEvents()
    return None

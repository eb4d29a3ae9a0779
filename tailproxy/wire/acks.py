"""What a recorder answers while it takes a recording: a stream of JSON objects.

Each is `{"ack":N}` or, as the last one, `{"error":"text"}` (spec/streaming.md 6.2). A recorder of
ours adds `"end":true` to an error when somebody ends the session itself. Nothing needs to stand
between them, and they may be cut anywhere. Errors are events: nothing is raised.
"""

from __future__ import annotations

import codecs
import json
import re

import attrs

# Characters of an object: twenty or so, but for the text of an error.
_LIMIT = 64 << 10
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()
_UTF8 = codecs.getincrementaldecoder("utf-8")


@attrs.frozen
class Acknowledged:
    """So many bytes of the recording have arrived; not necessarily more than last time."""

    count: int


@attrs.frozen
class Refused:
    """The recorder gives up and says why. Nothing comes after it.

    :ivar end: whether the session is to end, and not only its recording.
    """

    text: str
    end: bool = False


@attrs.frozen
class Ended:
    """The answer has ended between two objects. Nothing comes after it."""


@attrs.frozen
class Garbled:
    """The answer is not what it should be, or was cut off. Nothing comes after it."""


Event = Acknowledged | Refused | Ended | Garbled


class AckReader:
    """Reads one answer."""

    def __init__(self) -> None:
        self._text = _UTF8("replace")  # a wrong byte inside an error's text does not hide the error
        self._rest = ""
        self._over = False

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes of the answer and return what they say."""
        found: list[Event] = []
        text = self._rest + self._text.decode(data)
        at = _space(text, 0)
        try:
            while at < len(text) and not self._over:
                try:
                    value, end = _DECODER.raw_decode(text, at)
                except json.JSONDecodeError as error:
                    if not text.startswith("{", at) or len(text) - at > _LIMIT:
                        raise ValueError from error
                    break
                if end - at > _LIMIT:
                    raise ValueError
                found.append(_event(value))
                self._over = isinstance(found[-1], Refused)
                at = _space(text, end)
        except (ValueError, RecursionError):
            found.append(Garbled())
            self._over = True
        self._rest = "" if self._over else text[at:]
        return found

    def end(self) -> list[Event]:
        """Take the end of the answer and return what it means: nothing, if all was said before."""
        if self._over:
            return []
        self._over = True
        return [Garbled() if self._rest or self._text.decode(b"", final=True) else Ended()]


def _space(text: str, start: int) -> int:
    """Return where the blanks end that begin there."""
    match = _SPACE.match(text, start)
    return start if match is None else match.end()


def _event(value: object) -> Event:
    """Make an event of an object, as Go reads it: missing is zero.

    :raises ValueError: it is no such object.
    """
    if not isinstance(value, dict):
        raise ValueError  # noqa: TRY004 - what came over the wire is wrong, not who calls
    error, count = value.get("error") or "", value.get("ack") or 0
    if not isinstance(error, str) or type(count) is not int or count < 0:
        raise ValueError
    if error:
        # An escape may be half a sign.
        return Refused(error.encode(errors="replace").decode(), value.get("end") is True)
    return Acknowledged(count)

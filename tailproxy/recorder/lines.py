"""The lines of a recording, judged as they come. No I/O.

A recording is a header, one JSON object, and then events, one JSON array `[seconds, code, text]`
each (spec/streaming.md 6.4 and 7). What is not so ends it: the lines before stay.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

from tailproxy.recordings import Recording, RecordingState

if TYPE_CHECKING:
    from collections.abc import Mapping

#: A longer line is damage. Proxies read 64 KiB in one go; as JSON that is six times as much.
LINE_BYTES = 4 * 1024 * 1024
_VERSION = 2
# No number in a header is as large.
_MOST = 2**40
# What our own proxy writes at the end, as a marker (spec/streaming.md 7.4).
_EXIT = re.compile(r"exit (-?[0-9]{1,9})")


class Lines:
    """Takes the bytes of one recording, however they are split, and gives whole lines back.

    :ivar header: the first line, once it is there.
    :ivar duration: seconds to the last good line.
    :ivar exit_code: of the command, if a marker said so.
    :ivar damage: what is wrong with the first line that is; empty as long as all are good.
    """

    def __init__(self) -> None:
        self.header: Mapping[str, Any] | None = None
        self.duration = 0.0
        self.exit_code: int | None = None
        self.damage = ""
        self._rest: list[bytes] = []
        self._rest_size = 0
        self._number = 0

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes. The lines that are whole now and good, with their ends."""
        if self.damage:
            return b""
        end = data.rfind(b"\n") + 1
        whole = b""
        if end:
            whole = self._judged(b"".join((*self._rest, data[:end])))
            self._rest, self._rest_size = [], 0
        if end < len(data):
            self._rest.append(data[end:])
            self._rest_size += len(data) - end
            if self._rest_size > LINE_BYTES and not self.damage:
                self._number += 1
                self._fail(f"is longer than {LINE_BYTES} bytes")
        return whole

    def end(self) -> bytes:
        """There are no more bytes. A last line without an end is one all the same, and gets it."""
        if not self._rest:
            return b""
        rest, self._rest = b"".join(self._rest), []
        return b"" if self.damage else self._judged(rest + b"\n")

    def _judged(self, lines: bytes) -> bytes:
        good = 0
        for line in lines.split(b"\n")[:-1]:
            self._number += 1
            try:
                self._take(line)
            except ValueError as error:
                self._fail(str(error))
                break
            good += len(line) + 1
        return lines[:good]

    def _fail(self, reason: str) -> None:
        self.damage = f"line {self._number} {reason}"

    def _take(self, line: bytes) -> None:
        if len(line) > LINE_BYTES:
            raise ValueError(f"is longer than {LINE_BYTES} bytes")
        try:
            value = json.loads(line.decode("utf-8"), parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise ValueError("is not JSON") from None
        if self.header is None:
            self.header = _header(value)
        else:
            self._event(value)

    def _event(self, value: Any) -> None:
        if not isinstance(value, list) or len(value) != 3:
            raise ValueError("is not an event: a list of seconds, code and text")
        seconds, code, text = value
        if (
            isinstance(seconds, bool)
            or not isinstance(seconds, int | float)
            or not math.isfinite(seconds)
            or seconds < 0
        ):
            raise ValueError("is not an event: it does not begin with a number of seconds")
        if not isinstance(code, str) or not isinstance(text, str) or not code:
            raise ValueError("is not an event: its code and its text must be strings")
        self.duration = max(self.duration, float(seconds))
        if code == "m":
            found = _EXIT.fullmatch(text)
            if found:
                self.exit_code = int(found[1])


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _header(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict) or "version" not in value:
        raise ValueError("is not the header of a recording")
    if value["version"] != _VERSION or isinstance(value["version"], bool):
        raise ValueError(f"is a header, but not of version {_VERSION}")
    for key in ("width", "height", "timestamp"):
        number = value.get(key, 0)
        known = isinstance(number, int | float) and not isinstance(number, bool)
        if not known or not 0 <= number < _MOST:
            raise ValueError(f"is a header whose {key} is not a number")
    return value


def describe(header: Mapping[str, Any], identifier: str, start: float) -> Recording:
    """What a header says of its recording; whatever is not as it should be is left out.

    :param identifier: the recording's ID.
    :param start: when it began, if the header does not say.
    """
    pod = _object(header, "kubernetes")
    ours = _object(header, "tailproxy")
    tags = header.get("srcNodeTags")
    return Recording(
        id=identifier,
        start=float(header.get("timestamp") or start),
        state=RecordingState.LIVE,
        session=_text(ours, "request"),
        user=_text(header, "srcNodeUser"),
        node=_text(header, "srcNode").removesuffix("."),
        node_id=_text(header, "srcNodeID"),
        tags=tuple(map(_clean, tags)) if isinstance(tags, list) else (),
        namespace=_text(pod, "Namespace"),
        pod=_text(pod, "PodName"),
        container=_text(pod, "Container"),
        command=_text(header, "command"),
        kind=_text(pod, "SessionType"),
        width=int(header.get("width", 0)),
        height=int(header.get("height", 0)),
    )


def _object(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _text(value: Mapping[str, Any], key: str) -> str:
    found = value.get(key)
    return _clean(found)


def _clean(value: Any) -> str:
    """A text as every file and database takes it."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""

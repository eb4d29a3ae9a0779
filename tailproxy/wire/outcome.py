"""How a command in a pod ended, as its error stream says (streaming.md 4.2)."""

from __future__ import annotations

import json
from typing import Any

from tailproxy.wire.sessionevents import Outcome

MAX_TEXT = 1 << 16
"""So many bytes of an error stream are kept."""

_SUCCESS = Outcome(code=0, message="", kind="success")


class ErrorStream:
    """What came on an error stream.

    :param plain: whether it is text for people, as in versions 1 to 3; else it is one ``Status``.
    """

    def __init__(self, plain: bool) -> None:
        self.plain = plain
        self._text = bytearray()
        self._cut = False

    def __bool__(self) -> bool:
        """Tell whether anything came."""
        return bool(self._text)

    def add(self, data: bytes) -> None:
        """Take the next bytes."""
        room = MAX_TEXT - len(self._text)
        self._text += data[:room]
        self._cut = self._cut or len(data) > room

    def outcome(self) -> Outcome:
        """Say what it means that this is all."""
        text = bytes(self._text)
        if not text:
            return _SUCCESS
        if self.plain:
            return Outcome(None, text.decode(errors="replace").strip(), "failure")
        if self._cut:
            return _protocol_error(f"it is longer than {MAX_TEXT} bytes")
        return read_outcome(text)


def read_outcome(text: bytes) -> Outcome:
    """Read an error stream of version 4 or 5 as clients do.

    :param text: all of it.
    """
    if not text:
        return _SUCCESS
    try:
        status = json.loads(text)
    except (ValueError, RecursionError):
        return _protocol_error("it is no JSON")
    if not isinstance(status, dict):
        return _protocol_error("it is no Status")
    match status.get("status"):
        case "Success":
            return _SUCCESS
        case "Failure":
            message = _text(status.get("message"))
            if status.get("reason") == "NonZeroExitCode":
                return _exit(status, message)
            return Outcome(None, message, "failure")
        case _:
            return _protocol_error("it says neither success nor failure")


def _exit(status: dict[str, Any], message: str) -> Outcome:
    details = status.get("details")
    causes = details.get("causes") if isinstance(details, dict) else None
    for cause in causes if isinstance(causes, list) else ():
        # What Go calls the cause's type is its reason in JSON.
        if isinstance(cause, dict) and cause.get("reason") == "ExitCode":
            code = cause.get("message")
            if isinstance(code, str) and code.isascii() and code.isdecimal() and len(code) < 9:
                number = int(code)
                if number < 256:
                    return Outcome(number, message, "exit")
            return _protocol_error("its exit code is no number from 0 to 255")
    return _protocol_error("it names no exit code")


def _protocol_error(why: str) -> Outcome:
    return Outcome(None, f"the error stream cannot be understood: {why}", "protocol-error")


def _text(value: object) -> str:
    """Return a string that can be written as UTF-8, which not all strings of JSON can."""
    if not isinstance(value, str):
        return ""
    return value.encode(errors="replace").decode()

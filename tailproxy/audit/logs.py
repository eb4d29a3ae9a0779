"""How log events become lines: JSON for machines, text for people.

Events are turned into lines when the reactor comes round again, not where they are logged, so
that a request never waits for its own log line.

Nothing here removes secrets: they must not be in an event (design.md section 6, rule 6).
"""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any

from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
)
from zope.interface import implementer

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IReactorTime
    from twisted.python.failure import Failure

# What `twisted.python.log` puts into events for its own use.
_LEGACY = frozenset(("message", "time", "isError", "system", "format", "why", "logLevel"))
# What Twisted tells about its own factories and ports is for whoever debugs them.
_CHATTY = ("twisted.web", "twisted.internet.protocol", "twisted.python.log", "log_legacy")
# As in the Tailscale operator's schema; the last three are one to us.
_LEVELS = {
    "debug": LogLevel.debug,
    "info": LogLevel.info,
    "warn": LogLevel.warn,
    "error": LogLevel.error,
    "dpanic": LogLevel.critical,
    "panic": LogLevel.critical,
    "fatal": LogLevel.critical,
}


def json_line(event: LogEvent) -> str:
    """An event as one JSON object: time, level, logger, message, and the event's own fields.

    A field of the same name as one of the first four is left out. Values that JSON does not
    know are written as text.
    """
    line: dict[str, Any] = {
        "time": _time(event),
        "level": _level(event),
        "logger": event.get("log_namespace", ""),
        "message": _message(event),
    }
    for key, value in event.items():
        if not key.startswith("log_") and key not in _LEGACY:
            line.setdefault(key, value)
    failure: Failure | None = event.get("log_failure")
    if failure is not None:
        line["traceback"] = failure.getTraceback()
    return json.dumps(line, default=_plain, ensure_ascii=False) + "\n"


def text_line(event: LogEvent) -> str:
    """An event for people: time, level, logger, message on one line, a traceback below it."""
    message = _message(event).replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    line = f"{_time(event)} {_level(event):<5} {event.get('log_namespace', '')}: {message}\n"
    failure: Failure | None = event.get("log_failure")
    return line if failure is None else line + failure.getTraceback()


def _time(event: LogEvent) -> str:
    moment = datetime.fromtimestamp(event.get("log_time", 0.0), UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _level(event: LogEvent) -> str:
    level = event.get("log_level")
    return "info" if level is None else str(level.name)


def _message(event: LogEvent) -> str:
    message = formatEvent(event)
    failure: Failure | None = event.get("log_failure")
    if failure is not None and not message:
        return failure.getErrorMessage()
    return message


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    return str(value)


@implementer(ILogObserver)
class LineObserver:
    """Writes one line for each event.

    :param stream: where to.
    :param line: makes a line of an event.
    :param clock: comes round; None to write at once.
    """

    def __init__(
        self, stream: IO[str], line: Callable[[LogEvent], str], clock: IReactorTime | None
    ) -> None:
        self._stream = stream
        self._line = line
        self._clock = clock
        self._events: list[LogEvent] = []
        self._closed = False

    def __call__(self, event: LogEvent) -> None:
        """Take an event."""
        self._events.append(event)
        if self._clock is None or self._closed:
            self.flush()
        elif len(self._events) == 1:
            self._clock.callLater(0, self.flush)

    def close(self) -> None:
        """The clock is coming round no more: write now, and at once from now on."""
        self._closed = True
        self.flush()

    def flush(self) -> None:
        """Write what has gathered."""
        events, self._events = self._events, []
        lines = "".join(map(self._safe_line, events))
        # When nobody can be written to any more, nobody can be told so.
        with suppress(OSError):
            self._stream.write(lines)
            self._stream.flush()

    def _safe_line(self, event: LogEvent) -> str:
        try:
            return self._line(event)
        except Exception as error:  # noqa: BLE001 - one bad event must not cost the others
            bad = {"log_format": "this event cannot be written: {reason}", "reason": repr(error)}
            kept = {key: event.get(key) for key in ("log_time", "log_level", "log_namespace")}
            return self._line({**kept, **bad})


def filtered(observer: ILogObserver, level: str) -> ILogObserver:
    """The observer for events of at least that level only.

    :param level: as the configuration's `LogLevel` spells it.
    """
    threshold = _LEVELS[level]
    predicate = LogLevelFilterPredicate(defaultLogLevel=threshold)
    if threshold is LogLevel.info:
        for namespace in _CHATTY:
            predicate.setLogLevelForNamespace(namespace, LogLevel.warn)
    return FilteringLogObserver(observer, [predicate])

"""How log events become lines: JSON for machines, text for people.

Events are turned into lines when the reactor comes round again, not where they are logged, so
that a request never waits for its own log line. Lines of the access log wait a little longer for
others to be written with.

Nothing here removes secrets: they must not be in an event (design.md section 6, rule 6).
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Any

from twisted.logger import (
    ILogFilterPredicate,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
)
from zope.interface import implementer

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IDelayedCall, IReactorTime
    from twisted.python.failure import Failure

# How long a gathered line may wait, and how many characters may.
GATHER_SECONDS = 0.05
GATHER_CHARACTERS = 32 << 10

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
    message = one_line(_message(event))
    line = f"{_time(event)} {_level(event):<5} {event.get('log_namespace', '')}: {message}\n"
    failure: Failure | None = event.get("log_failure")
    return line if failure is None else line + failure.getTraceback()


def one_line(message: str) -> str:
    """A message without line ends of its own."""
    return message.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def time_text(moment: float) -> str:
    """A time in RFC 3339, in UTC, with milliseconds.

    :param moment: seconds since 1970.
    """
    fraction, second = math.modf(moment)
    microseconds = round(fraction * 1e6)
    if not 0 <= microseconds < 1_000_000:
        whole = datetime.fromtimestamp(moment, UTC)
        second, microseconds = whole.replace(microsecond=0).timestamp(), whole.microsecond
    return f"{_second_text(second)}.{microseconds // 1000:03d}Z"


@lru_cache(maxsize=2)
def _second_text(second: float) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat().removesuffix("+00:00")


def _time(event: LogEvent) -> str:
    return time_text(event.get("log_time", 0.0))


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
        self._waiting: list[LogEvent | str] = []
        self._gathered = 0
        self._soon = False
        self._timer: IDelayedCall | None = None
        self._closed = False

    def __call__(self, event: LogEvent) -> None:
        """Take an event. It is written when the clock comes round."""
        self._waiting.append(event)
        if self._clock is None or self._closed:
            self.flush()
        elif not self._soon:
            self._soon = True
            if self._timer is None:
                self._timer = self._clock.callLater(0, self.flush)
            else:
                self._timer.reset(0)

    def gather(self, line: str) -> None:
        """Take a line that is made already. It may wait for others, but not for long.

        :param line: with its end.
        """
        self._waiting.append(line)
        self._gathered += len(line)
        if self._clock is None or self._closed or self._gathered >= GATHER_CHARACTERS:
            self.flush()
        elif self._timer is None:
            self._timer = self._clock.callLater(GATHER_SECONDS, self.flush)

    def write_as(self, line: Callable[[LogEvent], str]) -> None:
        """From now on make lines another way."""
        self.flush()
        self._line = line

    def close(self) -> None:
        """The clock is coming round no more: write now, and at once from now on."""
        self._closed = True
        self.flush()

    def flush(self) -> None:
        """Write what has gathered, in the order in which it came; only whole lines."""
        waiting, self._waiting = self._waiting, []
        self._gathered = 0
        self._soon = False
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
        lines = "".join(
            [each if isinstance(each, str) else self._safe_line(each) for each in waiting]
        )
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


def admits_info(level: str) -> bool:
    """Whether events of the level info are among those that a `Threshold` lets pass.

    :param level: as the configuration's `LogLevel` spells it.
    """
    return bool(_LEVELS[level] <= LogLevel.info)


@implementer(ILogFilterPredicate)
class Threshold:
    """Lets events of at least a level pass.

    :param level: as the configuration's `LogLevel` spells it.
    """

    def __init__(self, level: str) -> None:
        self._predicate: LogLevelFilterPredicate
        self.set(level)

    def set(self, level: str) -> None:
        """From now on that level."""
        threshold = _LEVELS[level]
        self._predicate = LogLevelFilterPredicate(defaultLogLevel=threshold)
        if threshold is LogLevel.info:
            for namespace in _CHATTY:
                self._predicate.setLogLevelForNamespace(namespace, LogLevel.warn)

    def __call__(self, event: LogEvent) -> Any:
        """See `ILogFilterPredicate`."""
        return self._predicate(event)

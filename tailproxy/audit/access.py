"""The access log: one structured event for each request that was answered.

Where our own `LineObserver` writes the log, a request's line is made here and handed to it as
text, which costs a fifth of an event's way through the observers; the line is the same. Anybody
else who observes gets the event with its fields.
"""

from __future__ import annotations

import time
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Protocol

import attrs
from twisted.logger import Logger
from zope.interface import implementer

from tailproxy.audit.logs import admits_info, one_line, time_text
from tailproxy.interfaces import AccessRecord, IAuditSink

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tailproxy.audit.logs import LineObserver

NAMESPACE = "tailproxy.access"

_FIELDS = tuple(field.name for field in attrs.fields(AccessRecord))
# Characters kept of what is the same in all lines of a caller. Somebody with a thousand groups
# takes as much room as two hundred others.
_KEPT_CHARACTERS = 1 << 20


class AccessLine(Protocol):
    """Writes a record as a line, as the event of that record would be written.

    The time is in seconds since 1970.
    """

    def __call__(self, record: AccessRecord, moment: float) -> str:
        """The line, with its end."""


@implementer(IAuditSink)
class AccessLog:
    """Logs at the level info, with every field of the record as a key (spec/dataplane.md 1.13).

    :param log: where to.
    :param now: seconds since 1970.
    """

    def __init__(self, log: Logger | None = None, now: Callable[[], float] = time.time) -> None:
        # As a class attribute it would be made anew for every line.
        self._log = log or Logger(namespace=NAMESPACE)
        self._now = now
        self._lines: LineObserver | None = None
        self._line: AccessLine | None = None

    def write_to(self, lines: LineObserver, line: AccessLine | None) -> None:
        """From now on write lines instead of logging events.

        :param lines: what writes everything else that is logged.
        :param line: makes them; None to leave them out.
        """
        self._lines = lines
        self._line = line

    def answered(self, record: AccessRecord) -> None:
        """See `IAuditSink.answered`."""
        if self._lines is None:
            self._emit(record)
        elif self._line is not None:
            self._lines.gather(self._line(record, self._now()))

    def _emit(self, record: AccessRecord) -> None:
        fields = {name: getattr(record, name) for name in _FIELDS}
        if record.user:
            self._log.info("{user} {method} {path} {status}", **fields)
        else:
            self._log.info("unknown caller {address} {method} {path} {status}", **fields)


class JSONAccessLine:
    """JSON, as `tailproxy.audit.logs.json_line` writes it. An `AccessLine`."""

    def __init__(self) -> None:
        self._kept: dict[tuple[object, ...], tuple[str, str]] = {}
        self._size = 0

    def __call__(self, record: AccessRecord, moment: float) -> str:
        """The line, with its end."""
        key = (
            record.user,
            record.node,
            record.groups,
            record.address,
            record.service,
            record.listener,
        )
        who, caller = self._kept.get(key) or self._caller(key, record)
        method = encode_basestring(record.method)
        path = encode_basestring(record.path)
        return (
            f'{{"time": "{time_text(moment)}", "level": "info", "logger": "{NAMESPACE}", '
            f'"message": {who} {method[1:-1]} {path[1:-1]} {record.status}", {caller}, '
            f'"method": {method}, "path": {path}, "verb": {encode_basestring(record.verb)}, '
            f'"status": {record.status}, "sent": {record.sent}, "received": {record.received}, '
            f'"duration": {record.duration!r}, "upgrade": {encode_basestring(record.upgrade)}, '
            f'"recorded": {"true" if record.recorded else "false"}, '
            f'"denied": {encode_basestring(record.denied)}, '
            f'"user_agent": {encode_basestring(record.user_agent)}}}\n'
        )

    def _caller(self, key: tuple[object, ...], record: AccessRecord) -> tuple[str, str]:
        """What all lines of a caller have in common: how the message begins, and some fields."""
        groups = ", ".join(map(encode_basestring, record.groups))
        fields = (
            f'"user": {encode_basestring(record.user)}, '
            f'"node": {encode_basestring(record.node)}, "groups": [{groups}], '
            f'"address": {encode_basestring(record.address)}, '
            f'"service": {encode_basestring(record.service)}, '
            f'"listener": {encode_basestring(record.listener)}'
        )
        made = encode_basestring(_who(record))[:-1], fields
        size = sum(map(len, made))
        if size > _KEPT_CHARACTERS:
            return made
        if self._size + size > _KEPT_CHARACTERS:
            self._kept.clear()
            self._size = 0
        self._kept[key] = made
        self._size += size
        return made


def access_line(form: str, level: str) -> AccessLine | None:
    """How records are written.

    :param form: ``json`` or ``text``.
    :param level: as the configuration's `LogLevel` spells it.
    :returns: None if that level leaves them out.
    """
    if not admits_info(level):
        return None
    return text_access_line if form == "text" else JSONAccessLine()


def text_access_line(record: AccessRecord, moment: float) -> str:
    """Text, as `tailproxy.audit.logs.text_line` writes it. An `AccessLine`."""
    message = f"{_who(record)} {record.method} {record.path} {record.status}"
    return f"{time_text(moment)} info  {NAMESPACE}: {one_line(message)}\n"


def _who(record: AccessRecord) -> str:
    return record.user or f"unknown caller {record.address}"


@implementer(IAuditSink)
class Fanout:
    """Tells several sinks."""

    def __init__(self, sinks: Sequence[IAuditSink]) -> None:
        self._sinks = tuple(sinks)

    def answered(self, record: AccessRecord) -> None:
        """See `IAuditSink.answered`."""
        for sink in self._sinks:
            sink.answered(record)

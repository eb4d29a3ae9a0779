"""The access log: one structured event for each request that was answered.

Where our own `LineObserver` writes the log, a request's line is made here and handed to it as
text, which costs a fifth of an event's way through the observers; the line is the same. Anybody
else who observes gets the event with its fields.
"""

from __future__ import annotations

import json
import time
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Any, Protocol

from twisted.logger import Logger
from zope.interface import implementer

from tailproxy.audit.logs import admits_info, one_line, time_text
from tailproxy.interfaces import AccessRecord, IAuditSink

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from tailproxy.audit.logs import LineObserver
    from tailproxy.policy.identity import Identity
    from tailproxy.wire.requestinfo import RequestInfo

NAMESPACE = "tailproxy.access"

# Characters kept of what is the same in all lines of a caller, and of a request that comes again.
# Somebody with a thousand groups takes as much room as two hundred others.
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
    :ivar json: makes a line of each record, for whoever wants it.
    """

    def __init__(self, log: Logger | None = None, now: Callable[[], float] = time.time) -> None:
        # As a class attribute it would be made anew for every line.
        self._log = log or Logger(namespace=NAMESPACE)
        self._now = now
        self._lines: LineObserver | None = None
        self._line: AccessLine | None = None
        self.json = JSONAccessLine()

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
        fields = _fields(record)
        if record.user:
            self._log.info("{user} {method} {path} {status}", **fields)
        else:
            self._log.info("unknown caller {address} {method} {path} {status}", **fields)


class _Texts:
    """Keeps text that was made of objects, and the objects, while there is room."""

    def __init__(self) -> None:
        self.kept: dict[Hashable, tuple[object, str, str]] = {}
        self.size = 0

    def keep(self, key: Hashable, made: tuple[object, str, str]) -> None:
        """Keep what was made. The object goes with it, so that its `id` stays its own."""
        size = len(made[1]) + len(made[2])
        if size > _KEPT_CHARACTERS:
            return
        if self.size + size > _KEPT_CHARACTERS:
            self.kept.clear()
            self.size = 0
        self.kept[key] = made
        self.size += size


class JSONAccessLine:
    """JSON, as `tailproxy.audit.logs.json_line` writes it. An `AccessLine`.

    Asked again for the record that was the last one, it returns the line that it made.
    """

    def __init__(self) -> None:
        self._last: AccessRecord | None = None
        self._made = ""
        self._callers = _Texts()
        self._requests = _Texts()

    def __call__(self, record: AccessRecord, moment: float) -> str:
        """The line, with its end."""
        if record is self._last:
            return self._made
        caller, info = record.caller, record.info
        # An object's `id` is hashed at once, an identity with all its groups is not.
        key = id(record.identity), caller.shown, caller.service, record.listener
        _, who, fields = self._callers.kept.get(key) or self._of_caller(key, record)
        _, request, _ = self._requests.kept.get(id(info)) or self._of_request(info)
        method = encode_basestring(record.method)
        path = encode_basestring(record.path)
        line = self._made = (
            f'{{"time": "{time_text(moment)}", "level": "info", "logger": "{NAMESPACE}", '
            f'"message": {who} {method[1:-1]} {path[1:-1]} {record.status}", {fields}, '
            f'"request_id": "{record.id}", "method": {method}, "path": {path}, {request}, '
            f'"status": {record.status}, "sent": {record.sent}, "received": {record.received}, '
            f'"duration": {record.duration!r}, '
            f"{_PLAIN if _is_plain(record) else _outcome(record)}, "
            f'"user_agent": {encode_basestring(record.user_agent)}}}\n'
        )
        self._last = record
        return line

    def _of_caller(self, key: Hashable, record: AccessRecord) -> tuple[object, str, str]:
        """What all lines of a caller have in common: how the message begins, and some fields."""
        who = encode_basestring(_who(record))[:-1]
        made = record.identity, who, _members(_caller_fields(record))
        self._callers.keep(key, made)
        return made

    def _of_request(self, info: RequestInfo) -> tuple[object, str, str]:
        """What all lines about the same method and target have in common."""
        made = info, _members(_request_fields(info)), ""
        self._requests.keep(id(info), made)
        return made


def _is_plain(record: AccessRecord) -> bool:
    """Whether there is nothing to say of a request but that it was answered."""
    return record.decision == "forward" and not (
        record.upgrade
        or record.session
        or record.recorded
        or record.denied
        or record.reason
        or record.exit_code is not None
    )


def _fields(record: AccessRecord) -> dict[str, Any]:
    """All fields of a line but the first four, in order (docs/audit.md)."""
    return {
        **_caller_fields(record),
        "request_id": record.id,
        "method": record.method,
        "path": record.path,
        **_request_fields(record.info),
        "status": record.status,
        "sent": record.sent,
        "received": record.received,
        "duration": record.duration,
        **_outcome_fields(record),
        "user_agent": record.user_agent,
    }


def _caller_fields(record: AccessRecord) -> dict[str, Any]:
    identity: Identity | None = record.identity
    return {
        "user": "" if identity is None else identity.user,
        "groups": () if identity is None else identity.groups,
        "node": "" if identity is None else identity.node,
        "node_id": "" if identity is None else identity.node_id,
        "tags": () if identity is None else identity.tags,
        "address": record.caller.shown,
        "service": record.caller.service or "",
        "listener": record.listener,
    }


def _request_fields(info: RequestInfo) -> dict[str, Any]:
    return {
        "verb": info.verb,
        "api_group": info.api_group,
        "api_version": info.api_version,
        "namespace": info.namespace,
        "resource": info.resource,
        "subresource": info.subresource,
        "name": info.name,
    }


def _outcome_fields(record: AccessRecord) -> dict[str, Any]:
    return {
        "upgrade": record.upgrade,
        "session": record.session,
        "exit_code": record.exit_code,
        "recorded": record.recorded,
        "decision": record.decision,
        "denied": record.denied,
        "reason": record.reason,
    }


def _members(fields: dict[str, Any]) -> str:
    """The members of an object, without its braces."""
    return json.dumps(fields, ensure_ascii=False)[1:-1]


def _outcome(record: AccessRecord) -> str:
    return _members(_outcome_fields(record))


def access_line(form: str, level: str, json_line: AccessLine) -> AccessLine | None:
    """How records are written.

    :param form: ``json`` or ``text``.
    :param json_line: writes them as JSON.
    :param level: as the configuration's `LogLevel` spells it.
    :returns: None if that level leaves them out.
    """
    if not admits_info(level):
        return None
    return text_access_line if form == "text" else json_line


def text_access_line(record: AccessRecord, moment: float) -> str:
    """Text, as `tailproxy.audit.logs.text_line` writes it. An `AccessLine`."""
    message = f"{_who(record)} {record.method} {record.path} {record.status}"
    return f"{time_text(moment)} info  {NAMESPACE}: {one_line(message)}\n"


def _who(record: AccessRecord) -> str:
    return record.user or f"unknown caller {record.caller.shown}"


#: Of nearly all requests.
_PLAIN = _members(
    {
        "upgrade": "",
        "session": "",
        "exit_code": None,
        "recorded": "",
        "decision": "forward",
        "denied": "",
        "reason": "",
    }
)


@implementer(IAuditSink)
class Fanout:
    """Tells several sinks."""

    def __init__(self, sinks: Sequence[IAuditSink]) -> None:
        self._sinks = tuple(sinks)

    def answered(self, record: AccessRecord) -> None:
        """See `IAuditSink.answered`."""
        for sink in self._sinks:
            sink.answered(record)

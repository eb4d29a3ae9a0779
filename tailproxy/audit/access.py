"""The access log: one structured event for each request that was answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from twisted.logger import Logger
from zope.interface import implementer

from tailproxy.interfaces import AccessRecord, IAuditSink

if TYPE_CHECKING:
    from collections.abc import Sequence

_FIELDS = tuple(field.name for field in attrs.fields(AccessRecord))


@implementer(IAuditSink)
class AccessLog:
    """Logs at the level info, with every field of the record as a key (spec/dataplane.md 1.13).

    :param log: where to.
    """

    def __init__(self, log: Logger | None = None) -> None:
        # As a class attribute it would be made anew for every line.
        self._log = log or Logger(namespace="tailproxy.access")

    def answered(self, record: AccessRecord) -> None:
        """See `IAuditSink.answered`."""
        fields = {name: getattr(record, name) for name in _FIELDS}
        if record.user:
            self._log.info("{user} {method} {path} {status}", **fields)
        else:
            self._log.info("unknown caller {address} {method} {path} {status}", **fields)


@implementer(IAuditSink)
class Fanout:
    """Tells several sinks."""

    def __init__(self, sinks: Sequence[IAuditSink]) -> None:
        self._sinks = tuple(sinks)

    def answered(self, record: AccessRecord) -> None:
        """See `IAuditSink.answered`."""
        for sink in self._sinks:
            sink.answered(record)

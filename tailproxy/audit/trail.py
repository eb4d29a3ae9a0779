"""The audit trail: the line of each request, taken to every sink of the configuration."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.defer import DeferredList
from zope.interface import implementer

from tailproxy.audit.delivery import Delivery
from tailproxy.audit.file import FileCarrier
from tailproxy.audit.http import HTTPCarrier
from tailproxy.audit_options import SinkKind
from tailproxy.interfaces import IAuditSink
from tailproxy.schema import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.internet.defer import Deferred

    from tailproxy.audit.access import AccessLine
    from tailproxy.audit.delivery import Carrier
    from tailproxy.audit_options import Audit, Sink
    from tailproxy.interfaces import AccessRecord
    from tailproxy.metrics import Metrics


@implementer(IAuditSink)
class Trail(Service):
    """Writes the line of each request for sinks that are slower than a request.

    :param line: makes the lines.
    :param now: seconds since 1970.
    :ivar deliveries: to them.
    """

    name = "audit"

    def __init__(
        self,
        deliveries: Sequence[Delivery],
        line: AccessLine,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.deliveries = tuple(deliveries)
        self._line = line
        self._now = now

    def answered(self, record: AccessRecord) -> None:
        """See `IAuditSink.answered`."""
        line = self._line(record, self._now())
        for delivery in self.deliveries:
            delivery.put(line)

    def stopService(self) -> Deferred[Any]:
        """Deliver what waits."""
        super().stopService()
        return DeferredList([delivery.close() for delivery in self.deliveries])


def audit_trail(audit: Audit, line: AccessLine, reactor: Any, metrics: Metrics) -> Trail:
    """The trail to the sinks of a configuration, but for the log.

    :param line: makes the lines.
    :raises ConfigError: a sink cannot be used.
    """
    deliveries = [
        Delivery(sink.label, carrier, sink.queue_bytes, reactor, metrics)
        for sink in audit.sinks
        if (carrier := _carrier(sink, reactor)) is not None
    ]
    return Trail(deliveries, line)


def _carrier(sink: Sink, reactor: Any) -> Carrier | None:
    if sink.kind is SinkKind.FILE and sink.path is not None:
        folder = sink.path.absolute().parent
        if sink.path.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigError(
                f"Tailproxy.Audit sink {sink.label}",
                f"cannot write {sink.path}: it must be a file in a folder where this user may"
                " make files, as files are renamed there",
            )
        return FileCarrier(
            reactor,
            sink.path,
            size=sink.rotate_bytes,
            age=sink.rotate_seconds,
            keep=sink.keep,
        )
    if sink.kind is SinkKind.HTTP and sink.url is not None:
        try:
            return HTTPCarrier(reactor, sink.url, sink.token_file, sink.ca_file)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"Tailproxy.Audit sink {sink.label}", f"cannot use {sink.ca_file}: {error}"
            ) from error
    return None

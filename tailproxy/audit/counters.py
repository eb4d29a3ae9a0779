"""Counts the requests that were answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zope.interface import implementer

from tailproxy.interfaces import IAuditSink

if TYPE_CHECKING:
    from tailproxy.counting import Counter, Histogram
    from tailproxy.interfaces import AccessRecord
    from tailproxy.metrics import Metrics
    from tailproxy.policy.decide import Mode

# Kubernetes verbs, and the methods of requests that are about no resource. A method is the
# client's own word, so whatever else comes is one label.
_VERBS = frozenset(
    (
        "get",
        "list",
        "watch",
        "create",
        "update",
        "patch",
        "delete",
        "deletecollection",
        "proxy",
        "connect",
        "post",
        "put",
        "head",
        "options",
    )
)
# Requests that last as long as somebody looks on; their duration says nothing about speed.
_LASTING_VERBS = frozenset(("watch", "proxy", "connect"))


@implementer(IAuditSink)
class RequestCounters:
    """Feeds the metrics of requests.

    :param mode: in which they are served.
    """

    def __init__(self, metrics: Metrics, mode: Mode) -> None:
        self._metrics = metrics
        self._mode = mode.value
        # Looking a metric up by its labels costs more than counting: each is looked up once.
        # Verbs are few, and so are statuses, whatever a client or the API server says.
        self._requests: dict[tuple[str, int], Counter] = {}
        self._durations: dict[str, Histogram] = {}

    def answered(self, record: AccessRecord) -> None:
        """See `IAuditSink.answered`."""
        verb = record.info.verb
        if verb not in _VERBS:
            verb = "other"
        requests = self._requests.get((verb, record.status))
        if requests is None:
            requests = self._metrics.requests.labels(verb, str(record.status), self._mode)
            self._requests[verb, record.status] = requests
        requests.inc()
        if record.denied:
            self._metrics.denied.labels(record.denied).inc()
        if not _lasts(record):
            durations = self._durations.get(verb)
            if durations is None:
                durations = self._durations[verb] = self._metrics.request_duration.labels(verb)
            durations.observe(record.duration)


def _lasts(record: AccessRecord) -> bool:
    return bool(
        record.upgrade
        or record.info.verb in _LASTING_VERBS
        or record.path.endswith(("/log", "/proxy"))
    )

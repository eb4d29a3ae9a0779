"""Requests of which a recorder is told, since a grant of the caller says so (`enableEvents`).

Where that is enforced it comes first: the beginning of the body is read, the event is sent, and
only when a recorder has it does the request go on. Elsewhere the request goes on at once, and the
event is made beside it (spec/streaming.md 8.4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from tailproxy.errors import EventError
from tailproxy.interfaces import ResponseHead, SinkError
from tailproxy.wire.events import BodyCopy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from tailproxy.interfaces import IRequestEvents
    from tailproxy.metrics import Metrics
    from tailproxy.policy.identity import Identity
    from tailproxy.proxy.request import Request
    from tailproxy.wire.http1 import Header


class Reporting:
    """One request, and the event that is made of it.

    :param identity: the caller's.
    :param enforced: whether the request must not go on without.
    :param go_on: sends the request.
    """

    _log = Logger()
    long_running = False

    def __init__(
        self,
        request: Request,
        identity: Identity,
        metrics: Metrics,
        go_on: Callable[[], None],
        *,
        enforced: bool,
    ) -> None:
        self._request = request
        self._identity = identity
        self._metrics = metrics
        self._go_on = go_on
        self._enforced = enforced
        self._copy = BodyCopy(request.head)
        self._events: IRequestEvents | None = None
        self._reporting: Deferred[None] | None = None

    def start(self, events: IRequestEvents) -> None:
        """Tell about the request, and have it go on.

        :param events: takes the event.
        """
        self._events = events
        request, body = self._request, self._request.body
        waits = body is not None and not self._copy.complete
        if self._enforced:
            request.handle_by(self)
            if body is None or not waits:
                self._report()
                return
            if request.head.first(b"expect"):
                # The client waits for this before it sends the body that we wait for.
                request.interim(ResponseHead(100, b"Continue", ()))
            body.watch(self, ahead=True)
        else:
            if body is not None and waits:
                request.at_end = self._report
                body.watch(self)
            self._go_on()
            if not waits:
                self._report()

    # The body, while it passes.

    def body_data(self, chunks: Sequence[bytes]) -> None:
        """See `tailproxy.proxy.request.BodyReceiver`."""
        for chunk in chunks:
            self._copy.feed(chunk)
        if self._enforced and self._copy.complete and self._request.body is not None:
            self._request.body.hold()
            self._report()

    def body_end(self, trailers: Sequence[Header]) -> None:
        """See `tailproxy.proxy.request.BodyReceiver`."""
        del trailers
        self._copy.end()
        self._report()

    # The event.

    def _report(self) -> None:
        if self._reporting is not None or self._events is None:
            return
        request = self._request
        reporting = self._events.report(self._identity, request.head, self._copy.body())
        if self._enforced:
            self._reporting = reporting.addCallbacks(self._taken, self._refuse)
        else:
            self._reporting = reporting.addCallbacks(self._told, self._untold)
        self._reporting.addErrback(self._broken)

    def _told(self, place: str) -> None:
        self._request.recorded = self._request.recorded or place

    def _taken(self, place: str) -> None:
        if not self._request.gone:
            self._told(place)
            self._go_on()

    def _refuse(self, failure: Failure) -> None:
        if not self._request.gone and not failure.check(CancelledError):
            self._request.refuse(EventError(_reason(failure)))

    def _untold(self, failure: Failure) -> None:
        reason = f"no recorder was told: {_reason(failure)}"
        self._metrics.unrecorded.inc()
        self._request.reason = self._request.reason or reason

    def _broken(self, failure: Failure) -> None:
        """Something that must not happen has: what is enforced does not go on because of it."""
        if self._enforced and not self._request.gone:
            self._request.broken(failure)
        else:
            self._log.failure("cannot tell recorders about a request", failure)

    # While the request waits.

    def client_lost(self) -> None:
        """Nobody waits any more."""
        if self._reporting is not None:
            self._reporting.cancel()

    def drain(self) -> None:
        """It has its time, as any request."""


def _reason(failure: Failure) -> str:
    failure.trap(SinkError)
    return str(getattr(failure.value, "reason", failure.value))

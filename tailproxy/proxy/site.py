"""What the connections of all listeners share: root resource, limits, audit trail and drain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from tailproxy.interfaces import IDrainable

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from tailproxy.interfaces import DrainTimes, IAuditSink
    from tailproxy.metrics import Metrics
    from tailproxy.proxy.channel import HTTPChannel
    from tailproxy.proxy.request import Request

    class Root(Protocol):
        """The part of `IResource` that is used on the root and on the leaves."""

        def render(self, request: Request) -> Any:
            """Answer, now or later."""


@attrs.frozen
class Limits:
    """What a client may cost before it has shown anything worth an answer.

    `header_bytes` for the head of a request; `header_seconds` from its first byte to its last;
    `idle_seconds` between requests (client-go keeps connections for 90 s).
    """

    header_bytes: int = 1024 * 1024
    header_seconds: float = 10.0
    idle_seconds: float = 180.0


@implementer(IDrainable)
class Site:
    """The data plane's connections.

    :param root: gets each `tailproxy.proxy.request.Request` when its headers are complete.
    :param times: how long leaving may take.
    """

    _log = Logger()

    def __init__(
        self,
        root: Root,
        audit: IAuditSink,
        metrics: Metrics,
        clock: IReactorTime,
        times: DrainTimes,
        limits: Limits | None = None,
    ) -> None:
        self.root = root
        self.audit = audit
        self.clock = clock
        self.limits = limits or Limits()
        self.draining = False
        self._metrics = metrics
        self._times = times
        self._channels: set[HTTPChannel] = set()
        self._empty: list[Deferred[None]] = []

    def opened(self, channel: HTTPChannel) -> None:
        """A connection begins."""
        self._channels.add(channel)
        self._metrics.connections.labels(channel.listener).inc()

    def closed(self, channel: HTTPChannel) -> None:
        """A connection has ended."""
        self._channels.discard(channel)
        self._metrics.connections.labels(channel.listener).dec()
        if not self._channels:
            waiting, self._empty = self._empty, []
            for deferred in waiting:
                deferred.callback(None)

    def drain(self) -> Deferred[None]:
        """Close what is idle, end watches at an event's end, let the rest finish in its time.

        Fires when no connection is left.
        """
        if not self.draining:
            self.draining = True
            self._metrics.draining.set(1)
            self._log.info("draining {connections} connections", connections=len(self._channels))
            for channel in list(self._channels):
                channel.drain()
        done: Deferred[None] = Deferred()
        if not self._channels:
            done.callback(None)
            return done
        self._empty.append(done)
        calls = [
            self.clock.callLater(self._times.requests, self._end, long_running=False),
            self.clock.callLater(self._times.streams, self._end, long_running=True),
        ]

        def ended(_: None) -> None:
            for call in calls:
                if call.active():
                    call.cancel()

        return done.addCallback(ended)

    def _end(self, *, long_running: bool) -> None:
        late = [c for c in self._channels if long_running or not c.long_running]
        if late:
            self._log.warn(
                "ending {connections} connections: their time for leaving is over",
                connections=len(late),
            )
        for channel in late:
            channel.end_now()

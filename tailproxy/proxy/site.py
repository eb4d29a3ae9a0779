"""What the connections of all listeners share: root resource, limits, audit trail and drain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from tailproxy.interfaces import IDrainable

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from tailproxy.interfaces import DrainTimes, IAuditSink
    from tailproxy.metrics import Metrics
    from tailproxy.proxy.request import Request

    class Connection(Protocol):
        """A client's connection, in whatever phase."""

        @property
        def listener(self) -> str:
            """Name of the listener that took it."""

        @property
        def long_running(self) -> bool:
            """Whether it carries something that has no end of its own."""

        def drain(self) -> None:
            """Take no more requests; end what never ends by itself."""

        def end_now(self) -> None:
            """The time for leaving is over."""

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
        self._channels: set[Connection] = set()
        self._waiting: list[Deferred[None]] = []
        self._deadlines: list[IDelayedCall] = []
        self._watcher: Callable[[], None] | None = None

    def adopt(self, root: Root, audit: IAuditSink, times: DrainTimes, limits: Limits) -> None:
        """From now on serve by these. What is under way goes on with what it began with."""
        self.root = root
        self.audit = audit
        self.limits = limits
        self._times = times

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._channels)

    def watch(self, watcher: Callable[[], None]) -> None:
        """Have somebody told whenever that number changes."""
        self._watcher = watcher

    def opened(self, channel: Connection) -> None:
        """A connection begins."""
        self._channels.add(channel)
        self._metrics.connections.labels(channel.listener).inc()
        if self._watcher is not None:
            self._watcher()

    def closed(self, channel: Connection) -> None:
        """A connection has ended."""
        self._channels.discard(channel)
        self._metrics.connections.labels(channel.listener).dec()
        if self._watcher is not None:
            self._watcher()
        self._look()

    def drain(self) -> Deferred[None]:
        """Close what is idle, end watches at an event's end, let the rest finish in its time.

        Fires when no connection is left.
        """
        if not self.draining:
            self.draining = True
            self._metrics.draining.set(1)
            self._log.info("draining {connections} connections", connections=len(self._channels))
            self._deadlines = [
                self.clock.callLater(self._times.requests, self._end, long_running=False),
                self.clock.callLater(self._times.streams, self._end, long_running=True),
            ]
            for channel in list(self._channels):
                channel.drain()
        done: Deferred[None] = Deferred()
        self._waiting.append(done)
        self._look()
        return done

    def _look(self) -> None:
        if self.draining and not self._channels:
            for call in self._deadlines:
                if call.active():
                    call.cancel()
            waiting, self._waiting = self._waiting, []
            for deferred in waiting:
                deferred.callback(None)

    def _end(self, *, long_running: bool) -> None:
        late = [c for c in self._channels if long_running or not c.long_running]
        if late:
            self._log.warn(
                "ending {connections} connections: their time for leaving is over",
                connections=len(late),
            )
        for channel in late:
            channel.end_now()

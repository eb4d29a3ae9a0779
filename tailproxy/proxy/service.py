"""The data plane as one service: it starts listening last and leaves in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from zope.interface import implementer

from tailproxy.interfaces import CheckResult, IDrainable, IReadinessCheck

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailproxy.proxy.listener import Listener
    from tailproxy.proxy.upstream import Upstream

    class Connections(Protocol):
        """The connections that came in: a site's, or the workers'."""

        draining: bool

        def drain(self) -> Deferred[None]:
            """See `IDrainable.drain`."""


@implementer(IDrainable, IReadinessCheck)
class DataPlane(MultiService):
    """Listeners, what they share, and the way to the API server.

    `stopService` means drained: nothing new is taken, requests are finished, watches ended
    between two events, streams left until their deadline, and only then the upstream closed.
    """

    _log = Logger()
    name = "listeners"

    def __init__(
        self, site: Connections, upstream: Upstream, listeners: Sequence[Listener]
    ) -> None:
        super().__init__()
        self._site = site
        self._upstream = upstream
        self._retired: set[Upstream] = set()
        self.listeners = listeners
        upstream.setServiceParent(self)
        for listener in listeners:
            listener.setServiceParent(self)

    def adopt(self, upstream: Upstream, listeners: Sequence[Listener]) -> None:
        """Work with these from now on. Ports that are in both lists stay open; connections of the
        others, and requests to the upstream before, go on to their end.
        """
        before, self._upstream = self._upstream, upstream
        if before is not upstream:
            upstream.setServiceParent(self)
            self._retired.add(before)
            before.retire().addCallback(self._retire, before)
        gone = [listener for listener in self.listeners if listener not in listeners]
        self.listeners = listeners
        for listener in gone:
            listener.disownServiceParent()
        for listener in listeners:
            if listener.parent is None:
                listener.setServiceParent(self)

    def _retire(self, _: object, upstream: Upstream) -> None:
        if upstream in self._retired:  # else the service ends meanwhile, and it with it
            self._retired.remove(upstream)
            upstream.disownServiceParent()

    def drain(self) -> Deferred[None]:
        """Take no new connections and see the open ones off."""
        return Deferred.fromCoroutine(self._drain())

    async def _drain(self) -> None:
        closed = DeferredList([listener.stop_accepting() for listener in self.listeners])
        drained = self._site.drain()
        await closed
        await drained

    def stopService(self) -> Deferred[None]:
        """Drain, then close the connections to the API server."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        Service.stopService(self)
        await self.drain()
        await DeferredList([listener.stopService() for listener in self.listeners])
        retired, self._retired = self._retired, set()
        await DeferredList([each.stopService() for each in (self._upstream, *retired)])
        self._log.info("drained")

    def check(self) -> CheckResult:
        """Whether every listener is open."""
        if self._site.draining:
            return CheckResult(ok=False, detail="the service is leaving")
        closed = [listener.label for listener in self.listeners if not listener.bound]
        if closed:
            return CheckResult(ok=False, detail=f"not listening: {', '.join(closed)}")
        return CheckResult(ok=True, detail=f"{len(self.listeners)} open")

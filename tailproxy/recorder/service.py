"""The recorder as one service: it opens what it keeps, then its port, and leaves in order."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, Protocol

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from tailproxy.interfaces import CheckResult, IDrainable, IReadinessCheck

if TYPE_CHECKING:
    from tailproxy.recorder.events import Events
    from tailproxy.recorder.intake import Admission, Intake
    from tailproxy.recorder.store import Bounds, Sweep
    from tailproxy.recorder.upload import Desk, Upload

    class Port(Protocol):
        """Where proxies come in; a service."""

        @property
        def bound(self) -> list[Any]:
            """The addresses it listens on."""

        def stop_accepting(self) -> Deferred[Any]:
            """Take no new connections."""

        def setServiceParent(self, parent: Any) -> None:
            """Run below that."""

    class Site(Protocol):
        """The connections that came in."""

        draining: bool

        def drain(self) -> Deferred[None]:
            """See `IDrainable.drain`."""


# Seconds between two looks for recordings that are to be ended, and that are to be deleted.
_LOOK = 1.0
_SWEEP = 60.0


@implementer(IDrainable, IReadinessCheck)
class RecorderService(MultiService):
    """A recorder of our own.

    :param desk: what uploads share.
    :param port: where proxies come in.
    """

    name = "recorder"
    _log = Logger()

    def __init__(
        self,
        desk: Desk,
        events: Events,
        intake: Intake,
        site: Site,
        port: Port,
        bounds: Bounds,
    ) -> None:
        super().__init__()
        self._desk = desk
        self._events = events
        self._intake = intake
        self._site = site
        self._port = port
        self._bounds = bounds
        self._problem = "it has not looked at its folder yet"
        self._looking = LoopingCall(self._look)
        self._sweeping = LoopingCall(self._sweep)
        self._looking.clock = self._sweeping.clock = desk.clock
        self._opened = False
        port.setServiceParent(self)

    def adopt(self, admission: Admission, bounds: Bounds) -> None:
        """From now on take and keep recordings by these. Those under way go on."""
        self._intake.admission = admission
        self._bounds = bounds

    def startService(self) -> None:
        """Look through what is kept, and take more. What comes at once waits for that look: one
        thread does both.
        """
        super().startService()
        self._desk.thread.start()
        self._sweeping.start(_SWEEP)
        self._looking.start(_LOOK, now=False)

    def drain(self) -> Deferred[None]:
        """Take nothing new, wait for uploads as long as may be, and keep what has come."""
        return Deferred.fromCoroutine(self._drain())

    async def _drain(self) -> None:
        closed = self._port.stop_accepting()
        await self._site.drain()
        await closed
        await DeferredList([_end(upload) for upload in self._desk.uploads])

    def stopService(self) -> Deferred[None]:
        """Drain, then give back what it has open."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        Service.stopService(self)
        await self.drain()
        if self._sweeping.running:
            for loop in (self._looking, self._sweeping):
                loop.stop()
            await self._desk.thread.run(self._desk.store.close)
            self._desk.thread.stop()

    async def _look(self) -> None:
        """End what is to be ended."""
        if not self._desk.uploads:
            return
        try:
            ends = await self._desk.thread.run(self._desk.store.take_ends)
        except sqlite3.Error as error:
            self._log.error("the index of recordings cannot be read: {reason}", reason=error)
            return
        reasons = dict(ends)
        for upload in list(self._desk.uploads):
            if upload.identifier in reasons:
                upload.stop(reasons[upload.identifier])

    async def _sweep(self) -> None:
        """Delete what is to be deleted, and see how much room there is."""
        now = self._desk.now()
        try:
            swept = await self._desk.thread.run(self._swept, now)
        except (OSError, sqlite3.Error) as error:
            self._problem = f"its folder cannot be used: {error}"
            self._log.error("the recorder's folder cannot be used: {reason}", reason=error)
            return
        metrics = self._desk.metrics
        metrics.recorder_stored.set(swept.size)
        metrics.recorder_deleted.inc(swept.deleted)
        if swept.deleted:
            self._log.info("{count} recordings deleted: too old, or too much", count=swept.deleted)
        full = swept.free < self._bounds.free
        self._problem = f"its disk is full: {swept.free} bytes are left" if full else ""

    def _swept(self, now: float) -> Sweep:
        if not self._opened:
            found = self._desk.store.open()
            self._opened = True
            if found:
                self._log.warn("{count} recordings were not finished; they are now", count=found)
        if self._bounds.age is not None:
            self._events.delete(self._bounds.age, now)
        return self._desk.store.sweep(self._bounds, now)

    def check(self) -> CheckResult:
        """Whether an upload that begins now would be kept."""
        if self._site.draining:
            return CheckResult(ok=False, detail="the service is leaving")
        if self._problem:
            return CheckResult(ok=False, detail=self._problem)
        if not self._port.bound:
            return CheckResult(ok=False, detail="the port of the recorder is not open yet")
        return CheckResult(ok=True, detail=f"{len(self._desk.uploads)} uploads under way")


def _end(upload: Upload) -> Deferred[None]:
    """Fires when an upload has ended; several may wait for it."""
    waiting: Deferred[None] = Deferred()
    upload.ended.addCallback(lambda _: waiting.callback(None))
    return waiting

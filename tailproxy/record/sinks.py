"""Which sink a session is recorded at, out of its caller's grants and the configuration.

The recorders that grants name; for sessions without any, the configuration's sinks, the first that
takes it; and behind either the spool, if there is one. Buckets have theirs from the spool only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from zope.interface import implementer

from tailproxy.interfaces import ISessionSink, ISessionSinks, SinkError
from tailproxy.record.bucket import Bucket
from tailproxy.record.folder import Folder
from tailproxy.record.recorders import Recorders
from tailproxy.record.spool import Spool, SpoolFolder
from tailproxy.recording_options import SinkKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailproxy.interfaces import ITailnetDialer, IUpload
    from tailproxy.record.folder import Run
    from tailproxy.recording_options import Recording, Sink
    from tailproxy.wire.addresses import AddressPort


@implementer(ISessionSink)
class FirstOf:
    """Several sinks: the first that takes a session has it."""

    name = "first"

    def __init__(self, sinks: Sequence[ISessionSink]) -> None:
        self._sinks = sinks

    def open(self, session: str) -> Deferred[IUpload]:
        """See `ISessionSink.open`."""
        return Deferred.fromCoroutine(self._open(session))

    async def _open(self, session: str) -> IUpload:
        errors: list[SinkError] = []
        for sink in self._sinks:
            try:
                return await sink.open(session)
            except SinkError as error:
                errors.append(error)
        raise SinkError(
            ", and ".join(error.reason for error in errors),
            "; ".join(error.detail for error in errors),
        )


@implementer(ISessionSinks)
class Sinks(MultiService):
    """All sinks of a configuration. After it was stopped, uploads under way go on.

    :param clock: tells and keeps the time.
    :param run: calls a function in a thread, such as `Threads`.
    """

    def __init__(self, clock: Any, run: Run, dialer: ITailnetDialer, options: Recording) -> None:
        super().__init__()
        self._options = options
        self._clock = clock
        self._run = run
        self._recorders = Recorders(clock, dialer, options.queue_bytes)
        self._configured: list[ISessionSink] = [self._make(each) for each in options.sinks]
        self._spool: Spool | None = None
        if options.spool is not None:
            folder = SpoolFolder(options.spool.folder, options.spool.size, options.spool.age)
            self._spool = Spool(clock, run, folder, self._keepers, options.queue_bytes)
            self._spool.setServiceParent(self)

    def sink(self, addresses: Sequence[AddressPort]) -> ISessionSink | None:
        """See `ISessionSinks.sink`."""
        keepers: list[ISessionSink]
        keepers = [self._recorders.sink(addresses)] if addresses else self._configured
        live = [each for each in keepers if not isinstance(each, Bucket)]
        if keepers and self._spool is not None:
            live.append(self._spool.sink(addresses))
        return _first_of(live)

    def startService(self) -> None:
        """See what was left behind, and begin to send what is in the spool."""
        super().startService()
        for sink in self._configured:
            if isinstance(sink, Folder):
                sink.start()

    def _keepers(self, addresses: Sequence[AddressPort]) -> ISessionSink | None:
        """Return whom the spool sends recordings of sessions with these recorders."""
        return _first_of([self._recorders.sink(addresses)] if addresses else self._configured)

    def _make(self, options: Sink) -> ISessionSink:
        limit = self._options.queue_bytes
        if options.kind is SinkKind.RECORDER:
            return self._recorders.sink(options.addresses)
        if options.folder is not None:
            return Folder(self._clock, self._run, options.folder, limit)
        return Bucket(self._clock, self._run, options, limit)


def _first_of(sinks: Sequence[ISessionSink]) -> ISessionSink | None:
    return FirstOf(sinks) if len(sinks) > 1 else next(iter(sinks), None)

"""Which sink a session is recorded at, out of its caller's grants and the configuration.

The recorders that grants name; for sessions without any, the configuration's sinks, the first that
takes it; and behind either the spool, if there is one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from zope.interface import implementer

from tailproxy.interfaces import ISessionSink, ISessionSinks, SinkError
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
        self._configured = [self._make(each) for each in options.sinks]
        self._spool: Spool | None = None
        if options.spool is not None:
            folder = SpoolFolder(options.spool.folder, options.spool.size, options.spool.age)
            self._spool = Spool(clock, run, folder, self._keepers, options.queue_bytes)
            self._spool.setServiceParent(self)

    def sink(self, addresses: Sequence[AddressPort]) -> ISessionSink | None:
        """See `ISessionSinks.sink`."""
        keepers = self._keepers(addresses)
        if keepers is None or self._spool is None:
            return keepers
        return FirstOf([keepers, self._spool.sink(addresses)])

    def startService(self) -> None:
        """See what was left behind, and begin to send what is in the spool."""
        super().startService()
        for sink in self._configured:
            if isinstance(sink, Folder):
                sink.start()

    def _keepers(self, addresses: Sequence[AddressPort]) -> ISessionSink | None:
        """Return who keeps recordings of sessions with these recorders; never the spool."""
        if addresses:
            return self._recorders.sink(addresses)
        if len(self._configured) > 1:
            return FirstOf(self._configured)
        return self._configured[0] if self._configured else None

    def _make(self, options: Sink) -> ISessionSink:
        limit = self._options.queue_bytes
        if options.kind is SinkKind.RECORDER:
            return self._recorders.sink(options.addresses)
        if options.folder is None:
            raise AssertionError(options)
        return Folder(self._clock, self._run, options.folder, limit)

"""The recorders of one session: the first that takes it.

In the order that the grants have, with these exceptions (spec/streaming.md 6.1): the one that took
the last recording goes first, those that did not answer within the last half minute go last, and
the other address of a node that has two is tried beside the first after 0.3 s. What one session
learns of a recorder is known to all.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NoReturn

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from zope.interface import implementer

from tailproxy.interfaces import ISessionSink, SinkError
from tailproxy.record.tsrecorder import TSRecorder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.internet.interfaces import IDelayedCall
    from twisted.python.failure import Failure

    from tailproxy.interfaces import ITailnetDialer, IUpload
    from tailproxy.record.upload import Upload
    from tailproxy.wire.addresses import AddressPort

#: Seconds, until a session may begin: over all addresses (spec/streaming.md 12).
ALL_SECONDS = 30.0
# Seconds that a recorder is known to be dead; until the other address of a node is tried.
_DEAD_SECONDS = 30.0
_STAGGER_SECONDS = 0.3


class Recorders:
    """All recorders, and what is known of them.

    :param clock: tells and keeps the time.
    :param limit: bytes of an upload's backlog that is full.
    """

    _log = Logger()

    def __init__(self, clock: Any, dialer: ITailnetDialer, limit: int) -> None:
        self.clock = clock
        self._dialer = dialer
        self._limit = limit
        self._last: AddressPort | None = None
        self._dead: dict[AddressPort, float] = {}

    def sink(self, addresses: Sequence[AddressPort]) -> RecorderSink:
        """Return these recorders as one sink.

        :param addresses: in the order of the grants; repeated ones count once.
        """
        return RecorderSink(self, tuple(dict.fromkeys(addresses)))

    # For the sinks.

    def ordered(self, addresses: Sequence[AddressPort]) -> list[AddressPort]:
        """Return them in the order in which they are tried."""
        now = self.clock.seconds()
        self._dead = {each: until for each, until in self._dead.items() if until > now}
        return sorted(addresses, key=lambda each: (each in self._dead, each != self._last))

    def start(self, address: AddressPort, connected: Callable[[], None]) -> Deferred[Upload]:
        """See `TSRecorder.start`; how it goes is remembered."""

        def began(upload: Upload) -> Upload:
            self._last = address
            self._dead.pop(address, None)
            upload.on_failure = lambda: self._died(address)
            return upload

        recorder = TSRecorder(self.clock, self._dialer, address, self._limit)
        return recorder.start(connected).addCallback(began)

    def refused(self, address: AddressPort, error: SinkError) -> None:
        """A recorder took no recording."""
        self._died(address)
        self._log.warn("no recording goes to {place}: {reason}", place=str(address), reason=error)

    def _died(self, address: AddressPort) -> None:
        self._dead[address] = self.clock.seconds() + _DEAD_SECONDS
        if self._last == address:
            self._last = None


@implementer(ISessionSink)
class RecorderSink:
    """Some recorders, one of which is to take a session.

    :param addresses: each once, in the order of the grants.
    """

    name = "recorder"

    def __init__(self, recorders: Recorders, addresses: Sequence[AddressPort]) -> None:
        self._recorders = recorders
        self._addresses = addresses

    def open(self, session: str) -> Deferred[IUpload]:
        """See `ISessionSink.open`."""
        if not self._addresses:
            return fail(SinkError("there is no recorder"))
        search = _Search(self._recorders, self._addresses)
        return search.begin().addTimeout(ALL_SECONDS, self._recorders.clock, search.too_late)


class _Search:
    """The search for a recorder that takes one session."""

    def __init__(self, recorders: Recorders, addresses: Sequence[AddressPort]) -> None:
        self._recorders = recorders
        self._count = len(addresses)
        self._left = deque(recorders.ordered(addresses))
        self._under_way: dict[AddressPort, Deferred[Any]] = {}
        self._stagger: IDelayedCall | None = None
        self._errors: list[SinkError] = []
        self._found: Deferred[IUpload] = Deferred(lambda _: self._stop())

    def begin(self) -> Deferred[IUpload]:
        """Search; fires with the upload, or fails with `SinkError`."""
        self._next()
        return self._found

    def too_late(self, _result: object, _seconds: float) -> NoReturn:
        """It has taken too long."""
        raise self._failure(f"within {ALL_SECONDS:g} s")

    def _next(self) -> None:
        self._stagger = None
        address = self._left.popleft()
        beside = not self._under_way and self._left
        if beside and self._left[0].address.version != address.address.version:
            self._stagger = self._recorders.clock.callLater(_STAGGER_SECONDS, self._next)
        attempt = self._recorders.start(address, self._wait)
        self._under_way[address] = attempt
        attempt.addCallbacks(
            self._began, self._refused, callbackArgs=(address,), errbackArgs=(address,)
        )

    def _wait(self) -> None:
        """There is a connection: the node's other address will not be needed."""
        stagger, self._stagger = self._stagger, None
        if stagger is not None:
            stagger.cancel()

    def _began(self, upload: Upload, address: AddressPort) -> None:
        del self._under_way[address]
        self._stop()
        self._found.callback(upload)

    def _refused(self, failure: Failure, address: AddressPort) -> None:
        if self._under_way.pop(address, None) is None:
            return  # it was cancelled
        error = failure.value
        if not isinstance(error, SinkError):
            error = SinkError("a recorder cannot be used", f"{address}: {failure.value!r}")
        self._errors.append(error)
        self._recorders.refused(address, error)
        if self._under_way:
            return
        self._wait()
        if self._left:
            self._next()
        else:
            self._found.errback(self._failure())

    def _failure(self, when: str = "") -> SinkError:
        if self._count == 1 and self._errors:
            return self._errors[0]
        reason = f"none of {self._count} recorders takes it {when}".rstrip()
        details = "; ".join(error.detail for error in self._errors)
        return SinkError(reason, f"{reason}: {details}" if details else reason)

    def _stop(self) -> None:
        self._left.clear()
        self._wait()
        under_way, self._under_way = self._under_way, {}
        for attempt in under_way.values():
            attempt.cancel()

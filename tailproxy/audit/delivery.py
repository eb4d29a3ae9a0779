"""Lines on their way to a place that may be slow or away, and never in a request's way.

Lines wait in a queue that has a limit, leave it in batches, one at a time, and stay in it until
they were taken. A place that fails is left alone for a while that doubles; what does not fit into
the queue meanwhile is dropped, and counted. A batch that was taken although its answer said
otherwise comes twice; its lines have the same request IDs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import Logger

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from tailproxy.metrics import Metrics

# How long a line may wait for others, and how much goes at once.
GATHER_SECONDS = 0.5
BATCH_BYTES = 256 << 10
# The first wait after a failure, and the longest. From the third failure on the place counts as
# broken.
FIRST_WAIT = 0.5
LONGEST_WAIT = 60.0
BROKEN_AFTER = 3
# For what is left at the end.
LAST_SECONDS = 5.0


class CarrierError(Exception):
    """A batch was not taken, or not the whole of it.

    :param reason: why.
    :param taken: bytes of whole lines at its beginning that were.
    :param hopeless: whether the same batch would never be taken.
    """

    def __init__(self, reason: str, *, taken: int = 0, hopeless: bool = False) -> None:
        super().__init__(reason)
        self.taken = taken
        self.hopeless = hopeless


class Carrier(Protocol):
    """Takes batches somewhere."""

    def carry(self, lines: bytes) -> Deferred[None]:
        """Take whole lines. Called again only when the last batch is done with.

        The Deferred fails with `CarrierError`, or with anything else if none was taken.
        """

    def close(self) -> None:
        """There will be no more."""


class Delivery:
    """One sink's queue.

    :param name: for logs and metrics.
    :param limit: how many bytes may wait, about.
    """

    _log = Logger()

    def __init__(
        self, name: str, carrier: Carrier, limit: int, clock: IReactorTime, metrics: Metrics
    ) -> None:
        self.name = name
        self._carrier = carrier
        self._limit = limit
        self._clock = clock
        self._lines: list[str] = []
        self._size = 0
        self._run: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None
        self._gathering = False
        self._failures = 0
        self._closed = False
        self._delivered = metrics.audit_lines.labels(name)
        self._dropped = metrics.audit_dropped.labels(name)
        self._failed = metrics.audit_failures.labels(name)

    def put(self, line: str) -> None:
        """Take a line, with its end. Never waits and never raises."""
        if self._closed or self._size >= self._limit:
            self._dropped.inc()
            return
        self._lines.append(line)
        self._size += len(line)
        if self._run is None:
            self._begin()
        elif self._gathering and self._size >= BATCH_BYTES:
            self._hurry()

    def close(self) -> Deferred[None]:
        """Deliver what waits, within 5 s, and drop what is not taken by then."""
        self._closed = True
        run = self._run
        if run is None:
            self._carrier.close()
            return succeed(None)
        done: Deferred[None] = Deferred()
        run.addBoth(lambda _: done.callback(None))
        late = self._clock.callLater(LAST_SECONDS, run.cancel)
        self._hurry()

        def closed(_: None) -> None:
            if late.active():
                late.cancel()
            self._carrier.close()

        return done.addCallback(closed)

    def _begin(self) -> None:
        run = self._run = Deferred.fromCoroutine(self._deliver_all())
        run.addErrback(lambda failure: failure.trap(CancelledError))

    async def _deliver_all(self) -> None:
        """Deliver until nothing waits any more."""
        try:
            while self._lines:
                self._gathering = True
                await self._pause(GATHER_SECONDS if self._size < BATCH_BYTES else 0)
                self._gathering = False
                batch, size = self._next_batch()
                try:
                    await self._deliver(batch)
                finally:
                    self._size -= size
        finally:
            self._gathering = False
            self._run = None
            self._dropped.inc(len(self._lines))
            self._lines = []

    def _next_batch(self) -> tuple[bytes, int]:
        """The oldest lines, up to the size of a batch, and how much room they took."""
        count = size = 0
        for line in self._lines:
            count += 1
            size += len(line)
            if size >= BATCH_BYTES:
                break
        batch = "".join(self._lines[:count])
        del self._lines[:count]
        return batch.encode(errors="replace"), size

    async def _deliver(self, batch: bytes) -> None:
        """Have a batch taken, however often that must be tried."""
        try:
            while batch:
                try:
                    await self._carrier.carry(batch)
                except CancelledError:
                    raise
                except CarrierError as error:
                    batch = self._taken(batch, error.taken)
                    if error.hopeless:
                        self._failed.inc()
                        self._log.error(
                            "audit sink {name} refuses {lines} lines: {reason}",
                            name=self.name,
                            lines=batch.count(b"\n"),
                            reason=str(error),
                        )
                        return
                    await self._failure(str(error))
                except Exception as error:  # noqa: BLE001 - whatever it is, the lines wait
                    await self._failure(str(error) or type(error).__name__)
                else:
                    batch = self._taken(batch, len(batch))
                    self._success()
        finally:
            self._dropped.inc(batch.count(b"\n"))

    def _taken(self, batch: bytes, taken: int) -> bytes:
        """Count what was taken of a batch; what is left of it."""
        self._delivered.inc(batch.count(b"\n", 0, taken))
        return batch[taken:]

    def _success(self) -> None:
        if self._failures >= BROKEN_AFTER:
            self._log.info("audit sink {name} takes lines again", name=self.name)
        self._failures = 0

    async def _failure(self, reason: str) -> None:
        """Leave the place alone for a while.

        :raises CancelledError: there is no time to wait.
        """
        self._failed.inc()
        self._failures += 1
        if self._failures == BROKEN_AFTER or self._closed:
            self._log.error(
                "audit sink {name} takes no lines: {reason}; {size} bytes wait, and what is beyond"
                " {limit} is dropped",
                name=self.name,
                reason=reason,
                size=self._size,
                limit=self._limit,
            )
        if self._closed:
            raise CancelledError
        await self._pause(min(FIRST_WAIT * 2 ** (self._failures - 1), LONGEST_WAIT))

    async def _pause(self, seconds: float) -> None:
        """Wait, unless this is the end."""
        if self._closed:
            return
        over: Deferred[None] = Deferred()
        timer = self._timer = self._clock.callLater(seconds, over.callback, None)
        try:
            await over
        finally:
            self._timer = None
            if timer.active():
                timer.cancel()

    def _hurry(self) -> None:
        """Pause no longer."""
        if self._timer is not None:
            self._timer.reset(0)

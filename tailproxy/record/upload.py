"""What all uploads have in common: a bounded queue, limits of time, somebody who is told.

An upload ends once: kept, failed or abandoned. Whoever writes is never called from within their
own call, so that failures of a disk or a socket reach them at the reactor's next turn.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail
from zope.interface import implementer

from tailproxy.interfaces import IUpload, SinkError

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IDelayedCall

    from tailproxy.interfaces import IUploadWatcher

#: Seconds: that nothing of the backlog may be taken; that the end may take (spec/streaming.md 12).
STALL_SECONDS = 30.0
FINISH_SECONDS = 30.0
# A backlog this many times over its limit is a failure: whoever writes does not heed `full`.
_EXCESS = 4


class Patience:
    """How long something may go on. Renewed often, so that must be cheap.

    :param expired: called when it has gone on for too long.
    """

    def __init__(self, clock: Any, seconds: float, expired: Callable[[], None]) -> None:
        self._clock = clock
        self._seconds = seconds
        self._expired = expired
        self._until = 0.0
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        """Begin to wait, unless that has begun."""
        if self._timer is None:
            self.renew()

    def renew(self) -> None:
        """Begin to wait anew."""
        self._until = self._clock.seconds() + self._seconds
        if self._timer is None:
            self._timer = self._clock.callLater(self._seconds, self._look)

    def stop(self) -> None:
        """Wait no more."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _look(self) -> None:
        left = self._until - self._clock.seconds()
        if left > 0:
            self._timer = self._clock.callLater(left, self._look)
        else:
            self._timer = None
            self._expired()


class _State(Enum):
    OPEN = auto()
    ENDING = auto()
    OVER = auto()


@implementer(IUpload)
class Upload(ABC):
    """An upload but for how bytes get to where they are kept.

    A subclass takes bytes with `take` in its `send`, says `moved` after it, and in the end `kept`
    or `failed`.

    :param clock: tells and keeps the time.
    :param place: where it goes, for the log.
    :param limit: bytes of the backlog that is full.
    :cvar noun: what the place is, for people.
    :ivar on_failure: called once, if it fails.
    """

    noun = "the recorder"

    def __init__(self, clock: Any, place: str, limit: int) -> None:
        self.place = place
        self.backlog = 0
        self.on_failure: Callable[[], object] = lambda: None
        self._clock = clock
        self._limit = limit
        self._queue: deque[bytes] = deque()
        self._state = _State.OPEN
        self._was_full = False
        self._error: SinkError | None = None
        self._watcher: IUploadWatcher | None = None
        self._end: Deferred[None] = Deferred(lambda _: self.abandon())
        self._stall = Patience(
            clock, STALL_SECONDS, lambda: self.failed(f"takes nothing for {STALL_SECONDS:g} s")
        )
        self._finish = Patience(
            clock,
            FINISH_SECONDS,
            lambda: self.failed(f"has not confirmed the end within {FINISH_SECONDS:g} s"),
        )

    # What a subclass does.

    @abstractmethod
    def send(self) -> None:
        """Send what can be sent now of the queue. Called when there is more in it."""

    @abstractmethod
    def send_end(self) -> None:
        """Say that this was all. Called once, with an empty queue."""

    @abstractmethod
    def hang_up(self) -> None:
        """Leave at once. Called once at an end that is no success."""

    # For whoever records.

    @property
    def full(self) -> bool:
        """See `IUpload.full`."""
        return self.backlog >= self._limit

    def watch(self, watcher: IUploadWatcher) -> None:
        """See `IUpload.watch`."""
        self._watcher = watcher
        if self._error is not None:
            self._clock.callLater(0, self._tell, self._error)

    def write(self, lines: bytes) -> None:
        """See `IUpload.write`."""
        if self._state is not _State.OPEN:
            return
        self._queue.append(lines)
        self.backlog += len(lines)
        if self.backlog > _EXCESS * self._limit:
            self.failed("is much too slow")
            return
        self.send()
        if self.backlog:
            self._stall.start()
            self._was_full = self._was_full or self.full

    def finish(self) -> Deferred[None]:
        """See `IUpload.finish`."""
        if self._state is not _State.OPEN:
            return fail(self._error or self.trouble("was left"))
        self._state = _State.ENDING
        self._finish.start()
        if not self.backlog:
            self.send_end()
        return self._end

    def abandon(self) -> None:
        """See `IUpload.abandon`."""
        if self._state is not _State.OVER:
            self._leave()
            self.hang_up()

    # For the subclass.

    @property
    def over(self) -> bool:
        """Whether it has ended, in any way."""
        return self._state is _State.OVER

    def take(self, most: int) -> bytes:
        """Remove up to so many bytes from the front of the queue."""
        taken: list[bytes] = []
        left = most
        while left and self._queue:
            piece = self._queue.popleft()
            if len(piece) > left:
                self._queue.appendleft(piece[left:])
                piece = piece[:left]
            left -= len(piece)
            taken.append(piece)
        self.backlog -= most - left
        return b"".join(taken)

    def peek(self) -> bytes:
        """Return the whole queue, which stays."""
        return b"".join(self._queue)

    def moved(self) -> None:
        """Some of the queue was taken."""
        if self._was_full and self.backlog <= self._limit // 2:
            self._was_full = False
            self._clock.callLater(0, self._tell_drained)
        if self.backlog:
            self._stall.renew()
            return
        self._stall.stop()
        if self._state is _State.ENDING:
            self.send_end()

    def kept(self) -> None:
        """Everything is where it should be."""
        if self._state is _State.ENDING:
            self._leave()
            self._end.callback(None)

    def failed(self, what: str, detail: str = "") -> None:
        """It will not get there.

        :param what: the place does, such as "has closed the connection".
        :param detail: what to add for the log.
        """
        self.fail(self.trouble(what, detail))

    def fail(self, error: SinkError) -> None:
        """It will not get there, for that reason."""
        if self._state is _State.OVER:
            return
        ending = self._state is _State.ENDING
        self._error = error
        self._leave()
        self.hang_up()
        self.on_failure()
        if ending:
            self._end.errback(self._error)
        elif self._watcher is not None:
            self._clock.callLater(0, self._tell, self._error)

    def trouble(self, what: str, detail: str = "") -> SinkError:
        """Make an error of what the place does."""
        more = f": {detail}" if detail else ""
        return SinkError(f"{self.noun} {what}", f"{self.place} {what}{more}")

    def _leave(self) -> None:
        self._state = _State.OVER
        self._stall.stop()
        self._finish.stop()
        self._queue.clear()
        self.backlog = 0

    def _tell(self, error: SinkError) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.upload_failed(error)

    def _tell_drained(self) -> None:
        if self._watcher is not None and not self.full:
            watcher = self._watcher
            watcher.upload_drained()

"""A worker's place: filled again whenever it falls empty, and handed over on a reload."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from tailproxy.workers.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    class Holder(Protocol):
        """A worker, as far as its place goes."""

        @property
        def pid(self) -> int:
            """Its process id."""


class Post:
    """One worker's place.

    :param number: from 1.
    :param launch: starts a worker for this place.
    :param restarted: called whenever a worker is started because one has ended.

    :ivar holder: the worker that serves here, or will when it is ready; None while the place is
        empty.
    :ivar heir: the worker that takes over once it is ready.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        number: int,
        launch: Callable[[int], Holder],
        restarted: Callable[[], None],
    ) -> None:
        self.number = number
        self.holder: Holder | None = None
        self.heir: Holder | None = None
        self._clock = clock
        self._launch = launch
        self._restarted = restarted
        self._backoff = Backoff()
        self._since = 0.0
        self._retry: IDelayedCall | None = None
        self._waiting: Deferred[bool] | None = None

    def fill(self) -> None:
        """Start a worker."""
        self._retry = None
        self._since = self._clock.seconds()
        try:
            self.holder = self._launch(self.number)
        except OSError as error:
            self._again(f"cannot be started: {error.strerror}")

    def hand_over(self) -> Deferred[bool]:
        """Start another worker to take this place.

        :returns: True once it is ready; False if it ended before.
        """
        try:
            self.heir = self._launch(self.number)
        except OSError as error:
            self._log.error(
                "worker {number} cannot be started: {reason}",
                number=self.number,
                reason=error.strerror,
            )
            return succeed(False)
        self._waiting = Deferred()
        return self._waiting

    def ready(self, worker: Holder) -> Holder | None:
        """A worker of this place is ready.

        :returns: the one that it replaces.
        """
        if worker is not self.heir:
            return None
        before, self.holder, self.heir = self.holder, worker, None
        self._since = self._clock.seconds()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._answer(taken=True)
        return before

    def left(self, worker: Holder, reason: str) -> None:
        """A worker of this place has ended or takes no more connections."""
        if worker is self.heir:
            self.heir = None
            self._log.error(
                "the new worker {number} did not get ready: {reason}",
                number=self.number,
                reason=reason,
            )
            self._answer(taken=False)
        elif worker is self.holder:
            self.holder = None
        else:
            return
        if self.holder is None and self.heir is None:
            self._again(reason)

    def close(self) -> None:
        """Start nobody any more."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._answer(taken=False)

    def _again(self, reason: str) -> None:
        wait = self._backoff.after(self._clock.seconds() - self._since)
        self._log.error(
            "worker {number} ended: {reason}; starting it again in {wait:g} s",
            number=self.number,
            reason=reason,
            wait=wait,
        )
        self._retry = self._clock.callLater(wait, self._refill)

    def _refill(self) -> None:
        self._restarted()
        self.fill()

    def _answer(self, *, taken: bool) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(taken)

"""A worker's place: filled again whenever it falls empty."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

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
        self._clock = clock
        self._launch = launch
        self._restarted = restarted
        self._backoff = Backoff()
        self._since = 0.0
        self._retry: IDelayedCall | None = None

    def fill(self) -> None:
        """Start a worker."""
        self._retry = None
        self._since = self._clock.seconds()
        try:
            self.holder = self._launch(self.number)
        except OSError as error:
            self._again(f"cannot be started: {error.strerror}")

    def left(self, worker: object, reason: str) -> None:
        """A worker has ended or takes no more connections; maybe the one that is here."""
        if worker is self.holder:
            self.holder = None
            self._again(reason)

    def close(self) -> None:
        """Start nobody any more."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

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

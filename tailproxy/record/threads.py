"""Threads for what blocks: disks, and clients of other services.

They are apart from the reactor's own, which look up names: a disk that hangs must not hold up
anything but recordings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.python.failure import Failure

_T = TypeVar("_T")

_MOST = 8
# Seconds to wait for them in the end.
_STOP_SECONDS = 5.0


class Threads(Service):
    """Some threads. There is one of these in a process, started before who uses it and stopped
    behind them.

    :param reactor: hears the results.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(0, _MOST, "recordings")

    def __call__(self, work: Callable[[], _T]) -> Deferred[_T]:
        """Call a function in a thread; fires with what it returns.

        Recordings that outlive a reload use the reactor's threads for their rest.
        """
        pool = self._pool if self.running else self._reactor.getThreadPool()
        return deferToThreadPool(self._reactor, pool, work)

    def startService(self) -> None:
        """Begin."""
        super().startService()
        self._pool.start()

    def stopService(self) -> Deferred[None]:
        """End, once what is under way is done; but not wait for a disk that hangs."""
        super().stopService()
        joined: Deferred[None] = deferToThreadPool(
            self._reactor, self._reactor.getThreadPool(), self._pool.stop
        )
        return joined.addTimeout(_STOP_SECONDS, self._reactor).addErrback(_give_up)


def _give_up(failure: Failure) -> None:
    failure.trap(TookTooLong)

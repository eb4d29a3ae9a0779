"""The reactor that tailproxy runs on where the system has epoll: Twisted's, with a shorter way.

Twisted wraps every event of every socket in a logging context, which nothing here reads, and asks
for as many events at once as there are sockets. For a proxy, which does little for each event,
that is a good part of the work. Everything else is `twisted.internet.epollreactor`.

Another reactor can be chosen as ever (``twistd --reactor``); everything works with it too.
"""

from __future__ import annotations

import gc
import sys
from select import EPOLLIN
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.main import installReactor
from twisted.logger import Logger

# Events that are taken in one turn; there may be as many again in the next.
_EVENTS = 256

_log = Logger()


class ProxyReactor(EPollReactor):
    """See above."""

    _poller: Any
    _selectables: dict[int, Any]

    def doPoll(self, timeout: float | None) -> None:
        """Wait for events and handle them.

        :param timeout: in seconds; None for ever.
        """
        try:
            events = self._poller.poll(-1 if timeout is None else timeout, _EVENTS)
        except InterruptedError:
            return
        selectables = self._selectables
        for number, event in events:
            selectable = selectables.get(number)
            if selectable is None:
                continue
            if event == EPOLLIN:
                try:
                    why = selectable.doRead()
                except BaseException as error:  # noqa: BLE001 - it costs one connection, not all
                    why = error
                    _log.failure("a read of {selectable} failed", selectable=selectable)
                if why:
                    self._disconnectSelectable(selectable, why, True)
            else:
                self._doReadOrWrite(selectable, number, event)

    doIteration = doPoll


def settle() -> None:
    """Tell the garbage collector that what the start has made stays. Else it would look through
    all of it now and then, and every request would wait for some 30 ms.
    """
    gc.collect()
    gc.freeze()


def install() -> None:
    """Make it the reactor of this process, unless there is one already."""
    if "twisted.internet.reactor" not in sys.modules:
        installReactor(ProxyReactor())
